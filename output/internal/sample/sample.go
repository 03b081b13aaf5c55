// Package sample holds the snapshots that the outputs' tests print.
package sample

import (
	"math"
	"strings"
	"time"

	"culprit/probes/snapshot"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	ms  = 1_000_000
)

var start = time.Date(2026, 3, 14, 9, 26, 53, 589_793_000, time.UTC)

// The owners.
var (
	postgres = snapshot.Process{PID: 812, PPID: 1, Started: start.Add(-time.Hour), Comm: "postgres",
		Exe: "/usr/lib/postgresql/17/bin/postgres", Cgroup: "/system.slice/postgresql@17-main.service",
		Unit: "postgresql@17-main.service", User: "postgres", App: "postgresql@17-main.service"}
	walwriter = with(postgres, 815, "walwriter")
	dd        = snapshot.Process{PID: 4194303, PPID: 4000, Started: start.Add(-time.Second / 2), Comm: "dd",
		Exe: "/usr/bin/dd", Cgroup: "/user.slice/user-1000.slice/session-2.scope", User: "ann", App: "dd"}
	sleepy = snapshot.Process{PID: 777, PPID: 1, Started: start.Add(-time.Hour), Comm: "nfsd",
		Exe: "/usr/bin/nfsd", Cgroup: "/system.slice/nfsd.service", Unit: "nfsd.service", User: "root", App: "nfsd.service"}
	container = snapshot.Process{PID: 9001, PPID: 9000, Started: start.Add(-time.Minute), Comm: "node",
		Exe: "/usr/local/bin/node", Cgroup: "/kubepods.slice/pod1/" + strings.Repeat("5e", 32),
		Container: "shop/checkout-7d9f/api", User: "1001", App: "shop/checkout-7d9f/api"}
	fstrim     = snapshot.Process{PID: 66, PPID: 1, Started: start, Comm: "fstrim", Exe: "/usr/sbin/fstrim", User: "root", App: "fstrim"}
	superblock = snapshot.Process{App: "[kernel: superblock]"}
	unknown    = snapshot.Process{App: "[unattributed: no owner seen before attach]"}
)

func with(p snapshot.Process, pid int, comm string) snapshot.Process {
	p.PID, p.Comm = pid, comm
	return p
}

// hist spreads n values over 1, 2, 4 … parts of a range of buckets that begins
// at ns, most of them in the first bucket.
func hist(n, ns uint64) snapshot.Histogram {
	var h snapshot.Histogram
	for n > 0 {
		here := (n + 1) / 2
		width := max(ns/16, 1)
		h.Buckets = append(h.Buckets, snapshot.Bucket{Lower: ns, Upper: ns + width, Count: here})
		h.Sum += here * (ns + width/2)
		h.Max = ns + width - 1
		n -= here
		ns *= 2
	}
	return h
}

// latency has requests that were queued about half as long as they took.
func latency(n, ns uint64) snapshot.IOLatency {
	return snapshot.IOLatency{Total: hist(n, ns), Queue: hist(n, ns/4), Device: hist(n, ns/2)}
}

// processes are the rows as a probe makes them.
func processes() []snapshot.IORow {
	return []snapshot.IORow{
		{Process: dd, Device: "vda", Writes: 130, WriteVia: snapshot.WriteVia{Writeback: 64 * mib, Journal: 12 * kib, Metadata: 4 * kib},
			Flushes: 1, WriteLatency: latency(130, 1<<20)},
		{Process: dd, BlockedNS: 12 * ms, ThrottledNS: 480 * ms},
		{Process: postgres, Device: "nvme10n1", Reads: 9000, Writes: 12, ReadVia: snapshot.ReadVia{File: 70 * mib, Metadata: 256 * kib},
			WriteVia: snapshot.WriteVia{Writeback: 96 * kib}, ReadLatency: latency(9000, 1<<16), WriteLatency: latency(12, 1<<18)},
		{Process: postgres, BlockedNS: 731 * ms},
		{Process: walwriter, Device: "nvme10n1", Writes: 400, Flushes: 400,
			WriteVia: snapshot.WriteVia{Direct: 1000 * kib, Journal: 24 * kib}, WriteLatency: latency(400, 1<<15)},
		{Process: walwriter, Device: "vda", Reads: 1, ReadVia: snapshot.ReadVia{SwapIn: 4 * kib}, ReadLatency: latency(1, 1<<17)},
		{Process: walwriter, BlockedNS: 42 * ms},
		{Process: container, Device: "vda", Reads: 3, Writes: 3, ReadVia: snapshot.ReadVia{Direct: 1023 * mib},
			WriteVia: snapshot.WriteVia{SwapOut: 12 * kib}, ReadLatency: latency(3, 1<<24), WriteLatency: latency(3, 1<<22)},
		{Process: container, ThrottledNS: 3 * ms},
		{Process: fstrim, Device: "vda", Discards: 8, DiscardBytes: 3 << 30},
		{Process: sleepy, BlockedNS: 999 * ms},
		{Process: superblock, Device: "vda", Writes: 1, WriteVia: snapshot.WriteVia{Metadata: 4 * kib}, WriteLatency: latency(1, 1<<19)},
		{Process: unknown, Device: "vda", Writes: 2, WriteVia: snapshot.WriteVia{Writeback: 2 * mib}, WriteLatency: latency(2, 1<<21)},
	}
}

// devices are the audit of rows whose books balance.
func devices(rows []snapshot.IORow) []snapshot.IODevice {
	var out []snapshot.IODevice
	at := make(map[string]int)
	for _, r := range rows {
		if r.Device == "" {
			continue
		}
		if _, ok := at[r.Device]; !ok {
			at[r.Device] = len(out)
			out = append(out, snapshot.IODevice{Device: r.Device})
		}
		d := &out[at[r.Device]]
		c := &d.Ours
		c.Reads += r.Reads
		c.Writes += r.Writes
		c.Discards += r.Discards
		c.Flushes += r.Flushes
		c.ReadBytes += r.ReadBytes()
		c.WriteBytes += r.WriteBytes()
		c.DiscardBytes += r.DiscardBytes
		d.Kernel = d.Ours
		if strings.HasPrefix(r.App, "[unattributed: ") {
			d.UnattributedBytes += r.Bytes()
		}
	}
	return out
}

// IO is a second in which several owners used two disks, with books that
// balance and nothing lost.
func IO(by snapshot.By) snapshot.IO {
	rows := processes()
	return snapshot.IO{
		Start: start, End: start.Add(time.Second), Rows: rows, Devices: devices(rows),
		Loss: []snapshot.Loss{{Name: "owners_full"}, {Name: "folios_full"}, {Name: "recursion_misses"}},
		Files: []snapshot.IOFile{
			{Process: dd, Device: "vda", Inode: 131, Path: "/home/ann/disk.img", WriteBytes: 64 * mib},
			{Process: postgres, Device: "nvme10n1", Inode: 52, ReadBytes: 60 * mib,
				Path: "/var/lib/postgresql/17/main/base/16384/a-table-with-a-long-path/2619"},
			{Process: postgres, Device: "nvme10n1", Inode: 53, ReadBytes: 10 * mib, WriteBytes: 96 * kib, Path: "/var/lib/postgresql/17/main/base/16384/2620"},
			{Process: walwriter, Device: "nvme10n1", Inode: 4242, WriteBytes: 1000 * kib},
		},
		Worst: []snapshot.IORequest{
			{Process: walwriter, At: start.Add(400 * time.Millisecond), Device: "nvme10n1", Op: "flush", QueueNS: 1200, DeviceNS: 3 * ms},
			{Process: container, At: start.Add(900 * time.Millisecond), Device: "vda", Op: "read", Via: "direct", Sector: 2048, Bytes: 341 * mib,
				QueueNS: 8 * ms, DeviceNS: 59 * ms},
			{Process: superblock, At: start.Add(950 * time.Millisecond), Device: "vda", Op: "write", Via: "metadata", Sector: 2, Bytes: 4 * kib,
				QueueNS: 999_499, DeviceNS: 1_000_500},
		},
	}.Group(by)
}

// Unbalanced is IO with a residual, skew and losses.
func Unbalanced(by snapshot.By) snapshot.IO {
	s := IO(by)
	s.Devices[0].Kernel.WriteBytes += 3 * 4096
	s.Devices[0].Kernel.Writes += 3
	s.Devices[0].SkewBytes = 4096
	s.Devices[1].Kernel.Flushes--
	for i := range s.Loss {
		s.Loss[i].Count = uint64(i) * 1_000_003
	}
	return s
}

// Idle is two seconds without disk I/O.
func Idle() snapshot.IO {
	return snapshot.IO{Start: start, End: start.Add(2 * time.Second), By: snapshot.ByApp, Loss: []snapshot.Loss{{Name: "owners_full"}}}
}

// NastyNames are names that try to break a terminal, a column or a format.
var NastyNames = []string{
	"\x1b[2J\x1b[1;31mroot", "a\nb\rc\td", "\u202egnp.exe", "\x9b31m", "\u009b31m", "\xff\xfe\x00", "\xed\xa0\x80",
	`"quoted",'and',comma;`, `back\slash\x2d`, "=1+1", "<script>&amp;", strings.Repeat("界", 40), strings.Repeat("👩\u200d🚀", 12),
	"e" + strings.Repeat("\u0301", 30), strings.Repeat("x", 300), "/" + strings.Repeat("very/long/", 30) + "界", " ", "", "\U000e0001", "\ufffd",
}

func nasty(i int, n string) snapshot.Process {
	return snapshot.Process{PID: 4194303 - i, Started: start, Comm: n, Exe: n, Cgroup: n, Unit: n, Container: n, User: n, App: n}
}

func huge() snapshot.Histogram {
	return snapshot.Histogram{Sum: math.MaxUint64, Max: math.MaxUint64, Buckets: []snapshot.Bucket{
		{Lower: 0, Upper: 1, Count: 1}, {Lower: 1 << 63, Upper: math.MaxUint64, Count: math.MaxUint64 / 64},
	}}
}

// Nasty has NastyNames wherever a name can stand, and the largest numbers.
func Nasty(by snapshot.By) snapshot.IO {
	s := snapshot.IO{Start: start, End: start.Add(time.Second)}
	most := uint64(math.MaxUint64) / 64 // so that sums over ways do not overflow
	slow := snapshot.IOLatency{Total: huge(), Queue: huge(), Device: huge()}
	for i, n := range NastyNames {
		p := nasty(i, n)
		s.Rows = append(s.Rows,
			snapshot.IORow{Process: p, Device: n, Reads: most, Writes: most, Discards: most, Flushes: most, DiscardBytes: most,
				ReadVia: snapshot.ReadVia{File: most / 2, Direct: most / 2}, WriteVia: snapshot.WriteVia{Metadata: most, Direct: 1},
				ReadLatency: slow, WriteLatency: slow},
			snapshot.IORow{Process: p, BlockedNS: math.MaxUint64, ThrottledNS: math.MaxUint64},
			snapshot.IORow{Process: snapshot.Process{App: "[unattributed: " + n + "]"}, Device: n, Writes: 1, WriteVia: snapshot.WriteVia{Direct: 1023 * mib}})
		s.Files = append(s.Files, snapshot.IOFile{Process: p, Device: n, Path: n, Inode: math.MaxUint64, ReadBytes: most, WriteBytes: most})
		s.Worst = append(s.Worst, snapshot.IORequest{Process: p, At: start, Device: n, Op: n, Via: n, Sector: math.MaxUint64,
			Bytes: math.MaxUint64, QueueNS: most, DeviceNS: most})
		s.Devices = append(s.Devices, snapshot.IODevice{Device: n, Kernel: snapshot.IOCounts{Reads: math.MaxUint64, ReadBytes: math.MaxUint64},
			UnattributedBytes: 1023 * mib, SkewBytes: math.MaxUint64})
		s.Loss = append(s.Loss, snapshot.Loss{Name: n, Count: math.MaxUint64})
	}
	return s.Group(by)
}

// AllIO are all of culprit io, in every grouping.
func AllIO() []snapshot.IO { return all(Idle(), IO, Unbalanced, Nasty) }

// all are some samples in every grouping, with an idle interval after those of each.
func all[S any](idle S, of ...func(snapshot.By) S) []S {
	var out []S
	for _, by := range snapshot.Bys {
		for _, f := range of {
			out = append(out, f(by))
		}
		out = append(out, idle)
	}
	return out
}
