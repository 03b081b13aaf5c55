// Package livetest is what the tests on the running kernel share: disks to work on,
// child processes that do known work under a name of their own, and a watch that
// adds up what the io probe reports. Everything that a test makes is gone when it ends.
package livetest

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Main runs a package's tests; in a child process, it does the child's work instead, which may be one of more
// jobs than every package has.
func Main(m *testing.M, more map[string]Job) {
	ChildMain(more)
	os.Exit(alone(m.Run))
}

// ChildMain does a child's work in a child process, and does not return there. It is for packages whose main function is not Main.
func ChildMain(more map[string]Job) {
	if job := os.Getenv(jobVariable); job != "" {
		os.Exit(work(job, os.Args[1:], more))
	}
}

// alone runs f while no other package's live tests run: they set system-wide
// knobs and drop caches. The lock is on a directory, so that it leaves nothing behind.
func alone(f func() int) int {
	dir, err := os.Open(os.TempDir())
	if err != nil {
		return f()
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return f()
	}
	return f()
}

// Less is how much of a load to make: n, or a quarter of it where time is short (go test -short), as it is when
// every instruction is emulated.
func Less(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}

// NeedRoot fails a test that cannot work without root: a test that skips itself rots.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test loads BPF programs and mounts disks: run it as root")
	}
}

// NeedConfig skips a test of what the running kernel was built without, where it tells (CONFIG_IKCONFIG_PROC).
// Everywhere else it must be there.
func NeedConfig(t testing.TB, option string) {
	t.Helper()
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		return
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(config)) {
		if strings.HasPrefix(line, option+"=") {
			return
		}
	}
	t.Skip("this kernel was built without " + option)
}

// Command runs a program to its end and returns what it wrote to its standard output.
func Command(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Compile makes a program from C source: a process of it begins and ends within a
// millisecond, which one of Go cannot.
func Compile(t testing.TB, name, source string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	Command(t, "gcc", "-static", "-O1", "-Wall", "-Werror", "-o", path, path+".c")
	return path
}

// Lives is the source of a program that makes processes of a millisecond, one after the
// other: Lives NAME FIRST COUNT [DIR [dirty]]. Each is called NAME with its number; with DIR,
// it writes one file of 4 KiB there, called as itself, and syncs it unless it is to stay dirty.
const Lives = `
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char page[4096];

static int live(const char *name, const char *dir, const char *dirty)
{
	char path[4096];
	int fd;

	prctl(PR_SET_NAME, name);
	if (!dir)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT, 0644);
	return fd < 0 || write(fd, page, sizeof(page)) != sizeof(page) || (!dirty && fsync(fd));
}

int main(int argc, char **argv)
{
	int first = atoi(argv[2]), count = atoi(argv[3]), status;

	for (int i = first; i < first + count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s%d", argv[1], i);
		switch (fork()) {
		case -1:
			return 2;
		case 0:
			_exit(live(name, argv[4], argv[4] ? argv[5] : 0));
		}
		if (wait(&status) < 0 || status)
			return 1;
	}
	return 0;
}
`

// Sysctl sets a knob below /proc/sys for the time of the test.
func Sysctl(t testing.TB, name string, value int) {
	t.Helper()
	NeedRoot(t)
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, old, 0o644); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(path, []byte(strconv.Itoa(value)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// DirtyLimit makes the kernel throttle writers above so many dirty bytes, for the time
// of the test. Each _bytes knob and its _ratio replace each other: 0 cannot be written, so
// that the ratios must be put back instead.
func DirtyLimit(t testing.TB, bytes int) {
	t.Helper()
	NeedRoot(t)
	for _, knob := range []struct {
		name  string
		value int
	}{{"dirty_background", bytes / 2}, {"dirty", bytes}} {
		for _, form := range []string{"_bytes", "_ratio"} {
			path := "/proc/sys/vm/" + knob.name + form
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(old)) == "0" {
				continue
			}
			t.Cleanup(func() {
				if err := os.WriteFile(path, old, 0o644); err != nil {
					t.Error(err)
				}
			})
		}
		if err := os.WriteFile("/proc/sys/vm/"+knob.name+"_bytes", []byte(strconv.Itoa(knob.value)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// DropCaches makes the next reads of a file come from its disk. The kernel drops what it can: a page that a CPU is about to put on a list of
// pages stays until that is done.
func DropCaches(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path) // beforehand: it may take reading, too
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("mapping %s: %v", path, err)
	}
	defer unix.Munmap(mem)
	for deadline := time.Now().Add(10 * time.Second); ; {
		unix.Sync()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644); err != nil {
			t.Fatal(err)
		}
		pages := resident(t, mem)
		if pages == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pages of %s stay in memory", pages, path)
		}
	}
}

// resident is how many pages of a mapping are in memory.
func resident(t testing.TB, mem []byte) (pages int) {
	t.Helper()
	page := os.Getpagesize()
	in := make([]byte, (len(mem)+page-1)/page)
	if _, _, failed := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&in[0]))); failed != 0 {
		t.Fatalf("asking which pages are in memory: %v", failed)
	}
	for _, flags := range in {
		pages += int(flags & 1)
	}
	return pages
}

// Try runs a program to its end; it may be called on any goroutine.
func Try(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
