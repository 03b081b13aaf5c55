package snapshot

import (
	"slices"
	"strings"
	"time"
)

// What follows is for reports of several intervals as one. Rows of the same process stay apart: Group merges them.

// Then is s and what followed it, or what another machine did.
func (s IO) Then(o IO) IO {
	s.Start, s.End = span(s.Start, s.End, o.Start, o.End)
	s.Rows = slices.Concat(s.Rows, o.Rows)
	s.Devices = group(slices.Concat(s.Devices, o.Devices), func(d IODevice) any { return d.Device }, func(a, b IODevice) IODevice {
		a.Ours, a.Kernel = a.Ours.Add(b.Ours), a.Kernel.Add(b.Kernel)
		a.UnattributedBytes += b.UnattributedBytes
		a.SkewBytes = max(a.SkewBytes, b.SkewBytes) // where one interval ends too late, the next begins
		return a
	})
	s.Loss = addLosses(s.Loss, o.Loss)
	s.Files = slices.Concat(s.Files, o.Files)
	s.Worst = slices.Concat(s.Worst, o.Worst)
	return s
}

// Then is s and what followed it.
func (s Sched) Then(o Sched) Sched {
	s.Rows = slices.Clone(s.Rows)
	for i := range s.Rows {
		// What still waited then is over, or waits at o's end: o has that before its beginning.
		s.Rows[i].LeftOut += s.Rows[i].Waiting
		s.Rows[i].Waiting = 0
	}
	return s.Beside(o)
}

// Beside is s and what another machine did.
func (s Sched) Beside(o Sched) Sched {
	s.Start, s.End = span(s.Start, s.End, o.Start, o.End)
	s.Rows = slices.Concat(s.Rows, o.Rows)
	s.Threads = slices.Concat(s.Threads, o.Threads)
	s.Worst = slices.Concat(s.Worst, o.Worst)
	s.Kernel.WaitNS += o.Kernel.WaitNS
	s.Kernel.KernelWaitNS += o.Kernel.KernelWaitNS
	s.Kernel.SkewNS += o.Kernel.SkewNS
	s.Loss = addLosses(s.Loss, o.Loss)
	return s
}

// Then is s and what followed it.
func (s TCP) Then(o TCP) TCP {
	s.Rows = slices.Clone(s.Rows)
	for i := range s.Rows {
		s.Rows[i].Open = 0 // what is open at o's end is in its rows
	}
	s.Connections = nil // likewise
	return s.Beside(o)
}

// Beside is s and what another machine did.
func (s TCP) Beside(o TCP) TCP {
	s.Start, s.End = span(s.Start, s.End, o.Start, o.End)
	s.MinStall = max(s.MinStall, o.MinStall)
	s.Rows = slices.Concat(s.Rows, o.Rows)
	s.Connections = slices.Concat(s.Connections, o.Connections)
	s.Worst = slices.Concat(s.Worst, o.Worst)
	s.Kernel = group(slices.Concat(s.Kernel, o.Kernel), func(c TCPCounter) any { return c.Name }, func(a, b TCPCounter) TCPCounter {
		return TCPCounter{a.Name, a.Ours + b.Ours, a.Kernel + b.Kernel, max(a.Skew, b.Skew)}
	})
	s.Loss = addLosses(s.Loss, o.Loss)
	return s
}

func span(start, end, otherStart, otherEnd time.Time) (from, to time.Time) {
	if otherStart.Before(start) {
		start = otherStart
	}
	if otherEnd.After(end) {
		end = otherEnd
	}
	return start, end
}

// addLosses is the sum of counters, in the order of their names.
func addLosses(a, b []Loss) []Loss {
	out := group(slices.Concat(a, b), func(l Loss) any { return l.Name }, func(a, b Loss) Loss { return Loss{a.Name, a.Count + b.Count} })
	slices.SortFunc(out, func(a, b Loss) int { return strings.Compare(a.Name, b.Name) })
	return out
}
