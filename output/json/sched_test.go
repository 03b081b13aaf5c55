package json_test

import (
	stdjson "encoding/json"
	"errors"
	"io"
	"slices"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/json"
	"culprit/probes/snapshot"
)

func TestSchedGolden(t *testing.T) {
	checkGolden(t, "sched.json", json.Sched, json.Options{Top: 2},
		sample.SchedUnbalanced(snapshot.ByPID), sample.SchedThreads(snapshot.ByApp), sample.SchedIdle())
}

// The contract, field by field, as other programs rely on it.
var (
	contractSchedReport = []string{"schema", "start", "end", "seconds", "by", "rows", "omitted_rows", "exemplars", "audit", "loss"}
	contractSchedRow    = slices.Concat(contractIdentity, []string{"threads", "switches", "oncpu_ns", "wait_ns", "waiting_ns", "latency",
		"quota_ns", "irq_stolen_ns", "softirq_stolen_ns", "softirq_caused_ns", "disk_ns", "blocked_ns", "asleep_ns", "uncounted_ns",
		"migrations", "numa_pages", "culprits", "kernel_wait_ns"})
	contractWaits    = []string{"count", "mean_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"}
	contractExemplar = []string{"at", "cpu", "app", "pid", "started", "tid", "wait_ns", "ran"}
)

// dividesWait checks that the culprits of a row add up to its wait.
func dividesWait(t *testing.T, row object) {
	t.Helper()
	var sum uint64
	for _, c := range list(t, row, "culprits", []string{"app", "pid", "started", "ns"}) {
		sum += num(t, c, "ns")
	}
	if sum != num(t, row, "wait_ns") {
		t.Errorf("culprits sum to %d of %v", sum, row["wait_ns"])
	}
	fields(t, "latency", row["latency"], contractWaits)
}

func TestSchedContract(t *testing.T) {
	for _, s := range append(sample.AllSched(), snapshot.Sched{}) {
		report := fields(t, "report", decode(t, encode(t, json.Sched, s, json.Options{})), contractSchedReport, "threads")
		heading(t, report, "culprit.sched/1", !s.Start.IsZero())
		for i, row := range listOf(t, report, "rows", len(s.Rows), contractSchedRow) {
			dividesWait(t, row)
			named(t, row, s.Rows[i].Process, s.By)
		}
		for _, thread := range optionalList(t, report, "threads", len(s.Threads), slices.Concat(contractSchedRow, []string{"tid", "name"})) {
			dividesWait(t, thread)
		}
		for _, e := range list(t, report, "exemplars", contractExemplar) {
			list(t, e, "ran", []string{"app", "pid", "started", "tid", "ns"})
		}
		fields(t, "audit", report["audit"], []string{"wait_ns", "kernel_wait_ns", "residual_ns", "audit_skew_ns"})
	}
}

// Culprits and exemplars are named by what the report is grouped by, and only rows of processes have a pid.
func TestSchedNames(t *testing.T) {
	for by, want := range map[snapshot.By][2]string{
		snapshot.ByApp: {"dd", "postgresql@17-main.service"}, snapshot.ByUser: {"ann", "postgres"}, snapshot.ByExe: {"/usr/bin/dd", "/usr/lib/postgresql/17/bin/postgres"},
	} {
		report := decode(t, encode(t, json.Sched, sample.Sched(by), json.Options{}))
		culprit := report["rows"].([]any)[1].(object)["culprits"].([]any)[0].(object)
		exemplar := report["exemplars"].([]any)[1].(object)
		if got := [2]any{culprit["app"], exemplar["app"]}; got != [2]any{want[0], want[1]} {
			t.Errorf("by %s: %v, want %v", by, got, want)
		}
		if num(t, culprit, "pid") != 0 || num(t, exemplar, "pid") != 812 {
			t.Errorf("by %s: the culprit is %v, the exemplar %v", by, culprit["pid"], exemplar["pid"])
		}
		if culprit["started"] != "" || exemplar["started"] == "" {
			t.Errorf("by %s: the culprit started at %q, the exemplar at %q", by, culprit["started"], exemplar["started"])
		}
	}
}

// Where there is a pid, its start tells it from the same pid of another process.
func TestSchedStarted(t *testing.T) {
	report := decode(t, encode(t, json.Sched, sample.Sched(snapshot.ByPID), json.Options{}))
	started := map[uint64]any{0: ""} // by pid; what is no process has none
	for _, r := range report["rows"].([]any) {
		row := r.(object)
		started[num(t, row, "pid")] = row["started"]
	}
	var all []any
	for _, r := range report["rows"].([]any) {
		all = append(all, r.(object)["culprits"].([]any)...)
	}
	for _, e := range report["exemplars"].([]any) {
		all = append(append(all, e), e.(object)["ran"].([]any)...)
	}
	for _, v := range all {
		who := v.(object)
		pid := num(t, who, "pid")
		if want := started[pid]; who["started"] != want || (want == "") != (pid == 0) {
			t.Errorf("%v of pid %d started at %q, its row at %v", who["app"], pid, who["started"], want)
		}
	}
}

// The residual and the skew have signs.
func TestSchedAudit(t *testing.T) {
	audit := decode(t, encode(t, json.Sched, sample.SchedUnbalanced(snapshot.ByApp), json.Options{}))["audit"].(object)
	if audit["residual_ns"] != stdjson.Number("-1234") || audit["audit_skew_ns"] != stdjson.Number("56789") {
		t.Errorf("audit %v", audit)
	}
}

func TestSchedTop(t *testing.T) {
	s := sample.SchedThreads(snapshot.ByApp)
	o := decode(t, encode(t, json.Sched, s, json.Options{Top: 1}))
	if num(t, o, "omitted_rows") != uint64(len(s.Rows)-1) {
		t.Errorf("%v omitted", o["omitted_rows"])
	}
	for _, f := range []string{"rows", "threads", "exemplars"} {
		if n := len(o[f].([]any)); n != 1 {
			t.Errorf("%d %s", n, f)
		}
	}
}

func TestSchedClosedPipe(t *testing.T) {
	if err := json.Sched(closed{}, sample.SchedIdle(), json.Options{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
