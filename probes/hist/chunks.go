package hist

import (
	"github.com/cilium/ebpf"

	"culprit/probes/bpfmap"
	"culprit/probes/snapshot"
)

// Chunks are what an object's histograms are made of. C is the type that bpf2go made from struct hist_chunk.
type Chunks[C any] struct {
	array *bpfmap.Array[C]
	pool  *bpfmap.Pool
	count func(C) [snapshot.BucketSubs]uint32
}

// NewChunks maps the maps hist_chunks and hist_chunks_returned of a loaded object; count is a chunk's counters.
func NewChunks[C any](chunks, returned *ebpf.Map, count func(C) [snapshot.BucketSubs]uint32) (*Chunks[C], error) {
	array, err := bpfmap.NewArray[C](chunks)
	if err != nil {
		return nil, err
	}
	return &Chunks[C]{array, bpfmap.NewPool(returned), count}, nil
}

// Read collects the counts of a histogram, whose chunks index names.
func (c *Chunks[C]) Read(index [snapshot.BucketOctaves]uint32) Counts {
	var out Counts
	for octave, at := range index {
		if at == 0 {
			continue
		}
		for sub, n := range c.count(c.array.Get(at)) {
			if n != 0 {
				out = append(out, Count{uint16(octave*snapshot.BucketSubs + sub), n})
			}
		}
	}
	return out
}

// Free gives the chunks of a histogram back, which nothing in the kernel may be using.
func (c *Chunks[C]) Free(index [snapshot.BucketOctaves]uint32) {
	var empty C
	for _, at := range index {
		if at == 0 {
			continue
		}
		c.array.Set(at, empty)
		c.pool.Give(at)
	}
}

// Sweep is for each of the probe's sweeps.
func (c *Chunks[C]) Sweep() error { return c.pool.Sweep() }
