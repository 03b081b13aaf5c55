package compare

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"culprit/probes/snapshot"
)

var begin = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

const interval = 10 * time.Second

// machine makes intervals of a load that goes up and down over minutes, with bursts, of 8 applications.
type machine struct {
	*rand.Rand
	level []float64
	slow  float64 // by how much the waits of app-3 are longer
	stays float64 // of the level, from one interval to the next
	moves float64 // of the level, in each
}

func newMachine(seed uint64) *machine {
	// What is left of a level a minute later is a quarter.
	return &machine{Rand: rand.New(rand.NewPCG(seed, 11)), level: make([]float64, 8), slow: 1, stays: 0.8, moves: 0.3}
}

// busy is how much an application does in an interval.
func (m *machine) busy(app int) float64 {
	m.level[app] = m.stays*m.level[app] + m.moves*m.NormFloat64()
	busy := math.Exp(m.level[app])
	if m.IntN(50) == 0 {
		busy *= 10
	}
	return busy
}

// values is a distribution of n log-normal values around a median.
func (m *machine) values(n int, around float64) (h snapshot.Histogram) {
	var counts [snapshot.BucketOctaves * snapshot.BucketSubs]uint64
	for range n {
		v := uint64(around * math.Exp(m.NormFloat64()/2))
		counts[snapshot.BucketOf(v)/4*4]++ // as recordings keep it
		h.Sum, h.Max = h.Sum+v, max(h.Max, v)
	}
	for b, n := range counts {
		if n > 0 {
			lower, _ := snapshot.BucketBounds(uint16(b))
			_, upper := snapshot.BucketBounds(uint16(b) + 3)
			h.Buckets = append(h.Buckets, snapshot.Bucket{Lower: lower, Upper: upper, Count: n})
		}
	}
	return h
}

func (m *machine) interval(n int) (io snapshot.IO, sched snapshot.Sched, tcp snapshot.TCP) {
	start := begin.Add(time.Duration(n) * interval)
	io.Start, io.End = start, start.Add(interval)
	for i := range m.level {
		busy := m.busy(i)
		p, slow := snapshot.Process{App: fmt.Sprint("app-", i), Comm: fmt.Sprint("app-", i)}, 1.0
		if i == 3 {
			slow = m.slow
		}
		row := snapshot.IORow{Process: p, Device: "sda", Reads: uint64(100 * busy), ReadLatency: snapshot.IOLatency{Total: m.values(int(50*busy), 90_000)}}
		row.ReadVia.File = 16384 * row.Reads
		io.Rows = append(io.Rows, row)
		sched.Rows = append(sched.Rows, snapshot.SchedRow{Process: p, Switches: 1, OnCPU: uint64(1e9 * busy), Latency: m.values(int(100*busy), 20_000*slow),
			Culprits: []snapshot.Culprit{{Process: p, NS: uint64(1e6 * busy * slow)}}})
		tcp.Rows = append(tcp.Rows, snapshot.TCPRow{Process: p, TCPTraffic: snapshot.TCPTraffic{Sent: uint64(1e5 * busy)}, RTT: m.values(int(20*busy), 300_000)})
	}
	return io, sched, tcp
}

func (m *machine) hour(name string) *Side {
	s := NewSide(name, snapshot.ByApp)
	for n := range 360 {
		io, sched, tcp := m.interval(n)
		s.Add("db1", interval, io, sched, tcp)
	}
	return s
}

// reads is a span of the same load in which so many intervals are recorded as one, and of which nothing is known but how much is read.
func (m *machine) reads(name string, span time.Duration, together int) *Side {
	s := NewSide(name, snapshot.ByApp)
	length := time.Duration(together) * interval
	for n := range int(span / length) {
		io := snapshot.IO{Start: begin.Add(time.Duration(n) * length)}
		io.End = io.Start.Add(length)
		for app := range m.level {
			var reads float64
			for range together {
				reads += 100 * m.busy(app)
			}
			io.Rows = append(io.Rows, snapshot.IORow{Process: snapshot.Process{App: fmt.Sprint("app-", app)}, Device: "sda", Reads: uint64(reads)})
		}
		s.Add("db1", length, io, snapshot.Sched{}, snapshot.TCP{})
	}
	return s
}

// alike checks that no difference is found in 19 of 20 runs.
func alike(t *testing.T, sides func(run uint64) (a, b *Side)) {
	t.Helper()
	const runs = 40
	wrong, unknown := 0, 0
	for run := range uint64(runs) {
		d, err := Compare(sides(run))
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Changes) > 0 {
			wrong++
		}
		unknown += d.TooLittle
		if d.A.Block != d.B.Block {
			t.Fatalf("blocks of %v are compared with blocks of %v", d.A.Block, d.B.Block)
		}
	}
	t.Logf("of %d runs %d have a difference that is none; of %d quantities too little is known", runs, wrong, unknown)
	if wrong > runs/20 {
		t.Errorf("of %d runs %d have a difference that is none", runs, wrong)
	}
}

// The same load is that in spans of unlike length, too, though its bursts even out in longer blocks; however long the intervals are.
func TestUnlike(t *testing.T) {
	for _, c := range []struct {
		a, b   time.Duration
		of, by int // intervals that are recorded as one
	}{
		{time.Hour, 6 * time.Hour, 1, 1}, {24 * time.Hour, 6 * time.Hour, 6, 1}, {time.Hour, 3 * time.Hour, 3, 2}, {time.Hour, 6 * time.Hour, 1, 6},
	} {
		alike(t, func(run uint64) (a, b *Side) {
			return newMachine(2*run).reads("a", c.a, c.of), newMachine(2*run+1).reads("b", c.b, c.by)
		})
	}
}

// The same load is that also if it follows itself over minutes, or not at all.
func TestFollows(t *testing.T) {
	for _, stays := range []float64{0, 0.8, 0.93} {
		alike(t, func(run uint64) (a, b *Side) {
			x, y := newMachine(2*run), newMachine(2*run+1)
			x.stays, y.stays = stays, stays
			x.moves = 0.5 * math.Sqrt(1-stays*stays) // that levels spread alike
			y.moves = x.moves
			return x.reads("a", time.Hour, 1), y.reads("b", time.Hour, 1)
		})
	}
}

// In 19 of 20 runs two recordings of the same load differ in nothing, and a p99 of waits that is 20 % longer is found.
func TestConfidence(t *testing.T) {
	const runs = 20
	wrong, found, others := 0, 0, 0
	for run := range uint64(runs) {
		a, b := newMachine(2*run), newMachine(2*run+1)
		before := a.hour("a")
		d, err := Compare(before, b.hour("b"))
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Changes) > 0 {
			wrong++
			t.Logf("run %d: %+v", run, d.Changes[0])
		}
		if d.Same < 50 {
			t.Errorf("%d quantities were compared, %d have too few values", d.Same, d.TooLittle)
		}
		slower := newMachine(1000 + run)
		slower.slow = 1.2
		d, err = Compare(before, slower.hour("slower"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range d.Changes {
			switch {
			case c.Name == "app-3" && c.Quantity == "wait_p99_ns":
				found++
				if r := c.Ratio(); r < 1.1 || r > 1.3 || c.A.Low > c.A.Value || c.A.High < c.A.Value {
					t.Errorf("1.2 times as long is %+v", c)
				}
			case c.Name != "app-3":
				others++
				t.Logf("run %d: %+v", run, c)
			}
		}
	}
	t.Logf("of %d: %d with a difference that is none, %d in which 20 %% were found, and %d of other applications", runs, wrong, found, others)
	if wrong > 1 || found < 19 || others > 1 {
		t.Errorf("of %d runs %d have a difference that is none, %d found 20 %%, and %d of other applications", runs, wrong, found, others)
	}
}

func TestAppeared(t *testing.T) {
	m := newMachine(1)
	a, b := NewSide("a", snapshot.ByApp), NewSide("b", snapshot.ByApp)
	for n := range 100 {
		io, sched, tcp := m.interval(n)
		a.Add("db1", interval, io, sched, tcp)
		io, sched, tcp = m.interval(n)
		io.Rows = append(io.Rows, snapshot.IORow{Process: snapshot.Process{App: "backup", Comm: "tar"}, Device: "sda", Reads: 10})
		b.Add("db1", interval, io, sched, tcp)
	}
	for _, c := range []struct {
		a, b  *Side
		ratio float64
	}{{a, b, math.Inf(1)}, {b, a, 0}} {
		d, err := Compare(c.a, c.b)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Changes) != 1 || d.Changes[0].Name != "backup" || d.Changes[0].Quantity != "reads_per_s" || d.Changes[0].Ratio() != c.ratio {
			t.Errorf("%+v", d.Changes)
		}
	}
}

// readers is a span of so many blocks, in which each of some applications reads now more and now less, of so much.
func readers(name string, blocks, apps int, much float64) *Side {
	s, r := NewSide(name, snapshot.ByApp), rand.New(rand.NewPCG(uint64(apps), uint64(much)))
	for n := range blocks {
		io := snapshot.IO{Start: begin.Add(time.Duration(n) * time.Minute)}
		io.End = io.Start.Add(time.Minute)
		for app := range apps {
			row := snapshot.IORow{Process: snapshot.Process{App: fmt.Sprint("app-", app)}, Device: "sda", Reads: uint64(much * (1 + 0.1*r.Float64()))}
			io.Rows = append(io.Rows, row)
		}
		s.Add("db1", time.Minute, io, snapshot.Sched{}, snapshot.TCP{})
	}
	return s
}

// Where chance explains the largest difference that there can be, among so many, nothing is the same.
func TestTooLittle(t *testing.T) {
	for _, c := range []struct{ blocks, apps, least, most int }{{40, 1000, 1000, 1000}, {12, 1000, 1, 999}, {8, 1000, 0, 321}, {8, 1, 1, 1}} {
		d, err := Compare(readers("a", c.blocks, c.apps, 1e6), readers("b", c.blocks, c.apps, 2e6))
		if err != nil {
			t.Fatal(err)
		}
		if found := len(d.Changes); found < c.least || found > c.most || d.TooLittle != c.apps-found || d.Same != 0 {
			t.Errorf("in %d blocks of %d applications that do twice as much, %d are found, %d are the same, and of %d too little is known",
				c.blocks, c.apps, found, d.Same, d.TooLittle)
		}
	}
}

// A median of 0 does not say that there is none, and what is in few blocks is not the same because of that.
func TestRare(t *testing.T) {
	// in is a span in which so many of 40 blocks have something, of which each has so much.
	in := func(name string, some int, much uint64) *Side {
		s, order := NewSide(name, snapshot.ByApp), rand.New(rand.NewPCG(uint64(some), 4)).Perm(40)
		for n, place := range order {
			io := snapshot.IO{Start: begin.Add(time.Duration(n) * time.Minute)}
			io.End = io.Start.Add(time.Minute)
			io.Rows = []snapshot.IORow{{Process: snapshot.Process{App: "backup"}, Device: "sda"}}
			if place < some {
				io.Rows[0].Reads = much
			}
			s.Add("db1", time.Minute, io, snapshot.Sched{}, snapshot.TCP{})
		}
		return s
	}
	for _, c := range []struct {
		a, b      int
		muchA     uint64
		ratio     float64 // 0: nothing is listed
		tooLittle int
	}{
		{3, 18, 600, 6, 0}, {18, 3, 600, 1. / 6, 0}, // both medians are 0
		{4, 40, 600, 10, 0}, {0, 30, 600, math.Inf(1), 0}, // one is
		{4, 5, 600, 0, 0},        // nearly as often
		{1, 0, 600, 0, 1},        // chance
		{4, 36, 6_000_000, 0, 1}, // more often, but less
	} {
		d, err := Compare(in("a", c.a, c.muchA), in("b", c.b, 600))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case c.ratio == 0 && (len(d.Changes) > 0 || d.TooLittle != c.tooLittle || d.Same+d.TooLittle != 1):
			t.Errorf("%d blocks, then %d: %+v", c.a, c.b, d)
		case c.ratio != 0 && (len(d.Changes) != 1 || math.Abs(d.Changes[0].Ratio()/c.ratio-1) > 1e-9):
			t.Errorf("%d blocks, then %d are no change to %v: %+v", c.a, c.b, c.ratio, d)
		}
		for _, e := range d.Changes {
			for _, e := range []snapshot.Estimate{e.A, e.B} {
				if e.Low < 0 || e.Low > e.Value || e.High < e.Value || e.High > 10 {
					t.Errorf("%+v", e)
				}
			}
		}
	}
}

// Two machines are one, of which each did half.
func TestMachines(t *testing.T) {
	one, two := NewSide("one", snapshot.ByApp), NewSide("two", snapshot.ByApp)
	m := newMachine(1)
	for n := range 50 {
		io, sched, tcp := m.interval(n)
		one.Add("db1", interval, io, sched, tcp)
	}
	for _, name := range []string{"db1", "db2"} {
		m := newMachine(1)
		for n := range 50 {
			io, sched, tcp := m.interval(n)
			two.Add(name, interval, io, sched, tcp)
		}
	}
	d, err := Compare(one, two)
	if err != nil || len(d.Changes) > 0 || d.B.Machines != 2 || d.A.Machines != 1 || d.A.Blocks != d.B.Blocks {
		t.Errorf("%+v %v", d, err)
	}
}

func TestShort(t *testing.T) {
	for _, c := range []struct {
		a, b time.Duration
		want string
	}{
		{time.Hour, 24 * time.Hour, "comparing a: of blocks of 16m0s it has 4, b has 90: "},
		{6 * time.Hour, 7 * interval, "comparing b: of blocks of 4m0s it has 1, a has 90: "},
		{7 * interval, 7 * interval, "comparing a: of blocks of 15s it has 5, b has 5: "},
	} {
		_, err := Compare(newMachine(1).reads("a", c.a, 1), newMachine(2).reads("b", c.b, 1))
		if !errors.Is(err, ErrShort) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v and %v: %v, not %q", c.a, c.b, err, c.want)
		}
	}
}

// Blocks are as long as each other, however long the intervals are that they are of, and whichever comes first.
func TestBlocks(t *testing.T) {
	s := NewSide("a", snapshot.ByApp)
	at := begin
	for _, length := range []time.Duration{300 * time.Millisecond, 10 * time.Second, 10600 * time.Millisecond, 2 * time.Hour, 10 * time.Second, time.Hour} {
		for range 10 {
			io := snapshot.IO{Start: at, End: at.Add(length), Rows: []snapshot.IORow{{Process: snapshot.Process{App: "dd"}, Device: "sda", Reads: uint64(length)}}}
			s.Add("db1", length, io, snapshot.Sched{}, snapshot.TCP{})
			at = at.Add(length)
		}
	}
	if s.each < 2*time.Hour || len(s.blocks) > mostBlocks {
		t.Fatalf("%d blocks of %v", len(s.blocks), s.each)
	}
	for n, b := range s.blocks {
		if from := time.Unix(0, n*int64(s.each)); from.Add(s.each).Before(begin) || from.After(at) || b.length > s.each.Seconds()+7200 {
			t.Errorf("block %d begins at %v and has %v s", n, from, b.length)
		}
		if rate := b.cell("dd").sums[2] / b.length; math.Abs(rate-1e9) > 1 {
			t.Errorf("%v reads a second", rate)
		}
	}
}

// Of what follows itself all the way, nothing is known, however different it is; what is wholly different otherwise is no chance.
func TestClearDifferences(t *testing.T) {
	rising := func(from float64, n int) (out []float64) {
		for i := range n {
			out = append(out, from+5*float64(i))
		}
		return out
	}
	noise := func(from float64, n int) (out []float64) {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		for range n {
			out = append(out, from+r.Float64())
		}
		return out
	}
	for _, n := range []int{8, 28, 29, 30, 45, 48, 96} {
		for _, to := range []float64{10, 1000 + 5*float64(n), 3000} {
			if q := newQuantity(snapshot.Change{}, rising(1000, n), rising(to, n)); q.chance(q.was, q.is) != 1 {
				t.Errorf("%d blocks that rise, from 1000 and from %v: %v", n, to, q.chance(q.was, q.is))
			}
			q := newQuantity(snapshot.Change{}, noise(1000, n), noise(to, n))
			if p := q.chance(q.was, q.is); !(p > 0 && p < 0.05) && n > 8 {
				t.Errorf("%d blocks, around 1000 and around %v: %v", n, to, p)
			}
		}
	}
}
