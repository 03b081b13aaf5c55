package csv_test

import (
	"bytes"
	stdcsv "encoding/csv"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"culprit/output/csv"
	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// printed is what a stream holds of several intervals.
func printed[S any](t *testing.T, o csv.Options, print func(*csv.Writer, S) error, in ...S) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := csv.NewWriter(&out, o)
	for _, s := range in {
		if err := print(w, s); err != nil {
			t.Fatal(err)
		}
	}
	return &out
}

func TestGolden(t *testing.T) {
	out := printed(t, csv.Options{Top: 3}, (*csv.Writer).IO, sample.Unbalanced(snapshot.ByPID), sample.Idle())
	golden.Check(t, "io.csv", out.Bytes())
}

// One table: one header, the same columns on each line, a line per record.
func TestRectangular(t *testing.T) {
	all := sample.AllIO()
	want := map[string]int{}
	for _, s := range all {
		want["row"] += len(s.Rows)
		want["device"] += len(s.Devices)
		want["file"] += len(s.Files)
		want["request"] += len(s.Worst)
		want["loss"] += lost(s.Loss)
	}
	rectangular(t, printed(t, csv.Options{}, (*csv.Writer).IO, all...), want)
}

// lost is how many of the counters are not 0.
func lost(counters []snapshot.Loss) (n int) {
	for _, l := range counters {
		if l.Count > 0 {
			n++
		}
	}
	return n
}

// rectangular checks a whole stream, and how many records of each kind are in it.
func rectangular(t *testing.T, out *bytes.Buffer, want map[string]int) {
	t.Helper()
	lines := strings.Count(out.String(), "\n")
	head, records := read(t, out)
	if 1+len(records) != lines {
		t.Errorf("%d records on %d lines", 1+len(records), lines)
	}
	for i, c := range head {
		if c == "" || slices.Index(head, c) != i {
			t.Errorf("column %d is %q", i, c)
		}
	}
	if !slices.Equal(head[:5], []string{"start", "end", "seconds", "by", "record"}) {
		t.Errorf("columns begin with %v", head[:5])
	}
	got := map[string]int{}
	for _, r := range records {
		got[r["record"]]++
		for column, cell := range r {
			if text.Escape(cell) != cell {
				t.Fatalf("a terminal would obey %s %q", column, cell)
			}
		}
	}
	for record, n := range want {
		if got[record] != n {
			t.Errorf("%d records of %s, want %d", got[record], record, n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("records %v, want %v", got, want)
	}
}

// read is a stream's header, and each record's cells by column.
func read(t *testing.T, out io.Reader) (head []string, records []map[string]string) {
	t.Helper()
	lines, err := stdcsv.NewReader(out).ReadAll() // refuses lines of unequal length
	if err != nil {
		t.Fatal(err)
	}
	head = lines[0]
	for _, line := range lines[1:] {
		cells := map[string]string{}
		for i, cell := range line {
			cells[head[i]] = cell
		}
		records = append(records, cells)
	}
	return head, records
}

func number(t *testing.T, cell string) int {
	t.Helper()
	n, err := strconv.Atoi(cell)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The rows of a device sum up to the device's line, in one column.
func TestSums(t *testing.T) {
	_, records := read(t, printed(t, csv.Options{}, (*csv.Writer).IO, sample.IO(snapshot.ByApp)))
	rows, devices := map[string]int{}, map[string]int{}
	for _, r := range records {
		sums := map[string]map[string]int{"row": rows, "device": devices}[r["record"]]
		if device := r["device"]; sums != nil && device != "" {
			sums[device] += number(t, r["write_bytes"])
		}
	}
	if len(rows) != 2 || rows["vda"] != devices["vda"] || rows["nvme10n1"] != devices["nvme10n1"] {
		t.Errorf("rows %v, devices %v", rows, devices)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestClosedPipe(t *testing.T) {
	for report, print := range map[string]func(*csv.Writer) error{
		"io":    func(w *csv.Writer) error { return w.IO(sample.Idle()) },
		"sched": func(w *csv.Writer) error { return w.Sched(sample.SchedIdle()) },
		"tcp":   func(w *csv.Writer) error { return w.TCP(sample.TCPIdle()) },
	} {
		w := csv.NewWriter(closed{}, csv.Options{})
		for range 2 {
			if err := print(w); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: %v", report, err)
			}
		}
	}
}
