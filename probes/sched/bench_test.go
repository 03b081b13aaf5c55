package sched_test

import (
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"culprit/probes/internal/livetest"
	"culprit/probes/owner"
	"culprit/probes/sched"
)

// Other things run on the machine: what is compared runs in turn, several
// times, and medians are taken. One iteration of a benchmark is all of its rounds.
const (
	benchRounds = 7
	roundTrips  = 150_000
)

var (
	runqlat = livetest.Tool(3, "runqlat", "-P", "3600")
	culprit = livetest.Culprit("culprit", func(t *owner.Table) (io.Closer, error) { return sched.Load(t, sched.Options{}) })
)

// pipe has two processes on one CPU wake each other, and tells how long a round trip takes: two switches.
func pipe(tb testing.TB) time.Duration {
	tb.Helper()
	out := livetest.Command(tb, "taskset", "-c", "1", "perf", "bench", "-f", "simple", "sched", "pipe", "-l", strconv.Itoa(roundTrips))
	seconds, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		tb.Fatal(err)
	}
	return time.Duration(seconds * 1e9 / roundTrips)
}

// BenchmarkSwitch measures the time in BPF programs for each context switch beside runqlat of libbpf-tools, with what wakeups cost it.
func BenchmarkSwitch(b *testing.B) {
	livetest.NeedRoot(b)
	livetest.EnableStats(b)
	hooks := map[string][]float64{}
	for b.Loop() {
		for range benchRounds {
			for _, tool := range []livetest.Tracer{runqlat, culprit} {
				pid, stop := tool.Start(b)
				sum := 0.0
				cost := livetest.During(b, pid, func() { pipe(b) })
				stop()
				for name, s := range cost {
					each := float64(s.NS) / (2 * roundTrips)
					if each >= 1 {
						b.Logf("%-8s %-16s %6.1f ns per switch, %d runs of %.1f ns", tool.Name, name, each, s.Runs, float64(s.NS)/float64(s.Runs))
					}
					sum += each
				}
				hooks[tool.Name] = append(hooks[tool.Name], sum)
			}
		}
	}
	for tool, ns := range hooks {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/switch")
	}
	b.ReportMetric(livetest.Median(hooks[culprit.Name])/livetest.Median(hooks[runqlat.Name]), "culprit/runqlat")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSlowdown measures how much longer a round trip takes under each tracer, without statistics, which cost too.
func BenchmarkSlowdown(b *testing.B) {
	livetest.NeedRoot(b)
	took := map[string][]float64{}
	for b.Loop() {
		for range benchRounds {
			for _, tool := range []livetest.Tracer{livetest.Untraced, runqlat, culprit} {
				_, stop := tool.Start(b)
				took[tool.Name] = append(took[tool.Name], float64(pipe(b)))
				stop()
			}
		}
	}
	for tool, ns := range took {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/round-trip")
	}
	none := livetest.Median(took[livetest.Untraced.Name])
	b.ReportMetric((livetest.Median(took[culprit.Name])-none)/(livetest.Median(took[runqlat.Name])-none), "culprit/runqlat-slowdown")
	b.ReportMetric(0, "ns/op")
}
