package table

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"culprit/probes/snapshot"
)

// Hist draws the latency distribution of the first top groups (0: of all), of
// reads and of writes, over all devices: a line per octave of nanoseconds,
// those of a power of two up to the next. P50 and p99 stand beside the octave
// that holds them.
func (t *Table) Hist(s snapshot.IO, top int) error {
	var drawings []drawing
	for _, g := range groups(s) {
		var reads, writes snapshot.IOLatency
		for _, r := range g {
			reads = merge(reads, r.ReadLatency)
			writes = merge(writes, r.WriteLatency)
		}
		drawings = append(drawings, drawing{label(g[0].Process, s.By, t.width()), []distribution{
			requests("reads", reads), requests("writes", writes),
		}})
	}
	return t.hist("latency histogram", drawings, top, "no latency to draw: no read or write completed")
}

func requests(what string, l snapshot.IOLatency) distribution {
	h := l.Total
	return distribution{h, fmt.Sprintf("%s %s: p50 %s, p99 %s (queue %s, device %s), max %s", count(h.Count()), what,
		duration(h.Quantile(0.5)), duration(h.Quantile(0.99)), duration(l.Queue.Quantile(0.99)),
		duration(l.Device.Quantile(0.99)), duration(h.Max))}
}

// SchedHist draws the distribution of the waits of the first top groups (0: of
// all) as Hist does that of requests.
func (t *Table) SchedHist(s snapshot.Sched, top int) error {
	var drawings []drawing
	for _, r := range s.Rows {
		drawings = append(drawings, drawing{label(r.Process, s.By, t.width()), []distribution{quantiles("waits", r.Latency)}})
	}
	return t.hist("wait histogram", drawings, top, "no waits to draw: nobody waited for a CPU")
}

// TCPHist draws, of the connections of the first top groups (0: of all), how long
// round trips took, connecting, and waiting for the first byte, as Hist does.
func (t *Table) TCPHist(s snapshot.TCP, top int) error {
	var drawings []drawing
	for _, r := range s.Rows {
		drawings = append(drawings, drawing{label(r.Process, s.By, t.width()), []distribution{
			quantiles("round trips", r.RTT), quantiles("times to connect", r.Connect), quantiles("times to the first byte", r.FirstByte),
		}})
	}
	return t.hist("round-trip histogram", drawings, top, "no round trips to draw: none was measured")
}

func quantiles(what string, h snapshot.Histogram) distribution {
	return distribution{h, fmt.Sprintf("%s %s: p50 %s, p99 %s, p99.9 %s, max %s", count(h.Count()), what,
		duration(h.Quantile(0.5)), duration(h.Quantile(0.99)), duration(h.Quantile(0.999)), duration(h.Max))}
}

// distribution is a histogram and what there is to say of it.
type distribution struct {
	snapshot.Histogram
	head string
}

// drawing is the distributions of one group.
type drawing struct {
	name          string
	distributions []distribution
}

// hist draws the first top groups (0: all) of those that have any values, or
// says that there are none.
func (t *Table) hist(what string, drawings []drawing, top int, none string) error {
	var b bytes.Buffer
	drawn := 0
	for _, d := range drawings {
		if top > 0 && drawn == top {
			break
		}
		full := slices.DeleteFunc(d.distributions, func(d distribution) bool { return d.Count() == 0 })
		if len(full) == 0 {
			continue
		}
		if drawn > 0 {
			b.WriteByte('\n')
		}
		drawn++
		b.WriteString(d.name + "\n")
		for _, d := range full {
			b.WriteString("  " + d.head + "\n")
			t.octaves(&b, d.Histogram)
		}
	}
	if drawn == 0 {
		b.WriteString(none + "\n")
	}
	return t.write(what, &b)
}

func merge(a, b snapshot.IOLatency) snapshot.IOLatency {
	return snapshot.IOLatency{
		Total: a.Total.Merge(b.Total), Queue: a.Queue.Merge(b.Queue), Device: a.Device.Merge(b.Device),
	}
}

// An octave is the number of bits of its values: 0 is [0, 1), and n is
// [2^(n-1), 2^n).
func octave(ns uint64) int { return bits.Len64(ns) }

// bounds of an octave as text.
func bounds(octave int) (lower, upper string) {
	if octave == 0 {
		return "0", duration(1)
	}
	if octave == 64 { // its upper bound is no uint64
		return duration(1 << 63), "∞"
	}
	return duration(1 << (octave - 1)), duration(1 << octave)
}

// octaves draws a histogram that is not empty.
func (t *Table) octaves(b *bytes.Buffer, h snapshot.Histogram) {
	n, p50, p99 := h.Count(), h.Quantile(0.5), h.Quantile(0.99)
	// The first bucket begins at 0 and is several octaves, drawn as one.
	var least uint64
	if h.Buckets[0].Lower == 0 {
		least = h.Buckets[0].Upper
	}
	octave := func(ns uint64) int {
		if ns < least {
			return 0
		}
		return octave(ns)
	}
	var counts [65]uint64
	first, last := len(counts), 0
	for _, bucket := range h.Buckets {
		o := octave(bucket.Lower)
		counts[o] += bucket.Count
		first, last = min(first, o), max(last, o)
	}
	most := slices.Max(counts[:])
	const fixed = len("  123456 - 123456 123456 100.0% ") + len(" p50 p99")
	for o := first; o <= last; o++ {
		lower, upper := bounds(o)
		if o == 0 && least > 0 {
			upper = duration(least)
		} else if o > 0 && 1<<(o-1) < least {
			continue
		}
		fmt.Fprintf(b, "  %s - %s %s %5.1f%% %s", pad(lower, durationWidth, true), pad(upper, durationWidth, true),
			pad(count(counts[o]), countWidth, true), 100*float64(counts[o])/float64(n),
			bar(counts[o], most, t.width()-fixed))
		if octave(p50) == o {
			b.WriteString(" p50")
		}
		if octave(p99) == o {
			b.WriteString(" p99")
		}
		b.WriteByte('\n')
	}
}

// bar is n of most in width columns, drawn to an eighth of a column. What is
// not 0 is seen.
func bar(n, most uint64, width int) string {
	eighths := int(float64(n) / float64(most) * float64(8*width))
	if n > 0 {
		eighths = max(eighths, 1)
	}
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return s + strings.Repeat(" ", width-len([]rune(s)))
}
