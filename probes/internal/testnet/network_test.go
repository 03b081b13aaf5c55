package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
)

const port = 7000

// families runs a test with the server's address of each.
func families(t *testing.T, f func(t *testing.T, address func(*Namespace) netip.AddrPort)) {
	t.Run("IPv4", func(t *testing.T) {
		f(t, func(n *Namespace) netip.AddrPort { return netip.AddrPortFrom(n.IPv4, port) })
	})
	t.Run("IPv6", func(t *testing.T) {
		f(t, func(n *Namespace) netip.AddrPort { return netip.AddrPortFrom(n.IPv6, port) })
	})
}

// connect makes a connection over a network, until the test's end.
func connect(t *testing.T, n *Network, address netip.AddrPort, s Socket) (client, server net.Conn) {
	t.Helper()
	l, err := n.Server.Listen(address, s)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = n.Client.Dial(address, s); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return client, server
}

// transfer sends so many bytes to the server, which must get just these, and returns how long that took.
func transfer(t *testing.T, client, server net.Conn, size int) time.Duration {
	t.Helper()
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{})
	random.Read(data)
	sent := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := client.Write(data)
		sent <- errors.Join(err, client.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(server)
	took := time.Since(begin)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("%d bytes were sent, and %d others received", size, len(got))
	}
	return took
}

// increase is by how much a counter grows while f runs.
func increase(n *Namespace, counter string, f func()) int64 {
	before := n.SNMP()[counter]
	f()
	return n.SNMP()[counter] - before
}

func TestRelayDelays(t *testing.T) { testDelays(t) }

// A relay is on time also where others compute on every CPU.
func TestRelayDelaysWhileCPUsAreBusy(t *testing.T) {
	n := NewVeth(t)
	for cpu := range 2 {
		n.Client.Run("spinner", Spin{End: End{CPUs: []int{cpu}}, For: time.Minute})
	}
	testDelays(t)
}

// testDelays is of the best of some relays: a machine's host makes each of them late now and then, and nothing makes one early.
func testDelays(t *testing.T) {
	t.Helper()
	const tries = 3
	for _, delays := range []Delays{{}, {ToServer: 10 * time.Millisecond, ToClient: 5 * time.Millisecond}, {ToClient: 100 * time.Millisecond}} {
		t.Run(fmt.Sprint(delays.ToServer, delays.ToClient), func(t *testing.T) {
			families(t, func(t *testing.T, address func(*Namespace) netip.AddrPort) {
				for try := 1; ; try++ {
					late := whatIsLate(t, delays, address)
					if late == "" || testing.Short() { // emulated kernels are slow
						return
					}
					if try == tries {
						t.Fatal(late)
					}
					t.Logf("again: %s", late)
				}
			})
		})
	}
}

// whatIsLate is "" where round trips through a relay take what they should. None is early, or the test fails.
func whatIsLate(t *testing.T, delays Delays, address func(*Namespace) netip.AddrPort) string {
	t.Helper()
	r := NewRelay(t, delays)
	client, server := connect(t, &r.Network, address(r.Server), Socket{NoDelay: true})
	go io.Copy(server, server)
	var took []time.Duration
	for range 30 {
		begin := time.Now()
		if _, err := client.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	r.ended.Do(r.end)
	slices.Sort(took)
	least, median, most := took[0], took[len(took)/2], took[len(took)-1]
	t.Logf("round trips took %v, %v, %v", least, median, most)
	want := delays.ToServer + delays.ToClient
	if least < want {
		t.Errorf("a round trip took %v, want %v at least", least, want)
	}
	if r.late.packets < 60 {
		t.Errorf("the relay carried %d packets, want 60 at least", r.late.packets)
	}
	switch {
	case median > want+time.Millisecond:
		return fmt.Sprintf("half of the round trips took more than %v, want %v", median, want)
	case r.late.much > r.late.packets/20:
		return fmt.Sprintf("of %d packets, %d were late", r.late.packets, r.late.much)
	}
	return ""
}

func TestDropIsOneRetransmission(t *testing.T) {
	families(t, func(t *testing.T, address func(*Namespace) netip.AddrPort) {
		r := NewRelay(t, Delays{5 * time.Millisecond, 5 * time.Millisecond}, DropOnce(FromClient, 5))
		client, server := connect(t, &r.Network, address(r.Server), Socket{Congestion: "cubic"})
		segments := increase(r.Client, "Tcp.RetransSegs", func() { transfer(t, client, server, 300_000) })
		traffic := r.Traffic(FromClient)
		if segments != 1 || traffic.Retransmissions != 1 || traffic.Dropped != 1 {
			t.Errorf("the kernel counted %d retransmissions, the relay %+v", segments, traffic)
		}
	})
}

func TestNothingPassesForAWhile(t *testing.T) {
	r := NewRelay(t, Delays{time.Millisecond, time.Millisecond})
	client, server := connect(t, &r.Network, netip.AddrPortFrom(r.Server.IPv4, port), Socket{NoDelay: true})
	const pause = 300 * time.Millisecond
	r.Rules(DropFor(pause))
	var took time.Duration
	timeouts := increase(r.Client, "TcpExt.TCPTimeouts", func() { took = transfer(t, client, server, 100) })
	if took < pause || took > 4*pause || timeouts == 0 {
		t.Errorf("it took %v and %d timeouts", took, timeouts)
	}
}

func TestFirstSegmentsAreLost(t *testing.T) {
	isSYN := func(s Segment) bool { return s.From == FromClient && s.Flags == SYN }
	r := NewRelay(t, Delays{}, DropNext(1, isSYN))
	begin := time.Now()
	sent := increase(r.Client, "Tcp.RetransSegs", func() { connect(t, &r.Network, netip.AddrPortFrom(r.Server.IPv4, port), Socket{}) })
	if took := time.Since(begin); sent != 1 || took < 900*time.Millisecond || r.Traffic(FromClient).Dropped != 1 {
		t.Errorf("it took %v and %d retransmissions, %+v", took, sent, r.Traffic(FromClient))
	}
}

func TestHeldACKs(t *testing.T) {
	const hold = 50 * time.Millisecond
	r := NewRelay(t, Delays{}, HoldACKs(FromServer, hold))
	client, server := connect(t, &r.Network, netip.AddrPortFrom(r.Server.IPv4, port), Socket{})
	// Nagle's algorithm: the second write waits for the first one's acknowledgement.
	begin := time.Now()
	for range 2 {
		if _, err := client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(server, make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < hold || took > 2*hold {
		t.Errorf("it took %v", took)
	}
}

func TestVeth(t *testing.T) {
	families(t, func(t *testing.T, address func(*Namespace) netip.AddrPort) {
		n := NewVeth(t)
		client, server := connect(t, n, address(n.Server), Socket{})
		opened := increase(n.Client, "Tcp.OutSegs", func() {
			size := livetest.Less(200_000_000)
			took := transfer(t, client, server, size)
			t.Logf("%.0f MB/s", float64(size)/took.Seconds()/1e6)
		})
		if opened == 0 {
			t.Error("it did not go over the network")
		}
	})
}

func TestRelayThroughput(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		r := NewRelay(t, Delays{delay, delay})
		client, server := connect(t, &r.Network, netip.AddrPortFrom(r.Server.IPv4, port), Socket{Congestion: "cubic"})
		size := livetest.Less(200_000_000)
		took := transfer(t, client, server, size)
		t.Logf("%.0f MB/s with a delay of %v; %+v %+v", float64(size)/took.Seconds()/1e6, delay, r.Traffic(FromClient), r.Traffic(FromServer))
	}
}

// failures keeps what a test would fail with.
type failures struct {
	testing.TB
	messages []string
}

func (f *failures) Error(args ...any) { f.messages = append(f.messages, fmt.Sprint(args...)) }

func TestTooManyPacketsFail(t *testing.T) {
	f := &failures{TB: t}
	const limit = 100
	r := newRelay(f, limit, Delays{time.Second, time.Second})
	err := r.Client.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range limit + 1 {
			if err := unix.Sendto(fd, []byte{1}, 0, &unix.SockaddrInet4{Port: port, Addr: r.Server.IPv4.As4()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-r.done
	if len(f.messages) != 1 || !strings.Contains(f.messages[0], fmt.Sprintf("more than %d packets", limit)) {
		t.Errorf("it failed with %q", f.messages)
	}
}

func TestDevicesThatDropFail(t *testing.T) {
	f := &failures{TB: t}
	r := newRelay(f, queueLimit, Delays{}, func(Segment) Verdict {
		time.Sleep(500 * time.Millisecond) // so that nobody takes what comes next
		return Pass
	})
	l, err := r.Server.Listen(netip.AddrPortFrom(r.Server.IPv4, port), Socket{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = r.Client.Do(func() error {
		tcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(tcp)
		to := &unix.SockaddrInet4{Port: port, Addr: r.Server.IPv4.As4()}
		if err := unix.Connect(tcp, to); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(udp)
		for range deviceLimit + 100 {
			if err := unix.Sendto(udp, []byte{1}, 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.ended.Do(r.end)
	if len(f.messages) == 0 || !strings.Contains(f.messages[0], "dropped") {
		t.Errorf("it failed with %q", f.messages)
	}
}

// threadNamespaces are those that this process's threads are in.
func threadNamespaces(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, link := range links {
		name, err := os.Readlink(link)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestNamespacesAreLeftAndGone(t *testing.T) {
	home := threadNamespaces(t)
	if len(home) != 1 {
		t.Fatalf("before, threads are in %q", home)
	}
	t.Run("both", func(t *testing.T) {
		r, v := NewRelay(t, Delays{}), NewVeth(t)
		inside := map[string]bool{}
		for _, n := range []*Namespace{r.Client, r.Server, v.Client, v.Server} {
			if err := n.Do(func() error {
				name, err := os.Readlink(ownNamespace)
				inside[name] = true
				return err
			}); err != nil {
				t.Error(err)
			}
		}
		if len(inside) != 4 || inside[home[0]] {
			t.Errorf("four namespaces are %v", inside)
		}
	})
	ended := make(chan struct{})
	t.Run("a goroutine that ends inside", func(t *testing.T) {
		n := NewVeth(t).Client
		go func() {
			defer close(ended)
			n.Do(func() error { runtime.Goexit(); return nil })
		}()
		<-ended
	})
	if after := threadNamespaces(t); !slices.Equal(after, home) {
		t.Errorf("afterwards, threads are in %q", after)
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && (strings.HasPrefix(to, "net:") || to == tunDevice) {
			t.Errorf("afterwards, %s is %s", fd, to)
		}
	}
}
