// Package io is the disk I/O probe: every byte and operation on every disk, charged
// to the process that caused it, asynchronous writeback and the file system's
// journal included, and audited against /proc/diskstats.
//
// What an event is charged to is decided in the kernel (bpf/io.bpf.c). This
// package loads and attaches, reads what was counted, and hands out the difference between
// two readings as a snapshot.IO:
//
//	table, err := owner.Load(owner.Options{})
//	probe, err := io.Load(table, io.Options{})
//	for range time.Tick(time.Second) {
//		table.Collect()
//		s, err := probe.Read()
//	}
package io

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/bpfmap"
	"culprit/probes/events"
	"culprit/probes/hist"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Options choose what is kept, where the host is seen, and how much is kept.
type Options struct {
	Proc, Sys string // the host's procfs and sysfs, "/proc" and "/sys" if empty

	Files         bool // keep bytes by file
	Worst         bool // keep the slowest requests,
	WorstFollowed bool // but only of processes that are followed (owner.Table.Follow)
	// NoSleeps leaves out the time that threads sleep for I/O, and with it the one hook
	// that runs at every context switch.
	NoSleeps bool

	Events Events

	// Sizes of tables, their defaults where 0. What does not fit is counted as lost.
	Rows, Buckets, Inodes, Folios, Bios, Slots, Transactions, Shares uint32
}

// Events choose what single events are told of.
type Events struct {
	Trace   events.Trace  // that tells of those that it wants; nil: of none
	Device  string        // only of this disk; "": of all
	Least   time.Duration // only completions of requests that took so long
	Trigger time.Duration // a flight recorder waits for a request that takes longer; 0: it does not
}

// Probe is a loaded and attached io probe. Its methods must not be called
// concurrently, nor while the table's are.
type Probe struct {
	options Options
	table   *owner.Table
	objects *ebpf.Collection
	shared  map[string]*ebpf.Map // of a trace's
	links   hook.Links
	bios    bool // the hook that only devices without requests need is attached

	rows   *bpfmap.Array[bpfIoRow]
	freed  *bpfmap.Pool // of rows
	chunks *hist.Chunks[bpfHistChunk]
	sleeps *bpfmap.Array[bpfIoSleep]

	devices       map[uint32]string             // whole disks, by major << 20 | minor
	before        uint64                        // operations that the first Read is not about
	reading       *reading                      // the last one
	retired       owner.Backlog[snapshot.IORow] // of owners that were released since
	retiredFiles  owner.Backlog[snapshot.IOFile]
	losses        map[string]uint64 // at the last reading
	interval      uint32
	dropped       uint64            // of dirty_entries, when the tables were looked through last
	totals        map[string]totals // by disk
	unseenFlushes uint64
	missed        hook.Missed
	filesDropped  uint64 // bytes of dead processes' files that the list of files does not know any more
	tick          time.Duration
	hides         bool // this kernel runs no program of ours while PID 1 is current
}

// Load attaches the probe. What happens from its return on is counted; the
// first Read is of the time since then.
func Load(table *owner.Table, o Options) (*Probe, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	kernel, err := hook.Types()
	if err != nil {
		return nil, err
	}
	spec, err := Spec(kernel)
	if err != nil {
		return nil, err
	}
	if o.Slots == 0 {
		o.Slots = max(spec.Maps[bpfMapRequestSlots].MaxEntries, 2*tags(o.Sys))
	}
	if err := configure(spec, o, kernel); err != nil {
		return nil, err
	}
	shared, err := o.Events.configure(spec, o.Sys)
	if err != nil {
		return nil, err
	}
	hides, err := hidesEvents(kernel)
	if err != nil {
		return nil, err
	}
	tick, err := hook.Tick()
	if err != nil {
		return nil, err
	}
	p := &Probe{hides: hides, tick: tick, shared: shared, options: o, table: table, devices: map[uint32]string{}, totals: map[string]totals{}}
	if p.objects, err = table.LoadObject(spec, shared); err != nil {
		return nil, fmt.Errorf("loading the io probe: %w", err)
	}
	if err := p.start(spec); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	table.Add(p)
	if o.Events.Trace != nil {
		o.Events.Trace.Follow(p)
	}
	return p, nil
}

// tags is how many requests all hardware queues of all disks can hold at once; an I/O scheduler can double it.
func tags(sys string) uint32 {
	var sum uint32
	files, _ := filepath.Glob(filepath.Join(sys, "block/*/mq/*/nr_tags"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just gone
		}
		n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
		sum += uint32(n)
	}
	return sum
}

// configure sets what the object must know before it is loaded.
func configure(spec *ebpf.CollectionSpec, o Options, kernel *btf.Spec) error {
	hook.Resize(spec, map[string]uint32{
		bpfMapIoRows: o.Rows, bpfMapIoRowOf: o.Rows, bpfMapIoRowsReturned: o.Rows,
		bpfMapHistChunks: o.Buckets, bpfMapHistChunksReturned: o.Buckets,
		bpfMapDirtyInodes:  o.Inodes,
		bpfMapDirtyFolios:  o.Folios,
		bpfMapBioOwners:    o.Bios,
		bpfMapRequestSlots: o.Slots,
		bpfMapTransactions: o.Transactions,
		bpfMapShares:       o.Shares,
	})
	if !o.Files {
		spec.Maps[bpfMapIoFiles].MaxEntries = 1
	}
	if !o.Worst {
		spec.Maps[bpfMapIoWorst].MaxEntries = 1
	}
	throttle, err := hook.Prototype(kernel, "balance_dirty_pages")
	if err != nil {
		return err
	}
	bits := enumerators(kernel, map[string]uint32{
		"___GFP_LAST_BIT": 27, // __GFP_BITS_SHIFT before 6.10
		"BIO_PAGE_PINNED": 32, // none before 6.4
		"__RQF_FLUSH_SEQ": 4,  // macros before 6.10, then an enum without a name
		"__RQF_IO_STAT":   13,
	})
	if err := hook.SetVariables(spec, map[string]any{
		"keep_files":                    o.Files,
		"keep_worst":                    o.Worst,
		"worst_followed":                o.WorstFollowed,
		"page_shift":                    pageShift(),
		"xa_mark_shift":                 bits["___GFP_LAST_BIT"],
		"bio_page_pinned":               bits["BIO_PAGE_PINNED"],
		"rqf_flush_seq":                 bits["__RQF_FLUSH_SEQ"],
		"rqf_io_stat":                   bits["__RQF_IO_STAT"],
		"balance_dirty_pages_arguments": uint32(len(throttle.Params) - 1), // the first one is the tracepoint's own
		"io_row_pool":                   bpfPool{Next: 1, Size: spec.Maps[bpfMapIoRows].MaxEntries},
		"hist_chunk_pool":               bpfPool{Next: 1, Size: spec.Maps[bpfMapHistChunks].MaxEntries},
		"request_slot_pool":             bpfPool{Next: 1, Size: spec.Maps[bpfMapRequestSlots].MaxEntries},
	}); err != nil {
		return err
	}
	hook.Reduce(spec, without, kernel)
	if o.NoSleeps {
		delete(spec.Programs, bpfProgTaskSwitch)
		if !events.Wants(o.Events.Trace, "io.throttle") {
			delete(spec.Programs, bpfProgDirtyThrottled)
		}
	}
	if !events.Wants(o.Events.Trace, "io.issue") {
		delete(spec.Programs, bpfProgRequestIssueTraced)
	}
	return nil
}

// hidesEvents is whether this kernel is of those that run a BPF program while PID 1 is current only
// if PID 1 loaded it: their struct bpf_prog_aux says who did.
func hidesEvents(kernel *btf.Spec) (bool, error) {
	var aux *btf.Struct
	if err := kernel.TypeByName("bpf_prog_aux", &aux); err != nil {
		return false, fmt.Errorf("looking for hidden events: %w", err)
	}
	return slices.ContainsFunc(aux.Members, func(m btf.Member) bool { return m.Name == "init_owned" }), nil
}

// enumerators finds values of enumerators whose enum has no name on some kernel, so that BPF code
// cannot ask for them; what this kernel does not have keeps its value.
func enumerators(kernel *btf.Spec, values map[string]uint32) map[string]uint32 {
	wanted := maps.Clone(values)
	for t := range kernel.All() {
		if t, ok := t.(*btf.Enum); ok {
			for _, v := range t.Values {
				if _, ok := wanted[v.Name]; ok {
					values[v.Name] = uint32(v.Value)
					delete(wanted, v.Name)
				}
			}
		}
		if len(wanted) == 0 {
			break // the rest is most of the kernel's types, and each costs
		}
	}
	return values
}

func pageShift() uint32 {
	shift := uint32(0)
	for size := os.Getpagesize(); size > 1; size >>= 1 {
		shift++
	}
	return shift
}

func (p *Probe) start(spec *ebpf.CollectionSpec) (err error) {
	if p.rows, err = bpfmap.NewArray[bpfIoRow](p.objects.Maps[bpfMapIoRows]); err != nil {
		return err
	}
	p.freed = bpfmap.NewPool(p.objects.Maps[bpfMapIoRowsReturned])
	if p.chunks, err = hist.NewChunks(p.objects.Maps[bpfMapHistChunks], p.objects.Maps[bpfMapHistChunksReturned],
		func(c bpfHistChunk) [snapshot.BucketSubs]uint32 { return c.Count }); err != nil {
		return err
	}
	if p.sleeps, err = bpfmap.NewArray[bpfIoSleep](p.objects.Maps[bpfMapIoTimes]); err != nil {
		return err
	}
	if err := p.findDevices(); err != nil {
		return err
	}
	if err := p.links.AttachAll(spec, p.objects, bpfProgBioQueue, bpfProgRequestIssueTraced, bpfProgRequestComplete); err != nil {
		return err
	}
	// After what a request can start at when it is issued.
	if p.objects.Programs[bpfProgRequestIssueTraced] != nil {
		if err := p.attach(bpfProgRequestIssueTraced); err != nil {
			return err
		}
	}
	// Completions last: what starts before is found complete afterwards.
	if err := p.attach(bpfProgRequestComplete); err != nil {
		return err
	}
	// What was counted until now is the base that the first Read subtracts.
	if err := p.nextInterval(); err != nil {
		return err
	}
	if p.reading, err = p.read(); err == nil {
		for _, row := range p.reading.rows {
			for _, ops := range row.Ops {
				p.before += ops
			}
		}
		p.losses, err = p.readLosses()
	}
	return err
}

func (p *Probe) attach(name string) error { return p.links.Attach(name, p.objects.Programs[name]) }

// Close detaches the probe and frees what it keeps in the kernel.
func (p *Probe) Close() error {
	p.table.Remove(p)
	err := p.links.Close()
	p.objects.Close()
	return err
}

// findDevices learns the disks that there are, makes each one's row for what
// has no row of its own, and sees to the hook for those without requests.
func (p *Probe) findDevices() error {
	disks, err := os.ReadDir(filepath.Join(p.options.Sys, "block"))
	if err != nil {
		return fmt.Errorf("listing disks: %w", err)
	}
	bios := false
	for _, disk := range disks {
		dir := filepath.Join(p.options.Sys, "block", disk.Name())
		device, err := readDevice(filepath.Join(dir, "dev"))
		if err != nil {
			continue // it has just gone
		}
		if p.devices[device] != disk.Name() {
			p.devices[device] = disk.Name()
			if _, err := p.objects.Programs[bpfProgAddDevice].Run(&ebpf.RunOptions{Context: uint64(device)}); err != nil {
				return fmt.Errorf("preparing for disk %s: %w", disk.Name(), err)
			}
		}
		// Devices with requests have their queues in mq/.
		if _, err := os.Stat(filepath.Join(dir, "mq")); err != nil {
			size, _ := os.ReadFile(filepath.Join(dir, "size"))
			bios = bios || strings.TrimSpace(string(size)) != "0"
		}
	}
	if bios && !p.bios {
		if err := p.attach(bpfProgBioQueue); err != nil {
			return err
		}
		p.bios = true
	}
	return nil
}

func readDevice(path string) (uint32, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	major, minor, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	if !ok {
		return 0, fmt.Errorf("%s holds %q, not major:minor", path, text)
	}
	ma, err := strconv.ParseUint(major, 10, 12)
	if err != nil {
		return 0, err
	}
	mi, err := strconv.ParseUint(minor, 10, 20)
	return uint32(ma<<20 | mi), err
}
