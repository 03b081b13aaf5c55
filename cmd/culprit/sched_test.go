package main

import (
	"encoding/json"
	"os/exec"
	"testing"
)

// TestSchedBooks decodes what users' programs decode, and does the sums that DESIGN.md promises.
func TestSchedBooks(t *testing.T) {
	needRoot(t)
	inBackground(t, exec.Command("sh", "-c", `for i in 1 2 3; do yes > /dev/null & done; wait`))
	eachReport(t, []string{"sched", "--json", "-n", "0"}, func(t *testing.T, out []byte) {
		var report struct {
			Schema string
			Rows   []struct {
				App, User  string
				PID        int
				Wait       uint64 `json:"wait_ns"`
				KernelWait uint64 `json:"kernel_wait_ns"`
				Latency    struct{ Count uint64 }
				Culprits   []struct {
					App string
					NS  uint64
				}
			}
			Exemplars []struct {
				Wait uint64 `json:"wait_ns"`
				Ran  []struct{ NS uint64 }
			}
			Audit struct {
				Wait     uint64 `json:"wait_ns"`
				Kernel   uint64 `json:"kernel_wait_ns"`
				Residual int64  `json:"residual_ns"`
				Skew     int64  `json:"audit_skew_ns"`
			}
		}
		if err := json.Unmarshal(out, &report); err != nil {
			t.Fatal(err)
		}
		var wait, kernel uint64
		for _, r := range report.Rows {
			var sum uint64
			for _, c := range r.Culprits {
				sum += c.NS
			}
			if sum != r.Wait {
				t.Errorf("%s waited for %d ns, its culprits have %d", r.App, r.Wait, sum)
			}
			wait += r.Wait
			kernel += r.KernelWait
		}
		a := report.Audit
		if int64(wait) != int64(a.Wait)+a.Skew || kernel != a.Kernel || int64(a.Kernel-a.Wait) != a.Residual {
			t.Errorf("rows: %d and %d ns, audit: %+v", wait, kernel, a)
		}
		if report.Schema != "culprit.sched/1" || wait < 500e6 || len(report.Exemplars) == 0 {
			t.Errorf("%s: %d ns, %d exemplars", report.Schema, wait, len(report.Exemplars))
		}
		for _, e := range report.Exemplars {
			var sum uint64
			for _, r := range e.Ran {
				sum += r.NS
			}
			if sum != e.Wait {
				t.Errorf("an exemplar of %d ns has %d ns", e.Wait, sum)
			}
		}
	})
}
