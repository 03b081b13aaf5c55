package tcp

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"culprit/probes/bpfmap"
	"culprit/probes/hist"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"

	"github.com/cilium/ebpf"
)

// causes are the names of enum stall_cause.
var causes = map[bpfStallCause]snapshot.Cause{
	bpfStallCauseSTALL_RTO:                  snapshot.RTO,
	bpfStallCauseSTALL_TAIL_LOSS_PROBE:      snapshot.TailLossProbe,
	bpfStallCauseSTALL_FAST_RETRANSMIT:      snapshot.FastRetransmit,
	bpfStallCauseSTALL_ZERO_WINDOW:          snapshot.ZeroWindow,
	bpfStallCauseSTALL_RECEIVE_WINDOW:       snapshot.ReceiveWindow,
	bpfStallCauseSTALL_PACING:               snapshot.Pacing,
	bpfStallCauseSTALL_SLOW_START_RESTART:   snapshot.SlowStartRestart,
	bpfStallCauseSTALL_CWND_LIMITED:         snapshot.CwndLimited,
	bpfStallCauseSTALL_NAGLE_DELAYED_ACK:    snapshot.NagleDelayedACK,
	bpfStallCauseSTALL_SEND_BUFFER:          snapshot.SendBuffer,
	bpfStallCauseSTALL_DELAYED_ACK:          snapshot.DelayedACK,
	bpfStallCauseSTALL_READER_NOT_SCHEDULED: snapshot.ReaderNotScheduled,
	bpfStallCauseSTALL_READER_NOT_READING:   snapshot.ReaderNotReading,
	bpfStallCauseSTALL_UNEXPLAINED:          snapshot.Unexplained,
}

// states are the names that ss and netstat have for include/net/tcp_states.h.
var states = [...]string{
	"", "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING",
}

func stateName(state uint16) string {
	if int(state) < len(states) {
		return states[state]
	}
	return fmt.Sprint(state)
}

// seen is a slot as it was read last.
type seen struct {
	bpfConn
	counted bool // as an attempt to connect that reached the network

	row, report int // its row of that report, counted from 1
}

// process is struct tcp_process of bpf/tcp.bpf.c.
type process struct {
	rtt     hist.Counts
	max     [2]uint64
	sum     uint64
	synacks uint64
	udp     snapshot.UDPTraffic
}

// remote tells other ends apart.
type remote struct {
	address netip.Addr
	port    uint16
}

// tally is a row in the making.
type tally struct {
	row                      snapshot.TCPRow
	connect, firstByte, life hist.Values
	stalls                   map[snapshot.Cause]snapshot.TCPStalls
	remotes                  map[remote]snapshot.TCPRemote
	used                     bool
}

func (p *Probe) pendingOf(o uint32) *tally {
	t := p.pending[o]
	if t == nil {
		t = &tally{stalls: map[snapshot.Cause]snapshot.TCPStalls{}, remotes: map[remote]snapshot.TCPRemote{}}
		p.pending[o] = t
	}
	return t
}

// is is whether a slot as it was read before is of the same tenure.
func (s seen) is(c bpfConn) bool { return s.Sk == c.Sk && s.Began == c.Began }

func address(family uint16, words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		b[4*i], b[4*i+1], b[4*i+2], b[4*i+3] = byte(w), byte(w>>8), byte(w>>16), byte(w>>24)
	}
	const ipv4 = 2
	if family == ipv4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b).Unmap()
}

func ends(c bpfConn) (local, remote netip.AddrPort) {
	return netip.AddrPortFrom(address(c.Family, c.Local), c.LocalPort), netip.AddrPortFrom(address(c.Family, c.Remote), c.RemotePort)
}

// isWatched is whether a network namespace is reported on.
func (p *Probe) isWatched(netns uint32) bool {
	return p.options.Namespace == 0 || p.options.Namespace == netns
}

// isWanted is whether a connection with these ends there is.
func (p *Probe) isWanted(netns uint32, local, remote netip.AddrPort) bool {
	return p.isWatched(netns) && (p.options.Match == nil || p.options.Match(local, remote))
}

// isOld is whether a connection is older than the probe.
func isOld(c bpfConn) bool {
	return bpfConnFlags(c.Flags)&(bpfConnFlagsCONN_OPENED|bpfConnFlagsCONN_ACCEPTED) == 0
}

// isOpen is whether it is established, and its owner's still.
func isOpen(c bpfConn) bool {
	return c.Ended == 0 && c.Closed == 0 && (c.Established != 0 || isOld(c))
}

// since is what a connection did after it was read last.
func since(c bpfConn, was seen) snapshot.TCPTraffic {
	base, failed := was.Now, was.FailedRetransmits
	if !was.is(c) {
		base, failed = c.Before, 0
	} else if was.Before.Retransmits != c.Before.Retransmits { // it was accepted meanwhile
		base.Retransmits = c.Before.Retransmits
	}
	if bpfConnFlags(c.Flags)&bpfConnFlagsCONN_ACCEPTED != 0 && c.Established == 0 {
		c.Now.Retransmits = base.Retransmits // those of its SYN-ACK, which are counted by themselves
	}
	return snapshot.TCPTraffic{
		Sent:              c.Now.Sent - base.Sent,
		Received:          c.Now.Received - base.Received,
		SegmentsOut:       uint64(c.Now.SegsOut - base.SegsOut),
		SegmentsIn:        uint64(c.Now.SegsIn - base.SegsIn),
		Retransmits:       uint64(c.Now.Retransmits - base.Retransmits),
		RetransmitsFailed: uint64(c.FailedRetransmits - failed),
	}
}

// take adds what a slot's connection did since it was read last.
func (p *Probe) take(slot uint32, c bpfConn) {
	was := p.seen[slot]
	fresh := !was.is(c)
	if fresh {
		was = seen{}
	}
	traffic := since(c, was)
	flags := bpfConnFlags(c.Flags)
	opened, accepted, moved := flags&bpfConnFlagsCONN_OPENED != 0, flags&bpfConnFlagsCONN_ACCEPTED != 0, flags&bpfConnFlagsCONN_MOVED_IN != 0
	failed := flags&bpfConnFlagsCONN_FAILED != 0 && bpfConnFlags(was.Flags)&bpfConnFlagsCONN_FAILED == 0

	counted := was.counted
	kernel := p.countedIn(cookie(c.NetnsCookie))
	kernel[retransSegs] += traffic.Retransmits
	if !counted && !moved && (accepted || opened && c.Now.SegsOut != c.Before.SegsOut) {
		counted = true
		if opened {
			kernel[activeOpens]++
		} else {
			kernel[passiveOpens]++
		}
	}
	if failed {
		kernel[attemptFails]++
	}
	p.meet(cookie(c.NetnsCookie), c.Netns, p.table.Process(c.Owner).PID, isOld(c))
	now := seen{c, counted, was.row, was.report}
	defer func() { p.seen[slot] = now }()

	local, other := ends(c)
	if !p.isWanted(c.Netns, local, other) {
		return
	}
	t := p.pendingOf(c.Owner)
	t.used = true
	t.row.TCPTraffic = t.row.TCPTraffic.Add(traffic)
	if c.Established != 0 && was.Established == 0 && !moved {
		if opened {
			t.row.Opened++
			t.connect.Add(c.Established - c.Began)
		} else if accepted {
			t.row.Accepted++
		}
	}
	if c.Closed != 0 && was.Closed == 0 {
		switch {
		case c.Established != 0 || isOld(c):
			t.row.Closed++
			if c.Established != 0 {
				t.life.Add(c.Closed - c.Established)
			}
		case opened && bpfConnError(c.Error) == bpfConnErrorCONN_REFUSED:
			t.row.Refused++
		case opened && bpfConnError(c.Error) == bpfConnErrorCONN_TIMED_OUT:
			t.row.TimedOut++
		case opened:
			t.row.Aborted++
		}
	}
	if c.FirstByte != 0 && was.FirstByte == 0 && c.Established != 0 && !moved && c.FirstByte > c.Established {
		t.firstByte.Add(c.FirstByte - c.Established)
	}
	if traffic.Bytes() > 0 {
		r := remote{address: other.Addr()}
		if !accepted {
			r.port = other.Port()
		}
		sum := t.remotes[r]
		t.remotes[r] = snapshot.TCPRemote{Address: r.address, Port: r.port, Sent: sum.Sent + traffic.Sent, Received: sum.Received + traffic.Received}
	}
	stalls := p.stallsSince(c, was)
	for _, s := range stalls {
		sum := t.stalls[s.Cause]
		t.stalls[s.Cause] = snapshot.TCPStalls{Cause: s.Cause, Count: sum.Count + s.Count, Total: sum.Total + s.Total, Max: max(sum.Max, s.Max)}
	}
	if p.options.Connections {
		p.keepConnection(&now, traffic, stalls)
	}
}

// stallsSince is what a connection stalled since it was read last.
func (p *Probe) stallsSince(c bpfConn, was seen) []snapshot.TCPStalls {
	var out []snapshot.TCPStalls
	for cause, name := range causes {
		now, before := c.Stall[cause], was.Stall[cause]
		n, ns := uint64(now.Count-before.Count), now.Ns-before.Ns
		if n == 0 {
			continue
		}
		longest := ns / n // as long as one of them was at least, where the exact maximum is of the interval that has just begun
		if c.StallInterval == p.taken || n == 1 {
			longest = max(longest, uint64(now.MaxUs)*1000)
		}
		out = append(out, snapshot.TCPStalls{Cause: name, Count: n, Total: ns, Max: min(longest, ns)})
	}
	slices.SortFunc(out, func(a, b snapshot.TCPStalls) int {
		return slices.Index(snapshot.Causes, a.Cause) - slices.Index(snapshot.Causes, b.Cause)
	})
	return out
}

// keepConnection adds to a connection's row, or makes one.
func (p *Probe) keepConnection(s *seen, traffic snapshot.TCPTraffic, stalls []snapshot.TCPStalls) {
	c := s.bpfConn
	known := s.row != 0 && s.report == p.report
	if !known && len(p.ended) >= owner.BacklogLimit && c.Ended != 0 {
		p.dropped++
		return
	}
	local, other := ends(c)
	row := snapshot.TCPConnection{
		Process: p.table.Process(c.Owner), TCPTraffic: traffic, Namespace: uint64(c.Netns), Local: local, Remote: other,
		Accepted: bpfConnFlags(c.Flags)&bpfConnFlagsCONN_ACCEPTED != 0, RTT: uint64(c.SrttUs) * 1000, Stalls: stalls,
	}
	if int(c.State) < len(states) {
		row.State = states[c.State]
	}
	if c.Established != 0 {
		if monotonic, err := hook.MonotonicClock(); err == nil {
			row.Since = monotonic.Wall(c.Established)
		}
	}
	if known {
		old := p.ended[s.row-1]
		row.TCPTraffic, row.Stalls = row.TCPTraffic.Add(old.TCPTraffic), addStalls(old.Stalls, stalls)
		p.ended[s.row-1] = row
		return
	}
	p.ended = append(p.ended, row)
	s.row, s.report = len(p.ended), p.report
}

func addStalls(a, b []snapshot.TCPStalls) []snapshot.TCPStalls {
	out := slices.Clone(a)
	for _, s := range b {
		i := slices.IndexFunc(out, func(o snapshot.TCPStalls) bool { return o.Cause == s.Cause })
		if i < 0 {
			out = append(out, s)
			continue
		}
		o := &out[i]
		o.Count, o.Total, o.Max = o.Count+s.Count, o.Total+s.Total, max(o.Max, s.Max)
	}
	return out
}

// list takes what all connections did, and the kernel's own counts: ours between two readings of those. skew is how much those grew
// meanwhile.
func (p *Probe) list() (skew counters, err error) {
	anybody := sync.OnceValues(p.findNamespaces)
	if _, err := p.readCounters(anybody); err != nil {
		return skew, err
	}
	for range 3 {
		p.lists++
		if err := p.objects.Variables["list_number"].Set(p.lists); err != nil {
			return skew, fmt.Errorf("preparing to list the connections: %w", err)
		}
		if _, err := p.objects.Programs[bpfProgListConns].Run(&ebpf.RunOptions{}); err != nil {
			return skew, fmt.Errorf("listing the connections: %w", err)
		}
		err := p.used(func(slot uint32, c bpfConn) error {
			p.take(slot, c)
			return nil
		})
		if err != nil {
			return skew, err
		}
		if skew, err = p.readCounters(anybody); err != nil || skew == (counters{}) {
			return skew, err
		}
	}
	return skew, nil
}

// used calls f for each slot that is in use.
func (p *Probe) used(f func(slot uint32, c bpfConn) error) error {
	pool, err := bpfmap.Variable[bpfPool](p.objects.Variables["conn_pool"])
	if err != nil {
		return fmt.Errorf("reading the connection pool: %w", err)
	}
	slots := min(pool.Next, p.options.Slots)
	if more := int(slots) - len(p.seen); more > 0 {
		p.seen = append(p.seen, make([]seen, more)...)
	}
	for i := uint32(1); i < slots; i++ {
		if c := p.conns.Get(i); c.Sk != 0 {
			if err := f(i, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read returns what happened since the last Read, one row per process, ungrouped.
func (p *Probe) Read() (snapshot.TCP, error) {
	if err := hist.NextInterval(p.objects, &p.interval); err != nil {
		return snapshot.TCP{}, err
	}
	defer func() { p.taken = p.interval }()
	// Namespaces must be known before the kernel's counters are read.
	if err := p.takeEnded(); err != nil {
		return snapshot.TCP{}, err
	}
	if err := p.meetDatagrams(); err != nil {
		return snapshot.TCP{}, err
	}
	skew, err := p.list()
	if err != nil {
		return snapshot.TCP{}, err
	}
	datagrams, err := p.auditDatagrams()
	if err != nil {
		return snapshot.TCP{}, err
	}
	skew = skew.add(datagrams)
	if err := p.takeUnclaimed(); err != nil {
		return snapshot.TCP{}, err
	}
	s := snapshot.TCP{Start: p.start, End: time.Now(), By: snapshot.ByPID, MinStall: uint64(p.options.StallMin)}
	p.start = s.End
	err = p.used(func(slot uint32, c bpfConn) error {
		if p.lists-c.List > listsUntilGone {
			return p.retire(slot, c)
		}
		if c := p.seen[slot].bpfConn; c.Sk != 0 && isOpen(c) && p.pending[c.Owner] != nil {
			if local, other := ends(c); p.isWanted(c.Netns, local, other) {
				p.pending[c.Owner].row.Open++
			}
		}
		return nil
	})
	if err != nil {
		return snapshot.TCP{}, err
	}
	processed := map[uint32]process{}
	take := func(o uint32) {
		now := p.process(o)
		processed[o] = now
		p.takeProcess(o, now)
	}
	for o := range owner.First {
		take(o) // those that stand for no process
	}
	for o := range p.table.Owners() {
		take(o)
	}
	p.processed = processed
	s.Rows = p.retired.Rows
	for o, t := range p.pending {
		if t.used {
			s.Rows = append(s.Rows, t.finish(p.table.Process(o)))
		}
	}
	if err := p.readWorst(); err != nil {
		return snapshot.TCP{}, err
	}
	s.Worst, p.worst.Rows = p.worst.Rows, nil
	s.Connections, p.ended = p.ended, nil
	p.report++
	p.retired.Rows, p.pending = nil, map[uint32]*tally{}
	if s.Kernel, err = p.audit(skew); err != nil {
		return snapshot.TCP{}, err
	}
	losses, err := p.readLosses()
	if err != nil {
		return snapshot.TCP{}, err
	}
	s.Loss, p.losses = snapshot.LossesSince(p.losses, losses), losses
	return s, nil
}

func (p *Probe) process(o uint32) process {
	k := p.processes.Get(o)
	return process{p.chunks.Read(k.Rtt.Chunk), k.RttMax.At, k.RttNs, k.SynacksAgain, p.datagramsOf(o)}
}

// takeProcess adds what a process's connections did together, and what it did over UDP.
func (p *Probe) takeProcess(o uint32, now process) {
	was := p.processed[o]
	rtt := now.rtt.Since(was.rtt)
	if rtt.Count() == 0 && now.synacks == was.synacks && now.udp == was.udp {
		return
	}
	t := p.pendingOf(o)
	rtt.Sum = now.sum - was.sum
	if rtt.Count() > 0 {
		rtt.Max = hist.Max(rtt, now.max, p.interval-1)
	}
	t.row.RTT = t.row.RTT.Merge(rtt)
	t.row.Retransmits += now.synacks - was.synacks
	t.row.UDP = t.row.UDP.Add(udpSince(now.udp, was.udp))
	t.used = t.used || p.options.Match == nil
}

func (t *tally) finish(process snapshot.Process) snapshot.TCPRow {
	r := t.row
	r.Process = process
	r.Connect, r.FirstByte, r.Life = t.connect.Histogram(), t.firstByte.Histogram(), t.life.Histogram()
	for _, s := range t.stalls {
		r.Stalls = append(r.Stalls, s)
	}
	for _, o := range t.remotes {
		r.Remotes = append(r.Remotes, o)
	}
	return r
}

func (p *Probe) readLosses() (map[string]uint64, error) {
	out, err := p.table.Losses(&p.missed, p.objects)
	if err != nil {
		return nil, err
	}
	out["processes_folded"], out["connections_dropped"], out["namespaces_unaudited"] = p.retired.Folded, p.dropped, p.unaudited
	if p.options.Waits != nil {
		missed, err := p.options.Waits.WaitsMissed()
		if err != nil {
			return nil, err
		}
		out["waits_missed"] = missed + p.forgotten
	}
	return out, nil
}
