package trace

import (
	"reflect"

	"culprit/probes/snapshot"
)

// mostReused is how many events' memory is used again.
const mostReused = 1 << 18

// emptied is a Trace without events, in the memory of another one.
func emptied(t snapshot.Trace) snapshot.Trace {
	if t.Events() > mostReused {
		return snapshot.Trace{}
	}
	v := reflect.ValueOf(&t).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice {
			f.SetLen(0)
		}
	}
	return t
}

// inOrder brings what came CPU by CPU into the order of time, with the help of another Trace's memory.
func inOrder(t, spare *snapshot.Trace) {
	t.Switches, spare.Switches = merged(t.Switches, spare.Switches, func(e *snapshot.SchedSwitch) int64 { return e.At })
	t.Wakeups, spare.Wakeups = merged(t.Wakeups, spare.Wakeups, func(e *snapshot.SchedWakeup) int64 { return e.At })
	t.Migrations, spare.Migrations = merged(t.Migrations, spare.Migrations, func(e *snapshot.SchedMigrate) int64 { return e.At })
	t.Throttled, spare.Throttled = merged(t.Throttled, spare.Throttled, func(e *snapshot.SchedThrottle) int64 { return e.At })
	t.Begun, spare.Begun = merged(t.Begun, spare.Begun, func(e *snapshot.ProcessBegin) int64 { return e.At })
	t.Executed, spare.Executed = merged(t.Executed, spare.Executed, func(e *snapshot.ProcessExec) int64 { return e.At })
	t.Ended, spare.Ended = merged(t.Ended, spare.Ended, func(e *snapshot.ProcessEnd) int64 { return e.At })
	t.IRQs, spare.IRQs = merged(t.IRQs, spare.IRQs, func(e *snapshot.IRQ) int64 { return e.At })
	t.Softirqs, spare.Softirqs = merged(t.Softirqs, spare.Softirqs, func(e *snapshot.Softirq) int64 { return e.At })
	t.Signals, spare.Signals = merged(t.Signals, spare.Signals, func(e *snapshot.Signal) int64 { return e.At })
	t.OOMKills, spare.OOMKills = merged(t.OOMKills, spare.OOMKills, func(e *snapshot.OOMKill) int64 { return e.At })
	t.Faults, spare.Faults = merged(t.Faults, spare.Faults, func(e *snapshot.PageFault) int64 { return e.At })
	t.Syscalls, spare.Syscalls = merged(t.Syscalls, spare.Syscalls, func(e *snapshot.Syscall) int64 { return e.At })
	t.Timers, spare.Timers = merged(t.Timers, spare.Timers, func(e *snapshot.Timer) int64 { return e.At })
	t.IOQueued, spare.IOQueued = merged(t.IOQueued, spare.IOQueued, func(e *snapshot.IOQueue) int64 { return e.At })
	t.IOIssued, spare.IOIssued = merged(t.IOIssued, spare.IOIssued, func(e *snapshot.IOIssue) int64 { return e.At })
	t.IOMerged, spare.IOMerged = merged(t.IOMerged, spare.IOMerged, func(e *snapshot.IOMerge) int64 { return e.At })
	t.IOCompleted, spare.IOCompleted = merged(t.IOCompleted, spare.IOCompleted, func(e *snapshot.IOComplete) int64 { return e.At })
	t.IOThrottled, spare.IOThrottled = merged(t.IOThrottled, spare.IOThrottled, func(e *snapshot.IOThrottle) int64 { return e.At })
	t.TCPStates, spare.TCPStates = merged(t.TCPStates, spare.TCPStates, func(e *snapshot.TCPStateChange) int64 { return e.At })
	t.TCPRetransmissions, spare.TCPRetransmissions = merged(t.TCPRetransmissions, spare.TCPRetransmissions, func(e *snapshot.TCPRetransmit) int64 { return e.At })
	t.TCPStalls, spare.TCPStalls = merged(t.TCPStalls, spare.TCPStalls, func(e *snapshot.TCPStallEnd) int64 { return e.At })
}

// merged merges the parts of events that are in order, which each CPU's are, by and by into one. The memory that is not needed is spare then, too.
func merged[E any](events, spare []E, at func(*E) int64) (all, rest []E) {
	ends := []int{}
	for i := range events {
		if i > 0 && at(&events[i]) < at(&events[i-1]) {
			ends = append(ends, i)
		}
	}
	ends = append(ends, len(events))
	for len(ends) > 1 {
		spare = spare[:0]
		begin, pairs := 0, ends[:0]
		for i := 0; i < len(ends); i += 2 {
			if i+1 == len(ends) {
				spare = append(spare, events[begin:ends[i]]...)
			} else {
				middle, end := ends[i], ends[i+1]
				spare = mergeTwo(spare, events[begin:middle], events[middle:end], at)
				begin = end
			}
			pairs = append(pairs, len(spare))
		}
		ends = pairs
		events, spare = spare, events
	}
	return events, spare
}

// mergeTwo appends two parts that are in order each. Of events at the same time the first part's come first.
func mergeTwo[E any](to, a, b []E, at func(*E) int64) []E {
	for len(a) > 0 && len(b) > 0 {
		if at(&b[0]) < at(&a[0]) {
			to, b = append(to, b[0]), b[1:]
		} else {
			to, a = append(to, a[0]), a[1:]
		}
	}
	return append(append(to, a...), b...)
}
