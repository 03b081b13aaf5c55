package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"culprit/output/recording"
	"culprit/probes/snapshot"
)

// recordReads records 40 intervals of ten seconds from a time on, in which nginx reads so much in each, and others the same as ever.
func recordReads(t *testing.T, dir string, begin time.Time, bytes uint64) {
	t.Helper()
	w, err := recording.Open(recording.Options{Dir: dir, Host: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(40) {
		start := begin.Add(time.Duration(n) * 10 * time.Second)
		end := start.Add(10 * time.Second)
		s := recording.Snapshot{IO: snapshot.IO{Start: start, End: end}, Sched: snapshot.Sched{Start: start, End: end}, TCP: snapshot.TCP{Start: start, End: end}}
		for app, bytes := range map[string]uint64{"nginx.service": bytes, "cron.service": 4096} {
			noise := 1000 * (n * 2654435761 % 97) // which does not follow itself
			row := snapshot.IORow{Process: snapshot.Process{App: app, Comm: app}, Device: "sda", Reads: 100}
			row.ReadVia.File = bytes + noise
			s.IO.Rows = append(s.IO.Rows, row)
		}
		if err := w.Write(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// What differs between two recordings, and between two spans of one, is told in each form; and nothing else is.
func TestReportDiff(t *testing.T) {
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	begin := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	recordReads(t, before, begin, 1<<20)
	recordReads(t, before, begin.Add(2*time.Hour), 1<<20)
	recordReads(t, after, begin.Add(time.Hour), 3<<20)
	report := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program(), append([]string{"report", "--diff"}, args...)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
		}
		return string(out)
	}
	text := report(before, after)
	for _, want := range []string{"nginx.service", "read_bytes_per_s", "1 of ", "confidence of 95 %"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "cron") {
		t.Errorf("what is the same is told of:\n%s", text)
	}
	var r struct {
		Schema string
		Rows   []struct {
			Name, Quantity string
			Ratio          float64
			A, B           struct{ Value float64 }
		}
	}
	if err := json.Unmarshal([]byte(report("--json", before, after)), &r); err != nil {
		t.Fatal(err)
	}
	if r.Schema != "culprit.diff/1" || len(r.Rows) != 1 || r.Rows[0].Name != "nginx.service" || r.Rows[0].Ratio < 2.7 || r.Rows[0].Ratio > 3.1 || r.Rows[0].B.Value < 3<<20/10 {
		t.Errorf("%+v", r)
	}
	lines, err := csv.NewReader(strings.NewReader(report("--format", "csv", before, after))).ReadAll()
	if err != nil || len(lines) != 4 { // the head, a, b and the change
		t.Errorf("%q %v", lines, err)
	}
	// Two spans of one, in which nothing is another.
	text = report("--dir", before, "2026-11-20T10:00:00Z..2026-11-20T11:00:00Z", before+"@2026-11-20T12:00:00Z..")
	if !strings.Contains(text, "differ: 0 of ") {
		t.Errorf("of the same load differs\n%s", text)
	}
	// So of directories whose names look as if they had a span.
	if err := os.Rename(before, before+"@web1..2"); err != nil {
		t.Fatal(err)
	}
	text = report(before+"@web1..2", after)
	if !strings.Contains(text, "differ: 1 of ") {
		t.Errorf("of a directory with @ in its name and another differs\n%s", text)
	}
	text = report(before+"@web1..2@..2026-11-20T11:00:00Z", before+"@web1..2@2026-11-20T12:00:00Z..")
	if !strings.Contains(text, "differ: 0 of ") {
		t.Errorf("of the same load differs\n%s", text)
	}
	out, err := exec.Command(program(), "report", "--diff", after, before+"@web1..2@2025-01-01..2025-01-02").CombinedOutput()
	if want := "culprit: comparing " + before + "@web1..2@2025-01-01..2025-01-02: nothing was recorded in that span\n"; err == nil || string(out) != want {
		t.Errorf("of a span before the recording it is said %q, not %q", out, want)
	}
	before += "@web1..2"
	text = report("--app", "cron.service", before, after)
	if !strings.Contains(text, "differ: 0 of ") {
		t.Errorf("of what is the same differs\n%s", text)
	}
}
