package livetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// jobVariable names, in the environment of a child, what it shall do.
const jobVariable = "CULPRIT_TEST_JOB"

func init() {
	// A child's I/O is its main thread's, whose statistics are those of /proc/self.
	if os.Getenv(jobVariable) != "" {
		runtime.LockOSThread()
	}
}

// Job is what a child does. Its result, as JSON, is what the child prints.
type Job func(args []string) (result any, err error)

// Child is a process that does one job under a name of its own.
type Child struct {
	t      testing.TB
	cmd    *exec.Cmd
	output bytes.Buffer
	PID    int
}

// ChildCommand is how to do a job, one of Main's or of jobs, in a child process called comm.
func ChildCommand(comm, job string, args ...any) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, comm)
	for _, a := range args {
		cmd.Args = append(cmd.Args, fmt.Sprint(a))
	}
	// One thread does everything, and the collector of so short a life would only add others.
	cmd.Env = append(os.Environ(), jobVariable+"="+job, "GOGC=off")
	ends, err := lifeline()
	cmd.Stdin = ends[0]
	return cmd, err
}

// lifeline is a pipe that nobody writes to. Its other end is the tests' process's alone, and closed when that is gone, in whichever
// way: then all its children go, too, and theirs.
var lifeline = sync.OnceValues(func() (ends [2]*os.File, err error) {
	if os.Getenv(jobVariable) != "" {
		return [2]*os.File{os.Stdin}, nil
	}
	ends[0], ends[1], err = os.Pipe()
	return ends, err
})

// hold has the kernel kill this process when its lifeline ends: no thread of it has to wait for that, which could be seen in what it does.
func hold() error {
	// A file of its own, as a signal of a file goes to one process.
	fd, err := unix.Open("/proc/self/fd/0", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, set := range []struct{ command, value int }{
		{unix.F_SETOWN, os.Getpid()}, {unix.F_SETSIG, int(unix.SIGKILL)}, {unix.F_SETFL, unix.O_ASYNC | unix.O_NONBLOCK},
	} {
		if _, err := unix.FcntlInt(uintptr(fd), set.command, set.value); err != nil {
			return err
		}
	}
	now := []unix.PollFd{{Fd: int32(fd)}}
	if _, err := unix.Poll(now, 0); err != nil {
		return err
	}
	if now[0].Revents&unix.POLLHUP != 0 {
		return errors.New("nobody waits for this process")
	}
	return nil
}

// Start begins a job in a child process called comm. If it has not been waited for when the test ends, it is killed.
func Start(t testing.TB, comm, job string, args ...any) *Child {
	t.Helper()
	cmd, err := ChildCommand(comm, job, args...)
	if err != nil {
		t.Fatal(err)
	}
	c := &Child{t: t, cmd: cmd}
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.PID = c.cmd.Process.Pid
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.cmd.Process.Kill()
			c.cmd.Wait()
		}
	})
	return c
}

// Wait is until the job, one of jobs, is done. It returns how long its only thread slept.
func (c *Child) Wait() (slept time.Duration) {
	c.t.Helper()
	c.Result(&slept)
	return slept
}

// Result waits until the job is done, and puts its result where this points.
func (c *Child) Result(result any) {
	c.t.Helper()
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatalf("%s: %v\n%s", c.cmd, err, c.output.String())
	}
	if err := json.Unmarshal(c.output.Bytes(), result); err != nil {
		c.t.Fatalf("%s: %v\n%s", c.cmd, err, c.output.String())
	}
}

// Do is Start and Wait.
func Do(t testing.TB, comm, job string, args ...any) time.Duration {
	t.Helper()
	return Start(t, comm, job, args...).Wait()
}

// work is the main function of a child: its name, then the job's arguments.
func work(job string, args []string, more map[string]Job) int {
	f, ok := more[job]
	if io, known := jobs[job]; known && !ok {
		f, ok = asleep(io), true
	}
	if !ok || len(args) == 0 {
		fmt.Fprintf(os.Stderr, "no job %q\n", job)
		return 1
	}
	err := hold()
	if err == nil {
		err = os.WriteFile("/proc/self/comm", []byte(args[0]), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	result, err := f(args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// asleep is a job that tells how long it slept.
func asleep(f func(args []string) error) Job {
	return func(args []string) (any, error) {
		begin := time.Now()
		before, err := busy()
		if err == nil {
			err = f(args)
		}
		took := time.Since(begin)
		after, err2 := busy()
		return took - (after - before), errors.Join(err, err2)
	}
}

// busy is how long this thread ran or waited for a CPU: what is left of the time is sleep, and
// that of a job is for I/O. (Field 42 of /proc/PID/stat would tell directly, but since 6.12 a task whose
// dequeue was delayed can be given another one's beginning: hours too much.)
func busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/self/schedstat")
	if err != nil {
		return 0, err
	}
	var ran, waited time.Duration
	_, err = fmt.Sscan(string(text), &ran, &waited)
	return ran + waited, err
}

// jobs are what children of every package can do.
var jobs = map[string]func(args []string) error{
	"write":     jobWrite,     // FILE SIZE: writes a fresh file
	"pieces":    jobPieces,    // FILE PIECE WHICH OF TOTAL: writes every OF-th piece of a file
	"mmap":      jobMmap,      // FILE SIZE: writes a fresh file through a mapping
	"unlinked":  jobUnlinked,  // FILE SIZE: writes a file and deletes it
	"sync":      jobSync,      // everything
	"fsyncs":    jobFsyncs,    // FILE COUNT: overwrites and syncs 4 KiB
	"read":      jobRead,      // FILE
	"mmapread":  jobMmapRead,  // FILE
	"direct":    jobDirect,    // FILE DURATION: reads 4 KiB at a time, past the cache
	"files":     jobFiles,     // DIR COUNT SIZE: makes files, 100 in a directory
	"remove":    jobRemove,    // DIR
	"remakefor": jobRemakeFor, // DIR DURATION: makes files and removes them, again and again
	"trimfor":   jobTrimFor,   // DIR DURATION: trims a file system, again and again
}

const block = 64 << 10

func jobWrite(args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	buf := make([]byte, block)
	for ; size > 0; size -= len(buf) {
		if _, err := f.Write(buf[:min(size, len(buf))]); err != nil {
			return err
		}
	}
	return f.Close()
}

func jobPieces(args []string) error {
	var n [4]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(args[1+i]); err != nil {
			return err
		}
	}
	piece, which, of, total := n[0], n[1], n[2], n[3]
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	buf := make([]byte, piece)
	for at := which * piece; at < total; at += of * piece {
		if _, err := f.WriteAt(buf, int64(at)); err != nil {
			return err
		}
	}
	return f.Close()
}

func jobMmap(args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for at := 0; at < size; at += os.Getpagesize() {
		mem[at] = 1
	}
	return unix.Munmap(mem)
}

func jobUnlinked(args []string) error {
	if err := jobWrite(args); err != nil {
		return err
	}
	return os.Remove(args[0])
}

func jobSync([]string) error {
	unix.Sync()
	return nil
}

func jobFsyncs(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for range count {
		if _, err := f.WriteAt(buf, 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

func jobRead(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, block)
	for {
		if _, err := f.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func jobMmapRead(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	sum := byte(0)
	for at := 0; at < len(mem); at += os.Getpagesize() {
		sum += mem[at]
	}
	if sum != 0 {
		return fmt.Errorf("the file is not of zeroes")
	}
	return unix.Munmap(mem)
}

func jobDirect(args []string) error {
	duration, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	const size = 4096
	buf := make([]byte, 2*size)
	buf = buf[size-uintptr(unsafe.Pointer(&buf[0]))%size:][:size]
	for end, at := time.Now().Add(duration), int64(0); time.Now().Before(end); at += size {
		if _, err := unix.Pread(fd, buf, at%stat.Size); err != nil {
			return err
		}
	}
	return unix.Close(fd)
}

func jobFiles(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	buf := make([]byte, size)
	for i := range count {
		dir := filepath.Join(args[0], strconv.Itoa(i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), buf, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func jobRemove(args []string) error { return os.RemoveAll(args[0]) }

func jobRemakeFor(args []string) error {
	duration, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	for end := time.Now().Add(duration); time.Now().Before(end); {
		if err := jobFiles([]string{args[0], "200", "5000"}); err != nil {
			return err
		}
		if err := os.RemoveAll(args[0]); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func jobTrimFor(args []string) error {
	duration, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	for end := time.Now().Add(duration); time.Now().Before(end); {
		if err := Try("fstrim", args[0]); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
	return nil
}
