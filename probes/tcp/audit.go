package tcp

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"culprit/probes/bpfmap"
	"culprit/probes/snapshot"
)

// audited are the counters that the kernel's are compared with, by their names in /proc/net/snmp.
var audited = [...]string{"ActiveOpens", "PassiveOpens", "AttemptFails", "RetransSegs"}

// counters are the values of audited.
type counters [len(audited)]uint64

const (
	activeOpens = iota
	passiveOpens
	attemptFails
	retransSegs
)

func (c counters) add(o counters) counters {
	for i := range c {
		c[i] += o[i]
	}
	return c
}

func (c counters) sub(o counters) counters {
	for i := range c {
		c[i] -= o[i]
	}
	return c
}

// namespace is a network namespace with connections.
type namespace struct {
	pids []int // of processes that may be in it, the latest last
	old  bool  // it has counted something that we have not: its first reading is the base of what follows
	base counters
	now  counters
	read bool // now is of this reading
}

// mostPIDs is how many processes of a namespace are kept in mind, to read its counters through.
const mostPIDs = 8

func (p *Probe) inNamespace(inum uint32, pid int) {
	n := p.namespaces[inum]
	if n == nil {
		n = &namespace{}
		p.namespaces[inum] = n
	}
	if pid == 0 || slices.Contains(n.pids, pid) {
		return
	}
	n.pids = append(n.pids, pid)
	if len(n.pids) > mostPIDs {
		n.pids = n.pids[1:]
	}
}

// readCounters reads those of all namespaces, and tells by how much all of them together have grown since they were read before.
func (p *Probe) readCounters() (grown counters) {
	for inum, n := range p.namespaces {
		was := n.now
		n.read = false
		for _, pid := range slices.Backward(n.pids) {
			now, err := p.countersOf(inum, pid)
			if err == nil {
				n.now, n.read = now, true
				break
			}
		}
		if n.read {
			grown = grown.add(n.now.sub(was))
		}
	}
	return grown
}

// countersOf reads a namespace's counters through a process that must be in it.
func (p *Probe) countersOf(inum uint32, pid int) (c counters, err error) {
	dir := filepath.Join(p.options.Proc, strconv.Itoa(pid))
	// Where that cannot be seen, because it is another user's, the process that had a connection there is taken to be there still.
	if link, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil && link != fmt.Sprintf("net:[%d]", inum) {
		return c, fmt.Errorf("process %d is in %s", pid, link)
	}
	text, err := os.ReadFile(filepath.Join(dir, "net/snmp"))
	if err != nil {
		return c, err
	}
	return parseSNMP(string(text))
}

// parseSNMP takes the audited counters from /proc/net/snmp: a line with names, and one with values.
func parseSNMP(text string) (c counters, err error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range audited {
			at := slices.Index(names, name)
			if at < 0 || at >= len(fields) {
				return c, fmt.Errorf("no %s in the kernel's counters", name)
			}
			if c[i], err = strconv.ParseUint(fields[at], 10, 64); err != nil {
				return c, fmt.Errorf("reading the kernel's %s: %w", name, err)
			}
		}
		return c, nil
	}
	return c, fmt.Errorf("no counters of TCP")
}

// audit compares what was counted since the last report, and begins anew.
func (p *Probe) audit(skew counters) ([]snapshot.TCPCounter, error) {
	synacks, err := bpfmap.All[uint32, uint64](p.objects.Maps[bpfMapSynacks])
	if err != nil {
		return nil, err
	}
	for inum, n := range synacks {
		p.countedIn(inum)[retransSegs] += n - p.synacks[inum]
	}
	p.synacks = synacks
	var ours, kernel counters
	for inum, n := range p.namespaces {
		c := p.counted[inum]
		switch {
		case !n.read:
			// It is gone, or nobody that we know is in it any more: neither side counts.
			n.pids, n.old = nil, true
		case n.old:
			n.base, n.old = n.now, false
		default:
			if c != nil {
				ours = ours.add(*c)
			}
			kernel = kernel.add(n.now.sub(n.base))
			n.base = n.now
			continue
		}
		if c != nil && p.losses != nil {
			p.unaudited++
		}
	}
	p.counted = map[uint32]*counters{}
	out := make([]snapshot.TCPCounter, len(audited))
	for i, name := range audited {
		out[i] = snapshot.TCPCounter{Name: name, Ours: ours[i], Kernel: kernel[i], Skew: skew[i]}
	}
	return out, nil
}

func (p *Probe) countedIn(inum uint32) *counters {
	c := p.counted[inum]
	if c == nil {
		c = &counters{}
		p.counted[inum] = c
	}
	return c
}
