package metrics

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"culprit/probes/snapshot"
)

// taker is a collector that keeps what it is sent.
type taker struct {
	collector.UnimplementedMetricsServiceServer
	mu     sync.Mutex
	status int // of its answers
	taken  []*otlp.Metric
	most   int // bytes of a request
}

func (c *taker) ServeHTTP(to http.ResponseWriter, from *http.Request) {
	body, err := io.ReadAll(from.Body)
	request := new(collector.ExportMetricsServiceRequest)
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.status = http.StatusBadRequest
	}
	c.most = max(c.most, len(body))
	if c.status == 0 {
		c.take(request)
		return
	}
	to.WriteHeader(c.status)
}

// Export is the same over gRPC.
func (c *taker) Export(_ context.Context, request *collector.ExportMetricsServiceRequest) (*collector.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(request)
	return new(collector.ExportMetricsServiceResponse), nil
}

func (c *taker) take(request *collector.ExportMetricsServiceRequest) {
	for _, resource := range request.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			c.taken = append(c.taken, scope.Metrics...)
		}
	}
}

func (c *taker) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// values are those of a counter with one series, in the order in which they came.
func (c *taker) values(name string) (all []float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.taken {
		if m.Name == name {
			all = append(all, m.GetSum().DataPoints[0].GetAsDouble())
		}
	}
	return all
}

func pusher(t *testing.T, m *Metrics, to string) *Pusher {
	t.Helper()
	p, err := NewPusher(m, Target{URL: to}, Source{Host: "here", Kernel: "6.1", Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func readOf(n uint64) snapshot.IO {
	return snapshot.IO{Rows: []snapshot.IORow{{Process: snapshot.Process{App: "a"}, Device: "sda", ReadVia: snapshot.ReadVia{File: n}}}}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 s, not yet: %s", what)
		}
	}
}

func lostOf(p *Pusher) uint64 {
	lost, _ := p.State()
	return lost
}

const readBytes = "culprit_disk_read_bytes_total"

// While nobody listens, nothing waits for that; the newest are kept, arrive in order when somebody does, and what was lost is counted.
func TestPushToNobody(t *testing.T) {
	for scheme, serve := range map[string]func(net.Listener, *taker) (end func()){
		"http": func(on net.Listener, c *taker) func() {
			server := httptest.Server{Listener: on, Config: &http.Server{Handler: c}}
			server.Start()
			return server.Close
		},
		"grpc": func(on net.Listener, c *taker) func() {
			server := grpc.NewServer()
			collector.RegisterMetricsServiceServer(server, c)
			go server.Serve(on)
			return server.Stop
		},
	} {
		t.Run(scheme, func(t *testing.T) { pushToNobody(t, scheme, serve) })
	}
}

func pushToNobody(t *testing.T, scheme string, serve func(net.Listener, *taker) (end func())) {
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2000") // ms, for an attempt
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	m := New(10)
	p := pusher(t, m, scheme+"://"+address)
	p.most = 12 // four intervals of two points, or three with what was lost
	began := time.Now()
	for range 20 {
		m.IO(readOf(1))
		p.Push()
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("pushing to nobody takes %v", took)
	}
	until(t, "an error is said", func() bool { _, err := p.State(); return err != nil })
	lost := lostOf(p)
	c := &taker{}
	if listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	defer serve(listener, c)()
	until(t, "the last arrives", func() bool { all := c.values(readBytes); return len(all) > 0 && all[len(all)-1] == 20 })
	all := c.values(readBytes)
	if lost == 0 || len(all) != 20-int(lost) || sum(gathered(t, m), "culprit_lost_total", "") != float64(lost) {
		t.Errorf("of 20 intervals %d arrived and %d are lost: %v", len(all), lost, all)
	}
	for i := range all[1:] {
		if all[i+1] <= all[i] {
			t.Errorf("they arrived as %v", all)
		}
	}
	if err := p.Close(time.Second); err != nil || lostOf(p) != lost {
		t.Errorf("at the end: %v, %d lost, before that %d", err, lostOf(p), lost)
	}
}

// What a collector refuses is lost alone; what it wants later, it gets.
func TestPushRefused(t *testing.T) {
	c := &taker{status: http.StatusBadRequest}
	server := httptest.NewServer(c)
	defer server.Close()
	m := New(10)
	p := pusher(t, m, server.URL)
	m.IO(readOf(1))
	p.Push()
	until(t, "it is refused", func() bool { return lostOf(p) == 1 })
	c.answer(http.StatusServiceUnavailable)
	m.IO(readOf(1))
	p.Push()
	time.Sleep(100 * time.Millisecond)
	c.answer(0)
	until(t, "it arrives later", func() bool { return len(c.values(readBytes)) == 1 })
	if err := p.Close(time.Second); err != nil || lostOf(p) != 1 || c.values(readBytes)[0] != 2 {
		t.Errorf("at the end: %v, %d lost, %v arrived", err, lostOf(p), c.values(readBytes))
	}
}

// Of an interval of which one request is refused, the others arrive, and it is lost.
func TestPushRefusedInPart(t *testing.T) {
	c := &taker{}
	first := true
	server := httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, from *http.Request) {
		if first {
			first = false
			to.WriteHeader(http.StatusBadRequest)
			return
		}
		c.ServeHTTP(to, from)
	}))
	defer server.Close()
	m := New(mostPerRequest)
	for i := range mostPerRequest / 3 {
		m.mostly(strconv.Itoa(i))
	}
	p := pusher(t, m, server.URL)
	p.Push()
	err := p.Close(10 * time.Second)
	if lost, trouble := p.State(); err != nil || lost != 1 || trouble == nil || len(c.taken) == 0 || len(c.taken) >= len(gathered(t, m)) {
		t.Errorf("%v; %d lost; %v; %d metrics arrived", err, lost, trouble, len(c.taken))
	}
}

// A collector that says nothing delays the end no longer than it may, and all that it did not take is lost.
func TestPushToSilence(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	m := added(10)
	p := pusher(t, m, "http://"+listener.Addr().String())
	began := time.Now()
	for range 3 {
		p.Push()
	}
	if err := p.Close(500 * time.Millisecond); err != nil || lostOf(p) != 3 {
		t.Errorf("the end: %v, %d lost, want 3", err, lostOf(p))
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// mostly adds to most metrics of an application.
func (m *Metrics) mostly(app string) {
	row := readOf(1).Rows[0]
	row.App, row.Reads, row.Writes, row.Discards, row.Flushes, row.WriteVia.Direct, row.DiscardBytes, row.BlockedNS = app, 1, 1, 1, 1, 1, 1, 1
	h := snapshot.Histogram{Buckets: []snapshot.Bucket{{Lower: 1024, Upper: 1152, Count: 1}}, Sum: 1100}
	row.ReadLatency.Total, row.WriteLatency.Total = h, h
	m.IO(snapshot.IO{Rows: []snapshot.IORow{row}})
}

// What arrives are the metrics that are served: counters that only grow, and histograms with buckets, all from the same start on; in
// requests that collectors take.
func TestPushed(t *testing.T) {
	c := &taker{}
	server := httptest.NewServer(c)
	defer server.Close()
	const apps = 3000
	m := added(2 * apps)
	for range apps {
		m.mostly(fmt.Sprintf("%0100d", len(m.apps)))
	}
	p := pusher(t, m, server.URL)
	p.Push()
	if err := p.Close(10 * time.Second); err != nil || lostOf(p) != 0 {
		t.Fatalf("%v, %d lost", err, lostOf(p))
	}
	if c.most == 0 || c.most > 4<<20 {
		t.Errorf("the largest request has %d bytes", c.most)
	}
	served := gathered(t, m)
	if len(c.taken) != len(served) {
		t.Errorf("%d metrics are pushed, %d are served", len(c.taken), len(served))
	}
	for _, got := range c.taken {
		var total float64
		counted := 0
		switch {
		case got.GetSum() != nil:
			s := got.GetSum()
			if !s.IsMonotonic || s.AggregationTemporality != otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
				t.Errorf("%s is no counter: %v, %v", got.Name, s.IsMonotonic, s.AggregationTemporality)
			}
			for _, d := range s.DataPoints {
				total, counted = total+d.GetAsDouble(), counted+1
			}
		case got.GetGauge() != nil:
			for _, d := range got.GetGauge().DataPoints {
				total, counted = total+d.GetAsDouble(), counted+1
			}
		case got.GetHistogram() != nil:
			for _, d := range got.GetHistogram().DataPoints {
				total, counted = total+d.GetSum(), counted+1
				inBuckets := uint64(0)
				for _, n := range d.BucketCounts {
					inBuckets += n
				}
				if len(d.ExplicitBounds) != len(bounds) || inBuckets != d.Count || d.StartTimeUnixNano >= d.TimeUnixNano {
					t.Errorf("%s has %d bounds, %d of %d in buckets", got.Name, len(d.ExplicitBounds), inBuckets, d.Count)
				}
			}
			if got.Unit != "s" {
				t.Errorf("%s has the unit %q", got.Name, got.Unit)
			}
		default:
			t.Errorf("%s is of another kind: %v", got.Name, got)
		}
		if want := sum(served, got.Name, ""); counted != len(served[got.Name]) || math.Abs(total-want) > 1e-9*want {
			t.Errorf("%s: %d series with %v in all are pushed, want %d with %v", got.Name, counted, total, len(served[got.Name]), want)
		}
	}
}

// What is no target is said before anything begins.
func TestTargets(t *testing.T) {
	for target, want := range map[string]string{
		"grpc://host:4317": "http://host:4317", "grpcs://[::1]:4317": "https://[::1]:4317", "http://host:4318": "http://host:4318/v1/metrics",
		"https://host/": "https://host/v1/metrics", "https://host/otlp/v1/metrics": "https://host/otlp/v1/metrics",
		"host:4317": "", "grpc://host": "", "grpc://host:1/path": "", "ftp://host:1": "", "http://": "", "http://user:secret@host:1": "", "grpcx://host:1": "",
	} {
		_, got, err := Target{URL: target}.overGRPC()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s is %q, %v, want %q", target, got, err, want)
		}
	}
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	if rpc, _, err := (Target{}).overGRPC(); !rpc || err != nil {
		t.Errorf("the environment's protocol: gRPC %v, %v", rpc, err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json")
	if err := (Target{}).Check(); err == nil {
		t.Error("a protocol that is none of the two is taken")
	}
}
