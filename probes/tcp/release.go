package tcp

import (
	"errors"

	"culprit/probes/bpfmap"
	"culprit/probes/snapshot"
)

// Sweep takes over what connections did that have ended, and marks the owners that are still in use.
func (p *Probe) Sweep(_ uint32, whole bool) error {
	if err := errors.Join(p.freed.Sweep(), p.chunks.Sweep(), p.readWorst()); err != nil {
		return err
	}
	if err := p.takeEnded(); err != nil {
		return err
	}
	if err := p.meetDatagrams(); err != nil {
		return err
	}
	if err := p.takeUnclaimed(); err != nil || !whole {
		return err
	}
	return p.used(func(_ uint32, c bpfConn) error {
		p.table.Mark(c.Owner)
		return nil
	})
}

// takeEnded takes over the connections that have ended, and gives their slots back.
func (p *Probe) takeEnded() error {
	return p.used(func(slot uint32, c bpfConn) error {
		if c.Ended == 0 {
			p.meet(cookie(c.NetnsCookie), c.Netns, p.table.Process(c.Owner).PID, isOld(c))
			return nil
		}
		return p.retire(slot, c)
	})
}

// listsUntilGone is how many lists in a row must lack a connection whose end reached no program.
const listsUntilGone = 12

// retire takes over what a connection did that is over, and gives its slot back.
func (p *Probe) retire(slot uint32, c bpfConn) error {
	p.take(slot, c)
	p.seen[slot] = seen{}
	if c.Ended == 0 {
		timers, at := p.objects.Maps[bpfMapConnTimers], uint32(0)
		if err := timers.Lookup(c.Sk, &at); err == nil && at == slot {
			if err := bpfmap.Forget(timers, c.Sk); err != nil {
				return err
			}
		}
	}
	p.conns.Set(slot, bpfConn{})
	p.freed.Give(slot)
	return nil
}

// Release takes over what was counted for owners that are dead.
func (p *Probe) Release(owners []uint32) (keep []uint32) {
	var rows []snapshot.TCPRow
	defer func() { p.retired.Add(groupRows, rows...) }()
	for _, o := range owners {
		now := p.process(o)
		p.chunks.Free(p.processes.Get(o).Rtt.Chunk)
		p.takeProcess(o, now)
		if t := p.pending[o]; t != nil && t.used {
			rows = append(rows, t.finish(p.table.Process(o)))
		}
		delete(p.pending, o)
		delete(p.processed, o)
		p.processes.Set(o, bpfTcpProcess{})
		if p.datagrams != nil {
			p.datagrams.Set(o, bpfDatagramCounts{})
		}
	}
	return nil
}

func groupRows(rows []snapshot.TCPRow, by snapshot.By) []snapshot.TCPRow {
	return snapshot.TCP{Rows: rows}.Group(by).Rows
}
