package tcp_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"

	"golang.org/x/sys/unix"
)

// others is how many connections there are on the machine, which take places in a table.
func others(t *testing.T) uint32 {
	t.Helper()
	w := newYoungWatch(t, tcp.Options{Connections: true})
	return uint32(len(w.read().Connections))
}

// Tables that are too small are told of, and what has found its place in them is right.
func TestLossesAreSeen(t *testing.T) {
	const port, count, request, reply = 7300, 20, 101, 503
	for _, c := range []struct {
		loss    string
		owners  owner.Options
		options tcp.Options
	}{
		{"connection_table_full", owner.Options{}, tcp.Options{Slots: 8}},
		{"histogram_full", owner.Options{}, tcp.Options{Buckets: 8}},
		{"process_table_full", owner.Options{Processes: 40}, tcp.Options{}},
		{"stalls_dropped", owner.Options{}, tcp.Options{Worst: true, StallMin: time.Microsecond, Ring: 4096}},
	} {
		t.Run(c.loss, func(t *testing.T) {
			n := testnet.NewVeth(t)
			inhabit(n)
			c.options.Connections = true
			c.options.Match = func(local, remote netip.AddrPort) bool { return local.Port() == port || remote.Port() == port }
			if c.options.Slots != 0 {
				c.options.Slots += others(t)
			}
			w := newWatchOf(t, c.owners, c.options)
			end := testnet.End{Address: at(n.Server, port)}
			processes := []*testnet.Process{n.Server.Run("answer", testnet.Answer{
				End: listening(end), Connections: count, Requests: []int{request}, Reply: reply, Sleep: time.Millisecond,
			})}
			for i := range count {
				processes = append(processes, n.Client.Run(fmt.Sprint("ask", i), testnet.Exchange{
					End: end, Count: 10, Writes: []int{request}, Reply: reply,
				}))
			}
			w.while(processes...)
			s := w.read()
			if lost(s, c.loss) == 0 {
				t.Errorf("%s is not counted", c.loss)
			}
			for _, l := range s.Loss {
				if l.Count > 0 && l.Name != c.loss && !strings.HasPrefix(l.Name, "unseen_") {
					t.Errorf("%s is, too: %d", l.Name, l.Count)
				}
			}
			var rows, connections, rtts uint64
			for _, c := range s.Connections {
				connections += c.Bytes()
				if whole := uint64(10 * (request + reply)); c.Bytes() != whole {
					t.Errorf("a connection of %s has %d bytes, want %d", c.Name(snapshot.ByComm), c.Bytes(), whole)
				}
			}
			for _, r := range s.Rows {
				rows, rtts = rows+r.Bytes(), rtts+r.RTT.Count()
				if r.RTT.Mean() > r.RTT.Max || r.RTT.Count() == 0 && c.options.Buckets == 0 {
					t.Errorf("%s: %d round trips of %d ns at most, %d on average", r.Name(snapshot.ByApp), r.RTT.Count(), r.RTT.Max, r.RTT.Mean())
				}
			}
			t.Logf("%d connections, %d bytes, %d round trips, %d stalls", len(s.Connections), rows, rtts, len(s.Worst))
			if rows != connections || rtts == 0 && c.options.Buckets == 0 {
				t.Errorf("rows have %d bytes, connections %d; %d round trips", rows, connections, rtts)
			}
			if c.options.Slots != 0 {
				if len(s.Connections) == 0 {
					t.Error("there is no connection")
				}
				return
			}
			if whole := uint64(2 * count * 10 * (request + reply)); rows != whole {
				t.Errorf("%d bytes, want %d", rows, whole)
			}
			if c.owners.Processes == 0 {
				attributed(t, s)
			}
			balance(t, s)
		})
	}
}

// A full table of connections has room again when some of them have ended; and where there is none for a
// new owner, the old one stays.
func TestFullTableRecovers(t *testing.T) {
	const port, slots = 7301, 8
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{Slots: slots + others(t)})
	w.read()
	type ends struct{ client, server net.Conn }
	var kept []ends
	// Slot 0 is none.
	for range slots {
		client, server := pair(t, n, at(n.Server, port))
		kept = append(kept, ends{client, server})
	}
	for _, e := range kept {
		both(t, e.client, e.server, 100, 10)
	}
	s := w.read()
	r := self(t, s)
	log(t, r)
	if r.Open != slots-1 || lost(s, "connection_table_full") != 2*slots-(slots-1) {
		t.Errorf("%d are open, %d lost, want %d and %d", r.Open, lost(s, "connection_table_full"), slots-1, 2*slots-(slots-1))
	}
	for _, e := range kept {
		both(t, e.client, e.server, 100, 10)
		e.client.Close()
		e.server.Close()
	}
	time.Sleep(50 * time.Millisecond)
	for range 3 { // slots rest
		if err := w.table.Collect(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * slots {
		client, server := pair(t, n, at(n.Server, port))
		both(t, client, server, 100, 10)
		client.Close()
		server.Close()
		time.Sleep(10 * time.Millisecond)
		if err := w.table.Collect(); err != nil {
			t.Fatal(err)
		}
	}
	s = w.read()
	r = self(t, s)
	log(t, r)
	if r.Opened != 2*slots || r.Accepted != 2*slots || r.Open != 0 || lost(s, "connection_table_full") != 0 {
		t.Errorf("%d are opened, %d accepted, %d open, %d lost", r.Opened, r.Accepted, r.Open, lost(s, "connection_table_full"))
	}
	// What was known has its bytes from before and after: of client or server.
	if more := r.Sent - 2*slots*110; more < (slots-1)*10 || more > (slots-1)*100 {
		t.Errorf("those that were known sent %d bytes", more)
	}
	balance(t, s)
}

// Where no slot is left for its new owner, a connection stays the old one's, with all its bytes.
func TestMissedHandover(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	// One slot for each end, but 0, which is none.
	w := newWatch(t, tcp.Options{Slots: 3 + others(t)})
	end := testnet.End{Address: at(n.Server, 7302)}
	taker := n.Server.Run("taker", testnet.TakeOver{Answer: testnet.Answer{Requests: []int{101}, Reply: 503}, Channel: "missed"})
	giver := n.Server.Run("giver", testnet.HandOver{
		Answer: testnet.Answer{End: listening(end), Requests: []int{101}, Reply: 503}, First: 3, Channel: "missed",
	})
	asker := n.Client.Run("asker", testnet.Exchange{End: end, Count: 10, Writes: []int{101}, Reply: 503})
	counts := w.while(giver, taker, asker)
	s := w.read()
	if lost(s, "handovers_missed") == 0 || lost(s, "connection_table_full") != 0 {
		t.Error("the loss is not counted")
	}
	counts[0].Sent += counts[1].Sent
	counts[0].Received += counts[1].Received
	counted(t, row(t, s, "giver"), counts[0])
	lived(t, 0, 1, row(t, s, "giver"))
	if got := optionalRow(s, "taker").Bytes(); got != 0 {
		t.Errorf("the taker has %d bytes", got)
	}
	balance(t, s)
}

// Changes of state that reach no program are found out where they show, and counted.
func TestUnseenStates(t *testing.T) {
	const port = 7106
	cases := []struct {
		name    string
		network func(testing.TB) *testnet.Network
		blindly func(t *testing.T, fd int)
		after   func(t *testing.T, fd int)
		want    outcome
		unseen  uint64
	}{
		{"failed", func(t testing.TB) *testnet.Network { return slow(t, dropNext(-1, testnet.FromClient, testnet.SYN)) },
			func(t *testing.T, fd int) { becomes(t, fd, unix.ETIMEDOUT) },
			func(t *testing.T, fd int) { unix.Close(fd) },
			outcome{timedOut: 1}, 1},
		{"established and accepted",
			func(t testing.TB) *testnet.Network {
				return &testnet.NewRelay(t, testnet.Delays{ToServer: 200 * ms, ToClient: 200 * ms}).Network
			},
			func(t *testing.T, fd int) {
				becomes(t, fd, 0)
				time.Sleep(400 * ms) // of the other end, too
			},
			func(t *testing.T, fd int) {
				f := os.NewFile(uintptr(fd), "connection")
				defer f.Close()
				c, err := net.FileConn(f)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				transfer(t, c, 1000, 1)
			},
			outcome{opened: 1, closed: 2}, 2},
	}
	var networks []*testnet.Network
	for _, c := range cases {
		n := c.network(t)
		inhabit(n)
		networks = append(networks, n)
	}
	probe := newWatch(t, tcp.Options{})
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := networks[i]
			n.Client.Sysctl("net.ipv4.tcp_syn_retries", 1)
			serve(t, n, at(n.Server, port), func(c *net.TCPConn) error {
				if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
					return err
				}
				_, err := c.Write([]byte{1})
				return err
			})
			w := probe.anew(t)
			fd := begin(t, n, at(n.Server, port), unix.EINPROGRESS)
			if err := w.probe.WhileBlind(func() { c.blindly(t, fd) }); err != nil {
				t.Fatal(err)
			}
			c.after(t, fd)
			time.Sleep(1200 * ms) // until both ends are gone
			s := w.read()
			r := self(t, s)
			log(t, r)
			got := outcome{opened: r.Opened, refused: r.Refused, timedOut: r.TimedOut, aborted: r.Aborted, closed: r.Closed, open: r.Open}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if unseen := lost(s, "unseen_states"); unseen < c.unseen {
				t.Errorf("%d changes of state are said to be unseen, want %d", unseen, c.unseen)
			}
			balance(t, s)
		})
	}
}

// becomes is until an attempt to connect has come to an end, which must be this.
func becomes(t *testing.T, fd int, want syscall.Errno) {
	t.Helper()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(time.Minute.Milliseconds())); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || syscall.Errno(got) != want {
		t.Fatalf("connecting came to %v (%v), want %v", syscall.Errno(got), err, want)
	}
}

// A reader that leaves something for the next read, and is not late, has missed nothing.
func TestPartialReads(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{StallMin: 4 * ms})
	end := testnet.End{Address: at(n.Server, 7105)}
	reads := n.Server.Run("reader", testnet.Receive{End: listening(end), Chunk: 1000})
	writes := n.Client.Run("writer", testnet.Send{End: end, Bytes: int64(livetest.Less(64 << 20))})
	w.while(reads, writes)
	if unseen := lost(w.read(), "unseen_segments"); unseen > 0 {
		t.Errorf("%d segments are said to be unseen", unseen)
	}
}
