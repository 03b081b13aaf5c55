// Package duckdb has DuckDB read what the outputs write, for their tests.
package duckdb

import (
	_ "embed"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

//go:embed query.mjs
var script string

// npmPackage is what .ci/install has npm install, each into a folder of its name.
const npmPackage = "@duckdb/node-api@1.5.6-r.1"

// Query returns the rows that an SQL query gives, each value as text.
func Query(t testing.TB, sql string) (rows [][]string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "culprit", "npm", npmPackage)
	if _, err := os.Stat(folder); err != nil {
		t.Fatalf("DuckDB is missing: .ci/install installs it: %v", err)
	}
	file := filepath.Join(t.TempDir(), "query.mjs")
	if err := os.WriteFile(file, []byte(script), 0o666); err != nil {
		t.Fatal(err)
	}
	node := exec.Command("node", file, folder, sql)
	node.Stderr = os.Stderr
	out, err := node.Output()
	if err != nil {
		t.Fatalf("DuckDB: %v\n%s", err, sql)
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatalf("DuckDB's rows: %v: %s", err, out)
	}
	return rows
}
