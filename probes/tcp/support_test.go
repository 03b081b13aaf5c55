package tcp_test

import (
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// watch is a running tcp probe.
type watch struct {
	t     testing.TB
	table *owner.Table
	probe *tcp.Probe
	took  time.Duration // to load the probe
}

var common *livetest.Shared[*tcp.Probe]

// newWatch may be of the probe that tests share where they do, with a reading just before.
func newWatch(t testing.TB, o tcp.Options) *watch {
	t.Helper()
	if rest := o; testing.Short() {
		rest.Connections, rest.Worst = false, false // which only add to what is read
		if reflect.ValueOf(rest).IsZero() {
			s := livetest.LoadShared(t, &common, tcp.Load, tcp.Options{Connections: true, Worst: true})
			return (&watch{table: s.Table, probe: s.Probe}).anew(t)
		}
	}
	return newYoungWatch(t, o)
}

// newYoungWatch is one whose probe is younger than all that the test has made before.
func newYoungWatch(t testing.TB, o tcp.Options) *watch {
	t.Helper()
	return newWatchOf(t, owner.Options{}, o)
}

func newWatchOf(t testing.TB, owners owner.Options, o tcp.Options) *watch {
	t.Helper()
	return newWatchWith(t, livetest.Table(t, owners), o)
}

func newWatchWith(t testing.TB, table *owner.Table, o tcp.Options) *watch {
	t.Helper()
	begin := time.Now()
	probe := livetest.Probe(t, table, tcp.Load, o)
	return &watch{t, table, probe, time.Since(begin)}
}

// anew is the same probe for another test, which begins now: to load one takes seconds in an emulated machine.
func (w *watch) anew(t testing.TB) *watch {
	t.Helper()
	other := *w
	other.t = t
	other.read()
	return &other
}

// while lets processes do their work, until what they sent last is acknowledged, and keeps the process table in order as culprit does.
func (w *watch) while(processes ...*testnet.Process) []testnet.Counts {
	w.t.Helper()
	done := make(chan struct{})
	counts := make([]testnet.Counts, len(processes))
	go func() {
		defer close(done)
		for i, p := range processes {
			counts[i] = p.Wait()
		}
		time.Sleep(2 * roundTrip)
	}()
	for {
		select {
		case <-done:
			return counts
		case <-time.After(500 * time.Millisecond):
			if err := w.table.CollectAll(); err != nil {
				w.t.Error(err)
			}
		}
	}
}

// isOthers is whether a loss may be of other processes' connections: some kernels hide what happens in one of them.
func isOthers(l snapshot.Loss) bool { return l.Name == "unseen_states" }

func (w *watch) read() snapshot.TCP {
	w.t.Helper()
	s, err := w.probe.Read()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range s.Kernel {
		if c.Ours+c.Kernel > 0 {
			w.t.Logf("%s: %d, by the kernel's count %d, skew %d", c.Name, c.Ours, c.Kernel, c.Skew)
		}
	}
	livetest.LogLosses(w.t, s.Loss)
	return s
}

// ours leaves out what processes of others do on the machine, which may be called as those that the test started.
func ours(s snapshot.TCP) snapshot.TCP {
	return s.Filter(func(p snapshot.Process) bool { return p.PPID == os.Getpid() })
}

// row is that of the processes called comm.
func row(t testing.TB, s snapshot.TCP, comm string) snapshot.TCPRow {
	t.Helper()
	return livetest.Row(t, s.Group(snapshot.ByComm).Rows, comm, func(r snapshot.TCPRow) bool { return r.Comm == comm })
}

// log prints a row of processes of one comm.
func log(t testing.TB, r snapshot.TCPRow) {
	t.Helper()
	t.Logf("%s: sent %d, received %d, segments %d and %d, again %d (%d failed), opened %d, accepted %d, failed %d+%d+%d, closed %d, open %d; rtt %d of %v at p50",
		r.Name(snapshot.ByComm), r.Sent, r.Received, r.SegmentsOut, r.SegmentsIn, r.Retransmits, r.RetransmitsFailed, r.Opened, r.Accepted,
		r.Refused, r.TimedOut, r.Aborted, r.Closed, r.Open, r.RTT.Count(), time.Duration(r.RTT.Quantile(.5)))
	for _, s := range r.Stalls {
		t.Logf("    %-20s %5d %12v, at most %v", s.Cause, s.Count, time.Duration(s.Total), time.Duration(s.Max))
	}
}

// inhabit has a process in each namespace until the test ends: through it, the counters of those can be read to the last.
func inhabit(n *testnet.Network) {
	for _, end := range []*testnet.Namespace{n.Client, n.Server} {
		end.Run("inhabitant", testnet.Spin{For: time.Hour, Burst: time.Microsecond, Pause: time.Hour})
	}
}

// at is a port of one end, by IPv4.
func at(n *testnet.Namespace, port uint16) netip.AddrPort { return netip.AddrPortFrom(n.IPv4, port) }

// stalls are a row's of one cause.
func stalls(r snapshot.TCPRow, cause snapshot.Cause) snapshot.TCPStalls {
	for _, s := range r.Stalls {
		if s.Cause == cause {
			return s
		}
	}
	return snapshot.TCPStalls{Cause: cause}
}
