package trace

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culprit/probes/events"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// moment is a time, and the positions that were published then.
type moment struct {
	boot, real int64 // ns
	positions  []uint64
}

func clock(id int32) (ns int64, err error) {
	var now unix.Timespec
	if err := unix.ClockGettime(id, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return now.Nano(), nil
}

func (p *Probe) now() (m moment, err error) {
	if m.boot, err = clock(unix.CLOCK_BOOTTIME); err != nil {
		return m, err
	}
	if m.real, err = clock(unix.CLOCK_REALTIME); err != nil {
		return m, err
	}
	for cpu := range p.readers {
		at := p.cpus.Get(uint32(cpu))
		position := at.Published
		if p.ended {
			position = at.Reserved // nobody writes any more
		}
		m.positions = append(m.positions, position)
	}
	return m, nil
}

// Read is what happened between the Reads before this one: what was published then is written by now, on processors that reorder writes, too.
// After End it is of all that was left. The next Read uses its memory again.
func (p *Probe) Read() (t snapshot.Trace, err error) {
	next, err := p.now()
	if err != nil {
		return t, err
	}
	last := p.last
	p.last = next
	if p.ended {
		last = next
	}
	t = emptied(p.handed)
	t.Start, t.End, t.RealTime = p.read, last.boot, last.real
	p.read = last.boot
	p.choice.update()
	if _, err := p.takeNotices(&t); err != nil {
		return t, err
	}
	for cpu := range p.readers {
		r := &p.readers[cpu]
		lost, err := r.take(p.cpus, p.chunks, last.positions[cpu], func(one record) { p.add(&t, int32(cpu), one) })
		if err != nil {
			return t, fmt.Errorf("reading the trace: %w", err)
		}
		p.over += lost
	}
	p.choice.filter(&t)
	inOrder(&t, &p.spare)
	p.handed = t
	t.Threads, p.names.fresh = p.names.fresh, nil
	p.names.forget(last.boot - keepNames)
	p.owners.forget(last.boot - keepNames)
	p.choice.forget(last.boot - keepNames)
	losses, err := p.losses()
	if err != nil {
		return t, err
	}
	t.Loss = snapshot.LossesSince(p.before, losses)
	return t, nil
}

// keepNames is how much older than a Read's beginning an event of it can be, with room to spare.
const keepNames = 10_000_000_000

// losses are all so far.
func (p *Probe) losses() (map[string]uint64, error) {
	all, err := p.table.Losses(&p.missed, p.objects)
	if err == nil {
		all["events_overwritten"] = p.over
		all["unseen_switches"] += p.unseen
	}
	return all, err
}

// takeNotices learns what threads are called, tells of their lives, and of what has triggered.
func (p *Probe) takeNotices(t *snapshot.Trace) (triggered []Trigger, err error) {
	err = p.notices.Take(func(n bpfTraceNotice) {
		at, tid, pid, comm := int64(n.At), int32(n.Tid), int32(n.Pid), owner.Comm(n.Comm)
		m := snapshot.Moment{At: at, CPU: int32(n.Cpu)}
		thread := snapshot.Thread{TID: tid, PID: pid, Comm: comm}
		switch bpfNotice(n.What) {
		case bpfNoticeNOTICE_BEGINS:
			p.names.call(at, tid, pid, comm)
			if p.wanted["process.begin"] {
				parent := p.names.at(int32(n.Value), at)
				t.Begun = append(t.Begun, snapshot.ProcessBegin{Moment: m, Thread: thread, ParentTID: parent.TID, ParentPID: parent.PID, ParentComm: parent.Comm})
			}
		case bpfNoticeNOTICE_RENAMED:
			p.names.call(at, tid, pid, comm)
		case bpfNoticeNOTICE_EXECUTES:
			p.names.call(at, tid, pid, comm)
			if p.wanted["process.exec"] {
				t.Executed = append(t.Executed, snapshot.ProcessExec{Moment: m, Thread: thread})
			}
		case bpfNoticeNOTICE_ENDS:
			p.names.end(tid, at)
			if p.wanted["process.end"] {
				t.Ended = append(t.Ended, snapshot.ProcessEnd{Moment: m, Thread: thread, ExitCode: int32(n.Value)})
			}
		case bpfNoticeNOTICE_WAITED:
			triggered = append(triggered, Trigger{At: at, Thread: thread, Wait: time.Duration(n.Value)})
		case bpfNoticeNOTICE_SIGNALLED:
			triggered = append(triggered, Trigger{At: at, Thread: thread, Signal: int(n.Value)})
		case bpfNoticeNOTICE_IO:
			triggered = append(triggered, Trigger{At: at, Causer: p.Causer(n.Tid, at), Latency: time.Duration(n.Value)})
		case bpfNoticeNOTICE_STALLED:
			triggered = append(triggered, Trigger{At: at, Causer: p.Causer(n.Tid, at), Stall: time.Duration(n.Value)})
		}
	})
	return triggered, err
}

// Bits of a record, as bpf/lib/trace.bpf.h has them.
const (
	interrupt = 1 << 31
	tidMask   = 1<<24 - 1
	prioShift = 24
	preempted = 0x100
)

func stateOf(bits uint16) string {
	if bits == preempted {
		return "R+"
	}
	for i := range snapshot.ThreadStates {
		if bits&(1<<i) != 0 {
			return snapshot.ThreadStates[i : i+1]
		}
	}
	return "R"
}

func nameOf(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return fmt.Sprint(i)
}

func (p *Probe) add(t *snapshot.Trace, cpu int32, r record) {
	m := snapshot.Moment{At: r.at, CPU: cpu}
	b, c := int32(r.b), int32(r.c&tidMask)
	switch r.kind {
	case bpfTraceKindTRACE_SWITCH:
		p.counted.Ours++
		reader := &p.readers[cpu]
		if reader.runs >= 0 && reader.runs != b && p.options.Keep == nil {
			p.unseen++
		}
		reader.runs = c
		prev, next := p.thread(b, cpu, r.at), p.thread(c, cpu, r.at)
		t.Switches = append(t.Switches, snapshot.SchedSwitch{Moment: m,
			PrevTID: prev.TID, PrevPID: prev.PID, PrevComm: prev.Comm, PrevState: stateOf(r.a),
			NextTID: next.TID, NextPID: next.PID, NextComm: next.Comm, NextPrio: int32(int8(r.c >> prioShift))})
	case bpfTraceKindTRACE_WAKING:
		waker := p.thread(c, cpu, r.at)
		t.Wakeups = append(t.Wakeups, snapshot.SchedWakeup{Moment: m, Thread: p.names.at(b, r.at), TargetCPU: int32(r.a),
			WakerTID: waker.TID, WakerPID: waker.PID, WakerComm: waker.Comm, ByInterrupt: r.c&interrupt != 0})
	case bpfTraceKindTRACE_MIGRATE:
		t.Migrations = append(t.Migrations, snapshot.SchedMigrate{Moment: m, Thread: p.names.at(b, r.at), FromCPU: int32(r.c), ToCPU: int32(r.a)})
	case bpfTraceKindTRACE_THROTTLE:
		t.Throttled = append(t.Throttled, snapshot.SchedThrottle{Moment: m, Thread: p.names.at(b, r.at)})
	case bpfTraceKindTRACE_IRQ:
		t.IRQs = append(t.IRQs, snapshot.IRQ{Moment: m, Number: int32(r.a), Duration: int64(r.b), TID: c})
	case bpfTraceKindTRACE_SOFTIRQ:
		t.Softirqs = append(t.Softirqs, snapshot.Softirq{Moment: m, Name: nameOf(snapshot.SoftirqNames, int(r.a)), Duration: int64(r.b), TID: c})
	case bpfTraceKindTRACE_SIGNAL:
		sender := p.thread(c, cpu, r.at)
		t.Signals = append(t.Signals, snapshot.Signal{Moment: m, Thread: p.names.at(b, r.at), Number: int32(r.a), Code: int32(r.more[0]),
			Result: nameOf(snapshot.SignalResults, int(r.more[0]>>32)), SenderTID: sender.TID, SenderPID: sender.PID, SenderComm: sender.Comm})
	case bpfTraceKindTRACE_OOM:
		t.OOMKills = append(t.OOMKills, snapshot.OOMKill{Moment: m, Thread: p.names.at(b, r.at)})
	case bpfTraceKindTRACE_FAULT:
		t.Faults = append(t.Faults, snapshot.PageFault{Moment: m, Thread: p.thread(b, cpu, r.at), Address: r.more[0], User: r.a != 0})
	case bpfTraceKindTRACE_SYSCALL:
		t.Syscalls = append(t.Syscalls, snapshot.Syscall{Moment: m, Thread: p.thread(b, cpu, r.at), Number: int32(r.a)})
	case bpfTraceKindTRACE_SYSCALL_ENDS:
		t.Syscalls = append(t.Syscalls, snapshot.Syscall{Moment: m, Thread: p.thread(b, cpu, r.at), Number: -1, Ends: true, Result: int64(r.more[0])})
	case bpfTraceKindTRACE_TIMER:
		t.Timers = append(t.Timers, snapshot.Timer{Moment: m, Function: p.function(r.more[0]), HighRes: r.a != 0, Duration: int64(r.b), TID: c})
	default:
		for _, s := range p.sources {
			s.TraceEvent(t, events.Event{Moment: m, Kind: uint8(r.kind), A: r.a, B: r.b, C: r.c, More: r.more})
		}
	}
}

// function is what the kernel calls one of its functions, "" where it did not say.
func (p *Probe) function(address uint64) string {
	name, known := p.functions[address]
	if !known {
		var f bpfTraceFunction
		if err := p.objects.Maps[bpfMapTraceFunctions].Lookup(address, &f); err == nil {
			name = unix.ByteSliceToString(unsafe.Slice((*byte)(unsafe.Pointer(&f.Name)), len(f.Name)))
		}
		if name != "" {
			p.functions[address] = name
		}
	}
	return name
}

// thread is who was on a CPU: 0 is the idle task of that one.
func (p *Probe) thread(tid, cpu int32, at int64) snapshot.Thread {
	if tid == 0 {
		return snapshot.Thread{Comm: p.readers[cpu].idle}
	}
	return p.names.at(tid, at)
}
