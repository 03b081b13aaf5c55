package main

import (
	"strings"

	"golang.org/x/sys/unix"
)

// capability is one that culprit uses, and what for.
type capability struct {
	name string
	bit  uint
	why  string
}

// needed are the capabilities without which nothing works.
var needed = []capability{
	{"CAP_BPF", unix.CAP_BPF, "load BPF programs and maps"},
	{"CAP_PERFMON", unix.CAP_PERFMON, "attach them to tracepoints and read kernel memory"},
}

// hasCapability is whether this process has a capability in effect, or
// CAP_SYS_ADMIN, which stands for both of those that are needed.
func hasCapability(bit uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	has := func(bit uint) bool { return data[bit/32].Effective&(1<<(bit%32)) != 0 }
	return has(bit) || has(unix.CAP_SYS_ADMIN)
}

// missingCapabilities lists what is needed and not there, "" if nothing.
func missingCapabilities() string {
	var missing []string
	for _, c := range needed {
		if !hasCapability(c.bit) {
			missing = append(missing, c.name)
		}
	}
	return strings.Join(missing, " and ")
}
