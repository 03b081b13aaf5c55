package recording

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"culprit/output/internal/golden"
)

// old are recordings by each version of the schema, of which one is sealed and one a journal.
const old = "../../testdata/output/recording"

// What an older culprit recorded is read for ever.
func TestUpgrade(t *testing.T) {
	for version := 1; version <= Schema; version++ {
		dir := filepath.Join(old, fmt.Sprint("v", version))
		if _, err := os.Stat(dir); err != nil && version == Schema {
			makeOld(t, dir)
			t.Errorf("there was no recording by version %d of the schema: it is in %s now, to be kept", version, dir)
		}
		var text strings.Builder
		damage, err := Read(dir, Query{Until: begin.AddDate(1, 0, 0)}, func(i Interval) error {
			one, err := json.Marshal(i)
			text.Write(append(one, '\n'))
			return err
		})
		if err != nil || len(damage) > 0 {
			t.Fatalf("%s: %v %v", dir, err, damage)
		}
		golden.Check(t, fmt.Sprintf("recording/v%d.json", version), []byte(text.String()))
	}
}

// A table that changes is another version of the schema, with a recording of its own.
func TestSchema(t *testing.T) {
	var text strings.Builder
	for _, table := range tables {
		fmt.Fprintln(&text, table.schema)
	}
	golden.Check(t, fmt.Sprintf("recording/schema-%d.txt", Schema), []byte(text.String()))
}

// makeOld makes a recording of this version.
func makeOld(t *testing.T, dir string) {
	t.Helper()
	w := open(t, dir)
	for n := range 2 {
		record(t, w, at(n))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = open(t, dir)
	record(t, w, at(2))
	if err := os.Remove(w.lock.Path()); err != nil {
		t.Fatal(err)
	}
}
