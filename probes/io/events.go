package io

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"culprit/probes/events"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// configure makes the object's programs write events. It returns the maps that they are written to.
func (e Events) configure(spec *ebpf.CollectionSpec, sys string) (map[string]*ebpf.Map, error) {
	var device uint32
	if e.Device != "" {
		var err error
		if device, err = readDevice(filepath.Join(sys, "block", e.Device, "dev")); err != nil {
			return nil, fmt.Errorf("finding disk %s: %w", e.Device, err)
		}
	}
	if err := hook.SetVariables(spec, map[string]any{
		"trace_device": device, "trace_least": uint64(e.Least), "io_trigger": uint64(e.Trigger),
	}); err != nil {
		return nil, err
	}
	return events.Share(e.Trace, spec)
}

// TraceEvent adds an event of a disk.
func (p *Probe) TraceEvent(t *snapshot.Trace, e events.Event) {
	kind, tid := bpfTraceKind(e.Kind), int32(e.B)
	switch kind {
	case bpfTraceKindTRACE_IO_QUEUE:
		t.IOQueued = append(t.IOQueued, snapshot.IOQueue{Moment: e.Moment, Thread: p.tracer().Thread(tid, e.Moment), Request: p.request(e)})
	case bpfTraceKindTRACE_IO_ISSUE:
		t.IOIssued = append(t.IOIssued, snapshot.IOIssue{Moment: e.Moment, Thread: p.tracer().Thread(tid, e.Moment), Request: p.request(e)})
	case bpfTraceKindTRACE_IO_MERGE:
		t.IOMerged = append(t.IOMerged, snapshot.IOMerge{Moment: e.Moment, Thread: p.tracer().Thread(tid, e.Moment), Request: p.request(e)})
	case bpfTraceKindTRACE_IO_COMPLETE:
		t.IOCompleted = append(t.IOCompleted, snapshot.IOComplete{Moment: e.Moment, Causer: p.tracer().Causer(e.B, e.At), Request: p.request(e),
			Via: viaNames[bpfIoVia(e.A>>8)], TID: int32(e.More[4]), Queued: int64(e.More[2]), InDevice: int64(e.More[3])})
	case bpfTraceKindTRACE_IO_THROTTLE:
		t.IOThrottled = append(t.IOThrottled, snapshot.IOThrottle{Moment: e.Moment, Thread: p.tracer().Thread(tid, e.Moment),
			Pause: int64(e.More[0]) * int64(p.tick)})
	}
}

// Detach ends what the probe sees.
func (p *Probe) Detach() error {
	err := p.links.Close()
	p.links = nil
	return err
}

// Before is how many operations completed while the probe was attached, and before the time that the first Read is about.
func (p *Probe) Before() uint64 { return p.before }

func (p *Probe) tracer() events.Trace { return p.options.Events.Trace }

func (p *Probe) request(e events.Event) snapshot.Request {
	return snapshot.Request{Device: p.deviceName(e.C), Op: opNames[bpfIoOp(e.A&0xff)],
		Sector: int64(e.More[0]), Bytes: int64(uint32(e.More[1])), Number: int64(e.More[1] >> 32)}
}
