// Package owner is the process table: it turns the small numbers that BPF programs
// stamp on events (bpf/lib/owner.bpf.h) into processes, keeps the names of the
// dead as long as anything refers to them, and gives numbers back after that. One
// Table serves every probe of a culprit.
package owner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"culprit/probes/bpfmap"
	"culprit/probes/hook"
	"culprit/probes/snapshot"
)

// First is the lowest number that stands for a process; those below it stand for
// what belongs to none.
const First = uint32(bpfOwnerOWNER_FIRST)

// nobody names the owners that are no process. The reasons are part of the
// output: users search for them.
var nobody = map[bpfOwner]string{
	bpfOwnerOWNER_NONE:                            "[unattributed: row table full]",
	bpfOwnerOWNER_UNATTRIBUTED_BEFORE_ATTACH:      "[unattributed: no owner seen before attach]",
	bpfOwnerOWNER_UNATTRIBUTED_PROCESS_TABLE_FULL: "[unattributed: process table full]",
	bpfOwnerOWNER_UNATTRIBUTED_REQUEST_SLOTS_FULL: "[unattributed: request table full]",
	bpfOwnerOWNER_UNATTRIBUTED_MERGED_BIOS_FULL:   "[unattributed: merged request table full]",
	bpfOwnerOWNER_UNATTRIBUTED_DIRTY_INODES_FULL:  "[unattributed: dirty file table full]",
	bpfOwnerOWNER_UNATTRIBUTED_DIRTY_FOLIOS_FULL:  "[unattributed: dirty page table full]",
	bpfOwnerOWNER_UNATTRIBUTED_JOURNAL_TABLE_FULL: "[unattributed: journal table full]",
	bpfOwnerOWNER_UNATTRIBUTED_ROW_TABLE_FULL:     "[unattributed: row table full]",
	bpfOwnerOWNER_UNATTRIBUTED_REQUEST_TOO_LONG:   "[unattributed: request too long]",
	bpfOwnerOWNER_UNATTRIBUTED_UNSEEN_COMPLETION:  "[unattributed: completion not seen]",
	bpfOwnerOWNER_KERNEL_SUPERBLOCK:               "[kernel: superblock]",
	bpfOwnerOWNER_KERNEL_XFS_METADATA:             "[kernel: xfs metadata]",
	bpfOwnerOWNER_KERNEL_BTRFS_METADATA:           "[kernel: btrfs metadata]",
	bpfOwnerOWNER_KERNEL_SWAP:                     "[kernel: swap]",
	bpfOwnerOWNER_KERNEL_LOOP:                     "[kernel: loop]",
	bpfOwnerOWNER_KERNEL_METADATA:                 "[kernel: metadata]",
	bpfOwnerOWNER_UNATTRIBUTED_CULPRIT_TABLE_FULL: "[unattributed: culprit table full]",
	bpfOwnerOWNER_UNATTRIBUTED_UNSEEN_WAIT:        "[unattributed: wait not seen]",
	bpfOwnerOWNER_INTERRUPTS:                      snapshot.Interrupts,
	bpfOwnerOWNER_SOFTIRQS:                        snapshot.Softirqs,
	bpfOwnerOWNER_WAKE_UP_PATH:                    snapshot.WakeUpPath,
	bpfOwnerOWNER_QUOTA:                           snapshot.OwnQuota,
	bpfOwnerOWNER_OLDER:                           snapshot.OlderWaits,
	bpfOwnerOWNER_KERNEL:                          snapshot.Kernel,
	bpfOwnerOWNER_UNATTRIBUTED_SOCKET:             "[unattributed: owner of the socket not seen]",
	bpfOwnerOWNER_UNATTRIBUTED_PACKET:             "[unattributed: packet for no known socket]",
}

// Options say where the host is seen and how much is kept.
type Options struct {
	Proc      string // the host's procfs, "/proc" if empty
	Processes uint32 // slots of the process table, its default if 0
	Names     uint32 // paths of executables, cgroups and files, their default if 0
}

// A User is a probe that stamps owners.
type User interface {
	// Sweep takes over what has ended, so that there is room for more, and, if it is to be whole, marks every owner that something
	// of the probe's refers to.
	Sweep(number uint32, whole bool) error
	// Release is told of owners that are dead and that no sweep found: the
	// probe reads and forgets what it keeps for them. An owner that it returns is kept for now.
	Release(owners []uint32) (keep []uint32)
}

// Table is the process table. Its methods must not be called concurrently.
type Table struct {
	objects   bpfObjects
	links     hook.Links
	processes *bpfmap.Array[bpfProcess]
	freed     *bpfmap.Pool // of processes
	seen      *bpfmap.Array[uint32]
	namer     *Namer
	proc      string
	boot      time.Time // when CLOCK_BOOTTIME was 0
	users     []User

	known      map[uint32]described         // by owner
	groups     map[uint32]*snapshot.Process // by number
	groupsMade uint32                       // when they were named last
	names      map[bpfNameKey]string
	sweeps     uint32
	absent     map[uint32]int // dead owners: how many sweeps in a row found nothing of theirs
	most       uint32
	lossNames  []string
	attached   map[string]*ebpf.Program
	missed     hook.Missed
	followed   Followed
}

// described is a slot as it was when it was named: another content needs another name.
type described struct {
	slot    bpfProcess
	process snapshot.Process
}

// Load creates the process table and keeps it up to date until Close.
func Load(o Options) (*Table, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the process table's object: %w", err)
	}
	if o.Processes != 0 {
		o.Processes = max(o.Processes, First+1)
	}
	hook.Resize(spec, map[string]uint32{
		bpfMapProcesses: o.Processes, bpfMapProcessesReturned: o.Processes, bpfMapProcessOwners: o.Processes, bpfMapOwnerSeen: o.Processes,
		bpfMapNames: o.Names,
	})
	losses, err := lossNames(spec)
	if err != nil {
		return nil, err
	}
	boot, err := bootTime()
	if err != nil {
		return nil, err
	}
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	t := &Table{
		namer:     NewNamer(hostRoot(o.Proc)),
		proc:      o.Proc,
		boot:      boot,
		known:     map[uint32]described{},
		groups:    map[uint32]*snapshot.Process{},
		names:     map[bpfNameKey]string{},
		absent:    map[uint32]int{},
		attached:  map[string]*ebpf.Program{},
		lossNames: losses,
		most:      spec.Maps[bpfMapNames].MaxEntries,
	}
	if err := spec.LoadAndAssign(&t.objects, nil); err != nil {
		return nil, fmt.Errorf("loading the process table: %w", err)
	}
	if err := t.start(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Table) start() (err error) {
	if t.processes, err = bpfmap.NewArray[bpfProcess](t.objects.Processes); err != nil {
		return err
	}
	t.freed = bpfmap.NewPool(t.objects.ProcessesReturned)
	if t.seen, err = bpfmap.NewArray[uint32](t.objects.OwnerSeen); err != nil {
		return err
	}
	pool := bpfPool{Next: First, Size: t.processes.Len()}
	if err := t.objects.ProcessPool.Put(uint32(0), pool); err != nil {
		return fmt.Errorf("preparing the process table: %w", err)
	}
	o := &t.objects
	return t.attach(map[string]*ebpf.Program{
		bpfProgProcessExec: o.ProcessExec, bpfProgProcessExecAgain: o.ProcessExecAgain, bpfProgProcessExit: o.ProcessExit,
		bpfProgProcessExitAgain: o.ProcessExitAgain, bpfProgProcessRename: o.ProcessRename, bpfProgProcessMoved: o.ProcessMoved,
	})
}

// attach attaches programs, those that are second ones on their tracepoints only where that is of use.
func (t *Table) attach(programs map[string]*ebpf.Program) error {
	kernel, err := hook.Types()
	if err != nil {
		return err
	}
	for name, p := range programs {
		if !hook.IsOfUse(name, programs, kernel) {
			continue
		}
		if err := t.links.Attach(name, p); err != nil {
			return err
		}
		t.attached[name] = p
	}
	return nil
}

// hostRoot is where the host's files are: "/" unless its procfs is somewhere else, as in a container.
func hostRoot(proc string) string {
	root := filepath.Join(proc, "1/root")
	if _, err := os.Stat(filepath.Join(root, "etc")); proc != "/proc" && err == nil {
		return root
	}
	return "/"
}

// bootTime is the wall-clock time at which CLOCK_BOOTTIME was 0.
func bootTime() (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, fmt.Errorf("reading the boot clock: %w", err)
	}
	return time.Now().Add(-time.Duration(now.Nano())), nil
}

// Close detaches everything and frees the table.
func (t *Table) Close() error {
	return errors.Join(t.links.Close(), t.objects.Close())
}

// Maps are the maps that a probe's object shares with the table, by name.
func (t *Table) Maps() map[string]*ebpf.Map {
	o := &t.objects
	return map[string]*ebpf.Map{
		bpfMapGroups: o.Groups, bpfMapGroupsMade: o.GroupsMade, bpfMapLosses: o.Losses, bpfMapNameScratch: o.NameScratch, bpfMapNames: o.Names, bpfMapOwnerSeen: o.OwnerSeen,
		bpfMapProcessOwners: o.ProcessOwners, bpfMapProcessPool: o.ProcessPool, bpfMapProcesses: o.Processes,
		bpfMapProcessesReturned: o.ProcessesReturned, bpfMapTasks: o.Tasks,
	}
}

// LoadObject loads a probe's object with the maps that it shares with the table, in the sizes that they have here, and with others.
func (t *Table) LoadObject(spec *ebpf.CollectionSpec, others map[string]*ebpf.Map) (*ebpf.Collection, error) {
	shared := t.Maps()
	for name, m := range shared {
		s := spec.Maps[name]
		if s == nil {
			delete(shared, name)
			continue
		}
		s.MaxEntries = m.MaxEntries()
	}
	maps.Copy(shared, others)
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
}

// Processes is the number of slots: owners are below it.
func (t *Table) Processes() uint32 { return t.processes.Len() }

// Add makes a probe known, so that what it refers to stays.
func (t *Table) Add(u User) { t.users = append(t.users, u) }

// Remove forgets a probe that is about to close.
func (t *Table) Remove(u User) {
	t.users = slices.DeleteFunc(t.users, func(v User) bool { return v == u })
}

// Mark keeps an owner until the next sweep, as a probe's sweep program does by owner_seen.
func (t *Table) Mark(owner uint32) { t.seen.Set(owner, t.sweeps) }

// Gone is whether a process has ended and can cause nothing any more.
func (t *Table) Gone(owner uint32) bool {
	if owner < First {
		return false
	}
	slot := t.processes.Get(owner)
	return slot.Flags&uint32(bpfProcessFlagsPROCESS_DEAD) != 0 && t.gone(slot)
}

// Stamp is what BPF programs know an owner by, as it is now (trace_stamp(), bpf/lib/trace.bpf.h).
func (t *Table) Stamp(owner uint32) uint32 {
	slot := t.processes.Get(owner)
	return (uint32(slot.StartBoottime>>8)^slot.Group)<<1 | 1
}

// Owners are the numbers of all processes that have one.
func (t *Table) Owners() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		var pool bpfPool
		if err := t.objects.ProcessPool.Lookup(uint32(0), &pool); err != nil {
			return // none was given yet
		}
		for owner := First; owner < min(pool.Next, t.processes.Len()); owner++ {
			if t.processes.Get(owner).Pid != 0 && !yield(owner) {
				return
			}
		}
	}
}

// Process is who an owner is.
func (t *Table) Process(owner uint32) snapshot.Process {
	if owner < First {
		name, ok := nobody[bpfOwner(owner)]
		if !ok {
			name = fmt.Sprintf("[unattributed: owner %d]", owner)
		}
		return snapshot.Process{App: name}
	}
	slot := t.processes.Get(owner)
	slot.Flags = 0
	if d, ok := t.known[owner]; ok && d.slot == slot {
		return d.process
	}
	id := t.identity(slot.Who)
	id.PID, id.PPID, id.Started = int(slot.Pid), int(slot.Ppid), t.boot.Add(time.Duration(slot.StartBoottime))
	p := t.namer.Process(id)
	p.Followed = slot.Who.Followed != 0
	t.known[owner] = described{slot, p}
	return p
}

func (t *Table) identity(who bpfIdentity) Identity {
	return Identity{
		Comm:          Comm(who.Comm),
		Exe:           t.path(bpfNameKey(who.Exe)),
		Cgroup2:       t.path(bpfNameKey(who.Cgroup2)),
		CgroupSystemd: t.path(bpfNameKey(who.CgroupSystemd)),
		CgroupMemory:  t.path(bpfNameKey(who.CgroupMemory)),
		UID:           who.Uid,
		Kernel:        who.Kthread != 0,
	}
}

// FirstGroup is the lowest number of a group: those below it are owners.
const FirstGroup = 1 << 20 // GROUP_FIRST of bpf/lib/owner.bpf.h

// Group is the number of the group that a process is in, 0 for none.
func (t *Table) Group(owner uint32) uint32 { return t.processes.Get(owner).Group }

// Groups are the numbers that the kernel side gave to those processes that are called the same, and who they are: a process
// without a pid.
func (t *Table) Groups() (map[uint32]snapshot.Process, error) {
	groups, err := bpfmap.All[bpfIdentity, uint32](t.objects.Groups)
	if err != nil {
		return nil, err
	}
	out := make(map[uint32]snapshot.Process, len(groups))
	for who, number := range groups {
		if t.groups[number] == nil {
			p := t.namer.Process(t.identity(who))
			p.Followed = who.Followed != 0
			t.groups[number] = &p
		}
		out[number] = *t.groups[number]
	}
	return out, nil
}

// nameGroups names those that are new, while there still is what tells the names of their containers.
func (t *Table) nameGroups() error {
	var made uint32
	if err := t.objects.GroupsMade.Lookup(uint32(0), &made); err != nil {
		return fmt.Errorf("reading how many groups there are: %w", err)
	}
	if made == t.groupsMade {
		return nil
	}
	t.groupsMade = made
	_, err := t.Groups()
	return err
}

// dropGroups makes room by forgetting the groups that no process is in.
func (t *Table) dropGroups() error {
	used := map[bpfIdentity]bool{}
	for owner := range t.Owners() {
		used[t.processes.Get(owner).Who] = true
	}
	groups, err := bpfmap.All[bpfIdentity, uint32](t.objects.Groups)
	if err != nil {
		return err
	}
	for who, number := range groups {
		if used[who] {
			continue
		}
		delete(t.groups, number)
		if err := bpfmap.Forget(t.objects.Groups, who); err != nil {
			return err
		}
	}
	return nil
}

// Comm is the kernel's name of a task as text.
func Comm(c [16]int8) string {
	var b []byte
	for _, v := range c {
		if v == 0 {
			break
		}
		b = append(b, byte(v))
	}
	return string(b)
}

// NameKey is where the kernel side keeps a path: the two words of a struct name_key.
type NameKey struct{ A, B uint64 }

// Forget drops the path that is kept under a key, for what has its own keys.
func (t *Table) Forget(k NameKey) {
	key := bpfNameKey{A: k.A, B: k.B}
	delete(t.names, key)
	t.objects.Names.Delete(key) // it may have found no room in the first place
}

// Path is a path that the kernel side kept, "" if there is none.
func (t *Table) Path(k NameKey) string { return t.path(bpfNameKey{A: k.A, B: k.B}) }

func (t *Table) path(key bpfNameKey) string {
	if key.A == 0 && key.B == 0 {
		return ""
	}
	if p, ok := t.names[key]; ok {
		return p
	}
	var n bpfName
	if err := t.objects.Names.Lookup(key, &n); err != nil {
		return "" // not kept: counted in the kernel
	}
	raw := make([]byte, len(n.Parts))
	for i, c := range n.Parts {
		raw[i] = byte(c)
	}
	raw = bytes.TrimRight(raw, "\x00")
	p := "/"
	if len(raw) > 0 {
		parts := strings.Split(string(raw), "\x00")
		slices.Reverse(parts)
		p = path.Join("/", path.Join(parts...))
	}
	t.names[key] = p
	return p
}

// Losses are the counters of everything that BPF programs could not keep, by name, and of the events that a probe's own
// and the table's missed, but for some programs.
func (t *Table) Losses(missed *hook.Missed, objects *ebpf.Collection, but ...string) (map[string]uint64, error) {
	out := make(map[string]uint64, len(t.lossNames))
	for i, name := range t.lossNames {
		var n uint64
		if err := t.objects.Losses.Lookup(uint32(i), &n); err != nil {
			return nil, fmt.Errorf("reading the loss counters: %w", err)
		}
		out[name] = n
	}
	n, err := missed.Read(objects, but...)
	if err != nil {
		return nil, err
	}
	own, err := t.missed.Read(&ebpf.Collection{Programs: t.attached})
	if err != nil {
		return nil, err
	}
	out["events_missed"] = n + own
	return out, nil
}

// lossNames are the names of enum loss, in order, without their prefix.
func lossNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("loss", &enum); err != nil {
		return nil, fmt.Errorf("reading the names of the loss counters: %w", err)
	}
	var names []string
	for _, v := range enum.Values {
		if v.Value < uint64(bpfLossLOSS_MAX) {
			names = append(names, strings.ToLower(strings.TrimPrefix(v.Name, "LOSS_")))
		}
	}
	return names, nil
}

// sweepsUntilFree is how many sweeps in a row must find nothing that refers to a dead
// owner: one alone can miss a number that moves from one place to another.
const sweepsUntilFree = 2

// sweepsUntilWhole is how often tables are looked through whole where few processes have ended: nothing else that is done each second
// costs as much.
const sweepsUntilWhole = 8

// Collect keeps the table and the probes' own in order. It is called about once a second, and frees the numbers of processes that are
// gone and that nothing refers to: half a minute after their end at most, or within some seconds while many end.
func (t *Table) Collect() error {
	dead, err := t.dead()
	if err != nil {
		return err
	}
	return t.sweep((t.sweeps+1)%sweepsUntilWhole == 0 || dead > t.processes.Len()/256)
}

// CollectAll is Collect that looks tables through whole.
func (t *Table) CollectAll() error { return t.sweep(true) }

// dead is how many processes have ended whose numbers are not free yet.
func (t *Table) dead() (n uint32, err error) {
	end, err := t.end()
	for owner := First; owner < end; owner++ {
		if slot := t.processes.Get(owner); slot.Flags&uint32(bpfProcessFlagsPROCESS_DEAD) != 0 && slot.Pid != 0 {
			n++
		}
	}
	return n, err
}

// end is after the last number that was ever used.
func (t *Table) end() (uint32, error) {
	var pool bpfPool
	if err := t.objects.ProcessPool.Lookup(uint32(0), &pool); err != nil {
		return 0, fmt.Errorf("reading the process table: %w", err)
	}
	return min(pool.Next, t.processes.Len()), nil
}

func (t *Table) sweep(whole bool) error {
	t.sweeps++
	if err := t.freed.Sweep(); err != nil {
		return err
	}
	for _, u := range t.users {
		if err := u.Sweep(t.sweeps, whole); err != nil {
			return err
		}
	}
	if err := t.nameGroups(); err != nil || !whole {
		return err
	}
	end, err := t.end()
	if err != nil {
		return err
	}
	var free []uint32
	for owner := First; owner < end; owner++ {
		slot := t.processes.Get(owner)
		if slot.Flags&uint32(bpfProcessFlagsPROCESS_DEAD) == 0 || slot.Pid == 0 {
			continue
		}
		if t.seen.Get(owner) == t.sweeps {
			delete(t.absent, owner)
			continue
		}
		if t.absent[owner]++; t.absent[owner] >= sweepsUntilFree && t.gone(slot) {
			free = append(free, owner)
		}
	}
	for _, owner := range free {
		slot := t.processes.Get(owner)
		slot.Flags |= uint32(bpfProcessFlagsPROCESS_RELEASED)
		t.processes.Set(owner, slot)
	}
	for _, u := range t.users {
		keep := u.Release(free)
		free = slices.DeleteFunc(free, func(owner uint32) bool { return slices.Contains(keep, owner) })
	}
	for _, owner := range free {
		if err := t.free(owner); err != nil {
			return err
		}
	}
	if t.sweeps%sweepsUntilDrop == 0 {
		if err := t.dropGroups(); err != nil {
			return err
		}
		return t.dropNames(end)
	}
	return nil
}

// gone is whether a dead process can cause nothing any more: while it exits, it
// still closes files.
func (t *Table) gone(slot bpfProcess) bool {
	stat, err := os.ReadFile(filepath.Join(t.proc, strconv.Itoa(int(slot.Pid)), "stat"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		return false
	}
	// The comm in field 2 can hold anything; field 3 is the state (of the main thread: others may still
	// exit), field 20 the number of threads, field 22 the start in ticks.
	_, rest, ok := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return false
	}
	const tick = uint64(10 * time.Millisecond) // USER_HZ is 100 on all architectures that Go runs on
	started, err := strconv.ParseUint(fields[19], 10, 64)
	return err == nil && (started != slot.StartBoottime/tick || (fields[0] == "Z" || fields[0] == "X") && fields[17] == "1")
}

func (t *Table) free(owner uint32) error {
	slot := t.processes.Get(owner)
	key := bpfProcessKey{StartBoottime: slot.StartBoottime, Pid: slot.Pid}
	if err := bpfmap.Forget(t.objects.ProcessOwners, key); err != nil {
		return err
	}
	t.processes.Set(owner, bpfProcess{})
	delete(t.known, owner)
	delete(t.absent, owner)
	t.freed.Give(owner)
	return nil
}

// sweepsUntilDrop is how often unused paths are looked for: they are read whole.
const sweepsUntilDrop = 8 * sweepsUntilWhole

// FileKey is where the path of a file is kept (io_file_add() in bpf/lib/io.bpf.h): device is
// its file system's, generation its inode's.
func FileKey(device uint32, inode uint64, generation uint32) NameKey {
	return NameKey{A: uint64(device)<<32 | uint64(generation), B: inode | fileNames}
}

// fileNames is the bit of a key's second word that the paths of files have; those go with
// their file's entry.
const fileNames = 1 << 63

// dropNames makes room by deleting the paths that no process has.
func (t *Table) dropNames(end uint32) error {
	used := map[bpfNameKey]bool{}
	for owner := First; owner < end; owner++ {
		who := t.processes.Get(owner).Who
		for _, key := range []bpfNameKey{bpfNameKey(who.Exe), bpfNameKey(who.Cgroup2), bpfNameKey(who.CgroupSystemd), bpfNameKey(who.CgroupMemory)} {
			used[key] = true
		}
	}
	kept, err := bpfmap.All[bpfNameKey, bpfName](t.objects.Names)
	if err != nil {
		return err
	}
	for key := range kept {
		if used[key] || key.B&fileNames != 0 {
			continue
		}
		delete(t.names, key)
		if err := bpfmap.Forget(t.objects.Names, key); err != nil {
			return err
		}
	}
	return nil
}
