package trace_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culprit/probes/internal/livetest"
	"culprit/probes/owner"
	"culprit/probes/snapshot"
	"culprit/probes/trace"
)

func TestMain(m *testing.M) { livetest.Main(m, nil) }

// traced is all of a trace.
type traced struct {
	snapshot.Trace
	audit trace.Audit
}

// during traces while f runs. Between readings, it lets so much time go by.
func during(t testing.TB, o trace.Options, every time.Duration, f func()) (all traced) {
	t.Helper()
	probe := livetest.Probe(t, livetest.Table(t, owner.Options{}), trace.Load, o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			if err := probe.End(); err != nil {
				t.Fatal(err)
			}
			ended = true
		case <-time.After(every):
		}
		one, err := probe.Read()
		if err != nil {
			t.Fatal(err)
		}
		all.Switches = append(all.Switches, one.Switches...)
		all.Wakeups = append(all.Wakeups, one.Wakeups...)
		all.Migrations = append(all.Migrations, one.Migrations...)
		all.Begun = append(all.Begun, one.Begun...)
		all.Executed = append(all.Executed, one.Executed...)
		all.Ended = append(all.Ended, one.Ended...)
		all.IRQs = append(all.IRQs, one.IRQs...)
		all.Softirqs = append(all.Softirqs, one.Softirqs...)
		all.Signals = append(all.Signals, one.Signals...)
		all.Faults = append(all.Faults, one.Faults...)
		all.Syscalls = append(all.Syscalls, one.Syscalls...)
		all.Threads = append(all.Threads, one.Threads...)
		all.Loss = one.Loss
	}
	all.audit = probe.Audit()
	livetest.LogLosses(t, all.Loss)
	return all
}

const often = 50 * time.Millisecond

// pipe passes a token between two processes, so often.
func pipe(t testing.TB, times int) {
	t.Helper()
	a, b := make([]int, 2), make([]int, 2)
	if err := unix.Pipe(a); err != nil {
		t.Error(err)
		return
	}
	if err := unix.Pipe(b); err != nil {
		t.Error(err)
		return
	}
	pass := func(in, out int) {
		runtime.LockOSThread()
		token := make([]byte, 1)
		for range times {
			if n, err := unix.Read(in, token); n != 1 {
				t.Errorf("reading a pipe: %d, %v", n, err)
				return
			}
			if n, err := unix.Write(out, token); n != 1 {
				t.Errorf("writing a pipe: %d, %v", n, err)
				return
			}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(a[0], b[1])
	}()
	if _, err := unix.Write(a[1], []byte{1}); err != nil {
		t.Error(err)
		return
	}
	pass(b[0], a[1])
	<-done
	for _, fd := range append(a, b...) {
		unix.Close(fd)
	}
}

// balance holds what was traced against the kernel's count of switches.
func (all traced) balance(t testing.TB) {
	t.Helper()
	a := all.audit
	hidden := livetest.Lost(all.Loss, "unseen_switches") + livetest.Lost(all.Loss, "events_missed")
	t.Logf("%d switches, by the kernel's count %d, skew %d; %d hidden at least", a.Ours, a.Kernel, a.Skew, hidden)
	// Of switches that a kernel hides in a row, one shows, and of those at the end none.
	if r := a.Residual(); r < -int64(a.Skew) || r > 10*int64(hidden)+2*int64(runtime.NumCPU()) {
		t.Errorf("%d switches, by the kernel's count %d, skew %d; %d hidden at least", a.Ours, a.Kernel, a.Skew, hidden)
	}
}

// Every switch is there, in order, and each thread goes off the CPU that it came on.
func TestSwitches(t *testing.T) {
	times := livetest.Less(100_000)
	all := during(t, trace.Options{}, often, func() { pipe(t, times) })
	all.balance(t)
	if len(all.Switches) < times {
		t.Errorf("%d switches, want %d at least", len(all.Switches), times)
	}
	if n := livetest.Lost(all.Loss, "events_overwritten"); n != 0 {
		t.Errorf("%d events were overwritten", n)
	}
	runs, jumps := map[int32]snapshot.SchedSwitch{}, uint64(0)
	for _, s := range all.Switches {
		was, known := runs[s.CPU]
		if known && was.NextTID != s.PrevTID {
			jumps++
		}
		if known && was.At > s.At {
			t.Fatalf("%+v comes after %+v", s, was)
		}
		runs[s.CPU] = s
	}
	if unseen := livetest.Lost(all.Loss, "unseen_switches"); jumps != unseen {
		t.Errorf("%d times, somebody goes off a CPU who did not come on it, but %d are counted", jumps, unseen)
	}
	mine := 0
	for _, w := range all.Wakeups {
		if w.PID == int32(os.Getpid()) && w.WakerPID == w.PID && !w.ByInterrupt {
			mine++
		}
	}
	if mine < times {
		t.Errorf("the threads woke each other %d times, want %d at least", mine, times)
	}
}

// What user space is too late for is counted, to the event: who was traced, and who was not, are all that the kernel counts.
func TestOverwritten(t *testing.T) {
	times := livetest.Less(100_000)
	o := trace.Options{Kinds: []string{"sched.switch"}, Bytes: 1}
	all := during(t, o, time.Minute, func() { pipe(t, times) })
	over := livetest.Lost(all.Loss, "events_overwritten")
	if over == 0 || len(all.Switches) == 0 {
		t.Fatalf("%d events were overwritten, %d are left", over, len(all.Switches))
	}
	all.audit.Ours += over
	// Beside the switches, clocks are told of: one a second of each CPU.
	hidden := livetest.Lost(all.Loss, "unseen_switches") + livetest.Lost(all.Loss, "events_missed")
	a := all.audit
	t.Logf("%d switches, by the kernel's count %d, skew %d, %d hidden at least", a.Ours, a.Kernel, a.Skew, hidden)
	if r := a.Residual(); r < -int64(a.Skew)-100 || r > int64(a.Kernel/100) {
		t.Errorf("%d switches with those that were overwritten, by the kernel's count %d", a.Ours, a.Kernel)
	}
}

// Threads have the names that they had at the time, also those that are gone before anybody looks.
func TestNames(t *testing.T) {
	const count = 50
	all := during(t, trace.Options{}, time.Minute, func() {
		for i := range count {
			cmd := exec.Command("/bin/sh", "-c", "exit 3")
			cmd.Args[0] = fmt.Sprint("sh", i)
			cmd.Run()
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			for _, name := range []string{"early", "late"} {
				if err := os.WriteFile("/proc/thread-self/comm", []byte(name), 0); err != nil {
					t.Error(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		<-done
	})
	// Of this process: others may begin some, too.
	begun, ended, ran, shells, new := map[int32]bool{}, map[int32]bool{}, map[int32]bool{}, map[int32]bool{}, map[int32]bool{}
	for _, b := range all.Begun {
		begun[b.PID] = begun[b.PID] || b.ParentPID == int32(os.Getpid())
		new[b.TID] = true
	}
	for _, e := range all.Executed {
		if begun[e.PID] && (e.Comm == "sh" || e.Comm == "dash") {
			shells[e.PID] = true
		}
	}
	if len(shells) != count {
		t.Errorf("%d shells were executed, want %d", len(shells), count)
	}
	for _, e := range all.Ended {
		if shells[e.PID] && e.ExitCode != 3<<8 {
			t.Errorf("a shell ended with %#x", e.ExitCode)
		}
		ended[e.PID] = true
	}
	for _, s := range all.Switches {
		ran[s.PrevPID] = ran[s.PrevPID] || shells[s.PrevPID] && (s.PrevComm == "sh" || s.PrevComm == "dash")
	}
	for pid := range shells {
		if !ended[pid] || !ran[pid] {
			t.Errorf("shell %d: ended %t, went off a CPU under its name %t", pid, ended[pid], ran[pid])
		}
	}
	var order []string
	for _, s := range all.Switches {
		if s.PrevPID == int32(os.Getpid()) && (s.PrevComm == "early" || s.PrevComm == "late") {
			order = append(order, s.PrevComm)
		}
	}
	if got := strings.Join(slices.Compact(order), " "); got != "early late" {
		t.Errorf("a thread that renamed itself was called %q", got)
	}
	for _, s := range all.Switches {
		if s.PrevComm == "" && new[s.PrevTID] || s.NextComm == "" && new[s.NextTID] {
			t.Errorf("somebody has no name: %+v", s)
			break
		}
	}
}

func addressOf[T any](mem []T) uint64 { return uint64(uintptr(unsafe.Pointer(&mem[0]))) }

// System calls, page faults and signals are told of one by one.
func TestOnRequest(t *testing.T) {
	const calls, pages, sent = 1000, 300, 7
	var tid int32
	var from, to uint64
	got := make(chan os.Signal, sent)
	signal.Notify(got, unix.SIGUSR1)
	defer signal.Stop(got)
	all := during(t, trace.Options{Kinds: []string{"syscall", "page.fault", "signal"}}, often, func() {
		runtime.LockOSThread()
		tid = int32(unix.Gettid())
		for range calls {
			unix.Syscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		mem, err := unix.Mmap(-1, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Munmap(mem)
		if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil {
			t.Logf("memory may come in huge pages: %v", err)
		}
		from, to = addressOf(mem), addressOf(mem)+uint64(len(mem))
		for i := 0; i < len(mem); i += os.Getpagesize() {
			mem[i] = 1
		}
		for range sent {
			if err := unix.Tgkill(os.Getpid(), int(tid), unix.SIGUSR1); err != nil {
				t.Error(err)
			}
			<-got
		}
	})
	var begun, ended, faults, signals int
	open := false
	for _, s := range all.Syscalls {
		switch {
		case s.TID != tid:
		case !s.Ends && s.Number == unix.SYS_GETPPID:
			begun, open = begun+1, true
		case s.Ends && open:
			if s.Result != int64(os.Getppid()) {
				t.Fatalf("getppid returned %d", s.Result)
			}
			ended, open = ended+1, false
		}
	}
	if begun != calls || ended != calls {
		t.Errorf("%d system calls began and %d ended, want %d", begun, ended, calls)
	}
	for _, f := range all.Faults {
		if f.TID == tid && f.Address >= from && f.Address < to && f.User {
			faults++
		}
	}
	if faults != pages {
		t.Errorf("%d pages were faulted in, want %d", faults, pages)
	}
	for _, s := range all.Signals {
		if s.TID == tid && s.Number == int32(unix.SIGUSR1) && s.SenderTID == tid && s.Result == "delivered" && s.Code == siTkill {
			signals++
		}
	}
	if signals != sent {
		t.Errorf("%d signals, want %d", signals, sent)
	}
}

const siTkill = -6 // include/uapi/asm-generic/siginfo.h

// Whose events are not wanted has none, and takes no room from the others', who need not be there yet.
func TestChosen(t *testing.T) {
	const sleepers, each = 20, 20 * time.Millisecond
	keep := func(p snapshot.Process) bool { return p.Comm == "sleep" }
	probe := livetest.Probe(t, livetest.Table(t, owner.Options{}), trace.Load, trace.Options{Bytes: 1, Keep: keep})
	pipe(t, 10)
	if _, err := probe.Read(); err != nil { // from now on it is known who this is
		t.Fatal(err)
	}
	pids := map[int32]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range sleepers {
			sleep := exec.Command("sleep", fmt.Sprint(each.Seconds()))
			if err := sleep.Run(); err != nil {
				t.Error(err)
			}
			pids[int32(sleep.Process.Pid)] = true
		}
	}()
	pipe(t, 60_000)
	<-done
	var all snapshot.Trace
	if err := probe.End(); err != nil {
		t.Fatal(err)
	}
	all, err := probe.Read()
	if err != nil {
		t.Fatal(err)
	}
	if n := livetest.Lost(all.Loss, "events_overwritten"); n != 0 {
		t.Errorf("%d events were overwritten", n)
	}
	slept, woken, executed, others := map[int32]bool{}, map[int32]bool{}, 0, 0
	for _, s := range all.Switches {
		if pids[s.PrevPID] && s.PrevState == "S" {
			slept[s.PrevPID] = true
		}
		if !pids[s.PrevPID] && !pids[s.NextPID] {
			others++
		}
	}
	for _, w := range all.Wakeups {
		if pids[w.PID] && w.ByInterrupt {
			woken[w.PID] = true
		}
	}
	for _, e := range all.Executed {
		if e.Comm == "sleep" && pids[e.PID] {
			executed++
		}
	}
	t.Logf("%d switches, %d wakeups", len(all.Switches), len(all.Wakeups))
	// Some kernels hide an interrupt now and then.
	if len(slept) < sleepers-3 || len(woken) < sleepers-3 || executed != sleepers {
		t.Errorf("of %d processes %d executed, %d slept and %d were woken", sleepers, executed, len(slept), len(woken))
	}
	if others != 0 || len(all.IRQs)+len(all.Softirqs) != 0 {
		t.Errorf("%d switches, %d interrupts and %d softirqs are others'", others, len(all.IRQs), len(all.Softirqs))
	}
}

// Each time that a cgroup's quota takes a thread off its CPU is told of.
func TestThrottled(t *testing.T) {
	group := livetest.NewCPUGroup(t, 20)
	probe := livetest.Probe(t, livetest.Table(t, owner.Options{}), trace.Load, trace.Options{Kinds: []string{"sched.throttle"}})
	spender := exec.Command("taskset", "-c", "1", "sh", "-c", "while :; do :; done")
	if err := spender.Start(); err != nil {
		t.Fatal(err)
	}
	defer spender.Wait()
	defer spender.Process.Kill()
	group.Add(spender.Process.Pid)
	time.Sleep(2 * time.Second)
	group.Unlimit()
	want := group.Throttles()
	if err := probe.End(); err != nil {
		t.Fatal(err)
	}
	all, err := probe.Read()
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for _, e := range all.Throttled {
		if e.PID == int32(spender.Process.Pid) {
			n++
		}
	}
	t.Logf("throttled %d times, by the kernel's count %d", n, want)
	// One at each end may be in one of them only, and some are throttled as they come on a CPU.
	if want < 10 || n < want*8/10 || n > want+2 {
		t.Errorf("throttled %d times, by the kernel's count %d", n, want)
	}
	if len(all.Switches) != 0 {
		t.Errorf("%d switches, which nobody asked for", len(all.Switches))
	}
}

// A process that executes another program is asked about again, whatever it was before.
func TestChosenWhenItExecutes(t *testing.T) {
	dir := t.TempDir()
	copied := func(program, name string) string {
		t.Helper()
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keep := func(p snapshot.Process) bool { return strings.HasPrefix(p.Comm, "wanted") }
	table := livetest.Table(t, owner.Options{})
	probe := livetest.Probe(t, table, trace.Load, trace.Options{Keep: keep})
	for i := range 3 {
		first := exec.Command(copied("/bin/sh", fmt.Sprint("other", i)), "-c", "read go; exec "+copied("/bin/sleep", fmt.Sprint("wanted", i))+" 0.05")
		stdin, err := first.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if _, err := probe.Read(); err != nil { // which finds that it is another one
			t.Fatal(err)
		}
		fmt.Fprintln(stdin)
		if err := first.Wait(); err != nil {
			t.Fatal(err)
		}
		var slept int
		for range 2 {
			all, err := probe.Read()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all.Switches {
				if s.PrevPID == int32(first.Process.Pid) && s.PrevComm == fmt.Sprint("wanted", i) && s.PrevState == "S" {
					slept++
				}
			}
		}
		if slept == 0 {
			t.Errorf("wanted%d has no events", i)
		}
	}
}

// What a recorder keeps of processes that nobody wants stays unwanted when they are long gone.
func TestRecorderForgetsNoVerdict(t *testing.T) {
	keep := func(p snapshot.Process) bool { return p.Comm == "sleep" }
	table := livetest.Table(t, owner.Options{})
	probe := livetest.Probe(t, table, trace.Load, trace.Options{Keep: keep})
	for range 5 {
		livetest.Command(t, "true")
		livetest.Command(t, "sleep", "0.01")
	}
	for range 5 {
		if _, err := probe.Poll(); err != nil {
			t.Fatal(err)
		}
		if err := table.CollectAll(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := probe.Dump()
	if err != nil {
		t.Fatal(err)
	}
	executed := map[string]int{}
	for _, e := range all.Executed {
		executed[e.Comm]++
	}
	if executed["sleep"] < 5 || executed["true"] != 0 {
		t.Errorf("executed: %v", executed)
	}
	for _, s := range all.Switches {
		if s.PrevComm != "sleep" && s.NextComm != "sleep" && s.PrevComm != s.NextComm && s.PrevTID != 0 && s.NextTID != 0 && s.PrevPID == s.NextPID {
			t.Errorf("%+v", s)
		}
	}
}
