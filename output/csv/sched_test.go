package csv_test

import (
	"testing"

	"culprit/output/csv"
	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

func TestSchedGolden(t *testing.T) {
	out := printed(t, csv.Options{Top: 2}, (*csv.Writer).Sched,
		sample.SchedUnbalanced(snapshot.ByPID), sample.SchedThreads(snapshot.ByApp), sample.SchedIdle())
	golden.Check(t, "sched.csv", out.Bytes())
}

func TestSchedRectangular(t *testing.T) {
	all := sample.AllSched()
	want := map[string]int{"audit": len(all)}
	for _, s := range all {
		want["row"] += len(s.Rows)
		for _, r := range s.Rows {
			want["culprit"] += len(r.Culprits)
		}
		want["exemplar"] += len(s.Worst)
		for _, e := range s.Worst {
			want["ran"] += len(e.Ran)
		}
		want["thread"] += len(s.Threads)
		want["loss"] += lost(s.Loss)
	}
	rectangular(t, printed(t, csv.Options{}, (*csv.Writer).Sched, all...), want)
}

// The culprits of a row sum up to its wait, and the rows to the audit.
func TestSchedSums(t *testing.T) {
	_, records := read(t, printed(t, csv.Options{}, (*csv.Writer).Sched, sample.SchedThreads(snapshot.ByApp)))
	sums := map[string]int{}
	for _, r := range records {
		record := r["record"]
		column, ok := map[string]string{"row": "wait_ns", "audit": "wait_ns", "culprit": "ns"}[record]
		if !ok {
			continue
		}
		n := number(t, r[column])
		if record == "culprit" {
			sums["culprits of "+r["app"]] += n
		} else if record == "row" {
			sums["wait of "+r["app"]] += n
		}
		sums[record] += n
	}
	const victim = "postgresql@17-main.service"
	if sums["culprit"] != sums["audit"] || sums["row"] != sums["audit"] || sums["culprits of "+victim] != sums["wait of "+victim] || sums["audit"] == 0 {
		t.Errorf("sums %v", sums)
	}
}
