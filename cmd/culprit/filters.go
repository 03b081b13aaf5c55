package main

import (
	"bytes"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"culprit/probes/snapshot"
)

// filters choose owners and a disk, and say where the host is seen.
type filters struct {
	pids      []int
	apps      []string
	cgroups   []string
	users     []string // as given; names, or uids without a name, once checked
	device    string
	proc, sys string
}

// Where the host's trees are on the host itself.
const (
	hostProc = "/proc"
	hostSys  = "/sys"
)

// register is for what is about owners, who did what a command reports: "caused", for one.
func (f *filters) register(cmd *cobra.Command, did string) {
	flags := cmd.Flags()
	flags.IntSliceVarP(&f.pids, "pid", "p", nil, "only what the processes `PID,…` "+did)
	flags.StringSliceVar(&f.apps, "app", nil, "only what the applications `APP,…` "+did)
	flags.StringSliceVar(&f.cgroups, "cgroup", nil, "only what processes in the cgroups `PATH,…` or below "+did)
	flags.StringSliceVar(&f.users, "user", nil, "only what processes of the users `USER,…` (names or uids) "+did)
	f.registerHost(cmd)
}

// registerDevice is for what is about disks.
func (f *filters) registerDevice(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.device, "device", "d", "", "only this whole `DISK`, such as sda or /dev/nvme0n1")
	offer := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		if distrust(f.proc, f.sys) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return disks(f.sys), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc("device", offer); err != nil {
		panic(err) // no such flag
	}
}

// registerHost is for what says where the host is seen.
func (f *filters) registerHost(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.proc, "proc", hostProc, "the host's procfs is mounted at `DIR`")
	cmd.Flags().StringVar(&f.sys, "sys", hostSys, "the host's sysfs is mounted at `DIR`")
}

// check finds what no process or disk can match.
func (f *filters) check() (err error) {
	if err := distrust(f.proc, f.sys); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(f.proc, "diskstats")); err != nil {
		return usagef("bad --proc %q: give where the host's procfs is mounted; there is no diskstats", f.proc)
	}
	if _, err := os.Stat(filepath.Join(f.sys, "block")); err != nil {
		return usagef("bad --sys %q: give where the host's sysfs is mounted; there is no block", f.sys)
	}
	for _, pid := range f.pids {
		if err := f.checkPID(pid); err != nil {
			return err
		}
	}
	for i, u := range f.users {
		if f.users[i], err = userName(u); err != nil {
			return err
		}
	}
	if f.device != "" {
		f.device, err = f.disk(f.device)
	}
	return err
}

func (f *filters) checkPID(pid int) error {
	status, err := os.ReadFile(filepath.Join(f.proc, strconv.Itoa(pid), "status"))
	if err != nil {
		if f.proc == hostProc && pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return usagef("bad --pid %d: this procfs hides it (hidepid): run as root, or with CAP_SYS_PTRACE, too", pid)
		}
		return usagef("bad --pid %d: no such process is running", pid)
	}
	for line := range bytes.Lines(status) {
		if tgid, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			if process := string(bytes.TrimSpace(tgid)); process != strconv.Itoa(pid) {
				return usagef("bad --pid %d: it is a thread; give its process, %s", pid, process)
			}
		}
	}
	return nil
}

// userName is what rows call a user that is given by name or uid.
func userName(given string) (string, error) {
	if _, err := strconv.ParseUint(given, 10, 32); err == nil {
		if u, err := user.LookupId(given); err == nil {
			return u.Username, nil
		}
		return given, nil
	}
	if _, err := user.Lookup(given); err != nil {
		return "", usagef("bad --user %q: no such user is known here; give a name of /etc/passwd or a uid", given)
	}
	return given, nil
}

// disk is the kernel's name of a disk that is given by that, or by a path in /dev.
func (f *filters) disk(given string) (string, error) {
	name := strings.TrimPrefix(given, "/dev/")
	if device, err := filepath.EvalSymlinks(given); err == nil && strings.HasPrefix(given, "/dev/") {
		name = filepath.Base(device) // of links such as /dev/mapper/home and /dev/disk/by-id/…
	}
	if _, err := os.Stat(filepath.Join(f.sys, "block", name)); err == nil && filepath.Base(name) == name {
		return name, nil
	}
	// A partition's directory is in its disk's.
	if dir, err := filepath.EvalSymlinks(filepath.Join(f.sys, "class/block", name)); err == nil && name != "" {
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			return "", usagef("bad --device %q: it is a partition; give its disk, %s", given, filepath.Base(filepath.Dir(dir)))
		}
	}
	return "", usagef("bad --device %q: give a whole disk, one of %s", given, strings.Join(disks(f.sys), ", "))
}

// disks are those that hold anything.
func disks(sys string) []string {
	entries, _ := os.ReadDir(filepath.Join(sys, "block"))
	var names []string
	for _, e := range entries {
		size, err := os.ReadFile(filepath.Join(sys, "block", e.Name(), "size"))
		if err == nil && strings.TrimSpace(string(size)) != "0" {
			names = append(names, e.Name())
		}
	}
	return names
}

// chooses is whether only some owners are asked for.
func (f *filters) chooses() bool {
	return len(f.pids)+len(f.apps)+len(f.cgroups)+len(f.users) > 0
}

// keeps is whether a process is one of those asked for: each kind of filter that
// is given must accept it.
func (f *filters) keeps(p snapshot.Process) bool {
	return (len(f.pids) == 0 || slices.Contains(f.pids, p.PID)) &&
		(len(f.apps) == 0 || slices.Contains(f.apps, p.App)) &&
		(len(f.users) == 0 || slices.Contains(f.users, p.User)) &&
		(len(f.cgroups) == 0 || slices.ContainsFunc(f.cgroups, func(c string) bool { return inCgroup(p.Cgroup, c) }))
}

// inCgroup is whether path is the cgroup or below it; it may be given as seen
// below /sys/fs/cgroup, too.
func inCgroup(path, cgroup string) bool {
	cgroup = "/" + strings.Trim(strings.TrimPrefix(cgroup, "/sys/fs/cgroup"), "/")
	return path == cgroup || cgroup == "/" && path != "" || strings.HasPrefix(path, cgroup+"/")
}
