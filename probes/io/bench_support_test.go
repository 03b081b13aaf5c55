package io_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"culprit/probes/internal/livetest"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/trace"
)

var (
	biolatency = livetest.Tool(2, "biolatency", "3600")
	culprit    = livetest.Culprit("culprit", load(ioprobe.Options{}))
	noSleeps   = livetest.Culprit("nosleeps", load(ioprobe.Options{NoSleeps: true}))
	events     = livetest.Culprit("events", loadEvents)
)

// tracing is what culprit trace attaches for requests.
type tracing struct {
	trace *trace.Probe
	io    *ioprobe.Probe
}

func loadEvents(t *owner.Table) (io.Closer, error) {
	tracer, err := trace.Load(t, trace.Options{Kinds: []string{"io.queue", "io.issue", "io.merge", "io.complete"}})
	if err != nil {
		return nil, err
	}
	probe, err := ioprobe.Load(t, ioprobe.Options{NoSleeps: true, Events: ioprobe.Events{Trace: tracer}})
	return tracing{tracer, probe}, err
}

func (t tracing) Close() error { return errors.Join(t.io.Close(), t.trace.Close()) }

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
