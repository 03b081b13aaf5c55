package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"culprit/output/compare"
	"culprit/output/csv"
	"culprit/output/json"
	"culprit/output/recording"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

// diffSide is one of the two that culprit report --diff compares.
type diffSide struct {
	given    string
	dir      string
	info     os.FileInfo // of the directory, by whatever name it is given; nil if there is none
	from, to time.Time
}

// checkDiff checks the flags and arguments of culprit report --diff.
func (f *reportFlags) checkDiff(args []string, now time.Time) error {
	if len(args) != 2 {
		return usagef("--diff compares two: give A and B, each SINCE..UNTIL, DIR or DIR@SINCE..UNTIL")
	}
	if f.since != "" || f.until != "" || f.last != 0 || f.step != 0 {
		return usagef("--diff has the spans as its arguments: leave --since, --until, --last and --step out")
	}
	if snapshot.By(f.by) == snapshot.ByPID || len(f.pids) > 0 {
		return usagef("--diff compares what both spans have, and processes are others: leave --by pid and --pid out")
	}
	for i, given := range args {
		side, err := f.diffSide(given, now)
		if err != nil {
			return err
		}
		f.sides[i] = side
	}
	a, b := f.sides[0], f.sides[1]
	if (a.dir == b.dir || os.SameFile(a.info, b.info)) && a.from.Before(b.to) && b.from.Before(a.to) {
		return usagef("bad --diff %s %s: the two have a time in common", a.given, b.given)
	}
	return nil
}

func (f *reportFlags) diffSide(given string, now time.Time) (s diffSide, err error) {
	dir, since, until := f.split(given)
	s = diffSide{given: given, dir: dir}
	s.info, err = os.Stat(dir)
	switch {
	case dir == f.dir: // what is wrong with it is said when it is read, as without --diff
	case errors.Is(err, fs.ErrPermission):
		return s, fmt.Errorf("comparing %s: %w", given, err)
	case err != nil || !s.info.IsDir():
		return s, usagef("bad --diff %q: there is no directory %q: give SINCE..UNTIL, DIR or DIR@SINCE..UNTIL", given, dir)
	}
	if s.from, err = moment("diff", since, now, time.Time{}); err != nil {
		return s, err
	}
	if s.to, err = moment("diff", until, now, now); err != nil {
		return s, err
	}
	switch {
	case s.from.Equal(s.to):
		return s, usagef("bad --diff %q: it ends when it begins", given)
	case s.from.After(s.to):
		return s, usagef("bad --diff %q: it ends before it begins", given)
	}
	return s, nil
}

// split is a directory and a span of it, all if both times are empty. What is a directory is that, even if it looks like a span.
func (f *reportFlags) split(given string) (dir, since, until string) {
	if info, err := os.Stat(given); err == nil && info.IsDir() {
		return given, "", ""
	}
	dir, span := f.dir, given
	if at := strings.LastIndexByte(given, '@'); at >= 0 {
		dir, span = given[:at], given[at+1:]
	}
	since, until, ok := strings.Cut(span, "..")
	if !ok || strings.Contains(until, "/") { // as in ../DIR
		return given, "", ""
	}
	return dir, since, until
}

// readSide reads one of the two: sums of hours are intervals like others, where they are short beside what was recorded.
func (f *reportFlags) readSide(s diffSide, stderr io.Writer) (*compare.Side, error) {
	var first, last time.Time
	query := recording.Query{Since: s.from, Until: s.to, Merged: func(_, _ time.Time) bool { return true }, Apps: f.apps, Hosts: f.hosts}
	_, err := recording.Read(s.dir, query, func(r recording.Interval) error {
		if first.IsZero() || r.IO.Start.Before(first) {
			first = r.IO.Start
		}
		if r.IO.End.After(last) {
			last = r.IO.End
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if first.IsZero() {
		return nil, fmt.Errorf("comparing %s: %w", s.given, errNothingRecorded)
	}
	side := compare.NewSide(s.given, snapshot.By(f.by))
	query.Merged = nil
	if f.appsAlone() {
		query.Merged = func(from, to time.Time) bool { return blocksOfSums*to.Sub(from) <= last.Sub(first) }
	}
	damage, err := recording.Read(s.dir, query, func(r recording.Interval) error {
		if f.chooses() {
			r.IO, r.Sched, r.TCP = r.IO.Filter(f.keeps), r.Sched.Filter(f.keeps), r.TCP.Filter(f.keeps)
		}
		if f.device != "" {
			r.IO.Rows = slices.DeleteFunc(r.IO.Rows, func(r snapshot.IORow) bool { return r.Device != f.device })
		}
		side.Add(r.Host, r.Recorded, r.IO, r.Sched, r.TCP)
		return nil
	})
	sayDamage(stderr, damage)
	return side, err
}

// blocksOfSums is how many sums a span has at least that is read as such.
const blocksOfSums = 48

// diff prints what two spans differ in.
func (f *reportFlags) diff(stdout, stderr io.Writer) error {
	var sides [2]*compare.Side
	for i, s := range f.sides {
		var err error
		if sides[i], err = f.readSide(s, stderr); err != nil {
			return err
		}
	}
	d, err := compare.Compare(sides[0], sides[1])
	if err != nil {
		return err
	}
	out := &table.Table{W: stdout, Width: width(stdout), Top: f.top}
	return printer(&f.watchFlags, stdout, json.Diff, (*csv.Writer).Diff, []section[snapshot.Diff]{{true, out.Diff}})(d)
}
