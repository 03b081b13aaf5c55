package snapshot

import "time"

// Run is what a command did, with everything that it started.
type Run struct {
	Command []string
	Status  int    // its exit status as shells have it: 128 and the signal's number where one ended it
	Signal  string // the name of that signal, or ""
	Wall    time.Duration

	// KernelCPU is the kernel's own count of the time on CPUs, of the command and of what it waited for (getrusage(2)).
	KernelCPU time.Duration

	Processes uint64 // that it was, and started
	Running   uint64 // of them, after its end
	Memory    uint64 // bytes: the largest peak of one of them, 0 if unknown
	Largest   string // that one's comm
	Dirty     int    // files that they changed and that were not written to disk yet

	// Grouped, with its rows only; the audits are those of everybody.
	IO    IO
	Sched Sched
	TCP   TCP
}

// Time is where the time of all its threads went: one row, of nobody in particular, with all its culprits, most first.
func (r Run) Time() SchedRow {
	var all SchedRow
	for _, row := range r.Sched.Rows {
		all = all.merge(row)
	}
	all.Culprits = r.Sched.Culprits()
	return all
}
