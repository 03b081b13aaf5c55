package bpfmap

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Pool gives indices of an array back to BPF programs (bpf/lib/pool.bpf.h), which hand them out again at once: so each rests until
// the sweep after the next, for a program that found its element in use and is still at work with it.
type Pool struct {
	returned        *ebpf.Map
	rested, resting []uint32
}

// NewPool is for a queue of a loaded object.
func NewPool(returned *ebpf.Map) *Pool { return &Pool{returned: returned} }

// Give takes an index back, of an element that is zero.
func (p *Pool) Give(n uint32) { p.resting = append(p.resting, n) }

// Sweep hands those over that have rested.
func (p *Pool) Sweep() error {
	for i, n := range p.rested {
		if err := p.returned.Put(nil, n); err != nil {
			p.rested = p.rested[i:]
			return fmt.Errorf("giving an element back to %s: %w", p.returned, err)
		}
	}
	p.rested, p.resting = p.resting, p.rested[:0]
	return nil
}
