package main

import (
	"os"
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
	{"CAP_BPF", unix.CAP_BPF, "loads BPF programs and maps"},
	{"CAP_PERFMON", unix.CAP_PERFMON, "attaches them to tracepoints, and reads kernel memory there"},
}

// Why the kernel refuses, and what to do about it.
const (
	capabilityRemedy = "run as root, or once as root: setcap cap_bpf,cap_perfmon=ep culprit"
	namespaceRemedy  = "run in the host's user namespace: capabilities of another one do not count"
	lockdownRemedy   = "boot with lockdown=integrity or less: confidentiality hides kernel memory from BPF"
	noTypes          = "this kernel does not describe its types (BTF)"
	noTypesRemedy    = "use a kernel with CONFIG_DEBUG_INFO_BTF=y, and let /sys/kernel/btf/vmlinux be seen here"
)

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

// ownUserNamespace is whether this process is in a user namespace that does
// not map all ids, which only the first one does (user_namespaces(7)).
func ownUserNamespace() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295"
}

// lockdown is the kernel's lockdown mode, "" where it does not say.
func lockdown() string {
	modes, _ := os.ReadFile("/sys/kernel/security/lockdown")
	_, rest, _ := strings.Cut(string(modes), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// refusal explains why the kernel did not permit something.
func refusal(text string) string {
	switch missing := missingCapabilities(); {
	case missing != "":
		return "missing " + missing + ": " + capabilityRemedy
	case ownUserNamespace():
		return text + ": " + namespaceRemedy
	case lockdown() == "confidentiality":
		return text + ": " + lockdownRemedy
	}
	return text + " (culprit doctor says more)"
}
