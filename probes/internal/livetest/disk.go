package livetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a block device that a test may do with as it likes.
type Disk struct {
	Name string // as in /sys/block
	Dev  string // its node
	Dir  string // where it is mounted, "" if it is not
	fs   string
}

// Remount mounts the disk anew, so that the kernel knows nothing of its file system any more.
func (d Disk) Remount(t testing.TB) {
	t.Helper()
	unmount(t, d.Dir)
	if err := unix.Mount(d.Dev, d.Dir, d.fs, 0, ""); err != nil {
		t.Fatalf("mounting %s again: %v", d.Dev, err)
	}
}

// spareDisks names, in the environment, disks that tests may overwrite, separated by colons: the
// virtual machines of the kernel matrix have some.
const spareDisks = "CULPRIT_TEST_DISKS"

// inUse are the spare disks that tests have.
var inUse = map[string]bool{}

// takeSpare finds a spare disk of so many MiB, until the test's end.
func takeSpare(t testing.TB, mib int64) (dev string, ok bool) {
	for _, dev := range filepath.SplitList(os.Getenv(spareDisks)) {
		sectors, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(dev), "size"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(sectors)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if inUse[dev] || n>>11 < mib {
			continue
		}
		inUse[dev] = true
		t.Cleanup(func() { delete(inUse, dev) })
		return dev, true
	}
	return "", false
}

// NewDisk finds a spare disk of so many MiB, or makes a loop device over memory, and, unless fs is "", a
// file system on it, with these options of its mkfs, mounted.
func NewDisk(t testing.TB, fs string, mib int64, options ...string) Disk {
	t.Helper()
	NeedRoot(t)
	dev, ok := takeSpare(t, mib)
	if !ok {
		dev = newLoop(t, mib)
	}
	d := Disk{Name: filepath.Base(dev), Dev: dev}
	// A new journal numbers its transactions as that of the file system before it did, which are to be forgotten by then.
	if common != nil {
		if err := common.Table.Collect(); err != nil {
			t.Fatal(err)
		}
	}
	d.mount(t, fs, options)
	return d
}

func newLoop(t testing.TB, mib int64) (dev string) {
	t.Helper()
	LoadModule("loop", "/dev/loop-control")
	memory := "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		memory = t.TempDir()
	}
	backing, err := os.CreateTemp(memory, "culprit-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	t.Cleanup(func() { os.Remove(backing.Name()) })
	if err := backing.Truncate(mib << 20); err != nil {
		t.Fatal(err)
	}
	dev = strings.TrimSpace(Command(t, "losetup", "--find", "--show", backing.Name()))
	t.Cleanup(func() { Command(t, "losetup", "--detach", dev) })
	return dev
}

// LoadModule loads a module unless what it makes is there. Whether that worked, shows when it is used.
func LoadModule(name, makes string) {
	if _, err := os.Stat(makes); err != nil {
		exec.Command("modprobe", name).Run()
	}
}

// NewZram adds a zram device of so many MiB: one that takes bios, not requests.
func NewZram(t testing.TB, mib int) Disk {
	t.Helper()
	NeedRoot(t)
	const control = "/sys/class/zram-control/"
	LoadModule("zram", control)
	id, err := os.ReadFile(control + "hot_add") // reading it adds one
	if err != nil {
		t.Fatalf("this kernel has no zram: %v", err)
	}
	number := strings.TrimSpace(string(id))
	d := Disk{Name: "zram" + number, Dev: "/dev/zram" + number}
	t.Cleanup(func() {
		write(t, "/sys/block/"+d.Name+"/reset", "1")
		write(t, control+"hot_remove", number)
	})
	write(t, "/sys/block/"+d.Name+"/disksize", strconv.Itoa(mib<<20))
	return d
}

// NewLinear puts a device-mapper device over a whole disk: one that takes bios, and hands them down.
func NewLinear(t testing.TB, lower Disk) Disk {
	t.Helper()
	NeedConfig(t, "CONFIG_BLK_DEV_DM")
	LoadModule("dm-mod", "/dev/mapper/control")
	sectors := strings.TrimSpace(Command(t, "blockdev", "--getsz", lower.Dev))
	name := "culprit-test-" + lower.Name
	Command(t, "dmsetup", "create", name, "--table", "0 "+sectors+" linear "+lower.Dev+" 0")
	t.Cleanup(func() { Command(t, "dmsetup", "remove", "--retry", name) })
	kernel := "dm-" + strings.TrimSpace(Command(t, "dmsetup", "info", "--columns", "--noheadings", "--options", "minor", name))
	return Disk{Name: kernel, Dev: "/dev/" + kernel}
}

// NewMirror makes an md device of two disks.
func NewMirror(t testing.TB, a, b Disk) Disk {
	t.Helper()
	NeedConfig(t, "CONFIG_BLK_DEV_MD")
	LoadModule("raid1", "/sys/module/raid1")
	const dev = "/dev/md77"
	Command(t, "mdadm", "--create", dev, "--run", "--level=1", "--raid-devices=2", "--metadata=1.0", "--assume-clean", "--bitmap=none", a.Dev, b.Dev)
	t.Cleanup(func() {
		Command(t, "mdadm", "--stop", dev)
		Command(t, "mdadm", "--zero-superblock", a.Dev, b.Dev)
	})
	return Disk{Name: filepath.Base(dev), Dev: dev}
}

// Mount makes a file system on the disk and mounts it, as NewDisk does.
func (d *Disk) Mount(t testing.TB, fs string, options ...string) {
	t.Helper()
	d.mount(t, fs, options)
}

// mount makes a file system on the disk and mounts it.
func (d *Disk) mount(t testing.TB, fs string, options []string) {
	t.Helper()
	switch fs {
	case "":
		return
	case "ext4":
		// Lazy initialisation would be the kernel's own I/O for minutes to come.
		options = append(options, "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0")
	case "xfs":
		LoadModule("xfs", "/sys/fs/xfs")
		options = append(options, "-f")
	case "btrfs":
		LoadModule("btrfs", "/sys/fs/btrfs")
		options = append(options, "-f")
	default:
		t.Fatalf("no way to make %q", fs)
	}
	Command(t, "mkfs."+fs, append(options, "-q", d.Dev)...)
	d.Dir, d.fs = t.TempDir(), fs
	if err := unix.Mount(d.Dev, d.Dir, fs, 0, ""); err != nil {
		t.Fatalf("mounting %s on %s: %v", fs, d.Dev, err)
	}
	t.Cleanup(func() { unmount(t, d.Dir) })
	unix.Sync()
}

// unmount is patient with what is still being closed.
func unmount(t testing.TB, dir string) {
	var err error
	for range 50 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("unmounting %s: %v", dir, err)
	}
}

// Path is a name on the disk's file system.
func (d Disk) Path(name string) string { return filepath.Join(d.Dir, name) }

// Clear deletes all files.
func (d Disk) Clear(t testing.TB) {
	t.Helper()
	files, err := filepath.Glob(d.Path("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == "lost+found" {
			continue
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
