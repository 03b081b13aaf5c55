// Package contract is the JSON contract as Go types: the names, the order and
// the units of the fields that machines read. The JSON output prints these
// objects; the CSV output takes its columns from them, so that a field has one
// name in both.
//
// Bytes, nanoseconds and counts are integers. Times are RFC 3339 in UTC with
// all nine digits of the nanoseconds, so that they also sort as text; a time
// that is not known is "".
package contract

import (
	"encoding/json"
	"time"

	"culprit/probes/snapshot"
)

// IOSchema names the form of Report.
const IOSchema = "culprit.io/1"

// Report is one interval of culprit io.
type Report struct {
	Schema string `json:"schema"`
	Interval
	Rows        []Row     `json:"rows"`
	OmittedRows int       `json:"omitted_rows"` // left out by the row limit
	Devices     []Device  `json:"devices"`
	Loss        Losses    `json:"loss"`
	Files       []File    `json:"files,omitempty"`
	Worst       []Request `json:"worst,omitempty"`
}

// Interval is the span that a report is about, and what its rows stand for.
type Interval struct {
	Start   string  `json:"start"`
	End     string  `json:"end"`
	Seconds float64 `json:"seconds"`
	By      string  `json:"by"`
}

// Identity is an owner or a group: a field in which a group's members differ
// is empty or 0.
type Identity struct {
	App       string `json:"app"`
	PID       int    `json:"pid"`
	Started   string `json:"started"`
	Comm      string `json:"comm"`
	Exe       string `json:"exe"`
	Cgroup    string `json:"cgroup"`
	Unit      string `json:"unit"`
	Container string `json:"container"`
	User      string `json:"user"`
}

// Counts are operations and bytes at completion.
type Counts struct {
	Reads        uint64 `json:"reads"`
	Writes       uint64 `json:"writes"`
	Discards     uint64 `json:"discards"`
	Flushes      uint64 `json:"flushes"`
	ReadBytes    uint64 `json:"read_bytes"`
	WriteBytes   uint64 `json:"write_bytes"`
	DiscardBytes uint64 `json:"discard_bytes"`
}

// Row is one group's I/O on one device.
type Row struct {
	Identity
	Device string `json:"device"`
	Counts
	WriteVia     WriteVia `json:"write_via"`
	ReadVia      ReadVia  `json:"read_via"`
	ReadLatency  Latency  `json:"read_latency"`
	WriteLatency Latency  `json:"write_latency"`
	BlockedNS    uint64   `json:"blocked_ns"`
	ThrottledNS  uint64   `json:"throttled_ns"`
}

// WriteVia divides write_bytes.
type WriteVia struct {
	Direct    uint64 `json:"direct"`
	Writeback uint64 `json:"writeback"`
	Journal   uint64 `json:"journal"`
	Metadata  uint64 `json:"metadata"`
	SwapOut   uint64 `json:"swap_out"`
}

// ReadVia divides read_bytes.
type ReadVia struct {
	File     uint64 `json:"file"`
	Direct   uint64 `json:"direct"`
	Metadata uint64 `json:"metadata"`
	SwapIn   uint64 `json:"swap_in"`
}

// Latency describes the latencies of requests.
type Latency struct {
	Count       uint64 `json:"count"`
	MeanNS      uint64 `json:"mean_ns"`
	P50NS       uint64 `json:"p50_ns"`
	P90NS       uint64 `json:"p90_ns"`
	P99NS       uint64 `json:"p99_ns"`
	P999NS      uint64 `json:"p999_ns"`
	MaxNS       uint64 `json:"max_ns"`
	QueueP99NS  uint64 `json:"queue_p99_ns"`
	DeviceP99NS uint64 `json:"device_p99_ns"`
}

// Device is the audit of one disk: culprit's own sums, the kernel's, and what
// is between them.
type Device struct {
	Device string `json:"device"`
	Counts
	KernelReads        uint64 `json:"kernel_reads"`
	KernelWrites       uint64 `json:"kernel_writes"`
	KernelDiscards     uint64 `json:"kernel_discards"`
	KernelFlushes      uint64 `json:"kernel_flushes"`
	KernelReadBytes    uint64 `json:"kernel_read_bytes"`
	KernelWriteBytes   uint64 `json:"kernel_write_bytes"`
	KernelDiscardBytes uint64 `json:"kernel_discard_bytes"`
	ResidualBytes      uint64 `json:"residual_bytes"`
	ResidualOps        uint64 `json:"residual_ops"`
	UnattributedBytes  uint64 `json:"unattributed_bytes"`
	AuditSkew          uint64 `json:"audit_skew"` // bytes, and one for each operation
}

// File is what one group moved of one file.
type File struct {
	Identity
	Device     string `json:"device"`
	Inode      uint64 `json:"inode"`
	Path       string `json:"path"` // "" where it can no longer be told
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
}

// Request is one slow request.
type Request struct {
	At string `json:"at"` // completion
	Identity
	Device    string `json:"device"`
	Op        string `json:"op"`
	Via       string `json:"via"`
	Sector    uint64 `json:"sector"` // in units of 512 bytes
	Bytes     uint64 `json:"bytes"`
	LatencyNS uint64 `json:"latency_ns"`
	QueueNS   uint64 `json:"queue_ns"`
	DeviceNS  uint64 `json:"device_ns"`
}

// Losses is an object of counters in the order in which they are given.
type Losses []snapshot.Loss

// MarshalJSON writes {"name":count,…}; a map would lose the order.
func (l Losses) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, c := range l {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(c.Name)
		if err != nil {
			return nil, err
		}
		count, err := json.Marshal(c.Count)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), count...)
	}
	return append(out, '}'), nil
}

// IO is the report of a grouped snapshot from which omitted rows were left out.
func IO(s snapshot.IO, omitted int) Report {
	return Report{
		Schema: IOSchema,
		Interval: Interval{
			Start: stamp(s.Start), End: stamp(s.End), Seconds: s.End.Sub(s.Start).Seconds(), By: string(s.By),
		},
		Rows:        each(s.Rows, row),
		OmittedRows: omitted,
		Devices:     each(s.Devices, device),
		Loss:        Losses(s.Loss),
		Files:       each(s.Files, file),
		Worst:       each(s.Worst, request),
	}
}

// each is never nil: JSON must say [] and not null.
func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
}

func identity(p snapshot.Process) Identity {
	return Identity{
		App: p.App, PID: p.PID, Started: stamp(p.Started), Comm: p.Comm, Exe: p.Exe,
		Cgroup: p.Cgroup, Unit: p.Unit, Container: p.Container, User: p.User,
	}
}

func row(r snapshot.IORow) Row {
	return Row{
		Identity: identity(r.Process),
		Device:   r.Device,
		Counts: Counts{
			Reads: r.Reads, Writes: r.Writes, Discards: r.Discards, Flushes: r.Flushes,
			ReadBytes: r.ReadBytes(), WriteBytes: r.WriteBytes(), DiscardBytes: r.DiscardBytes,
		},
		WriteVia:     WriteVia(r.WriteVia),
		ReadVia:      ReadVia(r.ReadVia),
		ReadLatency:  latency(r.ReadLatency),
		WriteLatency: latency(r.WriteLatency),
		BlockedNS:    r.BlockedNS,
		ThrottledNS:  r.ThrottledNS,
	}
}

func latency(l snapshot.IOLatency) Latency {
	return Latency{
		Count:       l.Total.Count(),
		MeanNS:      l.Total.Mean(),
		P50NS:       l.Total.Quantile(0.5),
		P90NS:       l.Total.Quantile(0.9),
		P99NS:       l.Total.Quantile(0.99),
		P999NS:      l.Total.Quantile(0.999),
		MaxNS:       l.Total.Max,
		QueueP99NS:  l.Queue.Quantile(0.99),
		DeviceP99NS: l.Device.Quantile(0.99),
	}
}

func device(d snapshot.IODevice) Device {
	return Device{
		Device:             d.Device,
		Counts:             Counts(d.Ours),
		KernelReads:        d.Kernel.Reads,
		KernelWrites:       d.Kernel.Writes,
		KernelDiscards:     d.Kernel.Discards,
		KernelFlushes:      d.Kernel.Flushes,
		KernelReadBytes:    d.Kernel.ReadBytes,
		KernelWriteBytes:   d.Kernel.WriteBytes,
		KernelDiscardBytes: d.Kernel.DiscardBytes,
		ResidualBytes:      d.ResidualBytes(),
		ResidualOps:        d.ResidualOps(),
		UnattributedBytes:  d.UnattributedBytes,
		AuditSkew:          d.SkewBytes,
	}
}

func file(f snapshot.IOFile) File {
	return File{
		Identity: identity(f.Process), Device: f.Device, Inode: f.Inode, Path: f.Path,
		ReadBytes: f.ReadBytes, WriteBytes: f.WriteBytes,
	}
}

func request(r snapshot.IORequest) Request {
	return Request{
		At: stamp(r.At), Identity: identity(r.Process), Device: r.Device, Op: r.Op, Via: r.Via,
		Sector: r.Sector, Bytes: r.Bytes, LatencyNS: r.LatencyNS(), QueueNS: r.QueueNS, DeviceNS: r.DeviceNS,
	}
}
