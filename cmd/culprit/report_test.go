package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"culprit/output/recording"
	"culprit/probes/snapshot"
)

// recordHost records 40 intervals of ten seconds from a time on, in which a host's nginx reads so much in each.
func recordHost(t *testing.T, dir, host string, begin time.Time, bytes uint64) {
	t.Helper()
	w, err := recording.Open(recording.Options{Dir: dir, Host: host})
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(40) {
		start := begin.Add(time.Duration(n) * 10 * time.Second)
		end := start.Add(10 * time.Second)
		noise := 1000 * (n * 2654435761 % 97) // which does not follow itself
		row := snapshot.IORow{Process: snapshot.Process{App: "nginx.service"}, Device: "sda", Reads: 100, ReadVia: snapshot.ReadVia{File: bytes + noise}}
		s := recording.Snapshot{IO: snapshot.IO{Start: start, End: end, Rows: []snapshot.IORow{row}},
			Sched: snapshot.Sched{Start: start, End: end}, TCP: snapshot.TCP{Start: start, End: end}}
		if err := w.Write(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// Of a directory of several hosts, a report is of all of them, or of those that are asked about; and so is what differs between two spans.
func TestReportHosts(t *testing.T) {
	dir := t.TempDir()
	begin := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for _, after := range []time.Duration{0, 2 * time.Hour} {
		recordHost(t, dir, "web1", begin.Add(after), 1<<20)
		recordHost(t, dir, "web2", begin.Add(after), 1<<20<<(after/time.Hour)) // later four times as much
	}
	recordHost(t, dir, "web3", begin, 7<<20)
	report := func(flags ...string) []byte {
		t.Helper()
		out, err := exec.Command(program(), append([]string{"report", "--dir", dir}, flags...)...).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
		}
		return out
	}
	reads := func(flags ...string) uint64 {
		t.Helper()
		line, _, _ := bytes.Cut(report(append(flags, "--json", "--until", "2026-11-20T11:00:00Z")...), []byte("\n"))
		var r struct {
			Rows []struct {
				Bytes uint64 `json:"read_bytes"`
			}
		}
		if err := json.Unmarshal(line, &r); err != nil || len(r.Rows) != 1 {
			t.Fatalf("%v: %s", err, line)
		}
		return r.Rows[0].Bytes
	}
	one := reads("--host", "web1")
	if one < 40<<20 || reads("--host", "web3") != one+40*6<<20 {
		t.Errorf("web1 has read %d, web3 %d", one, reads("--host", "web3"))
	}
	if all, two := reads(), reads("--host", "web2,web1"); two != 2*one || all != 3*one+40*6<<20 {
		t.Errorf("one has read %d, two %d, all %d", one, two, all)
	}
	if got := report("--json", "--host", "web3,web1"); bytes.Count(got, []byte(`"hosts":["web1","web3"]`)) != 3 {
		t.Errorf("not each report is of two hosts: %s", got)
	}
	told := regexp.MustCompile("(?m)^of .*$").FindAllString(string(report("--step", "1h")), -1)
	if want := []string{"of 3 hosts: web1, web2, web3", "of 2 hosts: web1, web2"}; !slices.Equal(told, want) {
		t.Errorf("it is told %q, want %q", told, want)
	}
	if got := report("--host", "web1"); bytes.Contains(got, []byte("of 1 host")) {
		t.Errorf("of one host it is told that it is one:\n%s", got)
	}
	for host, want := range map[string]string{"web1": `"rows":[]`, "web2": `"name":"nginx.service"`} {
		got := report("--json", "--diff", "--host", host, "2026-11-20T10:00:00Z..2026-11-20T11:00:00Z", "2026-11-20T12:00:00Z..2026-11-20T13:00:00Z")
		if !strings.Contains(string(got), want) {
			t.Errorf("of %s there is no %s in %s", host, want, got)
		}
	}
}
