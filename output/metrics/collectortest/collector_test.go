// Package collectortest has an OpenTelemetry Collector get what is pushed.
package collectortest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

// series is a metric's name with its labels' values.
type series struct{ metric, app, more string }

// collector keeps the last value of each series that it got.
type collector struct {
	mu       sync.Mutex
	requests int
	headers  map[string]bool // the values of the header that is looked at
	about    map[string]any  // the resource's attributes
	values   map[series]float64
	counts   map[series]uint64 // of histograms
	shrunk   []series
	strange  []string // what is neither a counter, a gauge nor a histogram with buckets
}

const header = "x-team"

func (c *collector) take(ctx context.Context, got pmetric.Metrics) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	c.headers[fmt.Sprint(client.FromContext(ctx).Metadata.Get(header))] = true
	for _, resource := range got.ResourceMetrics().All() {
		c.about = resource.Resource().Attributes().AsRaw()
		for _, scope := range resource.ScopeMetrics().All() {
			for _, m := range scope.Metrics().All() {
				c.metric(m)
			}
		}
	}
	return nil
}

func (c *collector) metric(m pmetric.Metric) {
	named := func(labels map[string]any) series {
		s := series{metric: m.Name()}
		for _, name := range slices.Sorted(maps.Keys(labels)) {
			if name == "app" {
				s.app = labels[name].(string)
			} else {
				s.more += labels[name].(string)
			}
		}
		return s
	}
	switch m.Type() {
	case pmetric.MetricTypeSum:
		if !m.Sum().IsMonotonic() || m.Sum().AggregationTemporality() != pmetric.AggregationTemporalityCumulative {
			c.strange = append(c.strange, m.Name())
		}
		for _, point := range m.Sum().DataPoints().All() {
			s := named(point.Attributes().AsRaw())
			if point.DoubleValue() < c.values[s] {
				c.shrunk = append(c.shrunk, s)
			}
			c.values[s] = point.DoubleValue()
		}
	case pmetric.MetricTypeHistogram:
		for _, point := range m.Histogram().DataPoints().All() {
			s := named(point.Attributes().AsRaw())
			c.values[s], c.counts[s] = point.Sum(), point.Count()
			if point.ExplicitBounds().Len() < 5 {
				c.strange = append(c.strange, m.Name())
			}
		}
	case pmetric.MetricTypeGauge:
	default:
		c.strange = append(c.strange, m.Name())
	}
}

// start has a Collector's receiver listen for one of the protocols, with TLS.
func start(t *testing.T, protocol, certificate, key string) (c *collector, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	listener.Close() // the receiver wants a port's number
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{protocol: map[string]any{
		"endpoint": address, "include_metadata": true, "tls": map[string]any{"cert_file": certificate, "key_file": key},
	}}}).Unmarshal(config); err != nil {
		t.Fatal(err)
	}
	c = &collector{headers: map[string]bool{}, values: map[series]float64{}, counts: map[series]uint64{}}
	sink, err := consumer.NewMetrics(c.take)
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := factory.CreateMetrics(t.Context(), receivertest.NewNopSettings(factory.Type()), config, sink)
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := receiver.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c, address
}

// certify makes a certificate of this machine, which is its own authority.
func certify(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: public}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// reported are the sums of a recording, as culprit report has them, called as the metrics are.
func reported(t *testing.T, program, dir string) (values map[series]float64, counts map[series]uint64) {
	t.Helper()
	out, err := exec.Command(program, "report", "--dir", dir, "--json", "-n", "0").Output()
	if err != nil {
		t.Fatalf("culprit report: %v", err)
	}
	type latency struct{ Count uint64 }
	values, counts = map[series]float64{}, map[series]uint64{}
	for line := range bytes.Lines(out) {
		var r struct {
			Schema string
			Rows   []struct {
				App, Device  string
				ReadBytes    float64 `json:"read_bytes"`
				WriteBytes   float64 `json:"write_bytes"`
				WriteLatency latency `json:"write_latency"`
				Latency      latency
				OnCPU        float64 `json:"oncpu_ns"`
				Wait         float64 `json:"wait_ns"`
				Sent         float64 `json:"sent_bytes"`
				Opened       float64
			}
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		add := func(metric, app, more string, n float64) {
			if n > 0 {
				values[series{metric, app, more}] += n
			}
		}
		for _, row := range r.Rows {
			add("culprit_disk_read_bytes_total", row.App, row.Device, row.ReadBytes)
			add("culprit_disk_written_bytes_total", row.App, row.Device, row.WriteBytes)
			add("culprit_cpu_seconds_total", row.App, "", row.OnCPU/1e9)
			add("culprit_cpu_wait_seconds_total", row.App, "", row.Wait/1e9)
			add("culprit_tcp_sent_bytes_total", row.App, "", row.Sent)
			add("culprit_tcp_connections_opened_total", row.App, "", row.Opened)
			if n := row.WriteLatency.Count; n > 0 {
				counts[series{"culprit_disk_write_duration_seconds", row.App, row.Device}] += n
			}
			if n := row.Latency.Count; n > 0 {
				counts[series{"culprit_cpu_wait_duration_seconds", row.App, ""}] += n
			}
		}
	}
	return values, counts
}

// The sums that arrive at a Collector are those of the recording: over gRPC as flags say, over HTTP as the environment says, both with
// TLS and a header.
func TestCollectorGetsTheRecording(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test records the running machine, and needs root")
	}
	program := filepath.Join(t.TempDir(), "culprit")
	build := exec.Command("go", "build", "-o", program, "./cmd/culprit")
	build.Dir, build.Env = "../../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	certificate, key := certify(t)
	for protocol, set := range map[string]func(address string) (flags, environment []string){
		"grpc": func(address string) (_, _ []string) {
			return []string{"--otlp", "grpcs://" + address, "--otlp-header", header + "=storage"}, nil
		},
		"http": func(address string) (_, _ []string) {
			return nil, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://" + address, "OTEL_EXPORTER_OTLP_HEADERS=" + header + "=storage", "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test"}
		},
	} {
		t.Run(protocol, func(t *testing.T) {
			c, address := start(t, protocol, certificate, key)
			dir := t.TempDir()
			flags, environment := set(address)
			record := exec.Command(program, append([]string{"record", "--dir", dir, "--host", "here", "--interval", "1s", "--duration", "4500ms", "--max-apps", "100000"}, flags...)...)
			record.Env = append(append(os.Environ(), "OTEL_EXPORTER_OTLP_CERTIFICATE="+certificate), environment...)
			var said bytes.Buffer
			record.Stderr = &said
			if err := record.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- record.Wait() }()
			for busy := true; busy; {
				select {
				case err := <-ended:
					if busy = false; err != nil {
						t.Fatalf("culprit record: %v: %s", err, &said)
					}
				case <-time.After(100 * time.Millisecond):
					load(t, dir)
				}
			}
			c.check(t, protocol, program, dir)
			if t.Failed() {
				t.Logf("culprit record said: %s", &said)
			}
		})
	}
}

// load writes to a disk and talks to itself.
func load(t *testing.T, dir string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(dir, "load"), os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	talk, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer talk.Close()
	if _, err := talk.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
}

func (c *collector) check(t *testing.T, protocol, program, dir string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	values, counts := reported(t, program, dir)
	seen := map[string]int{}
	for s, want := range values {
		seen[s.metric]++
		if got := c.values[s]; math.Abs(got-want) > 1e-9*want {
			t.Errorf("%v is %v, recorded is %v", s, got, want)
		}
	}
	for s, want := range counts {
		seen[s.metric]++
		if got := c.counts[s]; got != want {
			t.Errorf("%v has %d values, recorded are %d", s, got, want)
		}
	}
	for s, n := range c.values {
		if seen[s.metric] > 0 && n > 0 && values[s] == 0 && counts[s] == 0 {
			t.Errorf("%v is %v, and not recorded", s, n)
		}
	}
	if len(seen) < 7 {
		t.Errorf("compared were %v", seen)
	}
	if c.requests < 5 || len(c.headers) != 1 || !c.headers["[storage]"] || len(c.shrunk)+len(c.strange) > 0 {
		t.Errorf("%d requests, headers %v, smaller than before were %v, of another kind %v", c.requests, c.headers, c.shrunk, c.strange)
	}
	if c.about["service.name"] != "culprit" || c.about["host.name"] != "here" || (c.about["deployment.environment.name"] == "test") != (protocol == "http") {
		t.Errorf("it is of %v", c.about)
	}
}
