package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"culprit/output/table"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// watchFlags are the flags that every report shares.
type watchFlags struct {
	filters
	duration   time.Duration
	by         string
	top        int
	sort       string
	format     string
	json       bool
	timestamps bool

	interval time.Duration // 0: one report at the end
	count    int           // 0: until the end
}

var formats = []string{"table", "json", "csv"}

// register declares the flags; did is what the owners did that the filters choose.
func (f *watchFlags) register(cmd *cobra.Command, sorts []string, did string) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.DurationVar(&f.duration, "duration", f.duration, "end after this `TIME`, such as 10s or 5m; 0 is until Ctrl-C")
	f.registerBy(cmd, snapshot.ByApp)
	f.filters.register(cmd, did)
	f.registerTop(cmd)
	f.registerForm(cmd, sorts)
}

// registerForm is for how reports are printed.
func (f *watchFlags) registerForm(cmd *cobra.Command, sorts []string) {
	flags := cmd.Flags()
	flags.StringVar(&f.sort, "sort", sorts[0], "sort by `COLUMN`: "+strings.Join(sorts, ", "))
	flags.StringVar(&f.format, "format", formats[0], "print as `FORMAT`: table, json (one object a line) or csv")
	flags.BoolVar(&f.json, "json", false, "short for --format json")
	flags.BoolVarP(&f.timestamps, "timestamps", "T", false, "precede each table by its time (json and csv have it always)")

	complete(cmd, "sort", sorts)
	complete(cmd, "format", formats)
}

func (f *watchFlags) registerBy(cmd *cobra.Command, by snapshot.By) {
	cmd.Flags().StringVar(&f.by, "by", string(by), "group by `FIELD`: "+join(snapshot.Bys))
	var bys []string
	for _, by := range snapshot.Bys {
		bys = append(bys, string(by))
	}
	complete(cmd, "by", bys)
}

func (f *watchFlags) registerTop(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&f.top, "top", "n", 20, "print this `NUMBER` of rows; 0 is all")
}

// complete makes shells offer values for a flag.
func complete(cmd *cobra.Command, flag string, values []string) {
	offer := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // no such flag
	}
}

func join[T ~string](values []T) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, string(v))
	}
	return strings.Join(texts, ", ")
}

// intervalRange is what INTERVAL accepts.
const intervalRange = "0.1 to 86400"

// parse checks the flags and takes the positional INTERVAL and COUNT.
func (f *watchFlags) parse(args, sorts []string) error {
	if len(args) > 2 {
		return usagef("too many arguments, from %q on: at most INTERVAL and COUNT are accepted, as in 5 12", args[2])
	}
	if len(args) > 0 {
		seconds, err := strconv.ParseFloat(args[0], 64)
		if err != nil || seconds < 0.1 || seconds > 86400 || math.IsNaN(seconds) {
			return usagef("bad INTERVAL %q: give seconds from %s", args[0], intervalRange)
		}
		f.interval = time.Duration(seconds * float64(time.Second))
	}
	if len(args) > 1 {
		count, err := strconv.Atoi(args[1])
		if err != nil || count < 1 {
			return usagef("bad COUNT %q: give how many reports, 1 or more", args[1])
		}
		f.count = count
	}
	if f.duration < 0 {
		return usagef("bad --duration %v: give a time such as 10s or 5m, or 0", f.duration)
	}
	if err := f.checkForm(sorts); err != nil {
		return err
	}
	return f.filters.check()
}

// checkForm checks how reports are to be printed.
func (f *watchFlags) checkForm(sorts []string) error {
	if !slices.Contains(snapshot.Bys, snapshot.By(f.by)) {
		return usagef("bad --by %q: give one of %s", f.by, join(snapshot.Bys))
	}
	if !slices.Contains(sorts, f.sort) {
		return usagef("bad --sort %q: give one of %s", f.sort, strings.Join(sorts, ", "))
	}
	if f.top < 0 {
		return usagef("bad --top %d: give a number of rows, or 0 for all", f.top)
	}
	if f.json {
		f.format = "json"
	} else if f.format == "" { // a command without the flag
		f.format = formats[0]
	}
	if !slices.Contains(formats, f.format) {
		return usagef("bad --format %q: give one of %s", f.format, strings.Join(formats, ", "))
	}
	return nil
}

// tableOnly refuses a flag that draws in another format.
func (f *watchFlags) tableOnly(flag string, on bool) error {
	if on && f.format != "table" {
		return usagef("--%s draws in tables, but the format is %s, which has the numbers: leave one of them out", flag, f.format)
	}
	return nil
}

// sameInterrupt is how long after a signal another one is taken for the same: timeout(1), for one, sends it twice.
const sameInterrupt = 300 * time.Millisecond

// interruptible is a context that Ctrl-C ends, and what ends it otherwise. From then on,
// another Ctrl-C kills as usual, since writing the last report can take for ever.
func interruptible() (context.Context, context.CancelFunc) {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup(1)
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, func() { time.AfterFunc(sameInterrupt, stop) })
	return ctx, stop
}

// bringUp loads the process table and attaches probes. What comes back is closed by closeAll, also where there is an error.
func bringUp(o owner.Options, out *table.Table, probes ...attach) (owners *owner.Table, parts []*part, closeAll func() error, err error) {
	closeAll = func() error {
		var errs []error
		for _, p := range slices.Backward(parts) {
			errs = append(errs, p.close())
		}
		if owners != nil {
			errs = append(errs, owners.Close())
		}
		return errors.Join(errs...)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, nil, closeAll, err
	}
	if owners, err = owner.Load(o); err != nil {
		return nil, nil, closeAll, err
	}
	for _, attach := range probes {
		p, err := attach(owners, out)
		if err != nil {
			return owners, parts, closeAll, err
		}
		parts = append(parts, p)
	}
	return owners, parts, closeAll, nil
}

// run reports what probes find, until the end; with everything attached, it gives up the capabilities that only this needed.
func (f *watchFlags) run(stdout, stderr io.Writer, o owner.Options, probes ...attach) (err error) {
	ctx, stop := interruptible()
	defer stop()
	out := &table.Table{W: stdout, Width: width(stdout), Top: f.top, Timestamps: f.timestamps}
	owners, parts, closeAll, err := bringUp(o, out, probes...)
	defer closing(&err, closeAll)
	if err != nil {
		return err
	}
	if err := limit(stillNeeded(f.proc)...); err != nil {
		return err
	}
	return f.watch(ctx, owners, stderr, func() error {
		for _, p := range parts {
			if err := p.report(); err != nil {
				return err
			}
		}
		return nil
	})
}

// watch calls report once per interval, and at the end, until the duration is
// over, COUNT is reached or ctx ends. It keeps the process table in order meanwhile.
func (f *watchFlags) watch(ctx context.Context, owners *owner.Table, stderr io.Writer, report func() error) error {
	var end, next <-chan time.Time
	if f.duration > 0 {
		end = time.After(f.duration)
	}
	if f.interval > 0 {
		ticker := time.NewTicker(f.interval)
		defer ticker.Stop()
		next = ticker.C
	}
	collect := time.NewTicker(time.Second)
	defer collect.Stop()
	begin, reports := time.Now(), 0
	var status *os.File // nil where nobody would see it
	if f.interval == 0 {
		status = terminal(stderr)
	}
	showStatus(status, 0)
	for {
		select {
		case <-ctx.Done():
			clearStatus(status)
			return report()
		case <-end:
			clearStatus(status)
			return report()
		case <-next:
			reports++
			// The last interval may end a moment before the duration does.
			last := reports == f.count || f.duration > 0 && time.Since(begin) >= f.duration
			if err := report(); err != nil || last {
				return err
			}
		case <-collect.C:
			if err := owners.Collect(); err != nil {
				return err
			}
			showStatus(status, time.Since(begin))
		}
	}
}

func showStatus(w *os.File, since time.Duration) {
	if w != nil {
		fmt.Fprintf(w, "\rwatching for %s; Ctrl-C ends it with a report ", since.Round(time.Second))
	}
}

func clearStatus(w *os.File) {
	if w != nil {
		fmt.Fprint(w, "\r\x1b[K")
	}
}

// terminal is w as a terminal's file, nil if it is none.
func terminal(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			return f
		}
	}
	return nil
}

// width is how many columns a report may take.
func width(w io.Writer) int {
	if f := terminal(w); f != nil {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			return int(size.Col)
		}
	}
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil {
		return columns
	}
	return 80
}

// closing runs close at the end of a command and keeps the first error.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }
