package tcp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"culprit/probes/bpfmap"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

const (
	activeOpens = iota
	passiveOpens
	attemptFails
	retransSegs
	embryonicResets
	udpOutDatagrams
	udpInDatagrams
	udpRcvbufErrors
	udpSndbufErrors
	allCounters

	firstUDP = udpOutDatagrams
)

// counters are the kernel's, or ours, by these numbers. Some only explain others.
type counters [allCounters]uint64

// audited are the counters that are compared.
var audited = []struct {
	counter int
	name    string
}{
	{activeOpens, "ActiveOpens"}, {passiveOpens, "PassiveOpens"}, {attemptFails, "AttemptFails"}, {retransSegs, "RetransSegs"},
	{udpOutDatagrams, "UdpOutDatagrams"}, {udpInDatagrams, "UdpInDatagrams"}, {udpRcvbufErrors, "UdpRcvbufErrors"},
}

// table is where the kernel has some of them: a file below /proc/PID/net, and how they are called there, after a prefix.
type table struct {
	file, prefix string
	names        map[int]string
	parse        func(text string, t table, c *counters) error
}

var (
	tcpTables = []table{
		{"snmp", "Tcp:", map[int]string{
			activeOpens: "ActiveOpens", passiveOpens: "PassiveOpens", attemptFails: "AttemptFails", retransSegs: "RetransSegs",
		}, parseRows},
		{"netstat", "TcpExt:", map[int]string{embryonicResets: "EmbryonicRsts"}, parseRows},
	}
	udpTables = []table{{"snmp", "Udp:", udpNames, parseRows}, {snmp6, "Udp6", udpNames, parseLines}}

	udpNames = map[int]string{
		udpOutDatagrams: "OutDatagrams", udpInDatagrams: "InDatagrams", udpRcvbufErrors: "RcvbufErrors", udpSndbufErrors: "SndbufErrors",
	}
)

const snmp6 = "snmp6" // is not there without IPv6

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

// A cookie is a network namespace's own number (struct net, net_cookie). Its inode, which has a name in procfs, is given to another one
// once it is gone.
type cookie uint64

// namespace is a network namespace with connections.
type namespace struct {
	inum uint32
	pids []int // of processes that may be in it: first one that lasts, if any is known, then the latest
	old  bool  // it has counted something that we have not: its first reading is the base of what follows
	base counters
	now  counters
	met  bool // it was known before a reading
	gone bool // nobody is known to be in there
	seen bool // something of it was, since nobody was known to be in there
	read bool // now is of this reading

	datagrams, told datagramAudit // ours of this reading, and of the last report
}

// mostPIDs is how many processes of a namespace are kept in mind, to read its counters through.
const mostPIDs = 8

// mostGone is how many namespaces are kept in mind that are gone, as far as is known.
const mostGone = 4096

// meet takes note of a socket's namespace, and of a process as somebody who is in there, if it is not 0. old is whether the socket tells that
// the namespace is older than the probe.
func (p *Probe) meet(id cookie, inum uint32, pid int, old bool) {
	if !p.isWatched(inum) {
		return
	}
	n := p.namespaces[id]
	if n == nil {
		// Who is in this one may have been in the one before it.
		if last := p.namespaces[p.latest[inum]]; last != nil {
			last.pids = nil
		}
		n = &namespace{inum: inum, old: old || p.mounted[inum]}
		p.namespaces[id], p.latest[inum] = n, id
		delete(p.mounted, inum)
	}
	n.seen = true
	if pid == 0 || slices.Contains(n.pids, pid) {
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

// readCounters reads those of TCP in all namespaces, and tells by how much all of them together have grown since they were read before.
// anybody is findNamespaces.
func (p *Probe) readCounters(anybody func() (map[cookie]bpfNetnsFound, error)) (grown counters, err error) {
	for id, n := range p.namespaces {
		was := n.now
		var now counters
		n.met = true
		if now, n.read = p.read(n, tcpTables); !n.read && (!n.gone || p.hasCounted(id)) {
			// Whoever has had its connections is gone, but somebody else may be in there.
			found, err := anybody()
			if err != nil {
				return grown, err
			}
			if f, ok := found[id]; ok {
				n.pids = []int{int(f.Pid)}
				now, n.read = p.read(n, tcpTables)
			}
		}
		if n.gone != !n.read {
			p.gone = slices.DeleteFunc(p.gone, func(gone cookie) bool { return gone == id })
			if n.gone = !n.read; n.gone {
				p.gone = append(p.gone, id)
			}
		}
		if n.read {
			copy(n.now[:firstUDP], now[:firstUDP])
			grown = grown.add(n.now.sub(was))
		}
	}
	return grown, nil
}

// findNamespaces are those that somebody is in, with a process of each.
func (p *Probe) findNamespaces() (map[cookie]bpfNetnsFound, error) {
	if err := hook.Iterate(p.objects, bpfProgFindNamespaces); err != nil {
		return nil, fmt.Errorf("looking for network namespaces: %w", err)
	}
	namespaces := p.objects.Maps[bpfMapNamespaces]
	found, err := bpfmap.All[cookie, bpfNetnsFound](namespaces)
	if err != nil {
		return nil, err
	}
	for id := range found {
		if err := bpfmap.Forget(namespaces, id); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// read reads some of a namespace's counters, if somebody is known to be in there.
func (p *Probe) read(n *namespace, tables []table) (c counters, ok bool) {
	for _, pid := range slices.Backward(n.pids) {
		c, err := p.countersOf(n.inum, pid, tables)
		if err != nil {
			continue
		}
		// Any number of processes can come and go until the next reading.
		if _, err := os.Stat(filepath.Join(p.options.Proc, strconv.Itoa(n.pids[0]))); err != nil {
			n.pids[0] = pid
		}
		return c, true
	}
	return counters{}, false
}

// countersOf reads some of a namespace's counters through a process that must be in it.
func (p *Probe) countersOf(inum uint32, pid int, tables []table) (c counters, err error) {
	dir := filepath.Join(p.options.Proc, strconv.Itoa(pid))
	name, counts := fmt.Sprintf("net:[%d]", inum), filepath.Join(dir, "net/snmp")
	if link, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil && link != name {
		return c, fmt.Errorf("process %d is in %s", pid, link)
	} else if err != nil {
		// That cannot be seen, because it is another user's. The process that was there is taken to be there still, unless
		// it is where we are: a thread of it may have been elsewhere.
		self := filepath.Join(p.options.Proc, "self")
		if own, err := os.Readlink(filepath.Join(self, "ns/net")); err == nil && own != name && sameFile(counts, filepath.Join(self, "net/snmp")) {
			return c, fmt.Errorf("process %d is in %s", pid, own)
		}
	}
	for _, t := range tables {
		text, err := os.ReadFile(filepath.Join(dir, "net", t.file))
		if err != nil {
			if _, own := os.Stat(filepath.Join(p.options.Proc, "self/net", t.file)); t.file == snmp6 && errors.Is(own, fs.ErrNotExist) {
				continue
			}
			return c, err
		}
		if err := t.parse(string(text), t, &c); err != nil {
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

// parseRows adds counters from two lines: one with names, and one with values.
func parseRows(text string, t table, c *counters) error {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != t.prefix {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		return t.add(c, func(name string) (string, bool) {
			at := slices.Index(names, name)
			if at < 0 || at >= len(fields) {
				return "", false
			}
			return fields[at], true
		})
	}
	return fmt.Errorf("no counters of %s", strings.TrimSuffix(t.prefix, ":"))
}

// parseLines adds counters from lines with a name and a value each.
func parseLines(text string, t table, c *counters) error {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 {
			values[fields[0]] = fields[1]
		}
	}
	return t.add(c, func(name string) (string, bool) {
		value, ok := values[t.prefix+name]
		return value, ok
	})
}

// add adds a table's counters, by their names.
func (t table) add(c *counters, value func(name string) (string, bool)) error {
	for i, name := range t.names {
		text, ok := value(name)
		if !ok {
			return fmt.Errorf("no %s in the kernel's counters", name)
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return fmt.Errorf("reading the kernel's %s: %w", name, err)
		}
		c[i] += n
	}
	return nil
}

// audit compares what was counted since the last report, and begins anew.
func (p *Probe) audit(skew counters) ([]snapshot.TCPCounter, error) {
	synacks, err := bpfmap.All[cookie, bpfSynackCounts](p.objects.Maps[bpfMapSynacks])
	if err != nil {
		return nil, err
	}
	for id, s := range synacks {
		p.meet(id, s.Netns, 0, false)
		p.countedIn(id)[retransSegs] += s.Again - p.synacks[id].Again
	}
	p.synacks = synacks
	unaudited := p.unaudited
	var ours, kernel counters
	read := false // what is to be audited, in part at least
	later := map[cookie]*counters{}
	for id, n := range p.namespaces {
		c := p.counted[id]
		switch {
		case !n.met:
			// Its first connection came while the kernel's counters were read: both sides count it next time.
			if c != nil {
				later[id] = c
			}
		case !n.read:
			// It is gone, or nobody that we know is in it any more: neither side counts.
			if !n.seen {
				continue
			}
			n.pids, n.seen = nil, false
			if err := p.forgetSynacks(id); err != nil {
				return nil, err
			}
			forgot, err := p.forgetDatagrams(id, n)
			if err != nil {
				return nil, err
			}
			if forgot || p.hasCounted(id) {
				n.old = true
				p.unaudited++
			}
		case n.old:
			n.base, n.told, n.old = n.now, n.datagrams, false
			if p.hasCounted(id) {
				p.unaudited++
			}
		default:
			if c != nil {
				ours = ours.add(*c)
			}
			grown := n.now.sub(n.base)
			kernel = kernel.add(grown)
			// A client that gives up while it is being answered resets what has no socket yet (tcp_check_req(), net/ipv4/tcp_minisocks.c).
			ours[attemptFails] += grown[embryonicResets]
			n.countDatagrams(&ours, grown)
			n.base = n.now
			read = true
		}
	}
	p.counted = later
	p.forgetGone()
	if p.options.Namespace != 0 && !read { // nobody whom we know is in there
		p.unaudited = max(p.unaudited, unaudited+1)
		return nil, nil
	}
	var out []snapshot.TCPCounter
	for _, a := range audited {
		if i := a.counter; i < firstUDP || p.datagrams != nil {
			out = append(out, snapshot.TCPCounter{Name: a.name, Ours: ours[i], Kernel: kernel[i], Skew: skew[i] + p.skew[i]})
		}
	}
	p.skew = skew // what ours lacks of this reading, it has too much in the next one
	return out, nil
}

// hasCounted is whether the kernel is to have counted anything of TCP in a namespace since the last report.
func (p *Probe) hasCounted(id cookie) bool {
	c := p.counted[id]
	return c != nil && *c != counters{}
}

func (p *Probe) countedIn(id cookie) *counters {
	c := p.counted[id]
	if c == nil {
		c = &counters{}
		p.counted[id] = c
	}
	return c
}

// forgetGone forgets the namespaces that are gone for longest. One that comes back after all those would be taken for a young one, and leave
// a residual.
func (p *Probe) forgetGone() {
	for ; len(p.gone) > mostGone; p.gone = p.gone[1:] {
		id := p.gone[0]
		if inum := p.namespaces[id].inum; p.latest[inum] == id {
			delete(p.latest, inum)
		}
		delete(p.namespaces, id)
	}
}

// forgetSynacks is for a namespace that is gone.
func (p *Probe) forgetSynacks(id cookie) error {
	if _, ok := p.synacks[id]; !ok {
		return nil
	}
	delete(p.synacks, id)
	return bpfmap.Forget(p.objects.Maps[bpfMapSynacks], id)
}
