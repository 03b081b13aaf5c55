package livetest

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Steadily runs a test of how long things take, on a machine that keeps time. Where the test fails while the machine stood
// still, as a virtual one does when its host runs another, nothing is known, and it is run anew, some times. What the machine
// had no part in fails at once. What itself takes the machine's time, as loading programs does, is to be done before.
func Steadily(t *testing.T, test func(t testing.TB)) {
	t.Helper()
	if testing.Short() { // an emulated machine is late when it is watched, and what runs there allows for that
		test(t)
		return
	}
	steadily(t, test)
}

func steadily(t *testing.T, test func(t testing.TB)) {
	t.Helper()
	for tries := 1; ; tries++ {
		a := &attempt{T: t}
		still := StoodStill(t, func() { a.run(test) })
		if !a.Failed() {
			return
		}
		if !isWorthAnother(tries, still) {
			t.Fatalf("failed; meanwhile, the machine stood still %v", still)
		}
		t.Logf("again: that was while the machine stood still %v", still)
	}
}

const attempts = 5

// isWorthAnother is whether a test that has failed so often may be run once more.
func isWorthAnother(tries int, still Pauses) bool { return tries < attempts && still.Count > 0 }

// attempt is a test that fails by itself, and cleans up before another begins.
type attempt struct {
	*testing.T

	mu           sync.Mutex
	failed, over bool
	cleanups     []func()
}

// run is until the test and what it has left to clean up are done. It is a goroutine of its own that a fatal failure ends.
func (a *attempt) run(test func(testing.TB)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer a.cleanUp()
		test(a)
	}()
	<-done
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
}

// cleanUp goes on with the next where one fails.
func (a *attempt) cleanUp() {
	a.mu.Lock()
	if len(a.cleanups) == 0 {
		a.mu.Unlock()
		return
	}
	last := a.cleanups[len(a.cleanups)-1]
	a.cleanups = a.cleanups[:len(a.cleanups)-1]
	a.mu.Unlock()
	defer a.cleanUp()
	last()
}

func (a *attempt) Cleanup(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleanups = append(a.cleanups, f)
}

func (a *attempt) Fail() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = true
	if a.over { // somebody of it goes on, and must not be missed
		a.T.Fail()
	}
}

func (a *attempt) Failed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

func (a *attempt) FailNow() {
	a.Fail()
	runtime.Goexit()
}

func (a *attempt) Error(args ...any) {
	a.Helper()
	a.Log(args...)
	a.Fail()
}

func (a *attempt) Errorf(format string, args ...any) {
	a.Helper()
	a.Logf(format, args...)
	a.Fail()
}

func (a *attempt) Fatal(args ...any) {
	a.Helper()
	a.Log(args...)
	a.FailNow()
}

func (a *attempt) Fatalf(format string, args ...any) {
	a.Helper()
	a.Logf(format, args...)
	a.FailNow()
}

// Pauses are those of a machine, of all its CPUs.
type Pauses struct {
	Count       int
	Total, Most time.Duration
}

func (p *Pauses) add(other Pauses) {
	p.Count += other.Count
	p.Total, p.Most = p.Total+other.Total, max(p.Most, other.Most)
}

func (p Pauses) String() string {
	return fmt.Sprintf("%d times, for %v in all, at most %v", p.Count, p.Total, p.Most)
}

// A stall is told of from 5 ms on, and two moments make one.
const (
	tick         = time.Millisecond
	standingFrom = 3 * time.Millisecond
)

// StoodStill is when the machine did while f ran: a thread on each CPU, before which nothing that tests start has that CPU, looks at
// the clock each millisecond.
func StoodStill(t testing.TB, f func()) (sum Pauses) {
	t.Helper()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatalf("reading which CPUs there are: %v", err)
	}
	type result struct {
		Pauses
		err error
	}
	begun, stop, results := make(chan struct{}, cpus.Count()), make(chan struct{}), make(chan result)
	// A thread that wakes up needs one of these, and the test shall not have it wait.
	before := runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + cpus.Count())
	defer runtime.GOMAXPROCS(before)
	for cpu, left := 0, cpus.Count(); left > 0; cpu++ {
		if !cpus.IsSet(cpu) {
			continue
		}
		left--
		go func() {
			p, err := watchCPU(cpu, begun, stop)
			results <- result{p, err}
		}()
	}
	for range cpus.Count() {
		<-begun
	}
	defer func() {
		close(stop)
		for range cpus.Count() {
			r := <-results
			sum.add(r.Pauses)
			if r.err != nil {
				t.Error(r.err)
			}
		}
	}()
	f()
	return
}

// watchCPU takes the thread with it when it ends.
func watchCPU(cpu int, begun chan<- struct{}, stop <-chan struct{}) (p Pauses, err error) {
	begin := sync.OnceFunc(func() { begun <- struct{}{} })
	defer begin()
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return p, fmt.Errorf("watching CPU %d: %w", cpu, err)
	}
	if err := BecomeRealTime(WatchPriority); err != nil {
		return p, err
	}
	sleep := unix.NsecToTimespec(int64(tick))
	for last := time.Now(); ; {
		select {
		case <-stop:
			return p, nil
		default:
		}
		unix.Nanosleep(&sleep, nil) // package time's is the business of other threads
		now := time.Now()
		if late := now.Sub(last) - tick; late >= standingFrom {
			p.add(Pauses{1, late, late})
		}
		last = now
		begin()
	}
}

// Priorities of real-time threads: what computes for a test, what carries its packets, and what watches the machine come one
// before the other.
const (
	SpinPriority = iota + 1
	RelayPriority
	WatchPriority
)

// BecomeRealTime is for the calling thread.
func BecomeRealTime(priority uint32) error {
	attributes := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority}
	if err := unix.SchedSetAttr(0, &attributes, 0); err != nil {
		return fmt.Errorf("becoming a real-time thread: %w", err)
	}
	return nil
}
