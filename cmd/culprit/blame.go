package main

import (
	"fmt"
	"io"
	"time"

	"culprit/output/table"
	"culprit/probes/owner"
	"culprit/probes/sched"
)

// talkersFrom is from which length on waits for a CPU are told of that may be why a reader stalled for minStall or more: of most
// of that by one wait, or by several, which are of a scheduler's slice each.
func talkersFrom(minStall time.Duration) time.Duration {
	return max(min(time.Millisecond, minStall/2), 1)
}

// attachWaits brings up the sched probe so that the tcp probe, which comes after it, can tell who had a reader's CPU. Where that
// cannot be, stalls are told of without.
func (f *tcpFlags) attachWaits(stderr io.Writer, load func(*owner.Table, sched.Options) (*sched.Probe, error)) attach {
	return func(owners *owner.Table, _ *table.Table) (*part, error) {
		probe, err := load(owners, sched.Options{Proc: f.proc, TalkersFrom: talkersFrom(f.minStall), NoPackets: true})
		if err != nil {
			fmt.Fprintf(stderr, "culprit: stalls are without who had the CPU: %s\n", explain(err, false, missingCapabilities()))
			none := func() error { return nil }
			return &part{report: none, close: none, memory: func() (uint64, error) { return 0, nil }}, nil
		}
		f.waits = probe
		return &part{close: probe.Close, memory: probe.Memory, report: func() error {
			_, err := probe.Read() // it keeps what it counted, else
			return err
		}}, nil
	}
}
