package table

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// culpritWidth is the least that tells culprits apart.
const culpritWidth = 8

// SchedMatrix prints who waited (a row each) because of whom (a column each,
// those of most of all rows' waits first, and one for the others).
func (t *Table) SchedMatrix(s snapshot.Sched) error {
	all := s.Culprits()
	s.Rows = slices.DeleteFunc(slices.Clone(s.Rows), func(r snapshot.SchedRow) bool { return r.Wait() == 0 })
	s, omitted := rows.TopSched(s, t.Top)
	var b bytes.Buffer
	if len(s.Rows) == 0 {
		b.WriteString("no waits to divide: nobody waited for a CPU\n")
	} else {
		grid(&b, t.matrixColumns(s.By, all), s.Rows)
	}
	t.moreWaits(&b, omitted)
	return t.write("wait matrix", &b)
}

// matrixColumns are those of the first culprits, as many as the width has room for.
func (t *Table) matrixColumns(by snapshot.By, culprits []snapshot.Culprit) []column[snapshot.SchedRow] {
	type R = snapshot.SchedRow
	group := groupColumn(by, nameWidth+min(t.width()-minWidth, 8), ofSched)
	room := t.width() - total([]column[R]{group, waitColumn()})
	others := 1 + durationWidth
	n := len(culprits)
	if n <= room/(1+culpritWidth) {
		others = 0
	}
	n = min(n, (room-others)/(1+culpritWidth))
	width := min((room-others)/n-1, nameWidth)

	columns := []column[R]{group}
	shown := make(map[rows.Key]bool)
	for _, c := range culprits[:n] {
		k := rows.KeyOf(c.Process, by)
		shown[k] = true
		columns = append(columns, column[R]{label(c.Process, by, width), width, true, func(r R) string {
			return duration(r.WaitBecause(func(c snapshot.Culprit) bool { return rows.KeyOf(c.Process, by) == k }))
		}})
	}
	if others > 0 {
		columns = append(columns, column[R]{"OTHERS", durationWidth, true, func(r R) string {
			return duration(r.WaitBecause(func(c snapshot.Culprit) bool { return !shown[rows.KeyOf(c.Process, by)] }))
		}})
	}
	return append(columns, waitColumn())
}

// SchedWorst prints the longest waits, each as a ledger: when it ended, where,
// who waited and for how long, then who had the CPU meanwhile, in order.
func (t *Table) SchedWorst(s snapshot.Sched) error {
	s, _ = rows.TopSched(s, t.Top)
	type entry struct {
		snapshot.SchedRan
		ended, cpu, indent string
	}
	id := func(n int) string {
		if n == 0 {
			return "" // no process
		}
		return strconv.Itoa(n)
	}
	columns := []column[entry]{
		{"ENDED", len(clock), false, func(e entry) string { return e.ended }},
		{"CPU", 4, true, func(e entry) string { return e.cpu }},
		{"PID", pidWidth, true, func(e entry) string { return id(e.PID) }},
		{"TID", pidWidth, true, func(e entry) string { return id(e.TID) }},
		{"WHO WAITED, AND WHO RAN", 0, false, nil},
		{"TIME", durationWidth, true, func(e entry) string { return duration(e.NS) }},
	}
	fill(columns, 4, t.width(), func(e entry, width int) string {
		return e.indent + text.Cut(cmp.Or(text.Escape(e.Name(s.By)), "-"), width-len(e.indent))
	})
	var b bytes.Buffer
	if len(s.Worst) == 0 {
		b.WriteString("no such wait among the longest\n")
	} else {
		header(&b, columns)
	}
	for _, w := range s.Worst {
		line(&b, columns, entry{snapshot.SchedRan{Process: w.Process, TID: w.TID, NS: w.Wait},
			w.At.Format(clock), strconv.Itoa(w.CPU), ""})
		for _, r := range w.Ran {
			line(&b, columns, entry{SchedRan: r, indent: "  "})
		}
	}
	return t.write("list of long waits", &b)
}

// SchedTime prints where the time of each group went, or of each thread when
// there are any: running, taken by interrupts and softirqs, waiting for a CPU,
// withheld by the group's own quota, asleep for I/O, uninterruptible otherwise,
// asleep; and how much time that was.
func (t *Table) SchedTime(s snapshot.Sched) error {
	lines, more := slices.Clone(s.Threads), "more thread"
	who, shares := t.timeColumns(s.By, len(lines) > 0)
	if len(lines) == 0 {
		more = "more row"
		for _, r := range s.Rows {
			lines = append(lines, snapshot.SchedThread{SchedRow: r})
		}
	}
	lines = slices.DeleteFunc(lines, func(r snapshot.SchedThread) bool { return r.Wall() == 0 })
	var b bytes.Buffer
	if len(lines) == 0 {
		b.WriteString("no time to divide: no thread to list\n")
	} else {
		fmt.Fprintf(&b, "%*s %s\n", total(who), "", rule("% of wall time", total(shares)))
		columns := slices.Concat(who, shares, []column[snapshot.SchedThread]{
			{"WALL", durationWidth, true, func(r snapshot.SchedThread) string { return duration(r.Wall()) }},
		})
		header(&b, columns)
		for i, r := range lines {
			if t.Top > 0 && i == t.Top {
				fmt.Fprintf(&b, "… %s (-n 0 shows all)\n", plural(uint64(len(lines)-i), more))
				break
			}
			line(&b, columns, r)
		}
	}
	return t.write("list of times", &b)
}

// commWidth fits any thread's name.
const commWidth = 15

// timeColumns are the columns that say of whom a line is, and those of the shares.
func (t *Table) timeColumns(by snapshot.By, perThread bool) (who, shares []column[snapshot.SchedThread]) {
	type R = snapshot.SchedThread
	part := func(head string, get func(R) uint64) column[R] {
		return column[R]{head, max(shareWidth, len(head)), true, func(r R) string { return share(get(r), r.Wall()) }}
	}
	shares = []column[R]{
		part("RUN", func(r R) uint64 { return r.OnCPU }),
		part("IRQ", func(r R) uint64 { return r.IRQStolen + r.SoftirqStolen }),
		part("WAIT", func(r R) uint64 { return r.Wait() - r.Quota() }),
		part("QUOTA", func(r R) uint64 { return r.Quota() }),
		part("DISK", func(r R) uint64 { return r.Disk }),
		part("BLOCKED", func(r R) uint64 { return r.Blocked }),
		part("ASLEEP", func(r R) uint64 { return r.Slept() }),
	}
	who = []column[R]{{head: nameHead(by), width: nameWidth}}
	if perThread {
		who = []column[R]{
			{"PID", pidWidth, true, func(r R) string { return strconv.Itoa(r.PID) }},
			{"TID", pidWidth, true, func(r R) string { return strconv.Itoa(r.TID) }},
			{"NAME", commWidth, false, func(r R) string { return cmp.Or(text.Escape(r.Name), "-") }},
		}
	}
	room := t.width() - total(who) - total(shares) - durationWidth - 2
	if c := part("UNCOUNTED", func(r R) uint64 { return r.Uncounted }); room > c.width {
		shares = append(shares, c)
		room -= 1 + c.width
	}
	last := &who[len(who)-1]
	if perThread {
		last.width += min(room, 0) // 80 columns leave it 12
	} else {
		last.width += room
		last.cell = func(r R) string { return name(r.Process, by, last.width) }
	}
	return who, shares
}
