package tcp_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
	"culprit/probes/trace"
)

// tracing is a watch whose probe's events a trace probe reads.
type tracing struct {
	*watch
	tracer *trace.Probe
}

func newTracing(t testing.TB, o trace.Options, p tcp.Options) *tracing {
	t.Helper()
	table := livetest.Table(t, owner.Options{})
	tracer := livetest.Probe(t, table, trace.Load, o)
	p.Events.Trace = tracer
	return &tracing{newWatchWith(t, table, p), tracer}
}

// anew is the same for another test, which begins now.
func (w *tracing) anew(t testing.TB) *tracing {
	t.Helper()
	other := &tracing{w.watch.anew(t), w.tracer}
	other.forget()
	return other
}

// forget is that nothing has happened.
func (w *tracing) forget() {
	w.t.Helper()
	w.read()
	w.events()
}

// events are what happened since it was called last.
func (w *tracing) events() (all snapshot.Trace) {
	w.t.Helper()
	for range 2 { // what there is at one Read comes with the next
		one, err := w.tracer.Read()
		if err != nil {
			w.t.Fatal(err)
		}
		all.TCPStates = append(all.TCPStates, one.TCPStates...)
		all.TCPRetransmissions = append(all.TCPRetransmissions, one.TCPRetransmissions...)
		all.TCPStalls = append(all.TCPStalls, one.TCPStalls...)
		all.Loss = one.Loss
	}
	if n := livetest.Lost(all.Loss, "events_overwritten"); n > 0 {
		w.t.Errorf("%d events were overwritten", n)
	}
	return all
}

// untilSeen repeats a test while it says that events are missing: some kernels hide what happens in a process's threads, and in
// what interrupts them.
func untilSeen(t testing.TB, try func() (missing int)) {
	t.Helper()
	for range 5 {
		missing := try()
		if missing == 0 || t.Failed() {
			return
		}
		t.Logf("%d events are missing", missing)
	}
	t.Error("events are missing each time")
}

// counters are how much those of a namespace have grown.
func counters(n *testnet.Namespace) func() map[string]int64 {
	before := n.SNMP()
	return func() map[string]int64 {
		now := n.SNMP()
		for name := range now {
			now[name] -= before[name]
		}
		return now
	}
}

// What a connection goes through. TIME-WAIT is another socket's, and this one closed then (tcp_time_wait(), net/ipv4/tcp_minisocks.c).
const (
	opens       = "CLOSED>SYN-SENT SYN-SENT>ESTABLISHED "
	isAccepted  = "LISTEN>SYN-RECV SYN-RECV>ESTABLISHED "
	closesFirst = "ESTABLISHED>FIN-WAIT-1 FIN-WAIT-1>FIN-WAIT-2 FIN-WAIT-2>CLOSED"
	closesLast  = "ESTABLISHED>CLOSE-WAIT CLOSE-WAIT>LAST-ACK LAST-ACK>CLOSED"
	isReset     = "ESTABLISHED>CLOSED"
)

// history is what one end of a connection went through.
type history []snapshot.TCPStateChange

func (h history) String() string {
	var changes []string
	for _, e := range h {
		changes = append(changes, e.From+">"+e.To)
	}
	return strings.Join(changes, " ")
}

// lacks is how many changes of those that there must be are missing. There must be no others.
func (h history) lacks(t testing.TB, want string) (missing int) {
	t.Helper()
	left := h
	for change := range strings.FieldsSeq(want) {
		if len(left) > 0 && left[0].From+">"+left[0].To == change {
			left = left[1:]
		} else {
			missing++
		}
	}
	if len(left) > 0 {
		t.Errorf("a connection goes through %s, want %s: %+v", h, want, h.ends())
	}
	return missing
}

// ends are those of its last event.
func (h history) ends() snapshot.Ends { return h[len(h)-1].Ends }

// histories are those of a namespace's connections, in the order of their first events, where each begins after the one before is established.
func histories(t testing.TB, events []snapshot.TCPStateChange, namespace uint32) (all []history) {
	t.Helper()
	known := map[snapshot.Ends]int{}
	begins := false
	for _, e := range events {
		at, is := known[e.Ends]
		switch {
		case e.Namespace != int64(namespace):
			continue
		case e.From == "CLOSED" || e.From == "LISTEN": // the kernel may have no port for it yet, or not have told it the other end's
			all, begins = append(all, nil), true
			at = len(all) - 1
		case !is && begins:
			at, begins = len(all)-1, false
		case !is:
			all = append(all, nil)
			at = len(all) - 1
		}
		if e.From != "CLOSED" && e.From != "LISTEN" && e.To != "CLOSED" && !hasPorts(e.Ends) {
			t.Fatalf("%s>%s has no port: %+v", e.From, e.To, e.Ends)
		}
		known[e.Ends] = at
		all[at] = append(all[at], e)
	}
	// Of two acknowledgements of a SYN-ACK that come in at the same time, each makes a socket, of which one is thrown away
	// (inet_csk_complete_hashdance(), net/ipv4/inet_connection_sock.c).
	return slices.DeleteFunc(all, func(h history) bool { return h[len(h)-1].From == "SYN-RECV" && !hasPorts(h.ends()) })
}

// isEach is how many connections are missing. There must not be too many.
func isEach(t testing.TB, all []history, count int) (missing int) {
	t.Helper()
	if len(all) > count {
		t.Errorf("%d connections, want %d: %s; %s", len(all), count, all[0], all[1])
	}
	return max(0, count-len(all))
}

func hasPorts(e snapshot.Ends) bool {
	return netip.MustParseAddrPort(e.Local).Port() != 0 && netip.MustParseAddrPort(e.Remote).Port() != 0
}

// isOf is whether all of it is an end's, and a process's.
func (h history) isOf(t testing.TB, ends snapshot.Ends, pid int, comm string) {
	t.Helper()
	for i, e := range h {
		got := e.Ends
		if i == 0 && (e.From == "CLOSED" || e.From == "LISTEN") { // see histories
			for _, end := range []struct {
				got  *string
				want string
			}{{&got.Local, ends.Local}, {&got.Remote, ends.Remote}} {
				if a := netip.MustParseAddrPort(*end.got); a.Port() == 0 || a.Addr().IsUnspecified() {
					*end.got = end.want
				}
			}
		}
		if got != ends {
			t.Errorf("%s>%s is of %+v, want %+v", e.From, e.To, e.Ends, ends)
		}
		if e.PID != int32(pid) || e.Comm != comm || e.App == "" {
			t.Errorf("%s>%s is of %+v, want %d, %s", e.From, e.To, e.Causer, pid, comm)
		}
	}
}

// changes is how many there were in a namespace.
func changes(events []snapshot.TCPStateChange, namespace uint32, from, to string) (n int64) {
	for _, e := range events {
		if e.Namespace == int64(namespace) && e.From == from && e.To == to {
			n++
		}
	}
	return n
}

// agree holds events against the kernel's own counters.
func agree(t testing.TB, events []snapshot.TCPStateChange, n *testnet.Namespace, kernel map[string]int64) {
	t.Helper()
	of := inode(t, n)
	opened, failed := changes(events, of, "SYN-SENT", "ESTABLISHED"), changes(events, of, "SYN-SENT", "CLOSED")
	for _, c := range []struct {
		name string
		ours int64
	}{
		{"Tcp.ActiveOpens", changes(events, of, "CLOSED", "SYN-SENT")},
		{"Tcp.ActiveOpens", opened + failed},
		{"Tcp.AttemptFails", failed},
		{"Tcp.PassiveOpens", changes(events, of, "SYN-RECV", "ESTABLISHED")},
		{"Tcp.EstabResets", changes(events, of, "ESTABLISHED", "CLOSED") + changes(events, of, "CLOSE-WAIT", "CLOSED")},
	} {
		if c.ours != kernel[c.name] {
			t.Errorf("%s: %d, by the kernel's count %d", c.name, c.ours, kernel[c.name])
		}
	}
}

// Both ends of a connection go through all its states, whoever closes it, and however.
func TestEventsOfStates(t *testing.T) {
	const count = 31
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, server, client netip.Addr) {
		w := newTracing(t, trace.Options{Kinds: []string{"tcp.state"}}, tcp.Options{})
		untilSeen(t, func() (missing int) {
			w.forget()
			byClient, byServer := counters(n.Client), counters(n.Server)
			load := testnet.Short{End: listen, Count: count, Seed: 3, Most: 1000}
			serves := n.Server.Run("server", load)
			load.End = connect
			asks := n.Client.Run("client", load)
			w.while(asks, serves)
			all := w.events().TCPStates
			clients, servers := histories(t, all, inode(t, n.Client)), histories(t, all, inode(t, n.Server))
			if lacks := isEach(t, clients, count) + isEach(t, servers, count); lacks > 0 || t.Failed() {
				return lacks
			}
			closes := [][2]string{{closesLast, closesFirst}, {isReset, isReset}, {closesFirst, closesLast}} // as Short does
			for i := range count {
				for _, end := range []struct {
					of   history
					want string
				}{{clients[i], opens + closes[i%3][0]}, {servers[i], isAccepted + closes[i%3][1]}} {
					missing += end.of.lacks(t, end.want)
				}
			}
			if missing > 0 {
				return missing
			}
			for i := range count {
				local, remote := clients[i].ends(), servers[i].ends()
				port := netip.MustParseAddrPort(local.Local).Port()
				to, from := netip.AddrPortFrom(server, connect.Address.Port()).String(), netip.AddrPortFrom(client, port).String()
				clients[i].isOf(t, snapshot.Ends{Local: from, Remote: to, Namespace: int64(inode(t, n.Client))}, asks.PID, "client")
				servers[i].isOf(t, snapshot.Ends{Local: to, Remote: from, Namespace: int64(inode(t, n.Server))}, serves.PID, "server")
				if clients[i][1].At > servers[i][0].At {
					t.Errorf("connection %d is accepted %d ns before it is opened: %+v %+v", i, clients[i][1].At-servers[i][0].At, local, remote)
				}
			}
			agree(t, all, n.Client, byClient())
			agree(t, all, n.Server, byServer())
			return 0
		})
	})
}

// A connection is its listener's until another process uses it, and that one's from then on.
func TestEventsOfAcceptedElsewhere(t *testing.T) {
	const count = 5
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newTracing(t, trace.Options{Kinds: []string{"tcp.state"}}, tcp.Options{})
	end := testnet.End{Address: at(n.Server, 7110)}
	untilSeen(t, func() (missing int) {
		w.forget()
		answer := testnet.Answer{End: listening(end), Connections: count, Requests: []int{101}, Reply: 503}
		prefork := n.Server.Run("prefork", testnet.Prefork{Answer: answer, Worker: "worker"})
		for range count {
			n.Client.Run("ask", testnet.Exchange{End: end, Count: 2, Writes: []int{101}, Reply: 503}).Wait()
		}
		w.while(prefork)
		all := histories(t, w.events().TCPStates, inode(t, n.Server))
		if lacks := isEach(t, all, count); lacks > 0 {
			return lacks
		}
		for _, h := range all {
			if lacks := h.lacks(t, isAccepted+closesLast); lacks > 0 {
				missing += lacks
				continue
			}
			h[:2].isOf(t, h.ends(), prefork.PID, "prefork")
			h[2:].isOf(t, h.ends(), int(h[2].PID), "worker")
			if h[2].PID == h[1].PID {
				t.Errorf("the worker is said to be process %d, who listens", h[2].PID)
			}
		}
		return missing
	})
}

// Attempts to connect that fail are told of, too.
func TestEventsOfRefusals(t *testing.T) {
	const count = 3
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newTracing(t, trace.Options{Kinds: []string{"tcp.state"}}, tcp.Options{})
	untilSeen(t, func() (missing int) {
		w.forget()
		by := counters(n.Client)
		for range count {
			dial(t, n, at(n.Server, 7111), syscall.ECONNREFUSED)
		}
		all := w.events().TCPStates
		clients := histories(t, all, inode(t, n.Client))
		missing = isEach(t, clients, count)
		for _, h := range clients {
			missing += h.lacks(t, "CLOSED>SYN-SENT SYN-SENT>CLOSED")
			if int(h[0].PID) != os.Getpid() || h[0].Remote != at(n.Server, 7111).String() {
				t.Errorf("an attempt goes through %s: %+v", h, h[0])
			}
		}
		if missing == 0 {
			agree(t, all, n.Client, by())
		}
		return missing
	})
}

// sameStalls holds the events of processes against what the tcp probe counted of their stalls at the same time.
func sameStalls(t testing.TB, events []snapshot.TCPStallEnd, s snapshot.TCP, pids ...int) {
	t.Helper()
	type of struct {
		pid   int
		cause string
	}
	type sum struct {
		count          uint64
		total, longest int64
	}
	want, got := map[of]sum{}, map[of]sum{}
	for _, r := range s.Group(snapshot.ByPID).Rows {
		for _, c := range r.Stalls {
			if slices.Contains(pids, r.PID) {
				want[of{r.PID, string(c.Cause)}] = sum{c.Count, int64(c.Total), int64(c.Max) / 1000}
			}
		}
	}
	for _, e := range events {
		if slices.Contains(pids, int(e.PID)) {
			key := of{int(e.PID), e.Cause}
			was := got[key]
			got[key] = sum{was.count + 1, was.total + e.Duration, max(was.longest, e.Duration/1000)}
		}
	}
	t.Logf("%+v", got)
	for key := range got {
		if _, is := want[key]; !is {
			want[key] = sum{}
		}
	}
	for key, sum := range want {
		if got[key] != sum {
			t.Errorf("%s of %d: %+v, the tcp probe has counted %+v", key.cause, key.pid, got[key], sum)
		}
	}
}

// A segment that is sent again is an event, as the kernel counts it.
func TestEventsOfRetransmissions(t *testing.T) {
	const port = 7112
	ask := func(e testnet.End) testnet.Load {
		return testnet.Exchange{End: e, Count: 20, Writes: []int{100}, Reply: 100}
	}
	answers := replying(testnet.Answer{Requests: []int{100}, Reply: 100})
	next := func(from testnet.Direction, flags testnet.Flags) func() testnet.Rule {
		return func() testnet.Rule { return dropNext(1, from, flags) }
	}
	probe := newTracing(t, trace.Options{Kinds: []string{"tcp.retransmit", "tcp.state", "tcp.stall"}}, tcp.Options{})
	for _, c := range []struct {
		name           string
		rule           func() testnet.Rule
		client, server func(testnet.End) testnet.Load
		ofClient       string // a state in which something must be sent again there
		ofServer       string // likewise
		ipv6           bool
	}{
		{name: "twice", rule: func() testnet.Rule { return dropEach(5, 2) }, client: ask, server: answers, ofClient: "ESTABLISHED"},
		{name: "once", rule: func() testnet.Rule { return dropEach(5, 1) }, client: ask, server: answers, ofClient: "ESTABLISHED", ipv6: true},
		{name: "replies", rule: func() testnet.Rule { return testnet.DropOnce(testnet.FromServer, 3, 7, 11) }, client: ask, server: answers, ofServer: "ESTABLISHED"},
		{ // Single segments: of two that are next to each other, the kernel tells once.
			name: "bulk", rule: func() testnet.Rule { return testnet.DropOnce(testnet.FromClient, 5, 50, 100) },
			client: send(300_000, nil), server: receive(nil), ofClient: "ESTABLISHED",
		},
		{name: "SYN", rule: next(testnet.FromClient, testnet.SYN), client: ask, server: answers, ofClient: "SYN-SENT", ipv6: true},
		{name: "SYN-ACK", rule: next(testnet.FromServer, testnet.SYN|testnet.ACK), client: ask, server: answers, ofClient: "SYN-SENT"},
		{name: "FIN", rule: next(testnet.FromClient, testnet.FIN|testnet.ACK), client: ask, server: answers, ofClient: "FIN-WAIT-1"},
		{name: "last FIN", rule: next(testnet.FromServer, testnet.FIN|testnet.ACK), client: ask, server: answers, ofServer: "LAST-ACK", ipv6: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := probe.anew(t)
			untilSeen(t, func() (missing int) {
				n := slow(t, c.rule())
				inhabit(n)
				w.forget()
				byClient, byServer := counters(n.Client), counters(n.Server)
				end := testnet.End{Address: at(n.Server, port), Socket: testnet.Socket{Congestion: "cubic"}}
				if c.ipv6 {
					end.Address = netip.AddrPortFrom(n.Server.IPv6, port)
				}
				serves := n.Server.Run("server", c.server(listening(end)))
				asks := n.Client.Run("client", c.client(end))
				w.while(asks, serves)
				time.Sleep(500 * ms) // until what is sent again at the end is acknowledged
				s, all := w.read(), w.events()
				sameStalls(t, all.TCPStalls, s, asks.PID, serves.PID)
				for _, side := range []struct {
					n       *testnet.Namespace
					process *testnet.Process
					comm    string
					state   string
					kernel  map[string]int64
				}{{n.Client, asks, "client", c.ofClient, byClient()}, {n.Server, serves, "server", c.ofServer, byServer()}} {
					again := side.kernel["Tcp.RetransSegs"] - int64(rowOf(t, s, side.process).RetransmitsFailed)
					if side.n == n.Server { // SYN-ACKs are no connection's yet, and the only SYNs there
						again -= side.kernel["TcpExt.TCPSynRetrans"]
					}
					events := sentAgain(t, all, side.n, side.process, side.comm)
					t.Logf("%s: %v, by the kernel's count %d", side.comm, events, again)
					lacks := int(again)
					for _, n := range events {
						lacks -= n
					}
					switch {
					case lacks < 0:
						t.Errorf("%s has sent %v again, by the kernel's count %d", side.comm, events, again)
						return 0
					case lacks == 0 && side.state != "" && events[side.state] == 0:
						t.Errorf("%s has sent %v again, and nothing in %s", side.comm, events, side.state)
					}
					missing += lacks
				}
				return missing
			})
		})
	}
}

// sentAgain is how many segments the one end of a network's only connection has sent again, by its state.
func sentAgain(t testing.TB, all snapshot.Trace, n *testnet.Namespace, process *testnet.Process, comm string) map[string]int {
	t.Helper()
	in := int64(inode(t, n))
	var ends snapshot.Ends
	for _, e := range all.TCPStates {
		if e.Namespace == in {
			ends = e.Ends // at last, all of them are known
		}
	}
	states := map[string]int{}
	for _, e := range all.TCPRetransmissions {
		if e.Namespace != in {
			continue
		}
		states[e.State]++
		if e.Ends != ends {
			t.Errorf("%s: what is sent again in %s is of %+v, want %+v", comm, e.State, e.Ends, ends)
		}
		if e.PID != int32(process.PID) || e.Comm != comm {
			t.Errorf("what is sent again in %s is of %+v, want %d, %s", e.State, e.Causer, process.PID, comm)
		}
	}
	return states
}

// Each stall is an event, of the same cause, and as long.
func TestEventsOfStalls(t *testing.T) {
	const count = 30
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, server, client netip.Addr) {
		probe := newTracing(t, trace.Options{Kinds: []string{"tcp.stall"}}, tcp.Options{})
		livetest.Steadily(t, func(t testing.TB) {
			w := probe.anew(t)
			serves := n.Server.Run("server", testnet.Answer{End: listen, Requests: []int{200}, Reply: 100})
			asks := n.Client.Run("client", testnet.Exchange{End: connect, Count: count, Writes: []int{100, 100}, Reply: 100})
			took := w.while(asks, serves)[0].Took
			s, all := w.read(), w.events()
			sameStalls(t, all.TCPStalls, s, asks.PID, serves.PID)
			held := 0
			ends := map[snapshot.Ends]bool{}
			at := netip.AddrPortFrom(server, connect.Address.Port()).String()
			for _, e := range all.TCPStalls {
				var of *testnet.Namespace
				var comm, accepted, opened string
				switch e.PID {
				case int32(asks.PID):
					of, comm, accepted, opened = n.Client, "client", e.Remote, e.Local
				case int32(serves.PID):
					of, comm, accepted, opened = n.Server, "server", e.Local, e.Remote
				default:
					continue // somebody else's
				}
				if accepted != at || netip.MustParseAddrPort(opened).Addr() != client || e.Namespace != int64(inode(t, of)) || e.Comm != comm {
					t.Errorf("%+v is of %s", e, comm)
				}
				ends[e.Ends] = true
				if e.Duration < int64(5*ms) || e.Duration > int64(slices.Max(took)) {
					t.Errorf("%s takes %v, and an exchange %v at most", e.Cause, time.Duration(e.Duration), slices.Max(took))
				}
				if e.Cause == string(snapshot.NagleDelayedACK) && comm == "client" {
					held++
					if e.Waiting != 100 {
						t.Errorf("%d bytes wait, want 100", e.Waiting)
					}
				}
				if e.ReaderTID != 0 && (e.Cause != string(snapshot.ReaderNotScheduled) || e.ReaderTID != e.PID) {
					t.Errorf("the reader of %+v is %d", e, e.ReaderTID)
				}
			}
			if len(ends) != 2 {
				t.Errorf("stalls are of %v", ends)
			}
			if least := livetest.Less(count - 3); held < least {
				t.Errorf("%d of %d requests are held back, want %d at least", held, count, least)
			}
		})
	})
}

// boot is the clock that events have.
func boot(t testing.TB) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano()
}

// A flight recorder is told of the first pause that is longer than it wants, in the network namespace that is reported on, and of no
// other until it asks for one.
func TestStallTrigger(t *testing.T) {
	const port, count, longest = 7113, 7, 20 * ms
	runs := []struct{ noDelay, arm, armed bool }{
		{noDelay: true, arm: true, armed: true},
		{armed: true}, // as nothing has triggered
		{},
		{arm: true, armed: true},
	}
	for _, comm := range []string{"client", "server"} {
		t.Run(comm, func(t *testing.T) {
			n := testnet.NewVeth(t)
			inhabit(n)
			watched, end := n.Client, testnet.End{Address: at(n.Server, port)}
			if comm == "server" {
				watched, end.Address = n.Server, netip.AddrPortFrom(n.Server.IPv6, port)
			}
			probe := newTracing(t, trace.Options{Kinds: []string{"tcp.stall"}, Stall: longest},
				tcp.Options{Namespace: inode(t, watched), Events: tcp.Events{Trigger: longest}})
			livetest.Steadily(t, func(t testing.TB) {
				for _, run := range runs {
					w := &tracing{probe.watch.anew(t), probe.tracer}
					if run.arm {
						w.tracer.Arm()
					}
					since := boot(t)
					end.Socket.NoDelay = run.noDelay
					serves := n.Server.Run("server", testnet.Answer{End: listening(end), Requests: []int{200}, Reply: 100})
					asks := n.Client.Run("client", testnet.Exchange{End: end, Count: count, Writes: []int{100, 100}, Reply: 100})
					w.while(asks, serves)
					process := map[string]*testnet.Process{"client": asks, "server": serves}[comm]
					held := false
					long := w.triggers(since, longest, run.armed, int64(inode(t, watched)))
					for _, e := range long {
						if e.PID != int32(process.PID) || e.Comm != comm {
							t.Errorf("%+v, want %d, %s", e, process.PID, comm)
						}
						held = held || e.Cause == string(snapshot.NagleDelayedACK) || e.Cause == string(snapshot.DelayedACK)
					}
					if held == run.noDelay {
						t.Errorf("TCP_NODELAY %t: %+v", run.noDelay, long)
					}
				}
			})
		})
	}
}

// triggers are the long pauses since then, the first of which is to have triggered if a trigger was armed.
func (w *tracing) triggers(since int64, longest time.Duration, armed bool, namespace int64) (long []snapshot.TCPStallEnd) {
	w.t.Helper()
	triggered, err := w.tracer.Poll()
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := w.tracer.Dump()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all.TCPStalls {
		if e.At < since {
			continue
		}
		if e.Namespace != namespace {
			w.t.Errorf("%+v is not of the network namespace", e)
		}
		if e.Duration > int64(longest) {
			long = append(long, e)
		}
	}
	if len(triggered) > 0 {
		w.t.Logf("%v, of %d pauses", triggered, len(long))
	}
	if want := armed && len(long) > 0; len(triggered) != 1 && want || len(triggered) > 0 && !want {
		w.t.Errorf("%v has triggered, armed %t, of %d pauses", triggered, armed, len(long))
		return long
	}
	for _, g := range triggered {
		first := long[0]
		if g.Stall != time.Duration(first.Duration) || g.Causer != first.Causer || g.At > first.At || first.At-g.At > int64(ms) || g.At < since {
			w.t.Errorf("%+v has triggered, and the first pause is %+v", g, first)
		}
		if g.Wait != 0 || g.Latency != 0 || g.Signal != 0 || !strings.Contains(g.String(), first.Comm) {
			w.t.Errorf("%+v is said to be %q", g, g)
		}
	}
	return long
}
