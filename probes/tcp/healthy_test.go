package tcp_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// healthy is traffic that does not stall.
type healthy struct {
	name           string
	network        func(testing.TB) *testnet.Network
	loopback       bool // both are at the client's
	socket         testnet.Socket
	client, server func(testnet.End) testnet.Load
	also           []snapshot.Cause // that are true
	beside         testnet.Load     // at the server
	idle           bool             // nobody waits for a CPU while there is something to read
}

// much is so many, a quarter of it on emulated kernels, or, by CULPRIT_TEST_TIMES, more.
func much(n int) int {
	n = livetest.Less(n)
	if times, err := strconv.Atoi(os.Getenv("CULPRIT_TEST_TIMES")); err == nil {
		n *= times
	}
	return n
}

func (h healthy) run(t *testing.T) {
	probe := newWatch(t, tcp.Options{Worst: true})
	livetest.Steadily(t, func(t testing.TB) { h.try(t, probe) })
}

func (h healthy) try(t testing.TB, probe *watch) {
	n := h.network(t)
	inhabit(n)
	w := probe.anew(t)
	client := testnet.End{Address: at(n.Server, 7003), Socket: h.socket}
	to := n.Server
	if h.loopback {
		to, client.Address = n.Client, netip.MustParseAddrPort("127.0.0.1:7003")
	}
	server := client
	server.Listen = true
	if h.beside != nil {
		to.Run("beside", h.beside)
	}
	serves := to.Run("server", h.server(server))
	asks := n.Client.Run("client", h.client(client))
	counts := w.while(asks, serves)
	s := w.read()
	pids := map[int]bool{}
	for i, process := range []*testnet.Process{asks, serves} {
		pids[process.PID] = true
		logProbes(t, []*testnet.Namespace{n.Client, to}[i])
		r := rowOf(t, s, process)
		log(t, r)
		t.Logf("    waited %v for a CPU", counts[i].RunDelay)
		for _, found := range r.Stalls {
			if !h.idle && waitedForCPU(found, counts[i]) {
				continue
			}
			// So does everybody while the machine's host runs another, which nothing here tells of.
			once := found.Count <= 2 && time.Duration(found.Max) < 20*ms
			if !slices.Contains(h.also, found.Cause) && !once {
				t.Errorf("%s: %d of %s", r.Comm, found.Count, found.Cause)
			}
		}
	}
	for _, l := range s.Worst {
		if pids[l.PID] {
			t.Logf("%s: %s %v until %v, %d bytes", l.Comm, l.Cause, time.Duration(l.Duration), l.At.Sub(s.Start), l.Waiting)
		}
	}
}

// logProbes tells what the kernel counts that stalls are held against.
func logProbes(t testing.TB, n *testnet.Namespace) {
	t.Helper()
	snmp := n.SNMP()
	t.Logf("%d loss probes, of which %d recovered something; %d segments sent again for nothing",
		snmp["TcpExt.TCPLossProbes"], snmp["TcpExt.TCPLossProbeRecovery"], snmp["TcpExt.TCPDSACKRecv"])
}

// waitedForCPU is whether stalls can be what they are called: on a busy machine, readers do wait for a CPU. What is told of is
// waiting for more than half of the time.
func waitedForCPU(s snapshot.TCPStalls, c testnet.Counts) bool {
	return s.Cause == snapshot.ReaderNotScheduled && time.Duration(s.Total) < 2*c.RunDelay
}

// rowOf is that of one process.
func rowOf(t testing.TB, s snapshot.TCP, p *testnet.Process) snapshot.TCPRow {
	t.Helper()
	return livetest.Row(t, s.Group(snapshot.ByPID).Rows, fmt.Sprint("process ", p.PID), func(r snapshot.TCPRow) bool { return r.PID == p.PID })
}

func exchange(count func() int, x testnet.Exchange) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		x.End, x.Count = e, count()
		return x
	}
}

func times(n int) func() int { return func() int { return much(n) } }

func replying(a testnet.Answer) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		a.End = e
		return a
	}
}

func browse(b testnet.Browse) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		b.End, b.For = e, time.Duration(much(4))*time.Second
		return b
	}
}

// lateReader is what a sender at line rate truly has where its reader has to wait for a CPU, with the socket's lock or without: each such
// stall ends some microseconds after one of the reader's.
var lateReader = []snapshot.Cause{
	snapshot.ZeroWindow, snapshot.ReceiveWindow, snapshot.Pacing, snapshot.CwndLimited, snapshot.NagleDelayedACK, snapshot.SendBuffer,
	snapshot.DelayedACK, snapshot.ReaderNotReading,
}

var healthyTraffic = []healthy{
	{
		name: "bulk", network: testnet2, also: lateReader,
		client: func(e testnet.End) testnet.Load { return testnet.Send{End: e, Bytes: int64(much(2 << 30))} },
		server: receive(nil),
	},
	{
		name: "bulk, cubic", network: testnet2, also: lateReader, socket: testnet.Socket{Congestion: "cubic"},
		client: func(e testnet.End) testnet.Load { return testnet.Send{End: e, Bytes: int64(much(2 << 30))} },
		server: receive(nil),
	},
	{
		name: "bulk on loopback", network: testnet2, also: lateReader, loopback: true,
		client: func(e testnet.End) testnet.Load { return testnet.Send{End: e, Bytes: int64(much(2 << 30))} },
		server: receive(nil),
	},
	{
		name: "short connections", network: testnet2,
		client: func(e testnet.End) testnet.Load {
			return testnet.Short{End: e, Count: much(10_000), Seed: 11, Most: 2000}
		},
		server: func(e testnet.End) testnet.Load {
			return testnet.Short{End: e, Count: much(10_000), Seed: 11, Most: 2000}
		},
	},
	{
		name: "keep-alive", network: testnet2,
		client: exchange(times(4), testnet.Exchange{Writes: []int{1000}, Reply: 20_000, Pause: time.Second}),
		server: replying(testnet.Answer{Requests: []int{1000}, Reply: 20_000}),
	},
	{
		name: "keep-alive, cubic", network: testnet2, socket: testnet.Socket{Congestion: "cubic"},
		client: exchange(times(4), testnet.Exchange{Writes: []int{1000}, Reply: 20_000, Pause: time.Second}),
		server: replying(testnet.Answer{Requests: []int{1000}, Reply: 20_000}),
	},
	{
		name: "keep-alive far away, cubic", network: plain, socket: testnet.Socket{Congestion: "cubic"},
		client: exchange(times(4), testnet.Exchange{Writes: []int{1000}, Reply: 10_000, Pause: time.Second}),
		server: replying(testnet.Answer{Requests: []int{1000}, Reply: 10_000}),
	},
	{
		name: "a server that sleeps", network: testnet2, socket: testnet.Socket{NoDelay: true},
		client: exchange(times(60), testnet.Exchange{Writes: []int{100}, Reply: 100}),
		server: replying(testnet.Answer{Requests: []int{100}, Reply: 100, Sleep: 44 * ms}),
	},
	{
		name: "a server that sleeps, Nagle", network: testnet2,
		client: exchange(times(60), testnet.Exchange{Writes: []int{100}, Reply: 100}),
		server: replying(testnet.Answer{Requests: []int{100}, Reply: 100, Sleep: 44 * ms}),
	},
	{
		name: "requests and replies", network: testnet2,
		client: exchange(times(50_000), testnet.Exchange{Writes: []int{64}, Reply: 64}),
		server: replying(testnet.Answer{Requests: []int{64}, Reply: 64}),
	},
	{
		name: "requests and replies on loopback", network: testnet2, loopback: true,
		client: exchange(times(50_000), testnet.Exchange{Writes: []int{64}, Reply: 64}),
		server: replying(testnet.Answer{Requests: []int{64}, Reply: 64}),
	},
	{
		name: "HTTP", network: testnet2,
		client: browse(testnet.Browse{Clients: 8, Most: 20_000, Reuse: 50, Pause: 10 * ms}),
		server: func(e testnet.End) testnet.Load { return testnet.Serve{End: e} },
	},
}

// Traffic that nothing holds up has no stalls.
func TestHealthyTraffic(t *testing.T) {
	for _, h := range healthyTraffic {
		t.Run(h.name, h.run)
	}
}

// remedied is what provokes a cause, with its remedy.
var remedied = []cause{
	{cause: snapshot.RTO, network: plain, client: ask(20, nil), server: answer(100, 0)},
	{cause: snapshot.TailLossProbe, network: plain, client: ask(20, nil), server: answer(100, 0)},
	{
		cause: snapshot.FastRetransmit, also: []snapshot.Cause{snapshot.CwndLimited, snapshot.ReceiveWindow},
		network: plain, client: send(1<<20, nil), server: receive(nil),
	},
	{ // it reads at once
		cause: snapshot.ZeroWindow, also: []snapshot.Cause{snapshot.CwndLimited, snapshot.ReceiveWindow},
		network: plain, client: send(500_000, nil), server: receive(func(r *testnet.Receive) { r.Socket.RcvBuf = 16 << 10 }),
	},
	{
		cause: snapshot.ReceiveWindow, also: []snapshot.Cause{snapshot.CwndLimited},
		network: plain, client: send(200_000, nil), server: receive(func(r *testnet.Receive) { r.Socket.RcvBuf = 4 << 20 }),
	},
	{
		cause: snapshot.Pacing, also: []snapshot.Cause{snapshot.CwndLimited, snapshot.SendBuffer},
		network: plain, client: send(100_000, func(s *testnet.Send) { s.Socket.SndBuf = 16 << 10 }), server: receive(nil),
	},
	{
		cause: snapshot.SlowStartRestart, also: []snapshot.Cause{snapshot.CwndLimited, snapshot.ReceiveWindow, snapshot.SendBuffer},
		network: func(t testing.TB) *testnet.Network {
			n := plain(t)
			n.Client.Sysctl("net.ipv4.tcp_slow_start_after_idle", 0)
			return n
		},
		client: func(e testnet.End) testnet.Load {
			e.Socket.NoDelay = true // it writes twice
			return testnet.Idle{End: e, Rounds: 2, Warm: 1 << 20, Burst: 200_000, Pause: 2 * time.Second}
		},
		server: func(e testnet.End) testnet.Load {
			return testnet.Answer{End: e, Requests: []int{1 << 20, 200_000}, Reply: 1}
		},
	},
	{ // at once
		cause: snapshot.CwndLimited, network: testnet2, client: send(400_000, nil), server: receive(nil),
	},
	{
		cause: snapshot.NagleDelayedACK, network: testnet2, server: answer(200, 0),
		client: ask(60, func(x *testnet.Exchange) { x.Writes, x.Socket.NoDelay = []int{100, 100}, true }),
	},
	{
		cause: snapshot.NagleDelayedACK, network: testnet2, server: answer(200, 0),
		client: ask(60, func(x *testnet.Exchange) { x.Writes = []int{200} }),
	},
	{
		cause: snapshot.SendBuffer, also: []snapshot.Cause{snapshot.CwndLimited, snapshot.ReceiveWindow},
		network: plain, client: send(500_000, nil), server: receive(nil),
	},
	{
		cause: snapshot.ReaderNotReading, network: testnet2, server: receive(nil),
		client: send(100_000, func(s *testnet.Send) { s.Chunk, s.Pause, s.Socket.NoDelay = 1000, 5*ms, true }),
	},
	{
		cause: snapshot.ReaderNotScheduled, network: testnet2,
		client: ask(50, func(x *testnet.Exchange) { x.CPUs, x.Pause = []int{0}, 7*ms }),
		server: func(e testnet.End) testnet.Load {
			e.CPUs = []int{1}
			return testnet.Answer{End: e, Requests: []int{100}, Reply: 100}
		},
	},
}

// With its remedy, a cause is not found, nor another.
func TestRemedies(t *testing.T) {
	runAll(t, remedied, false)
}

// every24th is how long a film shows a picture: one of those periods that are not far from that of acknowledgements.
const every24th = time.Second / 24

// misleading is traffic that looks as if it stalled for a reason that it does not.
var misleading = []healthy{
	{
		// The next picture comes just after an acknowledgement that was put off, and would have come without it.
		name: "pictures at a steady rate", network: testnet2, socket: testnet.Socket{NoDelay: true},
		client: func(e testnet.End) testnet.Load {
			return testnet.Talk{End: e, Writes: much(24), Size: 20, Every: 130 * ms}
		},
		server: func(e testnet.End) testnet.Load {
			return testnet.Talk{End: e, Writes: 3 * much(24), Size: 600, Every: every24th}
		},
	},
	{
		// What nobody reads is not acknowledged at once: so the last segment is sent again, for nothing.
		name: "a reader that is late", network: testnet2, also: []snapshot.Cause{snapshot.ReaderNotReading},
		client: exchange(times(40), testnet.Exchange{Writes: []int{100}, Late: 25 * ms, Reply: 15_000}),
		server: replying(testnet.Answer{Requests: []int{100}, Reply: 15_000}),
	},
	{
		// It waits for its CPU beside another, but not when there is something to read: then it sleeps.
		name: "a reader that has waited before", network: testnet2, also: []snapshot.Cause{snapshot.ReaderNotReading}, idle: true,
		client: func(e testnet.End) testnet.Load {
			e.CPUs = []int{1}
			return testnet.Exchange{End: e, Count: much(12), Writes: []int{100}, Work: 200 * ms, Late: 100 * ms, Reply: 100}
		},
		server: replying(testnet.Answer{Requests: []int{100}, Reply: 100, Sleep: 230 * ms}),
		beside: testnet.Spin{End: testnet.End{CPUs: []int{1}}, For: time.Hour},
	},
	{
		// The last segments, the connection's end among them, are as late acknowledged, and the connection goes on for long.
		name: "a reader that is late, at the end", network: testnet2, also: []snapshot.Cause{snapshot.ReaderNotReading},
		client: send(40_000, func(s *testnet.Send) { s.Chunk, s.Socket.NoDelay = 1000, true }),
		server: receive(func(r *testnet.Receive) { r.Wait, r.Pause = 100*ms, 200*ms }),
	},
	{
		// What says that a loss probe was needless comes more than a round trip after the acknowledgement that was late.
		name: "acknowledgements that are late",
		network: func(t testing.TB) *testnet.Network {
			var before testnet.Segment
			writes := 0
			return slow(t, func(s testnet.Segment) testnet.Verdict {
				if s.From != testnet.FromServer || !s.Bare() {
					return testnet.Pass
				}
				again := s.Ack == before.Ack
				if s.Time.Sub(before.Time) > 150*ms {
					writes++
				}
				before = s
				switch {
				case again:
					return testnet.Delay(120 * ms)
				case writes%3 == 0:
					return testnet.Delay(80 * ms)
				}
				return testnet.Pass
			})
		},
		client: send(12*2*1448, func(s *testnet.Send) { s.Chunk, s.Pause, s.Socket.NoDelay = 2*1448, 300*ms, true }),
		server: receive(nil),
	},
	{
		// What acknowledges the connection's end crosses the loss probe; what says that the probe was needless comes after it.
		name: "acknowledgements that are late, at the end", also: []snapshot.Cause{snapshot.ReaderNotReading},
		network: func(t testing.TB) *testnet.Network {
			return slow(t, func(s testnet.Segment) testnet.Verdict {
				if s.From == testnet.FromServer && s.Bare() {
					return testnet.Delay(80 * ms)
				}
				return testnet.Pass
			})
		},
		client: send(2*1448, nil),
		server: receive(func(r *testnet.Receive) { r.Pause = 500 * ms }),
	},
	{
		// It loses something after the client has sent its end, and ends much later.
		name: "a half-closed connection",
		network: func(t testing.TB) *testnet.Network {
			return slow(t, testnet.DropOnce(testnet.FromServer, 4))
		},
		client: func(e testnet.End) testnet.Load { return testnet.Talk{End: e, Writes: 1, Size: 20, Every: ms} },
		server: func(e testnet.End) testnet.Load { return testnet.Talk{End: e, Writes: 10, Size: 600, Every: 100 * ms} },
	},
	{
		// It takes all CPUs. A thread of Go's that reads is mostly another than that which waited for a CPU, or has
		// other goroutines to run first.
		name: "HTTP at its limit", network: testnet2, also: []snapshot.Cause{snapshot.ReaderNotReading},
		client: browse(testnet.Browse{Clients: 8, Most: 100_000, Reuse: 50}),
		server: func(e testnet.End) testnet.Load { return testnet.Serve{End: e} },
	},
}

// What is misleading does not mislead.
func TestMisleadingTraffic(t *testing.T) {
	for _, h := range misleading {
		t.Run(h.name, h.run)
	}
}
