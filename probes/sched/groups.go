package sched

import (
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"culprit/probes/bpfmap"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// learnGroups takes note of who the groups are, as long as the process table knows.
func (p *Probe) learnGroups() error {
	groups, err := p.table.Groups()
	if err != nil {
		return err
	}
	maps.Copy(p.groups, groups)
	return nil
}

// who stands for a number: a process, all that are called the same, or what is no process.
func (p *Probe) who(number uint32) snapshot.Process {
	if number < owner.FirstGroup {
		return p.table.Process(number)
	}
	if g, ok := p.groups[number]; ok {
		return g
	}
	return p.table.Process(uint32(bpfOwnerOWNER_UNATTRIBUTED_PROCESS_TABLE_FULL))
}

// sweepsUntilDrop is how often groups that nothing refers to are looked for, and flows without a socket, though no process has ended.
const sweepsUntilDrop = 64

// dropGroups forgets the groups that are no more and that nothing refers to.
func (p *Probe) dropGroups() error {
	used := map[uint32]bool{}
	// In the direction in which numbers travel, so that none slips past.
	for i := range p.cpus.Len() {
		for _, run := range p.cpus.Get(i).Run {
			used[run.Owner] = true
		}
	}
	for i := range p.chapters.Len() {
		for _, group := range p.chapters.Get(i).Group {
			used[group] = true
		}
	}
	end, err := p.threadsEnd()
	if err != nil {
		return err
	}
	for i := range end {
		for _, c := range p.threads.Get(i).Culprit {
			used[c.Group] = true
		}
	}
	living, err := p.table.Groups()
	if err != nil {
		return err
	}
	gone := func(n uint32) bool {
		_, lives := living[n]
		return n >= owner.FirstGroup && !lives && !used[n]
	}
	for n := range p.groups {
		if gone(n) {
			p.unused[n] = true // but for its name, which the next report may need
		}
	}
	return p.retirePairs(gone, func(n uint32) uint32 { return n })
}

// groupOf is what stands for a process that is gone.
func (p *Probe) groupOf(o uint32) uint32 {
	if group := p.table.Group(o); group != 0 {
		return group
	}
	return uint32(bpfOwnerOWNER_UNATTRIBUTED_PROCESS_TABLE_FULL)
}

// retireCulprits takes over what processes that are gone are charged with. From then on they are told apart by name
// alone: a report of an hour would have to remember every process that ever ran, else.
func (p *Probe) retireCulprits(gone map[uint32]bool) error {
	// First, so that nothing refers to them while the rest is looked at.
	if err := p.sweepTables(); err != nil {
		return err
	}
	if err := p.readWorst(); err != nil {
		return err
	}
	return p.retirePairs(func(n uint32) bool { return gone[n] }, func(n uint32) uint32 {
		if gone[n] {
			return p.groupOf(n)
		}
		return n
	})
}

// sweepTables has what refers to processes that are gone refer to their groups, and forgets the flows of sockets that are.
func (p *Probe) sweepTables() error {
	if _, err := p.objects.Programs[bpfProgSweepSched].Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("sweeping the sched probe's tables: %w", err)
	}
	return nil
}

// retirePairs takes over and forgets the sums of victims or culprits that are gone, and names culprits anew.
func (p *Probe) retirePairs(gone func(number uint32) bool, name func(number uint32) uint32) error {
	pairs := p.objects.Maps[bpfMapCulprits]
	all, err := bpfmap.All[bpfCulpritKey, uint64](pairs)
	if err != nil {
		return err
	}
	for key, ns := range all {
		if !gone(key.Victim) && !gone(key.Culprit) {
			continue
		}
		p.pendingOf(key.Victim).charge(name(key.Culprit), ns-p.reading.pairs[key])
		if err := bpfmap.Forget(pairs, key); err != nil {
			return err
		}
		delete(p.reading.pairs, key)
	}
	return nil
}
