package snapshot

import (
	"cmp"
	"math/bits"
	"slices"
)

// Blame is the stall with who had the CPU while its reader waited for one, given waits of which some may be that thread's. Of each of those, it takes what lies
// within the stall: so those who ran have no more time together than it took.
func (s TCPStall) Blame(waits []SchedWait) TCPStall {
	if s.Cause != ReaderNotScheduled {
		return s
	}
	type thread struct {
		groupKey
		tid int
	}
	own := filter(waits, func(w SchedWait) bool { return w.TID == s.TID && w.key(ByPID) == s.key(ByPID) })
	slices.SortStableFunc(own, func(a, b SchedWait) int { return a.At.Compare(b.At) })
	s.Ran = nil
	var reached uint64 // of the stall: nobody is blamed twice for a moment
	for _, w := range own {
		// Where the wait began and ended, as seen from the stall's beginning.
		to := w.At.Sub(s.At).Nanoseconds() + int64(s.Duration)
		from := max(to-int64(w.Wait), int64(reached))
		end := min(to, int64(s.Duration))
		if end <= from {
			continue
		}
		reached = uint64(end)
		began := to - int64(w.Wait)
		s.Ran = append(s.Ran, w.between(uint64(from-began), uint64(end-began))...)
	}
	s.Ran = group(s.Ran, func(r SchedRan) any { return thread{r.key(ByPID), r.TID} }, func(a, b SchedRan) SchedRan {
		a.NS += b.NS
		return a
	})
	slices.SortStableFunc(s.Ran, func(a, b SchedRan) int { return cmp.Compare(b.NS, a.NS) })
	return s
}

// between is who had the CPU in a part of a wait, given in ns from its beginning. Of interrupts the sum is known alone: they are taken to have come
// all the time.
func (w SchedWait) between(from, to uint64) (ran []SchedRan) {
	interrupts := func(r SchedRan) bool { return r.App == Interrupts || r.App == Softirqs }
	var stolen uint64
	for _, r := range w.Ran {
		if interrupts(r) {
			stolen += r.NS
		}
	}
	left := w.Wait - min(stolen, w.Wait)
	first, last := share(from, left, w.Wait), share(to, left, w.Wait)
	var at uint64
	for _, r := range w.Ran {
		if interrupts(r) {
			r.NS = share(r.NS, to-from, w.Wait)
		} else {
			begin, end := max(at, first), min(at+r.NS, last)
			at += r.NS
			r.NS = end - min(begin, end)
		}
		if r.NS > 0 {
			ran = append(ran, r)
		}
	}
	return ran
}

// share is ns of the whole for a part of it.
func share(ns, part, whole uint64) uint64 {
	high, low := bits.Mul64(ns, part)
	quotient, _ := bits.Div64(high, low, whole)
	return quotient
}
