package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namedNamespace is a network namespace that has a name until the test ends, and who talks in it.
func namedNamespace(t *testing.T) (name string, pid int) {
	t.Helper()
	name = fmt.Sprintf("culprit-%d", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() { ip("netns", "del", name) })
	ip("-n", name, "link", "set", "lo", "up")
	talking := exec.Command("ip", "netns", "exec", name, filepath.Join(bin, talker), "sleep", "infinity")
	inBackground(t, talking)
	return name, talking.Process.Pid
}

// Of two network namespaces, each with a process of the same name, one is reported on, however it is given.
func TestTCPNamespace(t *testing.T) {
	needRoot(t)
	inBackground(t, talking())
	name, pid := namedNamespace(t)
	path := filepath.Join("/run/netns", name)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	link := fmt.Sprintf("/proc/%d/ns/net", pid)
	// It is in there, and talks, once it is what it will be.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var in unix.Stat_t
		if err := unix.Stat(link, &in); err == nil && in.Ino == stat.Ino {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is not in namespace %s", pid, name)
		}
	}
	check := func(t *testing.T, u caller, given string) {
		out := output(t, u.command("tcp", "--namespace", given, "--by", "pid", "--json", "-n", "0", "--connections", "--duration", "1s"))
		type inNamespace struct{ Namespace uint64 }
		var report struct {
			Rows []struct {
				PID  int
				Sent uint64 `json:"sent_bytes"`
			}
			Connections, Exemplars []inNamespace
			Audit                  []struct {
				Name     string
				Kernel   uint64
				Residual int64
				Skew     uint64 `json:"audit_skew"`
			}
		}
		if err := json.Unmarshal(out, &report); err != nil {
			t.Fatal(err)
		}
		if len(report.Rows) != 1 || report.Rows[0].PID != pid || report.Rows[0].Sent == 0 {
			t.Errorf("rows: %+v, want one of %d", report.Rows, pid)
		}
		for _, l := range [][]inNamespace{report.Connections, report.Exemplars} {
			if len(l) == 0 {
				t.Error("an empty list")
			}
			for _, c := range l {
				if c.Namespace != stat.Ino {
					t.Errorf("namespace %d, want %d", c.Namespace, stat.Ino)
				}
			}
		}
		for _, a := range report.Audit {
			if a.Name == "ActiveOpens" && a.Kernel == 0 || max(a.Residual, -a.Residual) > int64(a.Skew) {
				t.Errorf("%+v", a)
			}
		}
	}
	for _, given := range []string{fmt.Sprint(stat.Ino), path, name, link} {
		t.Run(given, func(t *testing.T) { check(t, caller{"root", []string{program()}}, given) })
	}
	for _, u := range someCallers(t) {
		t.Run(u.name, func(t *testing.T) { check(t, u, name) })
	}
}

// A namespace's path is nothing else's, which is not even opened.
func TestInodeOfNamespace(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe") // to open it would take for ever
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/proc/self/ns/user", "/", "/dev/null", "/nothing/like/that"} {
		if inode, err := inodeOfNamespace(path); err == nil {
			t.Errorf("%s has inode %d", path, inode)
		}
	}
	var want unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &want); err != nil {
		t.Fatal(err)
	}
	if inode, err := inodeOfNamespace("/proc/self/ns/net"); err != nil || uint64(inode) != want.Ino {
		t.Errorf("inode %d, want %d: %v", inode, want.Ino, err)
	}
}
