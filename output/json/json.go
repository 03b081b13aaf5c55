// Package json prints snapshots as the JSON contract says: one object per
// interval on one line.
package json

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"culprit/output/internal/contract"
	"culprit/output/internal/rows"
	"culprit/probes/snapshot"
)

// Options say how much is printed.
type Options struct {
	// Top is the number of rows, of slow requests, threads or connections, and of the files or remote ends of each row's
	// group; 0 prints all.
	Top int
}

// IO writes a grouped snapshot as one object of schema culprit.io/1 and a
// newline, in one Write. Names are exact except for bytes that are not UTF-8,
// which become U+FFFD.
func IO(w io.Writer, s snapshot.IO, o Options) error {
	s, omitted := rows.Top(s, o.Top)
	return write(w, "io report", contract.IO(s, len(omitted)))
}

// Sched writes a grouped snapshot as one object of schema culprit.sched/1, in
// the way of IO.
func Sched(w io.Writer, s snapshot.Sched, o Options) error {
	s, omitted := rows.TopSched(s, o.Top)
	return write(w, "sched report", contract.Sched(s, len(omitted)))
}

// TCP writes a grouped snapshot as one object of schema culprit.tcp/1, in the
// way of IO.
func TCP(w io.Writer, s snapshot.TCP, o Options) error {
	s, omitted := rows.TopTCP(s, o.Top)
	return write(w, "tcp report", contract.TCP(s, len(omitted)))
}

// Run writes what a command did as one object, in the way of IO: the three
// reports are under io, sched and tcp.
func Run(w io.Writer, r snapshot.Run, o Options) error {
	io, omittedIO := rows.Top(r.IO, o.Top)
	sched, omittedSched := rows.TopSched(r.Sched, o.Top)
	tcp, omittedTCP := rows.TopTCP(r.TCP, o.Top)
	return write(w, "what the command did", contract.Run(r, contract.IO(io, len(omittedIO)), contract.Sched(sched, len(omittedSched)), contract.TCP(tcp, len(omittedTCP))))
}

// Diff writes what two spans differ in as one object of schema culprit.diff/1,
// in the way of IO.
func Diff(w io.Writer, d snapshot.Diff, o Options) error {
	d, omitted := d.Top(o.Top)
	return write(w, "what differs", contract.Diff(d, omitted))
}

func write(w io.Writer, what string, report any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("encoding %s as json: %w", what, err)
	}
	if _, err := w.Write(printable(b.Bytes())); err != nil {
		return fmt.Errorf("writing %s as json: %w", what, err)
	}
	return nil
}

// printable escapes what encoding/json leaves as it is and a terminal may obey:
// C1 control characters, directional marks. Such a rune can only be inside of a
// string, so the value stays the same.
func printable(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for _, r := range string(line) {
		switch {
		case strconv.IsPrint(r) || r == '\n':
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
