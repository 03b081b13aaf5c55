package perfetto

import (
	"fmt"
	"reflect"

	"culprit/probes/snapshot"
)

// The timeline's own events of a CPU have less than a snapshot.Trace: who goes off it, or of which process a thread is, readers find
// out by what came before. A Writer does so, too, as Read will, and where that is not what was, it says so: by an event
// with the name of the kind, and with the fields that a reader would take wrong, before the one that it is about. So Read has all
// fields of every event, though nearly none of those that follow from others are in the file.

// identities are who threads are, as far as a reader knows by the events of a CPU. A Writer and Read keep them alike.
type identities struct {
	cpu  int32
	idle snapshot.Thread
	on   snapshot.Thread           // that the last switch brought
	all  map[int32]snapshot.Thread // that have a name in the trace and did not end, by tid: of all CPUs
	here map[int32]snapshot.Thread // those that the bundle at work said otherwise of
}

func newIdentities(cpu int32, all map[int32]snapshot.Thread) identities {
	idle := snapshot.Thread{Comm: fmt.Sprint(idleName, "/", cpu)}
	return identities{cpu: cpu, idle: idle, on: idle, all: all, here: map[int32]snapshot.Thread{}}
}

// of is who has a thread ID.
func (i *identities) of(tid int32) snapshot.Thread {
	if tid == i.on.TID {
		return i.on
	}
	if thread, ok := i.here[tid]; ok {
		return thread
	}
	if thread, ok := i.all[tid]; ok {
		return thread
	}
	if tid == 0 {
		return i.idle
	}
	return snapshot.Thread{TID: tid}
}

// learn takes over what an event said of threads that were thought to be others; one without a name, process and number is none.
func (i *identities) learn(threads [2]snapshot.Thread) {
	for _, thread := range threads {
		if thread == (snapshot.Thread{}) {
			continue
		}
		i.here[thread.TID] = thread
		if thread.TID == i.on.TID {
			i.on = thread
		}
	}
}

// switched is that another thread comes on the CPU.
func (i *identities) switched(s *snapshot.SchedSwitch) {
	i.on = snapshot.Thread{TID: s.NextTID, PID: s.NextPID, Comm: s.NextComm}
}

// event is one of a CPU.
type event interface {
	comparable
	Time() int64
}

// inferred is a kind of event of which a reader infers some fields.
type inferred[E event] struct {
	name       string
	infer      func(*identities, *E)       // sets these fields
	who        func(*E) [2]snapshot.Thread // that one tells of
	properties properties
	guess      E // of the event at work
}

func newInferred[E event](name string, infer func(*identities, *E), who func(*E) [2]snapshot.Thread) *inferred[E] {
	return &inferred[E]{name: name, infer: infer, who: who, properties: propertiesOf(reflect.TypeFor[E]())}
}

// tell appends in what an event, which comes next, is not as a reader would have it.
func (k *inferred[E]) tell(c *cpu, e *E) {
	k.guess = *e
	k.infer(&c.who, &k.guess)
	if k.guess == *e {
		return
	}
	who := k.who(e)
	c.event((*e).Time(), who[0].TID, eventGeneric, func(m *message) {
		m.string(genericName, k.name)
		k.properties.difference(m, reflect.ValueOf(e).Elem(), reflect.ValueOf(&k.guess).Elem())
	})
	c.who.learn(who)
}

// add adds an event as it was read, with the fields that it is without: the inverse of tell.
func (k *inferred[E]) add(b *bundle, to *[]E, read E) {
	*to = append(*to, read)
	e := &(*to)[len(*to)-1]
	k.infer(&b.who, e)
	if !b.hints.areOf(k.name, (*e).Time()) {
		return
	}
	b.hints.each(func(name string, v value) { k.properties.set(reflect.ValueOf(e).Elem(), name, v) })
	b.hints = hints{}
	b.who.learn(k.who(e))
}

// kinds are those of which fields are inferred.
type kinds struct {
	switches   *inferred[snapshot.SchedSwitch]
	wakeups    *inferred[snapshot.SchedWakeup]
	migrations *inferred[snapshot.SchedMigrate]
	begun      *inferred[snapshot.ProcessBegin]
	executed   *inferred[snapshot.ProcessExec]
	ended      *inferred[snapshot.ProcessEnd]
	irqs       *inferred[snapshot.IRQ]
	softirqs   *inferred[snapshot.Softirq]
	signals    *inferred[snapshot.Signal]
	oomKills   *inferred[snapshot.OOMKill]
	faults     *inferred[snapshot.PageFault]
	syscalls   *inferred[snapshot.Syscall]
}

func newKinds() kinds {
	return kinds{
		switches: newInferred("sched.switch", func(i *identities, e *snapshot.SchedSwitch) {
			prev := i.of(e.PrevTID)
			e.CPU, e.PrevPID, e.PrevComm, e.NextPID = i.cpu, prev.PID, prev.Comm, i.of(e.NextTID).PID
			e.PrevState = stateName(state(e.PrevState))
			if isOfGap(e.PrevTID, e.PrevComm) {
				e.PrevComm = i.idle.Comm
			}
			if isOfGap(e.NextTID, e.NextComm) {
				e.NextComm = i.idle.Comm
			}
		}, func(e *snapshot.SchedSwitch) [2]snapshot.Thread {
			return [2]snapshot.Thread{{TID: e.PrevTID, PID: e.PrevPID, Comm: e.PrevComm}, {TID: e.NextTID, PID: e.NextPID, Comm: e.NextComm}}
		}),
		wakeups: newInferred("sched.wakeup", func(i *identities, e *snapshot.SchedWakeup) {
			waker := i.of(e.WakerTID)
			e.CPU, e.PID, e.WakerPID, e.WakerComm = i.cpu, i.of(e.TID).PID, waker.PID, waker.Comm
		}, func(e *snapshot.SchedWakeup) [2]snapshot.Thread {
			return [2]snapshot.Thread{e.Thread, {TID: e.WakerTID, PID: e.WakerPID, Comm: e.WakerComm}}
		}),
		migrations: newInferred("sched.migrate", func(i *identities, e *snapshot.SchedMigrate) {
			e.CPU, e.PID = i.cpu, i.of(e.TID).PID
		}, func(e *snapshot.SchedMigrate) [2]snapshot.Thread { return [2]snapshot.Thread{e.Thread} }),
		begun: newInferred("process.begin", func(i *identities, e *snapshot.ProcessBegin) {
			parent := i.of(e.ParentTID)
			e.CPU, e.PID, e.ParentPID, e.ParentComm = i.cpu, i.of(e.TID).PID, parent.PID, parent.Comm
		}, func(e *snapshot.ProcessBegin) [2]snapshot.Thread {
			return [2]snapshot.Thread{e.Thread, {TID: e.ParentTID, PID: e.ParentPID, Comm: e.ParentComm}}
		}),
		executed: newInferred("process.exec", func(i *identities, e *snapshot.ProcessExec) {
			e.CPU, e.PID = i.cpu, i.of(e.TID).PID
		}, func(e *snapshot.ProcessExec) [2]snapshot.Thread { return [2]snapshot.Thread{e.Thread} }),
		ended: newInferred("process.end", func(i *identities, e *snapshot.ProcessEnd) {
			e.CPU, e.ExitCode = i.cpu, 0
		}, func(e *snapshot.ProcessEnd) [2]snapshot.Thread { return [2]snapshot.Thread{e.Thread} }),
		irqs: newInferred("irq", func(i *identities, e *snapshot.IRQ) {
			e.CPU = i.cpu
		}, func(*snapshot.IRQ) (nobody [2]snapshot.Thread) { return nobody }),
		softirqs: newInferred("softirq", func(i *identities, e *snapshot.Softirq) {
			e.CPU, e.Name = i.cpu, nameOf(snapshot.SoftirqNames, numberOf(snapshot.SoftirqNames, e.Name))
		}, func(*snapshot.Softirq) (nobody [2]snapshot.Thread) { return nobody }),
		signals: newInferred("signal", func(i *identities, e *snapshot.Signal) {
			sender := i.of(e.SenderTID)
			e.CPU, e.PID, e.SenderPID, e.SenderComm = i.cpu, i.of(e.TID).PID, sender.PID, sender.Comm
			e.Result = nameOf(snapshot.SignalResults, numberOf(snapshot.SignalResults, e.Result))
		}, func(e *snapshot.Signal) [2]snapshot.Thread {
			return [2]snapshot.Thread{e.Thread, {TID: e.SenderTID, PID: e.SenderPID, Comm: e.SenderComm}}
		}),
		oomKills: newInferred("oom.kill", func(i *identities, e *snapshot.OOMKill) {
			e.CPU, e.Thread = i.cpu, i.of(e.TID)
		}, func(e *snapshot.OOMKill) [2]snapshot.Thread { return [2]snapshot.Thread{e.Thread} }),
		faults: newInferred("page.fault", func(i *identities, e *snapshot.PageFault) {
			e.CPU, e.Thread = i.cpu, i.of(e.TID)
		}, func(e *snapshot.PageFault) [2]snapshot.Thread { return [2]snapshot.Thread{e.Thread} }),
		syscalls: newInferred("syscall", func(i *identities, e *snapshot.Syscall) {
			e.CPU, e.Thread = i.cpu, i.of(e.TID)
			if e.Ends {
				e.Number = -1
			} else {
				e.Result = 0
			}
		}, func(e *snapshot.Syscall) [2]snapshot.Thread { return [2]snapshot.Thread{e.Thread} }),
	}
}

// properties are the fields of a kind of event, in their order.
type properties []property

type property struct {
	name  string // as the other formats have it
	index []int
}

func propertiesOf(event reflect.Type) (out properties) {
	for _, f := range reflect.VisibleFields(event) {
		if !f.Anonymous {
			out = append(out, property{f.Tag.Get("json"), f.Index})
		}
	}
	return out
}

// difference appends the fields in which an event is not as it was guessed, for a GenericFtraceEvent.
func (p properties) difference(m *message, event, guess reflect.Value) {
	for _, property := range p {
		v := event.FieldByIndex(property.index)
		if v.Equal(guess.FieldByIndex(property.index)) {
			continue
		}
		field := m.begin(genericField)
		m.string(genericFieldName, property.name)
		switch v.Kind() {
		case reflect.String:
			m.string(genericFieldText, v.String())
		case reflect.Bool:
			m.bool(genericFieldInt, v.Bool())
		case reflect.Uint64:
			m.varint(genericFieldUint, v.Uint())
		default:
			m.int(genericFieldInt, v.Int())
		}
		m.end(field)
	}
}

// hints are what difference appended about an event, as they are read.
type hints struct {
	about   string // kind
	at      int64
	message []byte
	err     *error
}

func (h *hints) areOf(kind string, at int64) bool { return h.about == kind && h.at == at }

func (h *hints) each(f func(name string, v value)) {
	for s := (scan{rest: h.message, err: h.err}); s.next(); {
		if s.number != genericField {
			continue
		}
		var name string
		var v value
		for s := (scan{rest: s.bytes, err: h.err}); s.next(); {
			switch s.number {
			case genericFieldName:
				name = string(s.bytes)
			case genericFieldText:
				v.text = string(s.bytes)
			case genericFieldInt, genericFieldUint:
				v.number = s.value
			}
		}
		f(name, v)
	}
}

// value is one as it was read: a number or a text.
type value struct {
	number uint64
	text   string
}

// set sets a field of an event. One that it has not is nothing to it.
func (p properties) set(event reflect.Value, name string, to value) {
	for _, property := range p {
		if property.name != name {
			continue
		}
		switch v := event.FieldByIndex(property.index); v.Kind() {
		case reflect.String:
			v.SetString(to.text)
		case reflect.Bool:
			v.SetBool(to.number != 0)
		case reflect.Uint64:
			v.SetUint(to.number)
		default:
			v.SetInt(int64(to.number))
		}
	}
}
