package sched

import (
	"errors"

	"culprit/probes/snapshot"
)

// listsUntilGone is how many lists in a row must lack a thread whose end reached no program.
const listsUntilGone = 3

const sweepsUntilList = 16

// Sweep takes over what threads did that have ended, and marks the owners that are still in use.
func (p *Probe) Sweep(number uint32, whole bool) error {
	if whole { // then the table may forget some
		if err := p.learnGroups(); err != nil {
			return err
		}
	}
	if err := errors.Join(p.freed.Sweep(), p.chunks.Sweep(), p.readWorst()); err != nil {
		return err
	}
	if !p.options.NoPackets {
		if err := p.findPorts(); err != nil {
			return err
		}
	}
	if number%sweepsUntilList == 0 { // reports may be far between
		if err := p.list(); err != nil {
			return err
		}
	}
	end, err := p.threadsEnd()
	if err != nil {
		return err
	}
	for i := uint32(1); i < end; i++ {
		t := p.threads.Get(i)
		if t.Tid == 0 {
			continue
		}
		if t.Dead != 0 || t.Listed != 0 && p.lists-t.List > listsUntilGone || p.isOwnerless(i, t) {
			p.retireThread(i, t)
			continue
		}
		p.table.Mark(t.Owner)
	}
	if number%sweepsUntilDrop == 0 {
		if err := p.sweepTables(); err != nil {
			return err
		}
		return p.dropGroups()
	}
	return nil
}

// isOwnerless is whether a thread's process has been gone for a while, though its own end reached no program.
func (p *Probe) isOwnerless(i uint32, t bpfThread) bool {
	if !p.table.Gone(t.Owner) {
		return false
	}
	p.ownerless[i]++
	return p.ownerless[i] > listsUntilGone
}

// retireThread adds what a thread did to its process's next row, and gives its slot back.
func (p *Probe) retireThread(i uint32, t bpfThread) {
	if t.Dead == 0 {
		t = listed(t)
		t.Dead = 1
	}
	was, before := p.reading.thread(int(i))
	delete(p.ownerless, i)
	spent := wallOf(t, 0).atLeast(before)
	if was.Dead == 0 { // else it was in the last report
		p.pendingOf(t.Owner).add(t, was, spent, before)
		if p.options.ByThread {
			p.keepThread(t, was, spent, before)
		}
	}
	if int(i) < len(p.reading.threads) {
		p.reading.threads[i], p.reading.wall[i] = bpfThread{}, wall{}
	}
	p.threads.Set(i, bpfThread{})
	p.freed.Give(i)
}

// Release takes over what was counted for owners that are dead.
func (p *Probe) Release(owners []uint32) (keep []uint32) {
	if len(owners) == 0 {
		return nil
	}
	if err := p.release(owners); err != nil {
		return owners // it is tried again
	}
	return nil
}

func (p *Probe) release(owners []uint32) error {
	var rows []snapshot.SchedRow
	defer func() { p.retired.Add(groupRows, rows...) }() // those taken over before an error, too
	only := map[uint32]bool{}
	for _, o := range owners {
		only[o] = true
	}
	if err := p.retireCulprits(only); err != nil {
		return err
	}
	for o := range only {
		t, l := p.pendingOf(o), p.latency(o)
		t.setLatency(l.since(p.reading.latencies[o], p.interval))
		t.row.SoftirqCaused = p.processes.Get(o).Caused - p.reading.softirqs.caused[o]
		if t.row.Threads > 0 || len(t.culprits) > 0 || t.row.Latency.Count() > 0 || t.row.SoftirqCaused > 0 {
			rows = append(rows, p.finish(p.table.Process(o), t))
		}
		delete(p.pending, o)
		delete(p.reading.latencies, o)
		delete(p.reading.softirqs.caused, o)
		p.freeLatency(o)
	}
	return nil
}

func groupRows(rows []snapshot.SchedRow, by snapshot.By) []snapshot.SchedRow {
	return snapshot.Sched{Rows: rows}.Group(by).Rows
}

func (p *Probe) freeLatency(o uint32) {
	p.chunks.Free(p.processes.Get(o).Wait.Chunk)
	p.processes.Set(o, bpfSchedProcess{})
}
