package sched

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"culprit/probes/bpfmap"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// softirqs is the time of all CPUs in softirqs so far, in ns.
type softirqs struct {
	net    uint64 // those that receive packets
	other  uint64
	caused map[uint32]uint64 // of net, while the kernel worked for a packet, by the owner of the packet's socket
}

// packetPrograms are those that Options.NoPackets leaves out.
var packetPrograms = []string{bpfProgPacketIn, bpfProgFlowChanged, bpfProgFlowChangedAgain, bpfProgFlowRead, bpfProgFindFlows}

// socketless stand for packets whose socket's process is not known, or is none.
var socketless = []bpfOwner{bpfOwnerOWNER_UNATTRIBUTED_PACKET, bpfOwnerOWNER_UNATTRIBUTED_PROCESS_TABLE_FULL, bpfOwnerOWNER_KERNEL}

// readSoftirqs reads the parts before the whole. A packet's time is in its part at once, and in the whole when the softirq ends.
func (p *Probe) readSoftirqs() softirqs {
	s := softirqs{caused: map[uint32]uint64{}}
	if p.options.NoPackets {
		return s
	}
	for o := range p.table.Owners() {
		s.caused[o] = p.processes.Get(o).Caused
	}
	for _, o := range socketless {
		s.caused[uint32(o)] = p.processes.Get(uint32(o)).Caused
	}
	for i := range p.cpus.Len() {
		net := p.cpus.Get(i).Net
		s.net += net
		s.other += p.cpus.Get(i).Softirq - net // read later: it is not less
	}
	if p.reading != nil { // one that ended in between is in the other sum, until the next reading
		s.other = max(s.other, p.reading.softirqs.other)
	}
	return s
}

// mostUnseen is how many times as long as what softirqs did with packets is what they did for these before anybody saw them. Where
// one CPU takes them from a device and hands them over to another one (RPS), it is about once.
const mostUnseen = 3

// divideSoftirqs makes the rows add up to the time of all softirqs. Receptions in which no packet was seen (another CPU has them, or
// XDP dropped them) are divided pro rata, up to mostUnseen times what packets took: the rest is nobody's. Other kinds than receptions
// are in a row of their own.
func (p *Probe) divideSoftirqs(rows []snapshot.SchedRow, net, other uint64) []snapshot.SchedRow {
	var caused, divided uint64
	most := -1
	for i, r := range rows {
		caused += r.SoftirqCaused
		if r.SoftirqCaused > 0 && (most < 0 || r.SoftirqCaused > rows[most].SoftirqCaused) {
			most = i
		}
	}
	shared := net
	if net > caused {
		shared = caused + min(net-caused, mostUnseen*min(caused, math.MaxUint64/mostUnseen))
	}
	if most >= 0 {
		for i := range rows {
			hi, lo := bits.Mul64(rows[i].SoftirqCaused, shared)
			rows[i].SoftirqCaused, _ = bits.Div64(hi, lo, caused)
			divided += rows[i].SoftirqCaused
		}
		rows[most].SoftirqCaused += shared - divided // what rounding left
	}
	add := func(o bpfOwner, ns uint64) {
		who := p.who(uint32(o))
		if i := slices.IndexFunc(rows, func(r snapshot.SchedRow) bool { return r.Process == who }); i >= 0 {
			rows[i].SoftirqCaused += ns
		} else if ns > 0 {
			rows = append(rows, snapshot.SchedRow{Process: who, SoftirqCaused: ns})
		}
	}
	add(bpfOwnerOWNER_UNATTRIBUTED_PACKET, net-shared)
	add(bpfOwnerOWNER_SOFTIRQS, other)
	return rows
}

// findFlows has an iterator look for sockets, and who has them.
func (p *Probe) findFlows() error {
	begin := time.Now()
	if err := hook.Iterate(p.objects, bpfProgFindFlows); err != nil {
		return fmt.Errorf("looking for sockets: %w", err)
	}
	p.findAgain = time.Now().Add(100 * time.Since(begin)) // a hundredth of the time, whatever the traffic
	return nil
}

// findPorts looks for sockets if a packet came for a port of UDP that was nobody's then.
func (p *Probe) findPorts() error {
	if time.Now().Before(p.findAgain) {
		return nil
	}
	unknown, err := bpfmap.Variable[uint32](p.objects.Variables["ports_unknown"])
	if err != nil {
		return fmt.Errorf("reading ports_unknown: %w", err)
	}
	if unknown == 0 {
		return nil
	}
	if err := p.objects.Variables["ports_unknown"].Set(uint32(0)); err != nil {
		return fmt.Errorf("setting ports_unknown: %w", err)
	}
	return p.findFlows()
}
