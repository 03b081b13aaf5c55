package recording

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Reports of long spans do not read each interval: of each hour, and of each day that is over, there is a sum, which is one interval
// with the same tables. They are made of what is recorded; what they are the sum of stays, and is read wherever there is none, or
// another number of hours than it is the sum of. Most readers of Parquet leave out what begins with a dot, and count nothing twice.
const (
	hourSum = iota
	daySum
	levels
)

// sumDirs are in a recording's directory, and have parts as it has.
var sumDirs = [levels]string{hourSum: filepath.Join(".sums", "hour"), daySum: filepath.Join(".sums", "day")}

// sumStem is where the sum of a level is that begins with an hour.
func (w *Writer) sumStem(level int, stem string) (string, error) {
	part, err := filepath.Rel(w.options.Dir, stem)
	return filepath.Join(w.options.Dir, sumDirs[level], part), err
}

// sum is one that is being made.
type sum struct {
	of   int32 // hours
	last interval
	long int64 // of all intervals
	all  *Snapshot
	back bool // the clock was set back meanwhile: the files' names do not say what is in it
}

// sumRows is from how many rows on those of a sum are merged meanwhile.
const sumRows = 5000

func (s *sum) add(r *rows) {
	s.back = s.back || r.Intervals[0].End <= s.last.End
	s.last = r.Intervals[0]
	s.long += s.last.recorded()
	one := r.snapshot()
	if s.all == nil {
		s.all = &one
		return
	}
	*s.all = s.all.Then(one)
	if len(s.all.IO.Rows)+len(s.all.Sched.Rows)+len(s.all.TCP.Rows) > sumRows {
		*s.all = s.all.lighten()
	}
}

// addAll adds what tables have, or nothing if they cannot be read.
func (s *sum) addAll(stem string) error {
	return readTables(stem, nil, func(r *rows) error { s.add(r); return nil })
}

// write makes the sum's files, if it is one of anything that has an order.
func (s *sum) write(stem string) error {
	if s.all == nil || s.back {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(stem), 0o755); err != nil {
		return fmt.Errorf("making a directory for sums: %w", err)
	}
	f, err := createFiles(stem)
	if err != nil {
		return err
	}
	r := s.all.rows(Options{Boot: s.last.Boot, Kernel: s.last.Kernel, Version: s.last.Version})
	r.Intervals[0].Hours, r.Intervals[0].Recorded = s.of, s.long
	if err := f.write(&r); err != nil {
		return errors.Join(err, f.abandon())
	}
	return errors.Join(f.close(stem), f.abandon())
}

// sumHour makes the sum of an hour.
func (w *Writer) sumHour(stem string, all sum) error {
	stem, err := w.sumStem(hourSum, stem)
	if err != nil {
		return err
	}
	return all.write(stem)
}

// sumDays makes the sums of days that are over, and have none.
func (w *Writer) sumDays() error {
	hours, err := filesOf(w.options.Dir, escape(w.options.Host))
	if err != nil {
		return err
	}
	days := slices.Collect(daysOf(hours))
	err = nil
	for _, day := range days[:max(len(days), 1)-1] {
		if day[0].sums[daySum] == "" && !slices.ContainsFunc(day, func(h *hour) bool { return h.sums[hourSum] == "" }) {
			err = errors.Join(err, w.sumDay(day))
		}
	}
	return err
}

func (w *Writer) sumDay(day []*hour) error {
	s := sum{of: int32(len(day))}
	for _, h := range day {
		err := s.addAll(h.sums[hourSum])
		if damaged := (*tableError)(nil); errors.As(err, &damaged) { // what it is the sum of is there
			again := sum{of: 1}
			if err = errors.Join(again.addAll(h.stem), again.write(h.sums[hourSum])); err == nil {
				err = s.addAll(h.sums[hourSum])
			}
		}
		if err != nil {
			return fmt.Errorf("adding up a day: %w", err)
		}
	}
	stem, err := w.sumStem(daySum, day[0].stem)
	if err == nil {
		err = s.write(stem)
	}
	if err != nil {
		return fmt.Errorf("adding up a day: %w", err)
	}
	return nil
}

// daysOf are the hours of each day, which follow each other.
func daysOf(hours []*hour) func(yield func([]*hour) bool) {
	return func(yield func([]*hour) bool) {
		for len(hours) > 0 {
			n := slices.IndexFunc(hours, func(h *hour) bool { return filepath.Dir(h.stem) != filepath.Dir(hours[0].stem) })
			if n < 0 {
				n = len(hours)
			}
			if !yield(hours[:n]) {
				return
			}
			hours = hours[n:]
		}
	}
}

// forgetDay removes the sum of the day that an hour is of, which has another one now.
func (w *Writer) forgetDay(stem string) error {
	stem, err := w.sumStem(daySum, stem)
	if err != nil {
		return err
	}
	dir := globbed(filepath.Dir(stem))
	whole, err := filepath.Glob(filepath.Join(dir, intervals+"-*")) // first what makes the others whole
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, f := range append(whole, files...) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
