package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runReport is of culprit run --json what the tests look at.
type runReport struct {
	Schema     string
	Command    []string
	ExitStatus int    `json:"exit_status"`
	Signal     string `json:"signal"`
	WallNS     uint64 `json:"wall_ns"`
	KernelCPU  int64  `json:"kernel_cpu_ns"`
	Processes  int
	Running    int
	Memory     uint64 `json:"memory_bytes"`
	MemoryComm string `json:"memory_comm"`
	DirtyFiles int    `json:"dirty_files"`
	Time       map[string]any
	IO         struct {
		Schema string
		Rows   []struct {
			Comm, Device string
			WriteVia     map[string]uint64 `json:"write_via"`
		}
	}
	Sched struct {
		Schema string
		Rows   []struct {
			Comm         string
			Threads      int
			WaitNS       uint64 `json:"wait_ns"`
			KernelWaitNS uint64 `json:"kernel_wait_ns"`
		}
	}
	TCP struct {
		Schema string
		Rows   []struct {
			Comm          string
			SentBytes     uint64 `json:"sent_bytes"`
			ReceivedBytes uint64 `json:"received_bytes"`
		}
	}
}

// ns is a part of the time of the command's threads.
func (r runReport) ns(part string) time.Duration {
	n, _ := r.Time[part+"_ns"].(float64)
	return time.Duration(n)
}

// writtenBack is what was written back of what the processes of a name wrote.
func (r runReport) writtenBack(comm string) (bytes uint64) {
	for _, row := range r.IO.Rows {
		if row.Comm == comm {
			bytes += row.WriteVia["writeback"]
		}
	}
	return bytes
}

// runs runs a command by culprit run, with some flags.
func runs(t *testing.T, flags []string, command ...string) (r runReport, state *os.ProcessState) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report")
	args := append(append([]string{"run", "--json", "-n", "0", "-o", file}, flags...), "--")
	cmd := exec.Command(program(), append(args, command...)...)
	cmd.Env = append(os.Environ(), "DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); cmd.ProcessState == nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	report, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(report, &r); err != nil {
		t.Fatalf("%v in %s", err, report)
	}
	if r.Schema != "culprit.run/1" || r.IO.Schema != "culprit.io/1" || r.Sched.Schema != "culprit.sched/1" || r.TCP.Schema != "culprit.tcp/1" {
		t.Errorf("schemas %q, %q, %q, %q", r.Schema, r.IO.Schema, r.Sched.Schema, r.TCP.Schema)
	}
	if strings.Join(r.Command, " ") != strings.Join(command, " ") {
		t.Errorf("the command is %q", r.Command)
	}
	return r, cmd.ProcessState
}

// What a command writes is its own though a thread of the kernel writes it back, nobody else's is in the report, whatever it starts is
// followed, and what it waits for is told.
func TestRun(t *testing.T) {
	needRoot(t)
	write(t)
	const count = 200
	waiter := compile(t, "wait", waits, fmt.Sprint("-DWAITED=", waited.Nanoseconds()))
	kinds := []string{"receive", "poll socket", "poll pipe", "epoll", "sleep"}
	command := fmt.Sprintf("dd if=/dev/zero of=$DIR/f bs=1M count=64 status=none; sync; i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done", count)
	for _, kind := range kinds {
		command += fmt.Sprintf("; %s '%s'", waiter, kind)
	}
	r, _ := runs(t, nil, "sh", "-c", command)
	if r.ExitStatus != 0 {
		t.Errorf("exit status %d", r.ExitStatus)
	}
	if got := r.writtenBack("dd"); got != 64<<20 {
		t.Errorf("dd wrote %d bytes, want 64 MiB", got)
	}
	for _, row := range r.IO.Rows {
		if row.Comm == "dd" && row.WriteVia["direct"] > 0 { // the other one's
			t.Errorf("dd wrote %d bytes directly", row.WriteVia["direct"])
		}
	}
	processes := 3 + count + len(kinds)
	if r.DirtyFiles != 0 || r.Running != 0 || r.Processes != processes {
		t.Errorf("%d files dirty, %d processes, %d running, want %d", r.DirtyFiles, r.Processes, r.Running, processes)
	}
	for _, row := range r.Sched.Rows {
		if !slices.Contains([]string{"sh", "dd", "sync", "true", "wait", "busybox", "culprit"}, row.Comm) { // the latter until it executes sh
			t.Errorf("%s is in the report", row.Comm)
		}
		if row.WaitNS != row.KernelWaitNS {
			t.Errorf("%s waited for %d ns, the kernel has %d", row.Comm, row.WaitNS, row.KernelWaitNS)
		}
	}
	if r.ns("disk") == 0 {
		t.Error("no time blocked on disk")
	}
	if r.MemoryComm != "wait" || r.Memory < 1<<20 { // the largest program of these
		t.Errorf("%d KiB in %q", r.Memory>>10, r.MemoryComm)
	}
	r.spends(t, "network", 2*waited)
	r.spends(t, "event", 2*waited)
}

// spends checks a part of the time, of which a slow machine may add some.
func (r runReport) spends(t *testing.T, part string, want time.Duration) {
	t.Helper()
	if got := r.ns(part); got < want-want/10 || got > want+want/2+50*time.Millisecond {
		t.Errorf("%v %s, want %v, of %v", got, part, want, r.Time)
	}
}

// What is not written by the end is said, and waited for if so asked.
func TestRunSettles(t *testing.T) {
	needRoot(t)
	const command = "dd if=/dev/zero of=$DIR/f bs=1M count=2 status=none; exec 1>&- 2>&-; (sleep 1; sync) &"
	r, _ := runs(t, []string{"--settle", "0"}, "sh", "-c", command)
	if r.DirtyFiles != 1 || r.writtenBack("dd") != 0 || r.Running == 0 {
		t.Errorf("%d files are dirty, %d bytes written, %d processes running", r.DirtyFiles, r.writtenBack("dd"), r.Running)
	}
	r, _ = runs(t, []string{"--settle", "1m"}, "sh", "-c", command)
	if r.DirtyFiles != 0 || r.writtenBack("dd") != 2<<20 {
		t.Errorf("%d files are dirty, %d bytes written", r.DirtyFiles, r.writtenBack("dd"))
	}
}

// culprit run ends as its command does.
func TestRunStatus(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		command string
		status  int
		signal  syscall.Signal
	}{
		{"exit 0", 0, 0},
		{"exit 3", 3, 0},
		{"kill -TERM $$", 143, syscall.SIGTERM},
		{"kill -KILL $$", 137, syscall.SIGKILL},
		{"kill -ABRT $$", 134, syscall.SIGABRT}, // for these, Go has handlers of its own
		{"kill -SEGV $$", 139, syscall.SIGSEGV},
		{"kill -QUIT $$", 131, syscall.SIGQUIT},
		{"kill -PIPE $$", 141, syscall.SIGPIPE},
		{"kill -USR1 $$", 138, syscall.SIGUSR1},
	} {
		r, state := runs(t, []string{"--settle", "0"}, "sh", "-c", tt.command)
		how := state.Sys().(syscall.WaitStatus)
		if r.ExitStatus != tt.status || r.Signal != unix.SignalName(tt.signal) {
			t.Errorf("%s: reports %d, %q", tt.command, r.ExitStatus, r.Signal)
		}
		if tt.signal == 0 && how.ExitStatus() != tt.status || tt.signal != 0 && how.Signal() != tt.signal {
			t.Errorf("%s: ended by %v", tt.command, state)
		}
	}
}

// Whatever a command starts is followed, whoever it belongs to later.
func TestRunMissesNoProcess(t *testing.T) {
	needRoot(t)
	const count = 2000
	r, _ := runs(t, nil, "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done", count))
	if r.Processes != count+1 || r.Running != 0 {
		t.Errorf("%d processes, %d running, want %d", r.Processes, r.Running, count+1)
	}
	threads := 0
	for _, row := range r.Sched.Rows {
		threads += row.Threads
	}
	if threads != count+1 {
		t.Errorf("%d threads, want %d", threads, count+1)
	}
	// It depends on the kernel's build which interrupts it counts; what a process does once it was waited for, it counts nowhere.
	slack := time.Duration(r.KernelCPU) / 33
	if kernel := time.Duration(r.KernelCPU); r.ns("running") > kernel+slack || r.ns("running")+r.ns("interrupt") < kernel-slack {
		t.Errorf("%v on CPUs, and %v of interrupts, the kernel has %v", r.ns("running"), r.ns("interrupt"), kernel)
	}
	r, _ = runs(t, []string{"--settle", "0"}, "sh", "-c", "exec 1>&- 2>&-; (sleep 3 & sh -c 'sleep 2 & : > $DIR/started; wait' &); until [ -e $DIR/started ]; do :; done; /bin/true")
	if r.Processes != 6 || r.Running != 3 {
		t.Errorf("%d processes, %d running, want 6, 3", r.Processes, r.Running)
	}
}

// Threads that exit at the same moment are one process's.
func TestRunThreads(t *testing.T) {
	needRoot(t)
	// Each of these has many; one more runs on.
	const count = 20
	r, _ := runs(t, []string{"--settle", "0"}, "sh", "-c",
		fmt.Sprintf("exec 1>&- 2>&-; sleep 3 & i=0; while [ $i -lt %d ]; do %s version; i=$((i+1)); done", count, program()))
	if r.Processes != count+2 || r.Running != 1 {
		t.Errorf("%d processes, %d running, want %d, 1", r.Processes, r.Running, count+2)
	}
}

// Whatever else fails, the command's end is ours, too.
func TestRunCannotReport(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct{ args, says string }{
		{"run --settle 0 -o /dev/full sh -c", "culprit: writing what the command did as table: write /dev/full: no space left on device\n"},
		{"run --settle 0 --json -o /dev/full sh -c", "culprit: writing what the command did as json: write /dev/full: no space left on device\n"},
	} {
		cmd := exec.Command(program(), append(strings.Fields(tt.args), "exit 3")...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if cmd.Run(); cmd.ProcessState.ExitCode() != 3 || stderr.String() != tt.says {
			t.Errorf("%v: %s", cmd.ProcessState, &stderr)
		}
	}
	// Its reader has gone.
	reader, closed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	cmd := exec.Command(program(), "run", "--settle", "0", "-o", "-", "sh", "-c", "exit 3")
	cmd.Stdout = closed
	if cmd.Run(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("%v", cmd.ProcessState)
	}
}

// waits is a program that waits for one thing, and for nothing else, as programs in Go cannot: idle threads of theirs wait for events.
// It has 8 MiB of memory.
const waited = 300 * time.Millisecond
const waits = `
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static char memory[8 << 20];
int main(int n, char **v)
{
	struct timespec span = { 0, WAITED };
	struct timeval timeout = { 0, WAITED / 1000 };
	struct epoll_event event;
	int s = socket(AF_INET, SOCK_DGRAM, 0), ends[2];
	memset(memory, 1, sizeof memory);
	if (n != 2 || s < 0 || pipe(ends)) return 1;
	struct pollfd files[] = { { ends[0], POLLIN }, { s, POLLIN } };
	if (!strcmp(v[1], "receive"))
		return setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) || recv(s, memory, 1, 0) != -1;
	if (!strcmp(v[1], "poll socket"))
		return ppoll(files, 2, &span, NULL);
	if (!strcmp(v[1], "poll pipe"))
		return poll(files, 1, WAITED / 1000000);
	if (!strcmp(v[1], "epoll"))
		return epoll_wait(epoll_create1(0), &event, 1, WAITED / 1000000);
	return strcmp(v[1], "sleep") || nanosleep(&span, NULL);
}
`

// grows is a program that has so many bytes of memory, and executes another one.
const grown = 200 << 20
const grows = `
#include <string.h>
#include <unistd.h>
static char memory[GROWN];
int main(void)
{
	memset(memory, 1, sizeof memory);
	return execl("/bin/true", "true", (char *)0);
}
`

// compile makes a program of C, which has some numbers by name.
func compile(t *testing.T, name, source string, numbers ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	cmd := exec.Command("gcc", append([]string{"-static", "-D_GNU_SOURCE", "-O1", "-Wall", "-Werror", "-x", "c", "-o", path, "-"}, numbers...)...)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// Locks are told by programs whose threads do not wait for each other.
func TestRunLocks(t *testing.T) {
	needRoot(t)
	r, _ := runs(t, []string{"--settle", "0"}, "sh", "-c",
		"flock $DIR/lock sh -c ': > $DIR/held; sleep 0.5' & until [ -e $DIR/held ]; do sleep 0.01; done; flock $DIR/lock true; wait")
	if got := r.ns("lock"); got < waited || got > 600*time.Millisecond {
		t.Errorf("%v for locks, want nearly 500 ms, of %v", got, r.Time)
	}
	r.spends(t, "network", 0)
}

// The command has its input, output and error as they were, and its own environment.
func TestRunLeavesTheCommandAlone(t *testing.T) {
	needRoot(t)
	cmd := exec.Command(program(), "run", "--settle", "0", "-o", os.DevNull, "sh", "-c", "cat; echo $MINE >&2; ulimit -n; nice; cat /proc/self/status | grep -E '^(Sig(Blk|Ign|Cgt)|NoNewPrivs|Cap)'")
	cmd.Stdin = strings.NewReader("input\n")
	cmd.Env = append(os.Environ(), "MINE=here")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	alone := exec.Command("sh", cmd.Args[7:]...)
	alone.Stdin, alone.Env = strings.NewReader("input\n"), cmd.Env
	want, err := alone.Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != string(want) || stderr.String() != "here\n" {
		t.Errorf("got\n%s%s, want\n%s", out, &stderr, want)
	}
}

// Signals reach the command: culprit reports what there was, and ends likewise.
func TestRunSignals(t *testing.T) {
	needRoot(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		file := filepath.Join(t.TempDir(), "report")
		cmd := exec.Command(program(), "run", "-o", file, "sh", "-c", "echo; exec sleep 100")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		if s == syscall.SIGINT {
			err = syscall.Kill(-cmd.Process.Pid, s) // of all of a job
		} else {
			err = cmd.Process.Signal(s)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if how := cmd.ProcessState.Sys().(syscall.WaitStatus); how.Signal() != s {
			t.Errorf("%v: ended by %v", s, cmd.ProcessState)
		}
		report, err := os.ReadFile(file)
		if want := "ended by " + unix.SignalName(s); err != nil || !strings.Contains(string(report), want) {
			t.Errorf("%v: no %q in the report: %v\n%s", s, want, err, report)
		}
	}
}

// The largest process is named, though it was started and waited for by others.
func TestRunMemory(t *testing.T) {
	needRoot(t)
	const mib = 300
	r, _ := runs(t, nil, "sh", "-c", "dd if=/dev/zero of=/dev/null bs="+strconv.Itoa(mib)+"M count=1 status=none; true")
	if r.MemoryComm != "dd" || r.Memory < mib<<20 || r.Memory > (mib+20)<<20 {
		t.Errorf("%d MiB in %q, want %d in dd", r.Memory>>20, r.MemoryComm, mib)
	}
	// One that has executed another program since, whose name it has then.
	r, _ = runs(t, nil, compile(t, "grow", grows, fmt.Sprint("-DGROWN=", grown)))
	if r.MemoryComm != "true" || r.Memory < grown {
		t.Errorf("%d MiB in %q, want %d in true", r.Memory>>20, r.MemoryComm, grown>>20)
	}
	// The first process is no larger than culprit was, which it came from: only its own memory counts.
	r, _ = runs(t, nil, "sleep", "3")
	if r.MemoryComm != "sleep" || r.Memory == 0 || r.Memory > 20<<20 {
		t.Errorf("%d KiB in %q, want few in sleep", r.Memory>>10, r.MemoryComm)
	}
}
