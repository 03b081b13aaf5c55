package main

import (
	"github.com/spf13/cobra"

	"culprit/output/csv"
	"culprit/output/json"
	"culprit/output/table"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// ioFlags are those of culprit io alone.
type ioFlags struct {
	watchFlags
	hist, files, worst bool
	tiny               bool
}

func newIO() *cobra.Command {
	var f ioFlags
	cmd := &cobra.Command{
		Use:   "io [INTERVAL [COUNT]]",
		Short: "Who is using the disks",
		Long: `Every byte and operation on every disk, charged to the application that caused
it: what it submitted, what it dirtied and a kernel thread wrote back later, and
its part of the file system's journal.

Without INTERVAL there is one report, of everything until Ctrl-C or --duration;
with it, one each INTERVAL seconds, COUNT times.

How to read it:
  READ, WRITE   bytes that reached the disk in the interval
  VIA           the way most written bytes went (read ones, if none were written):
                wb writeback, dio direct, jnl journal, meta metadata, file, swap
  P50, P99      latency from the request's making to its completion, of reads (r)
                or writes (w), whichever were more
  BLOCKED       time that threads slept for I/O
  [kernel: …]   what the kernel does for nobody in particular
  [unattributed: …]  what could not be charged, and why
  AUDIT         /proc/diskstats over the interval beside culprit's own sums of
                everybody's I/O, also when filters choose some rows of the table

Filters choose whose I/O is shown, whoever carries it out. Several kinds of
filter must all accept a process; of one kind, one value must.`,
		Example: `  culprit io 5                       a report every 5 seconds
  culprit io --duration 1m --by pid  one minute, by process
  culprit io --app postgres --files  the files that postgres reads and writes
  culprit io --hist                  latency distributions at the end
  culprit io 10 --worst -d nvme0n1   the slowest requests of one disk
  culprit io 1 --format csv > io.csv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(args, snapshot.IOSorts); err != nil {
				return err
			}
			if err := f.tableOnly("hist", f.hist); err != nil {
				return err
			}
			return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), f.tables(), f.attach)
		},
	}
	f.register(cmd, snapshot.IOSorts, "caused")
	f.registerDevice(cmd)
	cmd.Flags().BoolVar(&f.hist, "hist", false, "draw the latency distribution of each of the top applications")
	cmd.Flags().BoolVar(&f.files, "files", false, "add each application's busiest files")
	cmd.Flags().BoolVar(&f.worst, "worst", false, "add the slowest requests (filters choose among everybody's slowest)")
	cmd.Flags().BoolVar(&f.tiny, "tiny-tables", false, "make every table in the kernel as small as it can be, to see losses")
	cmd.Flags().MarkHidden("tiny-tables")
	return cmd
}

// tables are the sizes of the process table that the flags ask for.
func (f *ioFlags) tables() owner.Options {
	o := owner.Options{Proc: f.proc}
	if f.files {
		o.Names = 65536 // files have names there, too
	}
	if f.tiny {
		o.Processes, o.Names = 36, 4
	}
	return o
}

// attach brings up the io probe.
func (f *ioFlags) attach(owners *owner.Table, out *table.Table) (*part, error) {
	o := ioprobe.Options{Proc: f.proc, Sys: f.sys, Files: f.files, Worst: f.worst}
	if f.tiny {
		o.Rows, o.Buckets, o.Inodes, o.Folios = 24, 8, 4, 4
		o.Bios, o.Slots, o.Transactions, o.Shares = 2, 64, 2, 2
	}
	probe, err := ioprobe.Load(owners, o)
	if err != nil {
		return nil, err
	}
	return newPart(probe, f.shape, f.printer(out)), nil
}

// printer is what prints a report.
func (f *ioFlags) printer(out *table.Table) func(snapshot.IO) error {
	return printer(&f.watchFlags, out.W, json.IO, (*csv.Writer).IO, []section[snapshot.IO]{
		{true, out.IO},
		{f.hist, func(s snapshot.IO) error { return out.Hist(s, f.top) }},
		{f.files, out.Files},
		{f.worst, out.Worst},
	})
}

// shape applies the filters and the grouping.
func (f *ioFlags) shape(s snapshot.IO) snapshot.IO {
	if f.chooses() {
		s = s.Filter(f.keeps)
	}
	if f.device != "" {
		s = s.OnDevice(f.device)
	}
	return s.Group(snapshot.By(f.by)).SortBy(f.sort)
}
