// Package parquet writes traces as Parquet: a directory with one table for each kind of event, and beside them
//
//	thread  names of threads, each before or in the part in which it is new
//	loss    the counters of losses that grew, each all since the trace began
//	batch   the spans of time that events came in, with what time it was at their ends
//
// A table is a directory of parts, DIR/sched.switch/00001.parquet and so on: files for about a second each, and of the same
// second if they have the same number. Part 0 has no rows. A part without rows has no file.
package parquet

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"culprit/output/internal/parts"
	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

// partLength is how old a part gets, so that a reader is at most so late.
const partLength = int64(time.Second)

// The names of the tables beside the events'.
const (
	lossTable  = "loss"
	batchTable = "batch"
)

type loss struct {
	At    int64  `parquet:"at_ns,delta"`
	Name  string `parquet:"name,dict"`
	Count uint64 `parquet:"count"`
}

type batch struct {
	Start    int64 `parquet:"start_ns,delta"`
	End      int64 `parquet:"end_ns,delta"`
	RealTime int64 `parquet:"real_time_ns,delta"` // since the epoch, at End
}

// Writer writes one trace.
type Writer struct {
	rows    []traced.Table // of events and threads
	losses  *parts.Writer[loss]
	batches *parts.Writer[batch]

	part  int   // the next to be sealed
	begun bool  // there is something in it
	since int64 // that it is of
	lost  map[string]uint64
	err   error // that ended it: after a part that is missing, there are no others
}

// New makes the directory of a trace. It must not exist, or be empty.
func New(dir string) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("making a directory for a trace: %w", err)
	}
	if there, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("making a directory for a trace: %w", err)
	} else if len(there) > 0 {
		return nil, fmt.Errorf("making a directory for a trace: %s is not empty", dir)
	}
	w := &Writer{part: 1}
	for _, rows := range tables() {
		table, err := rows.Table(filepath.Join(dir, rows.Name))
		if err != nil {
			return nil, err
		}
		w.rows = append(w.rows, table)
	}
	var err error
	if w.losses, err = parts.New[loss](filepath.Join(dir, lossTable)); err != nil {
		return nil, err
	}
	w.batches, err = parts.New[batch](filepath.Join(dir, batchTable))
	return w, err
}

// tables are those that are made of a snapshot.Trace's slices.
func tables() []traced.Rows {
	all := []traced.Rows{traced.Threads}
	for _, k := range traced.Kinds {
		all = append(all, k.Rows)
	}
	return all
}

// Write takes a batch, and seals the part if it is a second old.
func (w *Writer) Write(t snapshot.Trace) error {
	if w.err == nil {
		w.err = w.write(&t)
	}
	return w.err
}

func (w *Writer) write(t *snapshot.Trace) error {
	if !w.begun {
		w.begun, w.since = true, t.Start
	}
	for _, table := range w.rows {
		if err := table.Add(t); err != nil {
			return err
		}
	}
	lost := traced.Lost(t)
	for _, name := range slices.Sorted(maps.Keys(lost)) {
		if lost[name] == w.lost[name] {
			continue
		}
		if err := w.losses.Add([]loss{{t.End, name, lost[name]}}); err != nil {
			return err
		}
	}
	w.lost = lost
	if err := w.batches.Add([]batch{{t.Start, t.End, t.RealTime}}); err != nil {
		return err
	}
	if t.End-w.since < partLength {
		return nil
	}
	return w.seal()
}

// Close seals the last part.
func (w *Writer) Close() error {
	if w.err == nil && w.begun {
		w.err = w.seal()
	}
	return w.err
}

func (w *Writer) seal() error {
	for _, table := range w.rows {
		if err := table.Seal(w.part); err != nil {
			return err
		}
	}
	if err := w.losses.Seal(w.part); err != nil {
		return err
	}
	// The batches come last: where they are, the part is there in all tables.
	if err := w.batches.Seal(w.part); err != nil {
		return err
	}
	w.part++
	w.begun = false
	return nil
}

// Read gives back what a Writer wrote, the batches of each part as one. An error of each ends it.
func Read(dir string, each func(snapshot.Trace) error) error {
	files, err := os.ReadDir(filepath.Join(dir, batchTable)) // in the order of their names
	if err != nil {
		return fmt.Errorf("reading a trace: %w", err)
	}
	var sealed []int
	for _, f := range files {
		if part, err := strconv.Atoi(strings.TrimSuffix(f.Name(), ".parquet")); err == nil && part > 0 {
			sealed = append(sealed, part)
		}
	}
	slices.Sort(sealed) // from 100000 on their names are longer
	lost := map[string]uint64{}
	for _, part := range sealed {
		t, err := readPart(dir, part, lost)
		if err != nil {
			return err
		}
		if err := each(t); err != nil {
			return err
		}
	}
	return nil
}

// readPart is all of a part. lost are the losses before it, and become those at its end.
func readPart(dir string, part int, lost map[string]uint64) (snapshot.Trace, error) {
	var t snapshot.Trace
	batches, err := parts.Read[batch](filepath.Join(dir, batchTable), part)
	if err != nil || len(batches) == 0 {
		return t, err
	}
	first, last := batches[0], batches[len(batches)-1]
	t.Start, t.End, t.RealTime = first.Start, last.End, last.RealTime
	for _, rows := range tables() {
		if err := rows.Parts(filepath.Join(dir, rows.Name), part, &t); err != nil {
			return t, err
		}
	}
	losses, err := parts.Read[loss](filepath.Join(dir, lossTable), part)
	if err != nil {
		return t, err
	}
	for _, l := range losses {
		lost[l.Name] = l.Count
	}
	for _, name := range slices.Sorted(maps.Keys(lost)) {
		t.Loss = append(t.Loss, snapshot.Loss{Name: name, Count: lost[name]})
	}
	return t, nil
}
