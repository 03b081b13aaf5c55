package testnet

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"culprit/probes/internal/livetest"

	"golang.org/x/sys/unix"
)

const ms = time.Millisecond

// ends are those of a connection to the server.
func ends(n *Network) (client, server End) {
	address := netip.AddrPortFrom(n.Server.IPv4, port)
	return End{Address: address}, End{Address: address, Listen: true}
}

// agree fails unless each end counted what the other did.
func agree(t *testing.T, client, server Counts) {
	t.Helper()
	if client.Connections != server.Connections || client.Sent != server.Received || client.Received != server.Sent {
		t.Errorf("the client counted %d connections, %d bytes sent, %d received, the server %d, %d received, %d sent",
			client.Connections, client.Sent, client.Received, server.Connections, server.Received, server.Sent)
	}
}

func TestExchange(t *testing.T) {
	const count = 30
	for _, test := range []struct {
		name        string
		noDelay     bool
		sleep       time.Duration
		least, most time.Duration // of the median
	}{
		{name: "Nagle", least: 35 * ms, most: 60 * ms},
		{name: "no delay", noDelay: true, most: 5 * ms},
		{name: "a server that sleeps", noDelay: true, sleep: 44 * ms, least: 44 * ms, most: 50 * ms},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := NewVeth(t)
			client, server := ends(n)
			client.Socket.NoDelay = test.noDelay
			a := n.Server.Run("answerer", Answer{End: server, Requests: []int{200}, Reply: 100, Sleep: test.sleep})
			e := n.Client.Run("exchanger", Exchange{End: client, Count: count, Writes: []int{100, 100}, Reply: 100})
			counted := e.Wait()
			agree(t, counted, a.Wait())
			if counted.Connections != 1 || counted.Sent != 200*count || counted.Received != 100*count || len(counted.Took) != count {
				t.Errorf("%+v", counted)
			}
			slices.Sort(counted.Took)
			if median := counted.Took[count/2]; median < test.least || median > test.most {
				t.Errorf("half of the exchanges took more than %v", median)
			}
		})
	}
}

// status is a line of /proc/PID/status.
func status(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s of %d", name, pid)
	return ""
}

func TestProcessesHaveTheirNamesAndCPUs(t *testing.T) {
	n := NewVeth(t)
	client, server := ends(n)
	server.CPUs, server.Nice = []int{1}, 5
	a := n.Server.Run("answerer", Answer{End: server, Requests: []int{1}, Reply: 1})
	e := n.Client.Run("exchanger", Exchange{End: client, Count: 1, Writes: []int{1}, Reply: 1, Pause: 200 * ms})
	s := n.Client.Run("spinner", Spin{End: End{CPUs: []int{0}}, For: 200 * ms})
	for _, p := range []struct {
		pid        int
		comm, cpus string
	}{{a.PID, "answerer", "1"}, {e.PID, "exchanger", status(t, os.Getpid(), "Cpus_allowed_list")}, {s.PID, "spinner", "0"}} {
		comm, cpus := "", ""
		for deadline := time.Now().Add(10 * time.Second); (comm != p.comm || cpus != p.cpus) && time.Now().Before(deadline); time.Sleep(ms) {
			comm, cpus = status(t, p.pid, "Name"), status(t, p.pid, "Cpus_allowed_list")
		}
		if comm != p.comm || cpus != p.cpus {
			t.Errorf("a process is called %q and may use the CPUs %s, want %q and %s", comm, cpus, p.comm, p.cpus)
		}
	}
	if priority, err := unix.Getpriority(unix.PRIO_PROCESS, a.PID); err != nil || 20-priority != 5 {
		t.Errorf("answerer's niceness is %d, %v", 20-priority, err)
	}
	s.Wait()
	agree(t, e.Wait(), a.Wait())
}

func TestBulk(t *testing.T) {
	for _, test := range []struct {
		name    string
		bytes   int64
		send    Send
		receive Receive
		least   time.Duration
		blocked time.Duration // the longest write, at least
	}{
		{name: "at full speed", bytes: int64(livetest.Less(100_000_000))},
		{name: "a reader that waits", bytes: 20_000_000, receive: Receive{Wait: 300 * ms}, least: 300 * ms, blocked: 200 * ms},
		{name: "a slow reader", bytes: 1_000_000, receive: Receive{End: End{Socket: Socket{RcvBuf: 20_000}}, Chunk: 10_000, Pause: 2 * ms}, least: 200 * ms},
		{name: "a paced sender", bytes: 500_000, send: Send{End: End{Socket: Socket{PacingRate: 1_000_000}}}, least: 400 * ms},
		{name: "now and then", bytes: 10_000, send: Send{Chunk: 1000, Pause: 10 * ms}, least: 100 * ms},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := NewVeth(t)
			client, server := ends(n)
			client.Socket, server.Socket = test.send.Socket, test.receive.Socket
			test.send.End, test.receive.End, test.send.Bytes = client, server, test.bytes
			begin := time.Now()
			r := n.Server.Run("receiver", test.receive)
			s := n.Client.Run("sender", test.send)
			sent, received := s.Wait(), r.Wait()
			took := time.Since(begin)
			agree(t, sent, received)
			if sent.Sent != test.bytes || took < test.least {
				t.Errorf("%d bytes in %v", sent.Sent, took)
			}
			if test.blocked > 0 && (len(sent.Took) == 0 || slices.Max(sent.Took) < test.blocked) {
				t.Errorf("slow writes took %v", sent.Took)
			}
		})
	}
}

func TestReaderIsLateWhereOthersHaveItsCPU(t *testing.T) {
	const count, burst, pause = 20, 20 * ms, 20 * ms
	n := NewVeth(t)
	client, server := ends(n)
	client.CPUs, server.CPUs, client.Socket.NoDelay = []int{0}, []int{1}, true
	r := n.Server.Run("reader", Answer{End: server, Requests: []int{100}, Reply: 1})
	n.Server.Run("spinner", Spin{End: End{CPUs: []int{1}}, For: time.Minute, Burst: burst, Pause: pause, RealTime: true})
	time.Sleep(100 * ms) // until it has begun
	// Each request is at another time of the bursts' period.
	counted := n.Client.Run("sender", Exchange{End: client, Count: count, Writes: []int{100}, Reply: 1, Pause: 13 * ms}).Wait()
	agree(t, counted, r.Wait())
	late := 0
	for _, took := range counted.Took {
		if took > 2*ms {
			late++
		}
	}
	if late < count/4 || slices.Max(counted.Took) < burst/2 {
		t.Errorf("it was late for %d of %d requests: %v", late, count, counted.Took)
	}
}

// Either end can be the one that listens.
func TestServerSends(t *testing.T) {
	n := NewVeth(t)
	client, server := ends(n)
	s := n.Server.Run("sender", Send{End: server, Bytes: 1_000_000})
	received := n.Client.Run("receiver", Receive{End: client}).Wait()
	agree(t, received, s.Wait())
	if received.Received != 1_000_000 {
		t.Errorf("%d bytes", received.Received)
	}
}

func TestShort(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			n := NewVeth(t)
			client, server := ends(n)
			if family == "IPv6" {
				client.Address = netip.AddrPortFrom(n.Server.IPv6, port)
				server.Address = client.Address
			}
			const count = 300
			before, beforeServer := n.Client.SNMP(), n.Server.SNMP()
			s := n.Server.Run("server", Short{End: server, Count: count, Seed: 7, Most: 50_000})
			counted := n.Client.Run("client", Short{End: client, Count: count, Seed: 7, Most: 50_000}).Wait()
			agree(t, counted, s.Wait())
			if counted.Connections != count || counted.Sent < 20_000*count || counted.Received < 20_000*count {
				t.Errorf("%+v", counted)
			}
			after, afterServer := n.Client.SNMP(), n.Server.SNMP()
			opened, accepted := after["Tcp.ActiveOpens"]-before["Tcp.ActiveOpens"], afterServer["Tcp.PassiveOpens"]-beforeServer["Tcp.PassiveOpens"]
			resets := [2]int64{after["Tcp.OutRsts"] - before["Tcp.OutRsts"], afterServer["Tcp.OutRsts"] - beforeServer["Tcp.OutRsts"]}
			if opened != count || accepted != count || resets != [2]int64{count / 6, count / 6} {
				t.Errorf("the kernel counted %d opened, %d accepted, %v resets", opened, accepted, resets)
			}
		})
	}
}

// To connect takes a round trip each time, and is part of what the client does; who accepts does not connect.
func TestConnecting(t *testing.T) {
	const count, roundTrip = 3, 20 * ms
	r := NewRelay(t, Delays{roundTrip / 2, roundTrip / 2})
	client, server := ends(&r.Network)
	s := r.Server.Run("server", Short{End: server, Count: count, Most: 100})
	begin := time.Now()
	counted := r.Client.Run("client", Short{End: client, Count: count, Most: 100}).Wait()
	took, served := time.Since(begin), s.Wait()
	agree(t, counted, served)
	// Each connection has a request and its reply, too.
	if counted.Connecting < count*roundTrip || counted.Connecting > took-count*roundTrip || served.Connecting != 0 {
		t.Errorf("it connected for %v of %v, and who accepts for %v", counted.Connecting, took, served.Connecting)
	}
}

func TestIdle(t *testing.T) {
	const rounds, warm, burst = 2, 2_000_000, 200_000
	r := NewRelay(t, Delays{10 * ms, 10 * ms})
	client, server := ends(&r.Network)
	client.Socket.Congestion = "cubic"
	a := r.Server.Run("answerer", Answer{End: server, Requests: []int{warm, burst}, Reply: 1})
	counted := r.Client.Run("idler", Idle{End: client, Rounds: rounds, Warm: warm, Burst: burst, Pause: 2 * time.Second}).Wait()
	agree(t, counted, a.Wait())
	t.Logf("windows %v, bursts took %v", counted.Windows, counted.Took)
	if len(counted.Windows) != rounds || len(counted.Took) != rounds || counted.Sent != rounds*(warm+burst) {
		t.Fatalf("%+v", counted)
	}
	for i, w := range counted.Windows {
		if w.Before < 50 || w.After > 20 || counted.Took[i] < 60*ms {
			t.Errorf("the window fell from %d to %d, and the burst took %v", w.Before, w.After, counted.Took[i])
		}
	}
}

func TestOwnersChange(t *testing.T) {
	const first, count = 3, 10
	exchange := Exchange{Count: count, Writes: []int{20}, Reply: 10}
	answer := Answer{Requests: []int{20}, Reply: 10}
	check := func(t *testing.T, name string, got Counts, connections, requests int) {
		t.Helper()
		if got.Connections != connections || got.Sent+got.Received != int64(30*requests) {
			t.Errorf("%s: %+v, want %d connections and %d requests", name, got, connections, requests)
		}
	}
	t.Run("passed", func(t *testing.T) {
		n := NewVeth(t)
		client, server := ends(n)
		exchange, answer := exchange, answer
		exchange.End, answer.End = client, server
		taker := n.Server.Run("taker", TakeOver{Answer: Answer{Requests: answer.Requests, Reply: answer.Reply}, Channel: "connections"})
		passer := n.Server.Run("passer", HandOver{Answer: answer, First: first, Channel: "connections"})
		check(t, "client", n.Client.Run("client", exchange).Wait(), 1, count)
		check(t, "passer", passer.Wait(), 1, first)
		check(t, "taker", taker.Wait(), 0, count-first)
	})
	t.Run("inherited", func(t *testing.T) {
		n := NewVeth(t)
		client, server := ends(n)
		exchange, answer := exchange, answer
		exchange.End, answer.End = client, server
		answerer := n.Server.Run("answerer", answer)
		counted := n.Client.Run("parent", Inherit{Exchange: exchange, First: first, Heir: "heir"}).Wait()
		check(t, "parent", counted, 1, first)
		if counted.Heir == nil {
			t.Fatal("the heir counted nothing")
		}
		check(t, "heir", *counted.Heir, 0, count-first)
		check(t, "server", answerer.Wait(), 1, count)
	})
}

func TestHTTP(t *testing.T) {
	n := NewVeth(t)
	client, server := ends(n)
	s := n.Server.Run("serves", Serve{End: server})
	b := n.Client.Run("browses", Browse{End: client, Clients: 3, For: 500 * ms, Most: 100_000, Reuse: 20, Pause: ms})
	counted := b.Wait()
	agree(t, counted, s.Wait())
	if counted.Connections < 4 || len(counted.Took) < 3*20 || counted.Received < 1_000_000 {
		t.Errorf("%d connections, %d requests, %d bytes", counted.Connections, len(counted.Took), counted.Received)
	}
}

// The kernel's count of what a load waited for a CPU is that of its own process.
func TestRunDelay(t *testing.T) {
	n := NewVeth(t)
	n.Server.Run("spins", Spin{End: End{CPUs: []int{0}}, For: time.Minute, RealTime: true, Burst: 30 * ms, Pause: 30 * ms})
	spin := Spin{End: End{CPUs: []int{0}}, For: 600 * ms}
	if waited := n.Client.Run("waits", spin).Wait().RunDelay; waited < 200*ms || waited > 600*ms {
		t.Errorf("it waited for %v", waited)
	}
}

// Neither waits for the other, and both hear everything.
func TestTalk(t *testing.T) {
	n := NewVeth(t)
	client, server := ends(n)
	s := n.Server.Run("server", Talk{End: server, Writes: 20, Size: 600, Every: 10 * ms})
	c := n.Client.Run("client", Talk{End: client, Writes: 4, Size: 20, Every: 30 * ms})
	counted := c.Wait()
	agree(t, counted, s.Wait())
	if counted.Sent != 4*20 || counted.Received != 20*600 {
		t.Errorf("%+v", counted)
	}
}
