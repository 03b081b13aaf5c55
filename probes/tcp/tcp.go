// Package tcp tells who talks over TCP, and why a connection paused: each stall with its cause; and who talks over UDP. It reads
// what bpf/tcp.bpf.c keeps, and audits it by each network namespace's own counters.
package tcp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/bpfmap"
	"culprit/probes/hist"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Options say what is kept.
type Options struct {
	Proc        string        // the host's procfs, "/proc" if empty
	Connections bool          // one row for each connection, too
	Worst       bool          // the longest stalls
	StallMin    time.Duration // shorter pauses are no stalls, 5 ms if 0
	// Match chooses the connections that rows are made of, all if nil. The round-trip times of a process are those of all its
	// connections, and the audit is of all connections. Rows are without UDP then.
	Match func(local, remote netip.AddrPort) bool

	// Namespace is the inode of the only network namespace that is reported on, and audited; 0 is all.
	Namespace uint32

	Events Events

	// Waits tells, for the longest stalls, who had the CPU that readers waited for. nil: nobody does.
	Waits Waits

	Slots   uint32 // of the connection table: if 0, its default, or twice what there are
	Buckets uint32 // chunks of histograms, their default if 0
	Ring    uint32 // bytes for the longest stalls that are not read yet, a power of two of pages, its default if 0
}

// Waits are what the sched probe tells of waits for a CPU.
type Waits interface {
	Waits() ([]snapshot.SchedWait, error) // those of threads that use connections, since the last call
	WaitsMissed() (uint64, error)         // how many may be missing so far
}

// Probe is the running probe. Its methods must not be called concurrently.
type Probe struct {
	options   Options
	table     *owner.Table
	objects   *ebpf.Collection
	shared    map[string]*ebpf.Map // of a trace's
	links     hook.Links
	conns     *bpfmap.Array[bpfConn]
	freed     *bpfmap.Pool // of conns
	processes *bpfmap.Array[bpfTcpProcess]
	datagrams *bpfmap.Array[bpfDatagramCounts] // nil where the kernel does not tell of UDP
	chunks    *hist.Chunks[bpfHistChunk]
	events    *bpfmap.Ring[bpfStallEvent] // nil unless asked for

	seen       []seen // by slot: as it was read last
	pending    map[uint32]*tally
	counted    map[cookie]*counters // by namespace: what the kernel is to have counted, since the last report
	namespaces map[cookie]*namespace
	latest     map[uint32]cookie          // by inode: who has it, or had it last
	mounted    map[uint32]bool            // inodes of namespaces that are older than the probe, and in which nobody is known to be
	gone       []cookie                   // in which nobody is known to be any more, for longest first
	skew       counters                   // of the last reading
	synacks    map[cookie]bpfSynackCounts // by namespace, at the last reading
	processed  map[uint32]process
	retired    owner.Backlog[snapshot.TCPRow]
	missed     hook.Missed
	ended      []snapshot.TCPConnection
	worst      owner.Backlog[snapshot.TCPStall]
	waits      []snapshot.SchedWait // lately
	forgotten  uint64               // waits, for lack of room
	dropped    uint64               // connections without a row of their own
	unaudited  uint64               // namespaces whose counters could not be read
	losses     map[string]uint64
	interval   uint32
	taken      uint32 // the interval that connections are read of: the one that has ended, while Read is at work
	report     int    // how many there were
	start      time.Time
	lists      uint32 // how often all connections were listed
}

// Load attaches the probe, and finds the connections that there are. What happens from its return on is counted; the
// first Read is of the time since then.
func Load(table *owner.Table, o Options) (*Probe, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.StallMin == 0 {
		o.StallMin = 5 * time.Millisecond
	}
	kernel, err := hook.Types()
	if err != nil {
		return nil, err
	}
	spec, err := Spec(kernel)
	if err != nil {
		return nil, err
	}
	if err := configure(spec, kernel, &o); err != nil {
		return nil, err
	}
	shared, err := o.Events.configure(spec)
	if err != nil {
		return nil, err
	}
	p := &Probe{
		options: o, table: table, shared: shared, pending: map[uint32]*tally{}, counted: map[cookie]*counters{},
		namespaces: map[cookie]*namespace{}, latest: map[uint32]cookie{}, mounted: map[uint32]bool{},
	}
	if p.objects, err = table.LoadObject(spec, shared); err != nil {
		return nil, fmt.Errorf("loading the tcp probe: %w", err)
	}
	if err := p.attach(spec); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	table.Add(p)
	if o.Events.Trace != nil {
		o.Events.Trace.Follow(p)
	}
	return p, nil
}

// configure sets what the object must know before it is loaded.
func configure(spec *ebpf.CollectionSpec, kernel *btf.Spec, o *Options) error {
	if o.Slots == 0 {
		o.Slots = max(spec.Maps[bpfMapConns].MaxEntries, 2*hook.OpenSockets(o.Proc))
	}
	hook.Resize(spec, map[string]uint32{
		bpfMapConns: o.Slots, bpfMapConnsReturned: o.Slots, bpfMapConnTimers: o.Slots,
		bpfMapHistChunks: o.Buckets, bpfMapHistChunksReturned: o.Buckets, bpfMapStallEvents: o.Ring,
	})
	if !o.Worst {
		spec.Maps[bpfMapStallEvents].MaxEntries = uint32(os.Getpagesize())
	}
	tick, err := hook.Tick()
	if err != nil {
		return err
	}
	tells, err := tellsError(kernel)
	if err != nil {
		return err
	}
	return hook.SetVariables(spec, map[string]any{
		"least_stall":            uint64(o.StallMin),
		"tick_ns":                uint64(tick),
		"keep_worst":             o.Worst,
		"only_netns":             o.Namespace,
		"retransmit_tells_error": tells,
		"conn_pool":              bpfPool{Next: 1, Size: spec.Maps[bpfMapConns].MaxEntries},
		"hist_chunk_pool":        bpfPool{Next: 1, Size: spec.Maps[bpfMapHistChunks].MaxEntries},
	})
}

func (p *Probe) attach(spec *ebpf.CollectionSpec) (err error) {
	maps := p.objects.Maps
	if p.conns, err = bpfmap.NewArray[bpfConn](maps[bpfMapConns]); err != nil {
		return err
	}
	if p.processes, err = bpfmap.NewArray[bpfTcpProcess](maps[bpfMapTcpProcesses]); err != nil {
		return err
	}
	if tellsDatagrams(spec) {
		if p.datagrams, err = bpfmap.NewArray[bpfDatagramCounts](maps[bpfMapDatagrams]); err != nil {
			return err
		}
	}
	p.freed = bpfmap.NewPool(maps[bpfMapConnsReturned])
	p.chunks, err = hist.NewChunks(maps[bpfMapHistChunks], maps[bpfMapHistChunksReturned], func(c bpfHistChunk) [snapshot.BucketSubs]uint32 { return c.Count })
	if err != nil {
		return err
	}
	if p.options.Worst {
		if p.events, err = bpfmap.NewRing[bpfStallEvent](maps[bpfMapStallEvents]); err != nil {
			return err
		}
	}
	if err := p.links.AttachAll(spec, p.objects); err != nil {
		return err
	}
	if err := p.find(); err != nil {
		return err
	}
	// What was counted until now is the base that the first Read subtracts.
	if _, err := p.Read(); err != nil {
		return err
	}
	return nil
}

// find looks for sockets and network namespaces.
func (p *Probe) find() error {
	if err := hook.Iterate(p.objects, bpfProgFindConns); err != nil {
		return fmt.Errorf("looking for sockets: %w", err)
	}
	found, err := p.findNamespaces()
	if err != nil {
		return err
	}
	for _, inum := range mountedNamespaces(p.options.Proc) {
		p.mounted[inum] = true
	}
	for id, f := range found {
		p.meet(id, f.Netns, int(f.Pid), true)
	}
	return nil
}

// mountedNamespaces are the network namespaces that have a name (ip netns), where there may be no process yet, as far as
// this process sees them.
func mountedNamespaces(proc string) (inums []uint32) {
	text, err := os.ReadFile(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return nil
	}
	const root = 3 // of the fields, see proc_pid_mountinfo(5)
	for line := range strings.Lines(string(text)) {
		var inum uint32
		if f := strings.Fields(line); len(f) > root {
			if n, _ := fmt.Sscanf(f[root], "net:[%d]", &inum); n == 1 {
				inums = append(inums, inum)
			}
		}
	}
	return inums
}

// Close detaches the probe and frees what it keeps in the kernel.
func (p *Probe) Close() error {
	p.table.Remove(p)
	err := errors.Join(p.links.Close(), p.events.Close())
	p.objects.Close()
	return err
}
