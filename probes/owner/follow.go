package owner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
)

// Followed is what is known of the processes that are followed.
type Followed struct {
	Processes uint64 // so far
	Running   uint64
	Most      uint64 // bytes: the largest peak of one's memory, 0 if unknown
	MostComm  string // and its name
}

// Follow marks the first process that this one executes from now on, from its first instruction, and every one that such a process
// starts: in rows they are Followed.
func (t *Table) Follow() error {
	o := &t.objects
	if err := t.attach(map[string]*ebpf.Program{bpfProgProcessFork: o.ProcessFork, bpfProgProcessForkAgain: o.ProcessForkAgain}); err != nil {
		return err
	}
	if _, err := o.FollowChild.Run(nil); err != nil {
		return fmt.Errorf("following the command: %w", err)
	}
	return nil
}

// Followed looks at the processes that are followed. The kernel tells how large a process has been when that ends, but not of one that
// was smaller than its parent: so call it now and then.
func (t *Table) Followed() (Followed, error) {
	var n bpfFollowed
	if err := t.objects.AllFollowed.Get(&n); err != nil {
		return Followed{}, fmt.Errorf("reading what is followed: %w", err)
	}
	f := &t.followed
	f.Processes, f.Running = n.Processes, n.Processes-min(n.Ended, n.Processes)
	if pages := n.MostPages * uint64(os.Getpagesize()); pages > f.Most {
		f.Most, f.MostComm = pages, Comm(n.MostComm)
	}
	for owner := range t.Owners() {
		if !t.Follows(owner) || t.processes.Get(owner).Flags&uint32(bpfProcessFlagsPROCESS_DEAD) != 0 {
			continue
		}
		if most := t.peak(owner); most > f.Most {
			f.Most, f.MostComm = most, t.Process(owner).Comm
		}
	}
	return *f, nil
}

// Follows is whether an owner is followed.
func (t *Table) Follows(owner uint32) bool {
	return t.processes.Get(owner).Who.Followed != 0
}

// peak is how many bytes of memory a process has had at most, 0 if it has just ended, or is not to be seen here.
func (t *Table) peak(owner uint32) uint64 {
	if t.gone(t.processes.Get(owner)) {
		return 0
	}
	status, err := os.ReadFile(filepath.Join(t.proc, strconv.Itoa(int(t.processes.Get(owner).Pid)), "status"))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if size, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, _, _ := bytes.Cut(bytes.TrimSpace(size), []byte(" "))
			n, _ := strconv.ParseUint(string(kib), 10, 64)
			return n << 10
		}
	}
	return 0
}
