package table

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

const (
	nameWidth   = 16 // of the group at 80 columns
	deviceWidth = 8  // nvme10n1
	viaWidth    = 8
	exeWidth    = 20 // the least that makes a path worth a column
)

// IO prints one interval: the rows, then the audit of each device, then what
// was lost.
//
// READ and WRITE are bytes of the interval. VIA is the main way that the
// written bytes went, or the read ones when nothing was written, with its share
// rounded down where it is not all of them. P50 and P99 are the latency of
// reads (r) or writes (w), whichever are more. BLOCKED is the threads' time
// asleep for I/O, on all devices, in the group's first row.
func (t *Table) IO(s snapshot.IO) error {
	all := s
	s, omitted := rows.Top(s, t.Top)
	var b bytes.Buffer
	t.begin(&b, s.Start, s.End, s.Hosts)
	columns, throttled := t.ioColumns(s.By)
	lines := rows.Lines(s.Rows, s.By)
	if len(lines) > 0 {
		header(&b, columns)
	} else {
		whose := ""
		if slices.ContainsFunc(s.Devices, busy) {
			whose = " by the chosen owners"
		}
		fmt.Fprintf(&b, "no disk I/O%s in %s\n", whose, length(s.Start, s.End))
	}
	for _, l := range lines {
		line(&b, columns, l.IORow)
	}
	t.moreIO(&b, omitted, s.By)
	if !throttled {
		t.throttled(&b, s.By, lines)
	}
	audit(&b, t.width(), all)
	t.lost(&b, s.Loss)
	return t.write("io report", &b)
}

// moreIO says what the row limit left out.
func (t *Table) moreIO(b *bytes.Buffer, omitted []snapshot.IORow, by snapshot.By) {
	var sum snapshot.IOCounts
	for _, r := range omitted {
		sum.ReadBytes += r.ReadBytes()
		sum.WriteBytes += r.WriteBytes()
		sum.DiscardBytes += r.DiscardBytes
	}
	t.more(b, len(rows.Lines(omitted, by)), size(sum.ReadBytes)+" read,", size(sum.WriteBytes)+" written,", size(sum.DiscardBytes)+" discarded")
}

// ioColumns are the columns that the width has room for, and whether the one of
// throttled time is among them.
func (t *Table) ioColumns(by snapshot.By) (columns []column[snapshot.IORow], throttled bool) {
	type R = snapshot.IORow
	columns = []column[R]{
		{nameHead(by), nameWidth, false, nil},
		{"DEVICE", deviceWidth, false, func(r R) string { return cmp.Or(text.Escape(r.Device), "-") }},
		{"READ", bytesWidth, true, func(r R) string { return size(r.ReadBytes()) }},
		{"WRITE", bytesWidth, true, func(r R) string { return size(r.WriteBytes()) }},
		{"VIA", viaWidth, false, via},
		{"OPS", countWidth, true, func(r R) string { return count(r.Reads + r.Writes + r.Discards + r.Flushes) }},
		{"P50", 1 + durationWidth, true, func(r R) string {
			l, kind := latency(r)
			if l.Total.Count() == 0 {
				return "-"
			}
			return kind + duration(l.Total.Quantile(0.5))
		}},
		{"P99", durationWidth, true, func(r R) string {
			l, _ := latency(r)
			return duration(l.Total.Quantile(0.99))
		}},
		{"BLOCKED", 7, true, func(r R) string { return duration(r.BlockedNS) }},
	}
	room := t.width() - total(columns)
	// A name is worth more than a further number.
	grow := min(room, 8)
	room -= grow
	more := []column[R]{
		{"THROTTLED", 9, true, func(r R) string { return duration(r.ThrottledNS) }},
		{"P99-QUEUE", 9, true, func(r R) string {
			l, _ := latency(r)
			return duration(l.Queue.Quantile(0.99))
		}},
		{"P99-DEV", 7, true, func(r R) string {
			l, _ := latency(r)
			return duration(l.Device.Quantile(0.99))
		}},
		{"DISCARD", bytesWidth, true, func(r R) string { return size(r.DiscardBytes) }},
		{"FLUSHES", 7, true, func(r R) string { return count(r.Flushes) }},
		{"W-DIRECT", 8, true, func(r R) string { return size(r.WriteVia.Direct) }},
		{"W-BACK", bytesWidth, true, func(r R) string { return size(r.WriteVia.Writeback) }},
		{"W-JOURNAL", 9, true, func(r R) string { return size(r.WriteVia.Journal) }},
		{"W-META", bytesWidth, true, func(r R) string { return size(r.WriteVia.Metadata) }},
		{"W-SWAP", bytesWidth, true, func(r R) string { return size(r.WriteVia.SwapOut) }},
	}
	for i, c := range more {
		if room < 1+c.width {
			break
		}
		room -= 1 + c.width
		columns = append(columns, c)
		throttled = throttled || i == 0
	}
	if by != snapshot.ByExe && room > exeWidth {
		columns = append(columns, column[R]{"EXE", room - 1, false, func(r R) string {
			return cmp.Or(text.Escape(r.Exe), "-")
		}})
		room = 0
	}
	columns[0].width += grow + room
	columns[0].cell = func(r R) string { return name(r.Process, by, columns[0].width) }
	return columns, throttled
}

// latency is that of the kind of request that most were of, and its letter.
func latency(r snapshot.IORow) (snapshot.IOLatency, string) {
	if r.ReadLatency.Total.Count() > r.WriteLatency.Total.Count() {
		return r.ReadLatency, "r"
	}
	return r.WriteLatency, "w"
}

// short are the ways' names where a column is narrow.
var short = map[string]string{
	"direct": "dio", "writeback": "wb", "journal": "jnl", "metadata": "meta", "swap_out": "swap", "swap_in": "swap",
	"file": "file",
}

// via is the way that most bytes of a row took.
func via(r snapshot.IORow) string {
	type way struct {
		name  string
		bytes uint64
	}
	var ways []way
	switch w, rd := r.WriteVia, r.ReadVia; {
	case w.Total() > 0:
		ways = []way{{"writeback", w.Writeback}, {"direct", w.Direct}, {"journal", w.Journal},
			{"metadata", w.Metadata}, {"swap_out", w.SwapOut}}
	case rd.Total() > 0:
		ways = []way{{"file", rd.File}, {"direct", rd.Direct}, {"metadata", rd.Metadata}, {"swap_in", rd.SwapIn}}
	case r.Discards > 0:
		return "discard"
	case r.Flushes > 0:
		return "flush"
	default:
		return "-"
	}
	var sum uint64
	most := ways[0]
	for _, w := range ways {
		sum += w.bytes
		if w.bytes > most.bytes {
			most = w
		}
	}
	if most.bytes == sum {
		return short[most.name]
	}
	return fmt.Sprintf("%s %d%%", short[most.name], percent(most.bytes, sum))
}

// throttled says who was put to sleep for dirtying too fast, longest first,
// where there is no column for it.
func (t *Table) throttled(b *bytes.Buffer, by snapshot.By, lines []rows.Line) {
	lines = slices.DeleteFunc(slices.Clone(lines), func(l rows.Line) bool { return l.ThrottledNS == 0 })
	slices.SortStableFunc(lines, func(a, b rows.Line) int { return cmp.Compare(b.ThrottledNS, a.ThrottledNS) })
	var who []string
	for _, l := range lines {
		who = append(who, label(l.Process, by, nameWidth)+" "+duration(l.ThrottledNS))
	}
	if len(who) > 0 {
		wrap(b, t.width(), "throttled for dirtying too fast:", commas(who))
	}
}

func busy(d snapshot.IODevice) bool {
	return d.Ours != snapshot.IOCounts{} || d.Kernel != snapshot.IOCounts{}
}

// audit prints a line per device: the kernel's counters, culprit's sums, and
// whether they agree. What does not fit follows on an indented line.
func audit(b *bytes.Buffer, width int, s snapshot.IO) {
	type D = snapshot.IODevice
	bytesOf := func(head string, get func(D) uint64) column[D] {
		return column[D]{head, bytesWidth, true, func(d D) string { return size(get(d)) }}
	}
	columns := []column[D]{
		{"AUDIT", deviceWidth, false, func(d D) string { return text.Escape(d.Device) }},
		bytesOf("READ", func(d D) uint64 { return d.Kernel.ReadBytes }),
		bytesOf("WRITE", func(d D) uint64 { return d.Kernel.WriteBytes }),
		bytesOf("DISCARD", func(d D) uint64 { return d.Kernel.DiscardBytes }),
		bytesOf("READ", func(d D) uint64 { return d.Ours.ReadBytes }),
		bytesOf("WRITE", func(d D) uint64 { return d.Ours.WriteBytes }),
		bytesOf("DISCARD", func(d D) uint64 { return d.Ours.DiscardBytes }),
	}
	devices := slices.DeleteFunc(slices.Clone(s.Devices), func(d D) bool { return !busy(d) })
	if len(devices) == 0 {
		return
	}
	side := total(columns[1:4])
	fmt.Fprintf(b, "%*s %s %s\n", deviceWidth, "", rule("kernel", side), rule("culprit", side))
	header(b, columns)
	for _, d := range devices {
		var row bytes.Buffer
		line(&row, columns, d)
		wrap(b, width, strings.TrimSuffix(row.String(), "\n"), verdict(d, s.Rows))
	}
}

// verdict says in words what there is to say of a device's books.
func verdict(d snapshot.IODevice, in []snapshot.IORow) []string {
	words := []string{"books balance"}
	if bytes, ops := d.ResidualBytes(), d.ResidualOps(); bytes > 0 || ops > 0 {
		words = []string{"BOOKS DO NOT BALANCE:", "residual", plural(bytes, "byte") + ",", plural(ops, "operation")}
	}
	if d.SkewBytes > 0 {
		words = append(words, fmt.Sprintf("(skew %s)", plural(d.SkewBytes, "byte")))
	}
	if d.UnattributedBytes == 0 {
		return words
	}
	words[len(words)-1] += ";"
	var sum uint64
	var reasons []string
	for _, r := range in {
		reason, ok := strings.CutPrefix(r.App, "[unattributed: ")
		if ok && r.Device == d.Device && r.Bytes() > 0 {
			sum += r.Bytes()
			reasons = append(reasons, size(r.Bytes())+" "+text.Escape(strings.TrimSuffix(reason, "]")))
		}
	}
	if sum != d.UnattributedBytes { // a filter left the reasons' rows out
		return append(words, size(d.UnattributedBytes)+" unattributed")
	}
	return append(append(words, "unattributed:"), commas(reasons)...)
}
