// Package rows holds what every form of output does to a grouped snapshot
// before it writes it: telling groups apart, and keeping the first n rows.
package rows

import (
	"cmp"
	"slices"

	"culprit/probes/snapshot"
)

// Key tells groups apart. It is comparable.
type Key struct {
	name    string
	pid     int
	started int64
}

// KeyOf is the group that p belongs to, in a snapshot grouped by by.
func KeyOf(p snapshot.Process, by snapshot.By) Key {
	if by == snapshot.ByPID {
		return Key{p.Name(by), p.PID, p.Started.UnixNano()}
	}
	return Key{name: p.Name(by)}
}

// A Line is what a reader takes for one row: a group's I/O on one device, with
// the times that belong to no device added to the group's first. A group that
// has such times alone is a Line without a device.
type Line struct {
	snapshot.IORow
	from []int // indices of the rows it was made of
}

// Lines folds the rows without a device into the others, and keeps the order:
// a Line stands where the first of its rows stood.
func Lines(in []snapshot.IORow, by snapshot.By) []Line {
	type pair struct{ device, times int } // a group's first row of each sort, -1 where none
	groups := make(map[Key]pair)
	for i, r := range in {
		k := KeyOf(r.Process, by)
		g, ok := groups[k]
		if !ok {
			g = pair{-1, -1}
		}
		if r.Device == "" && g.times < 0 {
			g.times = i
		}
		if r.Device != "" && g.device < 0 {
			g.device = i
		}
		groups[k] = g
	}
	var out []Line
	for i, r := range in {
		g := groups[KeyOf(r.Process, by)]
		if g.device < 0 || g.times < 0 || i != g.device && i != g.times {
			out = append(out, Line{r, []int{i}})
			continue
		}
		if i != min(g.device, g.times) {
			continue
		}
		l := Line{in[g.device], []int{g.device, g.times}}
		l.BlockedNS += in[g.times].BlockedNS
		l.ThrottledNS += in[g.times].ThrottledNS
		out = append(out, l)
	}
	return out
}

// Top keeps the first n Lines, the rows that these were made of, their groups'
// first n files each, and the n slowest requests, slowest first. It returns the
// rows that it left out. n = 0 keeps everything.
func Top(s snapshot.IO, n int) (kept snapshot.IO, omitted []snapshot.IORow) {
	s.Worst = slices.Clone(s.Worst)
	slices.SortStableFunc(s.Worst, func(a, b snapshot.IORequest) int {
		return cmp.Compare(b.LatencyNS(), a.LatencyNS())
	})
	if n <= 0 {
		return s, nil
	}
	s.Worst = s.Worst[:min(n, len(s.Worst))]

	keep := make([]bool, len(s.Rows))
	lines := Lines(s.Rows, s.By)
	for _, l := range lines[:min(n, len(lines))] {
		for _, i := range l.from {
			keep[i] = true
		}
	}
	files := make(map[Key]int) // how many more of each group's
	var rows []snapshot.IORow
	for i, r := range s.Rows {
		if !keep[i] {
			omitted = append(omitted, r)
			continue
		}
		rows = append(rows, r)
		files[KeyOf(r.Process, s.By)] = n
	}
	s.Rows = rows
	s.Files = slices.Clone(s.Files)
	s.Files = slices.DeleteFunc(s.Files, func(f snapshot.IOFile) bool {
		k := KeyOf(f.Process, s.By)
		files[k]--
		return files[k] < 0
	})
	return s, omitted
}

// TopSched keeps the first n rows, the long waits of their groups, and the
// first n threads. It returns the rows that it left out. n = 0 keeps everything.
func TopSched(s snapshot.Sched, n int) (kept snapshot.Sched, omitted []snapshot.SchedRow) {
	if n <= 0 {
		return s, nil
	}
	s.Rows, omitted = first(s.Rows, n)
	s.Worst = ofRows(s.Worst, s.Rows, s.By, func(w snapshot.SchedWait) snapshot.Process { return w.Process },
		func(r snapshot.SchedRow) snapshot.Process { return r.Process })
	s.Threads, _ = first(s.Threads, n)
	return s, omitted
}

// TopTCP keeps the first n rows with their first n remote ends, the long stalls
// of their groups, and the first n connections. It returns the rows that it left
// out. n = 0 keeps everything.
func TopTCP(s snapshot.TCP, n int) (kept snapshot.TCP, omitted []snapshot.TCPRow) {
	if n <= 0 {
		return s, nil
	}
	s.Rows, omitted = first(s.Rows, n)
	s.Rows = slices.Clone(s.Rows)
	for i := range s.Rows {
		s.Rows[i].Remotes, _ = first(s.Rows[i].Remotes, n)
	}
	s.Worst = ofRows(s.Worst, s.Rows, s.By, func(w snapshot.TCPStall) snapshot.Process { return w.Process },
		func(r snapshot.TCPRow) snapshot.Process { return r.Process })
	s.Connections, _ = first(s.Connections, n)
	return s, omitted
}

// first are the first n, and the others.
func first[T any](in []T, n int) (kept, omitted []T) {
	n = min(n, len(in))
	return in[:n], in[n:]
}

// ofRows are those of in that belong to the groups of rows.
func ofRows[T, R any](in []T, rows []R, by snapshot.By, of func(T) snapshot.Process, group func(R) snapshot.Process) []T {
	groups := make(map[Key]bool)
	for _, r := range rows {
		groups[KeyOf(group(r), by)] = true
	}
	return slices.DeleteFunc(slices.Clone(in), func(v T) bool { return !groups[KeyOf(of(v), by)] })
}
