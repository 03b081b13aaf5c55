package snapshot

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// IO is what culprit io reports of one interval.
type IO struct {
	Start, End time.Time
	By         By
	Hosts      []string   // of a recording: the machines that it adds up
	Rows       []IORow    // one per process × device from the probe, per group × device after Group
	Devices    []IODevice // the audit: every device that did anything
	Loss       []Loss     // every counter, zero or not, in a fixed order
	Files      []IOFile   // busiest files, when asked for
	Worst      []IORequest
}

// IORow is the disk I/O that one owner (or group) caused on one device.
// Bytes and operations are counted at completion.
type IORow struct {
	Process
	Device string // "" for the row that carries the times that belong to no device

	Reads, Writes, Discards, Flushes uint64 // operations
	ReadVia                          ReadVia
	WriteVia                         WriteVia
	DiscardBytes                     uint64

	ReadLatency, WriteLatency IOLatency

	BlockedNS   uint64 // threads' time asleep for I/O, without ThrottledNS
	ThrottledNS uint64 // threads' time put to sleep for dirtying too fast
}

// ReadVia divides read bytes by the way they came.
type ReadVia struct{ File, Direct, Metadata, SwapIn uint64 }

// Total is the sum over all ways.
func (v ReadVia) Total() uint64 { return v.File + v.Direct + v.Metadata + v.SwapIn }

func (v ReadVia) add(o ReadVia) ReadVia {
	return ReadVia{v.File + o.File, v.Direct + o.Direct, v.Metadata + o.Metadata, v.SwapIn + o.SwapIn}
}

// WriteVia divides written bytes by the way they went.
type WriteVia struct{ Direct, Writeback, Journal, Metadata, SwapOut uint64 }

// Total is the sum over all ways.
func (v WriteVia) Total() uint64 { return v.Direct + v.Writeback + v.Journal + v.Metadata + v.SwapOut }

func (v WriteVia) add(o WriteVia) WriteVia {
	return WriteVia{v.Direct + o.Direct, v.Writeback + o.Writeback, v.Journal + o.Journal, v.Metadata + o.Metadata, v.SwapOut + o.SwapOut}
}

// IOLatency is the latency of requests from allocation to completion, and its
// two parts: waiting in the kernel's queues, and in the device.
type IOLatency struct{ Total, Queue, Device Histogram }

func (l IOLatency) merge(o IOLatency) IOLatency {
	return IOLatency{l.Total.Merge(o.Total), l.Queue.Merge(o.Queue), l.Device.Merge(o.Device)}
}

// ReadBytes is the sum over ReadVia.
func (r IORow) ReadBytes() uint64 { return r.ReadVia.Total() }

// WriteBytes is the sum over WriteVia.
func (r IORow) WriteBytes() uint64 { return r.WriteVia.Total() }

// Bytes is everything moved: read, written, discarded.
func (r IORow) Bytes() uint64 { return r.ReadBytes() + r.WriteBytes() + r.DiscardBytes }

func (r IORow) merge(o IORow) IORow {
	r.Process = r.Process.merge(o.Process)
	r.Reads += o.Reads
	r.Writes += o.Writes
	r.Discards += o.Discards
	r.Flushes += o.Flushes
	r.ReadVia = r.ReadVia.add(o.ReadVia)
	r.WriteVia = r.WriteVia.add(o.WriteVia)
	r.DiscardBytes += o.DiscardBytes
	r.ReadLatency = r.ReadLatency.merge(o.ReadLatency)
	r.WriteLatency = r.WriteLatency.merge(o.WriteLatency)
	r.BlockedNS += o.BlockedNS
	r.ThrottledNS += o.ThrottledNS
	return r
}

// IOCounts are the figures of a device that the audit compares.
type IOCounts struct {
	Reads, Writes, Discards, Flushes    uint64
	ReadBytes, WriteBytes, DiscardBytes uint64
}

// Sub is c - o, field by field.
func (c IOCounts) Sub(o IOCounts) IOCounts {
	return IOCounts{c.Reads - o.Reads, c.Writes - o.Writes, c.Discards - o.Discards, c.Flushes - o.Flushes,
		c.ReadBytes - o.ReadBytes, c.WriteBytes - o.WriteBytes, c.DiscardBytes - o.DiscardBytes}
}

// Add is c + o, field by field.
func (c IOCounts) Add(o IOCounts) IOCounts {
	return IOCounts{c.Reads + o.Reads, c.Writes + o.Writes, c.Discards + o.Discards, c.Flushes + o.Flushes,
		c.ReadBytes + o.ReadBytes, c.WriteBytes + o.WriteBytes, c.DiscardBytes + o.DiscardBytes}
}

// Less is whether any figure of c is smaller than o's: counters that only grow are another's then.
func (c IOCounts) Less(o IOCounts) bool {
	return c.Reads < o.Reads || c.Writes < o.Writes || c.Discards < o.Discards || c.Flushes < o.Flushes ||
		c.ReadBytes < o.ReadBytes || c.WriteBytes < o.WriteBytes || c.DiscardBytes < o.DiscardBytes
}

// IODevice is the audit of one whole disk: culprit's sums beside the kernel's own.
type IODevice struct {
	Device string
	Ours   IOCounts
	Kernel IOCounts // delta of /proc/diskstats over the same window
	// UnattributedBytes is the sum of the rows "[unattributed: …]".
	UnattributedBytes uint64
	// SkewBytes is how far our own sums moved while the kernel's counters were
	// read (bytes, and one for each operation), 0 when the readings settled: the
	// residual can be off by that much.
	SkewBytes uint64
}

// ResidualBytes is the sum of the absolute differences of read, written and
// discarded bytes.
func (d IODevice) ResidualBytes() uint64 {
	return absDiff(d.Ours.ReadBytes, d.Kernel.ReadBytes) + absDiff(d.Ours.WriteBytes, d.Kernel.WriteBytes) +
		absDiff(d.Ours.DiscardBytes, d.Kernel.DiscardBytes)
}

// ResidualOps is the sum of the absolute differences of the operations.
func (d IODevice) ResidualOps() uint64 {
	return absDiff(d.Ours.Reads, d.Kernel.Reads) + absDiff(d.Ours.Writes, d.Kernel.Writes) +
		absDiff(d.Ours.Discards, d.Kernel.Discards) + absDiff(d.Ours.Flushes, d.Kernel.Flushes)
}

func absDiff(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// IOFile is what one owner (or group) moved of one file.
type IOFile struct {
	Process
	Device                string
	Inode                 uint64
	Path                  string // "" where it can no longer be told
	ReadBytes, WriteBytes uint64
}

// IORequest is one completed request, for the list of the slowest.
type IORequest struct {
	Process
	At       time.Time // completion
	Device   string
	Op       string // read, write, discard, flush
	Via      string // as in ReadVia and WriteVia, "" for the other operations
	Sector   uint64 // in units of 512 bytes
	Bytes    uint64
	QueueNS  uint64 // from allocation to issue
	DeviceNS uint64 // from issue to completion
}

// LatencyNS is from allocation to completion.
func (r IORequest) LatencyNS() uint64 { return r.QueueNS + r.DeviceNS }

// Filter keeps the rows, files and requests whose owner passes keep. The audit
// stays whole: books balance over everybody.
func (s IO) Filter(keep func(Process) bool) IO {
	s.Rows = filter(s.Rows, func(r IORow) bool { return keep(r.Process) })
	s.Files = filter(s.Files, func(f IOFile) bool { return keep(f.Process) })
	s.Worst = filter(s.Worst, func(r IORequest) bool { return keep(r.Process) })
	return s
}

// OnDevice keeps what concerns one device, and of the rows of no device those of
// processes that did I/O on it.
func (s IO) OnDevice(device string) IO {
	on := map[Process]bool{}
	for _, r := range s.Rows {
		if r.Device == device {
			on[r.Process] = true
		}
	}
	s.Rows = filter(s.Rows, func(r IORow) bool { return r.Device == device || r.Device == "" && on[r.Process] })
	s.Devices = filter(s.Devices, func(d IODevice) bool { return d.Device == device })
	s.Files = filter(s.Files, func(f IOFile) bool { return f.Device == device })
	s.Worst = filter(s.Worst, func(r IORequest) bool { return r.Device == device })
	return s
}

func filter[T any](in []T, keep func(T) bool) []T {
	out := make([]T, 0, len(in))
	for _, v := range in {
		if keep(v) {
			out = append(out, v)
		}
	}
	return out
}

// Group merges the rows of each group on each device, files likewise, and
// sorts rows by bytes, largest first.
func (s IO) Group(by By) IO {
	s.By = by
	s.Rows = group(s.Rows, func(r IORow) any {
		return struct {
			groupKey
			device string
		}{r.key(by), r.Device}
	}, IORow.merge)
	for i := range s.Rows {
		s.Rows[i].Process = s.Rows[i].asGroup(by)
	}
	s.Files = group(s.Files, func(f IOFile) any {
		return struct {
			groupKey
			device string
			inode  uint64
			path   string
		}{f.key(by), f.Device, f.Inode, f.Path}
	}, func(a, b IOFile) IOFile {
		a.Process = a.Process.merge(b.Process)
		a.ReadBytes += b.ReadBytes
		a.WriteBytes += b.WriteBytes
		return a
	})
	for i := range s.Files {
		s.Files[i].Process = s.Files[i].asGroup(by)
	}
	slices.SortStableFunc(s.Files, func(a, b IOFile) int {
		return cmp.Or(cmp.Compare(b.ReadBytes+b.WriteBytes, a.ReadBytes+a.WriteBytes), strings.Compare(a.Path, b.Path))
	})
	s.sort(IORow.Bytes)
	return s
}

func group[T any](in []T, key func(T) any, merge func(a, b T) T) []T {
	at := make(map[any]int, len(in))
	var out []T
	for _, v := range in {
		k := key(v)
		if i, ok := at[k]; ok {
			out[i] = merge(out[i], v)
			continue
		}
		at[k] = len(out)
		out = append(out, v)
	}
	return out
}

// IOSorts are the columns that rows can be sorted by, all largest first but name.
var IOSorts = []string{"bytes", "reads", "writes", "latency", "blocked", "name"}

// SortBy orders the rows by one of IOSorts; rows of a group stay a group's.
func (s IO) SortBy(column string) IO {
	s.Rows = slices.Clone(s.Rows)
	switch column {
	case "reads":
		s.sort(IORow.ReadBytes)
	case "writes":
		s.sort(IORow.WriteBytes)
	case "latency":
		s.sort(func(r IORow) uint64 {
			return max(r.ReadLatency.Total.Quantile(0.99), r.WriteLatency.Total.Quantile(0.99))
		})
	case "blocked":
		s.sort(func(r IORow) uint64 { return r.BlockedNS + r.ThrottledNS })
	case "name":
		slices.SortStableFunc(s.Rows, func(a, b IORow) int {
			return cmp.Or(a.compare(b.Process, s.By), strings.Compare(a.Device, b.Device))
		})
	default:
		s.sort(IORow.Bytes)
	}
	return s
}

func (s *IO) sort(size func(IORow) uint64) {
	slices.SortStableFunc(s.Rows, func(a, b IORow) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(b.Bytes(), a.Bytes()),
			a.compare(b.Process, s.By), strings.Compare(a.Device, b.Device))
	})
}
