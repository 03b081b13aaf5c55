package tcp_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// newBlamingWatch is a watch with a sched probe that tells of waits from a length on.
func newBlamingWatch(t testing.TB, from time.Duration, o tcp.Options) *watch {
	t.Helper()
	table := livetest.Table(t, owner.Options{})
	o.Waits = livetest.Probe(t, table, sched.Load, sched.Options{TalkersFrom: from, NoPackets: true})
	return newWatchWith(t, table, o)
}

// Who has the CPU of a reader that waits for it is named, though another process computes beside.
func TestWhoHadTheReadersCPU(t *testing.T) {
	probe := newBlamingWatch(t, time.Millisecond, tcp.Options{Worst: true})
	livetest.Steadily(t, func(t testing.TB) { tryWhoHadTheReadersCPU(t, probe) })
}

func tryWhoHadTheReadersCPU(t testing.TB, probe *watch) {
	n := testnet.NewVeth(t)
	inhabit(n)
	w := probe.anew(t)
	end := testnet.End{Address: at(n.Server, 7020)}
	reader := listening(end)
	reader.CPUs, reader.Nice = []int{1}, -20
	n.Server.Run("hog", testnet.Spin{End: testnet.End{CPUs: []int{1}}, For: time.Minute, RealTime: true, Burst: 30 * ms, Pause: 10 * ms})
	n.Server.Run("other", testnet.Spin{End: testnet.End{CPUs: []int{0}, Nice: 19}, For: time.Minute})
	answers := n.Server.Run("reader", testnet.Answer{End: reader, Requests: []int{100}, Reply: 100})
	asker := end
	asker.CPUs = []int{0}
	asks := n.Client.Run("asker", testnet.Exchange{End: asker, Count: 150, Writes: []int{100}, Reply: 100, Pause: 7 * ms})
	counts := w.while(asks, answers)
	s := ours(w.read())
	if !slices.ContainsFunc(s.Loss, func(l snapshot.Loss) bool { return l.Name == "waits_missed" }) {
		t.Errorf("nothing is said about lost waits: %v", s.Loss)
	}
	found := 0
	var all, hogsOfAll uint64
	for _, l := range s.Worst {
		if l.Comm != "reader" || l.Cause != snapshot.ReaderNotScheduled {
			if l.Cause != snapshot.ReaderNotScheduled && len(l.Ran) > 0 {
				t.Errorf("for %s of %s, somebody had the CPU", l.Cause, l.Comm)
			}
			continue
		}
		found++
		ran := fmt.Sprintf("%v:", time.Duration(l.Duration))
		var sum, others, hogs uint64
		for _, r := range l.Ran {
			sum += r.NS
			if r.PID != 0 && r.PPID != os.Getpid() { // what else the machine does may come before the reader, too
				others += r.NS
			}
			if r.Comm == "hog" {
				hogs += r.NS
			}
			ran += fmt.Sprintf(" %s %v", r.Name(snapshot.ByComm), time.Duration(r.NS))
		}
		t.Log(ran)
		least := (l.Duration - others) / 10 * 9
		all, hogsOfAll = all+sum-others, hogsOfAll+hogs
		if testing.Short() { // where a wake-up can take longer than all else
			least = 0
		}
		if len(l.Ran) == 0 || hogs < least || sum > l.Duration {
			t.Errorf("%d ns are told of", sum)
		}
	}
	if hogsOfAll < all/4*3 {
		t.Errorf("the hog has %d ns of %d", hogsOfAll, all)
	}
	if most := stalls(row(t, s, "reader"), snapshot.ReaderNotScheduled).Count; found == 0 || uint64(found) != most {
		t.Errorf("%d stalls are told of, %d are counted; the reader waited for %v", found, most, counts[1].RunDelay)
	}
}

// Waits that user space was not told of in time are counted, and the stalls are told of without.
func TestLostWaitsAreSeen(t *testing.T) {
	n := testnet.NewVeth(t)
	inhabit(n)
	w := newBlamingWatch(t, 1, tcp.Options{Worst: true})
	end := testnet.End{Address: at(n.Server, 7021)}
	answers := n.Server.Run("reader", testnet.Answer{End: listening(end), Requests: []int{100}, Reply: 100})
	asks := n.Client.Run("asker", testnet.Exchange{End: end, Count: 12_000, Writes: []int{100}, Reply: 100})
	asks.Wait()
	answers.Wait()
	s := ours(w.read())
	if lost(s, "worst_waits_dropped") == 0 {
		t.Error("no lost wait is counted")
	}
}
