// Package table prints snapshots for people: tables, bars and notes that fit a
// terminal. Columns depend on the width alone, never on the values, so that
// one interval's columns stand under the last one's.
package table

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// clock is how the moment of one event is written.
const clock = "15:04:05.000"

// minWidth is the narrowest terminal that lines are made for.
const minWidth = 80

// Table prints grouped snapshots to W, each method's part in one Write, with an
// empty line between parts. It keeps within Width columns, which is 80 when it
// is less.
type Table struct {
	W          io.Writer
	Width      int  // terminal columns
	Top        int  // rows, slow requests, threads or connections, and files or remote ends of each row's group; 0 prints all
	Timestamps bool // precede each interval by a line with its time and length

	written bool
	hosts   []string // that were told of last
}

func (t *Table) width() int { return max(t.Width, minWidth) }

// write prints one part, without the blanks that alignment left at line ends.
func (t *Table) write(what string, part *bytes.Buffer) error {
	var out bytes.Buffer
	if t.written {
		out.WriteByte('\n')
	}
	for line := range strings.Lines(part.String()) {
		out.WriteString(strings.TrimRight(line, " \n"))
		out.WriteByte('\n')
	}
	t.written = true
	if _, err := t.W.Write(out.Bytes()); err != nil {
		return fmt.Errorf("writing %s as table: %w", what, err)
	}
	return nil
}

// begin says which interval a report is of, and of which machines, if of several, where that was not the same before.
func (t *Table) begin(b *bytes.Buffer, start, end time.Time, hosts []string) {
	if t.Timestamps {
		fmt.Fprintf(b, "%s  %s\n", start.Format("2006-01-02 15:04:05.000000 -07:00"), length(start, end))
	}
	if max(len(hosts), len(t.hosts)) > 1 && !slices.Equal(hosts, t.hosts) {
		said := fmt.Sprintf("of %s: %s", plural(uint64(len(hosts)), "host"), strings.Join(hosts, ", "))
		fmt.Fprintln(b, text.CutRight(text.Escape(said), t.width()))
	}
	t.hosts = hosts
}

// length is that of an interval.
func length(start, end time.Time) string {
	return fmt.Sprintf("%.3f s", end.Sub(start).Seconds())
}

// lost prints the counters that are not 0.
func (t *Table) lost(b *bytes.Buffer, counters []snapshot.Loss) {
	var lost []string
	for _, l := range counters {
		if l.Count > 0 {
			lost = append(lost, fmt.Sprintf("%s=%d", text.Escape(l.Name), l.Count))
		}
	}
	if len(lost) > 0 {
		wrap(b, t.width(), "lost:", lost)
	}
}

// more says how many rows the limit left out, and what they did.
func (t *Table) more(b *bytes.Buffer, rows int, did ...string) {
	if rows > 0 {
		wrap(b, t.width(), "… "+plural(uint64(rows), "more row")+":", append(did, "(-n 0 shows all)"))
	}
}

// nobody says what could be charged to nobody, and why.
func (t *Table) nobody(b *bytes.Buffer, reasons []string) {
	if len(reasons) > 0 {
		wrap(b, t.width(), "charged to nobody:", commas(reasons))
	}
}

// commas ends all words but the last with one.
func commas(words []string) []string {
	out := slices.Clone(words)
	for i := range len(out) - 1 {
		out[i] += ","
	}
	return out
}

// column is one column of a table of T. A cell longer than the column is cut.
type column[T any] struct {
	head  string
	width int
	right bool // aligned
	cell  func(T) string
}

// pad aligns s in width columns, cut where it is longer.
func pad(s string, width int, right bool) string {
	s = text.Cut(s, width)
	blanks := strings.Repeat(" ", width-text.Width(s))
	if right {
		return blanks + s
	}
	return s + blanks
}

func header[T any](b *bytes.Buffer, columns []column[T]) {
	for i, c := range columns {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(pad(c.head, c.width, c.right))
	}
	b.WriteByte('\n')
}

func line[T any](b *bytes.Buffer, columns []column[T], v T) {
	for i, c := range columns {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(pad(c.cell(v), c.width, c.right))
	}
	b.WriteByte('\n')
}

// grid prints a line for each of rows, below the columns' heads.
func grid[T any](b *bytes.Buffer, columns []column[T], rows []T) {
	header(b, columns)
	for _, r := range rows {
		line(b, columns, r)
	}
}

// fill gives a column without a width what the others leave of width; its cells are told.
func fill[T any](columns []column[T], i, width int, cell func(v T, width int) string) {
	room := width - total(columns)
	columns[i].width = room
	columns[i].cell = func(v T) string { return cell(v, room) }
}

// total is what columns take, with a blank between each.
func total[T any](columns []column[T]) int {
	n := len(columns) - 1
	for _, c := range columns {
		n += c.width
	}
	return n
}

// rule is a line in width columns with what it stands over.
func rule(over string, width int) string {
	dashes := width - len(over)
	return strings.Repeat("-", dashes/2) + over + strings.Repeat("-", dashes-dashes/2)
}

// wrap prints words after a first one, with the lines that follow indented.
func wrap(b *bytes.Buffer, width int, first string, words []string) {
	b.WriteString(first)
	at := text.Width(first)
	for _, w := range words {
		w = text.CutRight(w, width-3)
		if at+1+text.Width(w) > width {
			b.WriteString("\n ")
			at = 1
		}
		b.WriteString(" " + w)
		at += 1 + text.Width(w)
	}
	b.WriteByte('\n')
}

// pidWidth fits the largest pid that Linux can be configured for, 2^22.
const pidWidth = 7

// label is what a row is called, in at most width columns: its group, and for
// processes the pid and the comm.
func label(p snapshot.Process, by snapshot.By, width int) string {
	n := p.Name(by)
	if by == snapshot.ByPID && p.Comm != "" {
		n = p.Comm
	}
	n = text.Escape(n)
	if n == "" {
		n = "-"
	}
	if id := pid(p, by); id != "" {
		n = id + " " + text.Cut(n, width-len(id)-1)
	}
	return text.Cut(n, width)
}

// name is the label in a column of that width, in which pids are aligned.
func name(p snapshot.Process, by snapshot.By, width int) string {
	indent := ""
	if id := pid(p, by); id != "" {
		indent = strings.Repeat(" ", max(pidWidth-len(id), 0))
	}
	return indent + label(p, by, width-len(indent))
}

// pid is that of a row that is a process, else "".
func pid(p snapshot.Process, by snapshot.By) string {
	if by == snapshot.ByPID && p.PID != 0 {
		return strconv.Itoa(p.PID)
	}
	return ""
}

// groupColumn is that of the groups' names.
func groupColumn[T any](by snapshot.By, width int, of func(T) snapshot.Process) column[T] {
	return column[T]{nameHead(by), width, false, func(v T) string { return name(of(v), by, width) }}
}

func nameHead(by snapshot.By) string {
	if by == snapshot.ByPID {
		return fmt.Sprintf("%*s COMM", pidWidth, "PID")
	}
	return strings.ToUpper(string(by))
}

// groups are the rows' groups in order, each with the rows that it has.
func groups(s snapshot.IO) [][]snapshot.IORow {
	at := make(map[rows.Key]int)
	var out [][]snapshot.IORow
	for _, r := range s.Rows {
		k := rows.KeyOf(r.Process, s.By)
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], r)
	}
	return out
}
