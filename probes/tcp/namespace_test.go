package tcp_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// inode is what reports call a namespace.
func inode(t testing.TB, n *testnet.Namespace) uint32 {
	t.Helper()
	var stat unix.Stat_t
	if err := n.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &stat) }); err != nil {
		t.Fatal(err)
	}
	return uint32(stat.Ino)
}

// Of a process with connections in two network namespaces, what it did in one of them is told apart, and so is the kernel's count.
func TestNamespace(t *testing.T) {
	const port, segments, request, reply = 7400, 50, 100, 7
	for _, end := range []string{"client", "server"} {
		t.Run(end, func(t *testing.T) {
			n := slow(t, dropNext(1, testnet.FromServer, testnet.SYN|testnet.ACK))
			inhabit(n)
			wanted, opened, sent := n.Client, uint64(1), uint64(segments*request)
			if end == "server" {
				wanted, opened, sent = n.Server, 0, reply
			}
			ns := inode(t, wanted)
			w := newWatch(t, tcp.Options{Namespace: ns, Connections: true, Worst: true})
			client, server := pair(t, n, at(n.Server, port))
			for range segments {
				if _, err := client.Write(make([]byte, request)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond) // which the server lets wait, too
				transfer(t, server, 0, request)
			}
			if _, err := server.Write(make([]byte, reply)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(60 * time.Millisecond)
			transfer(t, client, 0, reply)
			s := w.read()
			if len(s.Rows) != 1 {
				t.Errorf("%d rows", len(s.Rows))
			}
			r := self(t, s)
			log(t, r)
			if r.Sent != sent || r.Received != request*segments+reply-sent || r.Opened != opened || r.Accepted != 1-opened || r.Open != 1 {
				t.Errorf("sent %d, received %d, opened %d, accepted %d, open %d", r.Sent, r.Received, r.Opened, r.Accepted, r.Open)
			}
			// The server sends next to nothing.
			if rtts := r.RTT.Count(); rtts >= segments/2 != (end == "client") {
				t.Errorf("%d round trips", rtts)
			}
			// The SYN was sent again, and the SYN-ACK: after its time, and in answer to that SYN.
			again := s.Kernel[3].Kernel
			if end == "client" && again != 1 || again == 0 || r.Retransmits != again {
				t.Errorf("%d segments were sent again, by the kernel's count %d", r.Retransmits, again)
			}
			if len(r.Remotes) != 1 || len(s.Connections) != 1 || s.Connections[0].Namespace != uint64(ns) {
				t.Errorf("%d other ends, connections %+v", len(r.Remotes), s.Connections)
			}
			if len(s.Worst) == 0 || stalls(r, snapshot.ReaderNotReading).Count == 0 {
				t.Error("no stall is told of")
			}
			for _, l := range s.Worst {
				if l.Namespace != uint64(ns) {
					t.Errorf("%s in namespace %d", l.Cause, l.Namespace)
				}
			}
			for i, want := range []uint64{opened, 1 - opened, 0} {
				if c := s.Kernel[i]; c.Kernel != want {
					t.Errorf("the kernel counts %d %s, want %d", c.Kernel, c.Name, want)
				}
			}
			balance(t, s)
		})
	}
}
