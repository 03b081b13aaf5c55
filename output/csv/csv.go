// Package csv prints snapshots as one rectangular table: every line has the
// same columns, named and scaled as in the JSON contract with nested names
// joined by "_" (write_via_direct, read_latency_p99_ns).
//
// The column "record" says what a line is about, and with it which columns are
// filled; the others are empty:
//
//	row      what one group did: its I/O on one device, or its time on and off the CPUs
//	loss     one loss counter that is not 0, in "name" and "count"
//	omitted  the number of rows that the row limit left out, in "count"
//
// of culprit io:
//
//	device   the audit of one disk
//	file     what one group moved of one file, when asked for
//	request  one slow request, when asked for
//
// of culprit sched:
//
//	culprit  who had the CPU while one group waited, for "ns"
//	exemplar one long wait
//	ran      who had the CPU for a piece of it, in order, beside what the exemplar says
//	thread   what one thread did, when asked for
//	audit    all waits beside the kernel's sum of them
package csv

import (
	"encoding/csv"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"

	"culprit/output/internal/contract"
	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// Options say how much is printed.
type Options struct {
	// Top is the number of rows, of slow requests or threads, and of the files of each row's group; 0 prints all.
	Top int
}

// Writer prints the intervals of one stream, all of one kind: its first report
// decides the columns, and writes them as the first line.
type Writer struct {
	csv     *csv.Writer
	o       Options
	columns []string
}

// NewWriter prints to w.
func NewWriter(w io.Writer, o Options) *Writer {
	return &Writer{csv: csv.NewWriter(w), o: o}
}

// counter is a line about a number that has a name.
type counter struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// culprit is a line about who had the CPU while a group waited.
type culprit struct {
	contract.Identity
	CulpritApp     string `json:"culprit_app"`
	CulpritPID     int    `json:"culprit_pid"`
	CulpritStarted string `json:"culprit_started"`
	NS             uint64 `json:"ns"`
}

// ran is a line about who had the CPU for a piece of a long wait.
type ran struct {
	contract.Exemplar
	CulpritApp     string `json:"culprit_app"`
	CulpritPID     int    `json:"culprit_pid"`
	CulpritStarted string `json:"culprit_started"`
	CulpritTID     int    `json:"culprit_tid"`
	NS             uint64 `json:"ns"`
}

// columnsOf are those of every kind of record, each once, in order of first
// appearance.
func columnsOf(records ...any) []string {
	columns := []string{"start", "end", "seconds", "by", "record"}
	for _, record := range records {
		flatten("", reflect.ValueOf(record), func(column, _ string) {
			if !slices.Contains(columns, column) {
				columns = append(columns, column)
			}
		})
	}
	return columns
}

// IO writes the lines of one interval. Names are escaped as in the table, so
// that each record is one line.
func (w *Writer) IO(s snapshot.IO) error {
	s, omitted := rows.Top(s, w.o.Top)
	report := contract.IO(s, len(omitted))
	p := w.begin(report.Interval, contract.IORow{}, contract.IODevice{}, counter{}, contract.IOFile{}, contract.IORequest{})
	for _, r := range report.Rows {
		p.add("row", r)
	}
	p.omitted(report.OmittedRows)
	for _, d := range report.Devices {
		p.add("device", d)
	}
	p.loss(report.Loss)
	for _, f := range report.Files {
		p.add("file", f)
	}
	for _, r := range report.Worst {
		p.add("request", r)
	}
	return w.write("io report", p)
}

// Sched writes the lines of one interval, in the way of IO. The culprits of
// single threads are not among them: those of the rows would be counted twice.
func (w *Writer) Sched(s snapshot.Sched) error {
	s, omitted := rows.TopSched(s, w.o.Top)
	report := contract.Sched(s, len(omitted))
	p := w.begin(report.Interval, contract.SchedRow{}, culprit{}, ran{}, contract.SchedThread{}, contract.SchedAudit{}, counter{})
	for _, r := range report.Rows {
		p.add("row", r)
		for _, c := range r.Culprits {
			p.add("culprit", culprit{r.Identity, c.App, c.PID, c.Started, c.NS})
		}
	}
	p.omitted(report.OmittedRows)
	for _, e := range report.Exemplars {
		p.add("exemplar", e)
		for _, r := range e.Ran {
			p.add("ran", ran{e, r.App, r.PID, r.Started, r.TID, r.NS})
		}
	}
	for _, t := range report.Threads {
		p.add("thread", t)
	}
	p.add("audit", report.Audit)
	p.loss(report.Loss)
	return w.write("sched report", p)
}

// part is the lines of one interval.
type part struct {
	columns  []string
	interval contract.Interval
	lines    [][]string
}

// begin begins an interval of a report of such records, and the stream with the first.
func (w *Writer) begin(i contract.Interval, records ...any) *part {
	p := &part{interval: i}
	if w.columns == nil {
		w.columns = columnsOf(records...)
		p.lines = append(p.lines, w.columns)
	}
	p.columns = w.columns
	return p
}

func (w *Writer) write(what string, p *part) error {
	if err := w.csv.WriteAll(p.lines); err != nil {
		return fmt.Errorf("writing %s as csv: %w", what, err)
	}
	return nil
}

func (p *part) omitted(rows int) {
	if rows > 0 {
		p.add("omitted", counter{"rows", uint64(rows)})
	}
}

func (p *part) loss(counters contract.Losses) {
	for _, c := range counters {
		if c.Count > 0 {
			p.add("loss", counter(c))
		}
	}
}

// add adds v's values under the stream's columns.
func (p *part) add(record string, v any) {
	cells := map[string]string{"record": record}
	set := func(column, value string) { cells[column] = value }
	flatten("", reflect.ValueOf(p.interval), set)
	flatten("", reflect.ValueOf(v), set)
	line := make([]string, len(p.columns))
	for i, c := range p.columns {
		line[i] = cells[c]
	}
	p.lines = append(p.lines, line)
}

// flatten yields the fields of v, a struct of the contract, with the names of
// nested ones joined. What is in its lists has lines of its own.
func flatten(prefix string, v reflect.Value, yield func(column, value string)) {
	for i := range v.NumField() {
		f, t := v.Field(i), v.Type().Field(i)
		name := prefix + t.Tag.Get("json")
		switch f.Kind() {
		case reflect.Struct:
			if !t.Anonymous {
				name += "_"
			}
			flatten(name, f, yield)
		case reflect.Slice:
		case reflect.String:
			yield(name, text.Escape(f.String()))
		case reflect.Float64:
			yield(name, strconv.FormatFloat(f.Float(), 'f', -1, 64))
		default:
			yield(name, fmt.Sprint(f.Interface()))
		}
	}
}
