package trace

import (
	"maps"

	"github.com/cilium/ebpf"

	"culprit/probes/bpfmap"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// choice is whose events are wanted. The kernel leaves out those of processes that are known not to be, and what it could not know yet is
// left out here. The zero value wants everybody's.
type choice struct {
	keep     func(snapshot.Process) bool // nil: everybody's
	table    *owner.Table
	unwanted *bpfmap.Array[uint32]
	stamps   map[uint32]uint32 // by owner: what it was when keep was asked
	verdicts map[int32]verdict // by pid
}

// verdict is whether events of a process are kept, as they were at any time: what the kernel left out since is not there.
type verdict struct {
	keep  bool
	ended int64 // ns, CLOCK_BOOTTIME; 0: it lives
}

func newChoice(table *owner.Table, unwanted *ebpf.Map, keep func(snapshot.Process) bool) (c choice, err error) {
	c = choice{keep: keep, table: table, stamps: map[uint32]uint32{}, verdicts: map[int32]verdict{}}
	if c.unwanted, err = bpfmap.NewArray[uint32](unwanted); err != nil {
		return c, err
	}
	for nobody := range owner.First {
		c.ask(nobody)
	}
	c.update()
	return c, nil
}

// update asks about processes that are new, or have executed another program.
func (c choice) update() {
	if c.keep == nil {
		return
	}
	for owner := range c.table.Owners() {
		c.ask(owner)
	}
}

func (c choice) ask(owner uint32) {
	stamp := c.table.Stamp(owner)
	if c.stamps[owner] == stamp {
		return
	}
	c.stamps[owner] = stamp
	process := c.table.Process(owner)
	keep := c.keep(process)
	if pid := int32(process.PID); pid != 0 {
		c.verdicts[pid] = verdict{keep: keep || c.verdicts[pid].keep}
	}
	if keep {
		stamp = 0
	}
	c.unwanted.Set(owner, stamp)
}

// release makes room for owners that get other processes.
func (c choice) release(owners []uint32, now int64) {
	if c.keep == nil {
		return
	}
	for _, owner := range owners {
		delete(c.stamps, owner)
		pid := int32(c.table.Process(owner).PID)
		if v, known := c.verdicts[pid]; known {
			v.ended = now
			c.verdicts[pid] = v
		}
	}
}

// forget leaves what is needed for events from a time on.
func (c choice) forget(until int64) {
	maps.DeleteFunc(c.verdicts, func(_ int32, v verdict) bool { return v.ended != 0 && v.ended < until })
}

// keeps is whether events of a process are wanted, or of an app where it is none. Of one that is not known, the kernel wanted them.
func (c choice) keeps(pid int32, app string) bool {
	if c.keep == nil {
		return true
	}
	if pid == 0 && app != "" {
		return c.keep(snapshot.Process{App: app})
	}
	v, known := c.verdicts[pid]
	return v.keep || !known
}

func (c choice) filter(t *snapshot.Trace) {
	if c.keep != nil {
		t.Filter(c.keeps)
	}
}
