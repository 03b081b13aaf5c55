package recording

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

var begin = time.Date(2026, 11, 22, 15, 30, 0, 0, time.UTC)

const interval10 = 10 * time.Second

// at is the sample's reports as the n-th interval, with rows that differ from another's.
func at(n int) Snapshot {
	s := Snapshot{sample.IO(snapshot.ByPID), sample.Sched(snapshot.ByPID), sample.TCP(snapshot.ByPID)}
	start := begin.Add(time.Duration(n) * interval10)
	end := start.Add(interval10)
	s.IO.Start, s.Sched.Start, s.TCP.Start = start, start, start
	s.IO.End, s.Sched.End, s.TCP.End = end, end, end
	for i := range s.IO.Rows {
		s.IO.Rows[i].DiscardBytes += uint64(n)
	}
	return s
}

func open(t testing.TB, dir string, options ...func(*Options)) *Writer {
	t.Helper()
	o := Options{Dir: dir, Host: "db1.example", Boot: "b00t", Kernel: "6.18.1", Version: "test"}
	for _, f := range options {
		f(&o)
	}
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.lock.Close() })
	return w
}

func record(t testing.TB, w *Writer, s Snapshot) {
	t.Helper()
	if err := w.Write(s); err != nil {
		t.Fatal(err)
	}
}

// all is what a recording has, and what was damaged.
func all(t testing.TB, dir string) (out []Interval, damage []Damage) {
	t.Helper()
	damage, err := Read(dir, Query{Until: begin.AddDate(1, 0, 0)}, func(i Interval) error {
		out = append(out, i)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, damage
}

// small is an interval of few bytes.
func small(n int) Snapshot {
	s := at(n)
	s.IO.Rows, s.Sched.Rows, s.TCP.Rows = s.IO.Rows[:1], nil, nil
	s.IO.Worst, s.IO.Devices, s.Sched.Worst, s.TCP.Worst, s.TCP.Kernel = nil, nil, nil, nil, nil
	return s
}

// asKept is what is to come back of an interval.
func asKept(s Snapshot) Snapshot { return s.rows(Options{}).snapshot() }

func equal(t testing.TB, got []Interval, want []Snapshot) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d intervals, want %d", len(got), len(want))
	}
	for i := range got {
		if want := asKept(want[i]); !reflect.DeepEqual(got[i].Snapshot, want) {
			t.Fatalf("interval %d is\n%+v\nwant\n%+v", i, got[i].Snapshot, want)
		}
	}
}

// What is recorded is there at once, and the same when it was sealed.
func TestRecording(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	var want []Snapshot
	for n := range 400 { // over two hours' ends
		want = append(want, at(n))
		record(t, w, want[n])
		if n < 3 {
			got, damage := all(t, dir)
			if equal(t, got, want); len(damage) > 0 {
				t.Errorf("there is damage: %v", damage)
			}
		}
	}
	got, _ := all(t, dir)
	equal(t, got, want)
	if i := got[0]; i.Host != "db1.example" || i.Boot != "b00t" || i.Kernel != "6.18.1" {
		t.Errorf("an interval is of %q, %q, %q", i.Host, i.Boot, i.Kernel)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*/*/*"+journalEnding)); len(left) > 0 {
		t.Errorf("after its end a recording has %v", left)
	}
	got, _ = all(t, dir)
	equal(t, got, want)
	// A span of it.
	n := 0
	if _, err := Read(dir, Query{Since: begin.Add(100 * interval10), Until: begin.Add(120 * interval10)}, func(i Interval) error { n++; return nil }); err != nil || n != 20 {
		t.Errorf("a span of 20 intervals has %d; %v", n, err)
	}
}

// Of sums, nothing changes by being recorded, whatever is merged.
func TestSums(t *testing.T) {
	s := at(0)
	for i := range 3000 { // more than has rows of its own
		r := s.IO.Rows[0]
		r.PID, r.Comm, r.App = 10_000+i, "many", "many"
		r.Cgroup = string(rune('a' + i%26))
		r.ReadVia.File = uint64(i)
		s.IO.Rows = append(s.IO.Rows, r)
	}
	sum := func(rows []snapshot.IORow) (bytes, ops, latencies uint64) {
		for _, r := range rows {
			bytes += r.Bytes()
			ops += r.Reads + r.Writes
			latencies += r.ReadLatency.Total.Count() + r.WriteLatency.Total.Sum
		}
		return
	}
	k := asKept(s)
	if len(k.IO.Rows) >= 1000 {
		t.Errorf("%d rows are kept", len(k.IO.Rows))
	}
	b, o, l := sum(s.IO.Rows)
	kb, ko, kl := sum(k.IO.Rows)
	if b != kb || o != ko || l != kl {
		t.Errorf("of %d bytes, %d operations, %d are kept %d, %d, %d", b, o, l, kb, ko, kl)
	}
	var wait, kwait uint64
	for _, r := range s.Sched.Rows {
		wait += r.Wait()
	}
	for _, r := range k.Sched.Rows {
		kwait += r.Wait()
	}
	if wait != kwait || wait == 0 {
		t.Errorf("of waits of %d ns, %d are kept", wait, kwait)
	}
}

// A process that did a tenth of something has a row of its own.
func TestHeavyProcesses(t *testing.T) {
	s := at(0)
	s.IO.Rows = nil
	for pid, bytes := range map[int]uint64{1: 500, 2: 300, 3: 90, 4: 60, 5: 50} {
		s.IO.Rows = append(s.IO.Rows, snapshot.IORow{Process: snapshot.Process{App: "app", Comm: "app", PID: pid, Started: begin}, Device: "sda", ReadVia: snapshot.ReadVia{File: bytes}})
	}
	got := map[int]uint64{}
	for _, r := range asKept(s).IO.Rows {
		got[r.PID] = r.Bytes()
	}
	if want := map[int]uint64{1: 500, 2: 300, 0: 200}; !reflect.DeepEqual(got, want) {
		t.Errorf("rows of %v, want %v", got, want)
	}
}

func journals(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*/*/*"+journalEnding))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// Whatever happens to the end of a journal, what was before is there; what is damaged elsewhere is alone missing.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	var want []Snapshot
	var ends []int64
	for n := range 5 {
		want = append(want, small(n))
		record(t, w, want[n])
		ends = append(ends, w.journal.size)
	}
	path := journals(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rest := func() []Interval {
		got, damage := all(t, dir)
		if now, _ := os.ReadFile(path); len(damage) != 1 && !slices.Contains(ends, int64(len(now))) {
			t.Fatalf("damage %v", damage)
		}
		return got
	}
	// A power cut: at every byte of the last two frames.
	for cut := ends[2]; cut < int64(len(whole)); cut++ {
		put(whole[:cut])
		n := 3
		if cut >= ends[3] {
			n = 4
		}
		if got := rest(); len(got) != n {
			t.Fatalf("cut at %d, there are %d intervals, want %d", cut, len(got), n)
		} else if cut%97 == 0 {
			equal(t, got, want[:n])
		}
	}
	// Bits that flip.
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bad := bytes.Clone(whole)
		at := r.IntN(len(bad))
		bad[at] ^= 1 << r.IntN(8)
		put(bad)
		frame, _ := slices.BinarySearch(ends, int64(at)+1)
		equal(t, rest(), slices.Delete(slices.Clone(want), frame, frame+1))
	}
	// What is damaged is named, and so it is when the journal is sealed, of which the rest becomes tables.
	bad := bytes.Clone(whole)
	bad[ends[1]+20] ^= 1
	put(bad)
	w.lock.Close()
	w = open(t, dir)
	if d := w.Damage(); len(d) != 1 || d[0].Offset != ends[1] || d[0].Bytes != ends[2]-ends[1] || !strings.Contains(d[0].String(), path) {
		t.Errorf("the damage is %v", d)
	}
	if left := journals(t, dir); len(left) > 0 {
		t.Errorf("journals are left: %v", left)
	}
	got, _ := all(t, dir)
	equal(t, got, slices.Delete(slices.Clone(want), 2, 3))
	record(t, w, small(9))
	got, _ = all(t, dir)
	if loss := got[len(got)-1].IO.Loss; !slices.Contains(loss, snapshot.Loss{Name: lossDamage, Count: 1}) {
		t.Errorf("the next interval's losses are %v", loss)
	}
}

// Sealing that was interrupted is done again, and nothing is there twice.
func TestInterruptedSealing(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	want := []Snapshot{at(0), at(1)}
	for _, s := range want {
		record(t, w, s)
	}
	path := journals(t, dir)[0]
	journal, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// Just before the journal was removed: reading takes the tables, and the next one removes it.
	if err := os.WriteFile(path, journal, 0o644); err != nil {
		t.Fatal(err)
	}
	got, _ := all(t, dir)
	equal(t, got, want)
	// Before the last table.
	last := tablePath(strings.TrimSuffix(path, journalEnding), intervals)
	if err := os.Remove(last); err != nil {
		t.Fatal(err)
	}
	got, _ = all(t, dir)
	equal(t, got, want)
	w = open(t, dir)
	if len(journals(t, dir)) > 0 {
		t.Error("the journal is left")
	}
	got, _ = all(t, dir)
	equal(t, got, want)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// One process at a time records a machine; others' machines are theirs.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	if _, err := Open(w.options); !errors.Is(err, ErrRunning) {
		t.Errorf("a second one: %v", err)
	}
	other := open(t, dir, func(o *Options) { o.Host = "../../db2" })
	record(t, w, at(0))
	record(t, other, at(1))
	got, _ := all(t, dir)
	if len(got) != 2 || got[0].Host == got[1].Host {
		t.Errorf("the intervals are %v", got)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, func(o *Options) { o.Host = "../../db2" })
}

// What is too old goes, and what is too much, at every interval.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, func(o *Options) { o.Keep = 3 * time.Hour })
	const hours = 360
	for n := range 8 * hours {
		record(t, w, small(n))
	}
	got, _ := all(t, dir)
	if age := small(8*hours - 1).IO.End.Sub(got[0].IO.End); age < 3*time.Hour || age > 5*time.Hour+time.Minute {
		t.Errorf("the oldest is %v old", age)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	size := func() (n uint64) {
		files, err := filesOf(dir, escape("db1.example"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			n += f.bytes
		}
		return n
	}
	limit := size() * 2 / 3
	w = open(t, dir, func(o *Options) { o.Bytes = limit })
	record(t, w, small(8*hours))
	if now := size(); now > limit || now < limit/4 {
		t.Errorf("%d bytes are kept of at most %d", now, limit)
	}
	if got, _ := all(t, dir); !got[len(got)-1].IO.End.Equal(small(8 * hours).IO.End) {
		t.Error("the newest interval is gone")
	}
}

// A clock that is set back loses nothing.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	for _, n := range []int{1000, 1001, 10, 11} {
		record(t, w, at(n))
	}
	got, _ := all(t, dir)
	equal(t, got[2:], []Snapshot{at(1000), at(1001)})
	if len(got) != 4 || !slices.Contains(got[0].Sched.Loss, snapshot.Loss{Name: lossClock, Count: 1}) {
		t.Errorf("%d intervals, losses %v", len(got), got[0].Sched.Loss)
	}
}

// Of one application, what is read of its rows alone is what is read of all.
func TestApplications(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	s := newSynthetic()
	for n := range 150 { // more rows of disks than are in one part of a table
		record(t, w, s.interval(n))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, apps := range [][]string{{"service-000.service"}, {"service-199.service", "service-007.service"}, {"nobody"}} {
		wanted := func(p snapshot.Process) bool { return slices.Contains(apps, p.App) }
		read := func(q Query) (out []Interval, rows int) {
			q.Until = begin.AddDate(1, 0, 0)
			_, err := Read(dir, q, func(i Interval) error {
				rows += len(i.IO.Rows)
				i.IO, i.Sched, i.TCP = i.IO.Filter(wanted), i.Sched.Filter(wanted), i.TCP.Filter(wanted)
				out = append(out, i)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return out, rows
		}
		want, all := read(Query{})
		got, few := read(Query{Apps: apps})
		if !reflect.DeepEqual(got, want) {
			t.Errorf("of %v other rows were read", apps)
		}
		if all <= partRows || few > all/20 {
			t.Errorf("of %v %d rows were read, of %d", apps, few, all)
		}
	}
}

// Of the hosts that are not asked about, nothing is read: what is damaged there is not noticed.
func TestHosts(t *testing.T) {
	dir := t.TempDir()
	for n, host := range []string{"db1", "db2", "web 1"} {
		w := open(t, dir, func(o *Options) { o.Host = host })
		record(t, w, at(n))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tables, err := filepath.Glob(filepath.Join(dir, "date=*", "host=db2", "*.parquet"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, path := range tables {
		if err := os.WriteFile(path, []byte("no table"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		asked, want []string
		damage      int
	}{
		{nil, []string{"db1", "web 1"}, 1},
		{[]string{"db1"}, []string{"db1"}, 0},
		{[]string{"web 1", "db1", "web 1"}, []string{"db1", "web 1"}, 0},
		{[]string{"db2"}, nil, 1},
	} {
		var got []string
		damage, err := Read(dir, Query{Until: begin.AddDate(1, 0, 0), Hosts: c.asked}, func(i Interval) error {
			got = append(got, i.Host)
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) || len(damage) != c.damage {
			t.Errorf("of %q there are %q, damaged are %v; %v", c.asked, got, damage, err)
		}
	}
	_, err = Read(dir, Query{Until: begin.AddDate(1, 0, 0), Hosts: []string{"db1", "db3"}}, func(Interval) error { return errors.New("it is read") })
	if want := `there is no host "db3": there are db1, db2, web 1`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("of a host that is not there: %v", err)
	}
}

// What was set back within an hour is found by when it was.
func TestClockSetBackWithinAnHour(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	for _, n := range []int{100, 101, 10, 11} { // 15:46 and 15:31
		record(t, w, at(n))
	}
	for _, sealed := range []bool{false, true} {
		n := 0
		_, err := Read(dir, Query{Until: begin.Add(20 * interval10), Merged: always}, func(Interval) error { n++; return nil })
		if err != nil || n != 2 {
			t.Errorf("sealed %v: there are %d intervals, want 2; %v", sealed, n, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is found to be damaged when an hour is over is told of in the next interval.
func TestDamageFoundLater(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	record(t, w, small(0))
	record(t, w, small(1))
	text, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-1] ^= 1
	if err := os.WriteFile(w.path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	record(t, w, small(400)) // an hour later
	got, _ := all(t, dir)
	if last := got[len(got)-1]; !slices.Contains(last.Sched.Loss, snapshot.Loss{Name: lossDamage, Count: 1}) {
		t.Errorf("losses are %v", last.Sched.Loss)
	}
}
