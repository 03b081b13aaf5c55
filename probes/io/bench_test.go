package io_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
)

const (
	benchRounds  = 5
	benchSeconds = 2
)

// BenchmarkDirect measures the time in BPF programs for each 4 KiB of direct I/O,
// with and without the time that threads sleep, beside biolatency of libbpf-tools, which keeps no single events as the last of ours does.
func BenchmarkDirect(b *testing.B) {
	for _, rw := range []string{"randread", "randwrite"} {
		b.Run(rw, func(b *testing.B) {
			disk := fullDisk(b)
			livetest.EnableStats(b)
			costs := livetest.InTurn(b, benchRounds, []livetest.Tracer{biolatency, culprit, noSleeps, events}, func(_ string, pid int) map[string]float64 {
				var ios float64
				each := map[string]float64{} // ns per I/O, by program
				for name, s := range livetest.During(b, pid, func() { ios, _ = directIO(b, disk, rw) }) {
					each[name] = float64(s.NS) / ios
				}
				return each
			})
			// A program's median over the rounds leaves out what others' I/O made it run for.
			sum := map[string]float64{}
			for tool, rounds := range costs {
				programs := map[string][]float64{}
				for _, each := range rounds {
					for name, ns := range each {
						programs[name] = append(programs[name], ns)
					}
				}
				for _, name := range slices.Sorted(maps.Keys(programs)) {
					ns := livetest.Median(programs[name])
					sum[tool] += ns
					if ns >= 0.1 {
						b.Logf("%-10s %-21s %6.1f ns per I/O", tool, name, ns)
					}
				}
				b.ReportMetric(sum[tool], tool+"-ns/io")
			}
			b.ReportMetric(sum[culprit.Name]/sum[biolatency.Name], "culprit/biolatency")
			b.ReportMetric(sum[noSleeps.Name]/sum[biolatency.Name], "nosleeps/biolatency")
			b.ReportMetric(sum[events.Name]/sum[biolatency.Name], "events/biolatency")
		})
	}
}

// BenchmarkThroughput measures what fio reaches under each tracer, without statistics, which cost too.
func BenchmarkThroughput(b *testing.B) {
	for _, rw := range []string{"randread", "randwrite"} {
		b.Run(rw, func(b *testing.B) {
			disk := fullDisk(b)
			reached := livetest.InTurn(b, benchRounds, []livetest.Tracer{livetest.Untraced, biolatency, culprit, noSleeps}, func(string, int) float64 {
				_, iops := directIO(b, disk, rw)
				return iops
			})
			for tool, iops := range reached {
				b.Logf("%-10s %.0f", tool, iops)
				b.ReportMetric(livetest.Median(iops), tool+"-iops")
			}
			b.ReportMetric(livetest.Median(reached[culprit.Name])/livetest.Median(reached[biolatency.Name]), "culprit/biolatency")
		})
	}
}

// BenchmarkDirtied measures the time in BPF programs for each folio that becomes
// dirty, when one process writes a file 4 KiB at a time.
func BenchmarkDirtied(b *testing.B) {
	for _, fs := range fileSystems {
		b.Run(fs, func(b *testing.B) {
			disk := livetest.NewDisk(b, fs, 1024)
			livetest.EnableStats(b)
			_, stop := culprit.Start(b)
			defer stop()
			var each []float64
			for b.Loop() {
				for round := range benchRounds {
					file := disk.Path(fmt.Sprint("file", round))
					s := livetest.During(b, os.Getpid(), func() {
						livetest.Do(b, "dirtier", "pieces", file, 4<<10, 0, 1, 128*mib)
					})["folio_dirtied"]
					if s.Runs == 0 {
						b.Fatal("no folio was dirtied")
					}
					each = append(each, float64(s.NS)/float64(s.Runs))
					b.Logf("%d folios, %.1f ns each", s.Runs, each[len(each)-1])
					if err := os.Remove(file); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(livetest.Median(each), "ns/folio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkStart measures how long it takes until everything is attached.
func BenchmarkStart(b *testing.B) {
	livetest.NeedRoot(b)
	var table, all []float64
	for b.Loop() {
		for range benchRounds {
			begin := time.Now()
			t, err := owner.Load(owner.Options{})
			if err != nil {
				b.Fatal(err)
			}
			table = append(table, float64(time.Since(begin))/1e6)
			probe, err := ioprobe.Load(t, ioprobe.Options{})
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, float64(time.Since(begin))/1e6)
			if err := probe.Close(); err != nil {
				b.Fatal(err)
			}
			if err := t.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(livetest.Median(table), "table-ms")
	b.ReportMetric(livetest.Median(all), "all-ms")
	b.ReportMetric(0, "ns/op")
}

// fullDisk is a disk over memory that is all there: reads of what was never written cost less.
func fullDisk(b *testing.B) livetest.Disk {
	b.Helper()
	disk := livetest.NewDisk(b, "", 512)
	livetest.Command(b, "fio", "--name=fill", "--filename="+disk.Dev, "--rw=write", "--bs=1m", "--direct=1", "--output=/dev/null")
	return disk
}
