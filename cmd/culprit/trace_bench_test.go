package main

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTrace is by how much threads that pass a token around on every CPU become slower while their switches are written to a file, beside perf.
// Other things run on the machine: the tracers take turns, and medians are taken.
func BenchmarkTrace(b *testing.B) {
	const rounds, tokens = 5, 300_000
	tracers := []struct {
		name    string
		command func(file string) *exec.Cmd // nil: none
	}{
		{"none", nil},
		{"culprit", func(file string) *exec.Cmd { return exec.Command(program(), "trace", "-o", file+".pftrace.gz") }},
		{"perf", func(file string) *exec.Cmd { return exec.Command("perf", "sched", "record", "-o", file) }},
	}
	took := map[string][]float64{}
	for b.Loop() {
		for range rounds {
			for _, tracer := range tracers {
				stop := func() {}
				if tracer.command != nil {
					stop = startTracer(b, tracer.command(filepath.Join(b.TempDir(), "trace")))
				}
				took[tracer.name] = append(took[tracer.name], passTokens(b, tokens))
				stop()
			}
		}
	}
	median := func(name string) float64 {
		slices.Sort(took[name])
		return took[name][len(took[name])/2]
	}
	ours, perfs := median("culprit")/median("none")-1, median("perf")/median("none")-1
	b.ReportMetric(0, "ns/op") // of all rounds: that says nothing
	b.ReportMetric(100*ours, "%-slower-culprit")
	b.ReportMetric(100*perfs, "%-slower-perf")
	b.ReportMetric(ours/perfs, "of-perf's")
}

func startTracer(b *testing.B, cmd *exec.Cmd) (stop func()) {
	b.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second) // until it has attached
	return func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		cmd.Wait() // perf's status tells of the signal
	}
}

// passTokens is for how many seconds, on the average of the CPUs.
func passTokens(b *testing.B, tokens int) (seconds float64) {
	b.Helper()
	type result struct {
		seconds float64
		err     error
	}
	results := make(chan result)
	for cpu := range runtime.NumCPU() {
		go func() {
			out, err := exec.Command("taskset", "-c", strconv.Itoa(cpu), "perf", "bench", "-f", "simple", "sched", "pipe", "-l", strconv.Itoa(tokens)).Output()
			if err != nil {
				results <- result{0, err}
				return
			}
			s, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
			results <- result{s, err}
		}()
	}
	for range runtime.NumCPU() {
		r := <-results
		if r.err != nil {
			b.Error(r.err)
		}
		seconds += r.seconds / float64(runtime.NumCPU())
	}
	return seconds
}
