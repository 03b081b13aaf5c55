package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"culprit/output/tracefile"
	"culprit/probes/snapshot"
)

func newConvert() *cobra.Command {
	return &cobra.Command{
		Use:   "convert IN OUT",
		Short: "Write a trace in another format",
		Long: `Writes a trace that culprit trace has written in another format: the ends of the names
say which. A file that was cut is converted up to there. A timeline (.pftrace) has a
request to a disk as one slice: converted from that, a trace has no io.queue, io.issue
and io.merge; all other events are as they were.`,
		Example: `  culprit convert t.parquet t.pftrace.gz
  culprit convert t.pftrace t.jsonl
  culprit convert t.jsonl.gz t.parquet`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("convert what? give two names, as in culprit convert t.parquet t.pftrace")
			}
			n, err := convert(args[0], args[1])
			if err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s events\n", args[1], humanize.Comma(int64(n)))
				if lacks := tracefile.Lacks(args[0]); len(lacks) > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: a timeline has no %s\n", args[0], strings.Join(lacks, ", "))
				}
			}
			return err
		},
	}
}

// convert returns how many events there were.
func convert(in, out string) (events int, err error) {
	format := tracefile.FormatOf(out)
	switch {
	case format == "":
		return 0, usagef("bad OUT %q: give a name that ends in .%s", out, strings.Join(tracefile.Formats, ", ."))
	case tracefile.FormatOf(in) == "":
		return 0, usagef("bad IN %q: give a trace whose name ends in .%s", in, strings.Join(tracefile.Formats, ", ."))
	}
	from, err := os.Stat(in)
	if err != nil {
		return 0, err
	}
	if to, err := os.Stat(out); err == nil && os.SameFile(from, to) {
		return 0, usagef("bad OUT %q: it is IN: give another name", out)
	}
	w, err := tracefile.Create(out, format)
	if err != nil {
		return 0, err
	}
	err = tracefile.Read(in, func(t snapshot.Trace) error {
		events += t.Events()
		return w.Write(t)
	})
	return events, errors.Join(err, w.Close())
}
