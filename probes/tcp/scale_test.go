package tcp_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"

	"golang.org/x/sys/unix"
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
	w := newYoungWatch(t, tcp.Options{})
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
		if l.Count > 0 && !isOthers(l) {
			t.Errorf("%s=%d", l.Name, l.Count)
		}
	}
	attributed(t, s)
	balance(t, s)
}

// The source of processes that have as many files as they may, once it has printed a line: descriptors NUMBER.
const descriptors = `
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int ready[2];
	char byte = 0;

	if (pipe(ready))
		return 1;
	for (int i = atoi(argv[1]); i; i--) {
		if (fork())
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (dup(0) >= 0)
			;
		if (write(ready[1], &byte, 1) != 1)
			return 1;
		pause();
	}
	for (int i = atoi(argv[1]); i; i--)
		if (read(ready[0], &byte, 1) != 1)
			return 1;
	puts("ready");
	fflush(stdout);
	pause();
}
`

// The kernel interrupts iterators that go over more files than a million: all the same, the probe finds a connection among them.
func TestScaleOfFiles(t *testing.T) {
	const most = 1_050_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	each := min(limit.Max, most)
	holds := exec.Command("prlimit", fmt.Sprint("--nofile=", each), livetest.Compile(t, "descriptors", descriptors), fmt.Sprint(most/each+1))
	out, err := holds.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holds.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		holds.Process.Kill()
		holds.Wait()
	}()
	n := testnet.NewVeth(t)
	pair(t, n, at(n.Server, 7104))
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	w := newYoungWatch(t, tcp.Options{})
	t.Logf("loaded after %v, with more than %d files open", w.took, most)
	if r := self(t, w.read()); r.Open != 2 {
		t.Errorf("%d connections are found, want 2", r.Open)
	}
}
