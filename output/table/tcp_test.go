package table_test

import (
	"bytes"
	"strings"
	"testing"

	"culprit/output/internal/remedy"
	"culprit/output/internal/sample"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

func tcpHist(t *table.Table, s snapshot.TCP) error { return t.TCPHist(s, 2) }

var tcpParts = []part[snapshot.TCP]{
	(*table.Table).TCP, (*table.Table).TCPStalls, (*table.Table).TCPConnections, (*table.Table).TCPRemotes, (*table.Table).TCPWorst, tcpHist,
}

var allTCP = together(tcpParts)

func TestTCPGolden(t *testing.T) {
	nobody := func(snapshot.Process) bool { return false }
	checkAll(t, []printed[snapshot.TCP]{
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
	})
}

func TestTCPFits(t *testing.T) {
	for _, s := range sample.AllTCP() {
		fits(t, s.By, func(t *table.Table) error { return allTCP(t, s) })
	}
}

// The blanks between columns stand under those of the header, whatever is in the columns.
func TestTCPAligned(t *testing.T) {
	for _, width := range []int{80, 97, 120, 132, 200} {
		for _, s := range []snapshot.TCP{sample.TCPConnections(snapshot.ByApp), sample.TCPNasty(snapshot.ByApp)} {
			for i := range s.Rows {
				s.Rows[i].Refused, s.Rows[i].TimedOut, s.Rows[i].Aborted = 0, 0, 0 // there is a line about them
				s.Rows[i].UDP = snapshot.UDPTraffic{}                              // and a table
			}
			s.Kernel, s.Loss = nil, nil
			for _, print := range []part[snapshot.TCP]{(*table.Table).TCP, (*table.Table).TCPConnections} {
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

// The table of UDP is there for any of it, with who has no connections, and its own limit and order.
func TestTCPHasUDP(t *testing.T) {
	s := sample.TCP(snapshot.ByApp).SortBy("name")
	for _, tt := range []struct {
		top  int
		want []string
	}{
		{0, []string{"dd 38 B 41 MiB 38 42 93", "shop/checkout-7d9f/api 40 KiB 120 KiB 1200 1199 -", "curl 62 B 190 B 2 2 -",
			"[unattributed: no owner seen befo… - - - - 1", "AUDIT"}},
		{2, []string{"dd 38 B 41 MiB 38 42 93", "shop/checkout-7d9f/api 40 KiB 120 KiB 1200 1199 -",
			"… 2 more rows: 62 B sent, 190 B received, 1 dropped (-n 0 shows all)", "AUDIT"}},
	} {
		var out bytes.Buffer
		if err := (&table.Table{W: &out, Top: tt.top}).TCP(s); err != nil {
			t.Fatal(err)
		}
		_, udp, _ := strings.Cut(out.String(), "UDP-SENT UDP-RECV DGRAMS-OUT DGRAMS-IN  DROPS\n")
		lines := strings.Split(udp, "\n")
		for i, want := range tt.want {
			if got := strings.Join(strings.Fields(lines[i]), " "); !strings.HasPrefix(got, want) {
				t.Errorf("at most %d: %q, want %q", tt.top, got, want)
			}
		}
	}
	for i := range s.Rows {
		s.Rows[i].UDP = snapshot.UDPTraffic{}
	}
	var out bytes.Buffer
	if err := (&table.Table{W: &out}).TCP(s); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "DGRAMS") {
		t.Errorf("got\n%s", out.String())
	}
}

// Where nobody connected, but the kernel counted datagrams, no owners were chosen.
func TestTCPWithUDPAlone(t *testing.T) {
	var out bytes.Buffer
	s := snapshot.TCP{By: snapshot.ByApp, Kernel: []snapshot.TCPCounter{{Name: "ActiveOpens"}, {Name: "UdpInDatagrams", Ours: 5, Kernel: 5}},
		Rows: []snapshot.TCPRow{{Process: snapshot.Process{App: "a"}, UDP: snapshot.UDPTraffic{DatagramsIn: 5}}}}
	if err := (&table.Table{W: &out}).TCP(s); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "no TCP connections in 0.000 s\nAPP ") {
		t.Errorf("got\n%s", out.String())
	}
}

// Books that differ by no more than moved while they were read balance.
func TestTCPAuditHasSkew(t *testing.T) {
	for _, tt := range []struct {
		ours, kernel, skew uint64
		balance            bool
	}{{5, 5, 0, true}, {5, 4, 0, false}, {5, 4, 1, true}, {4, 6, 2, true}, {4, 7, 2, false}} {
		var out bytes.Buffer
		s := snapshot.TCP{Kernel: []snapshot.TCPCounter{{Name: "UdpInDatagrams", Ours: tt.ours, Kernel: tt.kernel, Skew: tt.skew}}}
		if err := (&table.Table{W: &out, Width: 200}).TCP(s); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), ": books balance\n") != tt.balance {
			t.Errorf("%+v:\n%s", tt, out.String())
		}
	}
}

func TestTCPClosedPipe(t *testing.T) {
	tellClosedPipe(t, tcpParts, sample.TCP(snapshot.ByApp))
}

// Threads of one application are told of together.
func TestTCPWorstAddsUpThreads(t *testing.T) {
	hog, other := snapshot.Process{PID: 7, App: "hog"}, snapshot.Process{PID: 8, App: "other"}
	s := snapshot.TCP{By: snapshot.ByApp, Worst: []snapshot.TCPStall{{
		Process: other, Cause: snapshot.ReaderNotScheduled, Duration: 60e6, Ran: []snapshot.SchedRan{
			{Process: hog, TID: 7, NS: 20e6}, {Process: other, TID: 9, NS: 15e6}, {Process: hog, TID: 71, NS: 10e6}},
	}}}
	var b bytes.Buffer
	if err := (&table.Table{W: &b, Width: 80}).TCPWorst(s); err != nil {
		t.Fatal(err)
	}
	if want := " the CPU had: hog 30.0ms, other 15.0ms\n"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, &b)
	}
}
