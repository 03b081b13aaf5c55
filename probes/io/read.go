package io

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"culprit/probes/bpfmap"
	"culprit/probes/hist"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// reading is everything that was counted up to one moment.
type reading struct {
	at           time.Time
	interval     uint32 // the one that ended with it
	rows         map[uint32]bpfIoRow
	latency      map[uint32][2]latency
	sleeps       map[uint32]bpfIoSleep
	transactions map[bpfTransactionKey]bpfTransaction
	shares       map[bpfShareKey]bpfShare
	files        map[bpfIoFileKey]bpfIoFile
	kernel       map[string]snapshot.IOCounts // by disk
	skew         map[uint32]uint64
}

// latency is struct io_latency of bpf/lib/io.bpf.h.
type latency struct{ unqueued, total, queue, device hist.Counts }

// settleTries is how often the two sides are read before a device that never rests is
// reported with a skew.
const settleTries = 20

// read takes our counters, the kernel's, and ours again, until ours did not
// move meanwhile: the two cannot be read in one instant.
func (p *Probe) read() (*reading, error) {
	for try := 1; ; try++ {
		r := &reading{interval: p.interval - 1}
		if err := p.readOurs(r); err != nil {
			return nil, err
		}
		kernel, err := readDiskstats(filepath.Join(p.options.Proc, "diskstats"))
		if err != nil {
			return nil, err
		}
		r.at, r.kernel = time.Now(), kernel
		again := &reading{}
		if err := p.readOurs(again); err != nil {
			return nil, err
		}
		r.skew = movedBetween(r, again)
		if len(r.skew) == 0 || try == settleTries {
			if r.files, err = p.readFiles(); err != nil {
				return nil, err
			}
			r.latency = p.readLatencies(r.rows)
			return r, nil
		}
	}
}

func (p *Probe) readOurs(r *reading) (err error) {
	if _, err := p.objects.Programs[bpfProgSettle].Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("settling the requests in flight: %w", err)
	}
	pool, err := bpfmap.Variable[bpfPool](p.objects.Variables["io_row_pool"])
	if err != nil {
		return fmt.Errorf("reading the row pool: %w", err)
	}
	r.rows = map[uint32]bpfIoRow{}
	r.sleeps = map[uint32]bpfIoSleep{}
	for at := range min(pool.Next, p.rowCount()) {
		row := p.rows.Get(at)
		if row.Owner == 0 && at != 0 {
			continue
		}
		r.rows[at] = row
	}
	for o := owner.First; o < p.table.Processes(); o++ {
		if s := p.sleeps.Get(o); s.BlockedNs != 0 || s.ThrottledNs != 0 {
			r.sleeps[o] = s
		}
	}
	if r.transactions, err = bpfmap.All[bpfTransactionKey, bpfTransaction](p.objects.Maps[bpfMapTransactions]); err != nil {
		return err
	}
	r.shares, err = bpfmap.All[bpfShareKey, bpfShare](p.objects.Maps[bpfMapShares])
	return err
}

func (p *Probe) rowCount() uint32 { return p.objects.Maps[bpfMapIoRows].MaxEntries() }

// readLatencies reads the histograms of the rows that moved since the last reading.
func (p *Probe) readLatencies(rows map[uint32]bpfIoRow) map[uint32][2]latency {
	out := make(map[uint32][2]latency, len(rows))
	for at, row := range rows {
		if p.reading != nil && p.reading.rows[at].Ops == row.Ops && p.reading.rows[at].Owner == row.Owner {
			out[at] = p.reading.latency[at]
			continue
		}
		var l [2]latency
		for op := range l {
			k := row.Latency[op]
			l[op] = latency{
				unqueued: p.chunks.Read(k.Unqueued.Chunk),
				total:    p.chunks.Read(k.Total.Chunk),
				queue:    p.chunks.Read(k.Queue.Chunk),
				device:   p.chunks.Read(k.Device.Chunk),
			}
		}
		out[at] = l
	}
	return out
}

// movedBetween is by how many bytes and operations each device's sum grew.
func movedBetween(a, b *reading) map[uint32]uint64 {
	moved := map[uint32]uint64{}
	for at, now := range b.rows {
		was := a.rows[at]
		for via := range now.Bytes {
			moved[now.Device] += now.Bytes[via] - was.Bytes[via]
		}
		for op := range now.Ops {
			moved[now.Device] += now.Ops[op] - was.Ops[op]
		}
	}
	for key, now := range b.transactions {
		was := a.transactions[key]
		for kind := range now.Bytes {
			moved[now.Device[kind]] += now.Bytes[kind] - was.Bytes[kind]
		}
	}
	maps.DeleteFunc(moved, func(_ uint32, n uint64) bool { return n == 0 })
	return moved
}

// Read returns what happened since the last Read, one row per process and
// device, ungrouped.
func (p *Probe) Read() (snapshot.IO, error) {
	if err := p.nextInterval(); err != nil {
		return snapshot.IO{}, err
	}
	was := p.reading
	var now *reading
	var s snapshot.IO
	for try := 1; ; try++ {
		var err error
		if now, err = p.read(); err != nil {
			return snapshot.IO{}, err
		}
		s = snapshot.IO{Start: was.at, End: now.at, By: snapshot.ByPID}
		s.Rows = append(slices.Clone(p.retired.Rows), p.difference(was, now, nil)...)
		s.Devices = p.audit(was, now, s.Rows)
		if balanced(s.Devices) || try == balanceTries {
			break
		}
		time.Sleep(time.Millisecond)
	}
	p.retired.Rows = nil
	losses, err := p.readLosses()
	if err != nil {
		return snapshot.IO{}, err
	}
	rows := p.unseen(s.Devices, losses["unseen_completions"])
	for _, r := range rows {
		p.unseenFlushes += r.Flushes
	}
	losses["unseen_flushes"] = p.unseenFlushes
	if len(rows) > 0 {
		s.Rows = append(s.Rows, rows...)
		s.Devices = p.audit(was, now, s.Rows)
	}
	for _, d := range s.Devices {
		t := p.totals[d.Device]
		t.ours, t.kernel = t.ours.Add(d.Ours), t.kernel.Add(d.Kernel)
		if t.ours == t.kernel {
			t.unseen = losses["unseen_completions"]
		}
		p.totals[d.Device] = t
	}
	s.Loss = snapshot.LossesSince(p.losses, losses)
	if p.options.Files {
		s.Files = append(p.retiredFiles.Rows, p.fileDifference(was.files, now.files, nil)...)
		p.retiredFiles.Rows = nil
	}
	if p.options.Worst {
		if s.Worst, err = p.readWorst(now); err != nil {
			return snapshot.IO{}, err
		}
	}
	p.reading, p.losses = now, losses
	return s, nil
}

// nextInterval learns new disks and begins an interval.
func (p *Probe) nextInterval() error {
	if err := p.findDevices(); err != nil {
		return err
	}
	return hist.NextInterval(p.objects, &p.interval)
}

// difference is what rows, transactions and sleeps grew by; of the owners in only, or of all
// if it is nil.
func (p *Probe) difference(was, now *reading, only map[uint32]bool) []snapshot.IORow {
	type place struct{ owner, device uint32 }
	rows := map[place]*snapshot.IORow{}
	row := func(o, device uint32) *snapshot.IORow {
		r, ok := rows[place{o, device}]
		if !ok {
			r = &snapshot.IORow{Process: p.table.Process(o)}
			if device != noDevice {
				r.Device = p.deviceName(device)
			}
			rows[place{o, device}] = r
		}
		return r
	}
	for at, n := range now.rows {
		w := was.rows[at]
		another := w.Owner != n.Owner || w.Device != n.Device
		if another {
			w = bpfIoRow{}
		}
		if only != nil && !only[n.Owner] || n.Bytes == w.Bytes && n.Ops == w.Ops {
			continue
		}
		addRow(row(n.Owner, n.Device), n, w, now.latency[at], was.latency[at], now.interval, another)
	}
	for o, n := range now.sleeps {
		if w := was.sleeps[o]; n != w && (only == nil || only[o]) {
			r := row(o, noDevice)
			r.BlockedNS += n.BlockedNs - w.BlockedNs
			r.ThrottledNS += n.ThrottledNs - w.ThrottledNs
		}
	}
	if only == nil {
		for key, n := range now.transactions {
			for _, part := range splitTransaction(key, was.transactions[key], n, now.shares) {
				via := &row(part.owner, part.device).WriteVia
				via.Journal += part.bytes[bpfTransactionWriteTRANSACTION_JOURNAL]
				via.Metadata += part.bytes[bpfTransactionWriteTRANSACTION_CHECKPOINT]
			}
		}
	}
	out := make([]snapshot.IORow, 0, len(rows))
	for _, r := range rows {
		out = append(out, *r)
	}
	return out
}

// noDevice is where sleeps stand; no disk has major and minor 0.
const noDevice = 0

func (p *Probe) deviceName(device uint32) string {
	if name, ok := p.devices[device]; ok {
		return name
	}
	return fmt.Sprintf("%d:%d", device>>20, device&(1<<20-1)) // gone before its name was read
}

// addRow adds what a row grew by. Its earlier latencies do not count if it was another owner's.
func addRow(r *snapshot.IORow, n, w bpfIoRow, latencies, before [2]latency, interval uint32, another bool) {
	bytes := func(via bpfIoVia) uint64 { return n.Bytes[via] - w.Bytes[via] }
	r.ReadVia.File += bytes(bpfIoViaVIA_READ_FILE)
	r.ReadVia.Direct += bytes(bpfIoViaVIA_READ_DIRECT)
	r.ReadVia.Metadata += bytes(bpfIoViaVIA_READ_METADATA)
	r.ReadVia.SwapIn += bytes(bpfIoViaVIA_READ_SWAP_IN)
	r.WriteVia.Direct += bytes(bpfIoViaVIA_WRITE_DIRECT)
	r.WriteVia.Writeback += bytes(bpfIoViaVIA_WRITE_WRITEBACK)
	r.WriteVia.Journal += bytes(bpfIoViaVIA_WRITE_JOURNAL)
	r.WriteVia.Metadata += bytes(bpfIoViaVIA_WRITE_METADATA)
	r.WriteVia.SwapOut += bytes(bpfIoViaVIA_WRITE_SWAP_OUT)
	r.DiscardBytes += bytes(bpfIoViaVIA_DISCARD)
	ops := func(op bpfIoOp) uint64 { return n.Ops[op] - w.Ops[op] }
	r.Reads += ops(bpfIoOpIO_READ)
	r.Writes += ops(bpfIoOpIO_WRITE)
	r.Discards += ops(bpfIoOpIO_DISCARD)
	r.Flushes += ops(bpfIoOpIO_FLUSH)
	for op, l := range map[bpfIoOp]*snapshot.IOLatency{bpfIoOpIO_READ: &r.ReadLatency, bpfIoOpIO_WRITE: &r.WriteLatency} {
		now, then := latencies[op], before[op]
		if n.Ops[op] == w.Ops[op] {
			continue
		}
		if another {
			then = latency{}
		}
		unqueued := now.unqueued.Since(then.unqueued)
		l.Total = now.total.Since(then.total).Merge(unqueued)
		l.Queue = now.queue.Since(then.queue).Merge(hist.Zeros(unqueued.Count()))
		l.Device = now.device.Since(then.device).Merge(unqueued)
		l.Total.Sum = n.Latency[op].Sum - w.Latency[op].Sum
		l.Total.Max = hist.Max(l.Total, n.Latency[op].Max.At, interval)
	}
}

// readLosses reads every loss counter, and how often the kernel skipped a program
// because it was running already. Skipped completions are not in that: they are
// found again (charge_unseen() in bpf/io.bpf.c).
func (p *Probe) readLosses() (map[string]uint64, error) {
	out, err := p.table.Losses(&p.missed, p.objects, bpfProgRequestComplete)
	if err != nil {
		return nil, err
	}
	out["processes_folded"], out["file_bytes_dropped"], out["unseen_flushes"] = p.retired.Folded, p.filesDropped, p.unseenFlushes
	return out, nil
}

func (p *Probe) readFiles() (map[bpfIoFileKey]bpfIoFile, error) {
	return bpfmap.All[bpfIoFileKey, bpfIoFile](p.objects.Maps[bpfMapIoFiles])
}

// fileDifference is what files' bytes grew by; of the owners in only, or of all if it is nil.
func (p *Probe) fileDifference(was, now map[bpfIoFileKey]bpfIoFile, only map[uint32]bool) []snapshot.IOFile {
	var out []snapshot.IOFile
	mounts := readMounts(filepath.Join(p.options.Proc, "1/mountinfo"), filepath.Join(p.options.Proc, "self/mountinfo"))
	for key, n := range now {
		w := was[key]
		if only != nil && !only[key.Owner] || n.ReadBytes == w.ReadBytes && n.WriteBytes == w.WriteBytes {
			continue
		}
		f := snapshot.IOFile{
			Process: p.table.Process(key.Owner), Device: p.diskOf(key.Device, mounts), Inode: key.Ino,
			ReadBytes: n.ReadBytes - w.ReadBytes, WriteBytes: n.WriteBytes - w.WriteBytes,
		}
		if path := p.table.Path(owner.FileKey(key.Device, key.Ino, key.Generation)); path != "" {
			f.Path = mounts.path(key.Device, path)
		}
		out = append(out, f)
	}
	return out
}

// worst is what each CPU kept of an interval.
func (p *Probe) worst(interval uint32) ([]bpfIoRequest, error) {
	var out []bpfIoRequest
	var perCPU []bpfIoSlowest
	if err := p.objects.Maps[bpfMapIoWorst].Lookup(interval&1, &perCPU); err != nil {
		return nil, fmt.Errorf("reading the slowest requests: %w", err)
	}
	for _, w := range perCPU {
		if w.Interval == interval {
			out = append(out, w.Request[:min(w.N, uint32(len(w.Request)))]...)
		}
	}
	return out, nil
}

func (p *Probe) readWorst(now *reading) ([]snapshot.IORequest, error) {
	requests, err := p.worst(now.interval)
	if err != nil {
		return nil, err
	}
	monotonic, err := hook.MonotonicClock()
	if err != nil {
		return nil, err
	}
	var out []snapshot.IORequest
	for _, r := range requests {
		row := now.rows[r.Row]
		out = append(out, snapshot.IORequest{
			Process: p.table.Process(row.Owner), At: monotonic.Wall(r.At), Device: p.deviceName(row.Device),
			Op: opNames[bpfIoOp(r.Op)], Via: viaNames[bpfIoVia(r.Via)], Sector: r.Sector, Bytes: uint64(r.Bytes),
			QueueNS: r.QueueNs, DeviceNS: r.DeviceNs,
		})
	}
	slices.SortFunc(out, func(a, b snapshot.IORequest) int { return cmp.Compare(b.LatencyNS(), a.LatencyNS()) })
	return out, nil
}

var opNames = map[bpfIoOp]string{
	bpfIoOpIO_READ: "read", bpfIoOpIO_WRITE: "write", bpfIoOpIO_DISCARD: "discard", bpfIoOpIO_FLUSH: "flush",
}

var viaNames = map[bpfIoVia]string{
	bpfIoViaVIA_READ_FILE: "file", bpfIoViaVIA_READ_DIRECT: "direct", bpfIoViaVIA_READ_METADATA: "metadata",
	bpfIoViaVIA_READ_SWAP_IN: "swap_in", bpfIoViaVIA_WRITE_DIRECT: "direct", bpfIoViaVIA_WRITE_WRITEBACK: "writeback",
	bpfIoViaVIA_WRITE_JOURNAL: "journal", bpfIoViaVIA_WRITE_METADATA: "metadata", bpfIoViaVIA_WRITE_SWAP_OUT: "swap_out",
}
