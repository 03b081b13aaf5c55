package table_test

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

func schedHist(t *table.Table, s snapshot.Sched) error { return t.SchedHist(s, 2) }

var schedParts = []part[snapshot.Sched]{
	(*table.Table).Sched, (*table.Table).SchedMatrix, schedHist, (*table.Table).SchedWorst, (*table.Table).SchedTime,
}

var allSched = together(schedParts)

func TestSchedGolden(t *testing.T) {
	nobody := func(snapshot.Process) bool { return false }
	checkAll(t, []printed[snapshot.Sched]{
		{"sched-80", table.Table{}, (*table.Table).Sched,
			[]snapshot.Sched{sample.Sched(snapshot.ByApp), sample.SchedIdle(), sample.SchedUnbalanced(snapshot.ByApp)}},
		{"sched-80-pid", table.Table{Timestamps: true}, allSched, []snapshot.Sched{sample.Sched(snapshot.ByPID)}},
		{"sched-80-top", table.Table{Top: 2}, allSched, []snapshot.Sched{sample.SchedThreads(snapshot.ByApp)}},
		{"sched-132", table.Table{Width: 132}, allSched, []snapshot.Sched{sample.SchedUnbalanced(snapshot.ByApp)}},
		{"sched-220", table.Table{Width: 220}, allSched, []snapshot.Sched{sample.SchedThreads(snapshot.ByExe)}},
		{"sched-filtered", table.Table{}, allSched, []snapshot.Sched{sample.SchedUnbalanced(snapshot.ByApp).Filter(nobody), sample.SchedIdle()}},
		{"sched-matrix-80", table.Table{}, (*table.Table).SchedMatrix, []snapshot.Sched{sample.Sched(snapshot.ByApp)}},
		{"sched-worst-80", table.Table{}, (*table.Table).SchedWorst, []snapshot.Sched{sample.Sched(snapshot.ByApp)}},
		{"sched-time-80", table.Table{}, (*table.Table).SchedTime,
			[]snapshot.Sched{sample.Sched(snapshot.ByApp), sample.SchedThreads(snapshot.ByApp)}},
	})
}

func TestSchedFits(t *testing.T) {
	for _, s := range sample.AllSched() {
		fits(t, s.By, func(t *table.Table) error { return allSched(t, s) })
		s.Threads = nil
		fits(t, s.By, func(t *table.Table) error { return t.SchedTime(s) })
	}
}

// The blanks between a row's columns stand under those of the header, whatever
// is in the columns.
func TestSchedAligned(t *testing.T) {
	for _, width := range []int{80, 120, 200} {
		for _, s := range []snapshot.Sched{sample.Sched(snapshot.ByApp), sample.SchedNasty(snapshot.ByApp)} {
			s.Kernel, s.Loss = snapshot.SchedAudit{}, nil
			var out bytes.Buffer
			if err := (&table.Table{W: &out, Width: width}).Sched(s); err != nil {
				t.Fatal(err)
			}
			table, _, _ := strings.Cut(out.String(), "softirqs caused by")
			table, _, _ = strings.Cut(table, "charged to nobody")
			head, body, _ := strings.Cut(table, "\n")
			for line := range strings.Lines(body) {
				c := cells(line)
				for at := strings.Index(head, "WAITS"); at < len(head); at++ {
					if ends := head[at] == ' ' && head[at-1] != ' '; ends && c[at] != ' ' {
						t.Errorf("width %d: column %d is %q in %s", width, at, c[at], line)
					}
				}
			}
		}
	}
}

// A row that only began to wait is shown, and one that did nothing is not.
func TestSchedLeavesOutIdle(t *testing.T) {
	s := sample.Sched(snapshot.ByApp)
	slices.Reverse(s.Rows) // nfsd, which did nothing, first
	var out bytes.Buffer
	if err := (&table.Table{W: &out, Top: 5}).Sched(s); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "fstrim") || strings.Contains(got, "nfsd") || strings.Contains(got, "more row") {
		t.Errorf("got\n%s", got)
	}
}

// The cells of a row of the matrix are all of its wait, with few columns and with many.
func TestMatrixDividesWaits(t *testing.T) {
	s := snapshot.Sched{By: snapshot.ByApp}
	app := func(i int) snapshot.Process { return snapshot.Process{App: string(rune('a' + i))} }
	for i := range 26 {
		r := snapshot.SchedRow{Process: app(i)}
		for j := range i + 1 {
			r.Culprits = append(r.Culprits, snapshot.Culprit{Process: app(j), NS: 1})
		}
		s.Rows = append(s.Rows, r)
	}
	s = s.Group(snapshot.ByApp)
	for _, width := range []int{80, 160, 400} {
		var out bytes.Buffer
		if err := (&table.Table{W: &out, Width: width}).SchedMatrix(s); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if others := strings.Contains(lines[0], "OTHERS"); len(lines) != 27 || others != (width < 400) {
			t.Errorf("width %d: got\n%s", width, out.String())
		}
		for _, line := range lines[1:] {
			var sum, wait int
			fields := strings.Fields(line)
			for i, f := range fields[1:] {
				n, _ := strconv.Atoi(strings.TrimSuffix(f, "ns")) // "-" is 0
				if i == len(fields)-2 {
					wait = n
				} else {
					sum += n
				}
			}
			if sum != wait || wait == 0 {
				t.Errorf("width %d: %d ns of %d in %s", width, sum, wait, line)
			}
		}
	}
}

func TestSchedClosedPipe(t *testing.T) {
	tellClosedPipe(t, schedParts, sample.Sched(snapshot.ByApp))
}
