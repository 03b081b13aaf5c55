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
	var b bytes.Buffer
	drawn := 0
	for _, g := range groups(s) {
		if top > 0 && drawn == top {
			break
		}
		var reads, writes snapshot.IOLatency
		for _, r := range g {
			reads = merge(reads, r.ReadLatency)
			writes = merge(writes, r.WriteLatency)
		}
		if reads.Total.Count()+writes.Total.Count() == 0 {
			continue
		}
		if drawn > 0 {
			b.WriteByte('\n')
		}
		drawn++
		b.WriteString(strings.TrimLeft(name(g[0].Process, s.By, t.width()), " ") + "\n")
		t.distribution(&b, "reads", reads)
		t.distribution(&b, "writes", writes)
	}
	if drawn == 0 {
		b.WriteString("no latency to draw: no read or write completed\n")
	}
	return t.write("latency histogram", &b)
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

func (t *Table) distribution(b *bytes.Buffer, what string, l snapshot.IOLatency) {
	h := l.Total
	n := h.Count()
	if n == 0 {
		return
	}
	p50, p99 := h.Quantile(0.5), h.Quantile(0.99)
	fmt.Fprintf(b, "  %s %s: p50 %s, p99 %s (queue %s, device %s), max %s\n", count(n), what, duration(p50),
		duration(p99), duration(l.Queue.Quantile(0.99)), duration(l.Device.Quantile(0.99)), duration(h.Max))

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
