package table_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"culprit/output/internal/remedy"
	"culprit/output/internal/sample"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

func tcpHist(t *table.Table, s snapshot.TCP) error { return t.TCPHist(s, 2) }

var tcpParts = []func(*table.Table, snapshot.TCP) error{
	(*table.Table).TCP, (*table.Table).TCPStalls, (*table.Table).TCPConnections, (*table.Table).TCPRemotes, (*table.Table).TCPWorst, tcpHist,
}

func allTCP(t *table.Table, s snapshot.TCP) error {
	var errs []error
	for _, p := range tcpParts {
		errs = append(errs, p(t, s))
	}
	return errors.Join(errs...)
}

func TestTCPGolden(t *testing.T) {
	nobody := func(snapshot.Process) bool { return false }
	for _, tt := range []struct {
		name  string
		table table.Table
		print func(*table.Table, snapshot.TCP) error
		in    []snapshot.TCP
	}{
		{"tcp-80", table.Table{}, (*table.Table).TCP,
			[]snapshot.TCP{sample.TCP(snapshot.ByApp), sample.TCPIdle(), sample.TCPUnbalanced(snapshot.ByApp)}},
		{"tcp-80-pid", table.Table{Timestamps: true}, allTCP, []snapshot.TCP{sample.TCPConnections(snapshot.ByPID)}},
		{"tcp-80-top", table.Table{Top: 2}, allTCP, []snapshot.TCP{sample.TCPConnections(snapshot.ByApp)}},
		{"tcp-100", table.Table{Width: 100}, (*table.Table).TCP, []snapshot.TCP{sample.TCP(snapshot.ByApp)}},
		{"tcp-132", table.Table{Width: 132}, allTCP, []snapshot.TCP{sample.TCPConnections(snapshot.ByApp)}},
		{"tcp-220", table.Table{Width: 220}, allTCP, []snapshot.TCP{sample.TCPConnections(snapshot.ByExe)}},
		{"tcp-filtered", table.Table{}, allTCP, []snapshot.TCP{sample.TCPUnbalanced(snapshot.ByApp).Filter(nobody), sample.TCPIdle()}},
		{"tcp-stalls-80", table.Table{}, (*table.Table).TCPStalls, []snapshot.TCP{sample.TCP(snapshot.ByApp)}},
		{"tcp-connections-80", table.Table{}, (*table.Table).TCPConnections, []snapshot.TCP{sample.TCPConnections(snapshot.ByApp)}},
		{"tcp-remotes-80", table.Table{}, (*table.Table).TCPRemotes, []snapshot.TCP{sample.TCP(snapshot.ByApp)}},
		{"tcp-worst-80", table.Table{}, (*table.Table).TCPWorst, []snapshot.TCP{sample.TCP(snapshot.ByApp)}},
	} {
		t.Run(tt.name, func(t *testing.T) { check(t, tt.name, tt.table, tt.print, tt.in) })
	}
}

func TestTCPFits(t *testing.T) {
	snapshots := []snapshot.TCP{sample.TCPIdle()}
	for _, by := range snapshot.Bys {
		snapshots = append(snapshots, sample.TCPNasty(by), sample.TCPConnections(by), sample.TCPUnbalanced(by))
	}
	for _, s := range snapshots {
		fits(t, s.By, func(t *table.Table) error { return allTCP(t, s) })
	}
}

// The blanks between columns stand under those of the header, whatever is in the columns.
func TestTCPAligned(t *testing.T) {
	for _, width := range []int{80, 97, 120, 132, 200} {
		for _, s := range []snapshot.TCP{sample.TCPConnections(snapshot.ByApp), sample.TCPNasty(snapshot.ByApp)} {
			for i := range s.Rows {
				s.Rows[i].Refused, s.Rows[i].TimedOut, s.Rows[i].Aborted = 0, 0, 0 // there is a line about them
			}
			s.Kernel, s.Loss = nil, nil
			for _, print := range []func(*table.Table, snapshot.TCP) error{(*table.Table).TCP, (*table.Table).TCPConnections} {
				var out bytes.Buffer
				if err := print(&table.Table{W: &out, Width: width}, s); err != nil {
					t.Fatal(err)
				}
				lines, _, _ := strings.Cut(out.String(), "charged to nobody")
				head, body, _ := strings.Cut(lines, "\n")
				for line := range strings.Lines(body) {
					c := cells(line)
					for at := strings.Index(head, "SENT"); at < len(head); at++ {
						if ends := head[at] == ' ' && head[at-1] != ' ' && head[at+1:] != "CAUSE"; ends && c[at] != ' ' {
							t.Errorf("width %d: column %d is %q in %s", width, at, c[at], line)
						}
					}
				}
			}
		}
	}
}

// Every cause can be told from the others in a column of any width, and the worst ones come with something to do.
func TestTCPCauses(t *testing.T) {
	for _, width := range []int{80, 90, 100, 200} {
		shown := map[string]snapshot.Cause{}
		for _, c := range snapshot.Causes {
			s := snapshot.TCP{By: snapshot.ByApp, Rows: []snapshot.TCPRow{{Process: snapshot.Process{App: "a"}, Open: 1,
				Stalls: []snapshot.TCPStalls{{Cause: c, Count: 1, Total: 1, Max: 1}}}}}
			var out bytes.Buffer
			if err := (&table.Table{W: &out, Width: width}).TCP(s); err != nil {
				t.Fatal(err)
			}
			fields := strings.Fields(out.String())
			cause := fields[len(fields)-1]
			if other, ok := shown[cause]; ok || strings.Contains(cause, "…") || width >= 200 && cause != string(c) {
				t.Errorf("width %d: %s is shown as %s, as is %q", width, c, cause, other)
			}
			shown[cause] = c

			s.Worst = []snapshot.TCPStall{{Cause: c, Duration: 1}, {Cause: c, Duration: 2}}
			out.Reset()
			if err := (&table.Table{W: &out, Width: width}).TCPWorst(s); err != nil {
				t.Fatal(err)
			}
			if words := strings.Join(strings.Fields(out.String()), " "); strings.Count(words, string(c)+": "+remedy.Of(c)) != 1 {
				t.Errorf("width %d: not once what to do about %s in\n%s", width, c, out.String())
			}
		}
	}
}

// A row that only has open connections is shown, and one that has none is not.
func TestTCPLeavesOutUnconnected(t *testing.T) {
	var out bytes.Buffer
	if err := (&table.Table{W: &out, Top: 6}).TCP(sample.TCP(snapshot.ByApp)); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "nfsd") || strings.Contains(got, "fstrim") || strings.Contains(got, "more row") {
		t.Errorf("got\n%s", got)
	}
}

func TestTCPClosedPipe(t *testing.T) {
	for i, p := range tcpParts {
		if err := p(&table.Table{W: closed{}}, sample.TCP(snapshot.ByApp)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("part %d: %v", i, err)
		}
	}
}
