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

func TestGolden(t *testing.T) {
	var out bytes.Buffer
	w := csv.NewWriter(&out, csv.Options{Top: 3})
	for _, s := range []snapshot.IO{sample.Unbalanced(snapshot.ByPID), sample.Idle()} {
		if err := w.IO(s); err != nil {
			t.Fatal(err)
		}
	}
	golden.Check(t, "io.csv", out.Bytes())
}

// One table: one header, the same columns on each line, a line per record.
func TestRectangular(t *testing.T) {
	var out bytes.Buffer
	w := csv.NewWriter(&out, csv.Options{})
	want := map[string]int{}
	for _, by := range snapshot.Bys {
		for _, s := range []snapshot.IO{sample.IO(by), sample.Nasty(by), sample.Idle(), sample.Unbalanced(by)} {
			if err := w.IO(s); err != nil {
				t.Fatal(err)
			}
			want["row"] += len(s.Rows)
			want["device"] += len(s.Devices)
			want["file"] += len(s.Files)
			want["request"] += len(s.Worst)
			for _, l := range s.Loss {
				if l.Count > 0 {
					want["loss"]++
				}
			}
		}
	}
	rectangular(t, &out, want)
}

// rectangular checks a whole stream, and how many records of each kind are in it.
func rectangular(t *testing.T, out *bytes.Buffer, want map[string]int) {
	t.Helper()
	lines := strings.Count(out.String(), "\n")
	records, err := stdcsv.NewReader(out).ReadAll() // refuses lines of unequal length
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != lines {
		t.Errorf("%d records on %d lines", len(records), lines)
	}
	head := records[0]
	for i, c := range head {
		if c == "" || slices.Index(head, c) != i {
			t.Errorf("column %d is %q", i, c)
		}
	}
	if !slices.Equal(head[:5], []string{"start", "end", "seconds", "by", "record"}) {
		t.Errorf("columns begin with %v", head[:5])
	}
	got := map[string]int{}
	for _, r := range records[1:] {
		got[r[slices.Index(head, "record")]]++
		for i, cell := range r {
			if text.Escape(cell) != cell {
				t.Fatalf("a terminal would obey %s %q", head[i], cell)
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

// The rows of a device sum up to the device's line, in one column.
func TestSums(t *testing.T) {
	var out bytes.Buffer
	if err := csv.NewWriter(&out, csv.Options{}).IO(sample.IO(snapshot.ByApp)); err != nil {
		t.Fatal(err)
	}
	records, err := stdcsv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := func(r []string, column string) string { return r[slices.Index(records[0], column)] }
	rows, devices := map[string]int{}, map[string]int{}
	for _, r := range records[1:] {
		sums := map[string]map[string]int{"row": rows, "device": devices}[at(r, "record")]
		if device := at(r, "device"); sums != nil && device != "" {
			n, err := strconv.Atoi(at(r, "write_bytes"))
			if err != nil {
				t.Fatal(err)
			}
			sums[device] += n
		}
	}
	if len(rows) != 2 || rows["vda"] != devices["vda"] || rows["nvme10n1"] != devices["nvme10n1"] {
		t.Errorf("rows %v, devices %v", rows, devices)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestClosedPipe(t *testing.T) {
	w := csv.NewWriter(closed{}, csv.Options{})
	for range 2 {
		if err := w.IO(sample.Idle()); !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	}
}
