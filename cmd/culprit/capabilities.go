package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// needed are the capabilities without which nothing works, and what for.
var needed = []struct {
	cap.Value
	why string
}{
	{cap.BPF, "loads BPF programs and maps"},
	{cap.PERFMON, "attaches them to tracepoints, and reads kernel memory there"},
}

// Why the kernel refuses, and what to do about it.
const (
	capabilityRemedy = "run as root, or once as root: setcap cap_bpf,cap_perfmon=ep culprit"
	namespaceRemedy  = "run in the host's user namespace: capabilities of another one do not count"
	lockdownRemedy   = "boot with lockdown=integrity or less: confidentiality hides kernel memory from BPF"
	noTypes          = "this kernel does not describe its types (BTF)"
	noTypesRemedy    = "use a kernel with CONFIG_DEBUG_INFO_BTF=y, and let /sys/kernel/btf/vmlinux be seen here"
)

// hasCapability is whether this process has a capability in effect.
func hasCapability(c cap.Value) bool {
	has, err := cap.GetProc().GetFlag(cap.Effective, c)
	return err == nil && has
}

// mayTrace is the same for one that is needed; CAP_SYS_ADMIN stands for each of them
// (bpf_capable() and perfmon_capable(), include/linux/capability.h).
func mayTrace(c cap.Value) bool { return hasCapability(c) || hasCapability(cap.SYS_ADMIN) }

// capabilityName is as in capabilities(7).
func capabilityName(c cap.Value) string { return strings.ToUpper(c.String()) }

// missingCapabilities lists what is needed and not there, "" if nothing.
func missingCapabilities() string {
	var missing []string
	for _, c := range needed {
		if !mayTrace(c.Value) {
			missing = append(missing, capabilityName(c.Value))
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

// refusal explains why the kernel did not permit something, to a process that lacked the
// capabilities missing.
func refusal(text, missing string) string {
	switch {
	case missing != "":
		return "missing " + missing + ": " + capabilityRemedy
	case ownUserNamespace():
		return text + ": " + namespaceRemedy
	case lockdown() == "confidentiality":
		return text + ": " + lockdownRemedy
	}
	return text + " (culprit doctor says more)"
}

// stillNeeded are the capabilities that reports go on to use after everything is attached, given where
// the host is seen. CAP_BPF and CAP_PERFMON are not among them: the kernel asks for them where maps are
// made and programs loaded (map_create() and bpf_prog_load(), kernel/bpf/syscall.c; __sys_bpf() itself
// asks for no other command since 5.19). Whatever is done afterwards needs the file descriptor alone:
// reading and mapping maps, running a program (bpf_prog_test_run()), its statistics
// (bpf_prog_get_info_by_fd()), and attaching it (bpf_raw_tp_link_attach()), to an iterator, too, which is then opened
// (bpf_iter_link_attach() and bpf_iter_new_fd(), kernel/bpf/bpf_iter.c): what it shows is the program's affair.
func stillNeeded(proc string) (keep []cap.Value) {
	// Container runtimes keep names in directories of root, who needs no capability
	// for them (generic_permission(), fs/namei.c).
	if os.Geteuid() != 0 {
		keep = append(keep, cap.DAC_READ_SEARCH)
	}
	// The host's files are seen through a link in its procfs
	// (proc_pid_get_link(), fs/proc/base.c), which is not only its owner's.
	if proc != hostProc {
		keep = append(keep, cap.SYS_PTRACE)
	}
	return keep
}

// limit gives up, on all threads and for good, all capabilities but those to keep.
func limit(keep ...cap.Value) error {
	// Executing a program gives none back. From here on, this one executes none.
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("forgoing new privileges: %w", err)
	}
	return drop(keep...)
}

// drop is the same, but what is executed afterwards may have them again.
func drop(keep ...cap.Value) error {
	left := cap.NewSet()
	for _, c := range keep {
		if !hasCapability(c) {
			continue
		}
		for _, set := range []cap.Flag{cap.Effective, cap.Permitted} {
			if err := left.SetFlag(set, true, c); err != nil {
				return fmt.Errorf("keeping %v: %w", c, err)
			}
		}
	}
	// With the inheritable ones go the ambient ones (cap_capset(), security/commoncap.c).
	if err := left.SetProc(); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// distrust sees to it that who runs a program with file capabilities cannot make it read files of
// their choice with any: below --proc and --sys, their own rights are all that count.
func distrust(proc, sys string) error {
	if proc == hostProc && sys == hostSys || !privilegedByFile() {
		return nil
	}
	return drop(cap.BPF, cap.PERFMON)
}

// atSecure is AT_SECURE of linux/auxvec.h.
const atSecure = 23

// privilegedByFile is whether this process owes its capabilities to the program's file, and
// not to whoever executed it (cap_bprm_creds_from_file(), security/commoncap.c).
func privilegedByFile() bool {
	vector, err := unix.Auxv()
	if err != nil {
		return true
	}
	for _, v := range vector {
		if v[0] == atSecure {
			return v[1] != 0
		}
	}
	return false
}
