// Package sched is the scheduler probe: how long every thread waited for a CPU, and who had the CPU
// meanwhile, audited against the kernel's own sum of run-queue waits (/proc/PID/schedstat).
//
// What a wait is charged to is decided in the kernel (bpf/sched.bpf.c). This package loads and
// attaches, reads what was counted, and hands out the difference between two readings as a snapshot.Sched:
//
//	table, err := owner.Load(owner.Options{})
//	probe, err := sched.Load(table, sched.Options{})
//	for range time.Tick(time.Second) {
//		table.Collect()
//		s, err := probe.Read()
//	}
package sched

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"culprit/probes/bpfmap"
	"culprit/probes/hist"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Options choose how culprits are added up, where the host is seen, and how much is kept.
type Options struct {
	Proc string // the host's procfs, "/proc" if empty

	// ByProcess tells apart the processes of one name among victims and culprits, at the price of memory. Without it,
	// waits because of more culprits than a thread has places for are added up by name.
	ByProcess bool

	ByThread      bool // add a row for each thread
	Worst         bool // tell of the longest waits,
	WorstFollowed bool // but only of processes that are followed (owner.Table.Follow)
	Sleeps        bool // tell apart what threads of such processes sleep for, by their system calls

	// TalkersFrom has the probe tell, by Waits, of every wait from this length on of threads that the tcp probe saw use a connection. 0 is
	// not to.
	TalkersFrom time.Duration

	NoPackets bool // leave out for whom softirqs received packets, and with it the hooks on each packet and each read from a connection

	// Sizes of tables, their defaults where 0. What does not fit is counted as lost.
	Threads, Pairs, Buckets, Flows uint32
}

// Probe is a loaded and attached sched probe. Its methods must not be called
// concurrently, nor while the table's are.
type Probe struct {
	options Options
	table   *owner.Table
	objects *ebpf.Collection
	links   hook.Links
	lister  *link.Iter

	threads   *bpfmap.Array[bpfThread]
	freed     *bpfmap.Pool // of threads
	cpus      *bpfmap.Array[bpfCpu]
	processes *bpfmap.Array[bpfSchedProcess]
	chunks    *hist.Chunks[bpfHistChunk]
	chapters  *bpfmap.Array[bpfChapter]

	groups         map[uint32]snapshot.Process      // by number
	reading        *reading                         // the last one
	pending        map[uint32]*tally                // by number: what is for the next report
	unused         map[uint32]bool                  // groups to be forgotten after it
	ownerless      map[uint32]int                   // by thread: sweeps since its process was gone
	retired        owner.Backlog[snapshot.SchedRow] // of owners that were released since
	missed         hook.Missed
	switchesMissed hook.Missed
	counted        uint64                 // ns that the culprits of the rows made so far must add up to
	ended          []snapshot.SchedThread // threads' rows for the next report
	worst          owner.Backlog[snapshot.SchedWait]
	waits          []snapshot.SchedWait      // for Waits
	exemplars      *bpfmap.Ring[bpfExemplar] // nil unless asked for
	threadsDropped uint64                    // threads without a row of their own
	losses         map[string]uint64         // at the last reading
	interval       uint32
	lists          uint32    // how often all threads were listed
	findAgain      time.Time // not before that, sockets are looked for
}

// Load attaches the probe. What happens from its return on is counted; the
// first Read is of the time since then.
func Load(table *owner.Table, o Options) (*Probe, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	kernel, err := hook.Types()
	if err != nil {
		return nil, err
	}
	spec, err := Spec(kernel)
	if err != nil {
		return nil, err
	}
	if o.NoPackets {
		for _, name := range packetPrograms {
			delete(spec.Programs, name)
		}
	}
	if err := configure(spec, &o); err != nil {
		return nil, err
	}
	p := &Probe{options: o, table: table, groups: map[uint32]snapshot.Process{}, pending: map[uint32]*tally{}, unused: map[uint32]bool{}, ownerless: map[uint32]int{}}
	if p.objects, err = table.LoadObject(spec, nil); err != nil {
		return nil, fmt.Errorf("loading the sched probe: %w", err)
	}
	if err := p.start(spec); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	table.Add(p)
	return p, nil
}

// configure sets what the object must know before it is loaded.
func configure(spec *ebpf.CollectionSpec, o *Options) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("counting the CPUs: %w", err)
	}
	spec.Maps[bpfMapCpus].MaxEntries = uint32(cpus)
	spec.Maps[bpfMapChapters].MaxEntries *= uint32(cpus)
	if o.Threads == 0 {
		o.Threads = max(spec.Maps[bpfMapThreads].MaxEntries, 4*runningThreads(o.Proc))
	}
	if o.Flows == 0 {
		o.Flows = max(spec.Maps[bpfMapFlows].MaxEntries, 2*hook.OpenSockets(o.Proc))
	}
	if o.NoPackets {
		o.Flows = 1
	}
	hook.Resize(spec, map[string]uint32{
		bpfMapThreads: o.Threads, bpfMapThreadsReturned: o.Threads,
		bpfMapCulprits:   o.Pairs,
		bpfMapFlows:      o.Flows,
		bpfMapHistChunks: o.Buckets, bpfMapHistChunksReturned: o.Buckets,
	})
	if !o.tellsOfWaits() {
		spec.Maps[bpfMapExemplars].MaxEntries = uint32(os.Getpagesize())
	}
	talkers := uint64(math.MaxUint64)
	if o.TalkersFrom > 0 {
		talkers = uint64(o.TalkersFrom)
	}
	return hook.SetVariables(spec, map[string]any{
		"by_process":      o.ByProcess,
		"keep_worst":      o.Worst,
		"worst_followed":  o.WorstFollowed,
		"tell_sleeps":     o.Sleeps,
		"sleep_kinds":     sleepKinds(),
		"talkers_wait":    talkers,
		"thread_pool":     bpfPool{Next: 1, Size: spec.Maps[bpfMapThreads].MaxEntries},
		"hist_chunk_pool": bpfPool{Next: 1, Size: spec.Maps[bpfMapHistChunks].MaxEntries},
	})
}

func (o Options) tellsOfWaits() bool { return o.Worst || o.TalkersFrom > 0 }

// runningThreads is how many threads the host has: the second number of /proc/loadavg's fourth field.
func runningThreads(proc string) uint32 {
	text, err := os.ReadFile(filepath.Join(proc, "loadavg"))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, _ := strconv.ParseUint(all, 10, 24)
	return uint32(n)
}

func (p *Probe) start(spec *ebpf.CollectionSpec) (err error) {
	maps := p.objects.Maps
	if p.threads, err = bpfmap.NewArray[bpfThread](maps[bpfMapThreads]); err != nil {
		return err
	}
	p.freed = bpfmap.NewPool(maps[bpfMapThreadsReturned])
	if p.cpus, err = bpfmap.NewArray[bpfCpu](maps[bpfMapCpus]); err != nil {
		return err
	}
	if p.processes, err = bpfmap.NewArray[bpfSchedProcess](maps[bpfMapSchedProcesses]); err != nil {
		return err
	}
	if p.chunks, err = hist.NewChunks(maps[bpfMapHistChunks], maps[bpfMapHistChunksReturned],
		func(c bpfHistChunk) [snapshot.BucketSubs]uint32 { return c.Count }); err != nil {
		return err
	}
	if p.chapters, err = bpfmap.NewArray[bpfChapter](maps[bpfMapChapters]); err != nil {
		return err
	}
	if p.options.tellsOfWaits() {
		if p.exemplars, err = bpfmap.NewRing[bpfExemplar](maps[bpfMapExemplars]); err != nil {
			return err
		}
	}
	if err := p.links.AttachAll(spec, p.objects); err != nil {
		return err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return fmt.Errorf("reading the boot clock: %w", err)
	}
	if err := p.objects.Variables["attached_at"].Set(uint64(boot.Nano())); err != nil {
		return fmt.Errorf("setting attached_at: %w", err)
	}
	if p.lister, err = link.AttachIter(link.IterOptions{Program: p.objects.Programs[bpfProgCollect]}); err != nil {
		return fmt.Errorf("preparing to list the threads: %w", err)
	}
	p.links = append(p.links, p.lister)
	if !p.options.NoPackets {
		if err := p.findFlows(); err != nil {
			return err
		}
	}
	// What was counted until now is the base that the first Read subtracts.
	if err := hist.NextInterval(p.objects, &p.interval); err != nil {
		return err
	}
	if p.reading, err = p.read(); err != nil {
		return err
	}
	p.losses, err = p.readLosses()
	return err
}

// Close detaches the probe and frees what it keeps in the kernel.
func (p *Probe) Close() error {
	p.table.Remove(p)
	err := errors.Join(p.links.Close(), p.exemplars.Close())
	p.objects.Close()
	return err
}
