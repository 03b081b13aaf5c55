package snapshot

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var (
	blameStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	theReader  = Process{PID: 7, Started: blameStart, Comm: "reader", App: "reader"}
	aHog       = Process{PID: 8, Started: blameStart, Comm: "hog", App: "hog"}
	another    = Process{PID: 9, Started: blameStart, Comm: "another", App: "another"}
)

// blamed is who has the blame for a stall of 100 ns, from 1000 to 1100, of thread 70 of theReader.
func blamed(waits ...SchedWait) string {
	s := TCPStall{Process: theReader, TID: 70, Cause: ReaderNotScheduled, At: blameStart.Add(1100), Duration: 100}
	return ranText(s.Blame(waits).Ran)
}

func ranText(ran []SchedRan) string {
	var texts []string
	for _, r := range ran {
		texts = append(texts, fmt.Sprintf("%s/%d %d", r.App, r.TID, r.NS))
	}
	return strings.Join(texts, ", ")
}

// waited is a wait of thread 70 of theReader that ended at a time.
func waited(end int, ran ...SchedRan) SchedWait {
	w := SchedWait{Process: theReader, TID: 70, At: blameStart.Add(time.Duration(end)), Ran: ran}
	for _, r := range ran {
		w.Wait += r.NS
	}
	return w
}

func ranFor(p Process, tid int, ns uint64) SchedRan { return SchedRan{Process: p, TID: tid, NS: ns} }

func TestBlame(t *testing.T) {
	hog := func(ns uint64) SchedRan { return ranFor(aHog, 80, ns) }
	other := func(ns uint64) SchedRan { return ranFor(another, 90, ns) }
	irq := func(ns uint64) SchedRan { return ranFor(Process{App: Interrupts}, 0, ns) }
	of := func(p Process, tid int, w SchedWait) SchedWait {
		w.Process, w.TID = p, tid
		return w
	}
	later := theReader
	later.Started = blameStart.Add(time.Hour)
	for _, tt := range []struct {
		name  string
		waits []SchedWait
		want  string
	}{
		{"nothing is known", nil, ""},
		{"all of it", []SchedWait{waited(1100, hog(100))}, "hog/80 100"},
		{"what is not covered is nobody's", []SchedWait{waited(1090, hog(50))}, "hog/80 50"},
		{"most first", []SchedWait{waited(1100, other(20), hog(80))}, "hog/80 80, another/90 20"},
		{"equal ones in order", []SchedWait{waited(1100, other(50), hog(50))}, "another/90 50, hog/80 50"},
		{"runs of a thread are added up", []SchedWait{waited(1100, hog(30), other(40), hog(30))}, "hog/80 60, another/90 40"},
		{"those of another thread are not", []SchedWait{waited(1100, hog(40), ranFor(aHog, 81, 60))}, "hog/81 60, hog/80 40"},
		{"it began before the stall", []SchedWait{waited(1100, other(150), hog(100))}, "hog/80 100"},
		{"within a run", []SchedWait{waited(1090, other(150), hog(60))}, "hog/80 60, another/90 30"},
		{"it ended after the stall", []SchedWait{waited(1130, hog(70), other(60))}, "hog/80 70, another/90 30"},
		{"it is longer at both ends", []SchedWait{waited(1200, other(100), hog(100), other(100))}, "hog/80 100"},
		{"it was over", []SchedWait{waited(1000, hog(100))}, ""},
		{"it came after", []SchedWait{waited(1200, hog(100))}, ""},
		{"two waits", []SchedWait{waited(1040, hog(40)), waited(1100, other(50))}, "another/90 50, hog/80 40"},
		{"of the same hog", []SchedWait{waited(1040, hog(40)), waited(1100, hog(50))}, "hog/80 90"},
		{"in another order", []SchedWait{waited(1100, other(50)), waited(1040, hog(70))}, "another/90 50, hog/80 40"},
		{"two that overlap", []SchedWait{waited(1060, hog(60)), waited(1100, other(100))}, "hog/80 60, another/90 40"},
		{"the same twice", []SchedWait{waited(1100, hog(100)), waited(1100, hog(100))}, "hog/80 100"},
		{"interrupts were all the time", []SchedWait{waited(1100, other(90), hog(90), irq(20))}, "hog/80 90, [interrupts]/0 10"},
		{"nothing but interrupts", []SchedWait{waited(1100, irq(200))}, "[interrupts]/0 100"},
		{"a wait of nothing", []SchedWait{waited(1050)}, ""},
		{"another thread's", []SchedWait{of(theReader, 71, waited(1100, hog(100)))}, ""},
		{"another process's", []SchedWait{of(another, 70, waited(1100, hog(100)))}, ""},
		{"a later process's of the same pid", []SchedWait{of(later, 70, waited(1100, hog(100)))}, ""},
	} {
		if got := blamed(tt.waits...); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Nobody but those who had a reader's CPU is blamed.
func TestBlameIsForReaders(t *testing.T) {
	for _, c := range Causes {
		s := TCPStall{Process: theReader, TID: 70, Cause: c, At: blameStart.Add(1100), Duration: 100}
		if got := s.Blame([]SchedWait{waited(1100, ranFor(aHog, 80, 100))}); len(got.Ran) > 0 != (c == ReaderNotScheduled) {
			t.Errorf("%s: %s", c, ranText(got.Ran))
		}
	}
}

// Those who ran have as much time together as the waits cover of the stall.
func TestBlameAddsUp(t *testing.T) {
	for range 2000 {
		var waits []SchedWait
		var want, sum uint64
		at := 900
		for range random.IntN(6) {
			var ran []SchedRan
			for i := range random.IntN(4) {
				ran = append(ran, ranFor(aHog, i, random.Uint64N(60)))
			}
			ran = append(ran, ranFor(Process{App: Softirqs}, 0, random.Uint64N(20)))
			w := waited(0, ran...)
			begin := at + random.IntN(50)
			at = begin + int(w.Wait)
			w.At = blameStart.Add(time.Duration(at))
			waits = append(waits, w)
			want += uint64(max(0, min(at, 1100)-max(begin, 1000)))
		}
		s := TCPStall{Process: theReader, TID: 70, Cause: ReaderNotScheduled, At: blameStart.Add(1100), Duration: 100}
		for _, r := range s.Blame(waits).Ran {
			sum += r.NS
		}
		// A part of a nanosecond is nobody's.
		if sum > want || sum+2*uint64(len(waits)) < want {
			t.Fatalf("%d of %d ns for %+v", sum, want, waits)
		}
	}
}
