package livetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// CPUGroup is a cgroup with a quota of CPU time, of whichever version has the controller.
type CPUGroup struct {
	t   testing.TB
	dir string
	v1  bool
}

// NewCPUGroup makes one that may have so many hundredths of a CPU.
func NewCPUGroup(t testing.TB, percent int) CPUGroup {
	t.Helper()
	g := CPUGroup{t: t}
	const v1, v2 = "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"
	name := fmt.Sprintf("culprit-test-%d", os.Getpid())
	if _, err := os.Stat(filepath.Join(v1, "tasks")); err == nil {
		g.dir, g.v1 = filepath.Join(v1, name), true
	} else {
		g.dir = filepath.Join(v2, name)
		write(t, filepath.Join(v2, "cgroup.subtree_control"), "+cpu")
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whoever is in it goes back first.
		pids, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
		for _, pid := range strings.Fields(string(pids)) {
			os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(pid), 0)
		}
		if err := os.Remove(g.dir); err != nil {
			t.Error(err)
		}
	})
	if g.v1 {
		write(t, filepath.Join(g.dir, "cpu.cfs_period_us"), "100000")
		write(t, filepath.Join(g.dir, "cpu.cfs_quota_us"), strconv.Itoa(percent*1000))
	} else {
		write(t, filepath.Join(g.dir, "cpu.max"), fmt.Sprintf("%d 100000", percent*1000))
	}
	return g
}

// Add puts a process into the group.
func (g CPUGroup) Add(pid int) {
	g.t.Helper()
	write(g.t, filepath.Join(g.dir, "cgroup.procs"), strconv.Itoa(pid))
}

// Unlimit takes the quota away.
func (g CPUGroup) Unlimit() {
	g.t.Helper()
	if g.v1 {
		write(g.t, filepath.Join(g.dir, "cpu.cfs_quota_us"), "-1")
	} else {
		write(g.t, filepath.Join(g.dir, "cpu.max"), "max")
	}
}

// Throttled is the kernel's own sum, in ns.
func (g CPUGroup) Throttled() uint64 {
	g.t.Helper()
	if g.v1 {
		return g.stat("throttled_time")
	}
	return 1000 * g.stat("throttled_usec")
}

// Throttles is how many times the kernel has throttled the group.
func (g CPUGroup) Throttles() uint64 { return g.stat("nr_throttled") }

func (g CPUGroup) stat(name string) uint64 {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "cpu.stat"))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if is, value, _ := strings.Cut(strings.TrimSpace(line), " "); is == name {
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return n
		}
	}
	g.t.Fatalf("no %s in %s", name, text)
	return 0
}
