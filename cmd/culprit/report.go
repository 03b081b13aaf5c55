package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"culprit/output/recording"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

// reportFlags are those of culprit report.
type reportFlags struct {
	watchFlags
	dir          string
	hosts        []string
	since, until string
	last         time.Duration
	step         time.Duration
	diffs        bool

	from, to time.Time
	sides    [2]diffSide // of --diff
}

func newReport() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:   "report [--diff A B]",
		Short: "What a recording says of any span of time",
		Long: `Reads what culprit record has kept, of one machine or of many that share a directory, which
are added up, or only of those that --host names: who used the disks, who waited for a CPU
and because of whom, whose TCP connections stalled and why, and whether the books balance;
from --since until --until, or in the --last hours. With --step, one such report for each
step.

Times are as in 2026-11-22, "2026-11-22 15:04", 15:04 (of today), or 2026-11-22T15:04:05Z,
or how long ago: 90m, -36h. Culprits of waits are applications, however rows are grouped.

With --diff, what differs between two spans, SINCE..UNTIL, of --dir or of DIR@SINCE..UNTIL,
or between all of two recordings, DIR: rates, and quantiles of latencies, each with how far
off it may be. What chance explains is not listed: with a confidence of 95 %, nothing that is
listed differs by chance alone; nor is what differs by less than 5 %.`,
		Example: `  culprit report --last 1h
  culprit report --since 03:00 --until 04:00 --step 5m --app postgres
  culprit report --last 720h --by user -n 5
  culprit report --dir fleet --host db1,db2 --last 24h
  culprit report --last 24h --step 1h --json | jq -c '[.start, .rows[0].app]'
  culprit report --diff 26h..24h 2h..      yesterday's two hours and the last two
  culprit report --diff before after       two recordings, of two kernels, for example`,
		Args: func(cmd *cobra.Command, args []string) error {
			if f.diffs {
				return nil // they are checked with the flags
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(time.Now(), args); err != nil {
				return err
			}
			if f.diffs {
				return f.diff(cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.dir, "dir", defaultDir, "read the recording in `DIR`")
	flags.StringSliceVar(&f.hosts, "host", nil, "only what was recorded on the hosts `HOST,…` (default: all, added up)")
	flags.StringVar(&f.since, "since", "", "from this `TIME` on (default: all)")
	flags.StringVar(&f.until, "until", "", "until this `TIME` (default: now)")
	flags.DurationVar(&f.last, "last", 0, "short for --since: this `TIME` before --until")
	flags.DurationVar(&f.step, "step", 0, "one report for each `TIME` of the span")
	flags.BoolVar(&f.diffs, "diff", false, "what differs between two spans or recordings, the arguments A and B")
	flags.IntSliceVarP(&f.pids, "pid", "p", nil, "only what the processes `PID,…` caused, where they have rows of their own")
	flags.StringSliceVar(&f.apps, "app", nil, "only what the applications `APP,…` caused")
	flags.StringSliceVar(&f.cgroups, "cgroup", nil, "only what processes in the cgroups `PATH,…` or below caused")
	flags.StringSliceVar(&f.users, "user", nil, "only what processes of the users `USER,…` caused")
	flags.StringVarP(&f.device, "device", "d", "", "only this whole `DISK`")
	f.registerBy(cmd, snapshot.ByApp)
	f.registerTop(cmd)
	f.registerForm(cmd, summarySorts)
	return cmd
}

const shortestStep = time.Second

func (f *reportFlags) check(now time.Time, args []string) (err error) {
	f.proc, f.sys = hostProc, hostSys // nothing is looked up there
	if err := f.checkForm(summarySorts); err != nil {
		return err
	}
	if f.diffs {
		return f.checkDiff(args, now)
	}
	if f.to, err = moment("until", f.until, now, now); err != nil {
		return err
	}
	if f.from, err = moment("since", f.since, now, time.Time{}); err != nil {
		return err
	}
	switch {
	case f.last < 0:
		return usagef("bad --last %v: give how long, such as 90m", f.last)
	case f.last > 0 && f.since != "":
		return usagef("bad --last %v: --since says where the span begins: leave one of them out", f.last)
	case f.last > 0:
		f.from = f.to.Add(-f.last)
	}
	if !f.from.Before(f.to) {
		return usagef("bad --since %q: it is not before --until", f.since)
	}
	if f.step != 0 && f.step < shortestStep {
		return usagef("bad --step %v: give a time of %v or more", f.step, shortestStep)
	}
	return nil
}

// moment is a time that is given as such, or as how long ago it was.
func moment(flag, given string, now, none time.Time) (time.Time, error) {
	if given == "" {
		return none, nil
	}
	if ago, err := time.ParseDuration(given); err == nil {
		return now.Add(-ago.Abs()), nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, given, time.Local); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.Parse(form, given); err == nil {
			y, m, d := now.Local().Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, time.Local), nil
		}
	}
	return none, usagef("bad --%s %q: give a time such as 2026-11-22, \"2026-11-22 15:04\" or 15:04, or how long ago, such as 90m", flag, given)
}

// stepRows is from how many rows on those of a step are merged.
const stepRows = 5000

// spans are the steps of each host.
type spans map[string]map[int64]*recording.Snapshot

// add adds an interval to its step.
func (f *reportFlags) add(all spans, i recording.Interval) {
	steps := all[i.Host]
	if steps == nil {
		steps = map[int64]*recording.Snapshot{}
		all[i.Host] = steps
	}
	step := f.stepOf(i.IO.End)
	if f.chooses() {
		i.IO, i.Sched, i.TCP = i.IO.Filter(f.keeps), i.Sched.Filter(f.keeps), i.TCP.Filter(f.keeps)
	}
	s := steps[step]
	if s == nil {
		steps[step] = &i.Snapshot
		return
	}
	*s = s.Then(i.Snapshot)
	if len(s.IO.Rows)+len(s.Sched.Rows)+len(s.TCP.Rows) > stepRows {
		by := snapshot.By(f.by)
		s.IO, s.Sched, s.TCP = s.IO.Group(by), s.Sched.Group(by), s.TCP.Group(by)
	}
}

// stepOf is the step of what ends at a time.
func (f *reportFlags) stepOf(end time.Time) int64 {
	if f.step == 0 {
		return 0
	}
	return end.Add(-1).Truncate(f.step).UnixNano()
}

// appsAlone is whether nothing is asked about but applications: sums can be of more than there is room for to tell their processes,
// cgroups and users apart.
func (f *reportFlags) appsAlone() bool {
	return snapshot.By(f.by) == snapshot.ByApp && len(f.pids)+len(f.cgroups)+len(f.users) == 0
}

// merged says whether intervals can come as one: if they are of one step.
func (f *reportFlags) merged() func(first, last time.Time) bool {
	if !f.appsAlone() {
		return nil
	}
	return func(first, last time.Time) bool { return f.stepOf(first) == f.stepOf(last) }
}

func sayDamage(stderr io.Writer, damage []recording.Damage) {
	for _, d := range damage {
		fmt.Fprintln(stderr, "culprit:", d)
	}
}

var errNothingRecorded = errors.New("nothing was recorded in that span")

func (f *reportFlags) run(stdout, stderr io.Writer) error {
	all := spans{}
	query := recording.Query{Since: f.from, Until: f.to, Merged: f.merged(), Apps: f.apps, Hosts: f.hosts}
	damage, err := recording.Read(f.dir, query, func(i recording.Interval) error {
		f.add(all, i)
		return nil
	})
	sayDamage(stderr, damage)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errNothingRecorded
	}
	steps, hosts := map[int64]*recording.Snapshot{}, map[int64][]string{}
	for _, host := range slices.Sorted(maps.Keys(all)) {
		for at, s := range all[host] {
			hosts[at] = append(hosts[at], host)
			if steps[at] == nil {
				steps[at] = s
			} else {
				*steps[at] = steps[at].Beside(*s)
			}
		}
	}
	out := &table.Table{W: stdout, Width: width(stdout), Top: f.top, Timestamps: f.timestamps || f.step > 0}
	f.filters = filters{device: f.device} // owners are chosen already, and rows that were merged do not say more
	disks := ioFlags{watchFlags: f.watchFlags}
	cpus, network := schedFlags{watchFlags: f.watchFlags}, tcpFlags{watchFlags: f.watchFlags}
	if f.sort == summarySorts[0] {
		disks.sort, cpus.sort, network.sort = snapshot.IOSorts[0], snapshot.SchedSorts[0], snapshot.TCPSorts[0]
	}
	printIO, printSched, printTCP := disks.printer(out), cpus.printer(out), network.printer(out)
	for _, at := range slices.Sorted(maps.Keys(steps)) {
		s := steps[at]
		s.IO.Hosts, s.Sched.Hosts, s.TCP.Hosts = hosts[at], hosts[at], hosts[at]
		err := errors.Join(printIO(disks.shape(s.IO)), printSched(cpus.shape(s.Sched)), printTCP(network.shape(s.TCP)))
		if err != nil {
			return err
		}
	}
	return nil
}
