package table

import (
	"bytes"
	"cmp"
	"fmt"

	"culprit/output/internal/rows"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// Files prints the busiest files of each row's group, groups in the rows'
// order: bytes read and written, the device, and the path, or the inode's
// number where the path can no longer be told.
func (t *Table) Files(s snapshot.IO) error {
	all := s
	s, _ = rows.Top(s, t.Top)
	columns := []column[snapshot.IOFile]{
		{"DEVICE", deviceWidth, false, func(f snapshot.IOFile) string { return cmp.Or(text.Escape(f.Device), "-") }},
		{"READ", bytesWidth, true, func(f snapshot.IOFile) string { return size(f.ReadBytes) }},
		{"WRITE", bytesWidth, true, func(f snapshot.IOFile) string { return size(f.WriteBytes) }},
		{"FILE", 0, false, func(f snapshot.IOFile) string {
			return cmp.Or(text.Escape(f.Path), fmt.Sprintf("[inode %d]", f.Inode))
		}},
	}
	columns[len(columns)-1].width = t.width() - nameWidth - 1 - total(columns)

	shown := byGroup(s.Files, s.By)
	known := byGroup(all.Files, s.By)
	var nests []nest[snapshot.IOFile]
	for _, g := range groups(s) {
		k := rows.KeyOf(g[0].Process, s.By)
		nests = append(nests, nest[snapshot.IOFile]{g[0].Process, shown[k], len(known[k]) - len(shown[k])})
	}
	var b bytes.Buffer
	nested(&b, s.By, nameWidth, nests, columns, "more file")
	if b.Len() == 0 {
		b.WriteString("no files to list\n")
	}
	return t.write("file list", &b)
}

// nest is a group, some of what it has, and how many more of that there are.
type nest[T any] struct {
	of    snapshot.Process
	items []T
	more  int
}

// nested prints what each group has, its name once, in columns beside that of names. It prints
// nothing where no group has anything.
func nested[T any](b *bytes.Buffer, by snapshot.By, nameWidth int, nests []nest[T], columns []column[T], more string) {
	columns = append([]column[T]{{nameHead(by), nameWidth, false, nil}}, columns...)
	for _, n := range nests {
		if len(n.items) > 0 && b.Len() == 0 {
			header(b, columns)
		}
		for i, v := range n.items {
			columns[0].cell = func(T) string {
				if i > 0 {
					return ""
				}
				return name(n.of, by, nameWidth)
			}
			line(b, columns, v)
		}
		if n.more > 0 {
			fmt.Fprintf(b, "%*s … %s\n", nameWidth, "", plural(uint64(n.more), more))
		}
	}
}

func byGroup(files []snapshot.IOFile, by snapshot.By) map[rows.Key][]snapshot.IOFile {
	out := make(map[rows.Key][]snapshot.IOFile)
	for _, f := range files {
		k := rows.KeyOf(f.Process, by)
		out[k] = append(out[k], f)
	}
	return out
}

// Worst prints the slowest requests, slowest first: when each completed, whose
// it was, where, what and how large it was, how long it was queued and how long
// in the device.
func (t *Table) Worst(s snapshot.IO) error {
	s, _ = rows.Top(s, t.Top)
	type Q = snapshot.IORequest
	columns := []column[Q]{
		{"COMPLETED", len(clock), false, func(r Q) string { return r.At.Format(clock) }},
		{ownerHead, 0, false, nil},
		{"DEVICE", deviceWidth, false, func(r Q) string { return cmp.Or(text.Escape(r.Device), "-") }},
		{"REQUEST", len("write meta"), false, func(r Q) string { return text.Escape(r.Op + " " + short[r.Via]) }},
		{"SIZE", bytesWidth, true, func(r Q) string { return size(r.Bytes) }},
		{"QUEUED", durationWidth, true, func(r Q) string { return duration(r.QueueNS) }},
		{"IN DEV", durationWidth, true, func(r Q) string { return duration(r.DeviceNS) }},
	}
	fill(columns, 1, t.width(), func(r Q, width int) string { return process(r.Process, s.By, width) })
	var b bytes.Buffer
	if len(s.Worst) == 0 {
		b.WriteString("no such request among the slowest\n")
	} else {
		grid(&b, columns, s.Worst)
	}
	return t.write("list of slow requests", &b)
}

// ownerHead is the head of a column of processes.
const ownerHead = "    PID OWNER"

// process is one of a group, with its pid in a column of its own, in at most width columns.
func process(p snapshot.Process, by snapshot.By, width int) string {
	n := cmp.Or(text.Escape(p.Name(by)), "-")
	if p.PID == 0 {
		return text.Cut(n, width)
	}
	return fmt.Sprintf("%*d %s", pidWidth, p.PID, text.Cut(n, width-pidWidth-1))
}
