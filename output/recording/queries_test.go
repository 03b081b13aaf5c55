package recording

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"culprit/output/internal/duckdb"
	"culprit/output/internal/golden"
	"culprit/probes/snapshot"
)

const millisecond = uint64(time.Millisecond)

// latencies is a distribution of so many around a duration, one in 50 of them twenty times as long.
func latencies(n, ns uint64) (h snapshot.Histogram) {
	for i := range n {
		v := ns + i*ns/n
		if i%50 == 49 {
			v *= 20
		}
		lower, upper := snapshot.BucketBounds(snapshot.BucketOf(v))
		h = h.Merge(snapshot.Histogram{Buckets: []snapshot.Bucket{{Lower: lower, Upper: upper, Count: 1}}, Sum: v, Max: v})
	}
	return h
}

// fleetInterval is the n-th interval of a host on a day. On the second day, db1's backup writes three times as much, and makes the database wait.
func fleetInterval(host string, day, n int, start time.Time, length time.Duration) Snapshot {
	end := start.Add(length)
	process := func(app, comm string, pid int) snapshot.Process {
		return snapshot.Process{App: app, PID: pid, Started: begin.AddDate(0, 0, -9), Comm: comm, Exe: "/usr/bin/" + comm, Unit: app, User: comm}
	}
	postgres, backup, nginx := process("postgresql.service", "postgres", 812), process("backup.service", "tar", 2047), process("nginx.service", "nginx", 990)
	load, busy := uint64(100+n%7), uint64(1)
	if host == "db1" && day == 1 {
		busy = 3
	}
	s := Snapshot{IO: snapshot.IO{Start: start, End: end}, Sched: snapshot.Sched{Start: start, End: end},
		TCP: snapshot.TCP{Start: start, End: end, MinStall: 5 * millisecond}}
	disk := snapshot.IODevice{Device: "nvme0n1"}
	write := func(p snapshot.Process, via snapshot.WriteVia, ns uint64) {
		writes := via.Direct>>16 + via.Writeback>>18 + 50
		row := snapshot.IORow{Process: p, Device: disk.Device, Reads: load, Writes: writes, ReadVia: snapshot.ReadVia{File: load << 13}, WriteVia: via,
			ReadLatency: snapshot.IOLatency{Total: latencies(load, ns/2)}, WriteLatency: snapshot.IOLatency{Total: latencies(writes, ns)}}
		disk.Ours.Reads += row.Reads
		disk.Ours.Writes += row.Writes
		disk.Ours.ReadBytes += row.ReadBytes()
		disk.Ours.WriteBytes += row.WriteBytes()
		s.IO.Rows = append(s.IO.Rows, row)
	}
	run := func(p snapshot.Process, cpu, wait uint64, because ...snapshot.Culprit) {
		row := snapshot.SchedRow{Process: p, Threads: 4, Switches: 40 * load, OnCPU: cpu, Culprits: because, Latency: latencies(load, wait/load)}
		row.KernelWait = row.Wait()
		s.Sched.Kernel.WaitNS += row.Wait()
		s.Sched.Kernel.KernelWaitNS += row.Wait()
		s.Sched.Rows = append(s.Sched.Rows, row)
	}
	of := func(p snapshot.Process, ns uint64) snapshot.Culprit { return snapshot.Culprit{Process: p, NS: ns} }
	write(backup, snapshot.WriteVia{Writeback: busy * load << 18, Journal: 4096 * busy}, 4*millisecond*busy)
	if host == "db1" {
		run(backup, 900*busy*load*millisecond, 30*load*millisecond, of(postgres, 30*load*millisecond))
		write(postgres, snapshot.WriteVia{Direct: load << 16, Writeback: load << 14}, millisecond*busy)
		run(postgres, 500*load*millisecond, 90*busy*load*millisecond, of(backup, 80*busy*load*millisecond),
			of(snapshot.Process{App: snapshot.Softirqs}, 10*busy*load*millisecond))
		s.TCP.Rows = append(s.TCP.Rows, snapshot.TCPRow{
			Process: postgres, TCPTraffic: snapshot.TCPTraffic{Sent: load << 17, Received: load << 12}, Accepted: load, RTT: latencies(load, millisecond/5),
			Stalls: []snapshot.TCPStalls{{Cause: snapshot.ReaderNotScheduled, Count: load, Total: busy * load * 9 * millisecond, Max: busy * 20 * millisecond}}})
		if n%6 == 0 {
			s.Sched.Worst = []snapshot.SchedWait{{Process: postgres, TID: 815, At: start.Add(time.Second), CPU: 3, Wait: busy * load * millisecond,
				Ran: []snapshot.SchedRan{{Process: backup, TID: 2047, NS: busy * load * millisecond}}}}
		}
	} else {
		run(backup, 900*load*millisecond, 3*load*millisecond, of(nginx, 3*load*millisecond))
		run(nginx, 200*load*millisecond, 2*load*millisecond, of(backup, 2*load*millisecond))
		s.TCP.Rows = append(s.TCP.Rows, snapshot.TCPRow{
			Process: nginx, TCPTraffic: snapshot.TCPTraffic{Sent: load << 18, Received: load << 14, Retransmits: 2}, RTT: latencies(load, 8*millisecond),
			Stalls: []snapshot.TCPStalls{{Cause: snapshot.RTO, Count: 2, Total: 404 * millisecond, Max: (200 + uint64(n)) * millisecond},
				{Cause: snapshot.ZeroWindow, Count: 1, Total: 70 * millisecond, Max: 70 * millisecond}}})
		s.TCP.Worst = []snapshot.TCPStall{{Process: nginx, Cause: snapshot.RTO, At: start.Add(time.Minute), Duration: (200 + uint64(n)) * millisecond,
			Local: netip.MustParseAddrPort("192.0.2.80:443"), Remote: netip.MustParseAddrPort("198.51.100.7:60404"), Waiting: 1448}}
	}
	disk.Kernel = disk.Ours
	s.TCP.Kernel = []snapshot.TCPCounter{{Name: "RetransSegs", Ours: 2, Kernel: 2}}
	if host == "web1" && day == 1 { // books that do not balance, each once
		switch n {
		case 4:
			disk.Kernel.WriteBytes += 4096
		case 5:
			s.Sched.Kernel.KernelWaitNS += 1234
		case 6:
			s.TCP.Kernel[0].Kernel += 3
		case 7:
			s.TCP.Loss = []snapshot.Loss{{Name: "connections_full", Count: 17}}
		}
	}
	s.IO.Devices = []snapshot.IODevice{disk}
	return s
}

// recordFleet makes recordings of two hosts over three hours of two days, of which one lacks ten minutes.
func recordFleet(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const length = 5 * time.Minute
	for _, host := range []string{"db1", "web1"} {
		w := open(t, dir, func(o *Options) { o.Host, o.Version = host, "v1.2.0" })
		for day := range 2 {
			for n := range 36 {
				if host == "db1" && day == 1 && (n == 20 || n == 21) {
					continue
				}
				start := time.Date(2026, 11, 21+day, 9, 0, 0, 0, time.UTC).Add(time.Duration(n)*length - time.Second)
				record(t, w, fleetInterval(host, day, n, start, length))
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// wanted are the numbers that follow the names in a query's rows, by these names.
type wanted map[string][]float64

func (w wanted) add(names string, of ...float64) {
	if w[names] == nil {
		w[names] = make([]float64, len(of))
	}
	for i, n := range of {
		w[names][i] += n
	}
}

// most is the greatest, in place of the sum.
func (w wanted) most(names string, column int, n float64) {
	w[names][column] = max(w[names][column], n)
}

// fleetWanted is what recording.Read says to queries of the page, by their titles. Times are in the unit of the query.
func fleetWanted(t *testing.T, dir string) map[string]wanted {
	t.Helper()
	out := map[string]wanted{}
	of := func(title string) wanted {
		if out[title] == nil {
			out[title] = wanted{}
		}
		return out[title]
	}
	writes := map[string]snapshot.Histogram{}
	intervals, _ := all(t, dir)
	for _, i := range intervals {
		date := i.IO.End.Format(time.DateOnly)
		hour := i.Host + " " + i.IO.End.Truncate(time.Hour).Format("2006-01-02 15:04:05+00")
		for _, r := range i.IO.Rows {
			of("Bytes per application, host and day").add(date+" "+i.Host+" "+r.App, float64(r.ReadBytes()), float64(r.WriteBytes()))
			if date == "2026-11-22" && r.WriteVia.Writeback > 0 {
				of("Who caused the writeback on a disk").add(i.Host+" "+r.App, float64(r.WriteVia.Writeback))
			}
			if r.App == "postgresql.service" {
				of("What an application did, hour by hour").add(hour, float64(r.WriteBytes()), 0, 0, 0, 0)
			}
			writes[r.App] = writes[r.App].Merge(r.WriteLatency.Total)
		}
		for _, r := range i.Sched.Rows {
			for _, c := range r.Culprits {
				of("Who waited for a CPU, and because of whom").add(i.Host+" "+r.App+" "+c.App, float64(c.NS)/1e9)
			}
			if r.App == "postgresql.service" {
				of("What an application did, hour by hour").add(hour, 0, float64(r.OnCPU)/1e9, float64(r.Wait())/1e9, 0, 0)
			}
		}
		for _, r := range i.TCP.Rows {
			for _, s := range r.Stalls {
				names := i.Host + " " + r.App + " " + string(s.Cause)
				of("What stalled TCP").add(names, float64(s.Count), float64(s.Total)/1e9, 0)
				of("What stalled TCP").most(names, 2, float64(s.Max)/1e6)
			}
			if r.App == "postgresql.service" {
				of("What an application did, hour by hour").add(hour, 0, 0, 0, float64(r.Sent), float64(r.Received))
			}
		}
	}
	for app, h := range writes {
		of("How long writes took, over all hosts").add(app, float64(h.Count()), float64(h.Quantile(0.5))/1e6, float64(h.Quantile(0.99))/1e6, float64(h.Max)/1e6)
	}
	out["Which intervals do not balance"] = wanted{
		"web1 2026-11-22 09:24:59+00 bytes on nvme0n1":           {4096},
		"web1 2026-11-22 09:29:59+00 ns of waits":                {1234},
		"web1 2026-11-22 09:34:59+00 RetransSegs":                {3},
		"web1 2026-11-22 09:39:59+00 lost: tcp connections_full": {17},
		"db1 2026-11-22 10:54:59+00 s without a recording":       {600},
		"db1 2026-11-22 09:04:59+00 s without a recording":       {21 * 3600},
		"web1 2026-11-22 09:04:59+00 s without a recording":      {21 * 3600},
	}
	return out
}

// compare holds a query's rows to these numbers, as far as it rounds them: three digits.
func (w wanted) compare(t *testing.T, rows [][]string) {
	t.Helper()
	if len(rows) != len(w) {
		t.Errorf("it has %d rows, want %d", len(rows), len(w))
	}
	for _, row := range rows {
		for names, numbers := range w {
			n := strings.Count(names, " ") + 1
			for n > 0 && strings.Join(row[:min(n, len(row))], " ") != names { // names can have blanks
				n--
			}
			if n == 0 {
				continue
			}
			for i, want := range numbers {
				if got, err := strconv.ParseFloat(row[n+i], 64); err != nil || math.Abs(got-want) > 0.000501 {
					t.Errorf("of %s it has %q, want %v", names, row[n+i], want)
				}
			}
			row = nil
			break
		}
		if row != nil {
			t.Errorf("nothing is known of %q", row)
		}
	}
}

// shown is a table as the page has it.
func shown(table duckdb.Table) string {
	const most = 8
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(table.Columns, "\t"))
	for _, row := range table.Rows[:min(len(table.Rows), most)] {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	if more := len(table.Rows) - most; more > 0 {
		fmt.Fprintf(&out, "… %d more\n", more)
	}
	return out.String()
}

// Every query of the page runs in DuckDB, gives what the page shows, and what recordings say when they are read by what wrote them.
// With -update, the page shows what they give now.
func TestQueries(t *testing.T) {
	const path = "../../deploy/QUERIES.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := recordFleet(t)
	want := fleetWanted(t, dir)
	const sql, fence = "sql\n", "```"
	parts := strings.Split(string(page), fence) // every other one is code
	var before, title string
	queries := 0
	for i := range parts {
		if at := strings.LastIndex(parts[i], "\n## "); i%2 == 0 && at >= 0 {
			title, _, _ = strings.Cut(parts[i][at+len("\n## "):], "\n")
		}
		query, ok := strings.CutPrefix(parts[i], sql)
		if i%2 == 0 || !ok {
			continue
		}
		if before == "" {
			if before = strings.ReplaceAll(query, "/var/lib/culprit", dir); before == query {
				t.Fatalf("the first block is not of a directory:\n%s", query)
			}
			continue
		}
		queries++
		t.Run(title, func(t *testing.T) {
			got := duckdb.Run(t, before+query)
			if len(got.Rows) == 0 {
				t.Error("it gives nothing")
			}
			if w, ok := want[title]; ok {
				w.compare(t, got.Rows)
				delete(want, title)
			}
			if parts[i+1] != "\n\n" || !strings.HasPrefix(parts[i+2], "\n") {
				t.Fatal("its output does not follow it")
			}
			parts[i+2] = "\n" + shown(got)
		})
	}
	if queries < 8 {
		t.Errorf("the page has %d queries", queries)
	}
	for title := range want {
		t.Errorf("there is no query called %q", title)
	}
	// What is of other days and hosts is not opened, but the first for its columns.
	others, err := filepath.Glob(filepath.Join(dir, "date=2026-11-21", "host=*", "io-*"))
	if err != nil || len(others) < 2 {
		t.Fatal(others, err)
	}
	for _, path := range others[1:] {
		if err := os.WriteFile(path, []byte("no table"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := duckdb.Query(t, before+"select count(*) > 0 from culprit('io') where date = '2026-11-22' and host = 'db1'"); got[0][0] != "true" {
		t.Errorf("there is nothing of a day and a host: %v", got)
	}
	if !t.Failed() {
		golden.Check(t, filepath.Join("..", "..", "deploy", "QUERIES.md"), []byte(strings.Join(parts, fence)))
	}
}
