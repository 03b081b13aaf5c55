package table_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
	"culprit/output/internal/text"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

// part is one of the printing methods.
type part func(*table.Table, snapshot.IO) error

func all(t *table.Table, s snapshot.IO) error {
	return errors.Join(t.IO(s), t.Hist(s, t.Top), t.Files(s), t.Worst(s))
}

func TestGolden(t *testing.T) {
	hist := func(t *table.Table, s snapshot.IO) error { return t.Hist(s, 2) }
	for _, tt := range []struct {
		name  string
		table table.Table
		print part
		in    []snapshot.IO
	}{
		{"io-80", table.Table{}, (*table.Table).IO, []snapshot.IO{sample.IO(snapshot.ByApp), sample.Idle(), sample.Unbalanced(snapshot.ByApp)}},
		{"io-80-pid", table.Table{Timestamps: true}, (*table.Table).IO, []snapshot.IO{sample.IO(snapshot.ByPID), sample.Idle()}},
		{"io-80-exe", table.Table{}, (*table.Table).IO, []snapshot.IO{sample.IO(snapshot.ByExe)}},
		{"io-80-top", table.Table{Top: 2}, all, []snapshot.IO{sample.IO(snapshot.ByApp)}},
		{"io-132", table.Table{Width: 132}, (*table.Table).IO, []snapshot.IO{sample.Unbalanced(snapshot.ByApp)}},
		{"io-220", table.Table{Width: 220}, (*table.Table).IO, []snapshot.IO{sample.Unbalanced(snapshot.ByUser)}},
		{"io-filtered", table.Table{}, all, []snapshot.IO{sample.IO(snapshot.ByApp).Filter(func(snapshot.Process) bool { return false })}},
		{"hist-80", table.Table{}, hist, []snapshot.IO{sample.IO(snapshot.ByApp)}},
		{"hist-120", table.Table{Width: 120}, hist, []snapshot.IO{sample.IO(snapshot.ByPID)}},
		{"files-80", table.Table{}, (*table.Table).Files, []snapshot.IO{sample.IO(snapshot.ByApp)}},
		{"worst-80", table.Table{}, (*table.Table).Worst, []snapshot.IO{sample.IO(snapshot.ByApp)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.name, tt.table, tt.print, tt.in)
		})
	}
}

// check compares what is printed of several intervals with a golden file.
func check[S any](t *testing.T, name string, tab table.Table, print func(*table.Table, S) error, in []S) {
	t.Helper()
	var out bytes.Buffer
	tab.W = &out
	for _, s := range in {
		if err := print(&tab, s); err != nil {
			t.Fatal(err)
		}
	}
	golden.Check(t, name+".txt", out.Bytes())
}

// However long or hostile the names and however large the numbers, no line is
// wider than the terminal and no byte is one that a terminal obeys.
func TestFits(t *testing.T) {
	snapshots := []snapshot.IO{sample.Idle()}
	for _, by := range snapshot.Bys {
		snapshots = append(snapshots, sample.Nasty(by), sample.IO(by), sample.Unbalanced(by))
	}
	for _, s := range snapshots {
		fits(t, s.By, func(t *table.Table) error { return all(t, s) })
	}
}

// fits prints in many widths.
func fits(t *testing.T, by snapshot.By, print func(*table.Table) error) {
	t.Helper()
	for _, width := range []int{0, 1, 80, 81, 88, 97, 100, 120, 132, 160, 200, 300} {
		for _, top := range []int{0, 1, 5} {
			var out bytes.Buffer
			if err := print(&table.Table{W: &out, Width: width, Top: top, Timestamps: true}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				line, ended := strings.CutSuffix(line, "\n")
				if text.Width(line) > max(width, 80) {
					t.Fatalf("by %s: %d columns of %d: %q", by, text.Width(line), width, line)
				}
				if !ended || text.Escape(line) != line || !utf8.ValidString(line) {
					t.Fatalf("by %s: a terminal would obey %q", by, line)
				}
			}
		}
	}
}

// The blanks between a row's columns stand under those of the header, whatever
// is in the columns.
func TestAligned(t *testing.T) {
	for _, width := range []int{80, 120, 200} {
		for _, s := range []snapshot.IO{sample.IO(snapshot.ByApp), sample.Nasty(snapshot.ByApp)} {
			s.Devices, s.Loss = nil, nil
			for i := range s.Rows {
				s.Rows[i].ThrottledNS = 0 // it has a line of its own at 80 columns
			}
			var out bytes.Buffer
			if err := (&table.Table{W: &out, Width: width}).IO(s); err != nil {
				t.Fatal(err)
			}
			name := strings.Index(out.String(), "DEVICE") - 1
			for line := range strings.Lines(out.String()) {
				c := cells(line)
				for _, at := range []int{name, name + 9, name + 17, name + 25, name + 34, name + 41, name + 49, name + 56} {
					if c[at] != ' ' {
						t.Errorf("width %d: column %d is %q in %s", width, at, c[at], line)
					}
				}
			}
		}
	}
}

// cells are what stands in each column of the terminal.
func cells(line string) []rune {
	var out []rune
	for _, r := range line {
		for range text.Width(string(r)) {
			out = append(out, r)
		}
	}
	return out
}

// What belongs to no device is shown once, in its group's first row.
func TestFoldsTimes(t *testing.T) {
	var out bytes.Buffer
	if err := (&table.Table{W: &out}).IO(sample.IO(snapshot.ByApp)); err != nil {
		t.Fatal(err)
	}
	for app, want := range map[string]string{"dd": "12.0ms", "nfsd.service": "999ms", "postgresql@17-m…": "773ms"} {
		n := 0
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, app+" ") && strings.HasSuffix(line, " "+want+"\n") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d rows of %s blocked for %s, want 1, in\n%s", n, app, want, out.String())
		}
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestClosedPipe(t *testing.T) {
	tab := &table.Table{W: closed{}}
	hist := func(t *table.Table, s snapshot.IO) error { return t.Hist(s, 0) }
	for i, p := range []part{(*table.Table).IO, hist, (*table.Table).Files, (*table.Table).Worst} {
		if err := p(tab, sample.IO(snapshot.ByApp)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("part %d: %v", i, err)
		}
	}
}
