// Package events is what the trace probe shares with others whose programs write single events to its rings.
package events

import (
	"os"

	"github.com/cilium/ebpf"

	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// Event is one as a program wrote it (struct trace_record, bpf/lib/trace.bpf.h).
type Event struct {
	snapshot.Moment
	Kind uint8 // enum trace_kind
	A    uint16
	B, C uint32
	More [7]uint64
}

// Source is a probe whose programs write events.
type Source interface {
	// TraceEvent adds the event to the trace, if it is one of the probe's.
	TraceEvent(*snapshot.Trace, Event)
	// Detach ends its events.
	Detach() error
}

// Trace reads the events of sources.
type Trace interface {
	// Share makes the programs of a source's object write those of their events that are wanted, by the maps that it returns.
	Share(*ebpf.CollectionSpec) (map[string]*ebpf.Map, error)
	// Follow makes a source's events be read.
	Follow(Source)
	// Wants is whether events of a kind are to be traced.
	Wants(kind string) bool
	// Thread is what a thread was called at a moment; 0 is the idle task of the CPU.
	Thread(tid int32, m snapshot.Moment) snapshot.Thread
	// Causer is who an owner was at a time.
	Causer(owner uint32, at int64) snapshot.Causer
}

// The maps that a trace shares with its sources.
const (
	Armed    = "trace_armed"
	Chunks   = "trace_chunks"
	CPUs     = "trace_cpus"
	Notices  = "trace_notices"
	Unwanted = "trace_unwanted"
)

// Share is the trace's, which is nil if there is none: then the programs write nothing, and their maps are small.
func Share(t Trace, spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	if t == nil {
		hook.Resize(spec, map[string]uint32{Chunks: 1, Unwanted: 1, Notices: uint32(os.Getpagesize())})
		return nil, nil
	}
	return t.Share(spec)
}

// Wants is whether there is a trace that wants events of a kind.
func Wants(t Trace, kind string) bool { return t != nil && t.Wants(kind) }
