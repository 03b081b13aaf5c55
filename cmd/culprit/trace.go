package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"culprit/output/table"
	"culprit/output/tracefile"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
	"culprit/probes/trace"
)

// traceFlags are those of culprit trace.
type traceFlags struct {
	filters
	duration time.Duration
	output   string
	format   string
	events   []string
	buffer   string
	least    time.Duration
	list     bool
	flightFlags

	later    bool // the trace probe begins when the others are there
	bytes    uint64
	probe    *trace.Probe
	io       *ioprobe.Probe // nil: no event of its kinds is traced
	tcp      *tcp.Probe     // likewise
	file     *tracefile.Writer
	seen     uint64
	requests requestAudit
	loss     []snapshot.Loss
}

// requestAudit holds the completions of requests that were traced against those that the io probe counts, and these against the kernel's.
type requestAudit struct{ traced, ours, unseen int64 }

func (a requestAudit) kernel() int64 { return a.ours + a.unseen }

const (
	defaultBuffer = "64MiB"
	leastBuffer   = 1 << 20
	mostBuffer    = 2 << 30
	traceEvery    = 100 * time.Millisecond // how often events are read
)

func newTrace() *cobra.Command {
	f := traceFlags{filters: filters{proc: hostProc, sys: hostSys}}
	cmd := &cobra.Command{
		Use:   "trace -o FILE",
		Short: "Every event to a file that a timeline viewer or a query engine opens",
		Long: `Writes single events to a file, until Ctrl-C or --duration: who had each CPU and who
woke whom, interrupts and softirqs, the lives of threads, signals, OOM kills, each
request to a disk and because of whom, the states, retransmissions and stalls of TCP
connections, and if asked for, page faults, system calls and timers.

The end of the file's name says what it is:
  .pftrace      a timeline for https://ui.perfetto.dev, which can query it, too
  .jsonl        one JSON object a line
  .parquet      a directory with a table for each kind of event, for DuckDB and others;
                a part of it is finished each second
.pftrace.gz and .jsonl.gz are compressed. To standard output, -o - --format FORMAT.

--pid, --app, --cgroup and --user choose whose events there are: the kernel leaves out
the others', and what is nobody's, such as interrupts. --device and --min-latency choose
among requests to disks.

Times are those of CLOCK_BOOTTIME, in ns. Each CPU keeps its last events in --buffer
until they are read: what is overwritten before is counted, said at the end, and
stored in the file. A file that was cut, by a full disk or a crash, can be read up
to there.

With --ring, or --trigger, it is a flight recorder: the last events stay in memory,
and a file is written when a trigger fires, with what came before and --after it;
the files' names are numbered, and the newest --files of this run stay. SIGUSR1 writes
one by hand. The triggers:
  sched.wait>20ms   a thread waited for a CPU for longer
  io.latency>100ms  a request to a disk took longer
  tcp.stall>40ms    a TCP connection paused for longer
  signal            one that means a bug is sent (SEGV, ABRT, BUS, FPE, ILL, SYS, TRAP)
  signal=TERM       that one is sent`,
		Example: `  culprit trace -o t.pftrace --duration 5s   a timeline of five seconds
  culprit trace -o t.jsonl.gz -e sched.switch,syscall --app nginx
  culprit trace -o t.parquet --duration 1m
  duckdb -c "select next_comm, count(*) from 't.parquet/sched.switch/*.parquet' group by 1"
  culprit trace -o - --format jsonl --duration 1s | jq .event
  culprit trace -o slow.pftrace --ring 64MiB --trigger 'sched.wait>20ms'
  culprit trace -o slow.pftrace --trigger 'io.latency>50ms' --app postgres
  culprit trace -o disk.parquet -e io.complete -d sda --min-latency 10ms
  culprit trace --list                       all events and their fields`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.list {
				return table.Events(cmd.OutOrStdout())
			}
			if err := f.check(); err != nil {
				return err
			}
			if err := f.choose(cmd.Flags().Changed("events")); err != nil {
				return err
			}
			if f.records() {
				return f.record(cmd.ErrOrStderr())
			}
			return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	_, usual := trace.Kinds()
	flags.StringVarP(&f.output, "output", "o", "", "write to `FILE`, which ends in ."+strings.Join(tracefile.Formats, ", .")+"; - is standard output")
	flags.DurationVar(&f.duration, "duration", 0, "end after this `TIME`, such as 10s or 5m; 0 is until Ctrl-C")
	flags.StringSliceVarP(&f.events, "events", "e", usual, "trace these `KINDS` of events, of those that --list prints; io, tcp and so on are all of these")
	flags.StringVar(&f.format, "format", "", "write as `FORMAT`, whatever the file is called: "+strings.Join(tracefile.Formats, ", "))
	flags.StringVar(&f.buffer, "buffer", defaultBuffer, "keep up to this `SIZE` of events in memory until they are read")
	flags.DurationVar(&f.least, "min-latency", 0, "only completions of requests to disks that took this `TIME` or longer")
	f.registerDevice(cmd)
	f.filters.register(cmd, "caused, or were part of")
	f.flightFlags.register(flags)
	flags.BoolVar(&f.list, "list", false, "list the kinds of events and their fields, and do nothing else")
	complete(cmd, "format", tracefile.Formats)
	all, _ := trace.Kinds()
	complete(cmd, "events", all)
	return cmd
}

// check finds what cannot be meant.
func (f *traceFlags) check() error {
	if f.output == "" {
		return usagef("where to? give --output FILE, whose name ends in .%s", strings.Join(tracefile.Formats, ", ."))
	}
	if f.format == "" {
		if f.format = tracefile.FormatOf(f.output); f.format == "" {
			return usagef("bad --output %q: give a name that ends in .%s, or --format", f.output, strings.Join(tracefile.Formats, ", ."))
		}
	}
	if !slices.Contains(tracefile.Formats, f.format) {
		return usagef("bad --format %q: give one of %s", f.format, strings.Join(tracefile.Formats, ", "))
	}
	if f.output == "-" && f.format == tracefile.Parquet {
		return usagef("parquet is a directory, and cannot go to standard output: give --output DIRECTORY.parquet, or another --format")
	}
	if f.duration < 0 {
		return usagef("bad --duration %v: give a time such as 10s or 5m, or 0", f.duration)
	}
	if f.least < 0 {
		return usagef("bad --min-latency %v: give a time such as 10ms, or 0", f.least)
	}
	var err error
	if f.events, err = kindsOf(f.events); err != nil {
		return err
	}
	size, flag := f.buffer, "buffer"
	if f.ring != "" {
		size, flag = f.ring, "ring"
	}
	if f.bytes, err = humanize.ParseBytes(size); err != nil || f.bytes < leastBuffer || f.bytes > mostBuffer {
		return usagef("bad --%s %q: give a size from %s to %s", flag, size, humanize.IBytes(leastBuffer), humanize.IBytes(mostBuffer))
	}
	if err := f.flightFlags.check(f.output); err != nil {
		return err
	}
	return f.filters.check()
}

// choose leaves out the kinds of events that the filters leave nothing of, which must not have been asked for.
func (f *traceFlags) choose(asked bool) error {
	about := func(kinds ...string) bool {
		return slices.ContainsFunc(f.events, func(kind string) bool { return slices.Contains(kinds, kind) })
	}
	if nobodys := []string{"irq", "softirq", "timer"}; f.chooses() && about(nobodys...) {
		if asked {
			return usagef("bad --events: %s are nobody's, and there are none with --pid, --app, --cgroup or --user", strings.Join(nobodys, ", "))
		}
		f.events = slices.DeleteFunc(f.events, func(kind string) bool { return slices.Contains(nobodys, kind) })
	}
	if f.least > 0 {
		if !about("io.complete") {
			return usagef("bad --min-latency: only io.complete has one: give --events io.complete")
		}
		beginnings := []string{"io.queue", "io.issue", "io.merge"} // of requests whose latency nobody knows then
		f.events = slices.DeleteFunc(f.events, func(kind string) bool { return slices.Contains(beginnings, kind) })
	}
	if f.device != "" && !about("io.queue", "io.issue", "io.merge", "io.complete") {
		return usagef("bad --device: only io.queue, io.issue, io.merge and io.complete have one: give --events io")
	}
	return nil
}

// kindsOf are the kinds of events by their names, or what these begin with: "io" is all of disks.
func kindsOf(names []string) (kinds []string, err error) {
	all, _ := trace.Kinds()
	for _, name := range names {
		before := len(kinds)
		for _, kind := range all {
			if kind == name || strings.HasPrefix(kind, name+".") {
				kinds = append(kinds, kind)
			}
		}
		if len(kinds) == before {
			return nil, usagef("bad --events %q: give some of %s, or io, tcp and so on for all of these", name, strings.Join(all, ","))
		}
	}
	if len(kinds) == 0 {
		return nil, usagef("bad --events \"\": give some of %s", strings.Join(all, ","))
	}
	return kinds, nil
}

// attach brings up the trace probe.
func (f *traceFlags) attach(owners *owner.Table, _ *table.Table) (*part, error) {
	var keep func(snapshot.Process) bool
	if f.chooses() {
		keep = f.keeps
	}
	probe, err := trace.Load(owners, trace.Options{
		Later: f.later, Keep: keep, Kinds: f.events, Bytes: f.bytes, Proc: f.proc, Wait: f.wait, Latency: f.latency, Stall: f.stall, Signals: f.signals,
	})
	if err != nil {
		return nil, err
	}
	f.probe = probe
	return &part{close: probe.Close, memory: probe.Memory, report: f.read}, nil
}

// attachIO brings up the io probe, whose events go to the trace probe, which is there.
func (f *traceFlags) attachIO(owners *owner.Table, _ *table.Table) (*part, error) {
	probe, err := ioprobe.Load(owners, ioprobe.Options{
		Proc: f.proc, Sys: f.sys, NoSleeps: true,
		Events: ioprobe.Events{Trace: f.probe, Device: f.device, Least: f.least, Trigger: f.latency},
	})
	if err != nil {
		return nil, err
	}
	f.io = probe
	f.requests.ours = int64(probe.Before())
	return &part{close: probe.Close, memory: probe.Memory}, nil
}

// attachTCP brings up the tcp probe, whose events go to the trace probe, which is there.
func (f *traceFlags) attachTCP(owners *owner.Table, _ *table.Table) (*part, error) {
	shortest := defaultMinStall
	if f.stall > 0 {
		shortest = min(shortest, f.stall)
	}
	probe, err := tcp.Load(owners, tcp.Options{Proc: f.proc, StallMin: shortest, Events: tcp.Events{Trace: f.probe, Trigger: f.stall}})
	if err != nil {
		return nil, err
	}
	f.tcp = probe
	return &part{close: probe.Close, memory: probe.Memory}, nil
}

// probes are what the events that are wanted come from.
func (f *traceFlags) probes() []attach {
	needs := func(kinds string) bool {
		return slices.ContainsFunc(f.events, func(kind string) bool { return strings.HasPrefix(kind, kinds) })
	}
	f.later = true
	probes := []attach{f.attach}
	if needs("io.") || f.latency > 0 {
		probes = append(probes, f.attachIO)
	}
	if needs("tcp.") || f.stall > 0 {
		probes = append(probes, f.attachTCP)
	}
	return probes
}

// collect keeps what other probes count in order, about once a second while they are attached, and once at the end.
func (f *traceFlags) collect(owners *owner.Table, attached bool) error {
	if err := owners.Collect(); err != nil {
		return err
	}
	if f.tcp != nil {
		if _, err := f.tcp.Read(); err != nil {
			return err
		}
	}
	if f.io == nil {
		return nil
	}
	s, err := f.io.Read()
	if err != nil {
		return err
	}
	for _, d := range s.Devices {
		f.requests.ours += operations(d.Ours)
		if attached {
			f.requests.unseen += operations(d.Kernel) - operations(d.Ours)
		}
	}
	return nil
}

// read writes what happened since it was called last.
func (f *traceFlags) read() error {
	t, err := f.probe.Read()
	if err != nil {
		return err
	}
	f.loss = t.Loss
	if err := f.file.Write(t); err != nil {
		return err
	}
	f.seen += uint64(t.Events())
	f.requests.traced += int64(len(t.IOCompleted))
	return nil
}

func (f *traceFlags) run(stdout, stderr io.Writer) (err error) {
	ctx, stop := interruptible()
	defer stop()
	owners, _, closeAll, err := bringUp(owner.Options{Proc: f.proc}, nil, f.probes()...)
	defer closing(&err, closeAll)
	if err != nil {
		return err
	}
	if err := f.probe.Begin(); err != nil {
		return err
	}
	if f.output == "-" {
		f.file, err = tracefile.New(stdout, f.format)
	} else {
		f.file, err = tracefile.Create(f.output, f.format)
	}
	if err != nil {
		return err
	}
	if err := limit(stillNeeded(f.proc)...); err != nil {
		return errors.Join(err, f.file.Close())
	}
	begin := time.Now()
	err = f.follow(ctx, owners, terminal(stderr), begin)
	if err == nil {
		err = f.collect(owners, true)
	}
	if err == nil {
		err = f.probe.End()
	}
	if err == nil {
		err = f.collect(owners, false)
	}
	if err == nil {
		err = f.read()
	}
	err = errors.Join(err, f.file.Close())
	fmt.Fprintln(stderr, f.status(time.Since(begin)))
	if a := f.probe.Audit(); err == nil && slices.Contains(f.events, "sched.switch") && !f.chooses() {
		fmt.Fprintf(stderr, "audit: %s context switches by the kernel's count, %s traced, residual %d, skew %d\n",
			humanize.Comma(int64(a.Kernel)), humanize.Comma(int64(a.Ours)), a.Residual(), a.Skew)
	}
	if a := f.requests; err == nil && f.auditsRequests() {
		fmt.Fprintf(stderr, "audit: %s requests to disks completed by the kernel's count, %s traced, residual %d\n",
			humanize.Comma(a.kernel()), humanize.Comma(a.traced), a.kernel()-a.traced)
	}
	return err
}

// follow reads and writes until ctx or the duration ends.
func (f *traceFlags) follow(ctx context.Context, owners *owner.Table, status *os.File, begin time.Time) error {
	if f.duration > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.duration)
		defer stop()
	}
	read := time.NewTicker(traceEvery)
	defer read.Stop()
	collect := time.NewTicker(time.Second)
	defer collect.Stop()
	for {
		select {
		case <-ctx.Done():
			clearStatus(status)
			return nil
		case <-read.C:
			if err := f.read(); err != nil {
				clearStatus(status)
				return err
			}
		case <-collect.C:
			if err := f.collect(owners, true); err != nil {
				clearStatus(status)
				return err
			}
			if status != nil {
				fmt.Fprintf(status, "\r%s; Ctrl-C ends it ", f.status(time.Since(begin)))
			}
		}
	}
}

func operations(c snapshot.IOCounts) int64 { return int64(c.Reads + c.Writes + c.Discards + c.Flushes) }

// auditsRequests is whether all completions of requests are traced.
func (f *traceFlags) auditsRequests() bool {
	return slices.Contains(f.events, "io.complete") && f.device == "" && f.least == 0 && !f.chooses()
}

// status is how far it got.
func (f *traceFlags) status(since time.Duration) string {
	s := fmt.Sprintf("%s: %s events in %s", f.output, humanize.Comma(int64(f.seen)), since.Round(time.Second/10))
	if bytes := f.file.Size(); bytes > 0 {
		s += ", " + humanize.IBytes(bytes)
	}
	for _, l := range f.loss {
		if l.Count > 0 {
			s += fmt.Sprintf(", lost: %s=%d", l.Name, l.Count)
		}
	}
	return s
}
