package recording

import (
	"cmp"
	"slices"
	"time"

	"culprit/probes/snapshot"
)

// What is kept of an interval, so that its size is bounded on any machine.
const (
	mostRowsKept = 1000                  // rows of what is not heavy, in each table
	heavyShare   = 10                    // a process has rows of its own if it did this part of all: a tenth
	mostWorst    = 3                     // long waits, and stalls, of all applications together,
	worstFrom    = 10 * time.Millisecond // if they are as long
)

// process tells processes apart.
type process struct {
	pid     int
	started time.Time
}

func processOf(p snapshot.Process) process { return process{p.PID, p.Started} }

// heavy are the processes that did a tenth of something.
func (s Snapshot) heavy() map[process]bool {
	heavy := map[process]bool{}
	take := func(sums map[process]uint64) {
		var all uint64
		for _, n := range sums {
			all += n
		}
		for p, n := range sums {
			if p.pid != 0 && n > 0 && n >= all/heavyShare {
				heavy[p] = true
			}
		}
	}
	disk, cpu, wait, net := map[process]uint64{}, map[process]uint64{}, map[process]uint64{}, map[process]uint64{}
	for _, r := range s.IO.Rows {
		disk[processOf(r.Process)] += r.Bytes()
	}
	for _, r := range s.Sched.Rows {
		cpu[processOf(r.Process)] += r.OnCPU
		wait[processOf(r.Process)] += r.Wait()
	}
	for _, r := range s.TCP.Rows {
		net[processOf(r.Process)] += r.TCPTraffic.Bytes() + r.UDP.Bytes()
	}
	for _, sums := range []map[process]uint64{disk, cpu, wait, net} {
		take(sums)
	}
	return heavy
}

// lighten merges the rows of what is not heavy, as far as it is called the same, and leaves the worst of the exemplars.
func (s Snapshot) lighten() Snapshot {
	heavy := s.heavy()
	s.IO.Rows = lighten(s.IO.Rows, func(r snapshot.IORow) bool { return heavy[processOf(r.Process)] }, func(rows []snapshot.IORow, by snapshot.By) []snapshot.IORow {
		return snapshot.IO{Rows: rows}.Group(by).Rows
	})
	s.Sched.Rows = lighten(s.Sched.Rows, func(r snapshot.SchedRow) bool { return heavy[processOf(r.Process)] }, func(rows []snapshot.SchedRow, by snapshot.By) []snapshot.SchedRow {
		return snapshot.Sched{Rows: rows}.Group(by).Rows
	})
	s.TCP.Rows = lighten(s.TCP.Rows, func(r snapshot.TCPRow) bool { return heavy[processOf(r.Process)] }, func(rows []snapshot.TCPRow, by snapshot.By) []snapshot.TCPRow {
		return snapshot.TCP{Rows: rows}.Group(by).Rows
	})
	s.Sched.Worst = worst(s.Sched.Worst, func(w snapshot.SchedWait) uint64 { return w.Wait })
	s.TCP.Worst = worst(s.TCP.Worst, func(w snapshot.TCPStall) uint64 { return w.Duration })
	s.IO.Files, s.IO.Worst, s.Sched.Threads, s.TCP.Connections = nil, nil, nil, nil
	return s
}

func lighten[R any](rows []R, heavy func(R) bool, group func([]R, snapshot.By) []R) []R {
	var own, others []R
	for _, r := range rows {
		if heavy(r) {
			own = append(own, r)
		} else {
			others = append(others, r)
		}
	}
	return append(group(own, snapshot.ByPID), snapshot.Fold(mostRowsKept, others, group)...)
}

func worst[T any](in []T, ns func(T) uint64) []T {
	in = slices.DeleteFunc(slices.Clone(in), func(v T) bool { return ns(v) < uint64(worstFrom) })
	slices.SortStableFunc(in, func(a, b T) int { return cmp.Compare(ns(b), ns(a)) })
	return in[:min(len(in), mostWorst)]
}

// rows is the interval as it is kept. Rows in which nothing happened are left out.
func (s Snapshot) rows(o Options) rows {
	s = s.lighten()
	r := rows{Intervals: []interval{{
		End: micros(s.IO.End), Length: int64(s.IO.End.Sub(s.IO.Start)), Boot: o.Boot, Kernel: o.Kernel, Version: o.Version, Schema: Schema,
		MinStall: s.TCP.MinStall, SchedWait: s.Sched.Kernel.WaitNS, SchedKernelWait: s.Sched.Kernel.KernelWaitNS, SchedSkew: s.Sched.Kernel.SkewNS,
	}}}
	for _, row := range s.IO.Rows {
		if row.Bytes()+row.Reads+row.Writes+row.Discards+row.Flushes+row.BlockedNS+row.ThrottledNS > 0 {
			r.IO = append(r.IO, ioRowOf(row))
		}
	}
	for _, row := range s.Sched.Rows {
		if row.Switches+row.OnCPU+row.Waiting+row.KernelWait+row.SoftirqCaused+row.Wait() > 0 {
			r.Sched = append(r.Sched, schedRowOf(row))
		}
	}
	for _, row := range s.TCP.Rows {
		r.TCP = append(r.TCP, tcpRowOf(row))
	}
	r.Devices = each(s.IO.Devices, deviceRowOf)
	r.Waits = each(s.Sched.Worst, waitRowOf)
	r.Stalls = each(s.TCP.Worst, stallRowOf)
	for _, c := range s.TCP.Kernel {
		if c.Ours+c.Kernel+c.Skew > 0 {
			r.Counters = append(r.Counters, counterRow{Name: c.Name, Ours: c.Ours, Kernel: c.Kernel, Skew: c.Skew})
		}
	}
	for _, probe := range []struct {
		name string
		loss []snapshot.Loss
	}{{"io", s.IO.Loss}, {"sched", s.Sched.Loss}, {"tcp", s.TCP.Loss}} {
		for _, l := range probe.loss {
			if l.Count > 0 {
				r.Losses = append(r.Losses, lossRow{Probe: probe.name, Name: l.Name, Count: l.Count})
			}
		}
	}
	for _, t := range tables {
		t.stamp(&r, r.Intervals[0].End)
		t.sort(&r)
	}
	return r
}

// recorded is how long an interval is, or, of a sum, all that it is of.
func (i interval) recorded() int64 {
	if i.Hours > 0 {
		return i.Recorded
	}
	return i.Length
}

// snapshot is an interval as it was.
func (r rows) snapshot() Snapshot {
	i := r.Intervals[0]
	end := fromMicros(i.End)
	start := end.Add(-time.Duration(i.Length))
	s := Snapshot{
		IO: snapshot.IO{Start: start, End: end, Rows: each(r.IO, ioRow.snapshot), Devices: each(r.Devices, deviceRow.snapshot)},
		Sched: snapshot.Sched{Start: start, End: end, Rows: each(r.Sched, schedRow.snapshot), Worst: each(r.Waits, waitRow.snapshot),
			Kernel: snapshot.SchedAudit{WaitNS: i.SchedWait, KernelWaitNS: i.SchedKernelWait, SkewNS: i.SchedSkew}},
		TCP: snapshot.TCP{Start: start, End: end, MinStall: i.MinStall, Rows: each(r.TCP, tcpRow.snapshot), Worst: each(r.Stalls, stallRow.snapshot),
			Kernel: each(r.Counters, func(c counterRow) snapshot.TCPCounter {
				return snapshot.TCPCounter{Name: c.Name, Ours: c.Ours, Kernel: c.Kernel, Skew: c.Skew}
			})},
	}
	for _, l := range r.Losses {
		loss := snapshot.Loss{Name: l.Name, Count: l.Count}
		switch l.Probe {
		case "io":
			s.IO.Loss = append(s.IO.Loss, loss)
		case "sched":
			s.Sched.Loss = append(s.Sched.Loss, loss)
		case "tcp":
			s.TCP.Loss = append(s.TCP.Loss, loss)
		default: // of recording: there for each of them
			s.IO.Loss, s.Sched.Loss, s.TCP.Loss = append(s.IO.Loss, loss), append(s.Sched.Loss, loss), append(s.TCP.Loss, loss)
		}
	}
	return s
}
