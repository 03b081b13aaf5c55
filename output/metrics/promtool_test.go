package metrics

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"culprit/probes/snapshot"
)

// promtool runs Prometheus's own tool, which .ci/install has got.
func promtool(t *testing.T, input string, args ...string) (said string, err error) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(cache, "culprit", "debian", "prometheus", "promtool"), args...)
	if _, err := os.Stat(cmd.Path); err != nil {
		t.Fatalf("promtool is missing: .ci/install installs it: %v", err)
	}
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// samples are the lines of a page that are values.
func samples(page string) (lines []string) {
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// Prometheus's own tool has nothing against the text, and reads every sample of it in OpenMetrics' form.
func TestPromtool(t *testing.T) {
	m := added(1000)
	m.IO(snapshot.IO{Rows: []snapshot.IORow{{Process: snapshot.Process{App: "caf\xc3\"\\\n{}"}, Device: "sda", Reads: 1}}})
	s := serve(t, m, "")
	_, _, page := get(t, s.Address(), "text/plain", "", "")
	if said, err := promtool(t, page, "check", "metrics"); err != nil || said != "" {
		t.Errorf("of the text: %v: %s", err, said)
	}
	if said, err := promtool(t, "# TYPE wrong_total gauge\nwrong_total 1\n", "check", "metrics"); err == nil && said == "" {
		t.Error("it has nothing against what is wrong")
	}

	_, _, page = get(t, s.Address(), "application/openmetrics-text;version=1.0.0", "", "")
	var timed strings.Builder // that reader wants times
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "#") {
			line += " 1700000000"
		}
		timed.WriteString(line + "\n")
	}
	file, blocks := filepath.Join(t.TempDir(), "page"), t.TempDir()
	if err := os.WriteFile(file, []byte(timed.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := promtool(t, "", "tsdb", "create-blocks-from", "openmetrics", file, blocks); err != nil {
		t.Fatalf("of OpenMetrics: %v: %s", err, said)
	}
	if err := os.Mkdir(filepath.Join(blocks, "wal"), 0o700); err != nil { // it wants a journal, too
		t.Fatal(err)
	}
	said, err := promtool(t, "", "tsdb", "dump", blocks)
	if got, want := len(samples(said)), len(samples(page)); err != nil || got != want {
		t.Errorf("of OpenMetrics it has %d samples, want %d: %v: %.300s", got, want, err, said)
	}
}
