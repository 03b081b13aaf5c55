package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// namedNamespaces is where ip-netns(8) keeps names, on the host whose procfs is at proc.
func namedNamespaces(proc string) string {
	const dir = "/run/netns"
	if proc == hostProc {
		return dir
	}
	return filepath.Join(proc, "1/root", dir)
}

// registerNamespace is for what is about network namespaces.
func (f *tcpFlags) registerNamespace(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.namespace, "namespace", "", "only the network namespace `NS`: its inode as reports show it, a path such as /proc/PID/ns/net, or a name of ip netns")
	offer := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		if distrust(f.proc, f.sys) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		entries, _ := os.ReadDir(namedNamespaces(f.proc))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names, cobra.ShellCompDirectiveDefault // or a file
	}
	if err := cmd.RegisterFlagCompletionFunc("namespace", offer); err != nil {
		panic(err) // no such flag
	}
}

// checkNamespace finds what no network namespace is called.
func (f *tcpFlags) checkNamespace() error {
	path := f.namespace
	if !strings.Contains(path, "/") {
		if inode, err := strconv.ParseUint(f.namespace, 10, 32); err == nil && inode > 0 {
			f.netns = uint32(inode)
			return nil
		}
		path = filepath.Join(namedNamespaces(f.proc), f.namespace)
	}
	var err error
	if f.netns, err = inodeOfNamespace(path); err != nil {
		return usagef("bad --namespace %q: %v: give a network namespace's inode, a path such as /proc/PID/ns/net, or a name of ip netns", f.namespace, err)
	}
	return nil
}

// inodeOfNamespace opens no file that is none: it may be another user's device.
func inodeOfNamespace(path string) (uint32, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, err
	}
	errNone := errors.New("no network namespace")
	if fs.Type != unix.NSFS_MAGIC {
		return 0, errNone
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return 0, errNone
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0, err
	}
	return uint32(stat.Ino), nil
}
