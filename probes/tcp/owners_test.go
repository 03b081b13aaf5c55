package tcp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/hook"
	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// counted holds a row's bytes against what its processes counted themselves.
func counted(t *testing.T, r snapshot.TCPRow, c testnet.Counts) {
	t.Helper()
	log(t, r)
	if int64(r.Sent) != c.Sent || int64(r.Received) != c.Received {
		t.Errorf("%s: sent %d and received %d bytes, counted itself %d and %d", r.Comm, r.Sent, r.Received, c.Sent, c.Received)
	}
}

// lived holds rows against how many connections they opened and accepted together, which have all ended.
func lived(t *testing.T, opened, accepted uint64, rows ...snapshot.TCPRow) {
	t.Helper()
	var sum snapshot.TCPRow
	for _, r := range rows {
		sum.Opened, sum.Accepted, sum.Closed, sum.Open = sum.Opened+r.Opened, sum.Accepted+r.Accepted, sum.Closed+r.Closed, sum.Open+r.Open
		sum.Aborted += r.Failed()
	}
	if sum.Opened != opened || sum.Accepted != accepted || sum.Closed != opened+accepted || sum.Open+sum.Aborted != 0 {
		t.Errorf("%d were opened, %d accepted, %d closed, %d are open, %d failed; want %d opened, %d accepted",
			sum.Opened, sum.Accepted, sum.Closed, sum.Open, sum.Aborted, opened, accepted)
	}
}

// attributed is that every row is somebody's.
func attributed(t *testing.T, s snapshot.TCP) {
	t.Helper()
	for _, r := range s.Rows {
		if strings.HasPrefix(r.Name(snapshot.ByApp), "[unattributed") {
			t.Errorf("%s: %d bytes, opened %d, accepted %d, open %d; %+v", r.Name(snapshot.ByApp), r.Bytes(), r.Opened, r.Accepted, r.Open, r.UDP)
		}
	}
}

// optionalRow is an empty one for want of a row.
func optionalRow(s snapshot.TCP, comm string) snapshot.TCPRow {
	for _, r := range s.Group(snapshot.ByComm).Rows {
		if r.Comm == comm {
			return r
		}
	}
	return snapshot.TCPRow{Process: snapshot.Process{Comm: comm}}
}

// self is the row of this process.
func self(t *testing.T, s snapshot.TCP) snapshot.TCPRow {
	t.Helper()
	return livetest.Row(t, s.Rows, "this process", func(r snapshot.TCPRow) bool { return r.PID == os.Getpid() })
}

func listening(e testnet.End) testnet.End {
	e.Listen = true
	return e
}

// families runs a test for each kind of address. They are where to connect, where to listen, and the server's as it is to be shown.
func families(t *testing.T, f func(t *testing.T, n *testnet.Network, connect, listen testnet.End, server, client netip.Addr)) {
	const port = 7100
	names := []string{"IPv4", "IPv6", "mapped"}
	if testing.Short() {
		names = names[2:] // one end of each kind
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			n := testnet.NewVeth(t)
			inhabit(n)
			connect, listen := n.Server.IPv4, n.Server.IPv4
			server, client := n.Server.IPv4, n.Client.IPv4
			switch name {
			case "IPv6":
				connect, listen, server, client = n.Server.IPv6, n.Server.IPv6, n.Server.IPv6, n.Client.IPv6
			case "mapped":
				connect, listen = netip.AddrFrom16(n.Server.IPv4.As16()), netip.IPv6Unspecified()
			}
			f(t, n, testnet.End{Address: netip.AddrPortFrom(connect, port)}, testnet.End{Address: netip.AddrPortFrom(listen, port), Listen: true},
				server, client)
		})
	}
}

// A connection that is passed to another process is that one's from its first use there on.
func TestPassedConnections(t *testing.T) {
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, _, _ netip.Addr) {
		for _, first := range []int{0, 3} {
			w := newWatch(t, tcp.Options{})
			answer := testnet.Answer{End: listen, Requests: []int{101}, Reply: 503}
			takes := answer
			takes.End = testnet.End{}
			taker := n.Server.Run("taker", testnet.TakeOver{Answer: takes, Channel: "passed"})
			giver := n.Server.Run("giver", testnet.HandOver{Answer: answer, First: first, Channel: "passed"})
			asker := n.Client.Run("asker", testnet.Exchange{End: connect, Count: 10, Writes: []int{101}, Reply: 503})
			counts := w.while(giver, taker, asker)
			s := w.read()
			gave, took, asked := optionalRow(s, "giver"), row(t, s, "taker"), row(t, s, "asker")
			counted(t, gave, counts[0])
			counted(t, took, counts[1])
			counted(t, asked, counts[2])
			lived(t, 0, 1, gave, took)
			lived(t, 1, 0, asked)
			attributed(t, s)
			balance(t, s)
		}
	})
}

// seesWrites is whether the kernel has the tracepoint that tells of writes.
func seesWrites(t *testing.T) bool {
	t.Helper()
	points, err := tcp.Check(nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(points, func(p hook.Tracepoint) bool { return p.Name == "sock_send_length" })
	return points[i].Present
}

// A connection that is inherited is the heir's from its first use there on, also where that is a write.
func TestInheritedConnections(t *testing.T) {
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, _, _ netip.Addr) {
		for _, first := range []int{0, 3} {
			w := newWatch(t, tcp.Options{})
			answer := n.Server.Run("answer", testnet.Answer{End: listen, Requests: []int{1009}, Reply: 20_011})
			parent := n.Client.Run("parent", testnet.Inherit{
				Exchange: testnet.Exchange{End: connect, Count: 10, Writes: []int{1009}, Reply: 20_011}, First: first, Heir: "heir",
			})
			counts := w.while(answer, parent)
			s := w.read()
			counted(t, row(t, s, "answer"), counts[0])
			if seesWrites(t) {
				counted(t, row(t, s, "parent"), counts[1])
				counted(t, row(t, s, "heir"), *counts[1].Heir)
			} else { // what the heir writes before it reads is the parent's
				both := row(t, s, "parent")
				both.TCPTraffic = both.TCPTraffic.Add(row(t, s, "heir").TCPTraffic)
				counts[1].Sent, counts[1].Received = counts[1].Sent+counts[1].Heir.Sent, counts[1].Received+counts[1].Heir.Received
				counted(t, both, counts[1])
			}
			lived(t, 0, 1, row(t, s, "answer"))
			lived(t, 1, 0, row(t, s, "parent"), row(t, s, "heir"))
			attributed(t, s)
			balance(t, s)
		}
	})
}

// A heir that reads what was there when it took over, and the process before it left, has just that.
func TestUnreadBytesAreTheHeirs(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	end := testnet.End{Address: at(n.Server, 7101)}
	taker := n.Server.Run("taker", testnet.TakeOver{Answer: testnet.Answer{Requests: []int{101}, Reply: 503}, Channel: "unread"})
	giver := n.Server.Run("giver", testnet.HandOver{
		Answer: testnet.Answer{End: listening(end), Requests: []int{101}, Reply: 503}, First: 3, Channel: "unread",
	})
	// All requests are there at once.
	client, err := n.Client.Dial(end.Address, testnet.Socket{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	transfer(t, client, 10*101, 10*503)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	counts := w.while(giver, taker)
	s := w.read()
	counted(t, row(t, s, "giver"), counts[0])
	counted(t, row(t, s, "taker"), counts[1])
	balance(t, s)
}

// Processes that read one after the other have just what they read, although the kernel keeps a new one where it kept one that is gone.
func TestReadersThatAreGone(t *testing.T) {
	const each, readers, pause = 101, 60, 30 * time.Millisecond // until the kernel has freed what was a process
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	client, server := pair(t, n, at(n.Server, 7103))
	if _, err := client.Write(make([]byte, each*readers)); err != nil {
		t.Fatal(err)
	}
	file, err := server.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		t.Fatal(err)
	}
	pids := map[int]bool{}
	for range readers {
		read := exec.Command("taskset", "-c", "0", "dd", fmt.Sprint("bs=", each), "count=1", "of=/dev/null", "status=none")
		read.Stdin, read.Stderr = file, os.Stderr
		if err := read.Run(); err != nil {
			t.Fatal(err)
		}
		pids[read.Process.Pid] = true
		time.Sleep(pause)
	}
	s := w.read()
	found := 0
	for _, r := range s.Group(snapshot.ByPID).Rows {
		if !pids[r.PID] {
			continue
		}
		found++
		if r.Received != each {
			t.Errorf("process %d has received %d bytes, and read %d", r.PID, r.Received, each)
		}
	}
	if found != readers {
		t.Errorf("%d of %d processes have received something", found, readers)
	}
	balance(t, s)
}

// Processes that write at the same time take a connection over from each other all the time, whatever comes in meanwhile.
func TestWritersAtOnce(t *testing.T) {
	const each = 6000
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	client, server := pair(t, n, at(n.Server, 7104))
	file, err := server.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		t.Fatal(err)
	}
	var writers []*exec.Cmd
	for cpu := range 2 {
		write := exec.Command("taskset", "-c", fmt.Sprint(cpu), "dd", "if=/dev/zero", "bs=1", fmt.Sprint("count=", each), "status=none")
		write.Stdout, write.Stderr = file, os.Stderr
		writers = append(writers, write)
	}
	for _, write := range writers {
		if err := write.Start(); err != nil {
			t.Fatal(err)
		}
	}
	transfer(t, client, 0, each*len(writers))
	for _, write := range writers {
		if err := write.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	s := w.read()
	var sum snapshot.TCPRow
	for _, r := range s.Rows {
		if r.Comm == "dd" || !seesWrites(t) && r.Sent > 0 { // else who writes takes nothing over
			sum.Sent, sum.Accepted, sum.Open = sum.Sent+r.Sent, sum.Accepted+r.Accepted, sum.Open+r.Open
		}
	}
	if sum.Sent != uint64(each*len(writers)) || sum.Accepted != 1 || sum.Open != 1 && seesWrites(t) {
		t.Errorf("sent %d bytes, %d were accepted, %d are open; want %d, 1, 1", sum.Sent, sum.Accepted, sum.Open, each*len(writers))
	}
	for _, r := range s.Rows {
		log(t, r)
	}
	balance(t, s)
}

// transfer writes and reads so many bytes.
func transfer(t *testing.T, c net.Conn, write, read int) {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(make([]byte, write)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, read)); err != nil {
		t.Fatal(err)
	}
}

// Where one process listens and another accepts, the connections are the other's, even if it closes them at once.
func TestAcceptedElsewhere(t *testing.T) {
	const connections = 20
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, _, _ netip.Addr) {
		for _, c := range []struct {
			name    string
			answer  testnet.Answer
			request int
		}{
			{"used", testnet.Answer{Requests: []int{101}, Reply: 503}, 101},
			{"closed", testnet.Answer{}, 0},
			{"closed unread", testnet.Answer{Sleep: 10 * time.Millisecond}, 101},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWatch(t, tcp.Options{})
				c.answer.End, c.answer.Connections = listen, connections
				prefork := n.Server.Run("prefork", testnet.Prefork{Answer: c.answer, Worker: "worker"})
				for range connections {
					client, err := n.Client.Dial(connect.Address, testnet.Socket{})
					if err != nil {
						t.Fatal(err)
					}
					if c.answer.Requests != nil {
						transfer(t, client, c.request, c.answer.Reply)
					} else {
						client.Write(make([]byte, c.request))
						client.SetDeadline(time.Now().Add(time.Minute))
						if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil {
							t.Fatalf("%d bytes, %v", n, err)
						}
					}
					client.Close()
				}
				counts := w.while(prefork)
				s := w.read()
				worked := row(t, s, "worker")
				if c.request > 0 && c.answer.Requests == nil {
					// It did not read them.
					counts[0].Heir.Received += int64(connections * c.request)
				}
				counted(t, worked, *counts[0].Heir)
				lived(t, 0, connections, worked)
				if r := optionalRow(s, "prefork"); r.Bytes() != 0 || r.Accepted+r.Closed != 0 {
					log(t, r)
					t.Error("the listener has a part")
				}
				attributed(t, s)
				balance(t, s)
			})
		}
	})
}

// Connections and listeners that are older than the probe are found, with whose they are. What they did before is not counted.
func TestOlderConnections(t *testing.T) {
	families(t, func(t *testing.T, n *testnet.Network, connect, listen testnet.End, server, client netip.Addr) {
		const request, reply, before, after = 101, 503, 3, 5
		answer := n.Server.Run("answer", testnet.Answer{End: listen, Connections: 3, Requests: []int{request}, Reply: reply})
		dial := func() net.Conn {
			c, err := n.Client.Dial(connect.Address, testnet.Socket{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}
		used, queued := dial(), dial()
		for range before {
			transfer(t, used, request, reply)
		}
		w := newYoungWatch(t, tcp.Options{Connections: true})
		for range after {
			transfer(t, used, request, reply)
		}
		s := w.read()
		for _, r := range []snapshot.TCPRow{row(t, s, "answer"), self(t, s)} {
			log(t, r)
			if r.Opened+r.Accepted+r.Closed != 0 {
				t.Errorf("%s: old connections are taken for new ones", r.Comm)
			}
		}
		counted(t, row(t, s, "answer"), testnet.Counts{Sent: after * reply, Received: after * request})
		counted(t, self(t, s), testnet.Counts{Sent: after * request, Received: after * reply})
		if got := self(t, s).Open; got != 2 {
			t.Errorf("%d are open, want 2", got)
		}
		at := netip.AddrPortFrom(server, listen.Address.Port())
		from := netip.AddrPortFrom(client, used.LocalAddr().(*net.TCPAddr).AddrPort().Port())
		for _, want := range []snapshot.TCPConnection{
			{Process: snapshot.Process{Comm: "answer"}, Local: at, Remote: from}, {Process: snapshot.Process{Comm: self(t, s).Comm}, Local: from, Remote: at},
		} {
			if !slices.ContainsFunc(s.Connections, func(c snapshot.TCPConnection) bool {
				return c.Comm == want.Comm && c.Local == want.Local && c.Remote == want.Remote && c.Since.IsZero()
			}) {
				t.Errorf("no connection of %s from %s to %s: %v", want.Comm, want.Local, want.Remote, s.Connections)
			}
		}
		// What was accepted by nobody when the probe began has an owner as soon as somebody uses it.
		used.Close()
		for range after {
			transfer(t, queued, request, reply)
		}
		queued.Close()
		young := dial()
		transfer(t, young, request, reply)
		young.Close()
		w.while(answer)
		s = w.read()
		counted(t, row(t, s, "answer"), testnet.Counts{Sent: (after + 1) * reply, Received: (after + 1) * request})
		counted(t, self(t, s), testnet.Counts{Sent: (after + 1) * request, Received: (after + 1) * reply})
		for _, r := range []snapshot.TCPRow{row(t, s, "answer"), self(t, s)} {
			if r.Opened+r.Accepted != 1 || r.Closed != 3 || r.Open != 0 {
				t.Errorf("%s: made %d, closed %d, %d are open; want 1, 3, 0", r.Comm, r.Opened+r.Accepted, r.Closed, r.Open)
			}
		}
		attributed(t, s)
		balance(t, s)
	})
}

// Every one of many short connections is somebody's, in several namespaces at once.
func TestShortConnections(t *testing.T) {
	count := 5000
	if testing.Short() {
		count = 250
	}
	var networks []*testnet.Network
	for range 2 {
		n := testnet.NewVeth(t)
		inhabit(n)
		networks = append(networks, n)
	}
	w := newWatch(t, tcp.Options{})
	var processes []*testnet.Process
	comms := []string{"server4", "client4", "server6", "client6"}
	for i, n := range networks {
		address := []netip.Addr{n.Server.IPv4, n.Server.IPv6}[i]
		load := testnet.Short{End: testnet.End{Address: netip.AddrPortFrom(address, 7102)}, Count: count, Seed: uint64(i), Most: 2000}
		serves := load
		serves.End = listening(load.End)
		processes = append(processes, n.Server.Run(comms[2*i], serves), n.Client.Run(comms[2*i+1], load))
	}
	counts := w.while(processes...)
	time.Sleep(100 * time.Millisecond)
	s := w.read()
	for i, comm := range comms {
		r := row(t, s, comm)
		counted(t, r, counts[i])
		if i%2 == 0 {
			lived(t, 0, uint64(count), r)
		} else {
			lived(t, uint64(count), 0, r)
		}
	}
	attributed(t, s)
	balance(t, s)
	missed := lost(s, "events_missed") // since 7.0, where programs are preempted
	for _, l := range s.Loss {
		if l.Count > 0 && l.Name != "events_missed" && !isOthers(l) && (l.Name != "unseen_segments" || l.Count > missed) {
			t.Errorf("%s=%d", l.Name, l.Count)
		}
	}
}

// The first connections of a namespace that is younger than the probe are counted with all others, also while they last.
func TestYoungNamespace(t *testing.T) {
	w := newYoungWatch(t, tcp.Options{})
	n := testnet.NewVeth(t)
	inhabit(n)
	end := testnet.End{Address: at(n.Server, 7103)}
	n.Server.Run("holds", testnet.Hold{End: listening(end), Count: 3})
	n.Client.Run("dials", testnet.Hold{End: end, Count: 3})
	established(t, n.Client, 3)
	established(t, n.Server, 3)
	s := w.read()
	for _, c := range s.Kernel {
		if (c.Name == "ActiveOpens" || c.Name == "PassiveOpens") && (c.Ours < 3 || c.Kernel < 3) {
			t.Errorf("%s: %d, by the kernel's count %d", c.Name, c.Ours, c.Kernel)
		}
	}
	if n := lost(s, "namespaces_unaudited"); n > 0 {
		t.Errorf("%d namespaces are not audited", n)
	}
	balance(t, s)
}

// The inode of a namespace that is gone is soon another one's, whose counters begin anew.
func TestNamespacesOfOneInode(t *testing.T) {
	w := newYoungWatch(t, tcp.Options{})
	known, again := map[uint32]bool{}, 0
	for count := 40; again < 4; count-- {
		if count == 0 {
			t.Fatal("no network namespace has got the inode of one that was gone")
		}
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			n := testnet.NewVeth(t)
			end := testnet.End{Address: at(n.Server, 7106)}
			n.Server.Run("holds", testnet.Hold{End: listening(end), Count: count})
			n.Client.Run("dials", testnet.Hold{End: end, Count: count})
			established(t, n.Client, int64(count))
			established(t, n.Server, int64(count))
			for _, end := range []*testnet.Namespace{n.Client, n.Server} {
				number := inode(t, end)
				if known[number] {
					again++
				}
				known[number] = true
			}
			s := w.read()
			balance(t, s)
			if unaudited := lost(s, "namespaces_unaudited"); unaudited > 0 || s.Kernel[0].Kernel < uint64(count) {
				t.Errorf("%d namespaces are not audited, of %d connections the kernel has counted %d", unaudited, count, s.Kernel[0].Kernel)
			}
		})
		time.Sleep(20 * time.Millisecond) // until the kernel has taken the namespaces down
	}
}

// established is until a namespace has so many connections.
func established(t *testing.T, n *testnet.Namespace, count int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); n.SNMP()["Tcp.CurrEstab"] < count; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want %d", n.SNMP()["Tcp.CurrEstab"], count)
		}
	}
}

// lost is a counter of what was lost.
func lost(s snapshot.TCP, name string) uint64 {
	return livetest.Lost(s.Loss, name)
}

// A connection of Multipath TCP is its process's, and what went over it is counted once.
func TestMultipath(t *testing.T) {
	livetest.NeedConfig(t, "CONFIG_MPTCP")
	const request, reply, count = 1009, 20_011, 5
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newYoungWatch(t, tcp.Options{}) // which has nothing that ends late of this process's other tests
	address := at(n.Server, 7104).String()
	var listener net.Listener
	err := n.Server.Do(func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(true)
		listener, err = c.Listen(context.Background(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for range count {
		var client net.Conn
		err := n.Client.Do(func() (err error) {
			var d net.Dialer
			d.SetMultipathTCP(true)
			client, err = d.Dial("tcp", address)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if is, err := client.(*net.TCPConn).MultipathTCP(); !is || err != nil {
			t.Fatalf("not of Multipath TCP: %v", err)
		}
		both(t, client, server, request, reply)
		client.Close()
		server.Close()
	}
	time.Sleep(100 * time.Millisecond)
	s := w.read()
	counted(t, self(t, s), testnet.Counts{Sent: count * (request + reply), Received: count * (request + reply)})
	lived(t, count, count, self(t, s))
	attributed(t, s)
	balance(t, s)
}

// A socket that is disconnected and connects again has two connections.
func TestReusedSocket(t *testing.T) {
	const port, count = 7105, 3
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newYoungWatch(t, tcp.Options{Connections: true}) // as above
	serve(t, n, at(n.Server, port), func(c *net.TCPConn) error {
		_, err := io.ReadFull(c, make([]byte, 100))
		c.Read(make([]byte, 1))
		return err
	})
	var fd int
	err := n.Client.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range count {
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: n.Server.IPv4.As4(), Port: port}); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		if _, _, failed := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unspecified()), 16); failed != 0 {
			t.Fatal(failed)
		}
	}
	unix.Close(fd)
	time.Sleep(50 * time.Millisecond)
	s := w.read()
	counted(t, self(t, s), testnet.Counts{Sent: count * 100, Received: count * 100})
	lived(t, count, count, self(t, s))
	balance(t, s)
}

// Nothing is counted twice, or in no reading, while connections come, go and change hands.
func TestReadingsAddUp(t *testing.T) {
	count := 3000
	if testing.Short() {
		count = 300
	}
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	short := testnet.Short{End: testnet.End{Address: at(n.Server, 7106)}, Count: count, Seed: 5, Most: 20_000}
	serves := short
	serves.End = listening(short.End)
	shared := testnet.End{Address: at(n.Server, 7107)}
	answer := testnet.Answer{End: listening(shared), Requests: []int{101}, Reply: 503}
	takes := answer
	takes.End = testnet.End{}
	comms := []string{"shortserver", "shortclient", "taker", "giver", "parent"}
	processes := []*testnet.Process{
		n.Server.Run("shortserver", serves), n.Client.Run("shortclient", short),
		n.Server.Run("taker", testnet.TakeOver{Answer: takes, Channel: "readings"}),
		n.Server.Run("giver", testnet.HandOver{Answer: answer, First: 50, Channel: "readings"}),
		n.Client.Run("parent", testnet.Inherit{
			Exchange: testnet.Exchange{End: shared, Count: 200, Writes: []int{101}, Reply: 503, Pause: ms}, First: 100, Heir: "heir",
		}),
	}
	done := make(chan []testnet.Counts)
	go func() {
		var counts []testnet.Counts
		for _, p := range processes {
			counts = append(counts, p.Wait())
		}
		done <- counts
	}()
	var sum, last snapshot.TCP
	read := func() {
		s, err := w.probe.Read()
		if err != nil {
			t.Fatal(err)
		}
		sum.Rows = append(sum.Rows, s.Rows...)
		for i, c := range s.Kernel {
			if sum.Kernel == nil {
				sum.Kernel = make([]snapshot.TCPCounter, len(s.Kernel))
			}
			sum.Kernel[i] = snapshot.TCPCounter{Name: c.Name, Ours: sum.Kernel[i].Ours + c.Ours, Kernel: sum.Kernel[i].Kernel + c.Kernel}
			if r := c.Residual(); max(r, -r) > int64(c.Skew) {
				t.Errorf("%s: %d, by the kernel's count %d, skew %d", c.Name, c.Ours, c.Kernel, c.Skew)
			}
		}
		last = s
	}
	var counts []testnet.Counts
	readings := 0
	for counts == nil {
		select {
		case counts = <-done:
		case <-time.After(5 * time.Millisecond):
			read()
			if readings++; readings%20 == 0 {
				if err := w.table.CollectAll(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	read()
	t.Logf("%d readings", readings+1)
	for i, comm := range comms[:2] {
		counted(t, row(t, sum, comm), counts[i])
	}
	// What a reading found unread is the former owner's: of those who handed a connection over, all is there together.
	for _, pair := range []struct {
		from, to string
		counts   [2]testnet.Counts
	}{{"giver", "taker", [2]testnet.Counts{counts[3], counts[2]}}, {"parent", "heir", [2]testnet.Counts{counts[4], *counts[4].Heir}}} {
		from, to := row(t, sum, pair.from), row(t, sum, pair.to)
		from.TCPTraffic = from.TCPTraffic.Add(to.TCPTraffic)
		counted(t, from, testnet.Counts{Sent: pair.counts[0].Sent + pair.counts[1].Sent, Received: pair.counts[0].Received + pair.counts[1].Received})
		if int64(to.Sent) != pair.counts[1].Sent {
			t.Errorf("%s: sent %d bytes, counted itself %d", to.Comm, to.Sent, pair.counts[1].Sent)
		}
	}
	for _, comm := range append(comms, "heir") {
		if open := optionalRow(last, comm).Open; open != 0 {
			t.Errorf("%s has %d open connections", comm, open)
		}
	}
	attributed(t, sum)
	balance(t, sum)
}
