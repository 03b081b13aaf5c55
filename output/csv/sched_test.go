package csv_test

import (
	"bytes"
	stdcsv "encoding/csv"
	"errors"
	"io"
	"slices"
	"strconv"
	"testing"

	"culprit/output/csv"
	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

func TestSchedGolden(t *testing.T) {
	var out bytes.Buffer
	w := csv.NewWriter(&out, csv.Options{Top: 2})
	for _, s := range []snapshot.Sched{sample.SchedUnbalanced(snapshot.ByPID), sample.SchedThreads(snapshot.ByApp), sample.SchedIdle()} {
		if err := w.Sched(s); err != nil {
			t.Fatal(err)
		}
	}
	golden.Check(t, "sched.csv", out.Bytes())
}

func TestSchedRectangular(t *testing.T) {
	var out bytes.Buffer
	w := csv.NewWriter(&out, csv.Options{})
	want := map[string]int{}
	for _, by := range snapshot.Bys {
		for _, s := range []snapshot.Sched{sample.SchedThreads(by), sample.SchedNasty(by), sample.SchedIdle(), sample.SchedUnbalanced(by)} {
			if err := w.Sched(s); err != nil {
				t.Fatal(err)
			}
			want["row"] += len(s.Rows)
			for _, r := range s.Rows {
				want["culprit"] += len(r.Culprits)
			}
			want["exemplar"] += len(s.Worst)
			for _, e := range s.Worst {
				want["ran"] += len(e.Ran)
			}
			want["thread"] += len(s.Threads)
			want["audit"]++
			for _, l := range s.Loss {
				if l.Count > 0 {
					want["loss"]++
				}
			}
		}
	}
	rectangular(t, &out, want)
}

// The culprits of a row sum up to its wait, and the rows to the audit.
func TestSchedSums(t *testing.T) {
	var out bytes.Buffer
	if err := csv.NewWriter(&out, csv.Options{}).Sched(sample.SchedThreads(snapshot.ByApp)); err != nil {
		t.Fatal(err)
	}
	records, err := stdcsv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := func(r []string, column string) string { return r[slices.Index(records[0], column)] }
	sums := map[string]int{}
	for _, r := range records[1:] {
		record := at(r, "record")
		column, ok := map[string]string{"row": "wait_ns", "audit": "wait_ns", "culprit": "ns"}[record]
		if !ok {
			continue
		}
		n, err := strconv.Atoi(at(r, column))
		if err != nil {
			t.Fatal(err)
		}
		if record == "culprit" {
			sums["culprits of "+at(r, "app")] += n
		} else if record == "row" {
			sums["wait of "+at(r, "app")] += n
		}
		sums[record] += n
	}
	const victim = "postgresql@17-main.service"
	if sums["culprit"] != sums["audit"] || sums["row"] != sums["audit"] || sums["culprits of "+victim] != sums["wait of "+victim] || sums["audit"] == 0 {
		t.Errorf("sums %v", sums)
	}
}

func TestSchedClosedPipe(t *testing.T) {
	w := csv.NewWriter(closed{}, csv.Options{})
	for range 2 {
		if err := w.Sched(sample.SchedIdle()); !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	}
}
