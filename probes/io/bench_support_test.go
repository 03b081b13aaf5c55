package io_test

import (
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
)

var (
	biolatency = livetest.Tool(2, "biolatency", "3600")
	culprit    = livetest.Culprit("culprit", load(ioprobe.Options{}))
	noSleeps   = livetest.Culprit("nosleeps", load(ioprobe.Options{NoSleeps: true}))
)

func load(o ioprobe.Options) func(*owner.Table) (io.Closer, error) {
	return func(t *owner.Table) (io.Closer, error) { return ioprobe.Load(t, o) }
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
