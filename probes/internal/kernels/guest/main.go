// Guest is the first process of a virtual machine of the kernel matrix. It makes the
// root file system usable, runs test binaries in it, one after the other, reports what they
// print to the second serial port, where no kernel message can come between, and
// switches the machine off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"culprit/probes/internal/kernels/wire"
)

func main() {
	err := run()
	if err != nil {
		fmt.Println("guest:", err) // the console, which is shown when a report ends early
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// loopback brings up the device that tests talk to themselves by.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("looking for the loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing up the loopback device: %w", err)
	}
	return nil
}

func run() error {
	for fs, dir := range map[string]string{"devtmpfs": "/dev", "sysfs": "/sys"} {
		if err := mount(fs, dir); err != nil {
			return err
		}
	}
	if err := loopback(); err != nil {
		return err
	}
	disks, err := waitForDisks()
	if err != nil {
		return err
	}
	if err := enter(disks); err != nil {
		return err
	}
	port, err := os.OpenFile(wire.Port, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := raw(port); err != nil {
		return err
	}
	report := json.NewEncoder(port)
	text, err := os.ReadFile(wire.PlanFile)
	if err != nil {
		return err
	}
	var plan []wire.Test
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	for _, t := range plan {
		if !slices.Contains(os.Args, t.Package) {
			continue
		}
		for _, arg := range os.Args[1:] {
			if strings.HasPrefix(arg, "-") {
				t.Args = append(t.Args, arg)
			}
		}
		status, err := test(t, spare(disks), report)
		if err != nil {
			return fmt.Errorf("running %s: %w", t.Package, err)
		}
		if err := report.Encode(wire.Event{Package: t.Package, Ended: true, Status: status}); err != nil {
			return err
		}
	}
	if err := report.Encode(wire.Event{Done: true}); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1) // until it has been sent
}

// raw keeps the terminal driver from changing what is written.
func raw(port *os.File) error {
	t, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	return unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, t)
}

func mount(fs, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fs, dir, fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mounting %s: %w", fs, err)
	}
	return nil
}

// waitForDisks finds the disks' nodes by their serial numbers.
func waitForDisks() (map[string]string, error) {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		disks := map[string]string{}
		dirs, _ := filepath.Glob("/sys/block/nvme*")
		for _, dir := range dirs {
			serial, _ := os.ReadFile(filepath.Join(dir, "device/serial"))
			disks[strings.TrimSpace(string(serial))] = filepath.Join("/dev", filepath.Base(dir))
		}
		if disks[wire.RootDisk] != "" && disks[wire.TestDisk] != "" && disks[wire.TempDisk] != "" && len(spare(disks)) == wire.SpareCount {
			return disks, nil
		}
		if time.Since(begin) > time.Minute {
			return nil, fmt.Errorf("not all disks are there: %v", disks)
		}
	}
}

func spare(disks map[string]string) []string {
	var nodes []string
	for serial, node := range disks {
		if strings.HasPrefix(serial, wire.SpareDisks) {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// enter makes a disk, which is not written to, the root, as switch_root(8) does.
func enter(disks map[string]string) error {
	const root = "/root"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(disks[wire.RootDisk], root, "ext4", unix.MS_RDONLY, "noload"); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	if err := unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving /dev: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	for _, m := range []struct{ fs, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devpts", "/dev/pts"}, {"tmpfs", "/run"},
		{"tmpfs", "/dev/shm"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := mount(m.fs, m.dir); err != nil {
			return err
		}
	}
	if err := unix.Mount(disks[wire.TempDisk], "/tmp", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mounting /tmp: %w", err)
	}
	if err := unix.Mount(disks[wire.TestDisk], wire.TestDir, "ext4", unix.MS_RDONLY, "noload"); err != nil {
		return fmt.Errorf("mounting the tests: %w", err)
	}
	if err := unix.Mount(filepath.Join(wire.TestDir, "modules"), "/usr/lib/modules", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the modules: %w", err)
	}
	return os.Chmod("/tmp", 0o777|os.ModeSticky)
}

// test runs one test binary to its end. Whatever else it leaves behind falls to this process, as
// to every first one, and is waited for.
func test(t wire.Test, disks []string, report *json.Encoder) (status int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	program := t.Path(wire.TestDir)
	pid, err := syscall.ForkExec(program, append([]string{program}, t.Args...), &syscall.ProcAttr{
		Dir: t.Dir(wire.TestDir),
		Env: append(t.Env(wire.TestDir), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LANG=C.UTF-8",
			wire.SpareDisksVariable+"="+strings.Join(disks, ":"), wire.GuestVariable+"=1"),
		Files: []uintptr{0, w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return 0, err
	}
	forwarded := make(chan error, 1)
	go func() { forwarded <- forward(r, t.Package, report) }()
	for {
		var ws unix.WaitStatus
		switch waited, err := unix.Wait4(-1, &ws, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case waited == pid:
			// What it left running would have the pipe open, and disturb the next.
			syscall.Kill(-pid, syscall.SIGKILL)
			select {
			case err = <-forwarded:
			case <-time.After(10 * time.Second):
				return 0, errors.New("somebody still holds what the test wrote to")
			}
			if ws.Signaled() {
				return 128 + int(ws.Signal()), err
			}
			return ws.ExitStatus(), err
		}
	}
}

func forward(r io.Reader, pkg string, report *json.Encoder) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := report.Encode(wire.Event{Package: pkg, Output: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
