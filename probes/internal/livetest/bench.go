package livetest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"culprit/probes/owner"
)

// Spent is what the kernel counted for a BPF program while statistics were enabled.
type Spent struct {
	name string
	NS   uint64 // all its runs took
	Runs uint64
}

// spending is the BPF programs that a process holds, and what they have spent.
func spending(tb testing.TB, pid int) map[ebpf.ProgramID]Spent {
	tb.Helper()
	out := map[ebpf.ProgramID]Spent{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for _, fd := range fds {
		f, err := os.Open(fd)
		if err != nil {
			continue // closed meanwhile
		}
		numbers := map[string]uint64{}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ":")
			if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64); err == nil {
				numbers[key] = n
			}
		}
		f.Close()
		if _, ok := numbers["run_cnt"]; !ok {
			continue // a link has the program's number too
		}
		id := ebpf.ProgramID(numbers["prog_id"])
		out[id] = Spent{programName(tb, id), numbers["run_time_ns"], numbers["run_cnt"]}
	}
	return out
}

// programName is a program's name, cut off at 15 characters by the kernel.
func programName(tb testing.TB, id ebpf.ProgramID) string {
	tb.Helper()
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		tb.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		tb.Fatal(err)
	}
	return info.Name
}

// During is what a process's programs spend while f runs, by name.
func During(tb testing.TB, pid int, f func()) map[string]Spent {
	tb.Helper()
	before := spending(tb, pid)
	f()
	out := map[string]Spent{}
	for id, now := range spending(tb, pid) {
		sum := out[now.name]
		sum.NS += now.NS - before[id].NS
		sum.Runs += now.Runs - before[id].Runs
		out[now.name] = sum
	}
	return out
}

// EnableStats makes the kernel count what BPF programs spend, until the test ends.
func EnableStats(tb testing.TB) {
	tb.Helper()
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stats.Close() })
}

// A Tracer runs beside a load; what Start returns stops it. pid is whose its programs are.
type Tracer struct {
	Name  string
	Start func(tb testing.TB) (pid int, stop func())
}

// Untraced is no tracer.
var Untraced = Tracer{"none", func(testing.TB) (int, func()) { return os.Getpid(), func() {} }}

// Culprit is the process table and a probe.
func Culprit(name string, load func(*owner.Table) (io.Closer, error)) Tracer {
	return Tracer{name, func(tb testing.TB) (int, func()) {
		tb.Helper()
		table, err := owner.Load(owner.Options{})
		if err != nil {
			tb.Fatal(err)
		}
		probe, err := load(table)
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
	}}
}

// Tool is a program of libbpf-tools, which has started when it has attached so many BPF programs.
func Tool(programs int, name string, args ...string) Tracer {
	return Tracer{name, func(tb testing.TB) (int, func()) {
		tb.Helper()
		return startTool(tb, programs, name, args...)
	}}
}

func startTool(tb testing.TB, programs int, name string, args ...string) (pid int, stop func()) {
	tb.Helper()
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	// It attaches right after it has loaded what it attaches.
	for deadline := time.Now().Add(10 * time.Second); len(spending(tb, cmd.Process.Pid)) < programs; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			stop()
			tb.Fatalf("%s loads no programs", name)
		}
	}
	time.Sleep(500 * time.Millisecond)
	return cmd.Process.Pid, stop
}

// InTurn measures by f, beside each of some tracers, whose programs are pid's. It returns what f did in each of so many rounds, by
// tracer. Other things run on the machine: what is compared runs in turn, several times, and medians are taken. One iteration
// of a benchmark is all of its rounds.
func InTurn[T any](b *testing.B, rounds int, tracers []Tracer, f func(tracer string, pid int) T) map[string][]T {
	b.Helper()
	out := map[string][]T{}
	for b.Loop() {
		for range rounds {
			for _, tool := range tracers {
				pid, stop := tool.Start(b)
				out[tool.Name] = append(out[tool.Name], f(tool.Name, pid))
				stop()
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of all rounds: that says nothing
	return out
}

// PerEvent measures the ns that the programs of each tracer take for one of a load's events, of which there are so many.
func PerEvent(b *testing.B, rounds int, tracers []Tracer, event string, events float64, load func()) map[string][]float64 {
	b.Helper()
	EnableStats(b)
	return InTurn(b, rounds, tracers, func(tracer string, pid int) (sum float64) {
		for name, s := range During(b, pid, load) {
			each := float64(s.NS) / events
			if each >= 1 {
				b.Logf("%-8s %-16s %6.1f ns per %s, %d runs of %.1f ns", tracer, name, each, event, s.Runs, float64(s.NS)/float64(s.Runs))
			}
			sum += each
		}
		return sum
	})
}

// Median is 0 of nothing.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
