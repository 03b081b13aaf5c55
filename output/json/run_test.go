package json_test

import (
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/json"
	"culprit/probes/snapshot"
)

func TestRunGolden(t *testing.T) {
	checkGolden(t, "run.json", json.Run, json.Options{Top: 1}, sample.Run(snapshot.ByComm), sample.RunIdle())
}

// The contract, field by field, as other programs rely on it.
var (
	contractRun = []string{"schema", "command", "exit_status", "signal", "wall_ns", "kernel_cpu_ns", "processes", "running", "memory_bytes",
		"memory_comm", "dirty_files", "time", "io", "sched", "tcp"}
	contractRunTime = []string{"all_ns", "running_ns", "interrupt_ns", "waiting_ns", "disk_ns", "network_ns", "lock_ns", "blocked_ns",
		"event_ns", "asleep_ns", "uncounted_ns"}
)

// The parts of the time add up to all of it.
func TestRunContract(t *testing.T) {
	for _, r := range []snapshot.Run{sample.Run(snapshot.ByComm), sample.Run(snapshot.ByPID), sample.RunIdle(), {}} {
		report := fields(t, "report", decode(t, encode(t, json.Run, r, json.Options{})), contractRun)
		spent := fields(t, "time", report["time"], append([]string{"switches", "culprits"}, contractRunTime...))
		var sum uint64
		for _, part := range contractRunTime[1:] {
			sum += num(t, spent, part)
		}
		if sum != num(t, spent, "all_ns") {
			t.Errorf("the parts add up to %d, all is %v", sum, spent["all_ns"])
		}
		fields(t, "io", report["io"], contractReport, "files", "worst")
		fields(t, "sched", report["sched"], contractSchedReport, "threads")
		fields(t, "tcp", report["tcp"], contractTCPReport, "connections")
	}
}
