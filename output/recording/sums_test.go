package recording

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"culprit/probes/snapshot"
)

// spaced is the n-th of intervals of twenty minutes, as they are kept.
func spaced(n int) Snapshot {
	s := at(n)
	start := begin.Add(time.Duration(n) * 20 * time.Minute)
	end := start.Add(20 * time.Minute)
	s.IO.Start, s.Sched.Start, s.TCP.Start = start, start, start
	s.IO.End, s.Sched.End, s.TCP.End = end, end, end
	for i := range s.Sched.Rows {
		s.Sched.Rows[i].Waiting, s.Sched.Rows[i].Before = uint64(1000*(n+1)), uint64(1000*n)
	}
	return s
}

// total is a span as one, by application, and in how many pieces it was read.
func total(t *testing.T, dir string, since, until time.Time, merged func(_, _ time.Time) bool) (all Snapshot, pieces int) {
	t.Helper()
	_, err := Read(dir, Query{Since: since, Until: until, Merged: merged}, func(i Interval) error {
		if pieces++; pieces == 1 {
			all = i.Snapshot
		} else {
			all = all.Then(i.Snapshot)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all.IO, all.Sched, all.TCP = all.IO.Group(snapshot.ByApp), all.Sched.Group(snapshot.ByApp), all.TCP.Group(snapshot.ByApp)
	for i := range all.Sched.Rows { // what is left out between intervals, and what was waiting before, are one sum
		r := &all.Sched.Rows[i]
		r.LeftOut, r.Before = r.WaitedFor(), 0
	}
	all.Sched.Worst, all.TCP.Worst = nil, nil // of a sum, its worst
	return all, pieces
}

func always(_, _ time.Time) bool { return true }

// What is read of sums is what is read of intervals, and is read in few pieces, whatever was interrupted, removed or added.
func TestLongSpans(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	const intervals = 150 // two days and two hours
	for n := range intervals {
		record(t, w, spaced(n))
	}
	check := func(what string, since, until time.Time, merged func(_, _ time.Time) bool, most int) {
		t.Helper()
		want, all := total(t, dir, since, until, nil)
		got, pieces := total(t, dir, since, until, merged)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: sums are\n%+v\nintervals are\n%+v", what, got, want)
		}
		if pieces != most {
			t.Errorf("%s: read in %d pieces, of %d intervals; want %d", what, pieces, all, most)
		}
	}
	end := begin.AddDate(0, 0, 3)
	// Two days that are over, the hours of the third one, and the last one's intervals.
	check("all", time.Time{}, end, always, 1+1+17+2)
	check("a span", begin.Add(7*time.Hour+5*time.Minute), begin.Add(40*time.Hour), always, 1+1+1+7+2)
	check("by the hour", time.Time{}, end, func(first, last time.Time) bool {
		return first.Add(-1).Truncate(time.Hour).Equal(last.Add(-1).Truncate(time.Hour))
	}, 50+2)
	if _, n := total(t, dir, time.Time{}, end, func(_, _ time.Time) bool { return false }); n != intervals {
		t.Errorf("%d intervals are read where none may be merged", n)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	// A sum of which a part is there, is none.
	hours, err := filesOf(dir, escape("db1.example"))
	if err != nil {
		t.Fatal(err)
	}
	if len(hours) < 50 {
		t.Fatalf("there are %d hours", len(hours))
	}
	if err := os.Remove(tablePath(hours[len(hours)-3].sums[hourSum], "interval")); err != nil {
		t.Fatal(err)
	}
	check("one hour without a sum", time.Time{}, end, always, 1+1+17+3)

	// What comes later to a day that is over is not forgotten.
	w = open(t, dir)
	late := spaced(15)
	for _, end := range []*time.Time{&late.IO.End, &late.Sched.End, &late.TCP.End} {
		*end = end.Add(5 * time.Minute)
	}
	record(t, w, late)
	check("a day with another journal", time.Time{}, end, always, 9+1+1+17+3)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w = open(t, dir); len(w.Damage()) > 0 {
		t.Error("sealing again finds damage")
	}
	check("a day with another hour", time.Time{}, end, always, 1+1+17+3)

	// Of a day of which an hour is gone, its sum is, too.
	if err := hours[0].remove(); err != nil {
		t.Fatal(err)
	}
	check("without the first hour", time.Time{}, end, always, 9+1+17+3)
	if left, _ := filepath.Glob(filepath.Join(dir, ".sums/*/*/*/*"+filepath.Base(hours[0].stem)+"*")); len(left) > 0 {
		t.Errorf("of an hour that was removed there are %q", left)
	}
}

// Of what is recorded with gaps, a sum says how long it was recorded. One that is damaged is made again; and a day of which an hour cannot be
// read keeps no other from having one.
func TestGaps(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	for n := 0; n < 4*72; n += 24 { // each eight hours, for four days
		record(t, w, spaced(n))
	}
	hours, err := filesOf(dir, escape("db1.example"))
	if err != nil {
		t.Fatal(err)
	}
	days := slices.Collect(daysOf(hours))
	for _, day := range days[:2] { // as if they were not there yet
		if err := w.forgetDay(day[0].stem); err != nil {
			t.Fatal(err)
		}
	}
	for _, stem := range []string{days[0][0].sums[hourSum], days[1][0].sums[hourSum], days[1][0].stem} {
		if err := os.WriteFile(tablePath(stem, "io"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var recorded time.Duration
	pieces := 0
	damage, err := Read(dir, Query{Until: begin.AddDate(1, 0, 0), Merged: always}, func(i Interval) error {
		recorded += i.Recorded
		pieces++
		return nil
	})
	if want := 11 * 20 * time.Minute; err != nil || recorded != want || len(damage) == 0 {
		t.Errorf("%v were recorded, want %v; %v, %v", recorded, want, damage, err)
	}
	if want := len(days) - 2 + len(days[1]) - 1 + len(days[len(days)-1]); pieces != want {
		t.Errorf("read in %d pieces, want %d: what is left of the second day's hours, those of the last, and the others' sums", pieces, want)
	}
}
