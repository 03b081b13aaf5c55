package io_test

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
)

// A tracer runs beside a load; what start returns stops it. pid is whose its programs are.
type tracer struct {
	name  string
	start func(tb testing.TB) (pid int, stop func())
}

var (
	untraced   = tracer{"none", func(testing.TB) (int, func()) { return os.Getpid(), func() {} }}
	biolatency = tracer{"biolatency", func(tb testing.TB) (int, func()) { return livetest.StartTool(tb, 2, "biolatency", "3600") }}
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
