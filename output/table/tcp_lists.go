package table

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"culprit/output/internal/remedy"
	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// TCPStalls prints how often and for how long the connections of each group
// stalled, cause by cause.
func (t *Table) TCPStalls(s snapshot.TCP) error {
	s.Rows = slices.DeleteFunc(slices.Clone(s.Rows), func(r snapshot.TCPRow) bool { return len(r.Stalls) == 0 })
	s, omitted := rows.TopTCP(s, t.Top)
	type part struct {
		snapshot.TCPStalls
		of uint64
	}
	columns := []column[part]{
		{"CAUSE", causeWidth, false, func(p part) string { return text.Escape(string(p.Cause)) }},
		{"COUNT", countWidth, true, func(p part) string { return count(p.Count) }},
		{"TOTAL", durationWidth, true, func(p part) string { return duration(p.Total) }},
		{"%", shareWidth, true, func(p part) string { return share(p.Total, p.of) }},
		{"MEAN", durationWidth, true, func(p part) string { return duration(p.Total / max(p.Count, 1)) }},
		{"MAX", durationWidth, true, func(p part) string { return duration(p.Max) }},
	}
	var nests []nest[part]
	for _, r := range s.Rows {
		n := nest[part]{of: r.Process}
		for _, stalls := range r.Stalls {
			n.items = append(n.items, part{stalls, r.Stalled()})
		}
		nests = append(nests, n)
	}
	var b bytes.Buffer
	nested(&b, s.By, t.width()-1-total(columns), nests, columns, "")
	if b.Len() == 0 {
		fmt.Fprintf(&b, "no stalls to list: no connection stalled%s\n", forAtLeast(s.MinStall))
	}
	t.moreTraffic(&b, omitted)
	return t.write("list of stalls", &b)
}

// forAtLeast says from which length on stalls are counted.
func forAtLeast(ns uint64) string {
	if ns == 0 {
		return ""
	}
	return " for " + duration(ns) + " or more"
}

// TCPRemotes prints the other ends of each row's connections, most bytes first:
// addresses, with the port where that is a service's.
func (t *Table) TCPRemotes(s snapshot.TCP) error {
	all := s
	s, _ = rows.TopTCP(s, t.Top)
	type R = snapshot.TCPRemote
	columns := []column[R]{
		{"SENT", bytesWidth, true, func(r R) string { return size(r.Sent) }},
		{"RECV", bytesWidth, true, func(r R) string { return size(r.Received) }},
		{"REMOTE END", 0, false, func(r R) string {
			if r.Port == 0 && r.Address.IsValid() {
				return text.Escape(r.Address.String())
			}
			return end(netip.AddrPortFrom(r.Address, r.Port))
		}},
	}
	columns[len(columns)-1].width = t.width() - nameWidth - 1 - total(columns)
	var nests []nest[R]
	for i, r := range s.Rows {
		nests = append(nests, nest[R]{r.Process, r.Remotes, len(all.Rows[i].Remotes) - len(r.Remotes)})
	}
	var b bytes.Buffer
	nested(&b, s.By, nameWidth, nests, columns, "more end")
	if b.Len() == 0 {
		b.WriteString("no remote ends to list\n")
	}
	return t.write("list of remote ends", &b)
}

// end is an end of a connection.
func end(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return text.Escape(a.String())
}

// The widths of a connection's ends: IPv4's, IPv6's, and what tells local ones apart by their ports.
const (
	endWidth      = len("255.255.255.255:65535")
	longEndWidth  = len("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
	shortEndWidth = 10
)

// TCPConnections prints a line per connection: whose it is, its ends, of which the
// last columns are shown, and what it did.
func (t *Table) TCPConnections(s snapshot.TCP) error {
	known := len(s.Connections)
	s, _ = rows.TopTCP(s, t.Top)
	var b bytes.Buffer
	if len(s.Connections) == 0 {
		b.WriteString("no connections to list\n")
	} else {
		grid(&b, t.connectionColumns(s.By), s.Connections)
	}
	if n := known - len(s.Connections); n > 0 {
		fmt.Fprintf(&b, "… %s (-n 0 shows all)\n", plural(uint64(n), "more connection"))
	}
	return t.write("list of connections", &b)
}

// connectionColumns are the columns that the width has room for.
func (t *Table) connectionColumns(by snapshot.By) []column[snapshot.TCPConnection] {
	type C = snapshot.TCPConnection
	room := t.width() - minWidth
	grow := func(by int) int {
		by = min(by, room)
		room -= by
		return by
	}
	var state, retransmits, cause, id []column[C]
	add := func(to *[]column[C], c column[C]) {
		if room > c.width {
			*to = append(*to, c)
			room -= 1 + c.width
		} else {
			room = 0 // what is worth less must not come instead
		}
	}
	add(&state, column[C]{"STATE", len("ESTABLISHED"), false, func(c C) string { return cmp.Or(text.Escape(c.State), "-") }})
	add(&retransmits, column[C]{"RETR", countWidth, true, func(c C) string { return count(c.Retransmits) }})
	if by != snapshot.ByPID {
		add(&id, column[C]{"PID", pidWidth, true, func(c C) string {
			if c.PID == 0 {
				return "" // no process
			}
			return strconv.Itoa(c.PID)
		}})
	}
	add(&state, column[C]{"DIR", 3, false, func(c C) string { return cmp.Or(c.Direction(), "-") }})
	add(&cause, column[C]{"CAUSE", briefWidth, false, nil})
	local := shortEndWidth + grow(endWidth-shortEndWidth)
	remote := endWidth + grow(longEndWidth-endWidth)
	local += grow(longEndWidth - local)
	if len(cause) > 0 {
		width := briefWidth + grow(causeWidth-briefWidth)
		cause[0].width, cause[0].cell = width, func(c C) string { return firstCause(c.Stalls, width) }
	}
	return slices.Concat(
		id,
		[]column[C]{
			groupColumn(by, nameWidth+room, func(c C) snapshot.Process { return c.Process }),
			{"LOCAL", local, false, func(c C) string { return text.CutLeft(end(c.Local), local) }},
			{"REMOTE", remote, false, func(c C) string { return text.CutLeft(end(c.Remote), remote) }},
		},
		state,
		[]column[C]{
			{"SENT", bytesWidth, true, func(c C) string { return size(c.Sent) }},
			{"RECV", bytesWidth, true, func(c C) string { return size(c.Received) }},
		},
		retransmits,
		[]column[C]{
			{"RTT", durationWidth, true, func(c C) string { return duration(c.RTT) }},
			{"STALLED", 7, true, func(c C) string { return duration(c.Stalled()) }},
		},
		cause,
	)
}

// TCPWorst prints the longest stalls: when each ended, whose connection it was,
// the cause, the bytes that waited and for how long; then the connection's ends
// and who had the CPU, and at last what to do about the causes.
func (t *Table) TCPWorst(s snapshot.TCP) error {
	s, _ = rows.TopTCP(s, t.Top)
	type W = snapshot.TCPStall
	columns := []column[W]{
		{"ENDED", len(clock), false, func(w W) string { return w.At.Format(clock) }},
		{ownerHead, 0, false, nil},
		{"CAUSE", causeWidth, false, func(w W) string { return text.Escape(string(w.Cause)) }},
		{"WAITING", bytesWidth, true, func(w W) string { return size(w.Waiting) }},
		{"STALLED", 7, true, func(w W) string { return duration(w.Duration) }},
	}
	fill(columns, 1, t.width(), func(w W, width int) string { return process(w.Process, s.By, width) })
	var b bytes.Buffer
	if len(s.Worst) == 0 {
		b.WriteString("no such stall among the longest\n")
	} else {
		header(&b, columns)
	}
	var causes []snapshot.Cause
	for _, w := range s.Worst {
		line(&b, columns, w)
		indent := strings.Repeat(" ", len(clock))
		wrap(&b, t.width(), indent, []string{end(w.Local), "→ " + end(w.Remote)})
		if len(w.Ran) > 0 {
			wrap(&b, t.width(), indent+" the CPU had:", commas(whoRan(w.Ran, s.By)))
		}
		causes = append(causes, w.Cause)
	}
	t.remedies(&b, causes)
	return t.write("list of long stalls", &b)
}

// remedies says once of each cause what to do.
func (t *Table) remedies(b *bytes.Buffer, causes []snapshot.Cause) {
	for i, c := range causes {
		if r := remedy.Of(c); r != "" && !slices.Contains(causes[:i], c) {
			wrap(b, t.width(), string(c)+":", strings.Fields(r))
		}
	}
}

// whoRan is who had a CPU, threads of one group together.
func whoRan(ran []snapshot.SchedRan, by snapshot.By) (out []string) {
	ns := map[string]uint64{}
	var names []string
	for _, r := range ran {
		name := label(r.Process, by, nameWidth)
		if _, known := ns[name]; !known {
			names = append(names, name)
		}
		ns[name] += r.NS
	}
	for _, name := range names {
		out = append(out, name+" "+duration(ns[name]))
	}
	return out
}
