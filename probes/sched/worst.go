package sched

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// readWorst takes over what the kernel side told of long waits since the last time.
func (p *Probe) readWorst() error {
	if p.exemplars == nil {
		return nil
	}
	monotonic, err := hook.MonotonicClock()
	if err != nil {
		return err
	}
	var record ringbuf.Record
	p.exemplars.SetDeadline(time.Now()) // takes what is there, and does not wait
	for {
		err := p.exemplars.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the longest waits: %w", err)
		}
		var e bpfExemplar
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.LittleEndian, &e); err != nil {
			return fmt.Errorf("reading a long wait: %w", err)
		}
		p.worst.Add(groupWaits, p.exemplar(e, monotonic))
	}
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
