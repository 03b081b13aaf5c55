package recording

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"culprit/probes/snapshot"
)

// synthetic makes intervals of a busy machine: 200 applications, of which a quarter is active at a time, on 2 disks.
type synthetic struct {
	*rand.Rand
	apps []snapshot.Process
}

func newSynthetic() *synthetic {
	s := &synthetic{Rand: rand.New(rand.NewPCG(7, 7))}
	for i := range 200 {
		name := fmt.Sprintf("service-%03d", i)
		s.apps = append(s.apps, snapshot.Process{
			App: name + ".service", Comm: name, Exe: "/usr/lib/services/" + name, Cgroup: "/system.slice/" + name + ".service", Unit: name + ".service", User: fmt.Sprint("user", i%20),
		})
	}
	return s
}

// spread is around a value, as loads are: log-normal.
func (s *synthetic) spread(around float64) uint64 {
	return uint64(around * math.Exp(s.NormFloat64()/2))
}

func (s *synthetic) histogram(n int, around float64) snapshot.Histogram {
	counts := map[uint16]uint64{}
	h := snapshot.Histogram{}
	for range min(n, 200) {
		v := s.spread(around)
		counts[snapshot.BucketOf(v)] += uint64(max(n/200, 1))
		h.Sum += v * uint64(max(n/200, 1))
		h.Max = max(h.Max, v)
	}
	for b := range uint16(snapshot.BucketOctaves * snapshot.BucketSubs) {
		if c := counts[b]; c > 0 {
			lower, upper := snapshot.BucketBounds(b)
			h.Buckets = append(h.Buckets, snapshot.Bucket{Lower: lower, Upper: upper, Count: c})
		}
	}
	return h
}

func (s *synthetic) interval(n int) Snapshot {
	start := begin.Add(time.Duration(n) * interval10)
	end := start.Add(interval10)
	out := Snapshot{IO: snapshot.IO{Start: start, End: end}, Sched: snapshot.Sched{Start: start, End: end}, TCP: snapshot.TCP{Start: start, End: end}}
	devices := map[string]*snapshot.IODevice{}
	for _, app := range s.Perm(len(s.apps))[:len(s.apps)/4] {
		p, weight := s.apps[app], 30*math.Pow(float64(1+app), -1.2) // few applications do most of it
		for _, device := range []string{"nvme0n1", "nvme1n1"} {
			ops := int(s.spread(20 * weight))
			row := snapshot.IORow{Process: p, Device: device, Reads: uint64(ops), Writes: uint64(ops / 3)}
			row.ReadVia.File, row.WriteVia.Writeback, row.WriteVia.Journal = row.Reads*16384, row.Writes*32768, row.Writes*512
			row.ReadLatency = snapshot.IOLatency{Total: s.histogram(ops, 90_000), Queue: s.histogram(ops, 3_000), Device: s.histogram(ops, 87_000)}
			row.WriteLatency = snapshot.IOLatency{Total: s.histogram(ops/3, 40_000), Queue: s.histogram(ops/3, 3_000), Device: s.histogram(ops/3, 37_000)}
			out.IO.Rows = append(out.IO.Rows, row)
			d := devices[device]
			if d == nil {
				d = &snapshot.IODevice{Device: device}
				devices[device] = d
			}
			d.Ours.ReadBytes += row.ReadBytes()
			d.Ours.WriteBytes += row.WriteBytes()
		}
		out.IO.Rows = append(out.IO.Rows, snapshot.IORow{Process: p, BlockedNS: s.spread(1e7 * weight)})
		waits := int(s.spread(200 * weight))
		row := snapshot.SchedRow{Process: p, Threads: 4, Switches: uint64(2 * waits), OnCPU: s.spread(1e8 * weight), Asleep: 30e9, Latency: s.histogram(waits, 12_000)}
		for i := range 4 {
			row.Culprits = append(row.Culprits, snapshot.Culprit{Process: s.apps[(app+i*7)%len(s.apps)], NS: s.spread(1e6)})
			row.KernelWait += row.Culprits[i].NS
		}
		out.Sched.Rows = append(out.Sched.Rows, row)
		connections := int(s.spread(3 * weight))
		out.TCP.Rows = append(out.TCP.Rows, snapshot.TCPRow{
			Process: p, TCPTraffic: snapshot.TCPTraffic{Sent: s.spread(1e5 * weight), Received: s.spread(1e5 * weight), SegmentsOut: s.spread(200 * weight), SegmentsIn: s.spread(200 * weight)},
			Opened: uint64(connections), Closed: uint64(connections), Open: 12,
			RTT: s.histogram(10*connections, 300_000), Connect: s.histogram(connections, 400_000), Life: s.histogram(connections, 5e8),
			Stalls: []snapshot.TCPStalls{{Cause: snapshot.NagleDelayedACK, Count: 1, Total: s.spread(4e7), Max: 4e7}},
		})
	}
	for _, d := range devices {
		d.Kernel = d.Ours
		out.IO.Devices = append(out.IO.Devices, *d)
	}
	return out
}

// heapDuring is by how much the heap grows at most while f runs, with garbage collected as culprit record does.
func heapDuring(f func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	runtime.GC()
	before, most, done := heap(), uint64(0), make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	for {
		most = max(most, heap())
		select {
		case <-done:
			return max(most, before) - before
		case <-time.After(time.Millisecond):
		}
	}
}

// BenchmarkDay says how large a day of a busy machine is once it is sealed, what an interval costs, and how much memory sealing takes.
func BenchmarkDay(b *testing.B) {
	const hours = 4 // of the day
	for b.Loop() {
		dir := b.TempDir()
		w := open(b, dir)
		s := newSynthetic()
		var writing time.Duration
		for n := range hours * 360 {
			one := s.interval(n)
			began := time.Now()
			record(b, w, one)
			writing += time.Since(began)
		}
		more := heapDuring(func() {
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		})
		b.ReportMetric(float64(more)/(1<<20), "MiB-more-to-seal")
		var size int64
		sizes := map[string]int64{}
		files, _ := filepath.Glob(filepath.Join(dir, "date=*/*/*.parquet"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				b.Fatal(err)
			}
			size += info.Size()
			name := filepath.Base(f)
			sizes[name[:len(name)-len("-20261122T150000.000.parquet")]] += info.Size()
		}
		b.ReportMetric(float64(size)*24/hours/1e6, "MB/day")
		for name, size := range sizes {
			b.ReportMetric(float64(size)*24/hours/1e6, name+"-MB/day")
		}
		b.ReportMetric(float64(writing.Microseconds())/hours/360, "µs/interval")
		began := time.Now()
		n := 0
		if _, err := Read(dir, Query{Until: begin.AddDate(1, 0, 0)}, func(Interval) error { n++; return nil }); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds()*24/hours, "s-to-read-a-day")
	}
}

// BenchmarkMonth says how long it takes to read 30 days of the same machine, of one application and of all, from the middle of an hour
// to the last interval. Only the two hours at either end are of intervals of 10 s: of the others, which are read as sums, each
// thirtieth is recorded, which makes the sums of the same applications.
func BenchmarkMonth(b *testing.B) {
	const day = 8640
	for b.Loop() {
		dir := b.TempDir()
		w := open(b, dir)
		s := newSynthetic()
		for n := 0; n < 30*day; n++ {
			one := s.interval(n)
			record(b, w, one)
			if n > day/12 && n < 30*day-day/12 {
				n += 29
			}
		}
		for name, apps := range map[string][]string{"all": nil, "one": {"service-007.service"}} {
			began := time.Now()
			n := 0
			q := Query{Since: begin.Add(75 * time.Minute), Until: begin.AddDate(1, 0, 0), Merged: func(_, _ time.Time) bool { return true }, Apps: apps}
			if _, err := Read(dir, q, func(Interval) error { n++; return nil }); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(time.Since(began).Seconds(), "s-to-read-"+name)
			b.ReportMetric(float64(n), "pieces-"+name)
		}
	}
}
