// Package jsonl writes traces as JSON lines. The first line is about the trace, and each other about one event, in the order of
// time for each batch; "event" says of which kind it is, and with it which fields it has. Beside events there are
//
//	thread  a name that is new
//	loss    the counters of losses that are not 0, all since the trace began, when they grew and once more at the end
//	batch   what comes after a batch: no event between its start_ns and end_ns comes later
package jsonl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

const (
	schema     = "culprit.trace/1"
	timeLayout = "2006-01-02T15:04:05.000000000Z07:00" // with all digits, so that times also sort as text
)

// header is the first line.
type header struct {
	Schema  string `json:"schema"`
	Start   string `json:"start"`
	StartNS int64  `json:"start_ns"` // the same moment as at_ns has it
}

// batch is the line after each batch.
type batch struct {
	Start    int64 `json:"start_ns"`
	End      int64 `json:"end_ns"`
	RealTime int64 `json:"real_time_ns"` // since the epoch, at End
}

// Writer writes one trace.
type Writer struct {
	out   *bufio.Writer
	line  bytes.Buffer
	json  *json.Encoder // into line
	begun bool
	lost  map[string]uint64 // as last written
}

// New writes to w.
func New(w io.Writer) *Writer {
	out := &Writer{out: bufio.NewWriterSize(w, 1<<16)}
	out.json = json.NewEncoder(&out.line)
	out.json.SetEscapeHTML(false)
	return out
}

// Write writes a batch, all of which has reached the file when it returns. Bytes of names that are not UTF-8 become U+FFFD.
func (w *Writer) Write(t snapshot.Trace) error {
	if !w.begun {
		w.begun = true
		start := time.Unix(0, t.RealTime-(t.End-t.Start)).UTC()
		if err := w.json.Encode(header{schema, start.Format(timeLayout), t.Start}); err != nil {
			return fmt.Errorf("encoding the start of a trace as json: %w", err)
		}
		w.out.Write(w.line.Bytes())
	}
	for i := range t.Threads {
		if err := w.write(traced.Threads.Name, &t.Threads[i]); err != nil {
			return err
		}
	}
	for kind, i := range traced.InOrder(&t) {
		if err := w.write(kind.Name, kind.Row(&t, i)); err != nil {
			return err
		}
	}
	if lost := traced.Lost(&t); !maps.Equal(lost, w.lost) {
		w.lost = lost
		if err := w.writeLost(); err != nil {
			return err
		}
	}
	if err := w.write("batch", batch{t.Start, t.End, t.RealTime}); err != nil {
		return err
	}
	return w.flush()
}

// Close writes the losses once more, so that they are the last line.
func (w *Writer) Close() error {
	if err := w.writeLost(); err != nil {
		return err
	}
	return w.flush()
}

func (w *Writer) writeLost() error {
	if len(w.lost) == 0 {
		return nil
	}
	return w.write("loss", w.lost)
}

// write writes a line. Errors of w.out come again when it is flushed.
func (w *Writer) write(event string, fields any) error {
	w.line.Reset()
	if err := w.json.Encode(fields); err != nil {
		return fmt.Errorf("encoding %s as json: %w", event, err)
	}
	w.out.WriteString(`{"event":"`)
	w.out.WriteString(event)
	w.out.WriteString(`",`)
	w.out.Write(w.line.Bytes()[1:]) // without its own {
	return nil
}

func (w *Writer) flush() error {
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("writing trace as json lines: %w", err)
	}
	return nil
}

// Read gives back the batches that a Writer wrote. Of a file that was cut it gives what is before the cut: the last batch then
// ends at its last event. An error of each ends it.
func Read(r io.Reader, each func(snapshot.Trace) error) error {
	in := bufio.NewReaderSize(r, 1<<16)
	d := reader{each: each, rows: map[string]traced.Rows{traced.Threads.Name: traced.Threads}}
	for _, k := range traced.Kinds {
		d.rows[k.Name] = k.Rows
	}
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF): // what is left of a line was cut
			return d.cut()
		case err != nil:
			return fmt.Errorf("reading line %d of a trace: %w", n, err)
		case n == 1:
			err = d.begin(line)
		default:
			err = d.next(line)
		}
		if err != nil {
			return fmt.Errorf("line %d of a trace: %w", n, err)
		}
	}
}

// reader collects the batch that it is in.
type reader struct {
	each  func(snapshot.Trace) error
	rows  map[string]traced.Rows
	t     snapshot.Trace
	loss  []snapshot.Loss
	since batch // the one before
}

func (r *reader) begin(line []byte) error {
	var h header
	if err := json.Unmarshal(line, &h); err != nil {
		return err
	}
	if h.Schema != schema {
		return fmt.Errorf("its schema is %q, not %q", h.Schema, schema)
	}
	start, err := time.Parse(timeLayout, h.Start)
	r.since = batch{End: h.StartNS, RealTime: start.UnixNano()}
	return err
}

func (r *reader) next(line []byte) error {
	var kind struct{ Event string }
	if err := json.Unmarshal(line, &kind); err != nil {
		return err
	}
	switch kind.Event {
	case "batch":
		var b batch
		if err := json.Unmarshal(line, &b); err != nil {
			return err
		}
		return r.end(b)
	case "loss":
		return r.lose(line)
	}
	rows, ok := r.rows[kind.Event]
	if !ok {
		return fmt.Errorf("unknown event %q", kind.Event)
	}
	return json.Unmarshal(line, rows.Grow(&r.t))
}

func (r *reader) lose(line []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return err
	}
	delete(fields, "event")
	r.loss = nil
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		l := snapshot.Loss{Name: name}
		if err := json.Unmarshal(fields[name], &l.Count); err != nil {
			return err
		}
		r.loss = append(r.loss, l)
	}
	return nil
}

func (r *reader) end(b batch) error {
	r.t.Start, r.t.End, r.t.RealTime, r.t.Loss = b.Start, b.End, b.RealTime, slices.Clone(r.loss)
	t := r.t
	r.t, r.since = snapshot.Trace{}, b
	return r.each(t)
}

// cut ends a batch whose end is missing, if there is anything of it.
func (r *reader) cut() error {
	end := r.since.End
	for _, k := range traced.Kinds {
		if n := k.Len(&r.t); n > 0 {
			end = max(end, k.At(&r.t, n-1))
		}
	}
	if r.t.Events() == 0 && len(r.t.Threads) == 0 {
		return nil
	}
	return r.end(batch{r.since.End, end, r.since.RealTime + end - r.since.End})
}
