package hist

import (
	"slices"

	"culprit/probes/snapshot"
)

// Values is a histogram, by the same rule, of durations that user space knows one by one. The zero Values is empty.
type Values struct {
	counts   map[uint16]uint64
	sum, max uint64
}

// Add counts a duration in ns.
func (v *Values) Add(ns uint64) {
	if v.counts == nil {
		v.counts = map[uint16]uint64{}
	}
	v.counts[snapshot.BucketOf(ns)]++
	v.sum += ns
	v.max = max(v.max, ns)
}

// Histogram is what was counted.
func (v *Values) Histogram() snapshot.Histogram {
	h := snapshot.Histogram{Sum: v.sum, Max: v.max}
	for bucket, n := range v.counts {
		lower, upper := snapshot.BucketBounds(bucket)
		h.Buckets = append(h.Buckets, snapshot.Bucket{Lower: lower, Upper: upper, Count: n})
	}
	slices.SortFunc(h.Buckets, func(a, b snapshot.Bucket) int {
		if a.Lower < b.Lower {
			return -1
		}
		return 1
	})
	return h
}
