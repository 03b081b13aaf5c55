// Package golden compares the outputs' tests with files under testdata/output.
package golden

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Check compares got with the golden file of that name, or writes it with
// -update. It is for the packages in output/*.
func Check(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("..", "..", "testdata", "output", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading golden file (-update writes it): %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update accepts what follows); got\n%s\nwant\n%s", path, got, want)
	}
}
