package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tracing is a culprit trace that runs, and has attached.
type tracing struct {
	*exec.Cmd
	stderr *bytes.Buffer
}

func startTrace(t *testing.T, file string, flags ...string) tracing {
	t.Helper()
	needRoot(t)
	r := tracing{exec.Command(program(), append([]string{"trace", "-o", file}, flags...)...), new(bytes.Buffer)}
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
	TID           int32
	Comm          string
	PrevTID       int32  `json:"prev_tid"`
	PrevState     string `json:"prev_state"`
}

// lines reads up to where a file was cut.
func lines(t *testing.T, file string) (all []line) {
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
		var l line
		if err := json.Unmarshal(each, &l); err != nil {
			t.Fatalf("%s: %v", each, err)
		}
		all = append(all, l)
	}
	return all
}

var audited = regexp.MustCompile(`audit: ([\d,]+) context switches by the kernel's count, ([\d,]+) traced, residual (-?\d+), skew (\d+)`)
var hidden = regexp.MustCompile(`(unseen_switches|events_missed)=(\d+)`)

// balance holds a trace's switches against the kernel's count.
func (r tracing) balance(t *testing.T) {
	t.Helper()
	found := audited.FindStringSubmatch(r.stderr.String())
	if found == nil {
		t.Fatalf("no audit: %s", r.stderr)
	}
	residual, _ := strconv.Atoi(found[3])
	skew, _ := strconv.Atoi(found[4])
	unseen := 0
	for _, h := range hidden.FindAllStringSubmatch(r.stderr.String(), -1) {
		n, _ := strconv.Atoi(h[2])
		unseen += n
	}
	// Of switches that a kernel hides in a row, one shows.
	if residual < -skew || residual > 10*unseen {
		t.Errorf("residual %d, skew %d, %d switches unseen", residual, skew, unseen)
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
		if len(begun) != count || len(slept) != count {
			t.Errorf("%s: %d sleeps were executed and %d slept, want %d", ending, len(begun), len(slept), count)
		}
	}
}

// What was written until culprit is killed can be read.
func TestTraceIsKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.jsonl.gz")
	trace := startTrace(t, file)
	time.Sleep(1500 * time.Millisecond)
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
