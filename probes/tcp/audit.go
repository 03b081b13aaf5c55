package tcp

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"culprit/probes/bpfmap"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// audited are the counters that the kernel's are compared with, by their names in /proc/net/snmp.
var audited = [...]string{"ActiveOpens", "PassiveOpens", "AttemptFails", "RetransSegs"}

const (
	activeOpens = iota
	passiveOpens
	attemptFails
	retransSegs
	embryonicResets
)

// counters are the values of audited, and of what explains them.
type counters [embryonicResets + 1]uint64

// tables are where the kernel has them: a file below /proc/PID/net, the table in there, and the names.
var tables = []struct {
	file, table string
	names       map[int]string
}{
	{"snmp", "Tcp:", map[int]string{
		activeOpens: audited[activeOpens], passiveOpens: audited[passiveOpens], attemptFails: audited[attemptFails], retransSegs: audited[retransSegs],
	}},
	{"netstat", "TcpExt:", map[int]string{embryonicResets: "EmbryonicRsts"}},
}

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
	pids []int // of processes that may be in it: first one that lasts, if any is known, then the latest
	old  bool  // it has counted something that we have not: its first reading is the base of what follows
	base counters
	now  counters
	met  bool // it was known before a reading
	read bool // now is of this reading
}

// mostPIDs is how many processes of a namespace are kept in mind, to read its counters through.
const mostPIDs = 8

// meet takes note of a connection's namespace, and of its owner as somebody who is in there.
func (p *Probe) meet(c bpfConn) {
	n := p.namespaces[c.Netns]
	if n == nil {
		n = &namespace{}
		p.namespaces[c.Netns] = n
	}
	if c.Owner < owner.First {
		return
	}
	pid := p.table.Process(c.Owner).PID
	if slices.Contains(n.pids, pid) {
		return
	}
	n.pids = append(n.pids, pid)
	if len(n.pids) > mostPIDs {
		gone := slices.IndexFunc(n.pids, func(pid int) bool {
			_, err := os.Stat(filepath.Join(p.options.Proc, strconv.Itoa(pid)))
			return err != nil
		})
		if gone < 0 {
			gone = 1 // the eldest is often there until the end
		}
		n.pids = slices.Delete(n.pids, gone, gone+1)
	}
}

// readCounters reads those of all namespaces, and tells by how much all of them together have grown since they were read before.
func (p *Probe) readCounters() (grown counters) {
	for inum, n := range p.namespaces {
		was := n.now
		n.met, n.read = true, false
		for _, pid := range slices.Backward(n.pids) {
			now, err := p.countersOf(inum, pid)
			if err == nil {
				n.now, n.read = now, true
				// Any number of processes can come and go until the next reading.
				if _, err := os.Stat(filepath.Join(p.options.Proc, strconv.Itoa(n.pids[0]))); err != nil {
					n.pids[0] = pid
				}
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
	name, counts := fmt.Sprintf("net:[%d]", inum), filepath.Join(dir, "net/snmp")
	if link, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil && link != name {
		return c, fmt.Errorf("process %d is in %s", pid, link)
	} else if err != nil {
		// That cannot be seen, because it is another user's. The process that had a connection there is taken to be there still, unless
		// it is where we are: a thread of it may have been elsewhere.
		self := filepath.Join(p.options.Proc, "self")
		if own, err := os.Readlink(filepath.Join(self, "ns/net")); err == nil && own != name && sameFile(counts, filepath.Join(self, "net/snmp")) {
			return c, fmt.Errorf("process %d is in %s", pid, own)
		}
	}
	for _, t := range tables {
		text, err := os.ReadFile(filepath.Join(dir, "net", t.file))
		if err != nil {
			return c, err
		}
		if err := parseCounters(string(text), t.table, t.names, &c); err != nil {
			return c, err
		}
	}
	return c, nil
}

// sameFile is whether both are the same file: each network namespace has its own in procfs.
func sameFile(a, b string) bool {
	first, err1 := os.Stat(a)
	second, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(first, second)
}

// parseCounters takes counters from a table: a line with names, and one with values.
func parseCounters(text, table string, wanted map[int]string, c *counters) (err error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != table {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range wanted {
			at := slices.Index(names, name)
			if at < 0 || at >= len(fields) {
				return fmt.Errorf("no %s in the kernel's counters", name)
			}
			if c[i], err = strconv.ParseUint(fields[at], 10, 64); err != nil {
				return fmt.Errorf("reading the kernel's %s: %w", name, err)
			}
		}
		return nil
	}
	return fmt.Errorf("no counters of %s", strings.TrimSuffix(table, ":"))
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
	later := map[uint32]*counters{}
	for inum, n := range p.namespaces {
		c := p.counted[inum]
		switch {
		case !n.met:
			// Its first connection came while the kernel's counters were read: both sides count it next time.
			if c != nil {
				later[inum] = c
			}
			continue
		case !n.read:
			// It is gone, or nobody that we know is in it any more: neither side counts.
			n.pids, n.old = nil, true
		case n.old:
			n.base, n.old = n.now, false
		default:
			if c != nil {
				ours = ours.add(*c)
			}
			grown := n.now.sub(n.base)
			kernel = kernel.add(grown)
			// A client that gives up while it is being answered resets what has no socket yet (tcp_check_req(), net/ipv4/tcp_minisocks.c).
			ours[attemptFails] += grown[embryonicResets]
			n.base = n.now
			continue
		}
		if c != nil && p.losses != nil {
			p.unaudited++
		}
	}
	p.counted = later
	out := make([]snapshot.TCPCounter, len(audited))
	for i, name := range audited {
		out[i] = snapshot.TCPCounter{Name: name, Ours: ours[i], Kernel: kernel[i], Skew: skew[i] + p.skew[i]}
	}
	p.skew = skew // what ours lacks of this reading, it has too much in the next one
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
