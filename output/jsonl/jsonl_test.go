package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

func written(t *testing.T, batches ...snapshot.Trace) []byte {
	t.Helper()
	var b bytes.Buffer
	w := New(&b)
	for _, batch := range batches {
		if err := w.Write(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t *testing.T, file []byte) (out []snapshot.Trace) {
	t.Helper()
	err := Read(bytes.NewReader(file), func(batch snapshot.Trace) error {
		out = append(out, batch)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func count(batch snapshot.Trace) (events int) {
	for range traced.InOrder(&batch) {
		events++
	}
	return events
}

func TestRoundTrip(t *testing.T) {
	want := sample.Traces(5)
	if got := read(t, written(t, want...)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// Each line is one object, and of each batch they are in the order of time.
func TestLines(t *testing.T) {
	var last int64
	events, losses := 0, 0
	for n, line := range bytes.Split(bytes.TrimSpace(written(t, sample.Traces(5)...)), []byte("\n")) {
		var e struct {
			Schema, Event string
			At            *int64 `json:"at_ns"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("line %d: %v: %s", n+1, err, line)
		}
		switch {
		case n == 0:
			if want := `{"schema":"culprit.trace/1","start":"2023-11-14T22:13:19.623456789Z","start_ns":5000000000}`; string(line) != want {
				t.Errorf("the first line is\n%s, want\n%s", line, want)
			}
		case e.Event == "batch":
			last = 0
		case e.Event == "loss":
			losses++
		case e.At != nil:
			events++
			if *e.At < last {
				t.Fatalf("line %d is of %d, after %d", n+1, *e.At, last)
			}
			last = *e.At
		}
	}
	want := 0
	for _, batch := range sample.Traces(5) {
		want += count(batch)
	}
	if events != want {
		t.Errorf("%d events, want %d", events, want)
	}
	if losses != 3 { // they grew twice; and the last line
		t.Errorf("%d lines about losses, want 3", losses)
	}
}

func TestNames(t *testing.T) {
	batch := snapshot.Trace{End: 1, Threads: []snapshot.Thread{{TID: 1, Comm: "caf\xc3"}}}
	if got := read(t, written(t, batch)); got[0].Threads[0].Comm != "caf\uFFFD" {
		t.Errorf("got %q", got[0].Threads[0].Comm)
	}
}

// Wherever a file is cut, what is before the cut can be read.
func TestCut(t *testing.T) {
	file := written(t, sample.Traces(2)...)
	for cut := 0; cut < len(file); cut += 997 {
		got := 0
		var end int64
		err := Read(bytes.NewReader(file[:cut]), func(batch snapshot.Trace) error {
			if batch.Start < end || batch.End < batch.Start || batch.RealTime-batch.End != 1_699_999_994_623_456_789 {
				t.Fatalf("cut at %d: batch from %d to %d, at %d", cut, batch.Start, batch.End, batch.RealTime)
			}
			end = batch.End
			got += count(batch)
			return nil
		})
		if want := bytes.Count(file[:bytes.LastIndexByte(file[:cut], '\n')+1], []byte(`"at_ns"`)); err != nil || got != want {
			t.Fatalf("cut at %d: %d events, want %d: %v", cut, got, want, err)
		}
	}
}

func TestWhatIsNoTrace(t *testing.T) {
	header := `{"schema":"culprit.trace/1","start":"2023-11-14T22:13:19.623456789Z","start_ns":5000000000}` + "\n"
	for file, want := range map[string]string{
		`{"schema":"culprit.io/1"}` + "\n":                   `line 1 of a trace: its schema is "culprit.io/1"`,
		"hello\n":                                            "line 1 of a trace: invalid character",
		header + "hello\n":                                   "line 2 of a trace: invalid character",
		header + `{"event":"party"}` + "\n":                  `line 2 of a trace: unknown event "party"`,
		header + `{"event":"irq","number":"x"}` + "\n":       "line 2 of a trace: json: cannot unmarshal",
		header + `{"event":"loss","late":-1}` + "\n":         "line 2 of a trace: json: cannot unmarshal",
		header + `{"event":"batch","end_ns":"never"}` + "\n": "line 2 of a trace: json: cannot unmarshal",
	} {
		err := Read(strings.NewReader(file), func(snapshot.Trace) error { return nil })
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", file, err, want)
		}
	}
	stop := errors.New("enough")
	if err := Read(bytes.NewReader(written(t, sample.Traces(2)...)), func(snapshot.Trace) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped with %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w := New(full)
	if err := w.Write(sample.Traces(1)[0]); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing: %v", err)
	}
	if err := w.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("closing: %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	const events = 1_000_000
	batch := sample.Switches(events)
	for b.Loop() {
		if err := New(io.Discard).Write(batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
}
