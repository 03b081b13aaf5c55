package parquet

import (
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"culprit/output/internal/duckdb"
	"culprit/output/internal/sample"
	"culprit/output/internal/traced"
	"culprit/output/jsonl"
	"culprit/probes/snapshot"
)

// DuckDB reads the same out of both forms as was written: of each kind the count, and of each field the sum, or that of the
// strings' lengths.
func TestDuckDB(t *testing.T) {
	batches := sample.Traces(5)
	batches[0].Switches[0].PrevComm = "caf\xc3" // the first 4 of 5 bytes
	dir := write(t, true, batches...)
	lines := filepath.Join(t.TempDir(), "trace.jsonl")
	writeLines(t, lines, batches)

	var queries []string
	want := map[string]string{}
	for _, k := range traced.Kinds {
		sums := "count(*)"
		for _, f := range k.Fields() {
			switch f.Type {
			case "string":
				sums += fmt.Sprintf(", sum(strlen(%s))", f.Name)
			case "bool":
				sums += fmt.Sprintf(", count_if(%s)", f.Name)
			default:
				sums += fmt.Sprintf(", sum(%s)", f.Name)
			}
		}
		for form, table := range map[string]string{
			"parquet": fmt.Sprintf("read_parquet('%s/%s/*.parquet')", dir, k.Name),
			"jsonl":   fmt.Sprintf("lines WHERE event = '%s'", k.Name),
		} {
			queries = append(queries, fmt.Sprintf("SELECT '%s %s', concat_ws(' ', %s) FROM %s", form, k.Name, sums, table))
		}
		want["parquet "+k.Name] = sumsOf(k, batches)
		want["jsonl "+k.Name] = sumsOf(k, batches)
	}
	got := map[string]string{}
	all := fmt.Sprintf("WITH lines AS MATERIALIZED (FROM read_json('%s', sample_size = -1)) ", lines) + strings.Join(queries, " UNION ALL ")
	for _, row := range duckdb.Query(t, all) {
		got[row[0]] = row[1]
	}
	if len(got) != len(want) {
		t.Errorf("%d results, want %d", len(got), len(want))
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: DuckDB has\n%s, want\n%s", name, got[name], want[name])
		}
	}
}

// DuckDB reads the losses, and the time of day.
func TestDuckDBTables(t *testing.T) {
	dir := write(t, true, sample.Traces(5)...)
	rows := duckdb.Query(t, fmt.Sprintf(`SELECT name, max(count), count(*) FROM read_parquet('%s/loss/*.parquet') GROUP BY name ORDER BY name`, dir))
	if got, want := fmt.Sprint(rows), "[[late 2 2] [records_lost 18446744073709551615 1]]"; got != want {
		t.Errorf("losses are %s, want %s", got, want)
	}
	rows = duckdb.Query(t, fmt.Sprintf(`SELECT count(*), max(end_ns), make_timestamp_ns(max(real_time_ns)) FROM read_parquet('%s/batch/*.parquet')`, dir))
	if got, want := fmt.Sprint(rows), "[[5 7500000000 2023-11-14 22:13:22.123456789]]"; got != want {
		t.Errorf("batches are %s, want %s", got, want)
	}
}

func writeLines(t *testing.T, path string, batches []snapshot.Trace) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := jsonl.New(file)
	for _, batch := range batches {
		if err := w.Write(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// sumsOf is what the query of a kind should give.
func sumsOf(k traced.Kind, batches []snapshot.Trace) string {
	count := 0
	sums := make([]big.Int, len(k.Fields()))
	for _, batch := range batches {
		for i := range k.Len(&batch) {
			count++
			row := reflect.ValueOf(k.Row(&batch, i)).Elem()
			column := 0
			for _, f := range reflect.VisibleFields(k.Type) {
				if f.Anonymous {
					continue
				}
				var add big.Int
				switch v := row.FieldByIndex(f.Index); v.Kind() {
				case reflect.String:
					add.SetInt64(int64(len(strings.ToValidUTF8(v.String(), "\uFFFD"))))
				case reflect.Bool:
					if v.Bool() {
						add.SetInt64(1)
					}
				case reflect.Uint64:
					add.SetUint64(v.Uint())
				default:
					add.SetInt64(v.Int())
				}
				sums[column].Add(&sums[column], &add)
				column++
			}
		}
	}
	text := fmt.Sprint(count)
	for i := range sums {
		text += " " + sums[i].String()
	}
	return text
}
