package snapshot

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

var random = rand.New(rand.NewPCG(20, 26))

func someProcess() Process {
	n := random.IntN(6)
	p := Process{
		PID: 100 + n, PPID: 1 + n%2, Started: time.Unix(int64(n), 0), Comm: fmt.Sprint("comm", n%3), Exe: fmt.Sprint("/bin/", n%4),
		Cgroup: fmt.Sprint("/", n%2), User: "root", App: fmt.Sprint("app", n%3),
	}
	switch random.IntN(8) {
	case 0:
		return Process{App: "[kernel: superblock]"}
	case 1:
		return Process{App: "[unattributed: row table full]"}
	case 2:
		p.Unit, p.App = "a.service", "a.service"
	case 3:
		p.Container, p.App = "web", "web"
	}
	return p
}

func someHistogram() Histogram {
	h := Histogram{Sum: random.Uint64N(1e9), Max: random.Uint64N(1e6)}
	for i := range uint64(8) {
		if random.IntN(2) == 0 {
			h.Buckets = append(h.Buckets, Bucket{Lower: i << 4, Upper: (i + 1) << 4, Count: 1 + random.Uint64N(100)})
		}
	}
	return h
}

func someLatency() IOLatency { return IOLatency{someHistogram(), someHistogram(), someHistogram()} }

func someRow() IORow {
	n := func() uint64 { return random.Uint64N(1 << 30) }
	return IORow{
		Process: someProcess(), Device: []string{"vda", "loop0"}[random.IntN(2)],
		Reads: n(), Writes: n(), Discards: n(), Flushes: n(),
		ReadVia: ReadVia{n(), n(), n(), n()}, WriteVia: WriteVia{n(), n(), n(), n(), n()}, DiscardBytes: n(),
		ReadLatency: someLatency(), WriteLatency: someLatency(), BlockedNS: n(), ThrottledNS: n(),
	}
}

// counts is everything of a row that adds up.
func counts(rows []IORow) (c [20]uint64) {
	for _, r := range rows {
		for i, n := range []uint64{
			r.Reads, r.Writes, r.Discards, r.Flushes, r.ReadVia.File, r.ReadVia.Direct, r.ReadVia.Metadata, r.ReadVia.SwapIn,
			r.WriteVia.Direct, r.WriteVia.Writeback, r.WriteVia.Journal, r.WriteVia.Metadata, r.WriteVia.SwapOut, r.DiscardBytes,
			r.BlockedNS, r.ThrottledNS, r.ReadLatency.Total.Count(), r.WriteLatency.Device.Count(), r.ReadLatency.Total.Sum,
			r.WriteLatency.Queue.Sum,
		} {
			c[i] += n
		}
	}
	return c
}

// Grouping moves nothing: every sum is what it was, on each device.
func TestGroupConservesCounts(t *testing.T) {
	for range 200 {
		var s IO
		for range 1 + random.IntN(40) {
			s.Rows = append(s.Rows, someRow())
		}
		for _, by := range Bys {
			g := s.Group(by)
			for _, device := range []string{"vda", "loop0"} {
				if got, want := counts(g.OnDevice(device).Rows), counts(s.OnDevice(device).Rows); got != want {
					t.Fatalf("by %s on %s: got %v, want %v", by, device, got, want)
				}
			}
			names := map[[2]string]bool{}
			for _, r := range g.Rows {
				key := [2]string{r.Name(by), r.Device}
				if by != ByPID && names[key] {
					t.Fatalf("by %s: two rows of %q", by, key)
				}
				names[key] = true
			}
		}
	}
}

// In whatever order reports are merged, the result is the same.
func TestMergeIsAssociative(t *testing.T) {
	for range 500 {
		a, b, c := someRow(), someRow(), someRow()
		left, right := a.merge(b).merge(c), a.merge(b.merge(c))
		if !reflect.DeepEqual(left, right) {
			t.Fatalf("(a+b)+c is not a+(b+c):\n%+v\n%+v", left, right)
		}
		ab, ba := a.merge(b), b.merge(a)
		ab.Device, ba.Device = "", "" // rows of two devices are never merged
		if !reflect.DeepEqual(ab, ba) {
			t.Fatalf("a+b is not b+a:\n%+v\n%+v", ab, ba)
		}
	}
}

// Merging leaves its operands as they were: snapshots are shared.
func TestMergeChangesNeither(t *testing.T) {
	for range 200 {
		a, b := someHistogram(), someHistogram()
		a2, b2 := slices.Clone(a.Buckets), slices.Clone(b.Buckets)
		a.Merge(b)
		if !slices.Equal(a.Buckets, a2) || !slices.Equal(b.Buckets, b2) {
			t.Fatal("an operand has changed")
		}
	}
	s := IO{Rows: []IORow{someRow(), someRow(), someRow()}}
	before := slices.Clone(s.Rows)
	s.Group(ByApp)
	s.SortBy("name")
	s.Filter(func(Process) bool { return false })
	if !reflect.DeepEqual(before, s.Rows) {
		t.Error("the snapshot has changed")
	}
}

// A pid that came back is another process.
func TestGroupByPIDKeepsProcessesApart(t *testing.T) {
	row := func(started int64) IORow {
		return IORow{Process: Process{PID: 7, Started: time.Unix(started, 0), App: "sh"}, Device: "vda", Reads: 1}
	}
	g := IO{Rows: []IORow{row(1), row(2), row(1)}}.Group(ByPID)
	if len(g.Rows) != 2 || g.Rows[0].Reads+g.Rows[1].Reads != 3 {
		t.Errorf("got %+v, want two rows", g.Rows)
	}
}

// What belongs to no process keeps its name in every grouping.
func TestGroupKeepsReasons(t *testing.T) {
	s := IO{Rows: []IORow{
		{Process: Process{App: "[kernel: superblock]"}, Device: "vda", Writes: 1},
		{Process: Process{App: "[unattributed: row table full]"}, Device: "vda", Writes: 2},
		{Process: Process{PID: 1, Comm: "init", App: "init", Exe: "/init", Started: time.Unix(1, 0)}, Device: "vda", Writes: 4},
	}}
	for _, by := range Bys {
		g := s.Group(by)
		if len(g.Rows) != 3 {
			t.Errorf("by %s: %d rows, want 3", by, len(g.Rows))
		}
		for _, r := range g.Rows {
			if r.Writes == 1 && r.Name(by) != "[kernel: superblock]" {
				t.Errorf("by %s: the superblock's row is called %q", by, r.Name(by))
			}
		}
	}
}

func TestResidual(t *testing.T) {
	d := IODevice{
		Ours:   IOCounts{Reads: 5, Writes: 7, Discards: 1, Flushes: 2, ReadBytes: 100, WriteBytes: 10, DiscardBytes: 0},
		Kernel: IOCounts{Reads: 6, Writes: 5, Discards: 1, Flushes: 3, ReadBytes: 90, WriteBytes: 30, DiscardBytes: 5},
	}
	// One too many must not hide one too few.
	if got := d.ResidualBytes(); got != 10+20+5 {
		t.Errorf("%d bytes, want 35", got)
	}
	if got := d.ResidualOps(); got != 1+2+0+1 {
		t.Errorf("%d operations, want 4", got)
	}
}

func TestQuantile(t *testing.T) {
	h := Histogram{Buckets: []Bucket{{0, 16, 50}, {16, 32, 49}, {1024, 1088, 1}}, Sum: 12345, Max: 1030}
	for q, want := range map[float64]uint64{0.001: 8, 0.5: 8, 0.51: 24, 0.99: 24, 0.991: 1030, 1: 1030} {
		if got := h.Quantile(q); got != want {
			t.Errorf("quantile %g: got %d, want %d", q, got, want)
		}
	}
	if h.Mean() != 123 {
		t.Errorf("mean %d, want 123", h.Mean())
	}
	if (Histogram{}).Quantile(0.5) != 0 || (Histogram{}).Mean() != 0 {
		t.Error("an empty histogram has values")
	}
}

// A group keeps the name by which it was made, however unlike its members are otherwise.
func TestGroupKeepsItsName(t *testing.T) {
	row := func(n int) IORow {
		return IORow{Device: "vda", Reads: 1, Process: Process{
			PID: n, PPID: n, Started: time.Unix(int64(n), 0), Comm: fmt.Sprint("comm", n), Exe: fmt.Sprint("/bin/", n),
			Cgroup: fmt.Sprint("/", n), Unit: fmt.Sprint(n, ".service"), Container: fmt.Sprint("web", n), User: fmt.Sprint("user", n), App: fmt.Sprint("app", n),
		}}
	}
	for _, by := range Bys {
		a, b := row(1), row(2)
		switch by {
		case ByApp:
			b.App = a.App
		case ByComm:
			b.Comm = a.Comm
		case ByExe:
			b.Exe = a.Exe
		case ByCgroup:
			b.Cgroup = a.Cgroup
		case ByUnit:
			b.Unit = a.Unit
		case ByContainer:
			b.Container = a.Container
		case ByUser:
			b.User = a.User
		case ByPID:
			continue // a process is always like itself
		}
		g := IO{Rows: []IORow{a, b}}.Group(by).Rows
		if len(g) != 1 || g[0].Name(by) != a.Name(by) {
			t.Errorf("by %s: got %d rows, the first called %q; want one called %q", by, len(g), g[0].Name(by), a.Name(by))
		}
	}
}
