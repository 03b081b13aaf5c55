package trace

import (
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"culprit/probes/events"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// Follow makes a source's events be read.
func (p *Probe) Follow(s events.Source) { p.sources = append(p.sources, s) }

// Share makes the programs of another probe's object write those of their events that are wanted to this probe's rings, by the maps
// that it returns.
func (p *Probe) Share(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	var kinds uint64
	for name, kind := range elsewhere {
		if p.wanted[name] {
			kinds |= 1 << kind
		}
	}
	shared := map[string]*ebpf.Map{}
	for _, name := range []string{events.Armed, events.Chunks, events.CPUs, events.Notices, events.Unwanted} {
		shared[name] = p.objects.Maps[name]
		spec.Maps[name].MaxEntries = shared[name].MaxEntries()
	}
	return shared, hook.SetVariables(spec, map[string]any{"trace_kinds": kinds, "trace_chunk_mask": p.chunkMask(), "trace_some": p.options.Keep != nil})
}

// Wants is whether events of a kind are to be traced.
func (p *Probe) Wants(kind string) bool { return p.wanted[kind] }

// Thread is what a thread was called at a moment; 0 is the idle task of the CPU.
func (p *Probe) Thread(tid int32, m snapshot.Moment) snapshot.Thread {
	return p.thread(tid, m.CPU, m.At)
}

// Causer is who an owner was at a time.
func (p *Probe) Causer(owner uint32, at int64) snapshot.Causer {
	process, ok := p.owners.at(owner, at)
	if !ok {
		process = p.table.Process(owner)
	}
	return snapshot.Causer{PID: int32(process.PID), Comm: process.Comm, App: process.App}
}

// released are the owners that are no more, whose numbers can be others' by now: a flight recorder's events are read long after.
type released map[uint32][]tenure

type tenure struct {
	until   int64 // ns, CLOCK_BOOTTIME
	process snapshot.Process
}

func (r released) at(owner uint32, time int64) (snapshot.Process, bool) {
	for _, t := range r[owner] {
		if time <= t.until {
			return t.process, true
		}
	}
	return snapshot.Process{}, false
}

// forget leaves what is needed for events from a time on, and no more than mostKept.
func (r released) forget(until int64) {
	if len(r) > mostKept {
		clear(r)
	}
	for owner, tenures := range r {
		i := 0
		for i < len(tenures) && tenures[i].until < until {
			i++
		}
		if r[owner] = tenures[i:]; i == len(tenures) {
			delete(r, owner)
		}
	}
}

// Sweep has nothing to mark: what an event refers to may go, since Release remembers it.
func (p *Probe) Sweep(uint32, bool) error { return nil }

// Release remembers who owners were.
func (p *Probe) Release(owners []uint32) (keep []uint32) {
	now, err := clock(unix.CLOCK_BOOTTIME)
	if err != nil {
		return owners
	}
	p.choice.release(owners, now)
	for _, owner := range owners {
		p.owners[owner] = append(p.owners[owner], tenure{now, p.table.Process(owner)})
	}
	return nil
}
