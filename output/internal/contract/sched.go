package contract

import "culprit/probes/snapshot"

// SchedSchema names the form of SchedReport.
const SchedSchema = "culprit.sched/1"

// SchedReport is one interval of culprit sched.
type SchedReport struct {
	Schema string `json:"schema"`
	Interval
	Rows        []SchedRow    `json:"rows"`
	OmittedRows int           `json:"omitted_rows"` // left out by the row limit
	Threads     []SchedThread `json:"threads,omitempty"`
	Exemplars   []Exemplar    `json:"exemplars"`
	Audit       SchedAudit    `json:"audit"`
	Loss        Counters      `json:"loss"`
}

// SchedRow is what one group did on the CPUs and waited for them, summed over
// its threads.
type SchedRow struct {
	Identity
	Threads         int       `json:"threads"` // that lived in the interval
	Switches        uint64    `json:"switches"`
	OnCPUNS         uint64    `json:"oncpu_ns"`
	WaitNS          uint64    `json:"wait_ns"`    // completed: the sum of culprits
	WaitingNS       uint64    `json:"waiting_ns"` // of the threads that still wait at the end
	Latency         Latency   `json:"latency"`    // of the completed waits
	QuotaNS         uint64    `json:"quota_ns"`   // the part of wait_ns for which the group's own CPU quota withheld the CPU
	IRQStolenNS     uint64    `json:"irq_stolen_ns"`
	SoftirqStolenNS uint64    `json:"softirq_stolen_ns"`
	SoftirqCausedNS uint64    `json:"softirq_caused_ns"`
	DiskNS          uint64    `json:"disk_ns"`    // asleep for I/O
	BlockedNS       uint64    `json:"blocked_ns"` // uninterruptible otherwise
	AsleepNS        uint64    `json:"asleep_ns"`
	UncountedNS     uint64    `json:"uncounted_ns"` // preempted in a way that the kernel does not count as waiting
	Migrations      uint64    `json:"migrations"`   // to another CPU
	NUMAPages       uint64    `json:"numa_pages"`   // moved to another node
	Culprits        []Culprit `json:"culprits"`
	KernelWaitNS    uint64    `json:"kernel_wait_ns"`
}

// Culprit is who had the CPU while a row's threads waited.
type Culprit struct {
	App     string `json:"app"` // the group's name, whatever the report is grouped by
	PID     int    `json:"pid"`
	Started string `json:"started"` // tells reused pids apart
	NS      uint64 `json:"ns"`
}

// SchedThread is one thread's row.
type SchedThread struct {
	TID  int    `json:"tid"`
	Name string `json:"name"` // the thread's own comm
	SchedRow
}

// Exemplar is one of the longest waits.
type Exemplar struct {
	At      string `json:"at"` // its end
	CPU     int    `json:"cpu"`
	App     string `json:"app"` // as in Culprit
	PID     int    `json:"pid"`
	Started string `json:"started"`
	TID     int    `json:"tid"`
	WaitNS  uint64 `json:"wait_ns"`
	Ran     []Ran  `json:"ran"` // in order
}

// Ran is who had the CPU for a piece of a wait.
type Ran struct {
	App     string `json:"app"` // as in Culprit
	PID     int    `json:"pid"`
	Started string `json:"started"`
	TID     int    `json:"tid"`
	NS      uint64 `json:"ns"`
}

// SchedAudit is the sum of all waits, the kernel's, and what is between them.
type SchedAudit struct {
	WaitNS       uint64 `json:"wait_ns"`
	KernelWaitNS uint64 `json:"kernel_wait_ns"`
	ResidualNS   int64  `json:"residual_ns"`   // kernel_wait_ns without wait_ns
	AuditSkewNS  int64  `json:"audit_skew_ns"` // the sum of all culprits without wait_ns
}

// Sched is the report of a grouped snapshot from which omitted rows were left out.
func Sched(s snapshot.Sched, omitted int) SchedReport {
	row := func(r snapshot.SchedRow) SchedRow { return schedRow(r, s.By) }
	return SchedReport{
		Schema:      SchedSchema,
		Interval:    interval(s.Start, s.End, s.By).of(s.Hosts),
		Rows:        each(s.Rows, row),
		OmittedRows: omitted,
		Threads: each(s.Threads, func(t snapshot.SchedThread) SchedThread {
			return SchedThread{TID: t.TID, Name: t.Name, SchedRow: row(t.SchedRow)}
		}),
		Exemplars: each(s.Worst, func(w snapshot.SchedWait) Exemplar { return exemplar(w, s.By) }),
		Audit: SchedAudit{
			WaitNS: s.Kernel.WaitNS, KernelWaitNS: s.Kernel.KernelWaitNS,
			ResidualNS: s.Kernel.ResidualNS(), AuditSkewNS: s.Kernel.SkewNS,
		},
		Loss: losses(s.Loss),
	}
}

func schedRow(r snapshot.SchedRow, by snapshot.By) SchedRow {
	return SchedRow{
		Identity:        identity(r.Process),
		Threads:         r.Threads,
		Switches:        r.Switches,
		OnCPUNS:         r.OnCPU,
		WaitNS:          r.Wait(),
		WaitingNS:       r.Waiting,
		Latency:         latency(r.Latency),
		QuotaNS:         r.Quota(),
		IRQStolenNS:     r.IRQStolen,
		SoftirqStolenNS: r.SoftirqStolen,
		SoftirqCausedNS: r.SoftirqCaused,
		DiskNS:          r.Disk,
		BlockedNS:       r.Blocked,
		AsleepNS:        r.Slept(),
		UncountedNS:     r.Uncounted,
		Migrations:      r.Migrations,
		NUMAPages:       r.NUMAPages,
		Culprits:        culprits(r.Culprits, by),
		KernelWaitNS:    r.KernelWait,
	}
}

func culprits(in []snapshot.Culprit, by snapshot.By) []Culprit {
	return each(in, func(c snapshot.Culprit) Culprit {
		return Culprit{App: c.Name(by), PID: c.PID, Started: stamp(c.Started), NS: c.NS}
	})
}

func exemplar(w snapshot.SchedWait, by snapshot.By) Exemplar {
	return Exemplar{
		At: stamp(w.At), CPU: w.CPU, App: w.Name(by), PID: w.PID, Started: stamp(w.Started), TID: w.TID, WaitNS: w.Wait,
		Ran: each(w.Ran, func(r snapshot.SchedRan) Ran { return ran(r, by) }),
	}
}

func ran(r snapshot.SchedRan, by snapshot.By) Ran {
	return Ran{App: r.Name(by), PID: r.PID, Started: stamp(r.Started), TID: r.TID, NS: r.NS}
}
