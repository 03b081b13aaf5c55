package tcp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"culprit/probes/events"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// Events choose what single events are told of.
type Events struct {
	Trace   events.Trace  // that tells of those that it wants; nil: of none
	Trigger time.Duration // a flight recorder waits for a pause that is longer; 0: it does not
}

// configure makes the object's programs write events. It returns the maps that they are written to.
func (e Events) configure(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	if err := hook.SetVariables(spec, map[string]any{"stall_trigger": uint64(e.Trigger)}); err != nil {
		return nil, err
	}
	return events.Share(e.Trace, spec)
}

// TraceEvent adds an event of a connection.
func (p *Probe) TraceEvent(t *snapshot.Trace, e events.Event) {
	kind := bpfTraceKind(e.Kind)
	if kind != bpfTraceKindTRACE_TCP_STATE && kind != bpfTraceKindTRACE_TCP_RETRANSMIT && kind != bpfTraceKindTRACE_TCP_STALL {
		return
	}
	causer, ends := p.options.Events.Trace.Causer(e.B, e.At), endsOf(e)
	switch kind {
	case bpfTraceKindTRACE_TCP_STATE:
		t.TCPStates = append(t.TCPStates, snapshot.TCPStateChange{Moment: e.Moment, Causer: causer, Ends: ends,
			From: stateName(e.A >> 8), To: stateName(e.A & 0xff)})
	case bpfTraceKindTRACE_TCP_RETRANSMIT:
		t.TCPRetransmissions = append(t.TCPRetransmissions, snapshot.TCPRetransmit{Moment: e.Moment, Causer: causer, Ends: ends, State: stateName(e.A)})
	case bpfTraceKindTRACE_TCP_STALL:
		t.TCPStalls = append(t.TCPStalls, snapshot.TCPStallEnd{Moment: e.Moment, Causer: causer, Ends: ends,
			Cause: string(causes[bpfStallCause(e.A)]), Duration: int64(e.More[5]), Waiting: int64(uint32(e.More[6])), ReaderTID: int32(e.More[6] >> 32)})
	}
}

// Detach ends what the probe sees.
func (p *Probe) Detach() error {
	err := p.links.Close()
	p.links = nil
	return err
}

// endsOf reads a struct trace_ends (bpf/lib/conn.bpf.h).
func endsOf(e events.Event) snapshot.Ends {
	var text [40]byte
	for i := range len(text) / 8 {
		binary.LittleEndian.PutUint64(text[8*i:], e.More[i])
	}
	var ends bpfTraceEnds
	if _, err := binary.Decode(text[:], binary.LittleEndian, &ends); err != nil {
		panic(err) // it is as long as that
	}
	family := uint16(ends.Family)
	return snapshot.Ends{
		Local:     netip.AddrPortFrom(address(family, ends.Local), ends.LocalPort).String(),
		Remote:    netip.AddrPortFrom(address(family, ends.Remote), ends.RemotePort).String(),
		Namespace: int64(e.C),
	}
}
