package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// watchFlags are the flags that every report shares.
type watchFlags struct {
	duration   time.Duration
	by         string
	pids       []int
	apps       []string
	cgroups    []string
	users      []string
	top        int
	sort       string
	device     string
	format     string
	json       bool
	timestamps bool
	proc, sys  string

	interval time.Duration // 0: one report at the end
	count    int           // 0: until the end
}

func (f *watchFlags) register(cmd *cobra.Command, sorts []string) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.DurationVar(&f.duration, "duration", f.duration, "end after this time, such as 10s or 5m; 0 is until Ctrl-C")
	flags.StringVar(&f.by, "by", string(snapshot.ByApp), "group by "+join(snapshot.Bys))
	flags.IntSliceVarP(&f.pids, "pid", "p", nil, "only what these processes caused")
	flags.StringSliceVar(&f.apps, "app", nil, "only what these applications caused")
	flags.StringSliceVar(&f.cgroups, "cgroup", nil, "only what processes in these cgroups, or below, caused")
	flags.StringSliceVar(&f.users, "user", nil, "only what these users' processes caused (name or uid)")
	flags.StringVarP(&f.device, "device", "d", "", "only this disk, such as sda or /dev/nvme0n1")
	flags.IntVarP(&f.top, "top", "n", 20, "rows to print; 0 is all")
	flags.StringVar(&f.sort, "sort", sorts[0], "sort by "+strings.Join(sorts, ", "))
	flags.StringVar(&f.format, "format", "table", "table, json (one object a line) or csv")
	flags.BoolVar(&f.json, "json", false, "short for --format json")
	flags.BoolVarP(&f.timestamps, "timestamps", "T", false, "print the time of each report")
	flags.StringVar(&f.proc, "proc", "/proc", "where the host's procfs is mounted")
	flags.StringVar(&f.sys, "sys", "/sys", "where the host's sysfs is mounted")
}

func join[T ~string](values []T) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, string(v))
	}
	return strings.Join(texts, ", ")
}

// parse checks the flags and takes the positional INTERVAL and COUNT.
func (f *watchFlags) parse(args, sorts []string) error {
	if len(args) > 2 {
		return usagef("too many arguments: at most INTERVAL and COUNT are accepted, as in 5 12")
	}
	if len(args) > 0 {
		seconds, err := strconv.ParseFloat(args[0], 64)
		if err != nil || seconds < 0.1 || seconds > 86400 || math.IsNaN(seconds) {
			return usagef("bad INTERVAL %q: give seconds from 0.1 to 86400", args[0])
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
	}
	if !slices.Contains([]string{"table", "json", "csv"}, f.format) {
		return usagef("bad --format %q: give table, json or csv", f.format)
	}
	for _, pid := range f.pids {
		if _, err := os.Stat(filepath.Join(f.proc, strconv.Itoa(pid))); pid < 1 || err != nil {
			return usagef("bad --pid %d: no such process is running", pid)
		}
	}
	if f.device != "" {
		f.device = strings.TrimPrefix(f.device, "/dev/")
		if _, err := os.Stat(filepath.Join(f.sys, "block", f.device)); err != nil || strings.Contains(f.device, "/") {
			return usagef("bad --device %q: give a whole disk, one of %s", f.device, disks(f.sys))
		}
	}
	return nil
}

func disks(sys string) string {
	entries, _ := os.ReadDir(filepath.Join(sys, "block"))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, ", ")
}

// filtered is whether only some owners are asked for.
func (f *watchFlags) filtered() bool {
	return len(f.pids)+len(f.apps)+len(f.cgroups)+len(f.users) > 0
}

// keeps is whether a process is one of those asked for: each kind of filter that
// is given must accept it.
func (f *watchFlags) keeps(p snapshot.Process) bool {
	if len(f.pids) > 0 && !slices.Contains(f.pids, p.PID) || len(f.apps) > 0 && !slices.Contains(f.apps, p.App) {
		return false
	}
	if len(f.cgroups) > 0 && !slices.ContainsFunc(f.cgroups, func(c string) bool { return inCgroup(p.Cgroup, c) }) {
		return false
	}
	return len(f.users) == 0 || slices.ContainsFunc(f.users, func(u string) bool { return isUser(p.User, u) })
}

// inCgroup is whether path is the cgroup or below it; it may be given as seen
// below /sys/fs/cgroup, too.
func inCgroup(path, cgroup string) bool {
	cgroup = "/" + strings.Trim(strings.TrimPrefix(cgroup, "/sys/fs/cgroup"), "/")
	return path == cgroup || cgroup == "/" && path != "" || strings.HasPrefix(path, cgroup+"/")
}

func isUser(have, want string) bool {
	if have == want {
		return true
	}
	u, err := user.LookupId(want)
	return err == nil && u.Username == have
}

// watch calls report once per interval, and at the end, until the duration is
// over, COUNT is reached or the user interrupts. It keeps the process table in order meanwhile.
func (f *watchFlags) watch(table *owner.Table, status io.Writer, report func(last bool) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
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
	progress := status != nil && f.interval == 0
	for {
		select {
		case <-ctx.Done():
			clearStatus(status, progress)
			return report(true)
		case <-end:
			clearStatus(status, progress)
			return report(true)
		case <-next:
			reports++
			last := f.count > 0 && reports == f.count
			if err := report(last); err != nil || last {
				return err
			}
		case <-collect.C:
			if err := table.Collect(); err != nil {
				return err
			}
			if progress {
				fmt.Fprintf(status, "\rwatching for %s; Ctrl-C ends it with a report ", time.Since(begin).Round(time.Second))
			}
		}
	}
}

func clearStatus(w io.Writer, shown bool) {
	if shown {
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
