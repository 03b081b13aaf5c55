package sched

import (
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

// sweepsUntilDrop is how often groups that nothing refers to are looked for.
const sweepsUntilDrop = 64

// dropGroups forgets the groups that are no more and that nothing refers to.
func (p *Probe) dropGroups() error {
	used := map[uint32]bool{}
	for i := range p.threads.Len() {
		for _, c := range p.threads.Get(i).Culprit {
			used[c.Group] = true
		}
	}
	for i := range p.chapters.Len() {
		for _, group := range p.chapters.Get(i).Group {
			used[group] = true
		}
	}
	for i := range p.cpus.Len() {
		for _, run := range p.cpus.Get(i).Run {
			used[run.Owner] = true
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
	if err := p.retirePairs(gone); err != nil {
		return err
	}
	maps.DeleteFunc(p.groups, func(n uint32, _ snapshot.Process) bool { return gone(n) })
	return nil
}

// retireCulprits takes over what was charged to processes that are gone, while they still have names, and has their
// groups' numbers take the place of theirs.
func (p *Probe) retireCulprits(gone map[uint32]bool) error {
	for i := range p.reading.threads {
		now, was := p.thread(uint32(i)), &p.reading.threads[i]
		for j, c := range now.Culprit {
			ns := c.Listed - was.Culprit[j].Listed
			if !gone[c.Group] || ns == 0 {
				continue
			}
			t := &tally{counted: ns}
			t.charge(c.Group, ns)
			p.retired = append(p.retired, p.finish(p.table.Process(now.Owner), t))
			was.Culprit[j].Listed += ns
			was.Counted += ns
		}
	}
	if err := p.retirePairs(func(n uint32) bool { return gone[n] }); err != nil {
		return err
	}
	_, err := p.objects.Programs[bpfProgSweepSched].Run(&ebpf.RunOptions{})
	return err
}

// retirePairs takes over and forgets the sums of victims or culprits that are gone.
func (p *Probe) retirePairs(gone func(number uint32) bool) error {
	pairs := p.objects.Maps[bpfMapCulprits]
	all, err := bpfmap.All[bpfCulpritKey, uint64](pairs)
	if err != nil {
		return err
	}
	ended := map[bpfCulpritKey]uint64{}
	for key, ns := range all {
		if gone(key.Victim) || gone(key.Culprit) {
			ended[key] = ns
		}
	}
	p.retired = append(p.retired, p.pairRows(ended, p.reading.pairs)...)
	for key := range ended {
		if err := bpfmap.Forget(pairs, key); err != nil {
			return err
		}
		delete(p.reading.pairs, key)
	}
	return nil
}
