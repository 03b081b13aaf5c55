package table

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// TCP prints one interval: the rows, then the attempts to connect that failed,
// what went over UDP, the audit, what could be charged to nobody, and what was lost.
//
// SENT and RECV are bytes of payload. CONNS is how many connections were
// established, by the group or by others; where there is room, OPENED and
// ACCEPTED tell them apart. RTT50 and RTT99 are quantiles of single samples.
// STALLED is the sum over all connections, and CAUSE that of most of it.
func (t *Table) TCP(s snapshot.TCP) error {
	all := s
	s.Rows = slices.DeleteFunc(slices.Clone(s.Rows), unconnected)
	s, omitted := rows.TopTCP(s, t.Top)
	var b bytes.Buffer
	t.begin(&b, s.Start, s.End, s.Hosts)
	if len(s.Rows) > 0 {
		grid(&b, t.tcpColumns(s.By), s.Rows)
	} else {
		whose := ""
		if slices.ContainsFunc(s.Kernel, func(c snapshot.TCPCounter) bool { return c.Kernel > 0 && !strings.HasPrefix(c.Name, "Udp") }) {
			whose = " of the chosen owners"
		}
		fmt.Fprintf(&b, "no TCP connections%s in %s\n", whose, length(s.Start, s.End))
	}
	t.moreTraffic(&b, omitted)
	t.failures(&b, s)
	t.udp(&b, all)
	t.auditTCP(&b, s.Kernel)
	t.ownerless(&b, all)
	t.lost(&b, s.Loss)
	return t.write("tcp report", &b)
}

func unconnected(r snapshot.TCPRow) bool {
	return r.TCPTraffic == (snapshot.TCPTraffic{}) && established(r)+r.Failed()+r.Closed+r.Open+r.Stalled() == 0
}

func established(r snapshot.TCPRow) uint64 { return r.Opened + r.Accepted }

func ofTCP(r snapshot.TCPRow) snapshot.Process { return r.Process }

// tcpColumns are the columns that the width has room for.
func (t *Table) tcpColumns(by snapshot.By) []column[snapshot.TCPRow] {
	type R = snapshot.TCPRow
	counts := func(head string, get func(R) uint64) column[R] {
		return column[R]{head, max(countWidth, len(head)), true, func(r R) string { return count(get(r)) }}
	}
	quantile := func(head string, q float64, of func(R) snapshot.Histogram) column[R] {
		return column[R]{head, max(durationWidth, len(head)), true, func(r R) string { return duration(of(r).Quantile(q)) }}
	}
	rtt := func(r R) snapshot.Histogram { return r.RTT }

	room := t.width() - minWidth
	var more []column[R]
	add := func(c column[R]) {
		if room > c.width {
			more = append(more, c)
			room -= 1 + c.width
		} else {
			room = 0 // what is worth less must not come instead
		}
	}
	connections := []column[R]{counts("CONNS", established)}
	add(counts("OPEN", func(r R) uint64 { return r.Open }))
	add(counts("FAILED", R.Failed))
	// The whole name of a cause, and more of the group's, are worth more than a further number.
	causeGrows := min(room, causeWidth-briefWidth)
	nameGrows := min(room-causeGrows, 8)
	room -= causeGrows + nameGrows
	apart := []column[R]{
		counts("OPENED", func(r R) uint64 { return r.Opened }), counts("ACCEPTED", func(r R) uint64 { return r.Accepted }),
	}
	if widens := total(apart) - total(connections); room >= widens {
		connections = apart
		room -= widens
	}
	add(counts("CLOSED", func(r R) uint64 { return r.Closed }))
	add(quantile("CONNECT99", 0.99, func(r R) snapshot.Histogram { return r.Connect }))
	add(quantile("1STBYTE99", 0.99, func(r R) snapshot.Histogram { return r.FirstByte }))
	add(counts("SEGS-OUT", func(r R) uint64 { return r.SegmentsOut }))
	add(counts("SEGS-IN", func(r R) uint64 { return r.SegmentsIn }))

	cause := briefWidth + causeGrows
	return slices.Concat(
		[]column[R]{
			groupColumn(by, nameWidth+nameGrows+room, ofTCP),
			{"SENT", bytesWidth, true, func(r R) string { return size(r.Sent) }},
			{"RECV", bytesWidth, true, func(r R) string { return size(r.Received) }},
		},
		connections,
		more,
		[]column[R]{
			counts("RETR", func(r R) uint64 { return r.Retransmits }),
			quantile("RTT50", 0.5, rtt),
			quantile("RTT99", 0.99, rtt),
			{"STALLED", 7, true, func(r R) string { return duration(r.Stalled()) }},
			{"CAUSE", cause, false, func(r R) string { return firstCause(r.Stalls, cause) }},
		},
	)
}

// The widths of a cause's name, and of its short form.
const (
	causeWidth = len("reader_not_scheduled")
	briefWidth = 11
)

// brief are the causes' names where a column is too narrow for them.
var brief = map[snapshot.Cause]string{
	snapshot.TailLossProbe:      "tail_loss",
	snapshot.FastRetransmit:     "retransmit",
	snapshot.ReceiveWindow:      "recv_window",
	snapshot.SlowStartRestart:   "slow_start",
	snapshot.CwndLimited:        "cwnd",
	snapshot.NagleDelayedACK:    "nagle",
	snapshot.ReaderNotScheduled: "no_cpu",
	snapshot.ReaderNotReading:   "not_reading",
}

// firstCause is the cause of most of some stalls, in at most width columns.
func firstCause(stalls []snapshot.TCPStalls, width int) string {
	if len(stalls) == 0 {
		return "-"
	}
	c := text.Escape(string(stalls[0].Cause))
	if short, ok := brief[stalls[0].Cause]; ok && text.Width(c) > width {
		return short
	}
	return c
}

// moreTraffic says what the row limit left out.
func (t *Table) moreTraffic(b *bytes.Buffer, omitted []snapshot.TCPRow) {
	var sum snapshot.TCPTraffic
	var stalled uint64
	for _, r := range omitted {
		sum = sum.Add(r.TCPTraffic)
		stalled += r.Stalled()
	}
	t.more(b, len(omitted), size(sum.Sent)+" sent,", size(sum.Received)+" received,", duration(stalled)+" stalled")
}

// failures says whose attempts to connect failed, and how.
func (t *Table) failures(b *bytes.Buffer, s snapshot.TCP) {
	var who []string
	for _, r := range s.Rows {
		var how []string
		for _, f := range []struct {
			n  uint64
			as string
		}{{r.Refused, "refused"}, {r.TimedOut, "timed out"}, {r.Aborted, "aborted"}} {
			if f.n > 0 {
				how = append(how, count(f.n)+" "+f.as)
			}
		}
		if len(how) == 0 {
			continue
		}
		if len(who) > 0 {
			who[len(who)-1] += ";"
		}
		how[0] = label(r.Process, s.By, nameWidth) + " " + how[0]
		who = append(who, commas(how)...)
	}
	if len(who) > 0 {
		wrap(b, t.width(), "failed to connect:", who)
	}
}

// udpNameWidth is that of a group's name in the table of UDP, which has room for it.
const udpNameWidth = 34

// udp prints what the groups did over UDP, if any did: most bytes first, whatever the connections are sorted by.
func (t *Table) udp(b *bytes.Buffer, s snapshot.TCP) {
	s.Rows = slices.DeleteFunc(slices.Clone(s.Rows), func(r snapshot.TCPRow) bool { return r.UDP == (snapshot.UDPTraffic{}) })
	if len(s.Rows) == 0 {
		return
	}
	s, omitted := rows.TopTCP(s.SortBy("udp"), t.Top)
	type R = snapshot.TCPRow
	number := func(head string, width int, text func(uint64) string, get func(snapshot.UDPTraffic) uint64) column[R] {
		return column[R]{head, max(width, len(head)), true, func(r R) string { return text(get(r.UDP)) }}
	}
	columns := []column[R]{
		groupColumn(s.By, udpNameWidth, ofTCP),
		number("UDP-SENT", bytesWidth, size, func(u snapshot.UDPTraffic) uint64 { return u.Sent }),
		number("UDP-RECV", bytesWidth, size, func(u snapshot.UDPTraffic) uint64 { return u.Received }),
		number("DGRAMS-OUT", countWidth, count, func(u snapshot.UDPTraffic) uint64 { return u.DatagramsOut }),
		number("DGRAMS-IN", countWidth, count, func(u snapshot.UDPTraffic) uint64 { return u.DatagramsIn }),
		number("DROPS", countWidth, count, func(u snapshot.UDPTraffic) uint64 { return u.Drops }),
	}
	header(b, columns)
	for _, r := range s.Rows {
		line(b, columns, r)
	}
	var sum snapshot.UDPTraffic
	for _, r := range omitted {
		sum = sum.Add(r.UDP)
	}
	t.more(b, len(omitted), size(sum.Sent)+" sent,", size(sum.Received)+" received,", count(sum.Drops)+" dropped")
}

// auditTCP prints the kernel's counters, culprit's sums, and whether they agree.
func (t *Table) auditTCP(b *bytes.Buffer, counters []snapshot.TCPCounter) {
	if len(counters) == 0 {
		return
	}
	var both, residuals []string
	for _, c := range counters {
		name := text.Escape(c.Name)
		counts := fmt.Sprintf("%s %d/%d", name, c.Kernel, c.Ours)
		if c.Skew > 0 {
			counts += fmt.Sprintf(" (skew %d)", c.Skew)
		}
		both = append(both, counts)
		if r := c.Residual(); max(r, -r) > int64(min(c.Skew, math.MaxInt64)) {
			residuals = append(residuals, fmt.Sprintf("%s %+d", name, c.Residual()))
		}
	}
	words := append([]string{"kernel/culprit:"}, commas(both)...)
	words[len(words)-1] += ":"
	if len(residuals) == 0 {
		words = append(words, "books balance")
	} else {
		words = append(append(words, "BOOKS DO NOT BALANCE:", "residual"), commas(residuals)...)
	}
	wrap(b, t.width(), "AUDIT ", words)
}

// ownerless says how much of what went over connections is charged to nobody, and why.
func (t *Table) ownerless(b *bytes.Buffer, s snapshot.TCP) {
	var sum uint64
	for _, r := range s.Rows {
		sum += r.Bytes()
	}
	var reasons []string
	for _, r := range s.Rows {
		if r.Unattributed() {
			reasons = append(reasons, fmt.Sprintf("%s (%s%%) %s", size(r.Bytes()), share(r.Bytes(), sum), text.Escape(r.App)))
		}
	}
	t.nobody(b, reasons)
}
