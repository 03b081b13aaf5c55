package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"culprit/output/tracefile"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/trace"
)

// flightFlags are those of culprit trace as a flight recorder.
type flightFlags struct {
	ring     string
	triggers []string
	after    time.Duration
	files    int

	wait    time.Duration
	latency time.Duration
	stall   time.Duration
	signals []int
	written []string // files, the oldest first
	number  int
}

// bugs are the signals that tell of one.
var bugs = []int{int(unix.SIGSEGV), int(unix.SIGABRT), int(unix.SIGBUS), int(unix.SIGFPE), int(unix.SIGILL), int(unix.SIGSYS), int(unix.SIGTRAP)}

func (f *flightFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.ring, "ring", "", "write no event until a trigger fires, and keep up to this `SIZE` of the last ones")
	flags.StringSliceVar(&f.triggers, "trigger", nil, "write a file when this `EVENT` happens: sched.wait>TIME, io.latency>TIME, tcp.stall>TIME, signal, signal=NAME")
	flags.DurationVar(&f.after, "after", time.Second, "keep on for this `TIME` when a trigger has fired")
	flags.IntVar(&f.files, "files", 10, "keep the newest `NUMBER` of files")
}

// records is whether it is a flight recorder.
func (f *flightFlags) records() bool { return f.ring != "" || len(f.triggers) > 0 }

const triggerHelp = "give sched.wait>TIME (as in 'sched.wait>20ms'), io.latency>TIME, tcp.stall>TIME, signal, or signal=NAME"

func (f *flightFlags) check(output string) error {
	if f.records() && output == "-" {
		return usagef("bad --output \"-\": a flight recorder writes files: give a name")
	}
	if f.after < 0 {
		return usagef("bad --after %v: give a time such as 1s, or 0", f.after)
	}
	if f.files < 1 {
		return usagef("bad --files %d: give a number, 1 or more", f.files)
	}
	longer := map[string]*time.Duration{"sched.wait": &f.wait, "io.latency": &f.latency, "tcp.stall": &f.stall}
	for _, text := range f.triggers {
		event, value, given := strings.Cut(text, "=")
		if what, least, is := strings.Cut(text, ">"); is {
			than, err := time.ParseDuration(least)
			if longer[what] == nil || err != nil || than <= 0 {
				return usagef("bad --trigger %q: %s", text, triggerHelp)
			}
			if *longer[what] == 0 || than < *longer[what] {
				*longer[what] = than
			}
			continue
		}
		number := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(value), "SIG"))
		switch {
		case text == "signal":
			f.signals = append(f.signals, bugs...)
		case event == "signal" && given && number != 0:
			f.signals = append(f.signals, int(number))
		default:
			return usagef("bad --trigger %q: %s", text, triggerHelp)
		}
	}
	return nil
}

// record keeps events until they are wanted.
func (f *traceFlags) record(stderr io.Writer) (err error) {
	ctx, stop := interruptible()
	defer stop()
	byHand := make(chan os.Signal, 1)
	signal.Notify(byHand, syscall.SIGUSR1)
	defer signal.Stop(byHand)
	owners, _, closeAll, err := bringUp(owner.Options{Proc: f.proc}, nil, f.probes()...)
	defer closing(&err, closeAll)
	if err != nil {
		return err
	}
	if err := f.probe.Begin(); err != nil {
		return err
	}
	keep := stillNeeded(f.proc)
	if os.Geteuid() == 0 {
		keep = append(keep, cap.DAC_OVERRIDE) // files come later, and root's go anywhere
	}
	if err := limit(keep...); err != nil {
		return err
	}
	if err := f.prepare(); err != nil {
		return err
	}
	f.probe.Arm()
	fmt.Fprintf(stderr, "recording the last %s of events; SIGUSR1 (kill -USR1 %d) writes a file, Ctrl-C ends it\n", humanize.IBytes(f.bytes), os.Getpid())
	var end <-chan time.Time
	if f.duration > 0 {
		end = time.After(f.duration)
	}
	poll := time.NewTicker(traceEvery)
	defer poll.Stop()
	collect := time.NewTicker(time.Second)
	defer collect.Stop()
	var fired []trace.Trigger
	var after <-chan time.Time // a file is due
	for {
		select {
		case <-ctx.Done():
			return f.last(fired, stderr)
		case <-end:
			return f.last(fired, stderr)
		case <-byHand:
			triggered, err := f.probe.Poll() // and the names until now
			if err != nil {
				return err
			}
			fired = append(fired, triggered...)
			if err := f.dump("SIGUSR1", stderr); err != nil {
				return err
			}
		case <-poll.C:
			triggered, err := f.probe.Poll()
			if err != nil {
				return err
			}
			fired = append(fired, triggered...)
			if len(fired) > 0 && after == nil {
				after = time.After(f.after)
			}
		case <-after:
			if _, err := f.probe.Poll(); err != nil { // the names until now
				return err
			}
			if err := f.dump(fired[0].String(), stderr); err != nil {
				return err
			}
			fired, after = nil, nil
			if fired, err = f.probe.Poll(); err != nil { // which makes room for the next
				return err
			}
			f.probe.Arm()
		case <-collect.C:
			if err := f.collect(owners, true); err != nil {
				return err
			}
		}
	}
}

// last writes what a trigger still waits for at the end.
func (f *traceFlags) last(fired []trace.Trigger, stderr io.Writer) error {
	triggered, err := f.probe.Poll()
	if fired = append(fired, triggered...); err != nil || len(fired) == 0 {
		return err
	}
	return f.dump(fired[0].String(), stderr)
}

// path is that of the file of a number, which stands before the ending.
func (f *traceFlags) path(number string) string {
	name, ending := strings.TrimSuffix(f.output, "."+f.format), "."+f.format
	if name == f.output {
		ending = ""
	}
	return name + "-" + number + ending
}

// prepare finds out whether files can be written, and goes on numbering behind those that are there.
func (f *traceFlags) prepare() error {
	there, err := filepath.Glob(f.path("*"))
	if err != nil {
		return fmt.Errorf("looking for earlier files: %w", err)
	}
	before, after, _ := strings.Cut(f.path("*"), "*")
	for _, path := range there {
		number, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(path, before), after))
		f.number = max(f.number, number)
	}
	try := f.path(strconv.Itoa(f.number + 1))
	file, err := tracefile.Create(try, f.format)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), os.RemoveAll(try))
}

// dump writes a file of what is there. That this fails is said, and does not end the recorder: the disk may have room the next time.
func (f *traceFlags) dump(why string, stderr io.Writer) error {
	t, err := f.probe.Dump()
	if err != nil {
		return err
	}
	if err := f.write(t, why, stderr); err != nil {
		fmt.Fprintf(stderr, "culprit: %s: %v\n", why, err)
	}
	return nil
}

// write removes the oldest files if there are too many, and writes another.
func (f *traceFlags) write(t snapshot.Trace, why string, stderr io.Writer) error {
	for len(f.written) >= f.files {
		if err := os.RemoveAll(f.written[0]); err != nil {
			return fmt.Errorf("removing the oldest file: %w", err)
		}
		f.written = f.written[1:]
	}
	f.number++
	path := f.path(strconv.Itoa(f.number))
	file, err := tracefile.Create(path, f.format)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Write(t), file.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(path))
	}
	f.written = append(f.written, path)
	fmt.Fprintf(stderr, "%s: %s: %s events of %s\n", path, why, humanize.Comma(int64(t.Events())), time.Duration(t.End-t.Start).Round(time.Millisecond))
	return nil
}
