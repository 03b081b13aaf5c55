package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Target is where metrics are pushed to.
type Target struct {
	URL     string            // grpc://HOST:PORT, grpcs://HOST:PORT, http://HOST:PORT or https://HOST:PORT; "" is the environment's
	Headers map[string]string // none: the environment's
}

// Source is what the metrics are of: attributes of what is pushed.
type Source struct {
	Host, Kernel, Version string
}

// What the OpenTelemetry exporters read of the environment; see their documentation for what else they do.
const (
	endpointEnv = "OTEL_EXPORTER_OTLP_ENDPOINT"
	protocolEnv = "OTEL_EXPORTER_OTLP_PROTOCOL"
)

// ofMetrics is the same for metrics alone, which goes first.
func ofMetrics(name string) string {
	return strings.Replace(name, "_OTLP_", "_OTLP_METRICS_", 1)
}

func environment(name string) string { return cmp.Or(os.Getenv(ofMetrics(name)), os.Getenv(name)) }

// EnvironmentTarget is where the environment says that metrics are to be pushed to; "" is nowhere.
func EnvironmentTarget() string { return environment(endpointEnv) }

// ErrTarget is of a target that is none.
var ErrTarget = errors.New("give grpc://HOST:PORT, grpcs://HOST:PORT, http://HOST:PORT or https://HOST:PORT")

// overGRPC tells by which of the two protocols it is, and has the URL as the exporters want it.
func (to Target) overGRPC() (rpc bool, endpoint string, err error) {
	if to.URL == "" {
		switch protocol := environment(protocolEnv); protocol {
		case "grpc":
			return true, "", nil
		case "", "http/protobuf":
			return false, "", nil
		default:
			return false, "", fmt.Errorf("%s is %q: it is grpc or http/protobuf", protocolEnv, protocol)
		}
	}
	u, err := url.Parse(to.URL)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return false, "", ErrTarget
	}
	scheme, rpc := strings.CutPrefix(u.Scheme, "grpc")
	switch {
	case rpc && (scheme == "" || scheme == "s") && u.Port() != "" && strings.Trim(u.Path, "/") == "":
		u.Scheme = "http" + scheme
	case u.Scheme == "http" || u.Scheme == "https":
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/v1/metrics"
		}
	default:
		return false, "", ErrTarget
	}
	return rpc, u.String(), nil
}

// Check tells whether it is a target.
func (to Target) Check() error {
	_, _, err := to.overGRPC()
	return err
}

// retryFor is how long one interval is offered to a collector that says it should be later.
const retryFor = 5 * time.Minute

func (to Target) exporter(ctx context.Context) (metric.Exporter, error) {
	rpc, endpoint, err := to.overGRPC()
	if err != nil {
		return nil, err
	}
	if rpc {
		o := []otlpmetricgrpc.Option{otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{
			Enabled: true, InitialInterval: firstPause, MaxInterval: longestPause, MaxElapsedTime: retryFor,
		}), otlpmetricgrpc.WithDialOption(grpc.WithConnectParams(grpc.ConnectParams{ // who is away is asked again no later than over HTTP
			Backoff: backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: longestPause}, MinConnectTimeout: longestPause,
		}))}
		if endpoint != "" {
			o = append(o, otlpmetricgrpc.WithEndpointURL(endpoint))
		}
		if len(to.Headers) > 0 {
			o = append(o, otlpmetricgrpc.WithHeaders(to.Headers))
		}
		return otlpmetricgrpc.New(ctx, o...)
	}
	o := []otlpmetrichttp.Option{otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{
		Enabled: true, InitialInterval: firstPause, MaxInterval: longestPause, MaxElapsedTime: retryFor,
	})}
	if endpoint != "" {
		o = append(o, otlpmetrichttp.WithEndpointURL(endpoint))
	}
	if len(to.Headers) > 0 {
		o = append(o, otlpmetrichttp.WithHeaders(to.Headers))
	}
	return otlpmetrichttp.New(ctx, o...)
}

// What waits to be pushed is bounded: so many points are some 30 MB. What a request has is less than collectors take, which is 4 MiB
// where nobody has set it.
const (
	mostWaiting    = 100_000
	mostPerRequest = 4_000
)

// Pauses between attempts.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// interval is what the metrics were at one time, in requests that are left to be made.
type interval struct {
	requests []*metricdata.ResourceMetrics
	points   int
}

// Pusher pushes metrics to an OpenTelemetry collector, in the order of time, and never lets anybody wait: while the collector is away,
// what is pushed is kept; of more than can be, the oldest is lost, and counted.
type Pusher struct {
	metrics  *Metrics
	reader   *metric.ManualReader
	exporter metric.Exporter
	more     chan struct{} // one is in it if something waits
	stop     context.CancelFunc
	ended    chan struct{}
	most     int // points that wait

	mu      sync.Mutex
	waiting []*interval
	points  int // of those
	closing bool
	lost    uint64
	trouble error // of the last attempt, or the last interval
}

// NewPusher makes one, and starts what makes its requests.
func NewPusher(m *Metrics, to Target, from Source) (*Pusher, error) {
	ctx, stop := context.WithCancel(context.Background())
	exporter, err := to.exporter(ctx)
	if err != nil {
		stop()
		return nil, fmt.Errorf("pushing metrics: %w", err)
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(m); err != nil {
		stop()
		return nil, err
	}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "culprit"), attribute.String("service.version", from.Version),
		attribute.String("service.instance.id", from.Host), attribute.String("host.name", from.Host),
		attribute.String("os.type", "linux"), attribute.String("os.version", from.Kernel),
	), resource.WithFromEnv())
	if err != nil {
		stop()
		return nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	p := &Pusher{
		metrics: m, exporter: exporter, most: mostWaiting, more: make(chan struct{}, 1), stop: stop, ended: make(chan struct{}),
		reader: metric.NewManualReader(metric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(explicit{registry})))),
	}
	metric.NewMeterProvider(metric.WithReader(p.reader), metric.WithResource(about))
	go p.run(ctx)
	return p, nil
}

// explicit leaves the native form out: the bridge would take that alone, and many of those who get OTLP can only use the other.
type explicit struct{ prometheus.Gatherer }

func (e explicit) Gather() ([]*dto.MetricFamily, error) {
	families, err := e.Gatherer.Gather()
	for _, f := range families {
		for _, m := range f.Metric {
			if h := m.Histogram; h != nil {
				m.Histogram = &dto.Histogram{SampleCount: h.SampleCount, SampleSum: h.SampleSum, Bucket: h.Bucket}
			}
		}
	}
	return families, err
}

// Push takes what the metrics are now, to be pushed as soon as the collector takes it.
func (p *Pusher) Push() {
	var all metricdata.ResourceMetrics
	err := p.reader.Collect(context.Background(), &all)
	now := split(&all)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.trouble = err
		p.loses()
		return
	}
	p.waiting = append(p.waiting, now)
	p.points += now.points
	for len(p.waiting) > 1 && p.points > p.most {
		p.drop()
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// drop loses the oldest that waits.
func (p *Pusher) drop() {
	p.next()
	p.loses()
}

// next is the oldest that waits, which does not from now on; nil: nothing does.
func (p *Pusher) next() *interval {
	if len(p.waiting) == 0 {
		return nil
	}
	oldest := p.waiting[0]
	p.waiting[0] = nil
	p.waiting = p.waiting[1:]
	p.points -= oldest.points
	return oldest
}

// loses counts an interval that is lost, as a metric, too.
func (p *Pusher) loses() {
	p.lost++
	p.metrics.mu.Lock()
	defer p.metrics.mu.Unlock()
	p.metrics.lost.add(1, "otlp", "intervals")
}

// split makes requests of what was collected.
func split(all *metricdata.ResourceMetrics) *interval {
	in := &interval{}
	var request *metricdata.ResourceMetrics
	points := 0 // of the request
	for _, scope := range all.ScopeMetrics {
		request = nil
		for _, m := range scope.Metrics {
			m.Unit = unitOf(m.Name)
			n := pointsOf(m)
			if request == nil || points+n > mostPerRequest {
				request = &metricdata.ResourceMetrics{Resource: all.Resource, ScopeMetrics: []metricdata.ScopeMetrics{{Scope: scope.Scope}}}
				in.requests = append(in.requests, request)
				points = 0
			}
			request.ScopeMetrics[0].Metrics = append(request.ScopeMetrics[0].Metrics, m)
			points += n
			in.points += n
		}
	}
	return in
}

// unitOf is the unit that is in a name, by the code that OpenTelemetry has for it.
func unitOf(name string) string {
	switch name = strings.TrimSuffix(name, "_total"); {
	case strings.HasSuffix(name, "_bytes"):
		return "By"
	case strings.HasSuffix(name, "_seconds"):
		return "s"
	}
	return ""
}

func pointsOf(m metricdata.Metrics) int {
	switch data := m.Data.(type) {
	case metricdata.Sum[float64]:
		return len(data.DataPoints)
	case metricdata.Gauge[float64]:
		return len(data.DataPoints)
	case metricdata.Histogram[float64]:
		return len(data.DataPoints)
	}
	return 0
}

// run makes requests until it is closed.
func (p *Pusher) run(ctx context.Context) {
	defer close(p.ended)
	for {
		p.mu.Lock()
		now := p.next()
		closing := p.closing
		p.mu.Unlock()
		switch {
		case now != nil:
			p.send(ctx, now)
		case closing:
			return
		default:
			<-p.more
		}
	}
}

// send makes the requests of an interval, each until it was taken or refused. It is lost unless all were taken.
func (p *Pusher) send(ctx context.Context, now *interval) {
	var refused error
	pause := firstPause
	for len(now.requests) > 0 {
		err := p.exporter.Export(ctx, now.requests[0])
		if err != nil && away(err) && ctx.Err() == nil {
			p.say(err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longestPause)
			continue
		}
		if refused == nil {
			refused = err
		}
		now.requests = now.requests[1:]
		pause = firstPause
	}
	if ctx.Err() == nil { // that it was stopped says nothing of the collector
		p.say(refused)
	}
	if refused != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.loses()
	}
}

// say keeps what is wrong.
func (p *Pusher) say(trouble error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = trouble
}

// away tells of an error whether it is of a collector that cannot be reached, and not of one that refuses what it was sent.
func away(err error) bool {
	var network *url.Error
	if errors.As(err, &network) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return true
	}
	return false
}

// State is how many intervals were lost so far, and what is wrong with pushing them.
func (p *Pusher) State() (lost uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost, p.trouble
}

// Close ends it, after what waits was pushed, but soon; State tells what was not.
func (p *Pusher) Close(within time.Duration) error {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	late := time.AfterFunc(within, p.stop)
	<-p.ended
	late.Stop()
	p.stop()
	return p.exporter.Shutdown(context.Background())
}
