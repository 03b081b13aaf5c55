package sample

import (
	"math"
	"time"

	"culprit/probes/snapshot"
)

// Run is a command with I/O, waits and connections.
func Run(by snapshot.By) snapshot.Run {
	s := Sched(by)
	s.Rows[0].Network, s.Rows[0].Locks, s.Rows[0].Events = 3000*ms, 41*ms, 7*ms
	return snapshot.Run{
		Command: []string{"make", "-j8", "all"}, Status: 143, Signal: "SIGTERM", Wall: 12_345_678 * time.Microsecond, KernelCPU: 9 * time.Second,
		Processes: 2031, Running: 2, Memory: 341 * mib, Largest: "cc1plus", Dirty: 3,
		IO: IO(by), Sched: s, TCP: TCP(by),
	}
}

// RunIdle did nothing.
func RunIdle() snapshot.Run {
	return snapshot.Run{Command: []string{"true"}, Wall: ms, Processes: 1, Dirty: 1, IO: Idle(), Sched: SchedIdle(), TCP: TCPIdle()}
}

// RunNasty has everything as large and as hostile as it can be.
func RunNasty(by snapshot.By) snapshot.Run {
	return snapshot.Run{
		Command: NastyNames, Status: 255, Signal: "SIGSTKFLT", Wall: math.MaxInt64, KernelCPU: math.MaxInt64,
		Processes: math.MaxUint64, Running: math.MaxUint64, Memory: math.MaxUint64, Largest: NastyNames[0], Dirty: math.MaxInt,
		IO: Nasty(by), Sched: SchedNasty(by), TCP: TCPNasty(by),
	}
}
