package io

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// mounts are where file systems are mounted, by device.
type mounts map[uint32]mount

type mount struct {
	root, point string // the directory of the file system that is seen at point
	source      string
}

// readMounts reads the first of some mountinfo files (proc_pid_mountinfo(5)) that it may
// read; what cannot be read is not in it, and paths then stay relative to their file system.
func readMounts(files ...string) mounts {
	m := mounts{}
	var f *os.File
	for _, file := range files {
		var err error
		if f, err = os.Open(file); err == nil {
			break
		}
	}
	if f == nil {
		return m
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 {
			continue
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		ma, err1 := strconv.ParseUint(major, 10, 12)
		mi, err2 := strconv.ParseUint(minor, 10, 20)
		if err1 != nil || err2 != nil {
			continue
		}
		_, rest, _ := strings.Cut(lines.Text(), " - ")
		tail := strings.Fields(rest)
		device := uint32(ma<<20 | mi)
		now := mount{root: unescape(fields[3]), point: unescape(fields[4])}
		if len(tail) > 1 {
			now.source = path.Base(unescape(tail[1]))
		}
		// The mount that shows most of the file system tells most paths.
		if old, ok := m[device]; !ok || len(now.root) < len(old.root) {
			m[device] = now
		}
	}
	return m
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// diskOf is the whole disk that a file system's device is, or is a partition of, as rows name it. A file
// system of several disks has a number of its own, and is named by its mount.
func (p *Probe) diskOf(device uint32, m mounts) string {
	dir, err := filepath.EvalSymlinks(filepath.Join(p.options.Sys, "dev/block", fmt.Sprintf("%d:%d", device>>20, device&(1<<20-1))))
	if err != nil {
		return m.device(device)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	return filepath.Base(dir)
}

// device is the name of the block device that a file system is on.
func (m mounts) device(device uint32) string {
	if mount, ok := m[device]; ok && mount.source != "" {
		return mount.source
	}
	return fmt.Sprintf("%d:%d", device>>20, device&(1<<20-1))
}

// path is where a file of a file system is seen in the mount tree.
func (m mounts) path(device uint32, file string) string {
	mount, ok := m[device]
	if !ok {
		return file
	}
	if mount.root == "/" {
		return path.Join(mount.point, file)
	}
	if rest, ok := strings.CutPrefix(file, mount.root+"/"); ok {
		return path.Join(mount.point, rest)
	}
	return file
}
