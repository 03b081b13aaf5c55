package io_test

import (
	"bufio"
	"encoding/json"
	"fmt"
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

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
)

// spent is what the kernel counted for a BPF program while statistics were enabled.
type spent struct {
	name string
	ns   uint64 // all its runs took
	runs uint64
}

// spending is the BPF programs that a process holds, and what they have spent.
func spending(tb testing.TB, pid int) map[ebpf.ProgramID]spent {
	tb.Helper()
	out := map[ebpf.ProgramID]spent{}
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
		out[id] = spent{programName(tb, id), numbers["run_time_ns"], numbers["run_cnt"]}
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

// during is what a process's programs spend while f runs, by name.
func during(tb testing.TB, pid int, f func()) map[string]spent {
	tb.Helper()
	before := spending(tb, pid)
	f()
	out := map[string]spent{}
	for id, now := range spending(tb, pid) {
		sum := out[now.name]
		sum.ns += now.ns - before[id].ns
		sum.runs += now.runs - before[id].runs
		out[now.name] = sum
	}
	return out
}

// enableStats makes the kernel count what BPF programs spend, until the test ends.
func enableStats(tb testing.TB) {
	tb.Helper()
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stats.Close() })
}

// A tracer runs beside a load; what start returns stops it. pid is whose its programs are.
type tracer struct {
	name  string
	start func(tb testing.TB) (pid int, stop func())
}

var (
	untraced   = tracer{"none", func(testing.TB) (int, func()) { return os.Getpid(), func() {} }}
	biolatency = tracer{"biolatency", startBiolatency}
	culprit    = tracer{"culprit", func(tb testing.TB) (int, func()) { return startCulprit(tb, ioprobe.Options{}) }}
	noSleeps   = tracer{"nosleeps", func(tb testing.TB) (int, func()) { return startCulprit(tb, ioprobe.Options{NoSleeps: true}) }}
)

func startCulprit(tb testing.TB, o ioprobe.Options) (pid int, stop func()) {
	tb.Helper()
	table, err := owner.Load(owner.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	probe, err := ioprobe.Load(table, o)
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

func startBiolatency(tb testing.TB) (pid int, stop func()) {
	tb.Helper()
	cmd := exec.Command("biolatency", "3600")
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	// It attaches right after it has loaded what it attaches.
	for deadline := time.Now().Add(10 * time.Second); len(spending(tb, cmd.Process.Pid)) < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			stop()
			tb.Fatal("biolatency loads no programs")
		}
	}
	time.Sleep(500 * time.Millisecond)
	return cmd.Process.Pid, stop
}

// directIO has fio do 4 KiB direct I/O at depth 16, and tells how many there were, and how many in a second.
func directIO(tb testing.TB, disk livetest.Disk, rw string) (ios, iops float64) {
	tb.Helper()
	out := livetest.Command(tb, "fio", "--name=bench", "--filename="+disk.Dev, "--rw="+rw, "--bs=4k", "--direct=1",
		"--ioengine=io_uring", "--iodepth=16", "--time_based", fmt.Sprintf("--runtime=%d", benchSeconds), "--output-format=json")
	var report struct {
		Jobs []map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Jobs) != 1 {
		tb.Fatalf("fio reported %d jobs: %v", len(report.Jobs), err)
	}
	for _, way := range []string{"read", "write"} {
		var job struct {
			Total float64 `json:"total_ios"`
			IOPS  float64 `json:"iops"`
		}
		if err := json.Unmarshal(report.Jobs[0][way], &job); err != nil {
			tb.Fatal(err)
		}
		ios += job.Total
		iops += job.IOPS
	}
	if ios == 0 {
		tb.Fatal("fio did nothing")
	}
	return ios, iops
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
