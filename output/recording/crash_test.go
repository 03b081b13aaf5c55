package recording

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childDir is set for the process that records until it is killed.
const childDir = "CULPRIT_TEST_RECORD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(recordForEver(dir))
	}
	os.Exit(m.Run())
}

// recordForEver prints the number of each interval that is on the disk.
func recordForEver(dir string) int {
	first, _ := strconv.Atoi(os.Getenv(childDir + "_FROM"))
	w, err := Open(Options{Dir: dir, Host: "db1.example"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := first; ; n++ {
		if err := w.Write(crashing(n)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(n)
	}
}

// crashing are intervals of which each hour has 20 only, so that sealing is interrupted, too.
func crashing(n int) Snapshot { return small(n * 18) }

// However often the process is killed, each interval that it had written is there, once.
func TestKilled(t *testing.T) {
	rounds := 25
	if times, err := strconv.Atoi(os.Getenv("CULPRIT_TEST_TIMES")); err == nil {
		rounds *= times
	}
	dir := t.TempDir()
	written := 0
	for range rounds {
		before := written
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, childDir+"_FROM="+strconv.Itoa(written))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killed := time.AfterFunc(time.Duration(20+rand.IntN(100))*time.Millisecond, func() { cmd.Process.Kill() })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil && n == written {
				written++
			} else {
				t.Fatalf("after %d comes %q", written, lines.Text())
			}
		}
		killed.Stop()
		cmd.Process.Kill()
		cmd.Wait()
		// What it had no time to tell of is there as well, or not.
		first, there := before, before
		damage, err := Read(dir, Query{Since: crashing(first).IO.Start, Until: begin.AddDate(1, 0, 0)}, func(i Interval) error {
			if want := crashing(there).IO; !i.IO.End.Equal(want.End) || i.IO.Rows[0].DiscardBytes != want.Rows[0].DiscardBytes {
				t.Fatalf("interval %d is %v", there, i.IO)
			}
			there++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if there < written || there > written+1 || len(damage) > 1 {
			t.Fatalf("%d intervals were written, %d are there; damage %v", written, there, damage)
		}
		written = there
	}
	if got, _ := all(t, dir); len(got) != written {
		t.Errorf("%d intervals are there in the end, of %d", len(got), written)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) != ".parquet" && filepath.Ext(path) != ".lock" {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := all(t, dir); len(got) != written {
		t.Errorf("%d intervals are sealed, of %d", len(got), written)
	}
	t.Logf("%d intervals in %d rounds", written, rounds)
	if written < rounds {
		t.Errorf("only %d intervals were written in %d rounds", written, rounds)
	}
}

// On a full disk nothing is lost: what cannot be written is part of what can be written later.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	record(t, w, small(0))
	// A limit of the size of files is as good as a full disk.
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := before
	limit.Cur = uint64(w.journal.size) + 10
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 4; n++ {
		if err := w.Write(small(n)); err == nil {
			t.Error("a frame was written beyond the limit")
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	record(t, w, small(4))
	got, damage := all(t, dir)
	if len(got) != 2 || len(damage) != 0 {
		t.Fatalf("%d intervals, want 2; damage %v", len(got), damage)
	}
	want := small(1)
	for n := 2; n < 5; n++ {
		want = want.Then(small(n))
	}
	var sum, wanted uint64
	for _, r := range got[1].IO.Rows {
		sum += r.DiscardBytes
	}
	for _, r := range want.IO.Rows {
		wanted += r.DiscardBytes
	}
	if i := got[1].IO; sum != wanted || !i.Start.Equal(want.IO.Start) || !i.End.Equal(want.IO.End) {
		t.Errorf("%d bytes from %v to %v, want %d from %v to %v", sum, i.Start, i.End, wanted, want.IO.Start, want.IO.End)
	}
	delayed := uint64(0)
	for _, l := range got[1].IO.Loss {
		if l.Name == lossDelayed {
			delayed = l.Count
		}
	}
	if delayed != 3 {
		t.Errorf("%d intervals are told of as delayed, want 3", delayed)
	}
}

// A disk that cannot be written to when it begins is an error then.
func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if w, err := Open(Options{Dir: file, Host: "a"}); err == nil {
		w.Close()
		t.Error("a recording was made in a file")
	}
	if _, err := Read(t.TempDir(), Query{Since: begin, Until: begin}, nil); err == nil {
		t.Error("an empty directory is read as a recording")
	}
}

// A journal that was made to take long does not.
func TestMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made"+journalEnding)
	head := append(bytes.Clone(mark), 0, 0, 0xff, 0)
	if err := os.WriteFile(path, bytes.Repeat(head, 40<<20/len(head)), 0o644); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	damage, err := readJournal(path, func(*rows) error { return nil })
	if err != nil || len(damage) != 1 || damage[0].Bytes != 40<<20 {
		t.Errorf("%v, %v", damage, err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// Whatever a journal has in it, reading it ends, and takes no more memory than there is of it.
func FuzzJournal(f *testing.F) {
	dir := f.TempDir()
	w := open(f, dir)
	for n := range 2 {
		record(f, w, small(n))
	}
	whole, err := os.ReadFile(w.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(append([]byte{0xc3, 'c', 'u', 'l', 0xff, 0xff, 0xff, 0xff}, whole...))
	path := filepath.Join(dir, "fuzzed"+journalEnding)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		var good int64
		damage, err := readJournal(path, func(r *rows) error {
			r.snapshot()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range damage {
			if d.Offset < good || d.Bytes <= 0 || d.Offset+d.Bytes > int64(len(text)) {
				t.Errorf("damage %v of %d bytes", d, len(text))
			}
			good = d.Offset + d.Bytes
		}
	})
}

// allocated is how much memory was ever asked for.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A table that somebody else made, or that is damaged, is an error at worst, and reading what is damaged takes no more memory than there can be of it.
func FuzzTables(f *testing.F) {
	dir := f.TempDir()
	w := open(f, dir)
	for n := range 2 {
		record(f, w, at(n))
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	hours, err := filesOf(dir, escape("db1.example"))
	if err != nil {
		f.Fatal(err)
	}
	for i, t := range tables {
		whole, err := os.ReadFile(tablePath(hours[0].stem, t.name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), whole)
	}
	path := filepath.Join(dir, "fuzzed")
	f.Fuzz(func(t *testing.T, table uint8, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, apps := range [][]string{nil, {"postgres"}} {
			before := allocated()
			tables[int(table)%len(tables)].read(path, apps, func(int64) *rows { return &rows{} })
			if got := allocated() - before; got > 64<<20+1000*uint64(len(text)) {
				t.Errorf("reading %d bytes took %d of memory", len(text), got)
			}
		}
		// As if somebody had made it on purpose.
		if at := sumAt(text); at > 0 {
			copy(text[at:], noSum)
			copy(text[at:], sumOf(text))
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
			tables[int(table)%len(tables)].read(path, nil, func(int64) *rows { return &rows{} })
		}
	})
}

// A bit that flipped is found, wherever it is.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	record(t, w, at(0))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	hours, err := filesOf(dir, escape("db1.example"))
	if err != nil {
		t.Fatal(err)
	}
	path := tablePath(hours[0].stem, "io")
	table, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(table) {
		table[bit/8] ^= 1 << (bit % 8)
		if err := checkSum(table); !errors.Is(err, errDamaged) {
			t.Errorf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
		table[bit/8] ^= 1 << (bit % 8)
	}
	if err := checkSum(table); err != nil {
		t.Error(err)
	}
}

// An hour with a table that is damaged is told of, and the others are read; its sum is still there.
func TestDamagedTable(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	want := []Snapshot{spaced(0), spaced(3), spaced(6)}
	for _, s := range want {
		record(t, w, s)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	hours, err := filesOf(dir, escape("db1.example"))
	if err != nil {
		t.Fatal(err)
	}
	path := tablePath(hours[1].stem, "io")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"cut": text[:len(text)/2], "empty": nil, "overwritten": bytes.Repeat([]byte("PAR1"), 1000)} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		got, damage := all(t, dir)
		equal(t, got, []Snapshot{want[0], want[2]})
		if len(damage) != 1 || damage[0] != (Damage{path, 0, int64(len(text))}) {
			t.Errorf("%s: damage is %v", name, damage)
		}
		if _, n := total(t, dir, time.Time{}, begin.AddDate(1, 0, 0), always); n != 3 {
			t.Errorf("%s: %d hours are read where their sums do", name, n)
		}
	}
}
