package tracefile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/internal/traced"
	"culprit/probes/snapshot"
)

// counts are how many events of each kind a trace has.
func counts(t *testing.T, path string) map[string]int {
	t.Helper()
	n := map[string]int{}
	err := Read(path, func(batch snapshot.Trace) error {
		for _, k := range traced.Kinds {
			n[k.Name] += k.Len(&batch)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

// What was written in a format is read in it, and of a compressed file also what is before a cut.
func TestReadAllFormats(t *testing.T) {
	batches := sample.Traces(10)
	want := map[string]int{}
	for i := range batches {
		for _, k := range traced.Kinds {
			want[k.Name] += k.Len(&batches[i])
		}
	}
	for _, format := range Formats {
		path := filepath.Join(t.TempDir(), "t."+format)
		w, err := Create(path, format)
		if err != nil {
			t.Fatal(err)
		}
		for _, batch := range batches {
			if err := w.Write(batch); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if lacks := Lacks(path); (len(lacks) > 0) != strings.HasPrefix(format, "pftrace") {
			t.Errorf("%s lacks %v", format, lacks)
		}
		got := counts(t, path)
		for kind, n := range want {
			if slices.Contains(Lacks(path), kind) {
				n = 0
			}
			if got[kind] != n {
				t.Errorf("%s: %d of %s, want %d", format, got[kind], kind, n)
			}
		}
		if !strings.HasSuffix(format, ".gz") {
			continue
		}
		if err := os.Truncate(path, int64(w.Size()/2)); err != nil {
			t.Fatal(err)
		}
		if half := counts(t, path)["irq"]; half == 0 || half >= want["irq"] {
			t.Errorf("%s: %d interrupts before the cut, of %d", format, half, want["irq"])
		}
	}
}
