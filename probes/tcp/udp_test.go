package tcp_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"culprit/probes/hook"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// told holds what was counted of UDP against what it should be, on kernels that tell of it: on others, that is nothing.
func told(t *testing.T, s snapshot.TCP, who string, got, want snapshot.UDPTraffic) {
	t.Helper()
	t.Logf("%s: %+v", who, got)
	points, err := tcp.Check(nil)
	if err != nil {
		t.Fatal(err)
	}
	tells := !slices.ContainsFunc(points, func(p hook.Tracepoint) bool { return p.Name == "sock_recv_length" && !p.Present })
	if !tells {
		want = snapshot.UDPTraffic{}
	}
	if got != want {
		t.Errorf("%s: %+v, want %+v", who, got, want)
	}
	if audited := slices.ContainsFunc(s.Kernel, func(c snapshot.TCPCounter) bool { return c.Name == "UdpOutDatagrams" }); audited != tells {
		t.Errorf("UDP is audited: %v", audited)
	}
}

// udpOf is what a process did over UDP.
func udpOf(s snapshot.TCP, pid int) (sum snapshot.UDPTraffic) {
	for _, r := range s.Rows {
		if r.PID == pid {
			sum = sum.Add(r.UDP)
		}
	}
	return sum
}

// itself is what a load counted.
func itself(c testnet.Counts) snapshot.UDPTraffic {
	return snapshot.UDPTraffic{
		Sent: uint64(c.Sent), Received: uint64(c.Received), DatagramsOut: uint64(c.DatagramsOut), DatagramsIn: uint64(c.DatagramsIn),
	}
}

// Every byte and datagram is its process's, whatever calls that makes.
func TestUDPIsExact(t *testing.T) {
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, _, _ netip.Addr) {
		sizes := []int{101, 0, 1009, 1}
		probe := newWatch(t, tcp.Options{})
		for _, c := range []struct {
			tell, hear testnet.Calls
			datagrams  int
		}{
			{testnet.ByOne, testnet.ByOne, 4},
			{testnet.ByWrite, testnet.ByPeek, 4},
			{testnet.ByMany, testnet.ByMany, 4},
			{testnet.ByMore, testnet.ByOne, 1},
			{testnet.ByCork, testnet.ByOne, 1},
			{testnet.BySegment, testnet.ByOne, 12}, // of at most 100 bytes
		} {
			t.Run(string(c.tell+"; "+c.hear), func(t *testing.T) {
				const rounds = 53
				w := probe.anew(t)
				hear := n.Server.Run("hear", testnet.Hear{
					End: listen, Rounds: rounds, Datagrams: c.datagrams, By: c.hear, Room: 503, Answer: 7,
				})
				tell := n.Client.Run("tell", testnet.Tell{End: connect, Rounds: rounds, Sizes: sizes, By: c.tell, Segment: 100})
				counts := w.while(tell, hear)
				s := w.read()
				for i, comm := range []string{"tell", "hear"} {
					told(t, s, comm, optionalRow(s, comm).UDP, itself(counts[i]))
				}
				balance(t, s)
			})
		}
	})
}

// ends are two sockets of this process, of which the first can send to the second.
type ends struct {
	t        *testing.T
	n        *testnet.Network
	from, to int
	at       unix.Sockaddr
}

func newEnds(t *testing.T, n *testnet.Network, port uint16) *ends {
	t.Helper()
	e := &ends{t: t, n: n, at: &unix.SockaddrInet4{Port: int(port), Addr: n.Server.IPv4.As4()}}
	e.from, e.to = e.socket(n.Client, unix.SOCK_DGRAM, unix.IPPROTO_UDP), e.socket(n.Server, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	e.must(unix.Bind(e.to, e.at))
	return e
}

func (e *ends) socket(where *testnet.Namespace, kind, protocol int) (fd int) {
	e.t.Helper()
	e.must(where.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	}))
	e.t.Cleanup(func() { unix.Close(fd) })
	limit := unix.Timeval{Sec: 20}
	e.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	return fd
}

func (e *ends) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// send sends so many bytes, which must have this error, nil for none.
func (e *ends) send(fd, size, flags int, want error) {
	e.t.Helper()
	if err := unix.Sendto(fd, make([]byte, size), flags, e.at); !errors.Is(err, want) {
		e.t.Fatalf("sending %d bytes: %v, want %v", size, err, want)
	}
}

// receive asks for so many bytes, and must get these.
func (e *ends) receive(fd, room, flags, want int) {
	e.t.Helper()
	if n, _, err := unix.Recvfrom(fd, make([]byte, room), flags); err != nil || n != want {
		e.t.Fatalf("%d bytes of %d: %v", n, want, err)
	}
}

// What a call returns is not always what went over the network, and what is called UDP not always UDP.
func TestUDPCalls(t *testing.T) {
	const port = 7400
	n := testnet.NewVeth(t)
	inhabit(n)
	probe := newWatch(t, tcp.Options{})
	for _, c := range []struct {
		name string
		do   func(e *ends)
		want snapshot.UDPTraffic
	}{
		{"peeked twice", func(e *ends) {
			e.send(e.from, 101, 0, nil)
			e.receive(e.to, 200, unix.MSG_PEEK, 101)
			e.receive(e.to, 200, unix.MSG_PEEK|unix.MSG_TRUNC, 101)
			e.receive(e.to, 200, 0, 101)
		}, snapshot.UDPTraffic{Sent: 101, Received: 101, DatagramsOut: 1, DatagramsIn: 1}},
		{"empty", func(e *ends) {
			e.send(e.from, 0, 0, nil)
			e.receive(e.to, 200, 0, 0)
		}, snapshot.UDPTraffic{DatagramsOut: 1, DatagramsIn: 1}},
		{"cut off", func(e *ends) {
			e.send(e.from, 101, 0, nil)
			e.receive(e.to, 50, 0, 50)
			e.send(e.from, 101, 0, nil)
			e.receive(e.to, 50, unix.MSG_TRUNC, 101) // it returns how long the datagram was
		}, snapshot.UDPTraffic{Sent: 202, Received: 151, DatagramsOut: 2, DatagramsIn: 2}},
		{"nothing there", func(e *ends) {
			if _, _, err := unix.Recvfrom(e.to, make([]byte, 1), unix.MSG_DONTWAIT); err != unix.EAGAIN {
				e.t.Fatal(err)
			}
		}, snapshot.UDPTraffic{}},
		{"too long", func(e *ends) { e.send(e.from, 70_000, 0, unix.EMSGSIZE) }, snapshot.UDPTraffic{}},
		{"the end", func(e *ends) {
			e.must(unix.Connect(e.to, &unix.SockaddrInet4{Port: port, Addr: e.n.Client.IPv4.As4()}))
			e.must(unix.Shutdown(e.to, unix.SHUT_RD))
			e.receive(e.to, 1, 0, 0)
		}, snapshot.UDPTraffic{}},
		{"an error's datagram", func(e *ends) {
			e.must(unix.SetsockoptInt(e.from, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			e.must(unix.Close(e.to))
			e.send(e.from, 101, 0, nil)
			fds := []unix.PollFd{{Fd: int32(e.from)}}
			if n, err := unix.Poll(fds, 20_000); n != 1 {
				e.t.Fatal(err)
			}
			e.receive(e.from, 200, unix.MSG_ERRQUEUE, 101)
		}, snapshot.UDPTraffic{Sent: 101, DatagramsOut: 1}},
		{"to a closed port", func(e *ends) {
			e.must(unix.Close(e.to))
			e.must(unix.Connect(e.from, e.at))
			e.must(unix.Send(e.from, make([]byte, 101), 0))
			fds := []unix.PollFd{{Fd: int32(e.from)}}
			if n, err := unix.Poll(fds, 20_000); n != 1 {
				e.t.Fatal(err)
			}
			if err := unix.Send(e.from, make([]byte, 101), 0); err != unix.ECONNREFUSED {
				e.t.Fatal(err)
			}
		}, snapshot.UDPTraffic{Sent: 101, DatagramsOut: 1}},
		{"corked, and taken back", func(e *ends) {
			e.send(e.from, 101, unix.MSG_MORE, nil)
			e.must(unix.Close(e.from))
		}, snapshot.UDPTraffic{Sent: 101}},
		{"several at once", func(e *ends) {
			const udpGRO = 104
			e.must(unix.SetsockoptInt(e.to, unix.IPPROTO_UDP, udpGRO, 1))
			e.must(unix.SetsockoptInt(e.from, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 100))
			e.send(e.from, 1000, 0, nil)
			e.receive(e.to, 2000, 0, 1000)
		}, snapshot.UDPTraffic{Sent: 1000, Received: 1000, DatagramsOut: 1, DatagramsIn: 1}},
		{"sent from a pipe", func(e *ends) {
			e.must(unix.Connect(e.from, e.at))
			var pipe [2]int
			e.must(unix.Pipe(pipe[:]))
			defer unix.Close(pipe[0])
			defer unix.Close(pipe[1])
			_, err := unix.Write(pipe[1], make([]byte, 101))
			e.must(err)
			_, err = unix.Splice(pipe[0], nil, e.from, nil, 101, 0)
			e.must(err)
			e.receive(e.to, 200, 0, 101)
		}, snapshot.UDPTraffic{Sent: 101, Received: 101, DatagramsOut: 1, DatagramsIn: 1}},
		{"UDP-Lite", func(e *ends) {
			const lite = 136
			if _, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, lite); err == unix.EPROTONOSUPPORT {
				return // since 7.1
			}
			e.from, e.to = e.socket(e.n.Client, unix.SOCK_DGRAM, lite), e.socket(e.n.Server, unix.SOCK_DGRAM, lite)
			e.must(unix.Bind(e.to, e.at))
			e.send(e.from, 101, 0, nil)
			e.receive(e.to, 200, 0, 101)
		}, snapshot.UDPTraffic{}},
		{"a raw socket", func(e *ends) {
			e.from, e.to = e.socket(e.n.Client, unix.SOCK_RAW, unix.IPPROTO_UDP), e.socket(e.n.Server, unix.SOCK_RAW, unix.IPPROTO_UDP)
			e.send(e.from, 101, 0, nil)
			e.receive(e.to, 200, 0, 101+20) // with the header of IP
		}, snapshot.UDPTraffic{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := probe.anew(t)
			c.do(newEnds(t, n, port))
			s := w.read()
			told(t, s, "this process", udpOf(s, os.Getpid()), c.want)
			balance(t, s)
		})
	}
}

// flood sends datagrams to where nobody reads, until the kernel there has dropped so many for want of room: of all that it dropped,
// it returns the number.
func flood(t *testing.T, n *testnet.Network, to netip.AddrPort, least int64) (dropped uint64) {
	t.Helper()
	errors := func() int64 {
		counters := n.Server.SNMP()
		return counters["Udp.RcvbufErrors"] + counters["Udp6RcvbufErrors"]
	}
	var c net.Conn
	err := n.Client.Do(func() (err error) {
		c, err = net.Dial("udp", to.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := errors()
	for deadline := time.Now().Add(20 * time.Second); errors()-before < least; {
		for range 10 {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d datagrams are dropped, want %d", errors()-before, least)
		}
	}
	last := errors()
	for settled := time.Now(); time.Since(settled) < 20*time.Millisecond; time.Sleep(time.Millisecond) {
		if now := errors(); now != last {
			last, settled = now, time.Now()
		}
	}
	return uint64(last - before)
}

// What a receive buffer has no room for is its socket's user's, also if nobody has ever read from it, or the socket is older than the probe.
func TestUDPDrops(t *testing.T) {
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, _, _ netip.Addr) {
		port := listen.Address.Port()
		listen.Socket.RcvBuf = 2048
		probe := newWatch(t, tcp.Options{})
		for _, first := range []int{0, 3} {
			for _, older := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d read first, older %v", first, older), func(t *testing.T) {
					port++
					listen.Address = netip.AddrPortFrom(listen.Address.Addr(), port)
					to := netip.AddrPortFrom(connect.Address.Addr(), port)
					var w *watch
					if older {
						n.Server.Run("deaf", testnet.Deaf{End: listen, First: first})
						w = newYoungWatch(t, tcp.Options{})
					} else {
						w = probe.anew(t)
						n.Server.Run("deaf", testnet.Deaf{End: listen, First: first})
					}
					for range 2 {
						dropped := flood(t, n, to, 101)
						s := w.read()
						told(t, s, "drops", snapshot.UDPTraffic{Drops: optionalRow(s, "deaf").UDP.Drops}, snapshot.UDPTraffic{Drops: dropped})
						attributed(t, s)
						balance(t, s)
					}
				})
			}
		}
	})
}

// The drops of a socket that changes hands are who's used it last; those of one that is gone, and that nobody used, are nobody's.
func TestUDPDropsOfOthersSockets(t *testing.T) {
	const port, first = 7401, 3
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	end := testnet.End{Address: at(n.Server, port), Listen: true, Socket: testnet.Socket{RcvBuf: 1 << 16}}
	n.Server.Run("parent", testnet.Deaf{End: end, First: first, Heir: "heir"})
	e := &ends{t: t, n: n, at: &unix.SockaddrInet4{Port: port, Addr: n.Server.IPv4.As4()}}
	e.from = e.socket(n.Client, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	for range 2 * first {
		e.send(e.from, 101, 0, nil)
	}
	for deadline := time.Now().Add(time.Minute); n.Server.SNMP()["Udp.InDatagrams"] < 2*first; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not all datagrams are received")
		}
	}
	received := snapshot.UDPTraffic{Received: first * 101, DatagramsIn: first}
	dropped := received
	dropped.Drops = flood(t, n, end.Address, 53)
	s := w.read()
	told(t, s, "parent", optionalRow(s, "parent").UDP, received)
	told(t, s, "heir", optionalRow(s, "heir").UDP, dropped)
	attributed(t, s)
	balance(t, s)

	unused := e.socket(n.Server, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	e.must(unix.SetsockoptInt(unused, unix.SOL_SOCKET, unix.SO_RCVBUF, 2048))
	e.must(unix.Bind(unused, &unix.SockaddrInet4{Port: port + 1, Addr: n.Server.IPv4.As4()}))
	lost := flood(t, n, at(n.Server, port+1), 53)
	e.must(unix.Close(unused))
	time.Sleep(50 * time.Millisecond)
	s = w.read()
	var nobodys uint64
	for _, r := range s.Rows {
		if r.Unattributed() {
			nobodys += r.UDP.Drops
		}
	}
	told(t, s, "nobody's drops", snapshot.UDPTraffic{Drops: nobodys}, snapshot.UDPTraffic{Drops: lost})
	balance(t, s)
}

// What a device's queue has no room for was sent, by what the process is told, but is in none of the kernel's counts of datagrams.
func TestUDPFullDeviceQueue(t *testing.T) {
	const port, count = 7403, 200
	const rate, room = 10_000, 3000 // bytes
	n := testnet.NewVeth(t)
	inhabit(n)
	err := n.Client.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Type() == "veth" })
		return netlink.QdiscAdd(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: links[i].Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       rate, Limit: room, Buffer: netlink.Xmittime(rate, room),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	w := newWatch(t, tcp.Options{})
	e := newEnds(t, n, port)
	var refused uint64
	for i := range count {
		if i == count/2 {
			// From now on it is told.
			e.must(unix.SetsockoptInt(e.from, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
		}
		if err := unix.Sendto(e.from, make([]byte, 1000), 0, e.at); err == unix.ENOBUFS {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	s := w.read()
	sent := uint64(count - refused)
	got := udpOf(s, os.Getpid())
	told(t, s, "this process", got, snapshot.UDPTraffic{Sent: 1000 * sent, DatagramsOut: sent})
	out := n.Client.SNMP()["Udp.OutDatagrams"]
	t.Logf("%d of %d were sent, as the process was told, and %d by the kernel's count", sent, count, out)
	if refused == 0 || out < 2 || out >= int64(sent) {
		t.Error("the queue was not full at times")
	}
	balance(t, s)
}

// What a process sent and received outlasts it.
func TestUDPOutlivesProcesses(t *testing.T) {
	const port = 7404
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	end := testnet.End{Address: at(n.Server, port)}
	hear := n.Server.Run("hear", testnet.Hear{End: listening(end), Rounds: 5, Datagrams: 1, By: testnet.ByOne, Room: 2000, Answer: 7})
	tell := n.Client.Run("tell", testnet.Tell{End: end, Rounds: 5, Sizes: []int{101}, By: testnet.ByOne})
	counts := w.while(hear, tell)
	for range 5 {
		if err := w.table.CollectAll(); err != nil {
			t.Fatal(err)
		}
	}
	s := w.read()
	for i, comm := range []string{"hear", "tell"} {
		told(t, s, comm, optionalRow(s, comm).UDP, itself(counts[i]))
	}
	balance(t, s)
	s = w.read()
	for _, comm := range []string{"hear", "tell"} {
		told(t, s, comm+" afterwards", optionalRow(s, comm).UDP, snapshot.UDPTraffic{})
	}
}

// Where connections are chosen, UDP is in no row, but in the audit.
func TestUDPIsNoConnection(t *testing.T) {
	const port = 7405
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{Match: func(local, remote netip.AddrPort) bool { return true }})
	e := newEnds(t, n, port)
	e.send(e.from, 101, 0, nil)
	e.receive(e.to, 200, 0, 101)
	s := w.read()
	for _, r := range s.Rows {
		if r.UDP != (snapshot.UDPTraffic{}) {
			t.Errorf("%s: %+v", r.Comm, r.UDP)
		}
	}
	for _, c := range s.Kernel {
		if c.Name == "UdpInDatagrams" && c.Ours < 1 {
			t.Errorf("%s: %d", c.Name, c.Ours)
		}
	}
	balance(t, s)
}

// Sockets of other families have the number of TCP, too: they are no connections, neither young nor old ones.
func TestOtherFamilies(t *testing.T) {
	use := func() {
		t.Helper()
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		header := make([]byte, unix.SizeofNlMsghdr)
		header[0], header[4] = unix.SizeofNlMsghdr, unix.NLMSG_NOOP
		if _, err := unix.Write(fd, header); err != nil {
			t.Fatal(err)
		}
	}
	use()
	w := newYoungWatch(t, tcp.Options{Connections: true})
	use()
	for _, c := range w.read().Connections {
		if c.PID == os.Getpid() {
			t.Errorf("a connection from %s to %s, %s", c.Local, c.Remote, c.State)
		}
	}
}
