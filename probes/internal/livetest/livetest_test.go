package livetest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main(m, map[string]Job{"killed": killed, "starter": starter, "sleeper": sleeper})
}

// killed is what a tests' process does: it starts one which starts another, and kills it.
func killed([]string) (any, error) {
	os.Unsetenv(jobVariable)
	if err := start("starter"); err != nil {
		return nil, err
	}
	return sleeper(nil)
}

func starter([]string) (any, error) {
	if err := start("sleeper"); err != nil {
		return nil, err
	}
	if err := unix.Kill(os.Getppid(), unix.SIGKILL); err != nil {
		return nil, err
	}
	return sleeper(nil)
}

func sleeper([]string) (any, error) {
	time.Sleep(time.Minute)
	return nil, errors.New("nobody has ended it")
}

// start begins a job, and tells of its process.
func start(job string) error {
	cmd, err := ChildCommand(job, job)
	if err != nil {
		return err
	}
	cmd.Stdout = os.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = fmt.Println(cmd.Process.Pid)
	return err
}

// Processes go when the tests' is killed which started them, and those that they started.
func TestNoProcessIsLeftBehind(t *testing.T) {
	cmd, err := ChildCommand("killed", "killed")
	if err != nil {
		t.Fatal(err)
	}
	cmd.WaitDelay = time.Second // and no longer, for those that have its output
	out, err := cmd.Output()
	pids := strings.Fields(string(out))
	if err == nil || len(pids) != 2 {
		t.Fatalf("it said %q, and ended: %v", out, err)
	}
	for begin := time.Now(); slices.ContainsFunc(pids, lives); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("there is still one of the processes", pids)
		}
	}
}

// lives is whether there is such a process, and not only its end that nobody has asked for.
func lives(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}

// What fails while the machine stands still is tried again, after it is cleaned up, and what fails otherwise, is not.
func TestSteadily(t *testing.T) {
	tries, cleaned := 0, 0
	steadily(t, func(t testing.TB) {
		if tries != cleaned {
			t.Errorf("%d tries are cleaned up, of %d", cleaned, tries)
		}
		tries++
		t.Cleanup(func() { cleaned++ })
		if tries < 3 {
			standStill(t)
			t.Fatal("too late")
		}
	})
	if tries != 3 || cleaned != 3 {
		t.Errorf("%d tries, %d cleaned up", tries, cleaned)
	}
	a := &attempt{T: t}
	after := false
	a.run(func(t testing.TB) {
		t.Cleanup(func() { after = true })
		t.Cleanup(func() { t.FailNow() })
	})
	if !a.Failed() || !after {
		t.Errorf("failed %t, cleaned up after that %t", a.Failed(), after)
	}
	if isWorthAnother(1, Pauses{}) || isWorthAnother(attempts, Pauses{Count: 1}) || !isWorthAnother(attempts-1, Pauses{Count: 1}) {
		t.Error("what fails on a machine that does not stand still is run again, or what fails too often")
	}
}

// standStill has nobody else run on this thread's CPU.
func standStill(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := BecomeRealTime(WatchPriority + 1); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; {
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0); err != nil {
		t.Fatal(err)
	}
}
