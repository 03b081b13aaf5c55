package tcp_test

import (
	"slices"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

const roundTrip = 20 * time.Millisecond

// slow is a network with that round-trip time.
func slow(t testing.TB, rules ...testnet.Rule) *testnet.Network {
	return &testnet.NewRelay(t, testnet.Delays{ToServer: roundTrip / 2, ToClient: roundTrip / 2}, rules...).Network
}

func plain(t testing.TB) *testnet.Network { return slow(t) }

// dropEach drops each so many-th data segment of the client so many times.
func dropEach(number, times int) testnet.Rule {
	dropped := map[int]int{}
	return func(s testnet.Segment) testnet.Verdict {
		if s.From == testnet.FromClient && s.Payload > 0 && s.Number%number == 0 && dropped[s.Number] < times {
			dropped[s.Number]++
			return testnet.Drop
		}
		return testnet.Pass
	}
}

// cause is what provokes one.
type cause struct {
	cause          snapshot.Cause
	network        func(testing.TB) *testnet.Network
	client, server func(testnet.End) testnet.Load
	of             string           // "client" or "server": whose stalls they are
	also           []snapshot.Cause // that come with it, at either end
	least, most    uint64           // how often, each for so long:
	each           [2]time.Duration
	beside         testnet.Load // on the server's CPU
}

// runAll runs them one after the other with one probe.
func runAll(t *testing.T, causes []cause, provoked bool) {
	probe := newWatch(t, tcp.Options{Worst: true})
	for _, c := range causes {
		t.Run(string(c.cause), func(t *testing.T) {
			livetest.Steadily(t, func(t testing.TB) { c.run(t, probe, provoked) })
		})
	}
}

func (c cause) run(t testing.TB, probe *watch, provoked bool) {
	n := c.network(t)
	inhabit(n)
	w := probe.anew(t)
	client := testnet.End{Address: at(n.Server, 7002), Socket: testnet.Socket{Congestion: "cubic"}}
	server := client
	server.Listen = true
	if c.beside != nil {
		n.Server.Run("beside", c.beside)
	}
	serves := n.Server.Run("server", c.server(server))
	asks := n.Client.Run("client", c.client(client))
	ends := map[string]*testnet.Process{"client": asks, "server": serves}
	counts := w.while(asks, serves)
	s := w.read()
	for i, comm := range []string{"client", "server"} {
		r := rowOf(t, s, ends[comm])
		log(t, r)
		for _, found := range r.Stalls {
			// Processes of a busy or emulated machine do wait for a CPU, and are late to begin.
			late := found.Cause == snapshot.ReaderNotScheduled || found.Cause == snapshot.ReaderNotReading
			if testing.Short() && found.Count <= 2 && found.Cause != c.cause && slices.Contains(lateReader, found.Cause) {
				continue
			}
			if late && (testing.Short() || found.Count <= 2 || waitedForCPU(found, counts[i])) && (found.Cause != c.cause || comm != c.of) {
				continue
			}
			if (!provoked || found.Cause != c.cause || comm != c.of) && !slices.Contains(c.also, found.Cause) {
				t.Errorf("%s: %d of %s", comm, found.Count, found.Cause)
				for _, l := range s.Worst {
					if l.PID == ends[comm].PID && l.Cause == found.Cause {
						t.Logf("%v until %v", time.Duration(l.Duration), l.At.Sub(s.Start))
					}
				}
			}
		}
	}
	for _, took := range counts[0].Took {
		t.Logf("    %v", took)
	}
	if !provoked {
		return
	}
	least, most, each := c.least, max(c.least, c.most), c.each
	if testing.Short() { // where all takes longer than it should, what is due to a timer is not as clear
		least, most, each = (least+1)/2, 2*most, [2]time.Duration{each[0] / 4, 2 * each[1]}
	}
	if found := stalls(rowOf(t, s, ends[c.of]), c.cause); found.Count < least || found.Count > most {
		t.Errorf("%d are found, of %d to %d", found.Count, least, most)
	}
	late := 0
	for _, l := range s.Worst {
		if l.PID != ends[c.of].PID {
			continue
		}
		if c.cause == snapshot.Pacing {
			t.Logf("%s %v until %v", l.Cause, time.Duration(l.Duration), l.At.Sub(s.Start))
		}
		switch took := time.Duration(l.Duration); {
		case l.Cause != c.cause || took >= each[0] && took <= each[1]:
		case testing.Short() && took < each[0] && late < 2: // such a machine may be late where nobody means to be
			late++
		default:
			t.Errorf("one took %v, not %v to %v", took, each[0], each[1])
		}
	}
}

func ask(count int, change func(*testnet.Exchange)) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		x := testnet.Exchange{End: e, Count: count, Writes: []int{100}, Reply: 100}
		if change != nil {
			change(&x)
		}
		return x
	}
}

func answer(request int, sleep time.Duration) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		return testnet.Answer{End: e, Requests: []int{request}, Reply: 100, Sleep: sleep}
	}
}

func send(bytes int64, change func(*testnet.Send)) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		s := testnet.Send{End: e, Bytes: bytes}
		if change != nil {
			change(&s)
		}
		return s
	}
}

func receive(change func(*testnet.Receive)) func(testnet.End) testnet.Load {
	return func(e testnet.End) testnet.Load {
		r := testnet.Receive{End: e}
		if change != nil {
			change(&r)
		}
		return r
	}
}

const ms = time.Millisecond

var provoked = []cause{
	{
		cause: snapshot.RTO, of: "client", least: 4, each: [2]time.Duration{200 * ms, 700 * ms},
		also:    []snapshot.Cause{snapshot.TailLossProbe}, // of the server, whose reply the lost request acknowledged
		network: func(t testing.TB) *testnet.Network { return slow(t, dropEach(5, 2)) },
		client:  ask(20, nil), server: answer(100, 0),
	},
	{
		cause: snapshot.TailLossProbe, of: "client", least: 4, each: [2]time.Duration{200 * ms, 300 * ms},
		also:    []snapshot.Cause{snapshot.TailLossProbe},
		network: func(t testing.TB) *testnet.Network { return slow(t, dropEach(5, 1)) },
		client:  ask(20, nil), server: answer(100, 0),
	},
	{
		cause: snapshot.FastRetransmit, of: "client", least: 1, most: 3, each: [2]time.Duration{18 * ms, 30 * ms},
		also:    []snapshot.Cause{snapshot.CwndLimited},
		network: func(t testing.TB) *testnet.Network { return slow(t, testnet.DropOnce(testnet.FromClient, 100)) },
		client:  send(1<<20, func(s *testnet.Send) { s.Socket.NoDelay = true }), // its writes are not of whole segments
		server:  receive(func(r *testnet.Receive) { r.Socket.RcvBuf = 4 << 20 }),
	},
	{
		cause: snapshot.ZeroWindow, of: "client", least: 1, each: [2]time.Duration{400 * ms, 600 * ms},
		also:    []snapshot.Cause{snapshot.CwndLimited, snapshot.ReaderNotReading, snapshot.ReceiveWindow, snapshot.SlowStartRestart},
		network: plain,
		client:  send(500_000, nil),
		server:  receive(func(r *testnet.Receive) { r.Wait, r.Socket.RcvBuf = 600*ms, 16<<10 }),
	},
	{
		cause: snapshot.ReceiveWindow, of: "client", least: 5, most: 100, each: [2]time.Duration{10 * ms, 30 * ms},
		also:    []snapshot.Cause{snapshot.CwndLimited},
		network: plain,
		client:  send(200_000, nil),
		server:  receive(func(r *testnet.Receive) { r.Socket.RcvBuf = 8 << 10 }),
	},
	{
		cause: snapshot.Pacing, of: "client", least: 10, most: 100, each: [2]time.Duration{5 * ms, 40 * ms},
		network: plain,
		client:  send(100_000, func(s *testnet.Send) { s.Socket.PacingRate, s.Socket.SndBuf = 150_000, 16<<10 }),
		server:  receive(nil),
	},
	{
		cause: snapshot.SlowStartRestart, of: "client", least: 2, most: 20, each: [2]time.Duration{10 * ms, 30 * ms},
		also:    []snapshot.Cause{snapshot.CwndLimited, snapshot.ReceiveWindow, snapshot.NagleDelayedACK}, // it writes twice
		network: plain,
		client: func(e testnet.End) testnet.Load {
			return testnet.Idle{End: e, Rounds: 2, Warm: 1 << 20, Burst: 200_000, Pause: 2 * time.Second}
		},
		server: func(e testnet.End) testnet.Load {
			return testnet.Answer{End: e, Requests: []int{1 << 20, 200_000}, Reply: 1}
		},
	},
	{
		cause: snapshot.CwndLimited, of: "client", least: 3, most: 8, each: [2]time.Duration{15 * ms, 25 * ms},
		network: plain,
		client:  send(400_000, nil), server: receive(func(r *testnet.Receive) { r.Socket.RcvBuf = 4 << 20 }),
	},
	{
		cause: snapshot.NagleDelayedACK, of: "client", least: 57, most: 60, each: [2]time.Duration{36 * ms, 50 * ms},
		also:    []snapshot.Cause{snapshot.DelayedACK},
		network: testnet2,
		client:  ask(60, func(x *testnet.Exchange) { x.Writes = []int{100, 100} }), server: answer(200, 0),
	},
	{
		cause: snapshot.DelayedACK, of: "server", least: 57, most: 60, each: [2]time.Duration{36 * ms, 50 * ms},
		also:    []snapshot.Cause{snapshot.NagleDelayedACK}, // what has the client wait
		network: testnet2,
		client:  ask(60, func(x *testnet.Exchange) { x.Writes = []int{100, 100} }), server: answer(200, 0),
	},
	{
		cause: snapshot.SendBuffer, of: "client", least: 5, most: 200, each: [2]time.Duration{10 * ms, 30 * ms},
		also:    []snapshot.Cause{snapshot.CwndLimited},
		network: plain,
		client:  send(500_000, func(s *testnet.Send) { s.Socket.SndBuf = 16 << 10 }),
		server:  receive(func(r *testnet.Receive) { r.Socket.RcvBuf = 4 << 20 }),
	},
	{
		cause: snapshot.ReaderNotReading, of: "server", least: 9, most: 11, each: [2]time.Duration{40 * ms, 53 * ms},
		network: testnet2,
		client:  send(100_000, func(s *testnet.Send) { s.Chunk, s.Pause, s.Socket.NoDelay = 1000, 5*ms, true }),
		server:  receive(func(r *testnet.Receive) { r.Pause = 50 * ms }),
	},
	{
		cause: snapshot.ReaderNotScheduled, of: "server", least: 5, most: 100, each: [2]time.Duration{5 * ms, 35 * ms},
		network: testnet2,
		client:  ask(50, func(x *testnet.Exchange) { x.CPUs, x.Pause = []int{0}, 7*ms }),
		server: func(e testnet.End) testnet.Load {
			e.CPUs = []int{1}
			return testnet.Answer{End: e, Requests: []int{100}, Reply: 100}
		},
		beside: testnet.Spin{End: testnet.End{CPUs: []int{1}}, For: time.Minute, RealTime: true, Burst: 30 * ms, Pause: 10 * ms},
	},
}

// What is lost at a connection's end is told of for as long as it lasts, which is not until the other end is closed, too.
func TestLossAtTheEnd(t *testing.T) {
	runAll(t, []cause{{
		cause: snapshot.TailLossProbe, of: "client", least: 1, each: [2]time.Duration{200 * ms, 400 * ms},
		also: []snapshot.Cause{snapshot.ReaderNotReading},
		network: func(t testing.TB) *testnet.Network {
			return slow(t, testnet.DropNext(1, func(s testnet.Segment) bool {
				return s.From == testnet.FromClient && s.Flags&testnet.FIN != 0
			}))
		},
		client: send(2*1448, nil), server: receive(func(r *testnet.Receive) { r.Pause = 500 * ms }),
	}, {
		// The client sends its end while the server waits for an acknowledgement, long before something is lost.
		cause: snapshot.FastRetransmit, of: "server", least: 1, each: [2]time.Duration{15 * ms, 100 * ms},
		network: func(t testing.TB) *testnet.Network { return slow(t, testnet.DropOnce(testnet.FromServer, 60)) },
		client:  func(e testnet.End) testnet.Load { return testnet.Talk{End: e, Writes: 1, Size: 20, Every: 105 * ms} },
		server: func(e testnet.End) testnet.Load {
			return testnet.Talk{End: e, Writes: 5, Size: 14 * 1448, Every: 100 * ms}
		},
	}}, true)
}

func testnet2(t testing.TB) *testnet.Network { return testnet.NewVeth(t) }

// A cause is provoked, and nothing else is found.
func TestCauses(t *testing.T) {
	runAll(t, provoked, true)
}
