package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
)

// A client that is slow, or many, hold nothing up.
const (
	headerTime   = 5 * time.Second
	answerTime   = 30 * time.Second
	mostRequests = 8
)

// Path is where the metrics are.
const Path = "/metrics"

// Server serves metrics.
type Server struct {
	listener net.Listener
	server   *http.Server
	ended    chan error
}

// Serve serves metrics at an address, host:port, with TLS and authentication if the file config says so, which has the form of the
// Prometheus exporters' web configuration; "" is none.
func Serve(m *Metrics, address, config string, log *slog.Logger) (*Server, error) {
	if err := web.Validate(config); err != nil {
		return nil, fmt.Errorf("reading %s: %w", config, err)
	}
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: mostRequests, Timeout: answerTime / 2}))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving metrics: %w", err)
	}
	s := &Server{listener, &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: answerTime, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}, make(chan error, 1)}
	go func() { s.ended <- web.Serve(listener, s.server, &web.FlagConfig{WebConfigFile: &config}, log) }()
	return s, nil
}

// Address is where it listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Close ends it, after the answers that are under way, but soon.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.server.Close()
	}
	if ended := <-s.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
