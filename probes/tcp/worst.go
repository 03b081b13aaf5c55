package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// readWorst takes over what the kernel side told of stalls since the last time.
func (p *Probe) readWorst() error {
	if p.events == nil {
		return nil
	}
	monotonic, err := hook.MonotonicClock()
	if err != nil {
		return err
	}
	var record ringbuf.Record
	p.events.SetDeadline(time.Now()) // takes what is there, and does not wait
	for {
		err := p.events.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the longest stalls: %w", err)
		}
		var e bpfStallEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.LittleEndian, &e); err != nil {
			return fmt.Errorf("reading a stall: %w", err)
		}
		local, remote := netip.AddrPortFrom(address(e.Family, e.Local), e.LocalPort), netip.AddrPortFrom(address(e.Family, e.Remote), e.RemotePort)
		if p.options.Match != nil && !p.options.Match(local, remote) {
			continue
		}
		p.worst.Add(groupStalls, snapshot.TCPStall{
			Process: p.table.Process(e.Owner), Cause: causes[bpfStallCause(e.Cause)], At: monotonic.Wall(e.At), Duration: e.Ns,
			Namespace: uint64(e.Netns), Local: local, Remote: remote, Waiting: uint64(e.Waiting),
		})
	}
}

func groupStalls(stalls []snapshot.TCPStall, by snapshot.By) []snapshot.TCPStall {
	return snapshot.TCP{Worst: stalls}.Group(by).Worst
}
