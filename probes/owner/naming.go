package owner

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"culprit/probes/snapshot"
)

// Identity is what the kernel captured of a process.
type Identity struct {
	PID, PPID int
	Started   time.Time
	Comm      string // the kernel's name of the task, at most 15 bytes
	Exe       string // path of the executable, "" for kernel threads

	// Paths in the three cgroup hierarchies: "/" is the root of one, "" that the
	// process is not in it.
	Cgroup2, CgroupSystemd, CgroupMemory string

	UID    uint32
	Kernel bool // a kernel thread
}

// Namer turns identities into named processes. It reads what container runtimes
// leave on the disk and the host's passwd file, remembers both, and is safe for
// concurrent use.
type Namer struct {
	root string

	mu     sync.Mutex
	users  watchedFile
	podman [2]watchedFile
	names  map[string]string // by container id; "" where no runtime told a name
}

// maxNames bounds the memory of a host that starts containers for ever. What is
// dropped costs a few system calls to learn again.
const maxNames = 4096

// NewNamer names the processes of the host whose file system is seen at root.
// Symbolic links below root are followed as the kernel does for culprit itself:
// an absolute one leads out of a root other than "/".
func NewNamer(root string) *Namer {
	const storage = "var/lib/containers/storage/overlay-containers/"
	return &Namer{
		root:  root,
		users: watchedFile{path: filepath.Join(root, "etc/passwd"), parse: passwdNames},
		// The store keeps what `podman run --rm` made in a file of its own
		// (containers/storage, containers.go).
		podman: [2]watchedFile{
			{path: filepath.Join(root, storage+"containers.json"), parse: podmanNames},
			{path: filepath.Join(root, storage+"volatile-containers.json"), parse: podmanNames},
		},
		names: map[string]string{},
	}
}

// deleted is what the kernel appends to the path of an executable (d_path) or of
// a cgroup (proc_cgroup_show) that was removed while in use. An upgrade must not
// split an application in two.
const deleted = " (deleted)"

// Process names the process that id identifies. There is always a name: where a
// file cannot be read, the next best one that the identity itself holds.
func (n *Namer) Process(id Identity) snapshot.Process {
	p := snapshot.Process{
		PID:     id.PID,
		PPID:    id.PPID,
		Started: id.Started,
		Comm:    id.Comm,
		Exe:     strings.TrimSuffix(id.Exe, deleted),
		Cgroup:  cgroupOf(id),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	uid := strconv.FormatUint(uint64(id.UID), 10)
	p.User = cmp.Or(n.users.lookup(uid), uid)
	if id.Kernel {
		p.App = kernelApp(id.Comm)
		return p
	}
	components := strings.Split(p.Cgroup, "/")
	container, name := containerOf(components)
	if container != "" {
		name = cmp.Or(n.containerName(container), container)
	}
	if name != "" {
		// A unit in the path is the container's own, or the runtime's; neither
		// is the service that the administrator knows.
		p.Container, p.App = name, name
		return p
	}
	p.Unit = unitOf(components)
	base := p.Exe[strings.LastIndexByte(p.Exe, '/')+1:]
	// A task may set an empty name: prctl(PR_SET_NAME, "").
	p.App = cmp.Or(p.Unit, base, p.Comm, "[unnamed]")
	if strings.HasPrefix(p.App, "[") && p.App != "[unnamed]" {
		p.App = "./" + p.App // brackets are for what no user can name
	}
	return p
}

// cgroupOf chooses the hierarchy that says most: v2's where it is in use, on
// older hosts systemd's own, without systemd that of the memory controller.
func cgroupOf(id Identity) string {
	for _, path := range [...]string{id.Cgroup2, id.CgroupSystemd, id.CgroupMemory} {
		if path = strings.TrimSuffix(path, deleted); path != "" && path != "/" {
			return path
		}
	}
	return "/"
}

// containerOf finds the innermost container of a cgroup path: its id, or its name
// where the path holds that. Both are "" outside of containers.
func containerOf(components []string) (id, name string) {
	for i, c := range slices.Backward(components) {
		if id := containerID(c); id != "" {
			return id, ""
		}
		if name := namedContainer(components[:i], c, components[i+1:]); name != "" {
			return "", name
		}
	}
	return "", ""
}

// idLength is that of the ids of docker, containerd's CRI, CRI-O and podman: 32
// random bytes in hexadecimal.
const idLength = 64

// containerID is the id in a path component such as ID, docker-ID.scope,
// libpod-payload-ID or, from a CRI runtime whose cgroup driver is not the
// kubelet's, kubepods-podUID.slice:cri-containerd:ID.
func containerID(component string) string {
	component = strings.TrimSuffix(component, ".scope")
	if len(component) < idLength {
		return ""
	}
	prefix, id := component[:len(component)-idLength], component[len(component)-idLength:]
	if strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	if prefix != "" && !strings.HasSuffix(prefix, "-") && !strings.HasSuffix(prefix, ":") {
		return ""
	}
	// The scope of conmon, which watches the container from the host's side.
	if strings.HasSuffix(prefix, "conmon-") {
		return ""
	}
	return id
}

// namedContainer is the name of a container that the component c stands for by
// name, between those outside and inside of it.
func namedContainer(outside []string, c string, inside []string) string {
	// LXC: lxc/NAME before version 4 and where it is configured so, as Proxmox
	// does. Its monitor's cgroup is lxc.monitor.NAME.
	if len(outside) > 0 && outside[len(outside)-1] == "lxc" {
		return c
	}
	if name, ok := strings.CutPrefix(c, "lxc.payload."); ok {
		return name
	}
	// systemd-nspawn puts itself in "supervisor" beside the container's "payload"
	// (systemd, src/nspawn/nspawn-cgroup.c).
	if len(inside) > 0 && inside[0] == "supervisor" {
		return ""
	}
	// What systemd-machined registers, virtual machines included, is named as
	// machinectl lists it.
	if name, ok := between(c, "machine-", ".scope"); ok {
		return unescapeUnit(name)
	}
	// `machinectl start` keeps the service's cgroup instead of making a scope; the
	// container is whatever is below it.
	if name, ok := between(c, "systemd-nspawn@", ".service"); ok && len(inside) > 0 {
		return unescapeUnit(name)
	}
	return ""
}

// unitOf is the innermost service of a cgroup path, as systemctl prints it, or "".
func unitOf(components []string) string {
	for _, c := range slices.Backward(components) {
		// systemd escapes a unit whose name could be an attribute's of the cgroup,
		// like memory.service, with an underscore (cg_escape).
		unit := strings.TrimPrefix(c, "_")
		if !strings.HasSuffix(unit, ".service") {
			continue
		}
		// The user's manager holds whatever the user runs; only a service that it
		// manages, further in, is an application.
		if strings.HasPrefix(unit, "user@") {
			return ""
		}
		return unit
	}
	return ""
}

// between is s without the prefix and the suffix, if it has both.
func between(s, prefix, suffix string) (string, bool) {
	s, hasPrefix := strings.CutPrefix(s, prefix)
	s, hasSuffix := strings.CutSuffix(s, suffix)
	return s, hasPrefix && hasSuffix
}

// unescapeUnit undoes the \xHH of systemd.unit(5), "String Escaping for Inclusion
// in Unit Names". A plain dash stays: machines have no slash in their names.
func unescapeUnit(s string) string {
	var b strings.Builder
	for s != "" {
		if len(s) >= 4 && s[:2] == `\x` {
			if c, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// kernelApp names a kernel thread by its kind, in brackets. The rest of the name
// tells CPUs, nodes, workers or devices apart. Only of a journal the device is
// kept, since it says whose writes the thread carries out, and where the name has
// no other form (loop0, md127_raid1).
func kernelApp(comm string) string {
	kind, instance, _ := strings.Cut(comm, "/")
	switch {
	case kind == "":
		kind = cmp.Or(comm, "unnamed")
	case kind == "jbd2" && instance != "":
		kind += "/" + journalDevice(instance)
	case kind == "xfsaild":
		kind = comm
	default:
		kind = withoutInstance(kind)
	}
	return "[" + kind + "]"
}

// journalDevice is the device of a jbd2 thread's name, which ends with the number
// of the journal's inode unless the journal is a device of its own
// (jbd2_journal_init_inode and _dev in fs/jbd2/journal.c). Of a long name the
// number is cut off, since the kernel keeps 15 bytes: "jbd2/nvme0n1p2-".
func journalDevice(s string) string {
	device, numbered := strings.CutSuffix(strings.TrimRight(s, "0123456789"), "-")
	if !numbered || device == "" || device == "dm" {
		return s
	}
	return device
}

// withoutInstance drops a number that something separates from the name
// (scsi_eh_0, vhost-4711, f2fs_gc-254:0, kdamond.0). One that is glued to it is
// part of the name (cfg80211, loop0), except for the threads per NUMA node.
func withoutInstance(s string) string {
	kind := strings.TrimRight(s, "0123456789.:")
	if len(kind) == len(s) {
		return s
	}
	trimmed := strings.TrimRight(kind, "_-")
	separated := len(trimmed) < len(kind) || s[len(kind)] == '.' || s[len(kind)] == ':'
	if trimmed != "" && (separated || kind == "kswapd" || kind == "kcompactd") {
		return trimmed
	}
	return s
}
