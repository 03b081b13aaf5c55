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
type part[S any] = func(*table.Table, S) error

var ioParts = []part[snapshot.IO]{
	(*table.Table).IO, func(t *table.Table, s snapshot.IO) error { return t.Hist(s, t.Top) }, (*table.Table).Files, (*table.Table).Worst,
}

var all = together(ioParts)

// together prints all parts.
func together[S any](parts []part[S]) part[S] {
	return func(t *table.Table, s S) error {
		var errs []error
		for _, p := range parts {
			errs = append(errs, p(t, s))
		}
		return errors.Join(errs...)
	}
}

func TestGolden(t *testing.T) {
	hist := func(t *table.Table, s snapshot.IO) error { return t.Hist(s, 2) }
	checkAll(t, []printed[snapshot.IO]{
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
	})
}

// printed is what is printed of several intervals; it has a golden file of that name.
type printed[S any] struct {
	name  string
	table table.Table
	print part[S]
	in    []S
}

// checkAll compares each with its golden file.
func checkAll[S any](t *testing.T, all []printed[S]) {
	for _, tt := range all {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			tt.table.W = &out
			for _, s := range tt.in {
				if err := tt.print(&tt.table, s); err != nil {
					t.Fatal(err)
				}
			}
			golden.Check(t, tt.name+".txt", out.Bytes())
		})
	}
}

// However long or hostile the names and however large the numbers, no line is
// wider than the terminal and no byte is one that a terminal obeys.
func TestFits(t *testing.T) {
	for _, s := range sample.AllIO() {
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
	tellClosedPipe(t, ioParts, sample.IO(snapshot.ByApp))
}

// tellClosedPipe has each part told that nobody reads any more, which it has to tell.
func tellClosedPipe[S any](t *testing.T, parts []part[S], s S) {
	t.Helper()
	for i, p := range parts {
		if err := p(&table.Table{W: closed{}}, s); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("part %d: %v", i, err)
		}
	}
}
