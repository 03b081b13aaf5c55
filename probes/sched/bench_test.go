package sched_test

import (
	"os"
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

// A tracer runs beside a load; what start returns stops it. pid is whose its programs are.
type tracer struct {
	name  string
	start func(tb testing.TB) (pid int, stop func())
}

var (
	untraced = tracer{"none", func(testing.TB) (int, func()) { return os.Getpid(), func() {} }}
	runqlat  = tracer{"runqlat", func(tb testing.TB) (int, func()) { return livetest.StartTool(tb, 3, "runqlat", "-P", "3600") }}
	culprit  = tracer{"culprit", startCulprit}
)

func startCulprit(tb testing.TB) (pid int, stop func()) {
	tb.Helper()
	table, err := owner.Load(owner.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	probe, err := sched.Load(table, sched.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return os.Getpid(), func() {
		if err := probe.Close(); err != nil {
			tb.Error(err)
		}
		if err := table.Close(); err != nil {
			tb.Error(err)
		}
	}
}

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
			for _, tool := range []tracer{runqlat, culprit} {
				pid, stop := tool.start(b)
				sum := 0.0
				cost := livetest.During(b, pid, func() { pipe(b) })
				stop()
				for name, s := range cost {
					each := float64(s.NS) / (2 * roundTrips)
					if each >= 1 {
						b.Logf("%-8s %-16s %6.1f ns per switch, %d runs of %.1f ns", tool.name, name, each, s.Runs, float64(s.NS)/float64(s.Runs))
					}
					sum += each
				}
				hooks[tool.name] = append(hooks[tool.name], sum)
			}
		}
	}
	for tool, ns := range hooks {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/switch")
	}
	b.ReportMetric(livetest.Median(hooks[culprit.name])/livetest.Median(hooks[runqlat.name]), "culprit/runqlat")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSlowdown measures how much longer a round trip takes under each tracer, without statistics, which cost too.
func BenchmarkSlowdown(b *testing.B) {
	livetest.NeedRoot(b)
	took := map[string][]float64{}
	for b.Loop() {
		for range benchRounds {
			for _, tool := range []tracer{untraced, runqlat, culprit} {
				_, stop := tool.start(b)
				took[tool.name] = append(took[tool.name], float64(pipe(b)))
				stop()
			}
		}
	}
	for tool, ns := range took {
		b.ReportMetric(livetest.Median(ns), tool+"-ns/round-trip")
	}
	none := livetest.Median(took[untraced.name])
	b.ReportMetric((livetest.Median(took[culprit.name])-none)/(livetest.Median(took[runqlat.name])-none), "culprit/runqlat-slowdown")
	b.ReportMetric(0, "ns/op")
}
