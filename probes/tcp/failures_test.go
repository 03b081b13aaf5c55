package tcp_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// outcome is what attempts to connect came to.
type outcome struct {
	opened, refused, timedOut, aborted, closed, open uint64
	again                                            uint64 // segments that are sent again, of both ends
}

// serve accepts connections until the test ends, does something with each, and closes it then.
func serve(t *testing.T, n *testnet.Network, address netip.AddrPort, each func(*net.TCPConn) error) {
	t.Helper()
	l, err := n.Server.Listen(address, testnet.Socket{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := each(c.(*net.TCPConn)); err != nil {
				t.Error(err)
			}
			c.Close()
		}
	}()
}

// endless is until the other end has closed.
func endless(c *net.TCPConn) error {
	c.Read(make([]byte, 1))
	return nil
}

// dial must fail with an error, nil for none.
func dial(t *testing.T, n *testnet.Network, address netip.AddrPort, want error) net.Conn {
	t.Helper()
	c, err := n.Client.Dial(address, testnet.Socket{})
	if !errors.Is(err, want) {
		t.Fatalf("dialling %s: %v, want %v", address, err, want)
	}
	return c
}

// begin begins to connect, with this error, and returns the socket.
func begin(t *testing.T, n *testnet.Network, address netip.AddrPort, want error) (fd int) {
	t.Helper()
	err := n.Client.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())})
	})
	if !errors.Is(err, want) {
		t.Fatalf("connecting to %s: %v, want %v", address, err, want)
	}
	return fd
}

func is(s testnet.Segment, from testnet.Direction, flags testnet.Flags) bool {
	const of = testnet.SYN | testnet.ACK | testnet.RST | testnet.FIN
	return s.From == from && s.Flags&of == flags && s.Payload == 0
}

func dropNext(n int, from testnet.Direction, flags testnet.Flags) testnet.Rule {
	return testnet.DropNext(n, func(s testnet.Segment) bool { return is(s, from, flags) })
}

// Attempts that fail, and connections that take several, are counted as the kernel counts them.
func TestFailures(t *testing.T) {
	const port = 7200
	const asked = 8
	reset := func(c *net.TCPConn) error {
		_, err := c.Read(make([]byte, 1))
		return errors.Join(err, c.SetLinger(0))
	}
	cases := []struct {
		name    string
		network func(testing.TB) *testnet.Network
		provoke func(t *testing.T, n *testnet.Network)
		want    outcome
	}{
		{"refused", testnet2, func(t *testing.T, n *testnet.Network) {
			for range 3 {
				dial(t, n, at(n.Server, port), syscall.ECONNREFUSED)
				dial(t, n, netip.AddrPortFrom(n.Server.IPv6, port), syscall.ECONNREFUSED)
			}
		}, outcome{refused: 6}},
		{"timed out", func(t testing.TB) *testnet.Network { return slow(t, dropNext(-1, testnet.FromClient, testnet.SYN)) },
			func(t *testing.T, n *testnet.Network) {
				n.Client.Sysctl("net.ipv4.tcp_syn_retries", 1)
				sockets := []int{begin(t, n, at(n.Server, port), unix.EINPROGRESS)}
				for range asked {
					time.Sleep(100 * time.Millisecond) // they end in their order then: such timers are some 30 ms late
					sockets = append(sockets, begin(t, n, at(n.Server, port), unix.EINPROGRESS))
				}
				// Who asks for the error takes it away, maybe before the kernel has ended the attempt. The first is asked at the end.
				for _, fd := range append(sockets[1:], sockets[0]) {
					defer unix.Close(fd)
					for failed := 0; failed != int(unix.ETIMEDOUT); {
						var err error
						if failed, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
							t.Fatal(err)
						}
					}
				}
			}, outcome{timedOut: asked + 1, again: asked + 1}},
		{"closed while connecting", plain, func(t *testing.T, n *testnet.Network) {
			serve(t, n, at(n.Server, port), endless)
			unix.Close(begin(t, n, at(n.Server, port), unix.EINPROGRESS))
		}, outcome{aborted: 1}},
		{"disconnected while connecting", plain, func(t *testing.T, n *testnet.Network) {
			serve(t, n, at(n.Server, port), endless)
			fd := begin(t, n, at(n.Server, port), unix.EINPROGRESS)
			if _, _, failed := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unspecified()), 16); failed != 0 {
				t.Fatal(failed)
			}
			unix.Close(fd)
		}, outcome{aborted: 1}},
		{"unreachable", testnet2, func(t *testing.T, n *testnet.Network) {
			n.Client.Sysctl("net.ipv4.neigh.veth0.retrans_time_ms", 50)
			dial(t, n, netip.AddrPortFrom(n.Server.IPv4.Next(), port), syscall.EHOSTUNREACH)
		}, outcome{aborted: 1}},
		{"no port left", testnet2, func(t *testing.T, n *testnet.Network) {
			serve(t, n, at(n.Server, port), endless)
			n.Client.Sysctl("net.ipv4.ip_local_port_range", "30000 30000")
			defer dial(t, n, at(n.Server, port), nil).Close()
			unix.Close(begin(t, n, at(n.Server, port), unix.EADDRNOTAVAIL))
		}, outcome{opened: 1, aborted: 1, closed: 2}},
		{"tried again", testnet2, func(t *testing.T, n *testnet.Network) {
			fd := begin(t, n, at(n.Server, port), unix.EINPROGRESS)
			time.Sleep(20 * time.Millisecond)
			to := &unix.SockaddrInet4{Addr: n.Server.IPv4.As4(), Port: port}
			if err := unix.Connect(fd, to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal(err)
			}
			serve(t, n, at(n.Server, port), endless)
			if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			unix.Close(fd)
		}, outcome{opened: 1, refused: 1, closed: 2}},
		{"reset by the server", testnet2, func(t *testing.T, n *testnet.Network) {
			serve(t, n, at(n.Server, port), reset)
			c := dial(t, n, at(n.Server, port), nil)
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			c.Close()
		}, outcome{opened: 1, closed: 2}},
		{"SYN lost", func(t testing.TB) *testnet.Network { return slow(t, dropNext(1, testnet.FromClient, testnet.SYN)) },
			func(t *testing.T, n *testnet.Network) {
				serve(t, n, at(n.Server, port), endless)
				dial(t, n, at(n.Server, port), nil).Close()
			}, outcome{opened: 1, closed: 2, again: 1}},
		{"SYN-ACK lost", func(t testing.TB) *testnet.Network {
			return slow(t, dropNext(1, testnet.FromServer, testnet.SYN|testnet.ACK))
		}, func(t *testing.T, n *testnet.Network) {
			serve(t, n, at(n.Server, port), endless)
			dial(t, n, at(n.Server, port), nil).Close()
		}, outcome{opened: 1, closed: 2, again: 2}},
		{"third packet lost", func(t testing.TB) *testnet.Network { return slow(t, dropNext(1, testnet.FromClient, testnet.ACK)) },
			func(t *testing.T, n *testnet.Network) {
				accepted := make(chan bool)
				serve(t, n, at(n.Server, port), func(c *net.TCPConn) error { close(accepted); return endless(c) })
				c := dial(t, n, at(n.Server, port), nil)
				<-accepted
				c.Close()
			}, outcome{opened: 1, closed: 2, again: 1}},
		{"data lost", func(t testing.TB) *testnet.Network {
			return slow(t, testnet.DropOnce(testnet.FromClient, 5, 50, 51, 100))
		},
			func(t *testing.T, n *testnet.Network) {
				const size = 300_000
				serve(t, n, at(n.Server, port), func(c *net.TCPConn) error {
					left := size
					for buf := make([]byte, 1<<16); left > 0; {
						n, err := c.Read(buf)
						if err != nil {
							return err
						}
						left -= n
					}
					_, err := c.Write([]byte{1})
					return err
				})
				c := dial(t, n, at(n.Server, port), nil)
				transfer(t, c, size, 1)
				c.Close()
			}, outcome{opened: 1, closed: 2, again: 4}},
	}
	// All at first: what is in a network that is younger than the probe is not audited.
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
			time.Sleep(5 * roundTrip) // until the connections of the case before are closed
			w := probe.anew(t)
			before := retransmissions(n)
			c.provoke(t, n)
			time.Sleep(200 * time.Millisecond)
			s := w.read()
			r := self(t, s)
			log(t, r)
			got := outcome{r.Opened, r.Refused, r.TimedOut, r.Aborted, r.Closed, r.Open, r.Retransmits}
			// A loss can be found out by more segments than were lost.
			if kernel := retransmissions(n) - before; got.again != kernel || kernel < c.want.again {
				t.Errorf("%d segments again, the kernel has %d, want %d", got.again, kernel, c.want.again)
			}
			c.want.again = got.again
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if accepted := r.Closed + r.Open - r.Opened; r.Accepted != accepted {
				t.Errorf("%d were accepted, want %d", r.Accepted, accepted)
			}
			balance(t, s)
		})
	}
}

// retransmissions are the kernel's, of both ends.
func retransmissions(n *testnet.Network) uint64 {
	return uint64(n.Client.SNMP()["Tcp.RetransSegs"] + n.Server.SNMP()["Tcp.RetransSegs"])
}

// The time to connect and to the first byte are round trips, and the life time is a connection's own.
func TestTimes(t *testing.T) {
	probe := newWatch(t, tcp.Options{Connections: true})
	livetest.Steadily(t, func(t testing.TB) { tryTimes(t, probe) })
}

func tryTimes(t testing.TB, probe *watch) {
	const exchanges = 20
	n := plain(t)
	inhabit(n)
	w := probe.anew(t)
	end := testnet.End{Address: at(n.Server, 7201)}
	answer := n.Server.Run("answer", testnet.Answer{End: listening(end), Requests: []int{100}, Reply: 100})
	ask := n.Client.Run("ask", testnet.Exchange{End: end, Count: exchanges, Writes: []int{100}, Reply: 100})
	asked := w.while(ask, answer)[0]
	time.Sleep(2 * roundTrip)
	s := w.read()
	r := row(t, s, "ask")
	log(t, r)
	// A machine may be late itself: the client's clock tells by how much, from its SYN to the end of the reply.
	connect, firstByte := asked.Connecting, asked.Connecting-roundTrip+asked.Took[0]
	for _, h := range []struct {
		name        string
		h           snapshot.Histogram
		count       uint64
		least, most time.Duration
	}{
		{"connect", r.Connect, 1, roundTrip, connect + ms},
		{"first byte", r.FirstByte, 1, roundTrip, firstByte + ms},
		{"life", r.Life, 1, (exchanges + 1) * roundTrip, (exchanges+1)*(roundTrip+5*ms) + 50*ms},
		{"the server's life", row(t, s, "answer").Life, 1, exchanges * roundTrip, (exchanges+1)*(roundTrip+5*ms) + 50*ms},
	} {
		t.Logf("%s: %v, at most %v", h.name, time.Duration(h.h.Max), h.most)
		if h.h.Count() != h.count || time.Duration(h.h.Max) < h.least || time.Duration(h.h.Max) > h.most {
			t.Errorf("%s: %d of at most %v, want %d of %v to %v", h.name, h.h.Count(), time.Duration(h.h.Max), h.count, h.least, h.most)
		}
	}
	// A histogram's error is half a sixteenth, and the relay is late by 0.2 ms.
	for _, comm := range []string{"ask", "answer"} {
		h := row(t, s, comm).RTT
		got := time.Duration(h.Quantile(.5))
		t.Logf("%s: round trips of %v, at most %v, %v on average", comm, got, time.Duration(h.Max), time.Duration(h.Mean()))
		most := roundTrip*33/32 + ms/2
		if testing.Short() {
			most += 5 * ms
		}
		if h.Count() < exchanges-1 || got < roundTrip*31/32 || got > most {
			t.Errorf("%s: %d round trips of %v, want %d of %v", comm, h.Count(), got, exchanges, roundTrip)
		}
	}
	for _, c := range s.Connections {
		if rtt := time.Duration(c.RTT); (c.Comm == "ask" || c.Comm == "answer") && (rtt < roundTrip || rtt > roundTrip*3/2) {
			t.Errorf("%s has a smoothed round-trip time of %v", c.Comm, rtt)
		}
	}
}

// Each connection has its own row with what it did itself; those that are chosen only, if so, but all are audited.
func TestConnectionRows(t *testing.T) {
	const port, count = 7202, 5
	n := testnet.NewVeth(t)
	inhabit(n)
	for _, match := range []bool{false, true} {
		t.Run(fmt.Sprint("match=", match), func(t *testing.T) {
			o := tcp.Options{Connections: true}
			chosen := func(remote netip.AddrPort) bool { return !match || remote.Port() == port }
			if match {
				o.Match = func(local, remote netip.AddrPort) bool { return local.Port() == port || remote.Port() == port }
			}
			w := newWatch(t, o)
			const reply = 11
			type side struct{ sent, received uint64 }
			want := map[[2]netip.AddrPort]side{}
			for i := range 2 * count {
				size := 1000 * (i + 1)
				address := at(n.Server, uint16(port+i%2))
				c, a := pair(t, n, address)
				both(t, c, a, size, reply)
				if i >= count {
					c.Close()
					a.Close()
				}
				local := c.LocalAddr().(*net.TCPAddr).AddrPort()
				if chosen(address) {
					want[[2]netip.AddrPort{local, address}] = side{uint64(size), reply}
					want[[2]netip.AddrPort{address, local}] = side{reply, uint64(size)}
				}
			}
			time.Sleep(50 * time.Millisecond)
			s := w.read()
			var sum side
			for _, c := range s.Connections {
				if c.PID != os.Getpid() && !match {
					continue // somebody else's
				}
				key := [2]netip.AddrPort{c.Local, c.Remote}
				if got := (side{c.Sent, c.Received}); want[key] != got {
					t.Errorf("%v: %+v, want %+v", key, got, want[key])
				}
				delete(want, key)
				sum.sent, sum.received = sum.sent+c.Sent, sum.received+c.Received
				ended := c.Sent >= 1000*(count+1) || c.Received >= 1000*(count+1)
				if open := c.State == "ESTABLISHED"; open == ended {
					t.Errorf("%v is %s", key, c.State)
				}
				if c.RTT == 0 || c.RTT > 100e6 || c.Since.IsZero() || time.Since(c.Since) > time.Minute {
					t.Errorf("%v: a round trip takes %d ns, since %v", key, c.RTT, c.Since)
				}
				if accepted := c.Local.Addr() == n.Server.IPv4; c.Accepted != accepted {
					t.Errorf("%v is accepted: %v", key, c.Accepted)
				}
			}
			for key := range want {
				t.Errorf("no row of %v", key)
			}
			r := self(t, s)
			log(t, r)
			if r.Sent != sum.sent || r.Received != sum.received {
				t.Errorf("the row has %d and %d bytes, its connections %d and %d", r.Sent, r.Received, sum.sent, sum.received)
			}
			for _, c := range s.Kernel {
				if c.Name == "ActiveOpens" && c.Ours < 2*count {
					t.Errorf("%s: %d, want %d", c.Name, c.Ours, 2*count)
				}
			}
			balance(t, s)
		})
	}
}

// pair is both ends of a connection, until the test's end.
func pair(t *testing.T, n *testnet.Network, address netip.AddrPort) (client, server net.Conn) {
	t.Helper()
	l, err := n.Server.Listen(address, testnet.Socket{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client = dial(t, n, address, nil)
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// both writes and reads so many bytes at one end, and the other way round at the other.
func both(t *testing.T, client, server net.Conn, request, reply int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(server, make([]byte, request))
		if err == nil {
			_, err = server.Write(make([]byte, reply))
		}
		done <- err
	}()
	transfer(t, client, request, reply)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// unspecified is an address of AF_UNSPEC: to connect there is to disconnect.
func unspecified() unsafe.Pointer { return unsafe.Pointer(&unix.RawSockaddr{Family: unix.AF_UNSPEC}) }
