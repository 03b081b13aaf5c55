package main

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startRecorder starts culprit trace as a flight recorder, and waits until it records.
func startRecorder(t *testing.T, file string, flags ...string) tracing {
	t.Helper()
	needRoot(t)
	said, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	r := tracing{exec.Command(program(), append([]string{"trace", "-o", file}, flags...)...), new(bytes.Buffer), said.Name()}
	r.Stderr = said
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Process.Kill()
		r.Wait()
		text, _ := os.ReadFile(said.Name())
		t.Logf("%s", text)
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if text, _ := os.ReadFile(said.Name()); bytes.Contains(text, []byte("recording")) {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not record after a minute")
		}
	}
}

// occupy has a CPU for itself for so long, or somewhat longer, and says from when on.
func occupy(t *testing.T, cpu int, comm string, span time.Duration) (at int64) {
	t.Helper()
	work := bytes.Repeat([]byte{1}, 1<<20) // memory that is there
	begin := time.Now()
	if _, err := unix.Getrandom(work, 0); err != nil {
		t.Fatal(err)
	}
	work = bytes.Repeat(work, int(span*3/2/time.Since(begin)+1))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile("/proc/thread-self/comm", []byte(comm), 0); err != nil {
			t.Error(err)
		}
		attributes := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		if err := unix.SchedSetAttr(0, &attributes, 0); err != nil {
			t.Error(err)
		}
		var now unix.Timespec
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
		at = now.Nano()
		// In the kernel: of what computes longer than 10 ms in user space, Go's scheduler takes the CPU away.
		if n, err := unix.Getrandom(work, 0); err != nil || n < len(work) {
			t.Errorf("%d of %d bytes: %v", n, len(work), err)
		}
	}()
	<-done
	return at
}

// A wait that is too long leaves a file with what came before, with who waited and with who had the CPU.
func TestTraceTrigger(t *testing.T) {
	const cpu = 1
	dir := t.TempDir()
	recorder := startRecorder(t, filepath.Join(dir, "t.jsonl"), "--trigger", "sched.wait>20ms", "--ring", "16MiB")
	inBackground(t, exec.Command("taskset", "-c", "1", "sh", "-c", "while :; do sleep 0.005; done"))
	time.Sleep(2 * time.Second)
	var began int64
	var files []string
	for try := 1; len(files) == 0; try++ {
		if try > 5 {
			t.Fatal("there is no file")
		}
		// Go's scheduler, or the kernel for kernel threads, can take the CPU away, and then nobody waits for so long.
		began = occupy(t, cpu, "occupier", 30*time.Millisecond)
		time.Sleep(2 * time.Second)
		var err error
		if files, err = filepath.Glob(filepath.Join(dir, "t-*.jsonl")); err != nil {
			t.Fatal(err)
		}
	}
	recorder.end(t)
	for _, file := range files {
		var before, occupied, waited bool
		for _, l := range lines(t, file) {
			if l.Event != "sched.switch" {
				continue
			}
			before = before || l.At < began-1e9
			occupied = occupied || l.PrevComm == "occupier" && l.At > began+25e6
			// The shell or its sleep had the CPU until then, or would have had it 5 ms later.
			waited = waited || occupied && l.CPU == cpu && (l.PrevComm == "sleep" || l.PrevComm == "sh") && l.At < began+100e6
		}
		if before && occupied && waited {
			return
		}
		t.Logf("%s: what came before %t, who had the CPU %t, who waited %t", file, before, occupied, waited)
	}
	t.Error("no file holds all of it")
}

// However often it triggers, no more files are left than are wanted. SIGUSR1 writes one, too.
func TestTraceLimitsFiles(t *testing.T) {
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGUSR2)
	defer signal.Stop(ignored)
	dir := t.TempDir()
	recorder := startRecorder(t, filepath.Join(dir, "t.pftrace"), "--trigger", "signal=USR2", "--after", "0s", "--files", "3", "--ring", "1MiB", "-e", "signal")
	for i := range 10_000 {
		if err := unix.Kill(os.Getpid(), unix.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(300 * time.Millisecond)
	left := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	before := left()
	if len(before) != 3 {
		t.Errorf("%q are left, want 3 files", before)
	}
	if err := recorder.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); strings.Join(left(), " ") == strings.Join(before, " "); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("SIGUSR1 writes no file")
		}
	}
	recorder.end(t)
	if after := left(); len(after) != 3 {
		t.Errorf("%q are left, want 3 files", after)
	}
	if text, _ := os.ReadFile(recorder.said); !bytes.Contains(text, []byte(": SIGUSR1: ")) {
		t.Error("none was written by hand")
	}
}

// A recorder goes on behind the files that an earlier one left, and after a file that could not be written; what a trigger needs is traced.
func TestTraceRecordsOn(t *testing.T) {
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGUSR2)
	defer signal.Stop(ignored)
	dir := t.TempDir()
	if err := unix.Mount("culprit-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "t-7.jsonl"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	if err := os.WriteFile(full, make([]byte, 1<<20-16384), 0o666); err != nil {
		t.Fatal(err)
	}
	recorder := startRecorder(t, filepath.Join(dir, "t.jsonl"), "--trigger", "signal=USR2", "--after", "0s", "--ring", "1MiB", "-e", "process.exec")
	says := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if err := unix.Kill(os.Getpid(), unix.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			if text, _ := os.ReadFile(recorder.said); bytes.Contains(text, []byte(what)) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("it never says %q", what)
			}
		}
	}
	for range 100 {
		exec.Command("true").Run()
	}
	says("no space left on device")
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	says("t-9.jsonl: signal 12 ")
	recorder.end(t)
}
