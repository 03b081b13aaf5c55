package recording

import (
	"cmp"
	"net/netip"
	"strings"
	"time"

	"culprit/probes/snapshot"
)

// Schema is the version of the tables. What has it can be read for ever; a column that is added leaves it, one that changes its
// meaning does not.
const Schema = 1

// identity is who a row is of: a process, if PID is not 0, or what is called the same in every way.
type identity struct {
	App       string `json:"app,omitempty" parquet:"app,dict"`
	PID       int64  `json:"pid,omitempty" parquet:"pid"`
	Started   int64  `json:"started_us,omitempty" parquet:"started,timestamp(microsecond)"` // of a process
	Comm      string `json:"comm,omitempty" parquet:"comm,dict"`
	Exe       string `json:"exe,omitempty" parquet:"exe,dict"`
	Cgroup    string `json:"cgroup,omitempty" parquet:"cgroup,dict"`
	Unit      string `json:"unit,omitempty" parquet:"unit,dict"`
	Container string `json:"container,omitempty" parquet:"container,dict"`
	User      string `json:"user,omitempty" parquet:"user,dict"`
}

// histogram is a distribution of durations: le_ns are the ends of the buckets that are not empty, as Prometheus has them. Each of
// culprit's octaves is 4 of these, not 16: a value is at most 1/8 from the middle of its bucket.
type histogram struct {
	Sum uint64 `json:"sum_ns,omitempty" parquet:"sum_ns"`
	Max uint64 `json:"max_ns,omitempty" parquet:"max_ns"`
	counts
}

// counts are a distribution alone. Where there is no sum beside it, each octave is one bucket.
type counts struct {
	Upper []uint64 `json:"le_ns,omitempty" parquet:"le_ns,list,dict"`
	Count []uint64 `json:"count,omitempty" parquet:"count,list,plain"`
}

// interval is what was recorded at a time, and of which machine. The other tables' rows have its end.
type interval struct {
	End      int64  `json:"end_us" parquet:"end,timestamp(microsecond)"`
	Length   int64  `json:"length_ns" parquet:"length_ns"` // without the time in which the machine was suspended
	Boot     string `json:"boot" parquet:"boot,dict"`      // /proc/sys/kernel/random/boot_id
	Kernel   string `json:"kernel" parquet:"kernel,dict"`  // as uname -r has it
	Version  string `json:"culprit" parquet:"culprit,dict"`
	Schema   int32  `json:"schema" parquet:"schema"`
	Hours    int32  `json:"hours,omitempty" parquet:"hours"`             // that it is the sum of; 0: it is none
	Recorded int64  `json:"recorded_ns,omitempty" parquet:"recorded_ns"` // of a sum: how long what it is of is, without gaps

	MinStall uint64 `json:"min_stall_ns" parquet:"min_stall_ns"` // shorter ones are not counted

	SchedWait       uint64 `json:"sched_wait_ns" parquet:"sched_wait_ns"` // the audit of culprit sched
	SchedKernelWait uint64 `json:"sched_kernel_wait_ns" parquet:"sched_kernel_wait_ns"`
	SchedSkew       int64  `json:"sched_skew_ns" parquet:"sched_skew_ns"`
}

type ioRow struct {
	End int64 `json:"-" parquet:"end,timestamp(microsecond),dict"`
	identity
	Device   string `json:"device,omitempty" parquet:"device,dict"` // "": the row of the times that belong to none
	Reads    uint64 `json:"reads,omitempty" parquet:"reads"`
	Writes   uint64 `json:"writes,omitempty" parquet:"writes"`
	Discards uint64 `json:"discards,omitempty" parquet:"discards"`
	Flushes  uint64 `json:"flushes,omitempty" parquet:"flushes"`

	ReadFile       uint64 `json:"read_file_bytes,omitempty" parquet:"read_file_bytes"`
	ReadDirect     uint64 `json:"read_direct_bytes,omitempty" parquet:"read_direct_bytes"`
	ReadMetadata   uint64 `json:"read_metadata_bytes,omitempty" parquet:"read_metadata_bytes"`
	ReadSwapIn     uint64 `json:"read_swap_in_bytes,omitempty" parquet:"read_swap_in_bytes"`
	WriteDirect    uint64 `json:"write_direct_bytes,omitempty" parquet:"write_direct_bytes"`
	WriteWriteback uint64 `json:"write_writeback_bytes,omitempty" parquet:"write_writeback_bytes"`
	WriteJournal   uint64 `json:"write_journal_bytes,omitempty" parquet:"write_journal_bytes"`
	WriteMetadata  uint64 `json:"write_metadata_bytes,omitempty" parquet:"write_metadata_bytes"`
	WriteSwapOut   uint64 `json:"write_swap_out_bytes,omitempty" parquet:"write_swap_out_bytes"`
	DiscardBytes   uint64 `json:"discard_bytes,omitempty" parquet:"discard_bytes"`

	ReadLatency  histogram `json:"read_latency" parquet:"read_latency"`
	ReadQueue    counts    `json:"read_queue" parquet:"read_queue"`
	ReadDevice   counts    `json:"read_device" parquet:"read_device"`
	WriteLatency histogram `json:"write_latency" parquet:"write_latency"`
	WriteQueue   counts    `json:"write_queue" parquet:"write_queue"`
	WriteDevice  counts    `json:"write_device" parquet:"write_device"`

	Blocked   uint64 `json:"blocked_ns,omitempty" parquet:"blocked_ns"`
	Throttled uint64 `json:"throttled_ns,omitempty" parquet:"throttled_ns"`
}

type deviceRow struct {
	End    int64  `json:"-" parquet:"end,timestamp(microsecond),dict"`
	Device string `json:"device" parquet:"device,dict"`

	Reads        uint64 `json:"reads,omitempty" parquet:"reads"`
	Writes       uint64 `json:"writes,omitempty" parquet:"writes"`
	Discards     uint64 `json:"discards,omitempty" parquet:"discards"`
	Flushes      uint64 `json:"flushes,omitempty" parquet:"flushes"`
	ReadBytes    uint64 `json:"read_bytes,omitempty" parquet:"read_bytes"`
	WriteBytes   uint64 `json:"write_bytes,omitempty" parquet:"write_bytes"`
	DiscardBytes uint64 `json:"discard_bytes,omitempty" parquet:"discard_bytes"`

	KernelReads        uint64 `json:"kernel_reads,omitempty" parquet:"kernel_reads"`
	KernelWrites       uint64 `json:"kernel_writes,omitempty" parquet:"kernel_writes"`
	KernelDiscards     uint64 `json:"kernel_discards,omitempty" parquet:"kernel_discards"`
	KernelFlushes      uint64 `json:"kernel_flushes,omitempty" parquet:"kernel_flushes"`
	KernelReadBytes    uint64 `json:"kernel_read_bytes,omitempty" parquet:"kernel_read_bytes"`
	KernelWriteBytes   uint64 `json:"kernel_write_bytes,omitempty" parquet:"kernel_write_bytes"`
	KernelDiscardBytes uint64 `json:"kernel_discard_bytes,omitempty" parquet:"kernel_discard_bytes"`

	Unattributed uint64 `json:"unattributed_bytes,omitempty" parquet:"unattributed_bytes"`
	Skew         uint64 `json:"audit_skew,omitempty" parquet:"audit_skew"`
}

// share is a part of a wait, by the application that had the CPU.
type share struct {
	App string `json:"app" parquet:"app,dict"`
	NS  uint64 `json:"ns" parquet:"ns"`
}

type schedRow struct {
	End int64 `json:"-" parquet:"end,timestamp(microsecond),dict"`
	identity
	Threads  uint64 `json:"threads,omitempty" parquet:"threads"`
	Switches uint64 `json:"switches,omitempty" parquet:"switches"`

	OnCPU         uint64 `json:"oncpu_ns,omitempty" parquet:"oncpu_ns"`
	IRQStolen     uint64 `json:"irq_stolen_ns,omitempty" parquet:"irq_stolen_ns"`
	SoftirqStolen uint64 `json:"softirq_stolen_ns,omitempty" parquet:"softirq_stolen_ns"`
	SoftirqCaused uint64 `json:"softirq_caused_ns,omitempty" parquet:"softirq_caused_ns"`

	Culprits []share   `json:"culprits,omitempty" parquet:"culprits,list"` // their sum is the wait
	Waiting  uint64    `json:"waiting_ns,omitempty" parquet:"waiting_ns"`
	Before   uint64    `json:"waiting_before_ns,omitempty" parquet:"waiting_before_ns"`
	LeftOut  uint64    `json:"left_out_ns,omitempty" parquet:"left_out_ns"` // of several intervals: what waited between them
	Latency  histogram `json:"latency" parquet:"latency"`
	Residual int64     `json:"residual_ns,omitempty" parquet:"residual_ns"` // of the wait, to the kernel's sum

	Disk      uint64 `json:"disk_ns,omitempty" parquet:"disk_ns"`
	Blocked   uint64 `json:"blocked_ns,omitempty" parquet:"blocked_ns"`
	Asleep    uint64 `json:"asleep_ns,omitempty" parquet:"asleep_ns"`
	Network   uint64 `json:"network_ns,omitempty" parquet:"network_ns"`
	Locks     uint64 `json:"locks_ns,omitempty" parquet:"locks_ns"`
	Events    uint64 `json:"events_ns,omitempty" parquet:"events_ns"`
	Uncounted uint64 `json:"uncounted_ns,omitempty" parquet:"uncounted_ns"`

	Migrations uint64 `json:"migrations,omitempty" parquet:"migrations"`
	NUMAPages  uint64 `json:"numa_pages,omitempty" parquet:"numa_pages"`
}

// ran is who had the CPU for a piece of a wait.
type ran struct {
	App  string `json:"app" parquet:"app,dict"`
	Comm string `json:"comm" parquet:"comm,dict"`
	PID  int64  `json:"pid,omitempty" parquet:"pid"`
	TID  int64  `json:"tid,omitempty" parquet:"tid"`
	NS   uint64 `json:"ns" parquet:"ns"`
}

type waitRow struct {
	End int64 `json:"-" parquet:"end,timestamp(microsecond),dict"`
	identity
	At   int64  `json:"at_us" parquet:"at,timestamp(microsecond)"` // its end
	TID  int64  `json:"tid,omitempty" parquet:"tid"`
	CPU  int32  `json:"cpu" parquet:"cpu"`
	Wait uint64 `json:"wait_ns" parquet:"wait_ns"`
	Ran  []ran  `json:"ran,omitempty" parquet:"ran,list"`
}

type stalls struct {
	Cause string `json:"cause" parquet:"cause,dict"`
	Count uint64 `json:"count" parquet:"count"`
	Total uint64 `json:"total_ns" parquet:"total_ns"`
	Max   uint64 `json:"max_ns" parquet:"max_ns"`
}

type remote struct {
	Address  string `json:"address" parquet:"address,dict"`
	Port     int32  `json:"port,omitempty" parquet:"port"` // of connections that were opened
	Sent     uint64 `json:"sent_bytes,omitempty" parquet:"sent_bytes"`
	Received uint64 `json:"received_bytes,omitempty" parquet:"received_bytes"`
}

type tcpRow struct {
	End int64 `json:"-" parquet:"end,timestamp(microsecond),dict"`
	identity
	Sent              uint64 `json:"sent_bytes,omitempty" parquet:"sent_bytes"`
	Received          uint64 `json:"received_bytes,omitempty" parquet:"received_bytes"`
	SegmentsOut       uint64 `json:"segments_out,omitempty" parquet:"segments_out"`
	SegmentsIn        uint64 `json:"segments_in,omitempty" parquet:"segments_in"`
	Retransmits       uint64 `json:"retransmits,omitempty" parquet:"retransmits"`
	RetransmitsFailed uint64 `json:"retransmits_failed,omitempty" parquet:"retransmits_failed"`

	UDPSent      uint64 `json:"udp_sent_bytes,omitempty" parquet:"udp_sent_bytes"`
	UDPReceived  uint64 `json:"udp_received_bytes,omitempty" parquet:"udp_received_bytes"`
	DatagramsOut uint64 `json:"udp_datagrams_out,omitempty" parquet:"udp_datagrams_out"`
	DatagramsIn  uint64 `json:"udp_datagrams_in,omitempty" parquet:"udp_datagrams_in"`
	UDPDrops     uint64 `json:"udp_drops,omitempty" parquet:"udp_drops"`

	Opened   uint64 `json:"opened,omitempty" parquet:"opened"`
	Accepted uint64 `json:"accepted,omitempty" parquet:"accepted"`
	Refused  uint64 `json:"refused,omitempty" parquet:"refused"`
	TimedOut uint64 `json:"timed_out,omitempty" parquet:"timed_out"`
	Aborted  uint64 `json:"aborted,omitempty" parquet:"aborted"`
	Closed   uint64 `json:"closed,omitempty" parquet:"closed"`
	Open     uint64 `json:"open,omitempty" parquet:"open"` // at the interval's end

	Connect   histogram `json:"connect" parquet:"connect"`
	FirstByte histogram `json:"first_byte" parquet:"first_byte"`
	Life      histogram `json:"life" parquet:"life"`
	RTT       histogram `json:"rtt" parquet:"rtt"`

	Stalls  []stalls `json:"stalls,omitempty" parquet:"stalls,list"`
	Remotes []remote `json:"remotes,omitempty" parquet:"remotes,list"` // the busiest
}

type stallRow struct {
	End int64 `json:"-" parquet:"end,timestamp(microsecond),dict"`
	identity
	At        int64  `json:"at_us" parquet:"at,timestamp(microsecond)"` // its end
	Cause     string `json:"cause" parquet:"cause,dict"`
	Duration  uint64 `json:"duration_ns" parquet:"duration_ns"`
	Namespace uint64 `json:"netns" parquet:"netns"`
	Local     string `json:"local" parquet:"local,dict"`
	Remote    string `json:"remote" parquet:"remote,dict"`
	Waiting   uint64 `json:"waiting_bytes,omitempty" parquet:"waiting_bytes"`
	TID       int64  `json:"tid,omitempty" parquet:"tid"`
	Ran       []ran  `json:"ran,omitempty" parquet:"ran,list"`
}

// counterRow is the audit of culprit tcp.
type counterRow struct {
	End    int64  `json:"-" parquet:"end,timestamp(microsecond),dict"`
	Name   string `json:"name" parquet:"name,dict"`
	Ours   uint64 `json:"ours" parquet:"ours"`
	Kernel uint64 `json:"kernel" parquet:"kernel"`
	Skew   uint64 `json:"skew,omitempty" parquet:"skew"`
}

type lossRow struct {
	End   int64  `json:"-" parquet:"end,timestamp(microsecond),dict"`
	Probe string `json:"probe" parquet:"probe,dict"` // io, sched, tcp, or record
	Name  string `json:"name" parquet:"name,dict"`
	Count uint64 `json:"count" parquet:"count"`
}

// rows are all that was recorded at a time, or at many.
type rows struct {
	Intervals []interval   `json:"interval"`
	IO        []ioRow      `json:"io,omitempty"`
	Devices   []deviceRow  `json:"io_device,omitempty"`
	Sched     []schedRow   `json:"sched,omitempty"`
	Waits     []waitRow    `json:"sched_worst,omitempty"`
	TCP       []tcpRow     `json:"tcp,omitempty"`
	Stalls    []stallRow   `json:"tcp_worst,omitempty"`
	Counters  []counterRow `json:"tcp_counter,omitempty"`
	Losses    []lossRow    `json:"loss,omitempty"`
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// compare is the order of rows in a part of a table: so what is called the same, and does the same, is together, which makes it small.
func (i identity) compare(o identity) int {
	return cmp.Or(strings.Compare(i.App, o.App), strings.Compare(i.Comm, o.Comm), strings.Compare(i.Exe, o.Exe), cmp.Compare(i.PID, o.PID))
}

func identityOf(p snapshot.Process) identity {
	return identity{p.App, int64(p.PID), micros(p.Started), p.Comm, p.Exe, p.Cgroup, p.Unit, p.Container, p.User}
}

func (i identity) process() snapshot.Process {
	return snapshot.Process{App: i.App, PID: int(i.PID), Started: fromMicros(i.Started), Comm: i.Comm, Exe: i.Exe, Cgroup: i.Cgroup,
		Unit: i.Unit, Container: i.Container, User: i.User}
}

// How many of the rule's buckets, of which an octave has 16, are one here.
const (
	fine   = 4
	coarse = snapshot.BucketSubs
)

func histogramOf(h snapshot.Histogram) histogram { return histogram{h.Sum, h.Max, countsOf(h, fine)} }

// countsOf has one bucket for so many of the rule's.
func countsOf(h snapshot.Histogram, kept uint16) (c counts) {
	for _, b := range h.Buckets {
		_, upper := snapshot.BucketBounds(snapshot.BucketOf(b.Lower)/kept*kept + kept - 1)
		if last := len(c.Upper) - 1; last >= 0 && c.Upper[last] == upper {
			c.Count[last] += b.Count
			continue
		}
		c.Upper = append(c.Upper, upper)
		c.Count = append(c.Count, b.Count)
	}
	return c
}

func (h histogram) snapshot() snapshot.Histogram {
	out := h.counts.snapshot(fine)
	out.Sum, out.Max = h.Sum, h.Max
	return out
}

func (c counts) snapshot(kept uint16) (out snapshot.Histogram) {
	for i, upper := range c.Upper[:min(len(c.Upper), len(c.Count))] {
		first := snapshot.BucketOf(max(upper, 1)-1) / kept * kept
		lower, _ := snapshot.BucketBounds(first)
		_, upper := snapshot.BucketBounds(first + kept - 1)
		out.Buckets = append(out.Buckets, snapshot.Bucket{Lower: lower, Upper: upper, Count: c.Count[i]})
	}
	return out
}

// each converts a list; that of nothing is nil.
func each[A, B any](in []A, f func(A) B) []B {
	var out []B
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}

func ioRowOf(r snapshot.IORow) ioRow {
	return ioRow{
		identity: identityOf(r.Process), Device: r.Device, Reads: r.Reads, Writes: r.Writes, Discards: r.Discards, Flushes: r.Flushes,
		ReadFile: r.ReadVia.File, ReadDirect: r.ReadVia.Direct, ReadMetadata: r.ReadVia.Metadata, ReadSwapIn: r.ReadVia.SwapIn,
		WriteDirect: r.WriteVia.Direct, WriteWriteback: r.WriteVia.Writeback, WriteJournal: r.WriteVia.Journal,
		WriteMetadata: r.WriteVia.Metadata, WriteSwapOut: r.WriteVia.SwapOut, DiscardBytes: r.DiscardBytes,
		ReadLatency: histogramOf(r.ReadLatency.Total), ReadQueue: countsOf(r.ReadLatency.Queue, coarse), ReadDevice: countsOf(r.ReadLatency.Device, coarse),
		WriteLatency: histogramOf(r.WriteLatency.Total), WriteQueue: countsOf(r.WriteLatency.Queue, coarse), WriteDevice: countsOf(r.WriteLatency.Device, coarse),
		Blocked: r.BlockedNS, Throttled: r.ThrottledNS,
	}
}

func (r ioRow) snapshot() snapshot.IORow {
	return snapshot.IORow{
		Process: r.process(), Device: r.Device, Reads: r.Reads, Writes: r.Writes, Discards: r.Discards, Flushes: r.Flushes,
		ReadVia:      snapshot.ReadVia{File: r.ReadFile, Direct: r.ReadDirect, Metadata: r.ReadMetadata, SwapIn: r.ReadSwapIn},
		WriteVia:     snapshot.WriteVia{Direct: r.WriteDirect, Writeback: r.WriteWriteback, Journal: r.WriteJournal, Metadata: r.WriteMetadata, SwapOut: r.WriteSwapOut},
		DiscardBytes: r.DiscardBytes,
		ReadLatency:  snapshot.IOLatency{Total: r.ReadLatency.snapshot(), Queue: r.ReadQueue.snapshot(coarse), Device: r.ReadDevice.snapshot(coarse)},
		WriteLatency: snapshot.IOLatency{Total: r.WriteLatency.snapshot(), Queue: r.WriteQueue.snapshot(coarse), Device: r.WriteDevice.snapshot(coarse)},
		BlockedNS:    r.Blocked, ThrottledNS: r.Throttled,
	}
}

func deviceRowOf(d snapshot.IODevice) deviceRow {
	o, k := d.Ours, d.Kernel
	return deviceRow{
		Device: d.Device, Reads: o.Reads, Writes: o.Writes, Discards: o.Discards, Flushes: o.Flushes,
		ReadBytes: o.ReadBytes, WriteBytes: o.WriteBytes, DiscardBytes: o.DiscardBytes,
		KernelReads: k.Reads, KernelWrites: k.Writes, KernelDiscards: k.Discards, KernelFlushes: k.Flushes,
		KernelReadBytes: k.ReadBytes, KernelWriteBytes: k.WriteBytes, KernelDiscardBytes: k.DiscardBytes,
		Unattributed: d.UnattributedBytes, Skew: d.SkewBytes,
	}
}

func (r deviceRow) snapshot() snapshot.IODevice {
	return snapshot.IODevice{
		Device: r.Device,
		Ours: snapshot.IOCounts{Reads: r.Reads, Writes: r.Writes, Discards: r.Discards, Flushes: r.Flushes,
			ReadBytes: r.ReadBytes, WriteBytes: r.WriteBytes, DiscardBytes: r.DiscardBytes},
		Kernel: snapshot.IOCounts{Reads: r.KernelReads, Writes: r.KernelWrites, Discards: r.KernelDiscards, Flushes: r.KernelFlushes,
			ReadBytes: r.KernelReadBytes, WriteBytes: r.KernelWriteBytes, DiscardBytes: r.KernelDiscardBytes},
		UnattributedBytes: r.Unattributed, SkewBytes: r.Skew,
	}
}

func schedRowOf(r snapshot.SchedRow) schedRow {
	return schedRow{
		identity: identityOf(r.Process), Threads: uint64(r.Threads), Switches: r.Switches,
		OnCPU: r.OnCPU, IRQStolen: r.IRQStolen, SoftirqStolen: r.SoftirqStolen, SoftirqCaused: r.SoftirqCaused,
		Culprits: each(r.Culprits, func(c snapshot.Culprit) share { return share{c.App, c.NS} }),
		Waiting:  r.Waiting, Before: r.Before, LeftOut: r.LeftOut, Latency: histogramOf(r.Latency), Residual: int64(r.KernelWait - r.Wait()),
		Disk: r.Disk, Blocked: r.Blocked, Asleep: r.Asleep, Network: r.Network, Locks: r.Locks, Events: r.Events, Uncounted: r.Uncounted,
		Migrations: r.Migrations, NUMAPages: r.NUMAPages,
	}
}

func (r schedRow) snapshot() snapshot.SchedRow {
	out := snapshot.SchedRow{
		Process: r.process(), Threads: int(r.Threads), Switches: r.Switches,
		OnCPU: r.OnCPU, IRQStolen: r.IRQStolen, SoftirqStolen: r.SoftirqStolen, SoftirqCaused: r.SoftirqCaused,
		Culprits: each(r.Culprits, func(s share) snapshot.Culprit {
			return snapshot.Culprit{Process: snapshot.Process{App: s.App, Comm: s.App}, NS: s.NS}
		}),
		Waiting: r.Waiting, Before: r.Before, LeftOut: r.LeftOut, Latency: r.Latency.snapshot(), Disk: r.Disk, Blocked: r.Blocked, Asleep: r.Asleep, Network: r.Network, Locks: r.Locks, Events: r.Events, Uncounted: r.Uncounted,
		Migrations: r.Migrations, NUMAPages: r.NUMAPages,
	}
	out.KernelWait = out.Wait() + uint64(r.Residual)
	return out
}

func ranOf(r snapshot.SchedRan) ran {
	return ran{r.App, r.Comm, int64(r.PID), int64(r.TID), r.NS}
}

func (r ran) snapshot() snapshot.SchedRan {
	return snapshot.SchedRan{Process: snapshot.Process{App: r.App, Comm: r.Comm, PID: int(r.PID)}, TID: int(r.TID), NS: r.NS}
}

func waitRowOf(w snapshot.SchedWait) waitRow {
	return waitRow{identity: identityOf(w.Process), At: micros(w.At), TID: int64(w.TID), CPU: int32(w.CPU), Wait: w.Wait, Ran: each(w.Ran, ranOf)}
}

func (r waitRow) snapshot() snapshot.SchedWait {
	return snapshot.SchedWait{Process: r.process(), At: fromMicros(r.At), TID: int(r.TID), CPU: int(r.CPU), Wait: r.Wait, Ran: each(r.Ran, ran.snapshot)}
}

// mostRemotes is how many of the busiest other ends are kept of a row.
const mostRemotes = 5

func tcpRowOf(r snapshot.TCPRow) tcpRow {
	return tcpRow{
		identity: identityOf(r.Process), Sent: r.Sent, Received: r.Received, SegmentsOut: r.SegmentsOut, SegmentsIn: r.SegmentsIn,
		Retransmits: r.Retransmits, RetransmitsFailed: r.RetransmitsFailed,
		UDPSent: r.UDP.Sent, UDPReceived: r.UDP.Received, DatagramsOut: r.UDP.DatagramsOut, DatagramsIn: r.UDP.DatagramsIn, UDPDrops: r.UDP.Drops,
		Opened: r.Opened, Accepted: r.Accepted, Refused: r.Refused, TimedOut: r.TimedOut, Aborted: r.Aborted, Closed: r.Closed, Open: r.Open,
		Connect: histogramOf(r.Connect), FirstByte: histogramOf(r.FirstByte), Life: histogramOf(r.Life), RTT: histogramOf(r.RTT),
		Stalls: each(r.Stalls, func(s snapshot.TCPStalls) stalls { return stalls{string(s.Cause), s.Count, s.Total, s.Max} }),
		Remotes: each(r.Remotes[:min(len(r.Remotes), mostRemotes)], func(r snapshot.TCPRemote) remote {
			return remote{r.Address.String(), int32(r.Port), r.Sent, r.Received}
		}),
	}
}

func (r tcpRow) snapshot() snapshot.TCPRow {
	return snapshot.TCPRow{
		Process: r.process(),
		TCPTraffic: snapshot.TCPTraffic{Sent: r.Sent, Received: r.Received, SegmentsOut: r.SegmentsOut, SegmentsIn: r.SegmentsIn,
			Retransmits: r.Retransmits, RetransmitsFailed: r.RetransmitsFailed},
		UDP:    snapshot.UDPTraffic{Sent: r.UDPSent, Received: r.UDPReceived, DatagramsOut: r.DatagramsOut, DatagramsIn: r.DatagramsIn, Drops: r.UDPDrops},
		Opened: r.Opened, Accepted: r.Accepted, Refused: r.Refused, TimedOut: r.TimedOut, Aborted: r.Aborted, Closed: r.Closed, Open: r.Open,
		Connect: r.Connect.snapshot(), FirstByte: r.FirstByte.snapshot(), Life: r.Life.snapshot(), RTT: r.RTT.snapshot(),
		Stalls: each(r.Stalls, func(s stalls) snapshot.TCPStalls {
			return snapshot.TCPStalls{Cause: snapshot.Cause(s.Cause), Count: s.Count, Total: s.Total, Max: s.Max}
		}),
		Remotes: each(r.Remotes, func(r remote) snapshot.TCPRemote {
			address, _ := netip.ParseAddr(r.Address) // none, if it is no address
			return snapshot.TCPRemote{Address: address, Port: uint16(r.Port), Sent: r.Sent, Received: r.Received}
		}),
	}
}

func stallRowOf(s snapshot.TCPStall) stallRow {
	return stallRow{
		identity: identityOf(s.Process), At: micros(s.At), Cause: string(s.Cause), Duration: s.Duration, Namespace: s.Namespace,
		Local: s.Local.String(), Remote: s.Remote.String(), Waiting: s.Waiting, TID: int64(s.TID), Ran: each(s.Ran, ranOf),
	}
}

func (r stallRow) snapshot() snapshot.TCPStall {
	local, _ := netip.ParseAddrPort(r.Local)
	remote, _ := netip.ParseAddrPort(r.Remote)
	return snapshot.TCPStall{
		Process: r.process(), At: fromMicros(r.At), Cause: snapshot.Cause(r.Cause), Duration: r.Duration, Namespace: r.Namespace,
		Local: local, Remote: remote, Waiting: r.Waiting, TID: int(r.TID), Ran: each(r.Ran, ran.snapshot),
	}
}
