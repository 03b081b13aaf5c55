package tcp

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"culprit/probes/bpfmap"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// datagramsOf is what a process did over UDP so far: nothing where rows are of chosen connections alone.
func (p *Probe) datagramsOf(o uint32) snapshot.UDPTraffic {
	if p.datagrams == nil || p.options.Match != nil {
		return snapshot.UDPTraffic{}
	}
	d := p.datagrams.Get(o)
	return snapshot.UDPTraffic{
		Sent: d.SentBytes, Received: d.ReceivedBytes, DatagramsOut: d.Sent, DatagramsIn: d.Received, Drops: d.Dropped,
	}
}

func udpSince(now, was snapshot.UDPTraffic) snapshot.UDPTraffic {
	return snapshot.UDPTraffic{
		Sent: now.Sent - was.Sent, Received: now.Received - was.Received,
		DatagramsOut: now.DatagramsOut - was.DatagramsOut, DatagramsIn: now.DatagramsIn - was.DatagramsIn, Drops: now.Drops - was.Drops,
	}
}

// takeUnclaimed has an iterator look for the owners of sockets that dropped something before anybody used them, and takes over what
// those dropped that nobody has any more.
func (p *Probe) takeUnclaimed() error {
	if p.datagrams == nil {
		return nil
	}
	unclaimed := p.objects.Maps[bpfMapUnclaimedDrops]
	found, err := bpfmap.All[uint64, uint64](unclaimed)
	if err != nil || len(found) == 0 {
		return err
	}
	if err := hook.Iterate(p.objects, bpfProgFindDatagramUsers); err != nil {
		return fmt.Errorf("looking for who has dropped datagrams: %w", err)
	}
	for socket := range found {
		var drops uint64
		if err := unclaimed.LookupAndDelete(socket, &drops); errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("taking over drops of datagrams: %w", err)
		}
		if p.options.Match == nil && drops > 0 {
			t := p.pendingOf(uint32(bpfOwnerOWNER_UNATTRIBUTED_SOCKET))
			t.row.UDP.Drops += drops
			t.used = true
		}
	}
	return nil
}

// datagramAudit is what the kernel is to have counted in a network namespace, as far as we saw.
type datagramAudit struct {
	sent, received, dropped uint64
	refused                 uint64 // SndbufErrors that send() told of
}

// add adds what was counted on a CPU.
func (d *datagramAudit) add(o bpfDatagramAudit) {
	d.sent += o.Sent
	d.received += o.Received
	d.dropped += o.Dropped
	d.refused += o.Refused
}

// meetDatagrams takes note of the namespaces where somebody used UDP.
func (p *Probe) meetDatagrams() error {
	if p.datagrams == nil {
		return nil
	}
	var id cookie
	var cpus []bpfDatagramAudit
	all := p.objects.Maps[bpfMapDatagramAudits].Iterate()
	for all.Next(&id, &cpus) {
		var inum uint32 // on the CPU where the first was
		for _, c := range cpus {
			inum = max(inum, c.Netns)
		}
		for _, c := range cpus {
			p.meet(id, inum, int(c.Pid), false)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the namespaces of datagrams: %w", err)
	}
	return nil
}

// auditDatagrams reads what was counted of UDP in each namespace: ours between two readings of the kernel's. skew is how much those grew
// meanwhile. The namespaces are those whose counters of TCP could be read.
func (p *Probe) auditDatagrams() (skew counters, err error) {
	if p.datagrams == nil {
		return skew, nil
	}
	for id, n := range p.namespaces {
		if !n.read {
			continue
		}
		var before counters
		if before, n.read = p.read(n, udpTables); !n.read {
			continue
		}
		var grown counters
		for range 3 {
			if n.datagrams, err = p.datagramsIn(id); err != nil {
				return skew, err
			}
			var now counters
			if now, n.read = p.read(n, udpTables); !n.read {
				break
			}
			copy(n.now[firstUDP:], now[firstUDP:])
			grown, before = now.sub(before), now
			if grown == (counters{}) {
				break
			}
		}
		skew = skew.add(grown)
	}
	return skew, nil
}

// datagramsIn is what was counted in a namespace so far.
func (p *Probe) datagramsIn(id cookie) (sum datagramAudit, err error) {
	var cpus []bpfDatagramAudit
	err = p.objects.Maps[bpfMapDatagramAudits].Lookup(id, &cpus)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return sum, fmt.Errorf("reading the datagrams of a namespace: %w", err)
	}
	for _, c := range cpus {
		sum.add(c)
	}
	return sum, nil
}

// countDatagrams adds what a namespace's UDP sockets did since the last report, of which the kernel's counters have grown.
func (n *namespace) countDatagrams(ours *counters, grown counters) {
	now, was := n.datagrams, n.told
	ours[udpOutDatagrams] += now.sent - was.sent
	ours[udpInDatagrams] += now.received - was.received
	ours[udpRcvbufErrors] += now.dropped - was.dropped
	// What a device's queue had no room for is told to nobody, unless the socket has IP_RECVERR (udp_send_skb(), net/ipv4/udp.c).
	ours[udpOutDatagrams] -= grown[udpSndbufErrors] - (now.refused - was.refused)
	n.told = now
}

// forgetDatagrams is for a namespace that is gone, and tells whether there was anything to forget.
func (p *Probe) forgetDatagrams(id cookie, n *namespace) (anything bool, err error) {
	if p.datagrams == nil {
		return false, nil
	}
	now, err := p.datagramsIn(id)
	if err != nil {
		return false, err
	}
	anything = now != n.told
	n.datagrams, n.told = datagramAudit{}, datagramAudit{}
	return anything, bpfmap.Forget(p.objects.Maps[bpfMapDatagramAudits], id)
}
