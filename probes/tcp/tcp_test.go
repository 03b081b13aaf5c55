package tcp_test

import (
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// Every byte is its application's, whoever closes a connection, and however.
func TestBytesAreExact(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{Connections: true})
	count := 1000
	if testing.Short() {
		count = 200
	}
	load := testnet.Short{End: testnet.End{Address: at(n.Server, 7000)}, Count: count, Seed: 7, Most: 100_000}
	listen := load
	listen.Listen = true
	var counts []testnet.Counts
	still := livetest.StoodStill(t, func() {
		server := n.Server.Run("shortserver", listen)
		counts = w.while(server, n.Client.Run("shortclient", load))
	})
	time.Sleep(100 * time.Millisecond)
	s := w.read()
	for i, comm := range []string{"shortserver", "shortclient"} {
		r, c := row(t, s, comm), counts[i]
		log(t, r)
		if int64(r.Sent) != c.Sent || int64(r.Received) != c.Received {
			t.Errorf("%s: sent %d and received %d bytes, counted itself %d and %d", comm, r.Sent, r.Received, c.Sent, c.Received)
		}
		if made := r.Opened + r.Accepted; made != uint64(count) || r.Closed != made || r.Open != 0 || r.Failed() != 0 {
			t.Errorf("%s: made %d connections, closed %d, %d are open, %d failed; want %d", comm, made, r.Closed, r.Open, r.Failed(), count)
		}
		logProbes(t, []*testnet.Namespace{n.Server, n.Client}[i])
		if len(r.Stalls) > 0 && still.Count == 0 {
			t.Errorf("%s: stalls: %v", comm, r.Stalls)
		}
	}
	balance(t, s)
}

// balance holds our counts against the kernel's. There is a skew where others use the network meanwhile.
func balance(t *testing.T, s snapshot.TCP) {
	t.Helper()
	for _, c := range s.Kernel {
		if r := c.Residual(); max(r, -r) > int64(c.Skew) {
			t.Errorf("%s: %d, by the kernel's count %d, skew %d", c.Name, c.Ours, c.Kernel, c.Skew)
		}
	}
}

// The kernel's counters are read where most processes have ended before anybody looked.
func TestAuditOutlivesProcesses(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newWatch(t, tcp.Options{})
	const count = 12
	end := testnet.End{Address: at(n.Server, 7000)}
	listen := end
	listen.Listen = true
	server := n.Server.Run("answer", testnet.Answer{End: listen, Connections: count, Requests: []int{10}, Reply: 10})
	for range count {
		n.Client.Run("ask", testnet.Exchange{End: end, Count: 1, Writes: []int{10}, Reply: 10}).Wait()
	}
	w.while(server)
	s := w.read()
	balance(t, s)
	if made := row(t, s, "ask").Opened; made != count || s.Kernel[0].Kernel < count {
		t.Errorf("%d connections, by the kernel's count %d", made, s.Kernel[0].Kernel)
	}
}

// A client that writes twice and then reads waits for the delayed acknowledgement each time.
func TestNagle(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	for _, noDelay := range []bool{false, true} {
		w := newWatch(t, tcp.Options{Worst: true})
		end := testnet.End{Address: at(n.Server, 7001)}
		listen := end
		listen.Listen = true
		server := n.Server.Run("answer", testnet.Answer{End: listen, Requests: []int{200}, Reply: 100})
		end.Socket.NoDelay = noDelay
		client := n.Client.Run("ask", testnet.Exchange{End: end, Count: 60, Writes: []int{100, 100}, Reply: 100})
		w.while(client, server)
		s := w.read()
		for _, comm := range []string{"answer", "ask"} {
			log(t, row(t, s, comm))
		}
		balance(t, s)
	}
}
