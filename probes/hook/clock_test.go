package hook_test

import (
	"runtime"
	"testing"
	"time"

	"culprit/probes/hook"
	"culprit/probes/internal/livetest"
	"culprit/probes/internal/testnet"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { livetest.Main(m, testnet.Jobs()) }

// Both clocks are read at the same moment, also by a thread that hardly ever has its CPU to itself.
func TestClocksAreReadTogether(t *testing.T) {
	livetest.NeedRoot(t)
	n := testnet.NewVeth(t) // a place to run something in
	on := testnet.End{CPUs: []int{1}}
	n.Client.Run("hog", testnet.Spin{End: on, For: time.Minute, RealTime: true, Burst: time.Millisecond, Pause: 100 * time.Microsecond})
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	var set unix.CPUSet
	set.Set(1)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var least, most time.Time // what the wall clock showed when the other one began
	for begin := time.Now(); time.Since(begin) < 2*time.Second; {
		c, err := hook.MonotonicClock()
		if err != nil {
			t.Fatal(err)
		}
		zero := c.Wall(0)
		if least.IsZero() || zero.Before(least) {
			least = zero
		}
		if zero.After(most) {
			most = zero
		}
	}
	if off := most.Sub(least); off > 500*time.Microsecond {
		t.Errorf("readings are off by up to %v", off)
	}
}
