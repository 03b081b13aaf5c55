package hook

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Clock translates CLOCK_MONOTONIC, which BPF programs read, to wall-clock time as of its making.
type Clock struct {
	Now  uint64 // ns by CLOCK_MONOTONIC when it was made
	wall time.Time
}

// MonotonicClock reads both clocks. Whoever is interrupted between the two has a reading that is off by that: of several, the one that
// took the shortest time counts.
func MonotonicClock() (Clock, error) {
	const tries, enough = 20, 5 * time.Microsecond
	var best Clock
	took := time.Duration(math.MaxInt64)
	for range tries {
		before, err := monotonic()
		if err != nil {
			return Clock{}, err
		}
		wall := time.Now()
		after, err := monotonic()
		if err != nil {
			return Clock{}, err
		}
		if after-before < took {
			took, best = after-before, Clock{uint64(before + (after-before)/2), wall}
		}
		if took < enough {
			break
		}
	}
	return best, nil
}

func monotonic() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("reading the monotonic clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// Tick is how long one of the kernel's ticks is, which its timers count in: the coarse clock is read at each.
func Tick() (time.Duration, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("reading how long a tick is: %w", err)
	}
	return time.Duration(tick.Nano()), nil
}

// Wall is the time at which CLOCK_MONOTONIC was ns.
func (c Clock) Wall(ns uint64) time.Time { return c.wall.Add(time.Duration(ns - c.Now)) }
