package sched

import (
	"fmt"
	"maps"
	"slices"

	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// Waits are those of at least Options.TalkersFrom of the threads that it is about, since the last call, in the order of their ends.
// There may be others among them. They are kept until they are asked for.
func (p *Probe) Waits() ([]snapshot.SchedWait, error) {
	if err := p.learnGroups(); err != nil {
		return nil, err
	}
	if err := p.readWorst(); err != nil {
		return nil, err
	}
	waits := p.waits
	p.waits = nil
	return waits, nil
}

// WaitsMissed is how many switches the probe has missed so far: each may have been a wait's end.
func (p *Probe) WaitsMissed() (uint64, error) {
	others := slices.DeleteFunc(slices.Collect(maps.Keys(p.objects.Programs)), func(name string) bool { return name == bpfProgThreadSwitch })
	return p.switchesMissed.Read(p.objects, others...)
}

// readWorst takes over what the kernel side told of long waits since the last time.
func (p *Probe) readWorst() error {
	monotonic, err := hook.MonotonicClock()
	if err != nil {
		return err
	}
	err = p.exemplars.Take(func(e bpfExemplar) {
		w := p.exemplar(e, monotonic)
		if p.options.Worst {
			p.worst.Add(groupWaits, w)
		}
		if from := p.options.TalkersFrom; from > 0 && w.Wait >= uint64(from) {
			p.waits = append(p.waits, w)
		}
	})
	if err != nil {
		return fmt.Errorf("reading the longest waits: %w", err)
	}
	return nil
}

// groupWaits keeps the longest of each group.
func groupWaits(waits []snapshot.SchedWait, by snapshot.By) []snapshot.SchedWait {
	return snapshot.Sched{Worst: waits}.Group(by).Worst
}

// exemplar puts what ran meanwhile in order. What the last runs of the CPU do not cover was earlier.
func (p *Probe) exemplar(e bpfExemplar, monotonic hook.Clock) snapshot.SchedWait {
	w := snapshot.SchedWait{
		Process: p.table.Process(e.Owner), TID: int(e.Tid), At: monotonic.Wall(e.At), CPU: int(e.Cpu), Wait: e.Wait,
	}
	add := func(who snapshot.Process, tid uint32, ns uint64) {
		if ns > 0 {
			w.Ran = append(w.Ran, snapshot.SchedRan{Process: who, TID: int(tid), NS: ns})
		}
	}
	ran := e.Ran[:min(int(e.N), len(e.Ran))]
	known := e.Elsewhere + e.Quota + e.Irq + e.Softirq
	for _, r := range ran {
		known += r.Ns
	}
	if e.Wait > known {
		add(p.table.Process(uint32(bpfOwnerOWNER_OLDER)), 0, e.Wait-known)
	}
	add(snapshot.Process{App: snapshot.OtherCPU}, 0, e.Elsewhere)
	add(p.table.Process(uint32(bpfOwnerOWNER_QUOTA)), 0, e.Quota)
	for _, r := range slices.Backward(ran) {
		add(p.who(r.Owner), r.Tid, r.Ns)
	}
	add(p.table.Process(uint32(bpfOwnerOWNER_INTERRUPTS)), 0, e.Irq)
	add(p.table.Process(uint32(bpfOwnerOWNER_SOFTIRQS)), 0, e.Softirq)
	return w
}
