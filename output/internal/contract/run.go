package contract

import "culprit/probes/snapshot"

// RunSchema names the form of RunReport.
const RunSchema = "culprit.run/1"

// RunReport is what a command did, with everything that it started.
type RunReport struct {
	Schema     string      `json:"schema"`
	Command    []string    `json:"command"`
	ExitStatus int         `json:"exit_status"` // 128 and the signal's number where one ended it
	Signal     string      `json:"signal"`      // its name, such as SIGTERM, or ""
	WallNS     int64       `json:"wall_ns"`
	KernelCPU  int64       `json:"kernel_cpu_ns"` // on CPUs by getrusage(2), of the command and of what it waited for
	Processes  uint64      `json:"processes"`     // that it was, and started
	Running    uint64      `json:"running"`       // of them, after its end
	Memory     uint64      `json:"memory_bytes"`  // the largest peak of one of them, 0 if unknown
	Largest    string      `json:"memory_comm"`   // that one's
	DirtyFiles int         `json:"dirty_files"`   // that it changed and that were not written to disk yet
	Time       RunTime     `json:"time"`
	IO         IOReport    `json:"io"`
	Sched      SchedReport `json:"sched"`
	TCP        TCPReport   `json:"tcp"`
}

// RunTime is where the time of all its threads went; the parts add up to all_ns.
type RunTime struct {
	AllNS       uint64    `json:"all_ns"`
	RunningNS   uint64    `json:"running_ns"`
	InterruptNS uint64    `json:"interrupt_ns"` // taken from it by interrupts and softirqs
	WaitingNS   uint64    `json:"waiting_ns"`   // for a CPU
	DiskNS      uint64    `json:"disk_ns"`
	NetworkNS   uint64    `json:"network_ns"`
	LockNS      uint64    `json:"lock_ns"`
	BlockedNS   uint64    `json:"blocked_ns"` // uninterruptible, and not for the disk
	EventNS     uint64    `json:"event_ns"`   // until one of many files is ready
	AsleepNS    uint64    `json:"asleep_ns"`  // otherwise
	UncountedNS uint64    `json:"uncounted_ns"`
	Switches    uint64    `json:"switches"`
	Culprits    []Culprit `json:"culprits"` // who had the CPU while it waited for it
}

// Run is the report of a command, with its three parts.
func Run(r snapshot.Run, io IOReport, sched SchedReport, tcp TCPReport) RunReport {
	t := r.Time()
	return RunReport{
		Schema: RunSchema, Command: r.Command, ExitStatus: r.Status, Signal: r.Signal, WallNS: r.Wall.Nanoseconds(), KernelCPU: r.KernelCPU.Nanoseconds(),
		Processes: r.Processes, Running: r.Running, Memory: r.Memory, Largest: r.Largest, DirtyFiles: r.Dirty,
		Time: RunTime{
			AllNS: t.Wall(), RunningNS: t.OnCPU, InterruptNS: t.IRQStolen + t.SoftirqStolen, WaitingNS: t.WaitedFor(),
			DiskNS: t.Disk, NetworkNS: t.Network, LockNS: t.Locks, BlockedNS: t.Blocked, EventNS: t.Events, AsleepNS: t.Asleep,
			UncountedNS: t.Uncounted, Switches: t.Switches,
			Culprits: culprits(t.Culprits, r.Sched.By),
		},
		IO: io, Sched: sched, TCP: tcp,
	}
}
