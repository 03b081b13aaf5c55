package contract

import "culprit/probes/snapshot"

// IOSchema names the form of IOReport.
const IOSchema = "culprit.io/1"

// IOReport is one interval of culprit io.
type IOReport struct {
	Schema string `json:"schema"`
	Interval
	Rows        []IORow     `json:"rows"`
	OmittedRows int         `json:"omitted_rows"` // left out by the row limit
	Devices     []IODevice  `json:"devices"`
	Loss        Counters    `json:"loss"`
	Files       []IOFile    `json:"files,omitempty"`
	Worst       []IORequest `json:"worst,omitempty"`
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

// IORow is one group's I/O on one device.
type IORow struct {
	Identity
	Device string `json:"device"`
	Counts
	WriteVia     WriteVia  `json:"write_via"`
	ReadVia      ReadVia   `json:"read_via"`
	ReadLatency  IOLatency `json:"read_latency"`
	WriteLatency IOLatency `json:"write_latency"`
	BlockedNS    uint64    `json:"blocked_ns"`
	ThrottledNS  uint64    `json:"throttled_ns"`
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

// IOLatency describes the latencies of requests, and of their two parts.
type IOLatency struct {
	Latency
	QueueP99NS  uint64 `json:"queue_p99_ns"`
	DeviceP99NS uint64 `json:"device_p99_ns"`
}

// IODevice is the audit of one disk: culprit's own sums, the kernel's, and what
// is between them.
type IODevice struct {
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

// IOFile is what one group moved of one file.
type IOFile struct {
	Identity
	Device     string `json:"device"`
	Inode      uint64 `json:"inode"`
	Path       string `json:"path"` // "" where it can no longer be told
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
}

// IORequest is one slow request.
type IORequest struct {
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

// IO is the report of a grouped snapshot from which omitted rows were left out.
func IO(s snapshot.IO, omitted int) IOReport {
	return IOReport{
		Schema:      IOSchema,
		Interval:    interval(s.Start, s.End, s.By).of(s.Hosts),
		Rows:        each(s.Rows, ioRow),
		OmittedRows: omitted,
		Devices:     each(s.Devices, ioDevice),
		Loss:        losses(s.Loss),
		Files:       each(s.Files, ioFile),
		Worst:       each(s.Worst, ioRequest),
	}
}

func ioRow(r snapshot.IORow) IORow {
	return IORow{
		Identity: identity(r.Process),
		Device:   r.Device,
		Counts: Counts{
			Reads: r.Reads, Writes: r.Writes, Discards: r.Discards, Flushes: r.Flushes,
			ReadBytes: r.ReadBytes(), WriteBytes: r.WriteBytes(), DiscardBytes: r.DiscardBytes,
		},
		WriteVia:     WriteVia(r.WriteVia),
		ReadVia:      ReadVia(r.ReadVia),
		ReadLatency:  ioLatency(r.ReadLatency),
		WriteLatency: ioLatency(r.WriteLatency),
		BlockedNS:    r.BlockedNS,
		ThrottledNS:  r.ThrottledNS,
	}
}

func ioLatency(l snapshot.IOLatency) IOLatency {
	return IOLatency{
		Latency:     latency(l.Total),
		QueueP99NS:  l.Queue.Quantile(0.99),
		DeviceP99NS: l.Device.Quantile(0.99),
	}
}

func ioDevice(d snapshot.IODevice) IODevice {
	return IODevice{
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

func ioFile(f snapshot.IOFile) IOFile {
	return IOFile{
		Identity: identity(f.Process), Device: f.Device, Inode: f.Inode, Path: f.Path,
		ReadBytes: f.ReadBytes, WriteBytes: f.WriteBytes,
	}
}

func ioRequest(r snapshot.IORequest) IORequest {
	return IORequest{
		At: stamp(r.At), Identity: identity(r.Process), Device: r.Device, Op: r.Op, Via: r.Via,
		Sector: r.Sector, Bytes: r.Bytes, LatencyNS: r.LatencyNS(), QueueNS: r.QueueNS, DeviceNS: r.DeviceNS,
	}
}
