package snapshot

import (
	"cmp"
	"slices"
	"time"
)

// Culprits that are no process. What the kernel's scheduler or its interrupts did with a CPU while
// somebody waited for it.
const (
	Interrupts = "[interrupts]"
	Softirqs   = "[softirqs]"               // among those who caused softirqs: the ones that receive no packets
	WakeUpPath = "[wake-up path]"           // the CPU was idle, and coming up
	OwnQuota   = "[own CPU quota]"          // the victim's cgroup had used up its share (cgroup bandwidth)
	OlderWaits = "[older than history]"     // longer ago than the CPU's run history tells
	OtherCPU   = "[on another CPU's queue]" // in a ledger: what was waited before the thread was taken to the CPU that it ran on
)

// Sched is what culprit sched reports of one interval.
type Sched struct {
	Start, End time.Time
	By         By
	Hosts      []string      // of a recording: the machines that it adds up
	Rows       []SchedRow    // one per process from the probe, per group after Group
	Threads    []SchedThread // when asked for
	Worst      []SchedWait   // the longest waits of each group that has any, longest first
	Kernel     SchedAudit
	Loss       []Loss // every counter, zero or not, in a fixed order
}

// SchedAudit compares the sum of all waits with the kernel's own. Both are of one moment for each thread.
type SchedAudit struct {
	WaitNS       uint64 // ours
	KernelWaitNS uint64 // growth of sched_info.run_delay, which /proc/PID/schedstat shows, of every thread
	// SkewNS is by how much the sum over all rows' culprits differs from WaitNS: waits because of many
	// culprits, which are read later, and those of the last reading that were.
	SkewNS int64
}

// ResidualNS is what the kernel counted beyond ours; negative where it counted less.
func (a SchedAudit) ResidualNS() int64 { return int64(a.KernelWaitNS - a.WaitNS) }

// SchedRow is what one process (or group) did and waited for on the CPUs. Times are in ns, summed over its threads.
type SchedRow struct {
	Process
	Threads  int // that lived in the interval
	Switches uint64

	OnCPU         uint64 // ran, without what interrupts took
	IRQStolen     uint64 // taken by interrupts while it was on a CPU
	SoftirqStolen uint64
	SoftirqCaused uint64 // on any CPU, by packets for its sockets

	Culprits []Culprit // who had the CPU while it waited, most first; their sum is the wait
	LeftOut  uint64    // waits because of culprits that BecauseOf left out
	Waiting  uint64    // for how long the threads that wait at the interval's end have waited by then
	Before   uint64    // the same at its beginning: it is in Culprits or Waiting, but no part of the interval
	Latency  Histogram // of completed waits

	KernelWait uint64 // the kernel's own sum of its waits

	// The rest of the threads' wall time.
	Disk      uint64 // asleep for I/O
	Blocked   uint64 // uninterruptible otherwise
	Asleep    uint64 // but for what is told apart:
	Network   uint64 // asleep in a system call about an IP socket, or in poll(2) with one among the first eight
	Locks     uint64 // asleep in futex(2), which condition variables and idle threads use, too, flock(2), fcntl(2) or semop(2)
	Events    uint64 // asleep until one of many files is ready: epoll_wait(2), select(2), poll(2), io_uring_enter(2)
	Uncounted uint64 // preempted in a way that the kernel does not count as waiting

	Migrations uint64 // to another CPU
	NUMAPages  uint64 // moved to another node
}

// SchedThread is one thread's row.
type SchedThread struct {
	SchedRow
	TID  int
	Name string // the thread's own comm
}

// Culprit is what had the CPU while another waited for it.
type Culprit struct {
	Process
	NS uint64
}

// Wait is the completed waits: the sum over the culprits.
func (r SchedRow) Wait() uint64 { return r.WaitBecause(func(Culprit) bool { return true }) }

// Quota is the part of Wait for which the CPU was withheld by the row's own CPU quota.
func (r SchedRow) Quota() uint64 {
	return r.WaitBecause(func(c Culprit) bool { return c.App == OwnQuota })
}

// WaitBecause is the part of Wait because of some culprits.
func (r SchedRow) WaitBecause(of func(Culprit) bool) (ns uint64) {
	for _, c := range r.Culprits {
		if of(c) {
			ns += c.NS
		}
	}
	return ns
}

// WaitedFor is the interval's part of all waits, completed or not.
func (r SchedRow) WaitedFor() uint64 { return r.Wait() + r.LeftOut + r.Waiting - r.Before }

// Slept is the time asleep, whatever for.
func (r SchedRow) Slept() uint64 { return r.Asleep + r.Network + r.Locks + r.Events }

// Wall is the threads' time altogether.
func (r SchedRow) Wall() uint64 {
	return r.OnCPU + r.IRQStolen + r.SoftirqStolen + r.WaitedFor() + r.Disk + r.Blocked + r.Slept() + r.Uncounted
}

// merge leaves the culprits to Group, which adds up those of all rows at once.
func (r SchedRow) merge(o SchedRow) SchedRow {
	r.Process = r.Process.merge(o.Process)
	r.Threads += o.Threads
	r.Switches += o.Switches
	r.OnCPU += o.OnCPU
	r.IRQStolen += o.IRQStolen
	r.SoftirqStolen += o.SoftirqStolen
	r.SoftirqCaused += o.SoftirqCaused
	r.LeftOut += o.LeftOut
	r.Waiting += o.Waiting
	r.Before += o.Before
	r.Latency = r.Latency.Merge(o.Latency)
	r.KernelWait += o.KernelWait
	r.Disk += o.Disk
	r.Blocked += o.Blocked
	r.Asleep += o.Asleep
	r.Network += o.Network
	r.Locks += o.Locks
	r.Events += o.Events
	r.Uncounted += o.Uncounted
	r.Migrations += o.Migrations
	r.NUMAPages += o.NUMAPages
	return r
}

// SchedWait is one long wait, for the list of the worst.
type SchedWait struct {
	Process
	TID  int
	At   time.Time // its end
	CPU  int
	Wait uint64
	Ran  []SchedRan // in order
}

// SchedRan is who had the CPU for a piece of a wait.
type SchedRan struct {
	Process
	TID int
	NS  uint64
}

// Filter keeps the rows and waits whose victim passes keep. The audit stays whole.
func (s Sched) Filter(keep func(Process) bool) Sched {
	s.Rows = filter(s.Rows, func(r SchedRow) bool { return keep(r.Process) })
	s.Threads = filter(s.Threads, func(t SchedThread) bool { return keep(t.Process) })
	s.Worst = filter(s.Worst, func(w SchedWait) bool { return keep(w.Process) })
	return s
}

// worstOfGroup is how many of a group's longest waits or stalls are kept.
const worstOfGroup = 5

// longest are the longest of each group, longest first.
func longest[T any](in []T, ns func(T) uint64, of func(T) groupKey) []T {
	in = slices.Clone(in)
	slices.SortStableFunc(in, func(a, b T) int { return cmp.Compare(ns(b), ns(a)) })
	kept := map[groupKey]int{}
	return filter(in, func(v T) bool {
		kept[of(v)]++
		return kept[of(v)] <= worstOfGroup
	})
}

// Group merges the rows of each group, and their culprits, sorts both by the time waited, largest first, and keeps
// the longest waits of each.
func (s Sched) Group(by By) Sched {
	s.By = by
	culprits := map[groupKey][]Culprit{}
	for _, r := range s.Rows {
		k := r.key(by)
		culprits[k] = append(culprits[k], r.Culprits...)
	}
	s.Rows = group(s.Rows, func(r SchedRow) any { return r.key(by) }, SchedRow.merge)
	for i := range s.Rows {
		r := &s.Rows[i]
		r.Culprits = groupCulprits(culprits[r.key(by)], by)
		r.Process = r.asGroup(by)
	}
	s.sort(SchedRow.Wait)
	s.Threads = slices.Clone(s.Threads)
	for i := range s.Threads {
		s.Threads[i].Culprits = groupCulprits(s.Threads[i].Culprits, by)
	}
	slices.SortStableFunc(s.Threads, func(a, b SchedThread) int {
		return cmp.Or(cmp.Compare(b.Wait(), a.Wait()), cmp.Compare(b.OnCPU, a.OnCPU), cmp.Compare(a.PID, b.PID), cmp.Compare(a.TID, b.TID))
	})
	s.Worst = longest(s.Worst, func(w SchedWait) uint64 { return w.Wait }, func(w SchedWait) groupKey { return w.key(by) })
	return s
}

// Culprits are those of all rows of a grouped snapshot, each group once, most first.
func (s Sched) Culprits() []Culprit {
	var all []Culprit
	for _, r := range s.Rows {
		all = append(all, r.Culprits...)
	}
	return groupCulprits(all, s.By)
}

func groupCulprits(in []Culprit, by By) []Culprit {
	in = slices.Clone(in)
	for i := range in {
		in[i].Followed = false // who made a command wait is one, whether it belongs to the command or not
	}
	out := group(in, func(c Culprit) any { return c.key(by) }, func(a, b Culprit) Culprit {
		a.Process = a.Process.merge(b.Process)
		a.NS += b.NS
		return a
	})
	for i := range out {
		out[i].Process = out[i].asGroup(by)
	}
	slices.SortStableFunc(out, func(a, b Culprit) int {
		return cmp.Or(cmp.Compare(b.NS, a.NS), a.compare(b.Process, by))
	})
	return out
}

// BecauseOf groups as Group does what some culprits are charged with, who are given by the names that processes are called
// by: of rows, those culprits and the groups that have any; of the longest waits, those in which one of them ran.
func (s Sched) BecauseOf(culprits []string, by By) Sched {
	isOne := func(p Process) bool {
		return slices.ContainsFunc(culprits, func(name string) bool { return p.called(name, by) })
	}
	s.Rows = slices.Clone(s.Rows)
	for i := range s.Rows {
		r := &s.Rows[i]
		all := r.Wait()
		r.Culprits = filter(r.Culprits, func(c Culprit) bool { return isOne(c.Process) })
		r.LeftOut += all - r.Wait()
	}
	s.Worst = filter(s.Worst, func(w SchedWait) bool {
		return slices.ContainsFunc(w.Ran, func(r SchedRan) bool { return isOne(r.Process) })
	})
	s = s.Group(by)
	s.Rows = filter(s.Rows, func(r SchedRow) bool { return len(r.Culprits) > 0 })
	return s
}

// SchedSorts are the columns that rows can be sorted by, all largest first but name.
var SchedSorts = []string{"wait", "p99", "max", "cpu", "switches", "quota", "name"}

// SortBy orders the rows by one of SchedSorts.
func (s Sched) SortBy(column string) Sched {
	s.Rows = slices.Clone(s.Rows)
	switch column {
	case "p99":
		s.sort(func(r SchedRow) uint64 { return r.Latency.Quantile(0.99) })
	case "max":
		s.sort(func(r SchedRow) uint64 { return r.Latency.Max })
	case "cpu":
		s.sort(func(r SchedRow) uint64 { return r.OnCPU })
	case "switches":
		s.sort(func(r SchedRow) uint64 { return r.Switches })
	case "quota":
		s.sort(SchedRow.Quota)
	case "name":
		slices.SortStableFunc(s.Rows, func(a, b SchedRow) int { return a.compare(b.Process, s.By) })
	default:
		s.sort(SchedRow.Wait)
	}
	return s
}

func (s *Sched) sort(size func(SchedRow) uint64) {
	slices.SortStableFunc(s.Rows, func(a, b SchedRow) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(b.OnCPU, a.OnCPU), a.compare(b.Process, s.By))
	})
}
