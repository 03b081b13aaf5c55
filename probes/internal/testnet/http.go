package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Serve is a server of HTTP as package net/http makes it, threads, TCP_NODELAY and all, until Browse has seen enough.
type Serve struct{ End }

// Browse is some clients of Serve, each of which makes one request after the other. Took are those. Sent and Received are bytes of
// bodies.
type Browse struct {
	End
	Clients int
	For     time.Duration
	Most    int           // bytes of a reply, at most
	Reuse   int           // requests of a connection
	Pause   time.Duration // after each
}

const (
	sizeOf  = "size"
	endPath = "/end"
	// Children do not collect garbage, which these make a lot of.
	memory = 256 << 20
)

func (s Serve) run() (counts Counts, err error) {
	debug.SetMemoryLimit(memory)
	var sent, connections atomic.Int64
	end := make(chan struct{})
	pages := http.NewServeMux()
	pages.HandleFunc(endPath, func(http.ResponseWriter, *http.Request) { close(end) })
	pages.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.FormValue(sizeOf))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		n, _ := w.Write(make([]byte, size)) // the client finds what is missing
		sent.Add(int64(n))
	})
	server := http.Server{Handler: pages, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}}
	config := net.ListenConfig{Control: s.Socket.control, KeepAlive: -1}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", s.Address.String())
	if err != nil {
		return counts, fmt.Errorf("listening at %s: %w", s.Address, err)
	}
	var g errgroup.Group
	g.Go(func() error {
		<-end
		return server.Shutdown(context.Background())
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return counts, fmt.Errorf("serving: %w", err)
	}
	err = g.Wait()
	return Counts{Connections: int(connections.Load()), Sent: sent.Load()}, err
}

func (b Browse) run() (sum Counts, err error) {
	debug.SetMemoryLimit(memory)
	counts := make([]Counts, b.Clients)
	var g errgroup.Group
	for i := range counts {
		g.Go(func() (err error) {
			counts[i], err = b.browse(i)
			return err
		})
	}
	err = g.Wait()
	for _, c := range counts {
		sum.add(c)
	}
	last, n, ended := b.client()
	if _, failed := fetch(last, "http://"+b.Address.String()+endPath); err == nil {
		err = failed
	}
	ended()
	sum.Connections += int(n.Load())
	return sum, err
}

// client is one with a connection of its own, and how many it made.
func (b Browse) client() (c *http.Client, connections *atomic.Int64, end func()) {
	connections = new(atomic.Int64)
	dialer := net.Dialer{Control: b.Socket.control, KeepAlive: -1}
	transport := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		connections.Add(1)
		return dialer.DialContext(ctx, network, address)
	}}
	return &http.Client{Transport: transport, Timeout: patience}, connections, transport.CloseIdleConnections
}

func (b Browse) browse(seed int) (counts Counts, err error) {
	client, connections, end := b.client()
	defer end()
	begin := time.Now()
	for i := 0; time.Since(begin) < b.For; i++ {
		if i > 0 && i%b.Reuse == 0 {
			end()
		}
		asked := time.Now()
		size := 1 + (i+seed)*7919%b.Most
		n, err := fetch(client, fmt.Sprintf("http://%s/?%s=%d", b.Address, sizeOf, size))
		if err == nil && n != int64(size) {
			err = fmt.Errorf("%d of %d bytes", n, size)
		}
		if err != nil {
			return counts, err
		}
		counts.Received += n
		counts.Took = append(counts.Took, time.Since(asked))
		time.Sleep(b.Pause) // which leaves its thread to the others
	}
	counts.Connections = int(connections.Load())
	return counts, nil
}

func fetch(c *http.Client, url string) (size int64, err error) {
	r, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	return io.Copy(io.Discard, r.Body)
}
