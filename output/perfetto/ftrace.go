package perfetto

import (
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"culprit/probes/snapshot"
)

// cpu gathers what one Write has of a CPU, which is together in the file. Switches and wakeups are in columns
// (CompactSched), where a switch does not say who goes off the CPU, nor a wakeup who wakes: the reader takes whoever the
// switch before it brought. Where that is not so, they are events like others.
type cpu struct {
	columns [schedWakingFlags + 1]message // by field
	names   message                       // that columns refer to by number
	name    map[string]int64              // the number of each
	events  message

	lastSwitch, lastWaking int64 // in the columns, which have the differences

	tid   int32 // that the last switch brought
	comm  string
	since int64

	who    identities
	marked bool // that something was lost, in this Write

	timers lanes
}

// unknown is nobody's thread ID.
const unknown = -1

// defaultPrio is nice 0's, for events whose threads' priorities nobody asked for.
const defaultPrio = 120

// The idle task, as events of it have it that are not the kernel's.
const (
	idleName = "swapper"
	idlePrio = 120
)

// unseenState is that of a thread whose going off its CPU nobody saw. A state that there is not would be an error to readers; this one
// says that it does not run, nor waits for a CPU.
const unseenState = "I"

// mostCPUs is more than kernels have (NR_CPUS).
const mostCPUs = 1 << 13

// cpu is one by its number, with room for an event. A number that is none, as a file may have it, counts as 0.
func (w *Writer) cpu(number int32) *cpu {
	if number < 0 || number >= mostCPUs {
		number = 0
	}
	for int(number) >= len(w.cpus) {
		w.cpus = append(w.cpus, nil)
	}
	c := w.cpus[number]
	if c == nil {
		c = &cpu{name: map[string]int64{}, tid: unknown, who: newIdentities(number, w.known)}
		w.cpus[number] = c
	}
	if len(c.events)+len(c.names)+4*(len(c.columns[schedSwitchTime])+len(c.columns[schedWakingTime])) > longBundle {
		w.bundle(c)
	}
	return c
}

// longBundle is about how long one gets. A reader has a packet in memory as a whole.
const longBundle = 4 << 20

// event appends an event of the thread that is on the CPU, which body fills.
func (c *cpu) event(at int64, tid int32, kind protowire.Number, body func(*message)) {
	event := c.events.begin(bundleEvent)
	c.events.int(eventTime, at)
	c.events.int(eventTID, int64(tid))
	m := c.events.begin(kind)
	body(&c.events)
	c.events.end(m)
	c.events.end(event)
}

// column appends v to a column.
func (c *cpu) column(field protowire.Number, v int64) {
	c.columns[field] = protowire.AppendVarint(c.columns[field], uint64(v))
}

// nameColumn appends a name to a column, by its number.
func (c *cpu) nameColumn(field protowire.Number, name string) {
	number, ok := c.name[name]
	if !ok {
		number = int64(len(c.name))
		c.name[name] = number
		c.names.string(schedNames, name)
	}
	c.column(field, number)
}

// sched appends switches, wakeups and migrations, together in the order of time: two of them depend on who is on the CPU.
func (w *Writer) sched(t snapshot.Trace) {
	for s, a, m := t.Switches, t.Wakeups, t.Migrations; len(s)+len(a)+len(m) > 0; {
		switch {
		case len(s) > 0 && (len(a) == 0 || s[0].At <= a[0].At) && (len(m) == 0 || s[0].At <= m[0].At):
			c := w.cpu(s[0].CPU)
			w.kinds.switches.tell(c, &s[0])
			c.switched(&s[0])
			c.who.switched(&s[0])
			s = s[1:]
		case len(a) > 0 && (len(m) == 0 || a[0].At <= m[0].At):
			c := w.cpu(a[0].CPU)
			w.kinds.wakeups.tell(c, &a[0])
			c.woken(&a[0])
			a = a[1:]
		default:
			c := w.cpu(m[0].CPU)
			w.kinds.migrations.tell(c, &m[0])
			c.migrated(&m[0])
			m = m[1:]
		}
	}
}

func (c *cpu) switched(s *snapshot.SchedSwitch) {
	if c.tid != unknown && s.PrevTID != c.tid && s.At > c.since+2 {
		c.gap(s)
	}
	if s.PrevTID == c.tid && s.At >= c.since {
		c.column(schedSwitchTime, s.At-c.lastSwitch)
		c.column(schedPrevState, state(s.PrevState))
		c.column(schedNextTID, int64(s.NextTID))
		c.column(schedNextPrio, int64(s.NextPrio))
		c.nameColumn(schedNextName, s.NextComm)
		c.lastSwitch = s.At
	} else {
		c.between(s.At, snapshot.Thread{TID: s.PrevTID, Comm: s.PrevComm}, state(s.PrevState), snapshot.Thread{TID: s.NextTID, Comm: s.NextComm}, s.NextPrio)
	}
	if s.At >= c.since {
		c.tid, c.comm, c.since = s.NextTID, s.NextComm, s.At
	}
	// A thread that ended never comes back, and its number can become another's. A main thread can end before others of
	// its process, and must not end that.
	if (s.PrevState == "X" || s.PrevState == "Z") && s.PrevTID != s.PrevPID {
		c.event(s.At, s.PrevTID, eventFree, func(m *message) {
			m.string(freeName, s.PrevComm)
			m.int(freeTID, int64(s.PrevTID))
		})
	}
}

// nobodyRuns is what is known of all CPUs once something was lost: readers, who are told of it, take it for the same.
func (w *Writer) nobodyRuns() {
	for _, c := range w.cpus {
		if c != nil {
			c.tid = unknown
		}
	}
}

// gap appends what a reader must know where switches are missing, as those of others are if only some processes are traced: that
// the thread that the last one brought is gone, though nobody knows since when, and nobody has the CPU until the one came
// that s tells of. The reader would have the former run until then.
func (c *cpu) gap(s *snapshot.SchedSwitch) {
	idle, prev := snapshot.Thread{Comm: idleName}, snapshot.Thread{TID: s.PrevTID, Comm: s.PrevComm}
	if c.tid != 0 {
		c.between(c.since+1, snapshot.Thread{TID: c.tid, Comm: c.comm}, state(unseenState), idle, idlePrio)
	}
	if s.PrevTID != 0 {
		c.between(s.At-1, idle, 0, prev, defaultPrio)
	}
	c.tid, c.comm, c.since = prev.TID, prev.Comm, s.At-1
}

// isOfGap is whether a thread is the idle task of gap's switches. That of a CPU has a number in its name.
func isOfGap(tid int32, comm string) bool { return tid == 0 && comm == idleName }

// between appends a switch with an event of its own, which says all of it.
func (c *cpu) between(at int64, prev snapshot.Thread, prevState int64, next snapshot.Thread, nextPrio int32) {
	c.event(at, prev.TID, eventSwitch, func(m *message) {
		m.string(switchPrevName, prev.Comm)
		m.int(switchPrevTID, int64(prev.TID))
		m.int(switchPrevPrio, defaultPrio)
		m.int(switchPrevState, prevState)
		m.string(switchNextName, next.Comm)
		m.int(switchNextTID, int64(next.TID))
		m.int(switchNextPrio, int64(nextPrio))
	})
}

// preempted is the bit after the last of ThreadStates, which a thread has that is called R+.
const preempted = 1 << len(snapshot.ThreadStates)

// state is the number that the tracepoint sched_switch has for a state (TASK_REPORT in the kernel's
// include/linux/sched.h).
func state(name string) int64 {
	if name == "R+" {
		return preempted
	}
	if bit := strings.Index(snapshot.ThreadStates, name); bit >= 0 && name != "" {
		return 1 << bit
	}
	return 0
}

// stateName is the inverse of state.
func stateName(state int64) string {
	if state&preempted != 0 {
		return "R+"
	}
	for bit := range snapshot.ThreadStates {
		if state&(1<<bit) != 0 {
			return snapshot.ThreadStates[bit : bit+1]
		}
	}
	return "R"
}

// numberOf is that of a name in a list; one that is not there may be a number.
func numberOf(list []string, name string) int64 {
	if i := slices.Index(list, name); i >= 0 {
		return int64(i)
	}
	number, err := strconv.Atoi(name)
	if err != nil {
		return -1
	}
	return int64(number)
}

// nameOf is the inverse of numberOf.
func nameOf(list []string, number int64) string {
	if number >= 0 && number < int64(len(list)) {
		return list[number]
	}
	return strconv.FormatInt(number, 10)
}

// flagInterrupt is TRACE_FLAG_HARDIRQ in include/linux/trace_events.h; readers take softirqs' the same.
const flagInterrupt = 0x08

func (c *cpu) woken(a *snapshot.SchedWakeup) {
	var flags int64
	if a.ByInterrupt {
		flags = flagInterrupt
	}
	if a.WakerTID == c.tid && a.At >= c.since {
		c.column(schedWakingTime, a.At-c.lastWaking)
		c.column(schedWakingTID, int64(a.TID))
		c.column(schedWakingCPU, int64(a.TargetCPU))
		c.column(schedWakingPrio, defaultPrio)
		c.nameColumn(schedWakingName, a.Comm)
		c.column(schedWakingFlags, flags)
		c.lastWaking = a.At
		return
	}
	event := c.events.begin(bundleEvent)
	c.events.int(eventTime, a.At)
	c.events.int(eventTID, int64(a.WakerTID))
	m := c.events.begin(eventWaking)
	c.events.string(wakingName, a.Comm)
	c.events.int(wakingTID, int64(a.TID))
	c.events.int(wakingPrio, defaultPrio)
	c.events.int(wakingCPU, int64(a.TargetCPU))
	c.events.end(m)
	c.events.int(eventFlags, flags)
	c.events.end(event)
}

func (c *cpu) migrated(m *snapshot.SchedMigrate) {
	c.event(m.At, max(c.tid, 0), eventMigrate, func(out *message) {
		out.string(migrateName, m.Comm)
		out.int(migrateTID, int64(m.TID))
		out.int(migratePrio, defaultPrio)
		out.int(migrateFrom, int64(m.FromCPU))
		out.int(migrateTo, int64(m.ToCPU))
	})
}

// throttled appends that a quota was used up. When the thread may run on, the next switch to it tells.
func (w *Writer) throttled(t snapshot.Trace) {
	for i := range t.Throttled {
		e := &t.Throttled[i]
		w.event(e.At, typeInstant, w.thread(e.TID, e.PID), func() {
			w.title("sched.throttle", "throttled")
			w.threadOf(e.Moment, &e.Thread)
		})
	}
}

func (w *Writer) interrupts(t snapshot.Trace) {
	for n := range t.IRQs {
		i := &t.IRQs[n]
		c := w.cpu(i.CPU)
		w.kinds.irqs.tell(c, i)
		c.event(i.At-i.Duration, i.TID, eventIRQ, func(m *message) {
			m.int(irqNumber, int64(i.Number))
			m.string(irqName, strconv.Itoa(int(i.Number)))
		})
		c.event(i.At, i.TID, eventIRQEnd, func(m *message) {
			m.int(irqNumber, int64(i.Number))
			m.int(irqResult, 1) // IRQ_HANDLED
		})
	}
	for n := range t.Softirqs {
		i := &t.Softirqs[n]
		c := w.cpu(i.CPU)
		w.kinds.softirqs.tell(c, i)
		number := func(m *message) { m.int(softirqNumber, numberOf(snapshot.SoftirqNames, i.Name)) }
		c.event(i.At-i.Duration, i.TID, eventSoftirq, number)
		c.event(i.At, i.TID, eventSoftirqEnd, number)
	}
}

func (c *cpu) renamed(at int64, thread snapshot.Thread) {
	c.event(at, thread.TID, eventRename, func(m *message) {
		m.int(renameTID, int64(thread.TID))
		m.string(renameName, thread.Comm)
	})
}

// cloneThread is CLONE_THREAD (include/uapi/linux/sched.h): a thread begins, not a process.
const cloneThread = 0x00010000

func (w *Writer) processes(t snapshot.Trace) {
	for i := range t.Begun {
		b := &t.Begun[i]
		c := w.cpu(b.CPU)
		w.kinds.begun.tell(c, b)
		c.event(b.At, b.ParentTID, eventNewTask, func(m *message) {
			m.int(newTaskTID, int64(b.TID))
			m.string(newTaskName, b.Comm)
			if b.TID != b.PID {
				m.varint(newTaskFlags, cloneThread)
			}
		})
	}
	for i := range t.Executed {
		e := &t.Executed[i]
		c := w.cpu(e.CPU)
		w.kinds.executed.tell(c, e)
		c.renamed(e.At, e.Thread)
		c.event(e.At, e.TID, eventExec, func(m *message) { m.int(execTID, int64(e.TID)) })
	}
	for i := range t.Ended {
		e := &t.Ended[i]
		c := w.cpu(e.CPU)
		w.kinds.ended.tell(c, e)
		c.event(e.At, e.TID, eventExit, func(m *message) {
			m.string(exitName, e.Comm)
			m.int(exitTID, int64(e.TID))
			m.int(exitPID, int64(e.PID))
		})
	}
	for i := range t.Signals {
		s := &t.Signals[i]
		c := w.cpu(s.CPU)
		w.kinds.signals.tell(c, s)
		c.event(s.At, s.SenderTID, eventSignal, func(m *message) {
			m.int(signalCode, int64(s.Code))
			m.string(signalName, s.Comm)
			m.int(signalTID, int64(s.TID))
			m.int(signalResult, numberOf(snapshot.SignalResults, s.Result))
			m.int(signalNumber, int64(s.Number))
		})
	}
}

// What page faults are called, in user space and in the kernel.
const (
	faultOfUser   = "page_fault_user"
	faultOfKernel = "page_fault_kernel"
)

func (w *Writer) memory(t snapshot.Trace) {
	for i := range t.OOMKills {
		k := &t.OOMKills[i]
		c := w.cpu(k.CPU)
		w.kinds.oomKills.tell(c, k)
		c.event(k.At, k.TID, eventOOMKill, func(m *message) { m.int(victimTID, int64(k.TID)) })
	}
	for i := range t.Faults {
		f := &t.Faults[i]
		name := faultOfKernel
		if f.User {
			name = faultOfUser
		}
		c := w.cpu(f.CPU)
		w.kinds.faults.tell(c, f)
		c.event(f.At, f.TID, eventGeneric, func(m *message) {
			m.string(genericName, name)
			field := m.begin(genericField)
			m.string(genericFieldName, "address")
			m.varint(genericFieldUint, f.Address)
			m.end(field)
		})
	}
}

// syscalls appends system calls. An end says which call ends; where that began before the trace, nobody knows.
func (w *Writer) syscalls(t snapshot.Trace) {
	for i := range t.Syscalls {
		s := &t.Syscalls[i]
		c := w.cpu(s.CPU)
		w.kinds.syscalls.tell(c, s)
		if !s.Ends {
			w.calls[s.TID] = s.Number
			c.event(s.At, s.TID, eventSyscall, func(m *message) { m.int(syscallNumber, int64(s.Number)) })
			continue
		}
		number, ok := w.calls[s.TID]
		if !ok {
			number = -1
		}
		delete(w.calls, s.TID)
		c.event(s.At, s.TID, eventSyscallEnd, func(m *message) {
			m.int(syscallNumber, int64(number))
			m.int(syscallResult, s.Result)
		})
	}
	for _, e := range t.Ended { // within a system call that does not return
		delete(w.calls, e.TID)
	}
}

// bundles appends what was gathered by CPU.
func (w *Writer) bundles() {
	for _, c := range w.cpus {
		if c == nil {
			continue
		}
		if len(c.names)+len(c.events) > 0 || w.losing && !c.marked {
			w.bundle(c)
		}
		c.marked = false
	}
}

// bundle appends what was gathered of a CPU. The first one of a Write says whether there may be more than that, which was lost.
func (w *Writer) bundle(c *cpu) {
	w.packet(0, packetFtrace, func(m *message) {
		m.varint(bundleCPU, uint64(c.who.cpu))
		if w.losing && !c.marked {
			m.varint(bundleLost, 1)
			c.marked = true
		}
		sched := m.begin(bundleSched)
		*m = append(*m, c.names...)
		for field, column := range c.columns {
			if len(column) > 0 {
				m.bytes(protowire.Number(field), column)
			}
		}
		m.end(sched)
		*m = append(*m, c.events...)
	})
	c.reset()
}

// reset forgets what is written, but not who is on the CPU.
func (c *cpu) reset() {
	for field := range c.columns {
		c.columns[field] = c.columns[field][:0]
	}
	c.names, c.events = c.names[:0], c.events[:0]
	clear(c.name)
	c.lastSwitch, c.lastWaking = 0, 0
	clear(c.who.here)
}
