package perfetto

import (
	"cmp"
	"errors"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"culprit/probes/snapshot"
)

// reading is what is known of a CPU from its bundles so far.
type reading struct {
	who   identities
	tid   int32 // that the last switch brought, or unknown
	since int64
}

// bundle is one that is being read. Its events are in the order in which the Writer appended them, but for those that are
// in the columns: these are put among them by their time.
type bundle struct {
	*reader
	*reading
	names             []string
	columns           [schedWakingFlags + 1][]byte // what is left of them, by field
	row               [schedWakingFlags + 1]int64  // the next of each
	switches, wakings bool                         // there is a next one
	hints             hints

	began int64  // an interrupt
	comm  string // that a rename told of
}

func (r *reader) bundle(message []byte) {
	var number uint64
	var lost bool
	var sched []byte
	for s := r.scan(message); s.next(); {
		switch s.number {
		case bundleCPU:
			number = s.value
		case bundleLost:
			lost = true
		case bundleSched:
			sched = s.bytes
		}
	}
	if r.err != nil || number >= mostCPUs {
		r.fail("a bundle of a CPU that there is not")
		return
	}
	cpu := r.cpus[int32(number)]
	if cpu == nil {
		cpu = &reading{who: newIdentities(int32(number), r.known), tid: unknown}
		r.cpus[int32(number)] = cpu
	}
	if lost {
		cpu.tid = unknown
	}
	b := bundle{reader: r, reading: cpu}
	for s := r.scan(sched); s.next(); {
		switch {
		case s.number == schedNames:
			b.names = append(b.names, string(s.bytes))
		case s.number <= schedWakingFlags:
			b.columns[s.number] = s.bytes
		}
	}
	b.nextSwitch()
	b.nextWaking()
	for s := r.scan(message); s.next(); {
		if s.number == bundleEvent {
			b.event(s.bytes)
		}
	}
	b.columnsBefore(place{last: true})
	clear(cpu.who.here)
}

// fail ends reading, unless something else did.
func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = errors.New(why)
	}
}

// nextSwitch makes the row be that of the next switch.
func (b *bundle) nextSwitch() {
	b.switches = b.nextRow(schedSwitchTime, schedPrevState, schedNextTID, schedNextPrio, schedNextName)
}

// nextWaking makes the row be that of the next wakeup.
func (b *bundle) nextWaking() {
	b.wakings = b.nextRow(schedWakingTime, schedWakingTID, schedWakingCPU, schedWakingPrio, schedWakingName, schedWakingFlags)
}

// nextRow takes a value from each of some columns, of which the first has differences of times.
func (b *bundle) nextRow(time protowire.Number, others ...protowire.Number) bool {
	if len(b.columns[time]) == 0 {
		return false
	}
	last := b.row[time]
	for _, field := range append(others, time) {
		v, n := protowire.ConsumeVarint(b.columns[field])
		if n < 0 {
			b.fail("columns of switches or wakeups that are not equally long")
			return false
		}
		b.row[field], b.columns[field] = int64(v), b.columns[field][n:]
	}
	b.row[time] += last
	return true
}

// name is that of a number in a column.
func (b *bundle) name(field protowire.Number) string {
	number := b.row[field]
	if number < 0 || number >= int64(len(b.names)) {
		b.fail("a number of a name that there is not")
		return ""
	}
	return b.names[number]
}

// place is where an event of the scheduler's is among others of its CPU: the Writer has them in the order of time, and at the same time
// of their kinds.
type place struct {
	at   int64
	kind int
	last bool // behind all
}

// Kinds in a place.
const (
	switchPlace = iota
	wakeupPlace
	migrationPlace
)

func (p place) before(q place) bool {
	return !p.last && (q.last || p.at < q.at || p.at == q.at && p.kind < q.kind)
}

// columnsBefore takes from the columns what comes before a place.
func (b *bundle) columnsBefore(p place) {
	for b.err == nil {
		nextSwitch, nextWaking := place{at: b.row[schedSwitchTime], kind: switchPlace}, place{at: b.row[schedWakingTime], kind: wakeupPlace}
		switch {
		case b.switches && nextSwitch.before(p) && !(b.wakings && nextWaking.before(nextSwitch)):
			b.addSwitch(snapshot.SchedSwitch{
				Moment: snapshot.Moment{At: nextSwitch.at}, PrevTID: b.tid, PrevState: stateName(b.row[schedPrevState]),
				NextTID: int32(b.row[schedNextTID]), NextPrio: int32(b.row[schedNextPrio]), NextComm: b.name(schedNextName),
			})
			b.nextSwitch()
		case b.wakings && nextWaking.before(p):
			b.kinds.wakeups.add(b, &b.t.Wakeups, snapshot.SchedWakeup{
				Moment: snapshot.Moment{At: nextWaking.at}, WakerTID: b.tid,
				Thread:    snapshot.Thread{TID: int32(b.row[schedWakingTID]), Comm: b.name(schedWakingName)},
				TargetCPU: int32(b.row[schedWakingCPU]), ByInterrupt: b.row[schedWakingFlags]&flagInterrupt != 0,
			})
			b.nextWaking()
		default:
			return
		}
	}
}

// brought is that a switch brought a thread. A late one changes nothing, as for the Writer.
func (b *bundle) brought(tid int32, at int64) {
	if at >= b.since {
		b.tid, b.since = tid, at
	}
}

func (b *bundle) addSwitch(e snapshot.SchedSwitch) {
	b.kinds.switches.add(b, &b.t.Switches, e)
	b.who.switched(&b.t.Switches[len(b.t.Switches)-1])
	b.brought(e.NextTID, e.At)
}

// event takes an event that is not in the columns.
func (b *bundle) event(message []byte) {
	var at int64
	var tid int32
	var flags uint64
	var kind protowire.Number
	var content []byte
	for s := b.scan(message); s.next(); {
		switch s.number {
		case eventTime:
			at = int64(s.value)
		case eventTID:
			tid = int32(s.value)
		case eventFlags:
			flags = s.value
		default:
			kind, content = s.number, s.bytes
		}
	}
	m := snapshot.Moment{At: at}
	switch kind {
	case eventSwitch:
		b.separateSwitch(m, content)
	case eventWaking:
		b.columnsBefore(place{at: at, kind: wakeupPlace})
		e := snapshot.SchedWakeup{Moment: m, WakerTID: tid, ByInterrupt: flags&flagInterrupt != 0}
		for s := b.scan(content); s.next(); {
			switch s.number {
			case wakingName:
				e.Comm = string(s.bytes)
			case wakingTID:
				e.TID = int32(s.value)
			case wakingCPU:
				e.TargetCPU = int32(s.value)
			}
		}
		b.kinds.wakeups.add(b, &b.t.Wakeups, e)
	case eventMigrate:
		b.columnsBefore(place{at: at, kind: migrationPlace})
		e := snapshot.SchedMigrate{Moment: m}
		for s := b.scan(content); s.next(); {
			switch s.number {
			case migrateName:
				e.Comm = string(s.bytes)
			case migrateTID:
				e.TID = int32(s.value)
			case migrateFrom:
				e.FromCPU = int32(s.value)
			case migrateTo:
				e.ToCPU = int32(s.value)
			}
		}
		b.kinds.migrations.add(b, &b.t.Migrations, e)
	case eventFree: // follows from a switch
	case eventRename: // of the trace's names, or before an exec
		for s := b.scan(content); s.next(); {
			if s.number == renameName {
				b.comm = string(s.bytes)
			}
		}
	case eventGeneric:
		b.generic(m, tid, content)
	default:
		b.columnsBefore(place{last: true})
		b.other(m, tid, kind, content)
	}
}

// separateSwitch takes a switch that the columns could not have, since it is not the thread that the one before brought that goes off the CPU.
func (b *bundle) separateSwitch(m snapshot.Moment, message []byte) {
	e := snapshot.SchedSwitch{Moment: m}
	for s := b.scan(message); s.next(); {
		switch s.number {
		case switchPrevName:
			e.PrevComm = string(s.bytes)
		case switchPrevTID:
			e.PrevTID = int32(s.value)
		case switchPrevState:
			e.PrevState = stateName(int64(s.value))
		case switchNextName:
			e.NextComm = string(s.bytes)
		case switchNextTID:
			e.NextTID = int32(s.value)
		case switchNextPrio:
			e.NextPrio = int32(s.value)
		}
	}
	b.columnsBefore(place{at: e.At, kind: switchPlace})
	if (isOfGap(e.PrevTID, e.PrevComm) || isOfGap(e.NextTID, e.NextComm)) && !b.hints.areOf(b.kinds.switches.name, e.At) {
		// It was not there: the Writer has made it up for the next switch in the columns, when it had written what is before that.
		b.columnsBefore(place{at: b.row[schedSwitchTime], kind: switchPlace})
		b.brought(e.NextTID, e.At)
		return
	}
	b.addSwitch(e)
}

// generic takes a page fault, or hints about an event that comes next.
func (b *bundle) generic(m snapshot.Moment, tid int32, message []byte) {
	h := hints{at: m.At, message: message, err: &b.err}
	for s := b.scan(message); s.next(); {
		if s.number == genericName {
			h.about = string(s.bytes)
		}
	}
	before := place{at: m.At}
	switch h.about {
	case b.kinds.switches.name:
		before.kind = switchPlace
	case b.kinds.wakeups.name:
		before.kind = wakeupPlace
	case b.kinds.migrations.name:
		before.kind = migrationPlace
	default:
		before.last = true
	}
	b.columnsBefore(before)
	if h.about != faultOfUser && h.about != faultOfKernel {
		b.hints = h
		return
	}
	e := snapshot.PageFault{Moment: m, Thread: snapshot.Thread{TID: tid}, User: h.about == faultOfUser}
	h.each(func(_ string, v value) { e.Address = v.number })
	b.kinds.faults.add(b, &b.t.Faults, e)
}

// other takes an event that is not the scheduler's.
func (b *bundle) other(m snapshot.Moment, tid int32, kind protowire.Number, message []byte) {
	number := func(of protowire.Number) (v uint64) {
		for s := b.scan(message); s.next(); {
			if s.number == of {
				v = s.value
			}
		}
		return v
	}
	text := func(of protowire.Number) (v string) {
		for s := b.scan(message); s.next(); {
			if s.number == of {
				v = string(s.bytes)
			}
		}
		return v
	}
	switch kind {
	case eventIRQ, eventSoftirq:
		b.began = m.At
	case eventIRQEnd:
		e := snapshot.IRQ{Moment: m, Number: int32(number(irqNumber)), Duration: m.At - b.began, TID: tid}
		b.kinds.irqs.add(b, &b.t.IRQs, e)
	case eventSoftirqEnd:
		name := nameOf(snapshot.SoftirqNames, int64(number(softirqNumber)))
		e := snapshot.Softirq{Moment: m, Name: name, Duration: m.At - b.began, TID: tid}
		b.kinds.softirqs.add(b, &b.t.Softirqs, e)
	case eventNewTask:
		e := snapshot.ProcessBegin{Moment: m, Thread: snapshot.Thread{TID: int32(number(newTaskTID)), Comm: text(newTaskName)}, ParentTID: tid}
		b.kinds.begun.add(b, &b.t.Begun, e)
	case eventExec:
		e := snapshot.ProcessExec{Moment: m, Thread: snapshot.Thread{TID: tid, Comm: b.comm}}
		b.kinds.executed.add(b, &b.t.Executed, e)
	case eventExit:
		e := snapshot.ProcessEnd{Moment: m, Thread: snapshot.Thread{TID: tid, PID: int32(number(exitPID)), Comm: text(exitName)}}
		b.kinds.ended.add(b, &b.t.Ended, e)
	case eventSignal:
		e := snapshot.Signal{
			Moment: m, Thread: snapshot.Thread{TID: int32(number(signalTID)), Comm: text(signalName)}, SenderTID: tid,
			Number: int32(number(signalNumber)), Code: int32(number(signalCode)), Result: nameOf(snapshot.SignalResults, int64(number(signalResult))),
		}
		b.kinds.signals.add(b, &b.t.Signals, e)
	case eventOOMKill:
		e := snapshot.OOMKill{Moment: m, Thread: snapshot.Thread{TID: tid}}
		b.kinds.oomKills.add(b, &b.t.OOMKills, e)
	case eventSyscall:
		e := snapshot.Syscall{Moment: m, Thread: snapshot.Thread{TID: tid}, Number: int32(number(syscallNumber))}
		b.kinds.syscalls.add(b, &b.t.Syscalls, e)
	case eventSyscallEnd:
		e := snapshot.Syscall{Moment: m, Thread: snapshot.Thread{TID: tid}, Ends: true, Result: int64(number(syscallResult))}
		b.kinds.syscalls.add(b, &b.t.Syscalls, e)
	}
}

// sortByTime brings what came CPU by CPU into the order of time. What is on tracks was written so.
func sortByTime(t *snapshot.Trace) {
	byTime(t.Switches)
	byTime(t.Wakeups)
	byTime(t.Migrations)
	byTime(t.Begun)
	byTime(t.Executed)
	byTime(t.Ended)
	byTime(t.IRQs)
	byTime(t.Softirqs)
	byTime(t.Signals)
	byTime(t.OOMKills)
	byTime(t.Faults)
	byTime(t.Syscalls)
}

func byTime[E event](events []E) {
	slices.SortStableFunc(events, func(a, b E) int { return cmp.Compare(a.Time(), b.Time()) })
}
