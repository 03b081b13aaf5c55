package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// startPrometheus has a Prometheus scrape an address often, native histograms included, and returns its own.
func startPrometheus(t *testing.T, target string) (address string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(cache, "culprit", "debian", "prometheus", "prometheus")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("prometheus is missing: .ci/install installs it: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	listener.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("scrape_configs: [{job_name: culprit, scrape_interval: 500ms, scrape_timeout: 500ms, static_configs: [{targets: [%q]}]}]\n", target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address,
		"--enable-feature=native-histograms", "--log.level=warn")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus said: %s", &log)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if answer, err := http.Get("http://" + address + "/-/ready"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return address
			}
		}
		if time.Now().After(end) {
			t.Fatal("Prometheus is not ready after 20 s")
		}
	}
}

// ask is a query for one value.
func ask(t *testing.T, prometheus string, at time.Time, query string) float64 {
	t.Helper()
	answer, err := http.Get("http://" + prometheus + "/api/v1/query?" + url.Values{"query": {query}, "time": {at.Format(time.RFC3339Nano)}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var got struct {
		Error string
		Data  struct{ Result []struct{ Value [2]any } }
	}
	if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Data.Result) != 1 {
		t.Fatalf("%s has %d values, want one: %s", query, len(got.Data.Result), got.Error)
	}
	text, _ := got.Data.Result[0].Value[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

// writesOf is what a report says of the writes that dd made to a disk.
type writesOf struct {
	Writes  uint64
	Bytes   uint64 `json:"write_bytes"`
	Latency struct {
		Count  uint64
		Median uint64 `json:"p50_ns"`
	} `json:"write_latency"`
}

func reportWrites(t *testing.T, dir, device string, from, to time.Time) (w writesOf) {
	t.Helper()
	out, err := exec.Command(program(), "report", "--dir", dir, "--json", "-n", "0", "--since", from.Format(time.RFC3339Nano), "--until", to.Format(time.RFC3339Nano)).Output()
	if err != nil {
		t.Fatalf("culprit report: %v", err)
	}
	for line := range bytes.Lines(out) {
		var r struct {
			Schema string
			Rows   []struct {
				App, Device string
				writesOf
			}
		}
		if !bytes.Contains(line, []byte(`"culprit.io/1"`)) {
			continue
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, row := range r.Rows {
			if row.App == "dd" && row.Device == device {
				w = row.writesOf
			}
		}
	}
	return w
}

// What a Prometheus has scraped over a span is what the recording has of it: sums to the byte, rates as far as it extrapolates them, and
// quantiles of native histograms as far as buckets are wide.
func TestPrometheus(t *testing.T) {
	disk, dir := emptyDisk(t, 64), t.TempDir()
	name := filepath.Base(disk)
	r := startRecord(t, dir, "--interval", "1s", "--listen", "127.0.0.1:0")
	address, _, _ := strings.Cut(strings.TrimPrefix(r.stderr.String(), "metrics are at "), "\n")
	target, _, _ := strings.Cut(address, "/")
	prometheus := startPrometheus(t, target)
	const idle = 2500 * time.Millisecond // until an interval is over, and scraped
	labels := fmt.Sprintf(`{app="dd",device=%q}`, name)
	const first = 3
	dd(t, disk, first)
	for end := time.Now().Add(20 * time.Second); ask(t, prometheus, time.Now(), "sum(culprit_disk_written_bytes_total"+labels+" or vector(0))") < first<<20; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("after 20 s, Prometheus has nothing of what was written")
		}
	}
	from := time.Now()
	for range 5 {
		dd(t, disk, 11)
		time.Sleep(time.Second)
	}
	time.Sleep(idle)
	to := time.Now()
	r.end(t)

	want := reportWrites(t, dir, name, from, to)
	if want.Bytes != 5*11<<20 || want.Latency.Count == 0 {
		t.Errorf("the report has %+v", want)
	}
	span := fmt.Sprintf("[%dms]", to.Sub(from).Milliseconds())
	grown := func(query string) float64 { return ask(t, prometheus, to, query) - ask(t, prometheus, from, query) }
	const durations = "culprit_disk_write_duration_seconds"
	for query, want := range map[string]uint64{
		"culprit_disk_written_bytes_total" + labels:    want.Bytes,
		"culprit_disk_writes_completed_total" + labels: want.Writes,
		"histogram_count(" + durations + labels + ")":  want.Latency.Count,
	} {
		if got := grown(query); got != float64(want) {
			t.Errorf("%s grew by %v, recorded is %d", query, got, want)
		}
	}
	if got := ask(t, prometheus, to, "count("+durations+"_bucket) or vector(0)"); got != 0 {
		t.Errorf("it has %v series of histograms that are not native", got)
	}
	near := func(query string, want, tolerance float64) {
		if got := ask(t, prometheus, to, query); math.Abs(got-want) > tolerance*want {
			t.Errorf("%s is %v, recorded is %v", query, got, want)
		}
	}
	seconds := to.Sub(from).Seconds()
	near(`min_over_time(up{job="culprit"}`+span+")", 1, 0)
	near("rate(culprit_disk_written_bytes_total"+labels+span+")", float64(want.Bytes)/seconds, 0.15)
	near("increase(culprit_disk_written_bytes_total"+labels+span+")", float64(want.Bytes), 0.15)
	near("histogram_quantile(0.5, increase("+durations+labels+span+"))", float64(want.Latency.Median)/1e9, 0.25)
}
