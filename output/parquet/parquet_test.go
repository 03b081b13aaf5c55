package parquet

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

// write makes a trace, which is left open if it is to be cut off.
func write(t *testing.T, closed bool, batches ...snapshot.Trace) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "made", "trace")
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range batches {
		if err := w.Write(batch); err != nil {
			t.Fatal(err)
		}
	}
	if closed {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir string) (out []snapshot.Trace) {
	t.Helper()
	err := Read(dir, func(part snapshot.Trace) error {
		out = append(out, part)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// join is one batch of two, as a part is.
func join(a, b snapshot.Trace) snapshot.Trace {
	a.End, a.RealTime, a.Loss = b.End, b.RealTime, b.Loss
	to, from := reflect.ValueOf(&a).Elem(), reflect.ValueOf(b)
	for i := range to.NumField() {
		if f := to.Field(i); f.Kind() == reflect.Slice && f.Type() != reflect.TypeFor[[]snapshot.Loss]() {
			f.Set(reflect.AppendSlice(f, from.Field(i)))
		}
	}
	return a
}

func TestRoundTrip(t *testing.T) {
	b := sample.Traces(5)
	want := []snapshot.Trace{join(b[0], b[1]), join(b[2], b[3]), b[4]}
	if got := read(t, write(t, true, b...)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// What is in a batch that begins before the end of the one before is put in order.
func TestOrder(t *testing.T) {
	at := func(at int64) []snapshot.IRQ { return []snapshot.IRQ{{Moment: snapshot.Moment{At: at}}} }
	got := read(t, write(t, true, snapshot.Trace{Start: 1, End: 5, IRQs: at(4)}, snapshot.Trace{Start: 5, End: 9, IRQs: at(3)}))
	if want := slices.Concat(at(3), at(4)); !slices.Equal(got[0].IRQs, want) {
		t.Errorf("got %v, want %v", got[0].IRQs, want)
	}
}

// A trace that was not closed can be read up to its last part that is a second long.
func TestCut(t *testing.T) {
	b := sample.Traces(5)
	dir := write(t, false, b...)
	want := []snapshot.Trace{join(b[0], b[1]), join(b[2], b[3])}
	if got := read(t, dir); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}

	// Parts that not all tables have yet do not count.
	for _, table := range []string{"syscall", "thread"} {
		if err := os.WriteFile(filepath.Join(dir, table, "00003.parquet"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, dir); !reflect.DeepEqual(got, want) {
		t.Errorf("with half a part: got %+v\nwant %+v", got, want)
	}

	part := filepath.Join(dir, "syscall", "00001.parquet")
	if err := os.Truncate(part, 1000); err != nil {
		t.Fatal(err)
	}
	if err := Read(dir, func(snapshot.Trace) error { return nil }); err == nil {
		t.Error("a part that is not whole is read as if it were")
	}
}

// Every table is there from the beginning.
func TestEmpty(t *testing.T) {
	for name, dir := range map[string]string{
		"without batches": write(t, true),
		"without events":  write(t, true, snapshot.Trace{Start: 1, End: 2, RealTime: 3}),
	} {
		for _, k := range traced.Kinds {
			if parts, err := os.ReadDir(filepath.Join(dir, k.Name)); err != nil || len(parts) != 1 {
				t.Errorf("%s: %s has %d parts: %v", name, k.Name, len(parts), err)
			}
		}
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir); err == nil {
		t.Error("writes beside what is there")
	}
	if _, err := New(filepath.Join(dir, "mine")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("for a file: %v", err)
	}
	if err := Read(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading none: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trace")
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	unsealed := filepath.Join(dir, "signal", ".00001.parquet.part")
	if err := os.Symlink("/dev/full", unsealed); err != nil {
		t.Fatal(err)
	}
	b := sample.Traces(3)
	if err := w.Write(b[0]); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(b[1]); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing: %v", err)
	}
	if _, err := os.Lstat(unsealed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what could not be written is left: %v", err)
	}
	if err := w.Write(b[2]); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing more: %v", err)
	}
	if err := w.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("closing: %v", err)
	}
	if got := read(t, dir); len(got) > 0 {
		t.Errorf("reads %d parts, of which a table is missing", len(got))
	}
}

// A switch in parts of about a second takes at most 8 bytes.
func TestSize(t *testing.T) {
	const events = 200_000
	if got := float64(size(t, write(t, true, sample.Switches(events)))) / events; got > 8 {
		t.Errorf("a switch takes %.1f bytes", got)
	}
}

func size(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		s, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		bytes += s.Size()
	}
	return bytes
}

func BenchmarkWrite(b *testing.B) {
	const events = 1_000_000
	batch := sample.Switches(events)
	var dir string
	for b.Loop() {
		dir = filepath.Join(b.TempDir(), "trace")
		w, err := New(dir)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(w.Write(batch), w.Close()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
	b.ReportMetric(float64(size(b, dir))/events, "B/event")
}
