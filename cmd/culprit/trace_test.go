package main

import (
	"bytes"
	"compress/gzip"
	"culprit/output/perfetto"
	"culprit/output/perfetto/processor"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// tracing is a culprit trace that runs, and has attached.
type tracing struct {
	*exec.Cmd
	stderr *bytes.Buffer
	said   string // a file with that, of a recorder
}

func startTrace(t *testing.T, file string, flags ...string) tracing {
	t.Helper()
	needRoot(t)
	r := tracing{exec.Command(program(), append([]string{"trace", "-o", file}, flags...)...), new(bytes.Buffer), ""}
	r.Stderr = r.stderr
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Process.Kill()
		r.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no %s after a minute: %s", file, r.stderr)
		}
	}
}

// end is Ctrl-C.
func (r tracing) end(t *testing.T) {
	t.Helper()
	if err := r.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(); err != nil {
		t.Fatalf("culprit trace: %v\n%s", err, r.stderr)
	}
	t.Logf("%s", r.stderr)
}

// line is what the tests look at of an event.
type line struct {
	Schema, Event string
	At            int64 `json:"at_ns"`
	CPU           int32
	TID           int32
	Comm          string
	PrevTID       int32  `json:"prev_tid"`
	PrevComm      string `json:"prev_comm"`
	PrevState     string `json:"prev_state"`
	Queued        int64  `json:"queue_ns"`
	InDevice      int64  `json:"device_ns"`
}

// lines reads up to where a file was cut.
func lines(t *testing.T, file string) (all []line) {
	t.Helper()
	for _, each := range wholeLines(t, file) {
		var l line
		if err := json.Unmarshal(each, &l); err != nil {
			t.Fatalf("%s: %v", each, err)
		}
		all = append(all, l)
	}
	return all
}

func wholeLines(t *testing.T, file string) (all [][]byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	text, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	for each := range bytes.Lines(text) {
		if !bytes.HasSuffix(each, []byte("\n")) {
			break
		}
		all = append(all, each)
	}
	return all
}

var audited = regexp.MustCompile(`audit: ([\d,]+) context switches by the kernel's count, ([\d,]+) traced, residual (-?\d+), skew (\d+)`)
var unseen = regexp.MustCompile(`(unseen_switches|events_missed)=(\d+)`)

// hidden is how many switches are known to have reached no program.
func (r tracing) hidden() (sum int) {
	for _, h := range unseen.FindAllStringSubmatch(r.stderr.String(), -1) {
		n, _ := strconv.Atoi(h[2])
		sum += n
	}
	return sum
}

// balance holds a trace's switches against the kernel's count.
func (r tracing) balance(t *testing.T) {
	t.Helper()
	found := audited.FindStringSubmatch(r.stderr.String())
	if found == nil {
		t.Fatalf("no audit: %s", r.stderr)
	}
	residual, _ := strconv.Atoi(found[3])
	skew, _ := strconv.Atoi(found[4])
	// Of switches that a kernel hides in a row, one shows, and of those at the end none.
	if hidden := r.hidden(); residual < -skew || residual > 10*hidden+2*runtime.NumCPU() {
		t.Errorf("residual %d, skew %d, %d switches hidden", residual, skew, hidden)
	}
	if strings.Contains(r.stderr.String(), "overwritten") {
		t.Error("events were lost")
	}
}

// A trace holds what happened, and its books balance.
func TestTrace(t *testing.T) {
	for _, ending := range []string{"jsonl", "jsonl.gz"} {
		file := filepath.Join(t.TempDir(), "t."+ending)
		trace := startTrace(t, file)
		const count = 20
		sleeper := exec.Command("sh", "-c", fmt.Sprintf("for i in $(seq %d); do sleep 0.02; done", count))
		if out, err := sleeper.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		trace.end(t)
		trace.balance(t)
		begun, slept := map[int32]bool{}, map[int32]bool{}
		all := lines(t, file)
		if all[0].Schema != "culprit.trace/1" {
			t.Errorf("it begins with %+v", all[0])
		}
		for _, l := range all {
			if l.Event == "process.exec" && l.Comm == "sleep" {
				begun[l.TID] = true
			}
			if l.Event == "sched.switch" && begun[l.PrevTID] && l.PrevState == "S" {
				slept[l.PrevTID] = true
			}
		}
		if len(begun) < count || len(slept) < count { // others sleep, too
			t.Errorf("%s: %d sleeps were executed and %d slept, want %d", ending, len(begun), len(slept), count)
		}
	}
}

// What was written until culprit is killed can be read.
func TestTraceIsKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.jsonl.gz")
	trace := startTrace(t, file)
	time.Sleep(2500 * time.Millisecond)
	if err := trace.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	trace.Wait()
	all := lines(t, file)
	first, last := int64(math.MaxInt64), int64(0)
	for _, l := range all {
		if l.At > 0 {
			first, last = min(first, l.At), max(last, l.At)
		}
	}
	if span := time.Duration(last - first); span < time.Second {
		t.Errorf("%d lines of %v are left", len(all), span)
	}
}

// A full disk ends a trace with an error, and with a file that can be read.
func TestTraceFillsTheDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("culprit-test", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(dir, "t.jsonl")
	trace := startTrace(t, file, "--duration", "1m")
	ended := make(chan error)
	go func() { ended <- trace.Wait() }()
	var err error
	for over := false; !over; {
		select {
		case err = <-ended:
			over = true
		default:
			exec.Command("true").Run()
		}
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitRefused || !strings.Contains(trace.stderr.String(), "no space left on device") {
		t.Errorf("culprit trace: %v\n%s", err, trace.stderr)
	}
	if strings.Count(trace.stderr.String(), "no space left") != 1 {
		t.Errorf("said more than once:\n%s", trace.stderr)
	}
	text, err := os.ReadFile(file)
	if err != nil || !bytes.HasSuffix(text, []byte("\n")) || len(lines(t, file)) < 100 {
		t.Errorf("%d bytes are left (%v), which end in %q", len(text), err, text[max(0, len(text)-20):])
	}
}

// A reader that goes away ends it, too.
func TestTraceToPipe(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("bash", "-c", program()+" trace -o - --format jsonl --duration 1m | head -1; exit ${PIPESTATUS[0]}")
	begin := time.Now()
	out, err := cmd.Output()
	if err != nil || !bytes.Contains(out, []byte(`"schema":"culprit.trace/1"`)) || time.Since(begin) > 30*time.Second {
		t.Errorf("%v after %v: %s", err, time.Since(begin), out)
	}
}

// slice is a span in which a thread had a CPU.
type slice struct {
	end, ran time.Duration // end: CLOCK_MONOTONIC
	cpu      int64
}

var switchRow = regexp.MustCompile(`^ *\[(\d+)\] +(\d+)\.(\d{9}):.* prev_pid=(\d+) .* next_comm=(.*) next_pid=(\d+) `)

// perfSlices are those of each thread that had one of these names, from the switches that perf has. It lacks some: then the next switch on a
// CPU is not by who came on it, and perf sched timehist takes the time since the last switch for that one's.
func perfSlices(t *testing.T, file string, comms ...string) map[int64][]slice {
	t.Helper()
	out, err := exec.Command("perf", "script", "--ns", "-i", file, "-F", "cpu,time,event,trace").Output()
	if err != nil {
		t.Fatal(err)
	}
	type run struct {
		tid   int64
		since time.Duration
	}
	on, all, named := map[int64]run{}, map[int64][]slice{}, map[int64]bool{}
	for row := range strings.Lines(string(out)) {
		f := switchRow.FindStringSubmatch(row)
		if f == nil {
			continue
		}
		var n [7]int64
		for _, i := range []int{1, 2, 3, 4, 6} {
			n[i], _ = strconv.ParseInt(f[i], 10, 64)
		}
		cpu, at, prev, next := n[1], time.Duration(n[2])*time.Second+time.Duration(n[3]), n[4], n[6]
		if was, known := on[cpu]; known && was.tid == prev {
			all[prev] = append(all[prev], slice{at, at - was.since, cpu})
		}
		on[cpu] = run{next, at}
		named[next] = named[next] || slices.Contains(comms, f[5])
	}
	maps.DeleteFunc(all, func(tid int64, _ []slice) bool { return !named[tid] })
	return all
}

// startPerf has perf record switches, in buffers that hold all of them: it gets no CPU now and then.
func startPerf(t *testing.T, file string) (stop func()) {
	t.Helper()
	perf := exec.Command("perf", "sched", "record", "-q", "-m", "16384", "-k", "CLOCK_MONOTONIC", "-o", file)
	perf.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := perf.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-perf.Process.Pid, syscall.SIGKILL)
		perf.Wait()
	})
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("perf does not begin")
		}
	}
	time.Sleep(time.Second)
	return func() {
		perf.Process.Signal(os.Interrupt)
		perf.Wait() // its status tells of the signal
	}
}

// slept is how much CLOCK_BOOTTIME is ahead of perf's clock, for which perf takes no CLOCK_BOOTTIME.
func slept(t *testing.T) time.Duration {
	t.Helper()
	var ahead time.Duration
	least := time.Duration(math.MaxInt64)
	for range 100 {
		var before, boot, after unix.Timespec
		for _, c := range []struct {
			id   int32
			time *unix.Timespec
		}{{unix.CLOCK_MONOTONIC, &before}, {unix.CLOCK_BOOTTIME, &boot}, {unix.CLOCK_MONOTONIC, &after}} {
			if err := unix.ClockGettime(c.id, c.time); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Duration(after.Nano() - before.Nano()); took < least {
			least, ahead = took, time.Duration(boot.Nano()-before.Nano())-took/2
		}
	}
	return ahead
}

// The timeline, as Perfetto's own trace processor reads it, is perf's.
func TestTraceIsATimeline(t *testing.T) {
	needRoot(t)
	const precision = 10 * time.Microsecond
	events, file := filepath.Join(t.TempDir(), "events"), filepath.Join(t.TempDir(), "t.pftrace.gz")
	stop := startPerf(t, events)
	trace := startTrace(t, file)
	for _, load := range []string{"for i in $(seq 50); do sleep 0.01; done", "perf bench sched pipe -l 20000"} {
		if out, err := exec.Command("sh", "-c", load).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	trace.end(t)
	stop()
	trace.balance(t)
	hidden := trace.hidden()
	theirs := perfSlices(t, events, "sleep", "sched-pipe")
	ours, slept := map[int64][]slice{}, slept(t)
	timeline := processor.Start(t)
	for _, row := range timeline.Query(t, file, "select s.ts, s.dur, s.cpu, t.tid from sched s join thread t using (utid) order by s.ts") {
		dur := time.Duration(row["dur"].(int64))
		tid := row["tid"].(int64)
		ours[tid] = append(ours[tid], slice{time.Duration(row["ts"].(int64)) + dur - slept, dur, row["cpu"].(int64)})
	}
	// Two tracers see a switch one after the other, and hold each other up, or their machine does: some then have other times, but are there.
	var all, missing, different int
	for tid, theirs := range theirs {
		ours := ours[tid]
		for _, their := range theirs {
			all++
			i := slices.IndexFunc(ours, func(s slice) bool { return s.cpu == their.cpu && s.end-their.end > -precision })
			if i < 0 || ours[i].end-their.end > time.Millisecond {
				if missing++; missing > hidden {
					t.Errorf("thread %d has no such slice as perf: %+v", tid, their)
				}
				continue
			}
			if (ours[i].end-their.end).Abs() > precision || (ours[i].ran-their.ran).Abs() > precision {
				different++
			}
			ours = ours[i+1:]
		}
	}
	if different > all/200+hidden {
		t.Errorf("of %d slices, %d have other times than perf's", all, different)
	}
	t.Logf("%d slices of %d threads, of which %d are missing and %d differ by more than %v from perf's; %d switches were hidden",
		all, len(theirs), missing, different, precision, hidden)
	if all < 10_000 || len(theirs) < 30 { // perf may lack half of them
		t.Errorf("only %d slices of %d threads", all, len(theirs))
	}
	for _, row := range timeline.Query(t, file, "select name, value from stats where severity = 'error' and value > 0") {
		if row["name"] != "mismatched_sched_switch_tids" || row["value"].(int64) > int64(hidden) {
			t.Errorf("the trace processor has errors: %v", row)
		}
	}
}

// timelineLines are how often a file has each line, but for those of events that no timeline has.
func timelineLines(t *testing.T, file string) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, each := range wholeLines(t, file) {
		var l line
		if err := json.Unmarshal(each, &l); err != nil {
			t.Fatalf("%s: %v", each, err)
		}
		if !slices.Contains(perfetto.Lacks, l.Event) {
			n[string(each)]++
		}
	}
	return n
}

// The formats of one trace hold the same events.
func TestTraceConverts(t *testing.T) {
	dir := t.TempDir()
	name := func(ending string) string { return filepath.Join(dir, "t."+ending) }
	trace := startTrace(t, name("jsonl.gz"))
	if out, err := exec.Command("sh", "-c", "for i in $(seq 20); do sleep 0.01; done").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	trace.end(t)
	said := map[string]bool{}
	for _, c := range []struct{ from, to string }{
		{"jsonl.gz", "parquet"}, {"parquet", "jsonl"}, {"jsonl.gz", "pftrace"}, {"pftrace", "back.jsonl"}, {"back.jsonl", "pftrace.gz"}, {"pftrace.gz", "again.jsonl"},
	} {
		out, err := exec.Command(program(), "convert", name(c.from), name(c.to)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		events, lacks, _ := strings.Cut(string(out), "\n")
		want := ""
		if strings.HasPrefix(c.from, "pftrace") {
			want = name(c.from) + ": a timeline has no io.queue, io.issue, io.merge\n"
		} else if c.to != "pftrace.gz" { // of all events
			_, events, _ = strings.Cut(events, ": ")
			said[events] = true
		}
		if lacks != want {
			t.Errorf("converting %s says %q, want %q", c.from, lacks, want)
		}
	}
	if len(said) != 1 {
		t.Errorf("as many events in each: %v", said)
	}
	counts := func(ending string) map[string]int {
		n := map[string]int{}
		for _, l := range lines(t, name(ending)) {
			if l.At != 0 {
				n[l.Event]++
			}
		}
		return n
	}
	first, twice := counts("jsonl.gz"), counts("jsonl")
	if len(first) < 5 || !maps.Equal(first, twice) {
		t.Errorf("%v became %v", first, twice)
	}
	for _, ending := range []string{"back.jsonl", "again.jsonl"} {
		got, want := timelineLines(t, name(ending)), timelineLines(t, name("jsonl.gz"))
		if len(got) != len(want) {
			t.Errorf("%d lines became %d by way of a timeline", len(want), len(got))
		}
		for line := range want {
			if got[line] != want[line] {
				t.Errorf("by way of a timeline, there is %d times\n%s, want %d", got[line], line, want[line])
				break
			}
		}
	}
	rows := processor.Start(t).Query(t, name("pftrace"), "select count(*) as n from sched")
	t.Logf("%v; %v slices", first, rows)
	if n := rows[0]["n"].(int64); n < int64(first["sched.switch"]) {
		t.Errorf("%d slices of %d switches", n, first["sched.switch"])
	}
}

var auditedRequests = regexp.MustCompile(`audit: ([\d,]+) requests to disks completed by the kernel's count, ([\d,]+) traced, residual (-?\d+)`)

// Each request that the kernel counts is one slice, as long as it took, although requests overlap.
func TestTraceRequests(t *testing.T) {
	file, converted := filepath.Join(t.TempDir(), "t.jsonl"), filepath.Join(t.TempDir(), "t.pftrace")
	trace := startTrace(t, file, "-e", "io.queue,io.issue,io.merge,io.complete,process.begin,process.exec,process.end")
	fio := exec.Command("fio", "--name=job", "--directory="+t.TempDir(), "--size=32m", "--direct=1", "--output=/dev/null",
		"--ioengine=libaio", "--iodepth=16", "--rw=randrw", "--bsrange=4k-64k")
	if out, err := fio.CombinedOutput(); err != nil {
		t.Fatalf("fio: %v: %s", err, out)
	}
	trace.end(t)
	found := auditedRequests.FindStringSubmatch(trace.stderr.String())
	if found == nil {
		t.Fatalf("no audit: %s", trace.stderr)
	}
	var ends []string
	sum := int64(0)
	for _, l := range lines(t, file) {
		if l.Event == "io.complete" {
			sum += l.Queued + l.InDevice
			ends = append(ends, fmt.Sprint(l.At-l.Queued-l.InDevice, " ", l.Queued+l.InDevice))
		}
	}
	residual, _ := strconv.Atoi(found[3])
	// Some kernels hide events, of which a completion is found out later, and a flush is not.
	hides := strings.Contains(trace.stderr.String(), "unseen_completions")
	if found[2] != humanize.Comma(int64(len(ends))) || len(ends) < 500 || residual < 0 || residual > 2 && !hides {
		t.Errorf("%d requests are in the file: %s", len(ends), found[0])
	}
	if out, err := exec.Command(program(), "convert", file, converted).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	timeline := processor.Start(t)
	var drawn []string
	for _, row := range timeline.Query(t, converted, "select ts || ' ' || dur as slice from slice where category = 'io.complete'") {
		drawn = append(drawn, row["slice"].(string))
	}
	slices.Sort(ends)
	slices.Sort(drawn)
	if !slices.Equal(ends, drawn) {
		t.Errorf("%d slices are not the %d requests", len(drawn), len(ends))
	}
	overlap := timeline.Query(t, converted, `select count(*) as n from slice a join slice b on a.ts < b.ts and b.ts < a.ts + a.dur
		where a.category = 'io.complete' and b.category = 'io.complete'`)[0]["n"].(int64)
	arrows := timeline.Query(t, converted, `select count(*) as n from flow join slice on slice.id = slice_in join slice begin on begin.id = slice_out
		join thread_track on thread_track.id = begin.track_id join thread using (utid) where thread.name = 'fio' and slice.category = 'io.complete'`)[0]["n"].(int64)
	t.Logf("%d requests, %v altogether, %d pairs overlap, %d arrows from fio's threads", len(ends), time.Duration(sum), overlap, arrows)
	if overlap < 100 || arrows < 500 {
		t.Errorf("%d pairs of requests overlap, %d arrows come from fio's threads", overlap, arrows)
	}
	bad := "'error', 'data_loss'"
	if hides { // which is a loss
		bad = "'error'"
	}
	for _, row := range timeline.Query(t, converted, "select name, value from stats where severity in ("+bad+") and value > 0") {
		t.Errorf("the timeline has an error: %v", row)
	}
}

// It takes the two capabilities, and no more.
func TestTraceByAnOrdinaryUser(t *testing.T) {
	needRoot(t)
	for _, u := range callers(t)[1:] {
		t.Run(u.name, func(t *testing.T) {
			out, err := u.command("trace", "-o", "-", "--format", "jsonl", "--duration", "0.5s").Output()
			if err != nil || !bytes.Contains(out, []byte(`"event":"sched.switch"`)) {
				t.Errorf("culprit trace: %v\n%.1000s", err, out)
			}
		})
	}
}
