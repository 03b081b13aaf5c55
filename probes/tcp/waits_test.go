package tcp

import (
	"testing"
	"time"

	"culprit/probes/snapshot"
)

// told is what a sched probe tells, one after the other.
type told [][]snapshot.SchedWait

func (w *told) Waits() ([]snapshot.SchedWait, error) {
	waits := (*w)[0]
	*w = (*w)[1:]
	return waits, nil
}

func (w *told) WaitsMissed() (uint64, error) { return 0, nil }

// Waits are kept for stalls that end later, neither for ever nor without limit.
func TestWaitsAreKept(t *testing.T) {
	hog := snapshot.Process{PID: 8, App: "hog"}
	now := time.Now()
	wait := func(tid int, ago time.Duration) snapshot.SchedWait {
		return snapshot.SchedWait{TID: tid, At: now.Add(-ago), Wait: 1e6, Ran: []snapshot.SchedRan{{Process: hog, NS: 1e6}}}
	}
	many := make([]snapshot.SchedWait, waitsKept)
	for i := range many {
		many[i] = wait(9, 0)
	}
	p := &Probe{options: Options{Waits: &told{{wait(2, 2*waitsKeptFor)}, {wait(1, 10*time.Second)}, {wait(1, 5*time.Second)}, nil, many}}}
	blame := func(tid int) uint64 {
		t.Helper()
		stalls := []snapshot.TCPStall{{TID: tid, Cause: snapshot.ReaderNotScheduled, At: now, Duration: uint64(time.Hour)}}
		if err := p.blame(stalls); err != nil {
			t.Fatal(err)
		}
		var ns uint64
		for _, r := range stalls[0].Ran {
			ns += r.NS
		}
		return ns
	}
	if got := blame(2); got != 1e6 {
		t.Errorf("a wait that is told of just now has %d ns", got)
	}
	if err := p.blame(nil); err != nil {
		t.Fatal(err)
	}
	if got := blame(1); got != 2e6 {
		t.Errorf("two waits have %d ns", got)
	}
	if got := blame(2); got != 0 {
		t.Errorf("an old wait has %d ns", got)
	}
	if blame(9); len(p.waits) != waitsKept || p.forgotten != 2 {
		t.Errorf("%d are kept, %d forgotten", len(p.waits), p.forgotten)
	}
}
