package hook

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Clock translates CLOCK_MONOTONIC, which BPF programs read, to wall-clock time as of its making.
type Clock struct {
	Now  uint64 // ns by CLOCK_MONOTONIC when it was made
	wall time.Time
}

// MonotonicClock reads both clocks.
func MonotonicClock() (Clock, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return Clock{}, fmt.Errorf("reading the monotonic clock: %w", err)
	}
	return Clock{uint64(now.Nano()), time.Now()}, nil
}

// Wall is the time at which CLOCK_MONOTONIC was ns.
func (c Clock) Wall(ns uint64) time.Time { return c.wall.Add(time.Duration(ns - c.Now)) }
