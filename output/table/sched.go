package table

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// Sched prints one interval: the rows, then the audit of all waits, what of
// them could be charged to nobody, and what was lost.
//
// WAITS, WAIT and the quantiles are of the waits that ended in the interval.
// %WALL is their share of the threads' time. CULPRIT is who had the CPU for
// most of it, with its share rounded down. Groups that neither ran nor waited
// are left out. Who caused softirqs is told where these took a thousandth of the time.
func (t *Table) Sched(s snapshot.Sched) error {
	all := s
	s.Rows = slices.DeleteFunc(slices.Clone(s.Rows), idle)
	s, omitted := rows.TopSched(s, t.Top)
	var b bytes.Buffer
	t.begin(&b, s.Start, s.End, s.Hosts)
	if len(s.Rows) > 0 {
		grid(&b, t.schedColumns(s.By), s.Rows)
	} else {
		who := "nobody"
		if s.Kernel != (snapshot.SchedAudit{}) {
			who = "none of the chosen owners"
		}
		fmt.Fprintf(&b, "%s ran or waited for a CPU in %s\n", who, length(s.Start, s.End))
	}
	t.moreWaits(&b, omitted)
	t.causedSoftirqs(&b, all)
	t.auditWaits(&b, s.Kernel)
	t.unexplained(&b, all)
	t.lost(&b, s.Loss)
	return t.write("sched report", &b)
}

func idle(r snapshot.SchedRow) bool { return r.Wait() == 0 && r.Waiting == 0 && r.OnCPU == 0 }

// schedColumns are the columns that the width has room for.
func (t *Table) schedColumns(by snapshot.By) []column[snapshot.SchedRow] {
	type R = snapshot.SchedRow
	quantile := func(head string, q float64) column[R] {
		return column[R]{head, durationWidth, true, func(r R) string { return duration(r.Latency.Quantile(q)) }}
	}
	columns := []column[R]{
		groupColumn(by, nameWidth, ofSched),
		{"WAITS", countWidth, true, func(r R) string { return count(r.Latency.Count()) }},
		waitColumn(),
		{"%WALL", shareWidth, true, func(r R) string { return share(r.Wait(), r.Wall()) }},
		quantile("P50", 0.5),
		quantile("P99", 0.99),
		quantile("P99.9", 0.999),
		{"MAX", durationWidth, true, func(r R) string { return duration(r.Latency.Max) }},
	}
	culprit := minWidth - total(columns) - 1
	room := t.width() - minWidth
	// Names are worth more than a further number.
	grow := min(room, 16)
	room -= grow
	columns[0] = groupColumn(by, nameWidth+grow/2, ofSched)
	for _, c := range []column[R]{
		{"ON-CPU", durationWidth, true, func(r R) string { return duration(r.OnCPU) }},
		{"WAITING", 7, true, func(r R) string { return duration(r.Waiting) }},
		{"QUOTA", durationWidth, true, func(r R) string { return duration(r.Quota()) }},
		{"IRQ", durationWidth, true, func(r R) string { return duration(r.IRQStolen + r.SoftirqStolen) }},
		{"SWITCHES", 8, true, func(r R) string { return count(r.Switches) }},
		{"MIGRATED", 8, true, func(r R) string { return count(r.Migrations) }},
	} {
		if room < 1+c.width {
			break
		}
		room -= 1 + c.width
		columns = append(columns, c)
	}
	culprit += grow - grow/2 + room
	return append(columns, column[R]{"CULPRIT", culprit, false, func(r R) string { return worst(r, by, culprit) }})
}

func ofSched(r snapshot.SchedRow) snapshot.Process { return r.Process }

func waitColumn() column[snapshot.SchedRow] {
	return column[snapshot.SchedRow]{"WAIT", durationWidth, true, func(r snapshot.SchedRow) string { return duration(r.Wait()) }}
}

// worst is the culprit of most of a row's wait, and of how much.
func worst(r snapshot.SchedRow, by snapshot.By, width int) string {
	if r.Wait() == 0 {
		return "-"
	}
	c := r.Culprits[0]
	part := fmt.Sprintf(" %d%%", percent(c.NS, r.Wait()))
	return label(c.Process, by, width-len(part)) + part
}

// moreWaits says what the row limit left out.
func (t *Table) moreWaits(b *bytes.Buffer, omitted []snapshot.SchedRow) {
	var sum uint64
	for _, r := range omitted {
		sum += r.Wait()
	}
	t.more(b, len(omitted), duration(sum)+" waited")
}

// causedSoftirqs says for whose sockets softirqs worked longest, and what the others took.
func (t *Table) causedSoftirqs(b *bytes.Buffer, s snapshot.Sched) {
	const most = 5
	rows := slices.Clone(s.Rows)
	slices.SortStableFunc(rows, func(a, b snapshot.SchedRow) int { return cmp.Compare(b.SoftirqCaused, a.SoftirqCaused) })
	var who []string
	for i, r := range rows {
		if i == most || r.SoftirqCaused < uint64(s.End.Sub(s.Start)/1000) || r.SoftirqCaused == 0 {
			break
		}
		who = append(who, label(r.Process, s.By, nameWidth)+" "+duration(r.SoftirqCaused))
	}
	if len(who) > 0 {
		wrap(b, t.width(), "softirqs caused by:", commas(who))
	}
}

// auditWaits prints the kernel's sum of all waits, culprit's, and whether they agree.
func (t *Table) auditWaits(b *bytes.Buffer, a snapshot.SchedAudit) {
	if a == (snapshot.SchedAudit{}) {
		return
	}
	words := []string{"kernel " + duration(a.KernelWaitNS) + " waited,", "culprit " + duration(a.WaitNS) + ":"}
	if residual := a.ResidualNS(); residual == 0 {
		words = append(words, "books balance")
	} else {
		words = append(words, "BOOKS DO NOT BALANCE:", fmt.Sprintf("residual %+d ns", residual))
		if a.KernelWaitNS > 0 {
			words = append(words, fmt.Sprintf("(%.3f%% of the kernel's)", 100*math.Abs(float64(residual))/float64(a.KernelWaitNS)))
		}
	}
	if a.SkewNS != 0 {
		words = append(words, fmt.Sprintf("(skew %+d ns)", a.SkewNS))
	}
	wrap(b, t.width(), "AUDIT ", words)
}

// unexplained says how much of the rows' waits is charged to nobody, and why.
func (t *Table) unexplained(b *bytes.Buffer, s snapshot.Sched) {
	var sum uint64
	for _, r := range s.Rows {
		sum += r.Wait()
	}
	var reasons []string
	for _, c := range s.Culprits() {
		if c.Unattributed() || c.App == snapshot.OlderWaits {
			reasons = append(reasons, fmt.Sprintf("%s (%s%%) %s", duration(c.NS), share(c.NS, sum), text.Escape(c.App)))
		}
	}
	t.nobody(b, reasons)
}
