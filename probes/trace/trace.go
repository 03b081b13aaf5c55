// Package trace tells of single events, in their order: who had each CPU and who woke whom, interrupts, signals, the lives of threads, and
// what other probes tell of by it (Share, Follow).
// Each CPU keeps its last events in memory, which Read takes them from before they are overwritten.
package trace

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/bpfmap"
	"culprit/probes/events"
	"culprit/probes/hook"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// programs are those that tell of each kind of events.
var programs = map[string][]string{
	"sched.switch": {bpfProgTraceSwitch},
	"sched.wakeup": {
		bpfProgTraceWaking, bpfProgTraceWakeupNew, // and what tells who wakes from what interrupts them
		bpfProgTraceIrqBegins, bpfProgTraceIrq, bpfProgTraceSoftirqBegins, bpfProgTraceSoftirq, bpfProgTraceHrtimerBegins, bpfProgTraceHrtimer,
	},
	"sched.migrate":  {bpfProgTraceMigrate},
	"sched.throttle": {bpfProgTraceSwitch},
	"process.begin":  nil, // what names need is there always
	"process.exec":   nil,
	"process.end":    nil,
	"irq":            {bpfProgTraceIrqBegins, bpfProgTraceIrq},
	"softirq":        {bpfProgTraceSoftirqBegins, bpfProgTraceSoftirq},
	"signal":         {bpfProgTraceSignal},
	"oom.kill":       {bpfProgTraceOom},
	"page.fault":     {bpfProgTraceFaultUser, bpfProgTraceFaultKernel},
	"syscall":        {bpfProgTraceSyscall, bpfProgTraceSyscallEnds},
	"timer": {
		bpfProgTraceTimerBegins, bpfProgTraceTimer, bpfProgTraceHrtimerBegins, bpfProgTraceHrtimer,
		bpfProgTraceSoftirqBegins, bpfProgTraceSoftirq, // which some hrtimers come in, and others while these are at work
	},
}

// elsewhere are the kinds that other probes' programs tell of (Share).
var elsewhere = map[string]bpfTraceKind{
	"io.queue":       bpfTraceKindTRACE_IO_QUEUE,
	"io.issue":       bpfTraceKindTRACE_IO_ISSUE,
	"io.merge":       bpfTraceKindTRACE_IO_MERGE,
	"io.complete":    bpfTraceKindTRACE_IO_COMPLETE,
	"io.throttle":    bpfTraceKindTRACE_IO_THROTTLE,
	"tcp.state":      bpfTraceKindTRACE_TCP_STATE,
	"tcp.retransmit": bpfTraceKindTRACE_TCP_RETRANSMIT,
	"tcp.stall":      bpfTraceKindTRACE_TCP_STALL,
}

var always = []string{bpfProgTraceThreadBegins, bpfProgTraceExecutes, bpfProgTraceRenamed, bpfProgTraceThreadEnds}

// onRequest are the kinds of which there are so many that they are traced only where they are named.
var onRequest = []string{"page.fault", "syscall", "timer"}

// Kinds are the names of all kinds of events, and which of them are traced where none are named.
func Kinds() (all []string, usual []string) {
	all = slices.Sorted(maps.Keys(programs))
	all = slices.AppendSeq(all, maps.Keys(elsewhere))
	slices.Sort(all)
	usual = slices.DeleteFunc(slices.Clone(all), func(kind string) bool { return slices.Contains(onRequest, kind) })
	return all, usual
}

// Options change what the probe does.
type Options struct {
	Kinds []string // of events; nil: the usual ones
	Bytes uint64   // that all CPUs together keep of events, about; 0: 64 MiB
	Proc  string   // where procfs is; "": /proc
	Later bool     // Begin is called when other probes are there that take long to load

	// Keep chooses whose events there are, and whose can trigger; nil: everybody's. Of processes that are new it is asked at the next Read or
	// Poll. Then there are no events that are nobody's, as interrupts are.
	Keep func(snapshot.Process) bool

	// Triggers, of a flight recorder (Poll).
	Wait    time.Duration // a wait for a CPU that is longer; 0: none
	Latency time.Duration // a request to a disk that takes longer
	Stall   time.Duration // a pause of a connection that is longer
	Signals []int         // one of these is sent
}

const (
	defaultBytes = 64 << 20
	leastChunks  = 4 // of a CPU: one that is being written, one beside it, and two to read
)

// Probe is a loaded trace probe.
type Probe struct {
	options Options
	wanted  map[string]bool
	table   *owner.Table
	spec    *ebpf.CollectionSpec
	objects *ebpf.Collection
	links   hook.Links
	missed  hook.Missed

	cpus      *bpfmap.Array[bpfTraceCpu]
	chunks    *bpfmap.Array[bpfTraceChunk]
	notices   *bpfmap.Ring[bpfTraceNotice]
	readers   []reader
	armed     *bpfmap.Array[uint32]
	sources   []events.Source
	names     names
	owners    released
	choice    choice
	functions map[uint64]string // by address
	last      moment            // that the next Read will read up to,
	read      int64             // and when that was of the last one
	before    map[string]uint64 // losses before it began
	over      uint64            // events that were overwritten
	unseen    uint64            // switches that reached no program, at least
	counted   Audit
	begin     uint64         // the kernel's count of switches
	handed    snapshot.Trace // by the last Read, whose memory is used again,
	spare     snapshot.Trace // and other memory
	kept      snapshot.Trace // of a flight recorder: what is not in the rings,
	horizon   int64          // and since when all CPUs' events are there
	ended     bool
}

// Audit holds the switches of a trace, where it has them, against the kernel's count.
type Audit struct {
	Kernel uint64 // that the kernel counts ("ctxt" in /proc/stat)
	Ours   uint64 // that were traced
	Skew   uint64 // how many more there can be of ours: those while the probe was attached and detached
}

// Residual is how many are missing; negative: too many.
func (a Audit) Residual() int64 { return int64(a.Kernel) - int64(a.Ours) }

// Audit is complete after End and the Read that follows.
func (p *Probe) Audit() Audit { return p.counted }

// Load attaches the probe, unless Begin is to. What happens from then on is told by Read.
func Load(table *owner.Table, o Options) (*Probe, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Bytes == 0 {
		o.Bytes = defaultBytes
	}
	all, usual := Kinds()
	if o.Kinds == nil {
		o.Kinds = usual
	}
	p := &Probe{options: o, wanted: map[string]bool{}, table: table, names: names{of: map[int32][]naming{}}, owners: released{}, functions: map[uint64]string{}}
	for _, kind := range o.Kinds {
		if !slices.Contains(all, kind) {
			return nil, fmt.Errorf("there are no %q events, but %s", kind, strings.Join(all, ", "))
		}
		p.wanted[kind] = true
	}
	// What a trigger needs is traced.
	if o.Wait > 0 {
		p.wanted["sched.switch"] = true
	}
	if len(o.Signals) > 0 {
		p.wanted["signal"] = true
	}
	if o.Latency > 0 {
		p.wanted["io.complete"] = true
	}
	if o.Stall > 0 {
		p.wanted["tcp.stall"] = true
	}
	kernel, err := hook.Types()
	if err != nil {
		return nil, err
	}
	spec, err := Spec(kernel)
	if err != nil {
		return nil, err
	}
	if err := p.configure(spec, kernel); err != nil {
		return nil, err
	}
	p.spec = spec
	if p.objects, err = table.LoadObject(spec, nil); err != nil {
		return nil, fmt.Errorf("loading the trace probe: %w", err)
	}
	if err = p.open(); err == nil && !o.Later {
		err = p.Begin()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// configure sets what the object must know before it is loaded, and leaves the programs in it that are needed.
func (p *Probe) configure(spec *ebpf.CollectionSpec, kernel *btf.Spec) error {
	needed := slices.Clone(always)
	for kind := range p.wanted {
		needed = append(needed, programs[kind]...)
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(needed, name) })
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("counting the CPUs: %w", err)
	}
	chunks := max(leastChunks, p.options.Bytes/uint64(cpus)/chunkBytes)
	chunks = 1 << (bits.Len64(chunks) - 1)
	hook.Resize(spec, map[string]uint32{bpfMapTraceCpus: uint32(cpus), bpfMapTraceChunks: uint32(chunks) * uint32(cpus)})
	p.readers = make([]reader, cpus)
	for cpu := range p.readers {
		p.readers[cpu] = reader{cpu: uint32(cpu), idle: fmt.Sprint("swapper/", cpu), chunks: chunks, runs: -1}
	}
	if !p.wanted["timer"] {
		spec.Maps[bpfMapTraceFunctions].MaxEntries = 1
	}
	if p.options.Keep == nil {
		spec.Maps[bpfMapTraceUnwanted].MaxEntries = 1
	} else {
		spec.Maps[bpfMapTraceUnwanted].MaxEntries = p.table.Processes()
	}
	var kinds uint64
	if p.wanted["timer"] && p.options.Keep == nil {
		kinds |= 1 << bpfTraceKindTRACE_TIMER
	}
	if p.wanted["sched.switch"] {
		kinds |= 1 << bpfTraceKindTRACE_SWITCH
	}
	if p.wanted["sched.throttle"] {
		kinds |= 1 << bpfTraceKindTRACE_THROTTLE
	}
	var signals uint64
	for _, number := range p.options.Signals {
		signals |= 1 << (number - 1)
	}
	return hook.SetVariables(spec, map[string]any{
		"trace_chunk_mask": p.chunkMask(),
		"trace_some":       p.options.Keep != nil,
		"trace_kinds":      kinds,
		"keep_irqs":        p.wanted["irq"] && p.options.Keep == nil,
		"keep_softirqs":    p.wanted["softirq"] && p.options.Keep == nil,
		"oom_tells_task":   oomTellsTask(kernel),
		"wait_trigger":     uint64(p.options.Wait),
		"signal_trigger":   signals,
	})
}

func (p *Probe) chunkMask() uint32 { return uint32(p.readers[0].chunks - 1) }

// open maps what the programs write.
func (p *Probe) open() (err error) {
	maps := p.objects.Maps
	if p.cpus, err = bpfmap.NewArray[bpfTraceCpu](maps[bpfMapTraceCpus]); err != nil {
		return err
	}
	if p.chunks, err = bpfmap.NewArray[bpfTraceChunk](maps[bpfMapTraceChunks]); err != nil {
		return err
	}
	if p.armed, err = bpfmap.NewArray[uint32](maps[bpfMapTraceArmed]); err != nil {
		return err
	}
	if p.notices, err = bpfmap.NewRing[bpfTraceNotice](maps[bpfMapTraceNotices]); err != nil {
		return err
	}
	if p.options.Keep != nil {
		if p.choice, err = newChoice(p.table, maps[bpfMapTraceUnwanted], p.options.Keep); err != nil {
			return err
		}
	}
	p.table.Add(p)
	return nil
}

// Begin attaches the probe, for once.
func (p *Probe) Begin() (err error) {
	if p.last, err = p.now(); err != nil {
		return err
	}
	p.read = p.last.boot
	if p.before, err = p.losses(); err != nil {
		return err
	}
	before, err := switches(p.options.Proc)
	if err != nil {
		return err
	}
	if err := p.links.AttachAll(p.spec, p.objects); err != nil {
		return err
	}
	if p.begin, err = switches(p.options.Proc); err != nil {
		return err
	}
	p.counted.Skew = p.begin - before
	return p.names.list(p.options.Proc)
}

// End detaches the probe, and those that it follows. The next Read tells of all that was left.
func (p *Probe) End() error {
	before, err := switches(p.options.Proc)
	if err != nil {
		return err
	}
	if err := p.links.Close(); err != nil {
		return err
	}
	p.links = nil
	after, err := switches(p.options.Proc)
	for _, s := range p.sources {
		err = errors.Join(err, s.Detach())
	}
	p.ended = err == nil
	p.counted.Kernel, p.counted.Skew = before-p.begin, p.counted.Skew+after-before
	return err
}

// switches is how many the kernel has counted since it booted.
func switches(proc string) (n uint64, err error) {
	text, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0, fmt.Errorf("reading the kernel's count of switches: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if found, _ := fmt.Sscanf(line, "ctxt %d", &n); found == 1 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("reading the kernel's count of switches: there is no ctxt in %s", filepath.Join(proc, "stat"))
}

// Close detaches the probe and frees what it keeps in the kernel.
func (p *Probe) Close() error {
	p.table.Remove(p)
	err := errors.Join(p.links.Close(), p.notices.Close())
	p.objects.Close()
	return err
}
