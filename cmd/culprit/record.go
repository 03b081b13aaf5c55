package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // whom to trust, with --otlp, where the system does not say: in an image of culprit alone
	"golang.org/x/net/http/httpguts"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"culprit/output/metrics"
	"culprit/output/recording"
	"culprit/output/table"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/tcp"
)

// recordFlags are those of culprit record.
type recordFlags struct {
	filters
	dir      string
	host     string
	interval time.Duration
	duration time.Duration
	keep     time.Duration
	most     string
	listen   string
	web      string
	anywhere bool
	apps     int
	otlp     string
	headers  []string

	bytes   uint64
	target  metrics.Target
	metrics *metrics.Metrics // nil: nobody asks for them
	push    *metrics.Pusher  // nil: they are pushed nowhere
	disks   *ioprobe.Probe
	cpus    *sched.Probe
	network *tcp.Probe
	out     *recording.Writer
	late    bool // the last interval could not be written
	unheard bool // metrics could not be pushed when it was looked at last
}

// defaultDir is where a service keeps what it must not lose.
const defaultDir = "/var/lib/culprit"

func newRecord() *cobra.Command {
	var f recordFlags
	cmd := &cobra.Command{
		Use:   "record",
		Short: "Keep what all applications do, for months",
		Long: `Records who used the disks, who waited for a CPU because of whom, and who talked TCP
and why that stalled: per application, each --interval, until Ctrl-C or --duration.
culprit report reads it, and so does all that reads Parquet.

Each interval is on the disk when it is over, whatever happens then. The last hour is
a journal; others are tables, DIR/date=DAY/host=NAME/TABLE-TIME.parquet. What is older
than --keep is removed, and the oldest of what is beyond --max-size. Where nothing can
be written, because the disk is full, for example, what is seen is kept, and is part
of the next interval that can be.

A process that did a tenth of all in an interval has rows of its own; of others, those
that are called the same in every way have one. Machines can share a directory: each
writes its own part, and one culprit for each machine.

With --otlp, each interval's metrics go to an OpenTelemetry collector. Recording never
waits for it; of what it could not be given some 30 MB are kept for later; what is older
is lost, which is counted and said. OTEL_EXPORTER_OTLP_ENDPOINT and _PROTOCOL do the same,
and _HEADERS, _CERTIFICATE, _TIMEOUT and others, and OTEL_RESOURCE_ATTRIBUTES, mean what
they mean to other programs.`,
		Example: `  culprit record                      into ` + defaultDir + `
  culprit record --dir /srv/culprit --interval 1m --keep 8760h
  culprit record --listen 127.0.0.1:9435
  culprit record --otlp grpcs://collector.example:4317 --otlp-header x-team=storage
  culprit report --last 1h            what it has`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return f.run(cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.dir, "dir", defaultDir, "record into `DIR`")
	flags.DurationVar(&f.interval, "interval", 10*time.Second, "add up what happens in this `TIME`")
	flags.DurationVar(&f.duration, "duration", 0, "end after this `TIME`; 0 is until Ctrl-C")
	flags.DurationVar(&f.keep, "keep", 30*24*time.Hour, "remove what is older than this `TIME`; 0 is never")
	flags.StringVar(&f.most, "max-size", "2GiB", "remove the oldest of what is more than this `SIZE`; 0 is never")
	flags.StringVar(&f.host, "host", "", "record as `NAME` (default: the host's name)")
	flags.StringVar(&f.listen, "listen", "", "serve metrics for Prometheus at `ADDRESS`, such as 127.0.0.1:9435")
	flags.StringVar(&f.web, "web-config", "", "with the TLS and authentication of `FILE`, a web configuration of Prometheus's exporters")
	flags.BoolVar(&f.anywhere, "listen-anywhere", false, "serve them beyond this machine without that, too: to whoever asks")
	flags.StringVar(&f.otlp, "otlp", "", "push metrics to the OpenTelemetry collector at `URL`: grpc://HOST:4317, grpcs://…, http://HOST:4318 or https://…")
	flags.StringArrayVar(&f.headers, "otlp-header", nil, "with this header, `NAME=VALUE`; can be repeated; secrets are better in OTEL_EXPORTER_OTLP_HEADERS")
	flags.IntVar(&f.apps, "max-apps", 500, "serve and push metrics of this `NUMBER` of applications; further ones are one, \"other\"")
	f.registerHost(cmd)
	return cmd
}

// gcPercent is low: who runs for months is to be small, and makes little to collect.
const gcPercent = 50

// Intervals are as long as histograms and sums are worth it, and short enough for a journal's frame.
const (
	shortestInterval = time.Second
	longestInterval  = time.Hour
)

func (f *recordFlags) check() (err error) {
	if f.interval < shortestInterval || f.interval > longestInterval {
		return usagef("bad --interval %v: give a time from %v to %v", f.interval, shortestInterval, longestInterval)
	}
	if f.duration < 0 {
		return usagef("bad --duration %v: give a time such as 10m, or 0", f.duration)
	}
	if f.keep != 0 && f.keep < time.Hour {
		return usagef("bad --keep %v: give a time of an hour or more, or 0", f.keep)
	}
	const leastBytes = 1 << 20
	if f.bytes, err = humanize.ParseBytes(f.most); err != nil || f.bytes != 0 && f.bytes < leastBytes {
		return usagef("bad --max-size %q: give a size of %s or more, such as 2GiB, or 0", f.most, humanize.IBytes(leastBytes))
	}
	if err := f.checkListen(); err != nil {
		return err
	}
	if err := f.checkPush(); err != nil {
		return err
	}
	return f.filters.check()
}

// checkListen sees to it that others than those on this machine are let in by who wants that.
func (f *recordFlags) checkListen() error {
	if f.apps < 1 {
		return usagef("bad --max-apps %d: give a number, 1 or more", f.apps)
	}
	if f.listen == "" {
		if f.web != "" || f.anywhere {
			return usagef("bad --web-config or --listen-anywhere: nothing is served: give --listen, too")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return usagef("bad --listen %q: give an address and a port, such as 127.0.0.1:9435 or [::1]:9435", f.listen)
	}
	if address, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !address.IsLoopback()) && f.web == "" && !f.anywhere {
		return usagef("bad --listen %q: it is not of this machine alone: give --web-config with TLS and authentication, or --listen-anywhere", f.listen)
	}
	return nil
}

// checkPush sees to it that there is something to push to, by the flags or the environment.
func (f *recordFlags) checkPush() error {
	f.target = metrics.Target{URL: f.otlp, Headers: map[string]string{}}
	if !f.pushes() {
		if len(f.headers) > 0 {
			return usagef("bad --otlp-header: nothing is pushed: give --otlp, too")
		}
		return nil
	}
	switch err := f.target.Check(); {
	case errors.Is(err, metrics.ErrTarget):
		return usagef("bad --otlp %q: %v", f.otlp, err)
	case err != nil:
		return usagef("%v", err)
	}
	for _, header := range f.headers {
		name, value, ok := strings.Cut(header, "=")
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return usagef("bad --otlp-header %q: give NAME=VALUE", header)
		}
		f.target.Headers[strings.ToLower(name)] = value
	}
	return nil
}

// options say what is recorded, and of which machine.
func (f *recordFlags) options() (o recording.Options, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return o, fmt.Errorf("asking for the kernel's release: %w", err)
	}
	boot, err := os.ReadFile(filepath.Join(f.proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return o, fmt.Errorf("asking which boot this is: %w", err)
	}
	if f.host == "" {
		f.host = unix.ByteSliceToString(name.Nodename[:])
	}
	return recording.Options{
		Dir: f.dir, Host: f.host, Boot: strings.TrimSpace(string(boot)), Kernel: unix.ByteSliceToString(name.Release[:]),
		Version: version, Keep: f.keep, Bytes: f.bytes,
	}, nil
}

func (f *recordFlags) run(stderr io.Writer) (err error) {
	ctx, stop := interruptible()
	defer stop()
	o, err := f.options()
	if err != nil {
		return err
	}
	if f.out, err = recording.Open(o); err != nil {
		return err
	}
	defer closing(&err, func() error { return f.out.Close() })
	owners, _, closeAll, err := bringUp(owner.Options{Proc: f.proc}, nil, f.attachDisks, f.attachCPUs, f.attachNetwork)
	defer closing(&err, closeAll)
	if err != nil {
		return err
	}
	keep := stillNeeded(f.proc)
	if os.Geteuid() == 0 {
		keep = append(keep, cap.DAC_OVERRIDE) // files come later, and root's go anywhere
	}
	if err := limit(keep...); err != nil {
		return err
	}
	if f.listen != "" || f.pushes() {
		f.metrics = metrics.New(f.apps)
	}
	if f.pushes() {
		if f.push, err = metrics.NewPusher(f.metrics, f.target, metrics.Source{Host: o.Host, Kernel: o.Kernel, Version: version}); err != nil {
			return err
		}
		defer closing(&err, func() error { return f.endPush(stderr) })
		fmt.Fprintf(stderr, "metrics are pushed to %s\n", f.pushedTo())
	}
	if f.listen != "" {
		server, err := metrics.Serve(f.metrics, f.listen, f.web, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
		if err != nil {
			return err
		}
		defer closing(&err, server.Close)
		fmt.Fprintf(stderr, "metrics are at %s%s\n", server.Address(), metrics.Path)
	}
	debug.SetGCPercent(gcPercent)
	fmt.Fprintf(stderr, "recording %s into %s each %v; Ctrl-C ends it\n", o.Host, f.dir, f.interval)
	return f.follow(ctx, owners, stderr)
}

func (f *recordFlags) attachDisks(owners *owner.Table, _ *table.Table) (_ *part, err error) {
	if f.disks, err = ioprobe.Load(owners, ioprobe.Options{Proc: f.proc, Sys: f.sys}); err != nil {
		return nil, err
	}
	return &part{close: f.disks.Close}, nil
}

func (f *recordFlags) attachCPUs(owners *owner.Table, _ *table.Table) (_ *part, err error) {
	o := sched.Options{Proc: f.proc, Worst: true, TalkersFrom: talkersFrom(defaultMinStall)}
	if f.cpus, err = sched.Load(owners, o); err != nil {
		return nil, err
	}
	return &part{close: f.cpus.Close}, nil
}

func (f *recordFlags) attachNetwork(owners *owner.Table, _ *table.Table) (_ *part, err error) {
	o := tcp.Options{Proc: f.proc, Worst: true, StallMin: defaultMinStall, Waits: f.cpus}
	if f.network, err = tcp.Load(owners, o); err != nil {
		return nil, err
	}
	return &part{close: f.network.Close}, nil
}

// follow writes intervals until the end, and what there is of the last.
func (f *recordFlags) follow(ctx context.Context, owners *owner.Table, stderr io.Writer) error {
	var end <-chan time.Time
	if f.duration > 0 {
		end = time.After(f.duration)
	}
	next := time.NewTicker(f.interval)
	defer next.Stop()
	collect := time.NewTicker(time.Second)
	defer collect.Stop()
	for {
		select {
		case <-ctx.Done():
			return f.write(stderr)
		case <-end:
			return f.write(stderr)
		case <-next.C:
			if err := f.write(stderr); err != nil {
				return err
			}
		case <-collect.C:
			if err := owners.Collect(); err != nil {
				return err
			}
		}
	}
}

func (f *recordFlags) pushedTo() string { return cmp.Or(f.otlp, metrics.EnvironmentTarget()) }

func (f *recordFlags) pushes() bool { return f.pushedTo() != "" }

// sayPush says once that metrics could not be pushed, and once that they can be again.
func (f *recordFlags) sayPush(stderr io.Writer) {
	lost, err := f.push.State()
	switch {
	case err != nil && !f.unheard:
		fmt.Fprintf(stderr, "culprit: metrics cannot be pushed to %s for now; recording goes on: %v\n", f.pushedTo(), err)
	case err == nil && f.unheard:
		fmt.Fprintf(stderr, "culprit: metrics are pushed again; intervals lost so far: %d\n", lost)
	}
	f.unheard = err != nil
}

// pushEnd is how long the end waits for the collector.
const pushEnd = 3 * time.Second

func (f *recordFlags) endPush(stderr io.Writer) error {
	err := f.push.Close(pushEnd)
	f.sayPush(stderr)
	if lost, _ := f.push.State(); lost > 0 {
		fmt.Fprintf(stderr, "culprit: intervals that were not pushed to %s: %d\n", f.pushedTo(), lost)
	}
	return err
}

// write records what happened since it was called last. That it cannot is said once, and is no error: it may be able to later.
func (f *recordFlags) write(stderr io.Writer) error {
	s, err := f.read()
	if err != nil {
		return err
	}
	if f.metrics != nil {
		f.metrics.IO(s.IO)
		f.metrics.Sched(s.Sched)
		f.metrics.TCP(s.TCP)
	}
	if f.push != nil {
		f.push.Push()
		f.sayPush(stderr)
	}
	err = f.out.Write(s)
	sayDamage(stderr, f.out.Damage())
	switch {
	case err != nil && !f.late:
		fmt.Fprintf(stderr, "culprit: nothing can be recorded for now; what happens is kept until it can: %v\n", err)
	case err == nil && f.late:
		fmt.Fprintln(stderr, "culprit: recording goes on")
	}
	f.late = err != nil
	return nil
}

func (f *recordFlags) read() (s recording.Snapshot, err error) {
	if s.IO, err = f.disks.Read(); err != nil {
		return s, err
	}
	if s.Sched, err = f.cpus.Read(); err != nil {
		return s, err
	}
	s.TCP, err = f.network.Read()
	return s, err
}
