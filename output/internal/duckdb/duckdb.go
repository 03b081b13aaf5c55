// Package duckdb has DuckDB read what the outputs write, for their tests.
package duckdb

import (
	_ "embed"
	"encoding/json"
	"testing"

	"culprit/output/internal/node"
)

//go:embed query.mjs
var script string

// npmPackage is what .ci/install has npm install, each into a folder of its name.
const npmPackage = "@duckdb/node-api@1.5.6-r.1"

// Table is what a query gives, each value as text.
type Table struct {
	Columns []string
	Rows    [][]string
}

// Query returns the rows that an SQL query gives, each value as text.
func Query(t testing.TB, sql string) (rows [][]string) {
	t.Helper()
	return Run(t, sql).Rows
}

// Run runs SQL, and returns what its last statement gives.
func Run(t testing.TB, sql string) (table Table) {
	t.Helper()
	out, err := node.Command(t, npmPackage, script, sql).Output()
	if err != nil {
		t.Fatalf("DuckDB: %v\n%s", err, sql)
	}
	if err := json.Unmarshal(out, &table); err != nil {
		t.Fatalf("DuckDB's rows: %v: %s", err, out)
	}
	return table
}
