package snapshot

import (
	"cmp"
	"math"
	"slices"
)

// The shape of the rule of all histograms, bpf/lib/hist_rule.h; a test of probes/hist holds both against each other.
const (
	bucketUnitShift = 4
	bucketSubBits   = 4
	BucketSubs      = 1 << bucketSubBits // buckets in an octave
	BucketOctaves   = 32
)

// BucketBounds are the values in ns that a bucket of the rule counts: lower <= v < upper.
func BucketBounds(bucket uint16) (lower, upper uint64) {
	octave, sub := uint64(bucket)/BucketSubs, uint64(bucket)%BucketSubs
	if octave == 0 {
		return sub << bucketUnitShift, (sub + 1) << bucketUnitShift
	}
	lower = (BucketSubs + sub) << (octave - 1 + bucketUnitShift)
	upper = lower + 1<<(octave-1+bucketUnitShift)
	if bucket == BucketOctaves*BucketSubs-1 {
		upper = math.MaxUint64
	}
	return lower, upper
}

// BucketOf is the bucket of the rule that counts a value.
func BucketOf(ns uint64) uint16 {
	bucket, _ := slices.BinarySearchFunc(buckets, ns, func(b Bucket, ns uint64) int {
		if b.Upper > ns {
			return 1
		}
		return -1
	})
	return uint16(min(bucket, len(buckets)-1))
}

// buckets are those of the rule, without counts.
var buckets = func() (all []Bucket) {
	for i := range uint16(BucketOctaves * BucketSubs) {
		lower, upper := BucketBounds(i)
		all = append(all, Bucket{Lower: lower, Upper: upper})
	}
	return all
}()

// Bucket counts the values v with Lower <= v < Upper, in nanoseconds.
type Bucket struct {
	Lower, Upper uint64
	Count        uint64
}

// Histogram is a distribution of durations. The zero value is empty.
type Histogram struct {
	Buckets []Bucket // ascending, without empty ones; two histograms of one kernel rule share their bounds
	Sum     uint64   // ns, exact
	Max     uint64   // ns, exact
}

// Count is the number of values.
func (h Histogram) Count() uint64 {
	var n uint64
	for _, b := range h.Buckets {
		n += b.Count
	}
	return n
}

// Mean is the arithmetic mean in ns, 0 when empty.
func (h Histogram) Mean() uint64 {
	if n := h.Count(); n > 0 {
		return h.Sum / n
	}
	return 0
}

// Quantile is the q-quantile (0 < q <= 1) in ns by the nearest-rank rule: the
// middle of the bucket that holds it, but never beyond Max. Its relative error is
// half of the bucket's width. 0 when empty.
func (h Histogram) Quantile(q float64) uint64 {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := uint64(q * float64(n))
	if float64(rank) < q*float64(n) {
		rank++
	}
	rank = max(rank, 1)
	for _, b := range h.Buckets {
		if rank <= b.Count {
			mid := b.Lower + (b.Upper-b.Lower)/2
			if h.Max > 0 {
				mid = min(mid, h.Max)
			}
			return mid
		}
		rank -= b.Count
	}
	return h.Max
}

// Merge is the distribution of the values of both. It is associative and
// commutative, and leaves both unchanged.
func (h Histogram) Merge(o Histogram) Histogram {
	out := Histogram{Sum: h.Sum + o.Sum, Max: max(h.Max, o.Max)}
	out.Buckets = make([]Bucket, 0, len(h.Buckets)+len(o.Buckets))
	out.Buckets = append(append(out.Buckets, h.Buckets...), o.Buckets...)
	slices.SortFunc(out.Buckets, func(a, b Bucket) int { return cmp.Compare(a.Lower, b.Lower) })
	n := 0
	for _, b := range out.Buckets {
		if n > 0 && out.Buckets[n-1].Lower == b.Lower {
			out.Buckets[n-1].Count += b.Count
			continue
		}
		out.Buckets[n] = b
		n++
	}
	out.Buckets = out.Buckets[:n]
	return out
}
