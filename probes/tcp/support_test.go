package tcp_test

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/rlimit"

	"culprit/probes/hook"
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

func newWatch(t testing.TB, o tcp.Options) *watch {
	t.Helper()
	return newWatchOf(t, owner.Options{}, o)
}

func newWatchOf(t testing.TB, owners owner.Options, o tcp.Options) *watch {
	t.Helper()
	livetest.NeedRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	table, err := owner.Load(owners)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	begin := time.Now()
	probe, err := tcp.Load(table, o)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	t.Cleanup(func() {
		if err := probe.Close(); err != nil {
			t.Error(err)
		}
	})
	return &watch{t, table, probe, took}
}

// while lets processes do their work, and keeps the process table in order as culprit does.
func (w *watch) while(processes ...*testnet.Process) []testnet.Counts {
	w.t.Helper()
	done := make(chan struct{})
	counts := make([]testnet.Counts, len(processes))
	go func() {
		defer close(done)
		for i, p := range processes {
			counts[i] = p.Wait()
		}
	}()
	for {
		select {
		case <-done:
			return counts
		case <-time.After(500 * time.Millisecond):
			if err := w.table.Collect(); err != nil {
				w.t.Error(err)
			}
		}
	}
}

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
	for _, l := range s.Loss {
		if l.Name == "events_missed" && l.Count > 0 && programsArePreempted(w.t) {
			w.t.Skipf("this kernel preempts programs, and %d events were missed", l.Count)
		}
		if l.Count > 0 {
			w.t.Logf("%s=%d", l.Name, l.Count)
		}
	}
	return s
}

// programsArePreempted is whether threads can pass a tracepoint unseen, since 7.0 (bpf/lib/compat.bpf.h).
func programsArePreempted(t testing.TB) bool {
	t.Helper()
	kernel, err := hook.Types()
	if err != nil {
		t.Fatal(err)
	}
	_, err = kernel.AnyTypeByName("class_srcu_fast_notrace_t")
	return err == nil
}

// ours leaves out what processes of others do on the machine, which may be called as those that the test started.
func ours(s snapshot.TCP) snapshot.TCP {
	return s.Filter(func(p snapshot.Process) bool { return p.PPID == os.Getpid() })
}

// row is that of the processes called comm.
func row(t testing.TB, s snapshot.TCP, comm string) snapshot.TCPRow {
	t.Helper()
	for _, r := range s.Group(snapshot.ByComm).Rows {
		if r.Comm == comm {
			return r
		}
	}
	t.Fatalf("no row of %s", comm)
	return snapshot.TCPRow{}
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
