package recording

import (
	"fmt"
	"path/filepath"
	"testing"

	"culprit/output/internal/duckdb"
)

// DuckDB reads the tables of a directory as one data set, with the same sums.
func TestDuckDB(t *testing.T) {
	dir := t.TempDir()
	w, other := open(t, dir), open(t, dir, func(o *Options) { o.Host = "db2" })
	var bytes, latencies, waits, stalls uint64
	for n := range 100 {
		s := at(n * 10)
		record(t, w, s)
		record(t, other, s)
		k := asKept(s)
		for _, r := range k.IO.Rows {
			bytes += 2 * r.Bytes()
			latencies += 2 * (r.ReadLatency.Total.Count() + r.WriteLatency.Total.Count())
		}
		for _, r := range k.Sched.Rows {
			waits += 2 * r.Wait()
		}
		for _, r := range k.TCP.Rows {
			for _, s := range r.Stalls {
				stalls += 2 * s.Total
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	table := func(name string) string {
		return fmt.Sprintf("read_parquet('%s', hive_partitioning = true)", filepath.Join(dir, "date=*/host=*", name+"-*.parquet"))
	}
	for _, c := range []struct {
		sql  string
		want string
	}{
		{`select sum(read_file_bytes + read_direct_bytes + read_metadata_bytes + read_swap_in_bytes + write_direct_bytes + write_writeback_bytes +
			write_journal_bytes + write_metadata_bytes + write_swap_out_bytes + discard_bytes) from ` + table("io"), fmt.Sprint(bytes)},
		{`select sum(list_sum(read_latency.count)) + sum(list_sum(write_latency.count)) from ` + table("io"), fmt.Sprint(latencies)},
		{`select sum(list_sum(list_transform(culprits, c -> c.ns))) from ` + table("sched"), fmt.Sprint(waits)},
		{`select sum(s.total_ns) from (select unnest(stalls) as s from ` + table("tcp") + `)`, fmt.Sprint(stalls)},
		{`select count(*) from ` + table("interval") + ` where host = 'db2' and "end" >= '2026-11-22 15:30:00'`, "100"},
	} {
		if got := duckdb.Query(t, c.sql); len(got) != 1 || got[0][0] != c.want {
			t.Errorf("%s\nis %v, want %s", c.sql, got, c.want)
		}
	}
}
