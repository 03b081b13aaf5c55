package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"culprit/probes/internal/kernels/wire"
)

// machine is a virtual machine that runs some packages of the plan on its test disk.
type machine struct {
	kernel    installed
	cpu       string // its model
	processor int    // of this machine's, that it has
	initramfs string
	root      string // disk, shared by all machines
	tests     string // disk
	packages  []string
	flags     []string // for the tests, beside those of the plan
}

const (
	memory  = "4G"
	diskMiB = 1536 // of a disk to write to
	// silence is how long a machine may report nothing: longer than the longest test takes.
	silence = 6 * time.Minute
)

// errHung is why a machine was ended that reported nothing any more.
var errHung = fmt.Errorf("nothing reported for %v", silence)

// run starts the machine and hands over what it reports, until it is done. dir is for its disks
// and its console.
func (m machine) run(ctx context.Context, dir string, event func(wire.Event)) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	console := filepath.Join(dir, "console")
	// Emulation alone: where there is KVM, it need not take any kernel. Its
	// threads for several CPUs have let kernels trip over what no hardware does.
	drive := func(name, file, options string) []string {
		return []string{"-drive", "if=none,format=raw,id=" + name + ",file=" + file + "," + options, "-device", "nvme,serial=" + name + ",drive=" + name}
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,thread=single", "-cpu", m.cpu, "-smp", "2", "-m", memory,
		"-kernel", m.kernel.image, "-initrd", m.initramfs,
		// Grace periods take long where little happens. The clock is left to the kernel: what it measures it against is not exact
		// either, on a busy machine, and it finds that out.
		"-append", "console=ttyS0 panic=-1 oops=panic loglevel=5 mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off nowatchdog rcupdate.rcu_expedited=1 -- " + strings.Join(slices.Concat(m.packages, m.flags), " "),
		"-serial", "file:" + console,
		"-chardev", "stdio,id=report,signal=off", "-serial", "chardev:report",
	}
	args = append(args, drive(wire.RootDisk, m.root, "readonly=on")...)
	args = append(args, drive(wire.TestDisk, m.tests, "readonly=on")...)
	writable := []string{wire.TempDisk}
	for i := range wire.SpareCount {
		writable = append(writable, fmt.Sprint(wire.SpareDisks, i))
	}
	for _, name := range writable {
		disk := filepath.Join(dir, name)
		if err := os.WriteFile(disk, nil, 0o600); err != nil {
			return err
		}
		defer os.Remove(disk)
		if err := os.Truncate(disk, diskMiB<<20); err != nil {
			return err
		}
		args = append(args, drive(name, disk, "cache=unsafe,discard=unmap")...)
	}
	if _, err := run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", filepath.Join(dir, wire.TempDisk)); err != nil {
		return err
	}
	// All of it on one processor: with one thread for all CPUs, QEMU 7.2 leaves out the guest's memory barriers (tcg_gen_mb()),
	// and its NVMe disks, which are another thread, lose one of some thousands of doorbells to that: the driver resets them a minute later.
	args = append([]string{"-c", fmt.Sprint(m.processor), "qemu-system-x86_64"}, args...)
	qemu := exec.CommandContext(ctx, "taskset", args...)
	var stderr bytes.Buffer
	qemu.Stderr = &stderr
	report, err := qemu.StdoutPipe()
	if err != nil {
		return err
	}
	if err := qemu.Start(); err != nil {
		return fmt.Errorf("starting the machine: %w", err)
	}
	alive := time.AfterFunc(silence, func() { end(errHung) })
	defer alive.Stop()
	for events := json.NewDecoder(report); ; {
		var e wire.Event
		if err = events.Decode(&e); err != nil {
			break
		}
		alive.Reset(silence)
		event(e)
		if e.Done {
			end(nil) // at once: what was suspended does not always power off
			qemu.Wait()
			return nil
		}
	}
	if !errors.Is(err, io.EOF) {
		end(fmt.Errorf("reading the report: %w", err))
	}
	if err := qemu.Wait(); err != nil && context.Cause(ctx) == nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%w; the console's last lines:\n%s", err, tail(console, 40))
	}
	return fmt.Errorf("the machine ended early; the console's last lines:\n%s", tail(console, 40))
}

// tail is the end of a file.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
