// Package csv prints snapshots as one rectangular table: every line has the
// same columns, named and scaled as in the JSON contract with nested names
// joined by "_" (write_via_direct, read_latency_p99_ns).
//
// The column "record" says what a line is about, and with it which columns are
// filled; the others are empty:
//
//	row      what one group did: its I/O on one device, its time on and off the CPUs, or its connections
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
//
// of culprit tcp:
//
//	stall       the stalls of one group that had one cause
//	remote      what one group exchanged with one other end
//	connection  what one connection did, when asked for
//	exemplar    one long stall
//	ran         who had the CPU meanwhile, beside what the exemplar says
//	audit       one of the kernel's counters beside culprit's sum
//
// of culprit report --diff:
//
//	a, b    one of the two spans
//	change  one quantity of a group that differs in b, whose times it has
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
	// Top is the number of rows, of slow requests, threads or connections, and of the files or remote ends of each row's
	// group; 0 prints all.
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

// culprit is a line about who had the CPU while a group waited.
type culprit struct {
	contract.Identity
	blamed
}

// ran is a line about who had the CPU for a piece of a long wait.
type ran struct {
	contract.Exemplar
	blamedThread
}

// blamed is who had the CPU, and for how long.
type blamed struct {
	CulpritApp     string `json:"culprit_app"`
	CulpritPID     int    `json:"culprit_pid"`
	CulpritStarted string `json:"culprit_started"`
	NS             uint64 `json:"ns"`
}

// blamedThread is the same of one thread.
type blamedThread struct {
	blamed
	CulpritTID int `json:"culprit_tid"`
}

func blame(r contract.Ran) blamedThread {
	return blamedThread{blamed{r.App, r.PID, r.Started, r.NS}, r.TID}
}

// The lines about what a group's connections did.
type (
	stall struct {
		contract.Identity
		contract.TCPStalls
	}
	remote struct {
		contract.Identity
		contract.TCPRemote
	}
	stallRan struct {
		contract.TCPExemplar
		blamedThread
	}
)

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
	p := w.begin(report.Interval, contract.IORow{}, contract.IODevice{}, contract.Counter{}, contract.IOFile{}, contract.IORequest{})
	addAll(p, "row", report.Rows)
	p.omitted(report.OmittedRows)
	addAll(p, "device", report.Devices)
	p.loss(report.Loss)
	addAll(p, "file", report.Files)
	addAll(p, "request", report.Worst)
	return w.write("io report", p)
}

// Sched writes the lines of one interval, in the way of IO. The culprits of
// single threads are not among them: those of the rows would be counted twice.
func (w *Writer) Sched(s snapshot.Sched) error {
	s, omitted := rows.TopSched(s, w.o.Top)
	report := contract.Sched(s, len(omitted))
	p := w.begin(report.Interval, contract.SchedRow{}, culprit{}, ran{}, contract.SchedThread{}, contract.SchedAudit{}, contract.Counter{})
	for _, r := range report.Rows {
		p.add("row", r)
		for _, c := range r.Culprits {
			p.add("culprit", culprit{r.Identity, blamed{c.App, c.PID, c.Started, c.NS}})
		}
	}
	p.omitted(report.OmittedRows)
	for _, e := range report.Exemplars {
		p.add("exemplar", e)
		for _, r := range e.Ran {
			p.add("ran", ran{e, blame(r)})
		}
	}
	addAll(p, "thread", report.Threads)
	p.add("audit", report.Audit)
	p.loss(report.Loss)
	return w.write("sched report", p)
}

// TCP writes the lines of one interval, in the way of IO. The stalls of single
// connections are not among them: those of the rows would be counted twice.
func (w *Writer) TCP(s snapshot.TCP) error {
	s, omitted := rows.TopTCP(s, w.o.Top)
	report := contract.TCP(s, len(omitted))
	p := w.begin(report.Interval, contract.TCPRow{}, stall{}, remote{}, contract.TCPConnection{}, stallRan{}, contract.TCPAudit{}, contract.Counter{})
	for _, r := range report.Rows {
		p.add("row", r)
		for _, s := range r.Stalls {
			p.add("stall", stall{r.Identity, s})
		}
		for _, e := range r.Remotes {
			p.add("remote", remote{r.Identity, e})
		}
	}
	p.omitted(report.OmittedRows)
	addAll(p, "connection", report.Connections)
	for _, e := range report.Exemplars {
		p.add("exemplar", e)
		for _, r := range e.Ran {
			p.add("ran", stallRan{e, blame(r)})
		}
	}
	addAll(p, "audit", report.Audit)
	p.loss(report.Loss)
	return w.write("tcp report", p)
}

// Diff writes what two spans differ in, in the way of IO.
func (w *Writer) Diff(d snapshot.Diff) error {
	d, omitted := d.Top(w.o.Top)
	report := contract.Diff(d, omitted)
	p := w.begin(report.B.Interval, contract.DiffSpan{}, contract.Change{}, contract.Counter{})
	p.add("a", report.A)
	p.add("b", report.B)
	addAll(p, "change", report.Rows)
	p.omitted(report.OmittedRows)
	return w.write("what differs", p)
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
		p.add("omitted", contract.Counter{Name: "rows", Count: uint64(rows)})
	}
}

func (p *part) loss(counters contract.Counters) {
	for _, c := range counters {
		if c.Count > 0 {
			p.add("loss", c)
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

// addAll adds a line for each of some records.
func addAll[T any](p *part, record string, all []T) {
	for _, v := range all {
		p.add(record, v)
	}
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
