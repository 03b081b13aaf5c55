package metrics

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

func added(mostApps int) *Metrics {
	m := New(mostApps)
	m.IO(sample.IO(snapshot.ByPID))
	m.Sched(sample.Sched(snapshot.ByPID))
	m.TCP(sample.TCP(snapshot.ByPID))
	return m
}

// gathered are the series of each metric.
func gathered(t *testing.T, m *Metrics) map[string][]*dto.Metric {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]*dto.Metric{}
	for _, f := range families {
		all[f.GetName()] = f.Metric
	}
	return all
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// sum is that of all series of a metric, of one application if it is given.
func sum(all map[string][]*dto.Metric, name, app string) (n float64) {
	for _, m := range all[name] {
		if app == "" || label(m, "app") == app {
			n += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return n
}

// The sums of the metrics are those of the reports, and grow by what is added.
func TestSums(t *testing.T) {
	var read, written, wait, sent, stalled, open float64
	for _, r := range sample.IO(snapshot.ByPID).Rows {
		read, written = read+float64(r.ReadBytes()), written+float64(r.WriteBytes())
	}
	for _, r := range sample.Sched(snapshot.ByPID).Rows {
		wait += float64(r.Wait()) / 1e9
	}
	for _, r := range sample.TCP(snapshot.ByPID).Rows {
		sent, stalled, open = sent+float64(r.Sent), stalled+float64(r.Stalled())/1e9, open+float64(r.Open)
	}
	m := added(1000)
	for times := 1.0; times < 3; times++ {
		all := gathered(t, m)
		for name, want := range map[string]float64{
			"culprit_disk_read_bytes_total": times * read, "culprit_disk_written_bytes_total": times * written, "culprit_cpu_wait_seconds_total": times * wait,
			"culprit_cpu_wait_caused_seconds_total": times * wait, "culprit_tcp_sent_bytes_total": times * sent, "culprit_tcp_stall_seconds_total": times * stalled,
			"culprit_tcp_connections_open": open, "culprit_apps_folded": 0,
		} {
			if got := sum(all, name, ""); math.Abs(got-want) > 1e-9*want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		m.IO(sample.IO(snapshot.ByPID))
		m.Sched(sample.Sched(snapshot.ByPID))
		m.TCP(sample.TCP(snapshot.ByPID))
	}
}

// Both forms of a histogram hold the same, and quantiles of the native one are near those of reports.
func TestHistograms(t *testing.T) {
	var h snapshot.Histogram
	for _, ns := range []uint64{5, 300, 90_000, 95_000, 100_000, 1_000_000, 3_000_000_000} {
		lower, upper := snapshot.BucketBounds(snapshot.BucketOf(ns))
		h = h.Merge(snapshot.Histogram{Buckets: []snapshot.Bucket{{Lower: lower, Upper: upper, Count: 10}}, Sum: 10 * ns})
	}
	m := New(10)
	m.Sched(snapshot.Sched{Rows: []snapshot.SchedRow{{Process: snapshot.Process{App: "a"}, Latency: h}}})
	got := gathered(t, m)["culprit_cpu_wait_duration_seconds"][0].Histogram
	if got.GetSampleCount() != 70 || math.Abs(got.GetSampleSum()-float64(h.Sum)/1e9) > 1e-9 || got.GetZeroCount() != 10 {
		t.Errorf("%d values, %v s, %d of them zero", got.GetSampleCount(), got.GetSampleSum(), got.GetZeroCount())
	}
	for _, b := range got.Bucket {
		want := uint64(0)
		for _, of := range h.Buckets {
			if float64(of.Upper)/1e9 <= b.GetUpperBound() {
				want += of.Count
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("up to %v there are %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
	}
	var at int32
	count := int64(0)
	native := map[int32]int64{}
	delta := got.PositiveDelta
	for _, span := range got.PositiveSpan {
		at += span.GetOffset()
		for range span.GetLength() {
			count += delta[0]
			native[at] = count
			delta = delta[1:]
			at++
		}
	}
	for _, ns := range []float64{300, 90_000, 95_000, 1_000_000, 3_000_000_000} {
		found := false
		for bucket, n := range native {
			upper := math.Exp2(float64(bucket)/8) * 1e9
			found = found || n >= 10 && ns > 0.8*upper && ns < 1.1*upper
		}
		if !found {
			t.Errorf("%v ns is in no native bucket: %v", ns, native)
		}
	}
}

// Applications beyond the limit are one, whose sum is theirs; who has a series keeps it.
func TestFolding(t *testing.T) {
	of := func(apps ...string) (s snapshot.IO) {
		for _, app := range apps {
			s.Rows = append(s.Rows, snapshot.IORow{Process: snapshot.Process{App: app}, Device: "sda", ReadVia: snapshot.ReadVia{File: 10}})
		}
		return s
	}
	m := New(2)
	m.IO(of("a", "b"))
	m.IO(of("c", "d", "a"))
	m.IO(of("d", "b"))
	all := gathered(t, m)
	for app, want := range map[string]float64{"a": 20, "b": 20, Other: 30, "": 70} {
		if got := sum(all, "culprit_disk_read_bytes_total", app); got != want {
			t.Errorf("%q has %v, want %v", app, got, want)
		}
	}
	if got := sum(all, "culprit_apps_folded", ""); got != 2 {
		t.Errorf("%v applications are folded, want 2", got)
	}
}

// The names are as the conventions want them, and labels can have any bytes.
func TestConventions(t *testing.T) {
	m := added(1000)
	m.IO(snapshot.IO{Rows: []snapshot.IORow{{Process: snapshot.Process{App: "caf\xc3\"\\\n{}"}, Device: "sda", Reads: 1}}})
	problems, err := testutil.CollectAndLint(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if got := sum(gathered(t, m), "culprit_disk_reads_completed_total", "caf\uFFFD\"\\\n{}"); got != 1 {
		t.Errorf("an application whose name is not UTF-8 has %v reads", got)
	}
}

func serve(t *testing.T, m *Metrics, config string) *Server {
	t.Helper()
	s, err := Serve(m, "127.0.0.1:0", config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, address, accept, user, password string) (status int, form, page string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	if user != "" {
		request.SetBasicAuth(user, password)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header.Get("Content-Type"), string(text)
}

// Both texts are served, and what Prometheus asks for if it reads native histograms; a client that says nothing holds nothing up.
func TestServe(t *testing.T) {
	s := serve(t, added(1000), "")
	for range 20 {
		silent, err := net.Dial("tcp", s.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		io.WriteString(silent, "GET /metr")
	}
	for accept, want := range map[string]string{
		"text/plain": "text/plain",
		"application/openmetrics-text;version=1.0.0":                                                 "application/openmetrics-text",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "application/vnd.google.protobuf",
	} {
		status, form, page := get(t, s.Address(), accept, "", "")
		if status != http.StatusOK || !strings.HasPrefix(form, want) || !strings.Contains(page, "culprit_disk_read_bytes") ||
			!strings.Contains(page, "process_resident_memory_bytes") {
			t.Errorf("asked for %s: %d, %s, %.60q", accept, status, form, page)
		}
	}
	if answer, err := http.Get("http://" + s.Address() + "/secret"); err != nil || answer.StatusCode != http.StatusNotFound {
		t.Errorf("another path: %v, %v", answer, err)
	}
}

// Who has no password gets nothing.
func TestAuthentication(t *testing.T) {
	config := filepath.Join(t.TempDir(), "web.yml")
	// The password is "test", as bcrypt(5) has it.
	const users = "basic_auth_users:\n  scraper: $2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay\n"
	if err := os.WriteFile(config, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, added(10), config)
	if status, _, page := get(t, s.Address(), "text/plain", "", ""); status != http.StatusUnauthorized || strings.Contains(page, "culprit_disk") {
		t.Errorf("without a password: %d, %q", status, page)
	}
	if status, _, page := get(t, s.Address(), "text/plain", "scraper", "test"); status != http.StatusOK || !strings.Contains(page, "culprit_disk") {
		t.Errorf("with the password: %d, %q", status, page)
	}
	if err := os.WriteFile(config, []byte("coffee: yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Serve(New(1), "127.0.0.1:0", config, slog.New(slog.DiscardHandler)); err == nil {
		s.Close()
		t.Error("a file that is no configuration is taken")
	}
}
