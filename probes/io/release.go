package io

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"culprit/probes/bpfmap"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Sweep marks the owners that the kernel side refers to, drops entries of files that are
// clean, and takes over the transactions that have ended.
func (p *Probe) Sweep(number uint32, whole bool) error {
	if err := errors.Join(p.freed.Sweep(), p.chunks.Sweep()); err != nil {
		return err
	}
	entries, err := bpfmap.Variable[uint64](p.objects.Variables["dirty_entries"])
	if err != nil {
		return fmt.Errorf("reading dirty_entries: %w", err)
	}
	crowded := 2*(entries-p.dropped) > uint64(p.objects.Maps[bpfMapDirtyInodes].MaxEntries())
	if !whole && !crowded {
		return p.retireTransactions()
	}
	left, err := p.objects.Programs[bpfProgSweepIo].Run(&ebpf.RunOptions{Context: bpfSweep{Number: number}})
	if err != nil {
		return fmt.Errorf("sweeping the io probe's tables: %w", err)
	}
	p.dropped = entries - uint64(left)
	return p.retireTransactions()
}

// retireTransactions takes over what was kept of transactions of several owners that will
// write no more, and forgets them.
func (p *Probe) retireTransactions() error {
	ended := &reading{}
	var err error
	if ended.transactions, err = bpfmap.All[bpfTransactionKey, bpfTransaction](p.objects.Maps[bpfMapTransactions]); err != nil {
		return err
	}
	maps.DeleteFunc(ended.transactions, func(_ bpfTransactionKey, t bpfTransaction) bool { return t.Dropped == 0 })
	if len(ended.transactions) == 0 {
		return nil
	}
	if ended.shares, err = bpfmap.All[bpfShareKey, bpfShare](p.objects.Maps[bpfMapShares]); err != nil {
		return err
	}
	p.retired.Add(groupRows, p.difference(&reading{transactions: p.reading.transactions}, ended, nil)...)
	for key := range ended.shares {
		if _, ok := ended.transactions[bpfTransactionKey{Device: key.Device, Tid: key.Tid}]; ok {
			if err := bpfmap.Forget(p.objects.Maps[bpfMapShares], key); err != nil {
				return err
			}
		}
	}
	for key := range ended.transactions {
		if err := bpfmap.Forget(p.objects.Maps[bpfMapTransactions], key); err != nil {
			return err
		}
		delete(p.reading.transactions, key)
	}
	return nil
}

func groupRows(rows []snapshot.IORow, by snapshot.By) []snapshot.IORow {
	return snapshot.IO{Rows: rows}.Group(by).Rows
}

// groupFiles drops the least of what is left.
func (p *Probe) groupFiles(files []snapshot.IOFile, by snapshot.By) []snapshot.IOFile {
	folded := snapshot.IO{Files: files}.Group(by).Files
	if by != snapshot.ByApp {
		return folded
	}
	kept := folded[:min(len(folded), owner.BacklogLimit/2)]
	for _, f := range folded[len(kept):] {
		p.filesDropped += f.ReadBytes + f.WriteBytes
	}
	return kept
}

// Release takes over what was counted for owners that are dead, and gives their
// rows back. Those that the list of the slowest requests still names are kept.
func (p *Probe) Release(owners []uint32) (keep []uint32) {
	if len(owners) == 0 {
		return nil
	}
	keep, err := p.release(owners)
	if err != nil {
		return owners // nothing was taken over; it is tried again
	}
	return keep
}

func (p *Probe) release(owners []uint32) (keep []uint32, err error) {
	now := &reading{interval: p.interval}
	if err := p.readOurs(now); err != nil {
		return nil, err
	}
	if p.options.Files {
		if now.files, err = p.readFiles(); err != nil {
			return nil, err
		}
	}
	only := map[uint32]bool{}
	for _, o := range owners {
		only[o] = true
	}
	if p.options.Worst {
		requests, err := p.worst(p.interval)
		if err != nil {
			return nil, err
		}
		for _, r := range requests {
			if o := now.rows[r.Row].Owner; only[o] {
				keep = append(keep, o)
				delete(only, o)
			}
		}
	}
	now.latency = p.readLatencies(now.rows)
	p.retired.Add(groupRows, p.difference(p.reading, now, only)...)
	if p.options.Files {
		p.retiredFiles.Add(p.groupFiles, p.fileDifference(p.reading.files, now.files, only)...)
	}
	for at, row := range now.rows {
		if only[row.Owner] {
			if err := p.freeRow(at, row); err != nil {
				return keep, err
			}
		}
	}
	for key := range now.files {
		if only[key.Owner] {
			if err := bpfmap.Forget(p.objects.Maps[bpfMapIoFiles], key); err != nil {
				return keep, err
			}
			p.table.Forget(owner.FileKey(key.Device, key.Ino, key.Generation))
			delete(p.reading.files, key)
		}
	}
	for o := range only {
		p.sleeps.Set(o, bpfIoSleep{})
		delete(p.reading.sleeps, o)
	}
	return keep, nil
}

func (p *Probe) freeRow(at uint32, row bpfIoRow) error {
	if err := bpfmap.Forget(p.objects.Maps[bpfMapIoRowOf], bpfIoRowKey{Owner: row.Owner, Device: row.Device}); err != nil {
		return err
	}
	p.rows.Set(at, bpfIoRow{})
	delete(p.reading.rows, at)
	delete(p.reading.latency, at)
	for _, l := range row.Latency {
		for _, index := range [][snapshot.BucketOctaves]uint32{l.Unqueued.Chunk, l.Total.Chunk, l.Queue.Chunk, l.Device.Chunk} {
			p.chunks.Free(index)
		}
	}
	p.freed.Give(at)
	return nil
}
