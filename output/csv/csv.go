// Package csv prints snapshots as one rectangular table: every line has the
// same columns, named and scaled as in the JSON contract with nested names
// joined by "_" (write_via_direct, read_latency_p99_ns).
//
// The column "record" says what a line is about, and with it which columns are
// filled; the others are empty:
//
//	row      one group's I/O on one device
//	device   the audit of one disk
//	loss     one loss counter that is not 0, in "name" and "count"
//	omitted  the number of rows that the row limit left out, in "count"
//	file     what one group moved of one file, when asked for
//	request  one slow request, when asked for
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
	Top int // rows, files of each row's group, and slow requests; 0 prints all
}

// Writer prints the intervals of one stream. Its first line is the header.
type Writer struct {
	csv     *csv.Writer
	o       Options
	columns []string
	headed  bool
}

// NewWriter prints to w.
func NewWriter(w io.Writer, o Options) *Writer {
	return &Writer{csv: csv.NewWriter(w), o: o, columns: ioColumns()}
}

// counter is a line about a number that has a name.
type counter struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// ioColumns are those of every kind of record, each once, in order of first
// appearance.
func ioColumns() []string {
	columns := []string{"start", "end", "seconds", "by", "record"}
	for _, record := range []any{
		contract.Row{}, contract.Device{}, counter{}, contract.File{}, contract.Request{},
	} {
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
	var lines [][]string
	if !w.headed {
		lines = append(lines, w.columns)
		w.headed = true
	}
	add := func(record string, v any) {
		lines = append(lines, w.line(report.Interval, record, v))
	}
	for _, r := range report.Rows {
		add("row", r)
	}
	if n := report.OmittedRows; n > 0 {
		add("omitted", counter{"rows", uint64(n)})
	}
	for _, d := range report.Devices {
		add("device", d)
	}
	for _, l := range report.Loss {
		if l.Count > 0 {
			add("loss", counter(l))
		}
	}
	for _, f := range report.Files {
		add("file", f)
	}
	for _, r := range report.Worst {
		add("request", r)
	}
	if err := w.csv.WriteAll(lines); err != nil {
		return fmt.Errorf("writing io report as csv: %w", err)
	}
	return nil
}

// line is v's values under the stream's columns.
func (w *Writer) line(i contract.Interval, record string, v any) []string {
	cells := map[string]string{"record": record}
	set := func(column, value string) { cells[column] = value }
	flatten("", reflect.ValueOf(i), set)
	flatten("", reflect.ValueOf(v), set)
	line := make([]string, len(w.columns))
	for i, c := range w.columns {
		line[i] = cells[c]
	}
	return line
}

// flatten yields the fields of v, a struct of the contract, with the names of
// nested ones joined.
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
		case reflect.String:
			yield(name, text.Escape(f.String()))
		case reflect.Float64:
			yield(name, strconv.FormatFloat(f.Float(), 'f', -1, 64))
		default:
			yield(name, fmt.Sprint(f.Interface()))
		}
	}
}
