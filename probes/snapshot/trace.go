package snapshot

// Trace is what happened in a span of time, event by event: each kind in the order of time. Times are ns of
// CLOCK_BOOTTIME. The names of the fields in files are the tags', and end in their unit.
type Trace struct {
	Start, End int64 // no event of it comes later in another Trace; one can be some ms older than Start
	RealTime   int64 // ns since the epoch at End

	Switches   []SchedSwitch
	Wakeups    []SchedWakeup
	Migrations []SchedMigrate
	Throttled  []SchedThrottle
	Begun      []ProcessBegin
	Executed   []ProcessExec
	Ended      []ProcessEnd
	IRQs       []IRQ
	Softirqs   []Softirq
	Signals    []Signal
	OOMKills   []OOMKill
	Faults     []PageFault
	Syscalls   []Syscall
	Timers     []Timer

	IOQueued    []IOQueue
	IOIssued    []IOIssue
	IOMerged    []IOMerge
	IOCompleted []IOComplete
	IOThrottled []IOThrottle

	TCPStates          []TCPStateChange
	TCPRetransmissions []TCPRetransmit
	TCPStalls          []TCPStallEnd

	Threads []Thread // that are new, or have a new name, since the Trace before
	Loss    []Loss   // since the trace began
}

// Events is how many there are.
func (t *Trace) Events() int {
	return len(t.Switches) + len(t.Wakeups) + len(t.Migrations) + len(t.Throttled) + len(t.Begun) + len(t.Executed) + len(t.Ended) +
		len(t.IRQs) + len(t.Softirqs) + len(t.Signals) + len(t.OOMKills) + len(t.Faults) + len(t.Syscalls) + len(t.Timers) +
		len(t.IOQueued) + len(t.IOIssued) + len(t.IOMerged) + len(t.IOCompleted) + len(t.IOThrottled) +
		len(t.TCPStates) + len(t.TCPRetransmissions) + len(t.TCPStalls)
}

// Filter leaves the events of processes that keep accepts, by their number, and of causers that are no process and whose App it accepts;
// where it is somebody else's as well, that does not matter. Events of nobody go.
func (t *Trace) Filter(keep func(pid int32, app string) bool) {
	thread := func(tid, pid int32) bool { return tid != 0 && keep(pid, "") }
	causer := func(c Causer) bool { return keep(c.PID, c.App) }
	t.Switches = filter(t.Switches, func(e SchedSwitch) bool { return thread(e.PrevTID, e.PrevPID) || thread(e.NextTID, e.NextPID) })
	t.Wakeups = filter(t.Wakeups, func(e SchedWakeup) bool {
		return thread(e.TID, e.PID) || !e.ByInterrupt && thread(e.WakerTID, e.WakerPID)
	})
	t.Migrations = filter(t.Migrations, func(e SchedMigrate) bool { return thread(e.TID, e.PID) })
	t.Throttled = filter(t.Throttled, func(e SchedThrottle) bool { return thread(e.TID, e.PID) })
	t.Begun = filter(t.Begun, func(e ProcessBegin) bool { return thread(e.TID, e.PID) || thread(e.ParentTID, e.ParentPID) })
	t.Executed = filter(t.Executed, func(e ProcessExec) bool { return thread(e.TID, e.PID) })
	t.Ended = filter(t.Ended, func(e ProcessEnd) bool { return thread(e.TID, e.PID) })
	t.IRQs, t.Softirqs, t.Timers = nil, nil, nil
	t.Signals = filter(t.Signals, func(e Signal) bool { return thread(e.TID, e.PID) || thread(e.SenderTID, e.SenderPID) })
	t.OOMKills = filter(t.OOMKills, func(e OOMKill) bool { return thread(e.TID, e.PID) })
	t.Faults = filter(t.Faults, func(e PageFault) bool { return thread(e.TID, e.PID) })
	t.Syscalls = filter(t.Syscalls, func(e Syscall) bool { return thread(e.TID, e.PID) })
	t.IOQueued = filter(t.IOQueued, func(e IOQueue) bool { return thread(e.TID, e.PID) })
	t.IOIssued = filter(t.IOIssued, func(e IOIssue) bool { return thread(e.TID, e.PID) })
	t.IOMerged = filter(t.IOMerged, func(e IOMerge) bool { return thread(e.TID, e.PID) })
	t.IOCompleted = filter(t.IOCompleted, func(e IOComplete) bool { return causer(e.Causer) })
	t.IOThrottled = filter(t.IOThrottled, func(e IOThrottle) bool { return thread(e.TID, e.PID) })
	t.TCPStates = filter(t.TCPStates, func(e TCPStateChange) bool { return causer(e.Causer) })
	t.TCPRetransmissions = filter(t.TCPRetransmissions, func(e TCPRetransmit) bool { return causer(e.Causer) })
	t.TCPStalls = filter(t.TCPStalls, func(e TCPStallEnd) bool { return causer(e.Causer) })
}

// Moment is when and where an event was.
type Moment struct {
	At  int64 `json:"at_ns" parquet:"at_ns,delta" doc:"CLOCK_BOOTTIME"`
	CPU int32 `json:"cpu" parquet:"cpu" doc:"on which it was"`
}

// Time is At, for what handles all kinds of events alike.
func (m Moment) Time() int64 { return m.At }

// Thread is what one is called, "" and 0 where that is not known.
type Thread struct {
	TID  int32  `json:"tid" parquet:"tid" doc:"thread, in the host's pid namespace"`
	PID  int32  `json:"pid" parquet:"pid" doc:"its process"`
	Comm string `json:"comm" parquet:"comm,dict" doc:"its name"`
}

// Causer is who caused an event, which may be long after: as a report has it. PID is 0 where that is no process.
type Causer struct {
	PID  int32  `json:"pid" parquet:"pid" doc:"process that caused it, 0: none"`
	Comm string `json:"comm" parquet:"comm,dict" doc:"its name"`
	App  string `json:"app" parquet:"app,dict" doc:"its application, or in brackets what it is charged to"`
}

// SchedSwitch is a context switch.
type SchedSwitch struct {
	Moment
	PrevTID   int32  `json:"prev_tid" parquet:"prev_tid" doc:"thread that goes off the CPU"`
	PrevPID   int32  `json:"prev_pid" parquet:"prev_pid" doc:"its process"`
	PrevComm  string `json:"prev_comm" parquet:"prev_comm,dict" doc:"its name"`
	PrevState string `json:"prev_state" parquet:"prev_state,dict" doc:"R+ preempted, R runnable, S sleeps, D in disk sleep, I idle, T stopped, t traced, X and Z ended, P parked"`
	NextTID   int32  `json:"next_tid" parquet:"next_tid" doc:"thread that comes on it, 0: none"`
	NextPID   int32  `json:"next_pid" parquet:"next_pid" doc:"its process"`
	NextComm  string `json:"next_comm" parquet:"next_comm,dict" doc:"its name"`
	NextPrio  int32  `json:"next_prio" parquet:"next_prio" doc:"its priority in the kernel: below 100 real-time, 120 is nice 0"`
}

// ThreadStates are the letters of sched_switch, by the bits of a thread's state (task_index_to_char(), include/linux/sched.h); without a bit it is R.
const ThreadStates = "SDTtXZPI"

// SchedWakeup is that somebody wakes a thread.
type SchedWakeup struct {
	Moment
	Thread
	TargetCPU   int32  `json:"target_cpu" parquet:"target_cpu" doc:"CPU that it is on"`
	WakerTID    int32  `json:"waker_tid" parquet:"waker_tid" doc:"thread on the CPU where it is woken"`
	WakerPID    int32  `json:"waker_pid" parquet:"waker_pid" doc:"its process"`
	WakerComm   string `json:"waker_comm" parquet:"waker_comm,dict" doc:"its name"`
	ByInterrupt bool   `json:"by_interrupt" parquet:"by_interrupt" doc:"an interrupt or softirq wakes it, which came while the waker had the CPU"`
}

// SchedMigrate is that a thread goes to another CPU's run queue.
type SchedMigrate struct {
	Moment
	Thread
	FromCPU int32 `json:"from_cpu" parquet:"from_cpu" doc:"CPU that it was on"`
	ToCPU   int32 `json:"to_cpu" parquet:"to_cpu" doc:"CPU that it goes to"`
}

// SchedThrottle is that a thread goes off its CPU because its cgroup has used up its quota (cpu.max).
type SchedThrottle struct {
	Moment
	Thread
}

// ProcessBegin is a new thread, or process where TID and PID are equal.
type ProcessBegin struct {
	Moment
	Thread
	ParentTID  int32  `json:"parent_tid" parquet:"parent_tid" doc:"thread that made it"`
	ParentPID  int32  `json:"parent_pid" parquet:"parent_pid" doc:"its process"`
	ParentComm string `json:"parent_comm" parquet:"parent_comm,dict" doc:"its name"`
}

// ProcessExec is that a process executes a program, whose name it has from then on.
type ProcessExec struct {
	Moment
	Thread
}

// ProcessEnd is that a thread ends.
type ProcessEnd struct {
	Moment
	Thread
	ExitCode int32 `json:"exit_code" parquet:"exit_code" doc:"as wait(2) has it"`
}

// IRQ is an interrupt of a device; At is its end.
type IRQ struct {
	Moment
	Number   int32 `json:"number" parquet:"number" doc:"as in /proc/interrupts"`
	Duration int64 `json:"duration_ns" parquet:"duration_ns" doc:"of its handler"`
	TID      int32 `json:"tid" parquet:"tid" doc:"thread that it interrupted"`
}

// Softirq is a softirq; At is its end.
type Softirq struct {
	Moment
	Name     string `json:"name" parquet:"name,dict" doc:"as in /proc/softirqs"`
	Duration int64  `json:"duration_ns" parquet:"duration_ns" doc:"with interrupts meanwhile"`
	TID      int32  `json:"tid" parquet:"tid" doc:"thread on its CPU"`
}

// SoftirqNames are in the order of their numbers (include/linux/interrupt.h).
var SoftirqNames = []string{"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"}

// SignalResults are what becomes of a signal, in the order of their numbers (TRACE_SIGNAL_DELIVERED and so on, include/trace/events/signal.h).
var SignalResults = []string{"delivered", "ignored", "already pending", "overflow", "lost"}

// Signal is that one is sent.
type Signal struct {
	Moment
	Thread
	Number     int32  `json:"number" parquet:"number" doc:"of the signal"`
	Code       int32  `json:"code" parquet:"code" doc:"si_code"`
	Result     string `json:"outcome" parquet:"outcome,dict" doc:"delivered, ignored, already pending, overflow (sent without details), or lost"`
	SenderTID  int32  `json:"sender_tid" parquet:"sender_tid" doc:"thread on the CPU where it is sent"`
	SenderPID  int32  `json:"sender_pid" parquet:"sender_pid" doc:"its process"`
	SenderComm string `json:"sender_comm" parquet:"sender_comm,dict" doc:"its name"`
}

// OOMKill is that the kernel kills a process for want of memory.
type OOMKill struct {
	Moment
	Thread
}

// PageFault is that memory is used which is not there yet.
type PageFault struct {
	Moment
	Thread
	Address uint64 `json:"address" parquet:"address" doc:"that was used"`
	User    bool   `json:"user" parquet:"user" doc:"in user space, not in the kernel"`
}

// Syscall is a system call that begins, or ends.
type Syscall struct {
	Moment
	Thread
	Number int32 `json:"number" parquet:"number" doc:"of the system call, -1 where one ends"`
	Ends   bool  `json:"ends" parquet:"ends" doc:"it ends"`
	Result int64 `json:"result" parquet:"result" doc:"that it ends with"`
}

// Timer is that a timer of the kernel's has run out; At is the end of what it does then.
type Timer struct {
	Moment
	Function string `json:"function" parquet:"function,dict" doc:"of the kernel, that it calls"`
	HighRes  bool   `json:"high_resolution" parquet:"high_resolution" doc:"an hrtimer"`
	Duration int64  `json:"duration_ns" parquet:"duration_ns" doc:"of the function"`
	TID      int32  `json:"tid" parquet:"tid" doc:"thread on its CPU"`
}

// Request is what a disk is to do.
type Request struct {
	Device string `json:"device" parquet:"device,dict" doc:"whole disk"`
	Op     string `json:"op" parquet:"op,dict" doc:"read, write, discard, flush"`
	Sector int64  `json:"sector" parquet:"sector" doc:"where, in 512 bytes"`
	Bytes  int64  `json:"bytes" parquet:"bytes" doc:"of data"`
	Number int64  `json:"request" parquet:"request" doc:"the same in all events of a request, and in no other's; 0: a flush, or it began before the trace"`
}

// IOQueue is that a request begins, and waits for its disk.
type IOQueue struct {
	Moment
	Thread
	Request
}

// IOIssue is that a disk is given a request.
type IOIssue struct {
	Moment
	Thread
	Request
}

// IOMerge is that a request becomes part of another one, as what comes before or after it, and has no event of its own any more.
type IOMerge struct {
	Moment
	Thread
	Request
}

// IOComplete is that a request ends. One whose end reached no program is told of when that is found out, without a sector and times.
type IOComplete struct {
	Moment
	Causer
	Request
	Via      string `json:"via" parquet:"via,dict" doc:"reads: file, direct, metadata, swap_in; writes: direct, writeback, journal, metadata, swap_out; nothing for others"`
	TID      int32  `json:"tid" parquet:"tid" doc:"thread that submitted it, 0: unknown"`
	Queued   int64  `json:"queue_ns" parquet:"queue_ns" doc:"from its beginning until the disk was given it; 0 where the kernel keeps no times"`
	InDevice int64  `json:"device_ns" parquet:"device_ns" doc:"from then until it ended"`
}

// IOThrottle is that a thread has to pause, because too much is to be written back.
type IOThrottle struct {
	Moment
	Thread
	Pause int64 `json:"pause_ns" parquet:"pause_ns" doc:"at most"`
}

// Ends are those of a connection.
type Ends struct {
	Local     string `json:"local" parquet:"local,dict" doc:"address:port"`
	Remote    string `json:"remote" parquet:"remote,dict" doc:"address:port"`
	Namespace int64  `json:"netns" parquet:"netns" doc:"network namespace, by its inode"`
}

// TCPStateChange is that a connection goes from one state to another.
type TCPStateChange struct {
	Moment
	Causer
	Ends
	From string `json:"old_state" parquet:"old_state,dict" doc:"as ss(8) names it"`
	To   string `json:"new_state" parquet:"new_state,dict" doc:"likewise"`
}

// TCPRetransmit is that a segment is sent again.
type TCPRetransmit struct {
	Moment
	Causer
	Ends
	State string `json:"state" parquet:"state,dict" doc:"of the connection"`
}

// TCPStallEnd is that a connection goes on after a pause, of 5 ms or more; At is the pause's end.
type TCPStallEnd struct {
	Moment
	Causer
	Ends
	Cause     string `json:"cause" parquet:"cause,dict" doc:"as culprit tcp --stalls has it"`
	Duration  int64  `json:"duration_ns" parquet:"duration_ns" doc:"of the pause"`
	Waiting   int64  `json:"waiting_bytes" parquet:"waiting_bytes" doc:"bytes that were to be sent, or to be read"`
	ReaderTID int32  `json:"reader_tid" parquet:"reader_tid" doc:"thread that was to read, where that is the cause"`
}
