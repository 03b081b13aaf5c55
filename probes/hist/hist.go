// Package hist reads the histograms that BPF programs keep (bpf/lib/hist.bpf.h)
// and turns the growth between two readings into a snapshot.Histogram.
package hist

import (
	"fmt"

	"github.com/cilium/ebpf"

	"culprit/probes/snapshot"
)

// Count is how often one bucket was counted, modulo 2^32 as in the kernel.
type Count struct {
	Bucket uint16
	N      uint32
}

// Counts are the buckets that are not 0, ascending.
type Counts []Count

// Zeros is the distribution of n durations of 0 ns.
func Zeros(n uint64) snapshot.Histogram {
	if n == 0 {
		return snapshot.Histogram{}
	}
	lower, upper := snapshot.BucketBounds(0)
	return snapshot.Histogram{Buckets: []snapshot.Bucket{{Lower: lower, Upper: upper, Count: n}}}
}

// Since is the distribution of what was counted after earlier was read. The
// caller knows its sum and maximum.
func (c Counts) Since(earlier Counts) snapshot.Histogram {
	var h snapshot.Histogram
	for _, now := range c {
		for len(earlier) > 0 && earlier[0].Bucket < now.Bucket {
			earlier = earlier[1:]
		}
		n := now.N
		if len(earlier) > 0 && earlier[0].Bucket == now.Bucket {
			n -= earlier[0].N
		}
		if n != 0 {
			lower, upper := snapshot.BucketBounds(now.Bucket)
			h.Buckets = append(h.Buckets, snapshot.Bucket{Lower: lower, Upper: upper, Count: uint64(n)})
		}
	}
	return h
}

// NextInterval begins an interval, of which the kernel side of an object keeps the maxima.
func NextInterval(objects *ebpf.Collection, number *uint32) error {
	*number++
	if err := objects.Variables["interval"].Set(*number); err != nil {
		return fmt.Errorf("beginning an interval: %w", err)
	}
	return nil
}

// maxBits is MAX_NS_BITS of bpf/lib/hist.bpf.h.
const maxBits = 48

// Max is the largest value of an interval whose distribution is h.
func Max(h snapshot.Histogram, at [2]uint64, interval uint32) uint64 {
	most := intervalMax(at, interval)
	if last := len(h.Buckets) - 1; last >= 0 {
		// What ended while this reading was taken has its maximum in the next interval.
		most = max(most, h.Buckets[last].Lower)
	}
	return most
}

// intervalMax is what the kernel side kept of an interval, 0 if it had none.
func intervalMax(at [2]uint64, interval uint32) uint64 {
	packed := at[interval&1]
	if packed>>maxBits != uint64(interval)&(1<<(64-maxBits)-1) {
		return 0
	}
	return packed & (1<<maxBits - 1)
}
