package sched_test

import (
	"culprit/probes/hook"
	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A process receives a stream, and another one computes on its CPU: network softirqs steal from the latter, and the former has caused
// them. The acknowledgements are the sender's, and go to another CPU: so perf can tell them apart as well.
func TestSoftirqsCaused(t *testing.T) {
	mountTracing(t)
	w := newCommonWatch(t)
	n := testnet.NewVeth(t)
	at := netip.AddrPortFrom(n.Server.IPv4, 5001)
	streamTCP(n, at, at)
	load(t, "computer", lastCPU, 0, "spin")
	time.Sleep(500 * time.Millisecond)
	events := filepath.Join(t.TempDir(), "events")
	// Its buffers hold all of it: it gets no CPU now and then, and would lose events.
	perf := background(t, "perf", "record", "-q", "-a", "-m", "16384", "-k", "CLOCK_MONOTONIC", "-e", "irq:softirq_entry,irq:softirq_exit", "-o", events)
	time.Sleep(time.Second)
	w.read()
	w.sleep(2 * time.Second)
	s := w.read()
	time.Sleep(200 * time.Millisecond)
	perf.Process.Signal(os.Interrupt)
	perf.Wait()
	computer := row(t, s, "computer")
	if computer.SoftirqStolen < 10*uint64(time.Millisecond) || computer.SoftirqCaused != 0 {
		t.Errorf("%v were stolen from who computes, and it caused %v", time.Duration(computer.SoftirqStolen), time.Duration(computer.SoftirqCaused))
	}
	clock, err := hook.MonotonicClock()
	if err != nil {
		t.Fatal(err)
	}
	script := livetest.Command(t, "perf", "script", "--ns", "--show-lost-events", "-F", "cpu,time,event,trace", "-i", events)
	if strings.Contains(script, "PERF_RECORD_LOST") {
		t.Error("perf has lost events")
	}
	for comm, cpu := range map[string]int{"receiver": lastCPU, "sender": 0} {
		ours, theirs := row(t, s, comm).SoftirqCaused, receptions(script, cpu, clock, s.Start, s.End)
		share := float64(ours) / float64(theirs)
		t.Logf("%s caused %v, of %v of NET_RX softirqs on its CPU by perf: %.1f %%", comm, time.Duration(ours), theirs, 100*share)
		if share < 0.9 || share > 1.1 {
			t.Errorf("%s caused %.1f %% of the NET_RX softirqs of its packets", comm, 100*share)
		}
	}
}

// receptions is the time of a CPU's NET_RX softirqs in a span, as perf script prints them.
func receptions(script string, cpu int, clock hook.Clock, start, end time.Time) (sum time.Duration) {
	var since time.Time
	for line := range strings.Lines(script) {
		var on int
		var s, ns int64
		var event string
		if n, _ := fmt.Sscanf(line, "[%d] %d.%d: irq:%s", &on, &s, &ns, &event); n != 4 || on != cpu || !strings.Contains(line, "[action=NET_RX]") {
			continue
		}
		at := clock.Wall(uint64(s*1e9 + ns))
		if event == "softirq_entry:" {
			since = at
		} else if !since.IsZero() && since.After(start) && at.Before(end) {
			sum += at.Sub(since)
		}
	}
	return sum
}

// The receptions of packets are their sockets' owners', whoever these are and however they came to their sockets.
func TestSoftirqOwners(t *testing.T) {
	in := func(address netip.Addr) netip.AddrPort { return netip.AddrPortFrom(address, 5001) }
	for _, c := range []struct {
		name  string
		older bool // than the probe
		run   func(t *testing.T, n *testnet.Network)
		whose []string
		rest  float64 // at most, charged to nobody
		long  bool    // not where time is short: it is the same on every kernel
	}{
		{"IPv4", false, func(_ *testing.T, n *testnet.Network) { streamTCP(n, in(n.Server.IPv4), in(n.Server.IPv4)) }, []string{"receiver", "sender"}, 0.02, true},
		{"IPv6", false, func(_ *testing.T, n *testnet.Network) { streamTCP(n, in(n.Server.IPv6), in(n.Server.IPv6)) }, []string{"receiver", "sender"}, 0.02, true},
		{"mapped", false, func(_ *testing.T, n *testnet.Network) { streamTCP(n, in(netip.IPv6Unspecified()), in(n.Server.IPv4)) }, []string{"receiver", "sender"}, 0.02, true},
		{"older", true, func(_ *testing.T, n *testnet.Network) { streamTCP(n, in(n.Server.IPv4), in(n.Server.IPv4)) }, []string{"receiver", "sender"}, 0.02, false},
		{"accepted by another", false, func(_ *testing.T, n *testnet.Network) {
			at := in(n.Server.IPv4)
			n.Server.Run("parent", testnet.Prefork{Answer: testnet.Answer{End: testnet.End{Address: at, Listen: true}, Requests: []int{100}, Reply: 100}, Worker: "worker"})
			n.Client.Run("asker", testnet.Exchange{End: testnet.End{Address: at}, Count: 1 << 30, Writes: []int{100}, Reply: 100})
		}, []string{"worker", "asker"}, 0.02, false},
		// When the probe comes up, the connection waits for another one's end.
		{"older, accepted later by another", true, func(t *testing.T, n *testnet.Network) {
			at := in(n.Server.IPv4)
			answer := testnet.Answer{End: testnet.End{Address: at, Listen: true}, Connections: 2, Requests: []int{100}, Reply: 100}
			n.Server.Run("parent", testnet.Prefork{Answer: answer, Worker: "worker"})
			first, err := n.Client.Dial(at, testnet.Socket{})
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Second, func() { first.Close() })
			n.Client.Run("asker", testnet.Exchange{End: testnet.End{Address: at}, Count: 1 << 30, Writes: []int{100}, Reply: 100})
		}, []string{"worker", "asker"}, 0.02, false},
		// The first of two who listen on one port, at different addresses, has its connections, from which it does not read.
		{"two listeners", false, func(t *testing.T, n *testnet.Network) {
			end := testnet.End{Address: in(n.Server.IPv4)}
			client, server := end, end
			server.Listen = true
			n.Server.Run("sender", testnet.Send{End: server, Bytes: 1 << 50})
			second, err := n.Server.Listen(in(n.Server.IPv6), testnet.Socket{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { second.Close() })
			n.Client.Run("receiver", testnet.Receive{End: client})
		}, []string{"sender", "receiver"}, 0.02, false},
		// What comes before a connection is established is the listener's, and after it has ended nobody's.
		{"short connections", false, func(_ *testing.T, n *testnet.Network) {
			end := testnet.End{Address: in(n.Server.IPv4)}
			client := testnet.Short{End: end, Count: 1 << 30, Most: 1000}
			server := client
			server.Listen = true
			n.Server.Run("server", server)
			n.Client.Run("client", client)
		}, []string{"server", "client"}, 0.1, false},
		{"UDP", false, streamUDP, []string{"stream"}, 0.02, false},
		{"older UDP", true, streamUDP, []string{"stream"}, 0.02, true},
	} {
		if c.long && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			n := testnet.NewVeth(t)
			var w *watch
			if c.older {
				c.run(t, n)
				w = newWatch(t, owner.Options{}, sched.Options{})
			} else {
				w = newCommonWatch(t)
				c.run(t, n)
			}
			w.sleep(1200 * time.Millisecond) // sockets of UDP are found within a second
			w.read()
			w.sleep(seconds(2))
			s := w.read()
			var all, nobodys, ours uint64
			for _, r := range s.Group(snapshot.ByComm).Rows {
				switch {
				case r.App == snapshot.Softirqs:
					continue
				case r.Unattributed():
					nobodys += r.SoftirqCaused
				case slices.Contains(c.whose, r.Comm):
					ours += r.SoftirqCaused
					t.Logf("%s caused %v", r.Comm, time.Duration(r.SoftirqCaused))
					if r.SoftirqCaused < uint64(10*time.Millisecond) {
						t.Errorf("%s caused %v", r.Comm, time.Duration(r.SoftirqCaused))
					}
				}
				all += r.SoftirqCaused
			}
			t.Logf("of %v, %v are charged to nobody, %v to others than these", time.Duration(all), time.Duration(nobodys), time.Duration(all-nobodys-ours))
			if float64(nobodys) > c.rest*float64(all) || float64(all-nobodys-ours) > 0.1*float64(all) {
				t.Errorf("of %v, %v are charged to nobody, and %v to %v", time.Duration(all), time.Duration(nobodys), time.Duration(ours), c.whose)
			}
		})
	}
}

// streamTCP has a process send to another one, each on its CPU, which receives its packets, too, until the test ends.
func streamTCP(n *testnet.Network, listen, to netip.AddrPort) {
	n.Client.SteerPackets("veth0", 0)
	n.Server.SteerPackets("veth1", lastCPU)
	n.Server.Run("receiver", testnet.Receive{End: testnet.End{Address: listen, Listen: true, CPUs: []int{lastCPU}}})
	n.Client.Run("sender", testnet.Send{End: testnet.End{Address: to, CPUs: []int{0}}, Bytes: 1 << 50})
}

// streamUDP is the same of datagrams, from one process called stream to another.
func streamUDP(t *testing.T, n *testnet.Network) {
	t.Helper()
	path := livetest.Compile(t, "stream", stream)
	for _, end := range []struct {
		at   *testnet.Namespace
		args []string
	}{{n.Server, []string{path, "receive", "5001"}}, {n.Client, []string{path, "send", n.Server.IPv4.String(), "5001"}}} {
		if err := end.at.Do(func() error { background(t, end.args...); return nil }); err != nil {
			t.Fatal(err)
		}
	}
}
