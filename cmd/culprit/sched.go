package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"culprit/output/csv"
	"culprit/output/json"
	"culprit/output/table"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"
)

// schedFlags are those of culprit sched alone.
type schedFlags struct {
	watchFlags
	matrix, hist, worst, time, threads bool
	culprits                           []string
	tiny                               bool
	blamed                             *tcpFlags // of a tcp probe that comes after it, if there is one
}

func newSched() *cobra.Command {
	var f schedFlags
	cmd := &cobra.Command{
		Use:   "sched [INTERVAL [COUNT]]",
		Short: "Who waits for a CPU, and who made them wait",
		Long: `Every wait for a CPU, of threads that woke up and of those that were preempted,
charged to whatever occupied the CPU meanwhile.

Without INTERVAL there is one report, of everything until Ctrl-C or --duration;
with it, one each INTERVAL seconds, COUNT times.

How to read it:
  WAITS, WAIT   completed waits, and the time that they took
  %WALL         that time's share of all the time of the application's threads
  P50 … MAX     how long one wait took
  CULPRIT       who had the CPU for most of it, and the share
  [wake-up path]        the CPU was idle, and took its time to come up
  [own CPU quota]       the application's cgroup had used up its share (cpu.max)
  [interrupts], [softirqs]  stole the CPU while others waited for it
  [older than history]  longer ago than the CPU's run history tells
  softirqs caused by    whose sockets the kernel received packets for in softirqs,
                and how long; [softirqs] are those of other kinds (timers, RCU …)
  AUDIT         the kernel's own sum of everybody's waits (run_delay, as in
                /proc/PID/schedstat) beside culprit's

Filters choose who waited (the victim), --culprit because of whom: WAIT is that
part then, P50 … MAX stay those of whole waits. With --by pid, processes that have
exited since are added up by name among the culprits.`,
		Example: `  culprit sched 5                    a report every 5 seconds
  culprit sched --duration 1m --by pid  one minute, by process
  culprit sched 5 --matrix           who made whom wait
  culprit sched --app postgres --worst  its longest waits, with what ran meanwhile
  culprit sched 5 --time --threads   where each thread's time went
  culprit sched --json 1 | jq .      for programs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(args, snapshot.SchedSorts); err != nil {
				return err
			}
			if err := cmp.Or(f.tableOnly("hist", f.hist), f.tableOnly("matrix", f.matrix)); err != nil {
				return err
			}
			return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), f.tables(), f.attach)
		},
	}
	f.register(cmd, snapshot.SchedSorts, "waited for")
	flags := cmd.Flags()
	flags.StringSliceVar(&f.culprits, "culprit", nil, "only waits because of `NAME,…`: what the report calls them, or applications")
	flags.BoolVar(&f.matrix, "matrix", false, "add the table of who made whom wait")
	flags.BoolVar(&f.hist, "hist", false, "draw the distribution of the waits of each of the top applications")
	flags.BoolVar(&f.worst, "worst", false, "add each application's longest waits, with what ran meanwhile")
	flags.BoolVar(&f.time, "time", false, "add where the time of the threads went")
	flags.BoolVar(&f.threads, "threads", false, "the same thread by thread; as json or csv, too")
	flags.BoolVar(&f.tiny, "tiny-tables", false, "make every table in the kernel as small as it can be, to see losses")
	flags.MarkHidden("tiny-tables")
	return cmd
}

// tables are the sizes of the process table that the flags ask for.
func (f *schedFlags) tables() owner.Options {
	if f.tiny {
		return owner.Options{Proc: f.proc, Processes: 48, Names: 4}
	}
	return owner.Options{Proc: f.proc}
}

// attach brings up the sched probe. Processes of one name must be told apart where only some of them are asked for.
func (f *schedFlags) attach(owners *owner.Table, out *table.Table) (*part, error) {
	o := sched.Options{
		Proc: f.proc, ByProcess: f.by == string(snapshot.ByPID) || len(f.pids) > 0, ByThread: f.threads,
		Worst: f.worst || f.format == "json" || f.format == "csv",
	}
	if f.tiny {
		o.Threads, o.Pairs, o.Buckets, o.Flows = 16, 2, 8, 2
	}
	if f.blamed != nil && o.Worst {
		o.TalkersFrom = talkersFrom(f.blamed.minStall)
	}
	probe, err := sched.Load(owners, o)
	if err != nil {
		return nil, err
	}
	if o.TalkersFrom > 0 {
		f.blamed.waits = probe
	}
	return newPart(probe, f.shape, f.printer(out)), nil
}

// printer is what prints a report.
func (f *schedFlags) printer(out *table.Table) func(snapshot.Sched) error {
	return printer(&f.watchFlags, out.W, json.Sched, (*csv.Writer).Sched, []section[snapshot.Sched]{
		{true, out.Sched},
		{f.matrix, out.SchedMatrix},
		{f.hist, func(s snapshot.Sched) error { return out.SchedHist(s, f.top) }},
		{f.time || f.threads, out.SchedTime},
		{f.worst, out.SchedWorst},
	})
}

// shape applies the filters and the grouping.
func (f *schedFlags) shape(s snapshot.Sched) snapshot.Sched {
	if f.chooses() {
		s = s.Filter(f.keeps)
	}
	if len(f.culprits) > 0 {
		s = s.BecauseOf(f.culprits, snapshot.By(f.by))
	} else {
		s = s.Group(snapshot.By(f.by))
	}
	return s.SortBy(f.sort)
}
