package sched_test

import (
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

	"culprit/probes/internal/livetest"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"

	"golang.org/x/sys/unix"
)

// watch is a running sched probe.
type watch struct {
	t     testing.TB
	table *owner.Table
	probe *sched.Probe
	// Of all that was read:
	residuals []int64
	unseen    uint64
}

func newWatch(t testing.TB, owners owner.Options, o sched.Options) *watch {
	t.Helper()
	table := livetest.Table(t, owners)
	return &watch{t: t, table: table, probe: livetest.Probe(t, table, sched.Load, o)}
}

var common *livetest.Shared[*sched.Probe]

// newCommonWatch is one without options, of the probe that tests share where they do.
func newCommonWatch(t testing.TB) *watch {
	t.Helper()
	if !testing.Short() {
		return newWatch(t, owner.Options{}, sched.Options{})
	}
	s := livetest.LoadShared(t, &common, sched.Load, sched.Options{})
	w := &watch{t: t, table: s.Table, probe: s.Probe}
	w.read()
	return w
}

// sleep lets time pass as culprit does, and keeps the process table in order.
func (w *watch) sleep(d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Second, time.Until(end)))
		if err := w.table.CollectAll(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *watch) read() snapshot.Sched {
	w.t.Helper()
	s, err := w.probe.Read()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range s.Rows {
		if r.Unattributed() {
			w.t.Logf("%s: %d ns", r.App, r.Wait())
		}
	}
	livetest.LogLosses(w.t, s.Loss)
	w.residuals = append(w.residuals, s.Kernel.ResidualNS())
	w.unseen += livetest.Lost(s.Loss, "unseen_switches")
	return s
}

// checkBooks fails unless the waits of the report read last are the kernel's, within 0.5 % or least. A switch that reached no program is
// told of by its thread's next one: what one report lacks for that, later ones have too much, and so with those together it balances.
func (w *watch) checkBooks(s snapshot.Sched, least float64) {
	w.t.Helper()
	limit, at := int64(max(float64(s.Kernel.KernelWaitNS)/200, least)), len(w.residuals)-1
	balances := func() bool {
		var sum int64
		for i, r := range slices.Backward(w.residuals) {
			if sum += r; i <= at && max(sum, -sum) <= limit {
				return true
			}
		}
		return false
	}
	if r := w.residuals[at]; max(r, -r) <= limit {
		return
	}
	for range 5 {
		if w.unseen > 0 && balances() {
			return
		}
		w.sleep(time.Second)
		w.read()
	}
	w.t.Errorf("the residuals are %d ns; this report's waits %d, and %d switches were unseen", w.residuals, s.Kernel.KernelWaitNS, w.unseen)
}

// row is that of the processes called comm.
func row(t testing.TB, s snapshot.Sched, comm string) snapshot.SchedRow {
	t.Helper()
	return livetest.Row(t, s.Group(snapshot.ByComm).Rows, comm, func(r snapshot.SchedRow) bool { return r.Comm == comm })
}

// rowOf is that of a process.
func rowOf(t testing.TB, s snapshot.Sched, pid int) snapshot.SchedRow {
	t.Helper()
	return livetest.Row(t, s.Group(snapshot.ByPID).Rows, fmt.Sprint("process ", pid), func(r snapshot.SchedRow) bool { return r.PID == pid })
}

// others is the part of a row's wait that processes are charged with, except those called comm.
func others(r snapshot.SchedRow, comm string) uint64 {
	var sum uint64
	for _, c := range r.Culprits {
		if name := c.Name(snapshot.ByComm); name != comm && !strings.HasPrefix(name, "[") {
			sum += c.NS
		}
	}
	return sum
}

// quiet is whether nobody but these made use of the machine: others who are charged with a wait may well have caused it, else.
func quiet(t testing.TB, s snapshot.Sched, comms ...string) bool {
	t.Helper()
	var busy uint64
	for _, r := range s.Rows {
		if !slices.Contains(comms, r.Comm) {
			busy += r.OnCPU
		}
	}
	if share := float64(busy) / float64(s.End.Sub(s.Start)); share > 0.05 {
		t.Logf("others ran for %.0f %% of a CPU: these are not the figures of a quiet machine", 100*share)
		return false
	}
	return true
}

// charged is the part of a row's wait that culprits called comm (or, for what is no process, App) are charged with.
func charged(r snapshot.SchedRow, comm string) uint64 {
	var sum uint64
	for _, c := range r.Culprits {
		if c.Name(snapshot.ByComm) == comm {
			sum += c.NS
		}
	}
	return sum
}

// log prints a row of processes of one comm.
func log(t testing.TB, r snapshot.SchedRow) {
	t.Helper()
	ms := func(ns uint64) float64 { return float64(ns) / 1e6 }
	t.Logf("%s: on a CPU %.3f ms, waited %.3f (kernel %.3f), waiting %.3f, interrupted %.3f and %.3f, disk %.3f, blocked %.3f, asleep %.3f, uncounted %.3f; %d waits, p50 %d p99 %d max %d ns",
		r.Name(snapshot.ByComm), ms(r.OnCPU), ms(r.Wait()), ms(r.KernelWait), ms(r.Waiting), ms(r.IRQStolen), ms(r.SoftirqStolen), ms(r.Disk), ms(r.Blocked),
		ms(r.Asleep), ms(r.Uncounted), r.Latency.Count(), r.Latency.Quantile(.5), r.Latency.Quantile(.99), r.Latency.Max)
	for _, c := range r.Culprits {
		t.Logf("    %-28s %.6f ms", c.Name(snapshot.ByComm), ms(c.NS))
	}
}

// The source of a program of one thread: loads NAME CPU NICE SECONDS spin|PERIOD. It computes, or wakes up each PERIOD microseconds
// and computes for a hundredth of it. One that computes and is told to end says for how many ns it missed the CPU: because of interrupts
// as well as of others, the time between two looks at the clock grows from tens of ns to more than one microsecond.
const loads = `
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

static volatile sig_atomic_t ended;

static void end_now(int signal)
{
	ended = 1;
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	long long last = now(), end = last + atof(argv[4]) * 1e9, period = atoll(argv[5]) * 1000, missed = 0;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[2]), &cpus);
	if (prctl(PR_SET_NAME, argv[1]) || sched_setaffinity(0, sizeof(cpus), &cpus) || setpriority(PRIO_PROCESS, 0, atoi(argv[3])))
		return 1;
	if (!strcmp(argv[5], "spin")) {
		signal(SIGTERM, end_now);
		while (last < end && !ended) {
			long long t = now();

			if (t - last > 1000)
				missed += t - last;
			last = t;
		}
		return printf("%lld", missed) < 0;
	}
	while (now() < end) {
		struct timespec t = { .tv_nsec = period };
		long long until = now() + period / 100;

		nanosleep(&t, 0);
		while (now() < until)
			;
	}
	return 0;
}
`

// loadsProgram is where loads was compiled to for a test.
func loadsProgram(t testing.TB) string {
	t.Helper()
	return livetest.Compile(t, "loads", loads)
}

// load starts a process called comm, which ends with the test, however long reading takes on a busy machine.
func load(t testing.TB, comm string, cpu, nice int, what string) *exec.Cmd {
	t.Helper()
	const aborted = "600" // seconds after which it ends although no test ended it
	cmd := exec.Command(loadsProgram(t), comm, strconv.Itoa(cpu), strconv.Itoa(nice), aborted, what)
	cmd.Stdout = new(strings.Builder)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	// Until it is what it is called and where it is wanted: beside a hog, that takes some time, which is another program's.
	for deadline := time.Now().Add(time.Minute); !atWork(t, cmd.Process.Pid, comm, cpu, nice); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not begin", comm)
		}
	}
	return cmd
}

// atWork is whether a load has done what it does before anything else.
func atWork(t testing.TB, pid int, comm string, cpu, nice int) bool {
	t.Helper()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(pid, &cpus); err != nil {
		t.Fatal(err)
	}
	priority, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name)) == comm && cpus.Count() == 1 && cpus.IsSet(cpu) && 20-priority == nice
}

// missed ends a load that computes, and is for how many ns it missed the CPU by its own clock.
func missed(t testing.TB, load *exec.Cmd) uint64 {
	t.Helper()
	if err := load.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	ns, err := strconv.ParseUint(fmt.Sprint(load.Stdout), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// background runs a program, and those that it starts, until the test ends.
func background(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	return cmd
}

// schedstat is the kernel's sum of the waits of a process's threads, in ns.
func schedstat(t testing.TB, pid int) uint64 {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	var sum uint64
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		wait, err := strconv.ParseUint(strings.Fields(string(text))[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += wait
	}
	return sum
}

// The source of a program whose second thread executes it again; then it wakes up each millisecond, on the last CPU.
const execs = `
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

static char *path;

static void *again(void *arg)
{
	usleep(300000);
	execl(path, "execs", "again", (char *)0);
	return 0;
}

int main(int argc, char **argv)
{
	cpu_set_t cpus;
	pthread_t t;

	path = "/proc/self/exe";
	if (argc == 1) {
		if (!pthread_create(&t, 0, again, 0))
			pause();
		return 1;
	}
	prctl(PR_SET_NAME, "executed");
	CPU_ZERO(&cpus);
	CPU_SET(1, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	for (;;)
		usleep(1000);
}
`

// The source of a program of two ends: stream receive PORT or stream send ADDRESS PORT, for ever, datagrams of 1,400 bytes.
const stream = `
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char buf[1400];
	struct sockaddr_in to = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), receives = !strcmp(argv[1], "receive");

	to.sin_port = htons(atoi(argv[argc - 1]));
	if (!receives)
		to.sin_addr.s_addr = inet_addr(argv[2]);
	if (receives ? bind(fd, (void *)&to, sizeof(to)) : connect(fd, (void *)&to, sizeof(to)))
		return 1;
	for (;;)
		if (receives)
			read(fd, buf, sizeof(buf));
		else if (write(fd, buf, sizeof(buf)) < 0)
			usleep(100);
}
`
