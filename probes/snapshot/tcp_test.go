package snapshot

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

func someTCPRow() TCPRow {
	n := func() uint64 { return random.Uint64N(1 << 30) }
	r := TCPRow{
		Process: someProcess(), TCPTraffic: TCPTraffic{n(), n(), n(), n(), n(), n()},
		Opened: n(), Accepted: n(), Refused: n(), TimedOut: n(), Aborted: n(), Closed: n(), Open: n(),
		Connect: someHistogram(), FirstByte: someHistogram(), Life: someHistogram(), RTT: someHistogram(),
	}
	for _, c := range Causes {
		if random.IntN(4) == 0 {
			r.Stalls = append(r.Stalls, TCPStalls{c, n(), n() % 8, n()}) // often of equal length
		}
	}
	for range random.IntN(4) {
		r.Remotes = append(r.Remotes, TCPRemote{someAddress().Addr(), uint16(random.IntN(2)), n(), n()})
	}
	return r
}

func someAddress() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(4))}), uint16(random.IntN(4)))
}

// tcpCounts is everything of rows that adds up.
func tcpCounts(rows []TCPRow) map[string]uint64 {
	c := map[string]uint64{}
	for _, r := range rows {
		for name, n := range map[string]uint64{
			"sent": r.Sent, "received": r.Received, "out": r.SegmentsOut, "in": r.SegmentsIn, "retransmits": r.Retransmits,
			"lost": r.RetransmitsFailed, "opened": r.Opened, "accepted": r.Accepted, "refused": r.Refused, "timed out": r.TimedOut,
			"aborted": r.Aborted, "failed": r.Failed(), "closed": r.Closed, "open": r.Open, "stalled": r.Stalled(),
			"connects": r.Connect.Count(), "first bytes": r.FirstByte.Sum, "lives": r.Life.Count(), "round trips": r.RTT.Sum,
		} {
			c[name] += n
		}
		for _, s := range r.Stalls {
			c["stalls of "+string(s.Cause)] += s.Count
			c["time of "+string(s.Cause)] += s.Total
		}
		for _, e := range r.Remotes {
			end := netip.AddrPortFrom(e.Address, e.Port).String()
			c["to "+end] += e.Sent
			c["from "+end] += e.Received
		}
	}
	return c
}

// Grouping moves nothing, tells each group once, and in each group each cause and each other end.
func TestTCPGroupConservesCounts(t *testing.T) {
	for range 200 {
		var s TCP
		for range 1 + random.IntN(40) {
			s.Rows = append(s.Rows, someTCPRow())
		}
		before, want := slices.Clone(s.Rows), tcpCounts(s.Rows)
		for _, by := range Bys {
			g := s.Group(by)
			if got := tcpCounts(g.Rows); !maps.Equal(got, want) {
				t.Fatalf("by %s: got %v, want %v", by, got, want)
			}
			names := map[groupKey]bool{}
			for _, r := range g.Rows {
				if names[r.key(by)] {
					t.Fatalf("by %s: two rows of %q", by, r.Name(by))
				}
				names[r.key(by)] = true
				once(t, r.Stalls, func(s TCPStalls) any { return s.Cause }, func(s TCPStalls) uint64 { return s.Total })
				once(t, r.Remotes, func(r TCPRemote) any { return netip.AddrPortFrom(r.Address, r.Port) }, TCPRemote.Bytes)
			}
		}
		s.SortBy("name")
		s.Filter(func(Process) bool { return false })
		if !reflect.DeepEqual(s.Rows, before) {
			t.Fatal("the snapshot has changed")
		}
	}
}

// once checks a list that tells everything once, most first.
func once[T any](t *testing.T, in []T, key func(T) any, size func(T) uint64) {
	t.Helper()
	seen := map[any]bool{}
	for i, v := range in {
		if seen[key(v)] || i > 0 && size(in[i-1]) < size(v) {
			t.Fatalf("a list with two of one, or out of order: %v", in)
		}
		seen[key(v)] = true
	}
}

// In whatever order rows are merged, the result is the same, and the rows stay as they were.
func TestTCPMergeIsAssociative(t *testing.T) {
	for range 500 {
		a, b, c := someTCPRow(), someTCPRow(), someTCPRow()
		// Those of merged rows are left to Group.
		a.Remotes, b.Remotes, c.Remotes = nil, nil, nil
		stalls := slices.Clone(a.Stalls)
		left, right := a.merge(b).merge(c), a.merge(b.merge(c))
		if !reflect.DeepEqual(left, right) {
			t.Fatalf("(a+b)+c is not a+(b+c):\n%+v\n%+v", left, right)
		}
		if ab, ba := a.merge(b), b.merge(a); !reflect.DeepEqual(ab, ba) {
			t.Fatalf("a+b is not b+a:\n%+v\n%+v", ab, ba)
		}
		if !slices.Equal(a.Stalls, stalls) {
			t.Fatal("an operand has changed")
		}
	}
}

func tcpRows() TCP {
	web, db := Process{App: "web", Comm: "web"}, Process{App: "db", Comm: "db"}
	at := func(p Process, pid int) Process {
		p.PID, p.Started = pid, time.Unix(int64(pid), 0)
		return p
	}
	traffic := func(sent, received, retransmits uint64) TCPTraffic {
		return TCPTraffic{Sent: sent, Received: received, Retransmits: retransmits}
	}
	rtt := func(ns uint64) Histogram {
		return Histogram{Buckets: []Bucket{{Lower: ns, Upper: ns + 1, Count: 1}}, Sum: ns, Max: ns}
	}
	return TCP{By: ByPID, Rows: []TCPRow{
		{Process: at(db, 3), TCPTraffic: traffic(10, 500, 9), Accepted: 1, RTT: rtt(100), Stalls: []TCPStalls{{Cause: RTO, Count: 1, Total: 5, Max: 5}}},
		{Process: at(web, 1), TCPTraffic: traffic(300, 1, 1), UDP: UDPTraffic{Sent: 1, Received: 20, DatagramsOut: 3, DatagramsIn: 40, Drops: 5}, Opened: 2, Open: 7, RTT: rtt(900),
			Stalls: []TCPStalls{{Cause: NagleDelayedACK, Count: 2, Total: 80, Max: 44}, {Cause: RTO, Count: 1, Total: 200, Max: 200}}},
		{Process: at(web, 2), TCPTraffic: traffic(50, 5, 0), UDP: UDPTraffic{Sent: 100, Received: 200, DatagramsOut: 300, DatagramsIn: 400, Drops: 500}, Refused: 4, RTT: rtt(7), Stalls: []TCPStalls{{Cause: NagleDelayedACK, Count: 5, Total: 220, Max: 48}}},
	}}
}

func TestTCPGroup(t *testing.T) {
	s := tcpRows().Group(ByApp)
	if len(s.Rows) != 2 || s.Rows[0].App != "db" || s.Rows[1].App != "web" {
		t.Fatalf("%+v", s.Rows)
	}
	web := s.Rows[1]
	want := []TCPStalls{{NagleDelayedACK, 7, 300, 48}, {RTO, 1, 200, 200}}
	if both := (UDPTraffic{101, 220, 303, 440, 505}); web.UDP != both {
		t.Errorf("%+v, want %+v", web.UDP, both)
	}
	if web.PID != 0 || web.Bytes() != 356 || web.Failed() != 4 || web.Stalled() != 500 || !slices.Equal(web.Stalls, want) {
		t.Errorf("%+v", web)
	}
}

func TestTCPSorts(t *testing.T) {
	for column, want := range map[string][]int{
		"bytes": {3, 1, 2}, "sent": {1, 2, 3}, "received": {3, 2, 1}, "stalled": {1, 2, 3}, "retransmits": {3, 1, 2},
		"connections": {1, 2, 3}, "rtt": {1, 3, 2}, "udp": {2, 1, 3}, "name": {3, 1, 2},
	} {
		var got []int
		for _, r := range tcpRows().Group(ByPID).SortBy(column).Rows {
			got = append(got, r.PID)
		}
		if !slices.Equal(got, want) || !slices.Contains(TCPSorts, column) {
			t.Errorf("by %s: %v, want %v", column, got, want)
		}
	}
	if len(TCPSorts) != 9 {
		t.Errorf("not all of %v are tested", TCPSorts)
	}
}

// Filters choose the owner in every list, and leave the audit whole.
func TestTCPFilter(t *testing.T) {
	s := tcpRows()
	s.Kernel = []TCPCounter{{Name: "ActiveOpens", Ours: 2, Kernel: 2}}
	for _, r := range s.Rows {
		s.Connections = append(s.Connections, TCPConnection{Process: r.Process})
		s.Worst = append(s.Worst, TCPStall{Process: r.Process})
	}
	got := s.Filter(func(p Process) bool { return p.App == "web" })
	if len(got.Rows) != 2 || len(got.Connections) != 2 || len(got.Worst) != 2 || len(got.Kernel) != 1 || len(s.Connections) != 3 {
		t.Errorf("%+v", got)
	}
}

// Of each group the longest stalls are kept, of all the connections, most bytes first.
func TestTCPLists(t *testing.T) {
	var s TCP
	for i := range uint64(20) {
		p := Process{App: []string{"web", "db"}[i%2]}
		s.Worst = append(s.Worst, TCPStall{Process: p, Duration: i})
		s.Connections = append(s.Connections, TCPConnection{Process: p, TCPTraffic: TCPTraffic{Received: i}})
	}
	g := s.Group(ByApp)
	if len(g.Worst) != 2*worstOfGroup || g.Worst[0].Duration != 19 || g.Worst[len(g.Worst)-1].Duration != 10 {
		t.Errorf("%+v", g.Worst)
	}
	if len(g.Connections) != 20 || g.Connections[0].Bytes() != 19 || s.Connections[0].Bytes() != 0 {
		t.Errorf("%+v", g.Connections)
	}
}

func TestTCPDirection(t *testing.T) {
	for want, c := range map[string]TCPConnection{
		"in": {Accepted: true}, "out": {Since: time.Unix(1, 0)}, "": {State: "ESTABLISHED"},
	} {
		if got := c.Direction(); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}

func TestTCPResidual(t *testing.T) {
	if got := (TCPCounter{Ours: 5, Kernel: 3}).Residual(); got != -2 {
		t.Errorf("got %d, want -2", got)
	}
}

// Every cause has its place in the order of precedence, once.
func TestCauses(t *testing.T) {
	seen := map[Cause]bool{}
	for _, c := range Causes {
		if seen[c] {
			t.Errorf("%s stands twice", c)
		}
		seen[c] = true
	}
	if last := Causes[len(Causes)-1]; last != Unexplained {
		t.Errorf("%s comes after all others", last)
	}
}
