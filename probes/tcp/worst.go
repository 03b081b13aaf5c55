package tcp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// readWorst takes over what the kernel side told of stalls since the last time.
func (p *Probe) readWorst() error {
	monotonic, err := hook.MonotonicClock()
	if err != nil {
		return err
	}
	var stalls []snapshot.TCPStall
	err = p.events.Take(func(e bpfStallEvent) {
		local, remote := netip.AddrPortFrom(address(e.Family, e.Local), e.LocalPort), netip.AddrPortFrom(address(e.Family, e.Remote), e.RemotePort)
		if !p.isWanted(e.Netns, local, remote) {
			return
		}
		stalls = append(stalls, snapshot.TCPStall{
			Process: p.table.Process(e.Owner), Cause: causes[bpfStallCause(e.Cause)], At: monotonic.Wall(e.At), Duration: e.Ns,
			Namespace: uint64(e.Netns), Local: local, Remote: remote, Waiting: uint64(e.Waiting), TID: int(e.Reader),
		})
	})
	if err != nil {
		return fmt.Errorf("reading the longest stalls: %w", err)
	}
	// A reader's wait is over, and told of, before it reads.
	if err := p.blame(stalls); err != nil {
		return err
	}
	p.worst.Add(groupStalls, stalls...)
	return nil
}

// What is kept of waits, because stalls that they are part of may not be over yet.
const (
	waitsKept    = 16384
	waitsKeptFor = time.Minute
)

// blame adds to stalls who had the CPU that their readers waited for.
func (p *Probe) blame(stalls []snapshot.TCPStall) error {
	if p.options.Waits == nil {
		return nil
	}
	waits, err := p.options.Waits.Waits()
	if err != nil {
		return err
	}
	old := slices.IndexFunc(p.waits, func(w snapshot.SchedWait) bool { return time.Since(w.At) < waitsKeptFor })
	if old < 0 {
		old = len(p.waits)
	}
	p.waits = append(slices.Delete(p.waits, 0, old), waits...)
	if len(stalls) > 0 {
		byThread := map[int][]snapshot.SchedWait{}
		for _, w := range p.waits {
			byThread[w.TID] = append(byThread[w.TID], w)
		}
		for i, s := range stalls {
			stalls[i] = s.Blame(byThread[s.TID])
		}
	}
	if n := len(p.waits) - waitsKept; n > 0 {
		p.waits = slices.Delete(p.waits, 0, n)
		p.forgotten += uint64(n)
	}
	return nil
}

func groupStalls(stalls []snapshot.TCPStall, by snapshot.By) []snapshot.TCPStall {
	return snapshot.TCP{Worst: stalls}.Group(by).Worst
}
