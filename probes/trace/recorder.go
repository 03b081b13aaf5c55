package trace

import (
	"fmt"
	"slices"
	"time"

	"culprit/probes/snapshot"
)

// Trigger is what a flight recorder waits for. One of its last four fields is not 0.
type Trigger struct {
	At              int64           // ns, CLOCK_BOOTTIME
	snapshot.Thread                 // who waited, or was sent a signal
	Causer          snapshot.Causer // of I/O, or of a connection

	Wait    time.Duration
	Latency time.Duration
	Stall   time.Duration
	Signal  int
}

func (t Trigger) String() string {
	cause := t.Causer.App
	if t.Causer.PID != 0 {
		cause = fmt.Sprintf("%s (%d)", t.Causer.Comm, t.Causer.PID)
	}
	switch {
	case t.Latency != 0:
		return fmt.Sprintf("a request of %s took %v", cause, t.Latency.Round(time.Microsecond))
	case t.Stall != 0:
		return fmt.Sprintf("a connection of %s stalled for %v", cause, t.Stall.Round(time.Microsecond))
	case t.Signal != 0:
		return fmt.Sprintf("signal %d for %s (%d)", t.Signal, t.Comm, t.TID)
	}
	return fmt.Sprintf("%s (%d) waited %v for CPU", t.Comm, t.TID, t.Wait.Round(time.Microsecond))
}

// Arm makes the next trigger be told of: one, until it is called again.
func (p *Probe) Arm() { p.armed.Set(0, 1) }

// Poll keeps a flight recorder in order, and returns what has triggered since. It is to be called some times a second.
func (p *Probe) Poll() ([]Trigger, error) {
	p.choice.update()
	all, err := p.takeNotices(&p.kept)
	if err != nil {
		return nil, err
	}
	triggered := slices.DeleteFunc(slices.Clone(all), func(t Trigger) bool { return !p.choice.keeps(max(t.PID, t.Causer.PID), t.Causer.App) })
	if len(triggered) < len(all) { // of somebody whom Keep was not asked about in time
		p.Arm()
	}
	p.horizon = p.oldest()
	p.kept.Begun = since(p, p.kept.Begun)
	p.kept.Executed = since(p, p.kept.Executed)
	p.kept.Ended = since(p, p.kept.Ended)
	p.names.fresh = nil
	horizon := p.horizon
	if len(p.names.of) > mostKept { // as where so few kinds are traced that the rings never fill: the long dead lose their names
		now, err := p.now()
		if err != nil {
			return nil, err
		}
		horizon = now.boot
	}
	p.names.forget(horizon - keepNames)
	p.owners.forget(p.horizon - keepNames)
	p.choice.forget(p.horizon - keepNames)
	return triggered, nil
}

// mostKept is how many beginnings, executions, ends and names are kept at most: a CPU's ring fills slowly where few kinds of events are traced.
const mostKept = 1 << 17

// since leaves the newest events that are not older than all CPUs' are.
func since[E interface{ Time() int64 }](p *Probe, events []E) []E {
	old := max(0, len(events)-mostKept)
	for old < len(events) && events[old].Time() < p.horizon {
		old++
	}
	if old > 0 && old == len(events)-mostKept {
		p.horizon = max(p.horizon, events[old].Time())
	}
	return slices.Delete(events, 0, old)
}

// oldest is about since when the events of all CPUs are still there.
func (p *Probe) oldest() int64 {
	oldest := p.read
	for cpu := range p.readers {
		if at, overwritten := p.readers[cpu].oldest(p.cpus, p.chunks); overwritten {
			oldest = max(oldest, at)
		}
	}
	return oldest
}

// settling is how long what was published may take to be written, on processors that reorder writes.
const settling = 5 * time.Millisecond

// Dump is all that a flight recorder has kept of all CPUs. Losses are those since it began; what was overwritten before is none.
func (p *Probe) Dump() (t snapshot.Trace, err error) {
	now, err := p.now()
	if err != nil {
		return t, err
	}
	time.Sleep(settling)
	t.Start, t.End, t.RealTime = p.horizon, now.boot, now.real
	t.Begun, t.Executed, t.Ended = slices.Clone(p.kept.Begun), slices.Clone(p.kept.Executed), slices.Clone(p.kept.Ended)
	p.unseen, p.over = 0, 0
	for cpu := range p.readers {
		r := &p.readers[cpu]
		if err := r.rewind(p.cpus, p.chunks); err != nil {
			return t, err
		}
		lost, err := r.take(p.cpus, p.chunks, now.positions[cpu], func(one record) {
			if one.at >= t.Start {
				p.add(&t, int32(cpu), one)
			}
		})
		if err != nil {
			return t, fmt.Errorf("reading the trace: %w", err)
		}
		p.over += lost
	}
	p.choice.filter(&t)
	inOrder(&t, &snapshot.Trace{})
	t.Threads = p.names.all()
	losses, err := p.losses()
	if err != nil {
		return t, err
	}
	t.Loss = snapshot.LossesSince(p.before, losses)
	return t, nil
}
