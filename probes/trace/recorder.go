package trace

import (
	"fmt"
	"slices"
	"time"

	"culprit/probes/snapshot"
)

// Trigger is what a flight recorder waits for: a wait for a CPU, or a signal.
type Trigger struct {
	At int64 // ns, CLOCK_BOOTTIME
	snapshot.Thread
	Wait   time.Duration // 0: none
	Signal int           // 0: none
}

func (t Trigger) String() string {
	if t.Signal != 0 {
		return fmt.Sprintf("signal %d for %s (%d)", t.Signal, t.Comm, t.TID)
	}
	return fmt.Sprintf("%s (%d) waited %v for CPU", t.Comm, t.TID, t.Wait.Round(time.Microsecond))
}

// Arm makes the next trigger be told of: one, until it is called again.
func (p *Probe) Arm() error {
	if err := p.objects.Variables["armed"].Set(uint32(1)); err != nil {
		return fmt.Errorf("arming the triggers: %w", err)
	}
	return nil
}

// Poll keeps a flight recorder in order, and returns what has triggered since. It is to be called some times a second.
func (p *Probe) Poll() ([]Trigger, error) {
	triggered, err := p.takeNotices(&p.kept)
	if err != nil {
		return nil, err
	}
	oldest := p.oldest()
	p.kept.Begun = since(p.kept.Begun, oldest)
	p.kept.Executed = since(p.kept.Executed, oldest)
	p.kept.Ended = since(p.kept.Ended, oldest)
	p.names.fresh = nil
	p.names.forget(oldest - keepNames)
	return triggered, nil
}

// since leaves those that are not older.
func since[E interface{ Time() int64 }](events []E, oldest int64) []E {
	return slices.DeleteFunc(events, func(e E) bool { return e.Time() < oldest })
}

// oldest is about when the oldest event was that is still there.
func (p *Probe) oldest() int64 {
	oldest := p.read
	for cpu := range p.readers {
		if at, ok := p.readers[cpu].oldest(p.cpus, p.chunks); ok {
			oldest = min(oldest, at)
		}
	}
	return oldest
}

// Dump is all that a flight recorder has kept. Losses are those since it began, without what was overwritten, as it should.
func (p *Probe) Dump() (t snapshot.Trace, err error) {
	now, err := p.now()
	if err != nil {
		return t, err
	}
	t.End, t.RealTime = now.boot, now.real
	t.Begun, t.Executed, t.Ended = slices.Clone(p.kept.Begun), slices.Clone(p.kept.Executed), slices.Clone(p.kept.Ended)
	t.Start, p.unseen = now.boot, 0
	for cpu := range p.readers {
		r := &p.readers[cpu]
		if err := r.rewind(p.cpus, p.chunks); err != nil {
			return t, err
		}
		if r.at < now.positions[cpu] {
			t.Start = min(t.Start, max(r.time, p.read))
		}
		if _, err := r.take(p.cpus, p.chunks, now.positions[cpu], func(one record) { p.add(&t, int32(cpu), one) }); err != nil {
			return t, fmt.Errorf("reading the trace: %w", err)
		}
	}
	inOrder(&t)
	t.Threads = p.names.all()
	losses, err := p.losses()
	if err != nil {
		return t, err
	}
	t.Loss = snapshot.LossesSince(p.before, losses)
	return t, nil
}
