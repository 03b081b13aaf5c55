package tcp_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// All of very many connections that are older than the probe are found soon.
func TestScale(t *testing.T) {
	// A process may have no more than 20,000 files where the limit cannot be raised.
	const pairs, most = 5, 2 * time.Second
	each := 10_000
	if testing.Short() {
		each = 400
	}
	all := uint64(2 * pairs * each)
	n := testnet.NewVeth(t)
	inhabit(n)
	n.Server.Sysctl("net.ipv4.ip_local_port_range", "10000 65000")
	for i := range pairs {
		end := testnet.End{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(7400+i))}
		n.Server.Run(fmt.Sprint("holds", i), testnet.Hold{End: listening(end), Count: each})
		n.Server.Run(fmt.Sprint("dials", i), testnet.Hold{End: end, Count: each})
	}
	begin := time.Now()
	established(t, n.Server, int64(all))
	t.Logf("made %d sockets in %v", all, time.Since(begin))
	w := newWatch(t, tcp.Options{})
	begin = time.Now()
	s := w.read()
	memory, err := w.probe.Memory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("loaded in %v, read in %v, %d MiB in the kernel", w.took, time.Since(begin), memory>>20)
	if w.took > most {
		t.Errorf("loading took %v, want at most %v", w.took, most)
	}
	var open uint64
	for _, r := range s.Group(snapshot.ByComm).Rows {
		var i int
		if m, _ := fmt.Sscanf(r.Comm, "holds%d", &i); m == 0 {
			if m, _ := fmt.Sscanf(r.Comm, "dials%d", &i); m == 0 {
				continue
			}
		}
		if open += r.Open; r.Open != uint64(each) {
			t.Errorf("%s has %d connections, want %d", r.Comm, r.Open, each)
		}
	}
	if open != all {
		t.Errorf("%d connections are open, want %d", open, all)
	}
	for _, l := range s.Loss {
		if l.Count > 0 {
			t.Errorf("%s=%d", l.Name, l.Count)
		}
	}
	attributed(t, s)
	balance(t, s)
}
