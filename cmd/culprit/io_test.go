package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// write keeps dd writing to a file until the test ends.
func write(t *testing.T) {
	t.Helper()
	inBackground(t, writer(filepath.Join(t.TempDir(), "data")))
}

// writer is dd, writing to a file now and then for ever: in an emulated machine, more of it would have a CPU for itself.
func writer(file string) *exec.Cmd {
	return exec.Command("sh", "-c", `while :; do dd if=/dev/zero of="$0" bs=64k count=16 oflag=direct status=none; sleep 0.05; done`, file)
}

// inBackground runs a command and what it runs until the test ends.
func inBackground(t *testing.T, load *exec.Cmd) {
	t.Helper()
	if load.SysProcAttr == nil {
		load.SysProcAttr = &syscall.SysProcAttr{}
	}
	load.SysProcAttr.Setpgid = true
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-load.Process.Pid, syscall.SIGKILL)
		load.Wait()
	})
	if testing.Short() { // in an emulated machine, it would have most of a CPU for itself
		if err := syscall.Setpriority(syscall.PRIO_PGRP, load.Process.Pid, 19); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBooks decodes what users' programs decode, and does the sums that DESIGN.md promises.
func TestBooks(t *testing.T) {
	needRoot(t)
	write(t)
	for _, u := range someCallers(t) {
		t.Run(u.name, func(t *testing.T) { checkBooks(t, u) })
	}
}

func checkBooks(t *testing.T, u caller) {
	out := output(t, u.command("io", "--json", "-n", "0", "--duration", "1s"))
	type counts struct {
		Reads, Writes, Discards, Flushes uint64
		ReadBytes                        uint64 `json:"read_bytes"`
		WriteBytes                       uint64 `json:"write_bytes"`
		DiscardBytes                     uint64 `json:"discard_bytes"`
	}
	var report struct {
		Schema  string
		Seconds float64
		By      string
		Rows    []struct {
			App, Device string
			counts
			WriteVia map[string]uint64 `json:"write_via"`
			ReadVia  map[string]uint64 `json:"read_via"`
		}
		Devices []struct {
			Device string
			counts
			ResidualBytes uint64 `json:"residual_bytes"`
			AuditSkew     uint64 `json:"audit_skew"`
		}
		Loss map[string]uint64
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if report.Schema != "culprit.io/1" || report.By != "app" || report.Seconds < 1 {
		t.Errorf("schema %q, by %q, %v seconds", report.Schema, report.By, report.Seconds)
	}
	sum := func(ways map[string]uint64) (n uint64) {
		for _, v := range ways {
			n += v
		}
		return n
	}
	devices := map[string]counts{}
	dd := uint64(0)
	for _, r := range report.Rows {
		if got := sum(r.WriteVia); got != r.WriteBytes {
			t.Errorf("%s on %s: the ways of its writes sum up to %d, not %d", r.App, r.Device, got, r.WriteBytes)
		}
		if got := sum(r.ReadVia); got != r.ReadBytes {
			t.Errorf("%s on %s: the ways of its reads sum up to %d, not %d", r.App, r.Device, got, r.ReadBytes)
		}
		if r.App == "dd" {
			dd += r.WriteVia["direct"]
		}
		d := devices[r.Device]
		d.Reads += r.Reads
		d.Writes += r.Writes
		d.Discards += r.Discards
		d.Flushes += r.Flushes
		d.ReadBytes += r.ReadBytes
		d.WriteBytes += r.WriteBytes
		d.DiscardBytes += r.DiscardBytes
		devices[r.Device] = d
	}
	if dd == 0 {
		t.Error("dd wrote nothing")
	}
	for _, d := range report.Devices {
		if devices[d.Device] != d.counts {
			t.Errorf("%s: the rows sum up to %+v, the device is %+v", d.Device, devices[d.Device], d.counts)
		}
		if d.ResidualBytes > d.AuditSkew {
			t.Errorf("%s: %d bytes residual with a skew of %d", d.Device, d.ResidualBytes, d.AuditSkew)
		}
	}
	if len(report.Loss) == 0 {
		t.Error("no loss counters")
	}
}

// A reader that does not read must not make culprit immortal.
func TestSecondInterruptKills(t *testing.T) {
	needRoot(t)
	full, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	fd := int(pipe.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 4096))
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(), "io")
	cmd.Stdout = pipe
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	time.Sleep(500 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	select {
	case err := <-ended:
		t.Fatalf("ended without having written its report: %v", err)
	case <-time.After(2 * time.Second):
	}
	cmd.Process.Signal(syscall.SIGINT)
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
			t.Errorf("ended with %v, want its death by the signal", err)
		}
	case <-time.After(5 * time.Second):
		cmd.Process.Kill()
		t.Error("still there after the second interrupt")
	}
}

// TestNothingLeftAttached looks for programs that outlive the process that loaded them,
// however it ended.
func TestNothingLeftAttached(t *testing.T) {
	needRoot(t)
	commands := []string{"tcp --worst", "io", "tcp"}
	if testing.Short() {
		commands = commands[:1]
	}
	for _, command := range commands {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			cmd := exec.Command(program(), append(strings.Fields(command), "0.1")...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			bufio.NewReader(out).ReadString('\n') // it is attached
			loaded := programsOf(t, cmd.Process.Pid)
			if len(loaded) == 0 {
				t.Fatalf("%s has no programs", command)
			}
			cmd.Process.Signal(signal)
			cmd.Wait()
			// The kernel frees them a moment later.
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				left := existing(loaded)
				if len(left) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("after %v, these programs of %s are still there: %v", signal, command, left)
					break
				}
			}
		}
	}
}

// programsOf are the ids of the programs that a process has open, from its fdinfo.
func programsOf(t *testing.T, pid int) map[ebpf.ProgramID]bool {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[ebpf.ProgramID]bool{}
	for _, info := range infos {
		text, _ := os.ReadFile(info)
		for line := range strings.Lines(string(text)) {
			var id ebpf.ProgramID
			if n, _ := fmt.Sscanf(line, "prog_id: %d", &id); n == 1 {
				ids[id] = true
			}
		}
	}
	return ids
}

// existing are those of ids that the kernel still has.
func existing(ids map[ebpf.ProgramID]bool) (left []ebpf.ProgramID) {
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		if ids[id] {
			left = append(left, id)
		}
	}
	return left
}
