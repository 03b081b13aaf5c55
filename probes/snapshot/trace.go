package snapshot

// Trace is what happened in a span of time, event by event: each kind in the order of time. Times are ns of
// CLOCK_BOOTTIME. The names of the fields in files are the tags', and end in their unit.
type Trace struct {
	Start, End int64 // no event of it comes later in another Trace; one can be some ms older than Start
	RealTime   int64 // ns since the epoch at End

	Switches   []SchedSwitch
	Wakeups    []SchedWakeup
	Migrations []SchedMigrate
	Begun      []ProcessBegin
	Executed   []ProcessExec
	Ended      []ProcessEnd
	IRQs       []IRQ
	Softirqs   []Softirq
	Signals    []Signal
	OOMKills   []OOMKill
	Faults     []PageFault
	Syscalls   []Syscall

	Threads []Thread // that are new, or have a new name, since the Trace before
	Loss    []Loss   // since the trace began
}

// Events is how many there are.
func (t *Trace) Events() int {
	return len(t.Switches) + len(t.Wakeups) + len(t.Migrations) + len(t.Begun) + len(t.Executed) + len(t.Ended) +
		len(t.IRQs) + len(t.Softirqs) + len(t.Signals) + len(t.OOMKills) + len(t.Faults) + len(t.Syscalls)
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
