package trace_test

import (
	"errors"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/trace"
)

// wait is when a thread waited for a timer: its function can begin in this time. By CLOCK_BOOTTIME, ns.
type wait struct{ from, to int64 }

func boot(t testing.TB) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano()
}

// waitForTimerfd waits so often for a timer, or looks at it all the time.
func waitForTimerfd(t testing.TB, times int, every time.Duration, spin bool) (waits []wait) {
	t.Helper()
	flags := unix.TFD_CLOEXEC
	if spin {
		flags |= unix.TFD_NONBLOCK
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, flags)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	due := boot(t) + int64(every)
	timer := unix.ItimerSpec{Interval: unix.NsecToTimespec(int64(every)), Value: unix.NsecToTimespec(due)}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &timer, nil); err != nil {
		t.Fatal(err)
	}
	for len(waits) < times {
		var expired uint64
		_, err := unix.Read(fd, unsafe.Slice((*byte)(unsafe.Pointer(&expired)), unsafe.Sizeof(expired)))
		if spin && errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		waits = append(waits, wait{due, boot(t)})
		due += int64(expired) * int64(every) // it is set again by who reads
	}
	return waits
}

// waitInTicks waits so often for a datagram that does not come, for which the kernel has a timer that its ticks look after (schedule_timeout()).
func waitInTicks(t testing.TB, times int, each time.Duration) (waits []wait) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(each))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	for len(waits) < times {
		from := boot(t) + int64(each)/2 // some ticks early
		if _, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("waiting for a datagram came to %v", err)
		}
		waits = append(waits, wait{from, boot(t)})
	}
	return waits
}

// Each timer that a thread waits for is told of once, with the function that ends the wait, and who is on its CPU.
func TestTimers(t *testing.T) {
	probe := livetest.Probe(t, livetest.Table(t, owner.Options{}), trace.Load, trace.Options{Kinds: []string{"timer"}})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self := int32(unix.Gettid())
	cases := []struct {
		name     string
		waits    []wait
		function string
		highRes  bool
		own      bool // the thread is on the CPU itself
	}{
		{"timerfd", waitForTimerfd(t, 499, 2*time.Millisecond, false), "timerfd_tmrproc", true, false},
		{"timerfd of a thread that runs", waitForTimerfd(t, 97, 2*time.Millisecond, true), "timerfd_tmrproc", true, true},
		{"ticks", waitInTicks(t, 23, 40*time.Millisecond), "process_timeout", false, false},
	}
	if err := probe.End(); err != nil {
		t.Fatal(err)
	}
	all, err := probe.Read()
	if err != nil {
		t.Fatal(err)
	}
	livetest.LogLosses(t, all.Loss)
	if n := livetest.Lost(all.Loss, "events_overwritten"); n > 0 {
		t.Errorf("%d events were overwritten", n)
	}
	functions, long := map[string]int{}, 0
	for i, e := range all.Timers {
		functions[e.Function]++
		if e.Duration >= int64(time.Millisecond) {
			long++
		}
		if e.Function == "" || e.Duration <= 0 || i > 0 && (e.At < all.Timers[i-1].At || e == all.Timers[i-1]) {
			t.Errorf("%+v", e)
		}
	}
	t.Logf("%v, %d of them longer than a millisecond", functions, long)
	if long > len(all.Timers)/20 {
		t.Errorf("%d of %d functions take longer than a millisecond", long, len(all.Timers))
	}
	for _, c := range cases {
		var told, whole, on int // one may be hidden, and some be another's
		for _, w := range c.waits {
			found := within(all.Timers, c.function, w)
			if len(found) == 0 {
				continue
			}
			told++
			e := found[len(found)-1]
			if e.HighRes == c.highRes {
				whole++
			}
			if (e.TID == self) == c.own {
				on++
			}
		}
		t.Logf("%s: of %d timers, %d are told of; %d of the right resolution, %d on the right CPU", c.name, len(c.waits), told, whole, on)
		if told < len(c.waits)*9/10 || whole != told || on < told*3/4 {
			t.Errorf("%s: of %d timers, %d are told of; %d of the right resolution, %d on the right CPU", c.name, len(c.waits), told, whole, on)
		}
	}
}

// within are the calls of a function that begin meanwhile.
func within(timers []snapshot.Timer, function string, w wait) (found []snapshot.Timer) {
	for _, e := range timers {
		if begin := e.At - e.Duration; e.Function == function && begin >= w.from && begin <= w.to {
			found = append(found, e)
		}
	}
	return found
}
