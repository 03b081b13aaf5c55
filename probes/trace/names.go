package trace

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"culprit/probes/snapshot"
)

// naming is what a thread is called from a time on.
type naming struct {
	since int64 // ns, CLOCK_BOOTTIME
	pid   int32
	comm  string
	ended int64 // 0: it lives
}

// names knows what threads are called, and were called a while ago: events are read later than they happen.
type names struct {
	of    map[int32][]naming // by tid, in order
	fresh []snapshot.Thread  // since they were taken last
}

// list learns of the threads that there are.
func (n *names) list(proc string) error {
	tasks, err := filepath.Glob(filepath.Join(proc, "[0-9]*/task/[0-9]*"))
	if err != nil {
		return fmt.Errorf("listing threads: %w", err)
	}
	for _, dir := range tasks {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has ended
		}
		tid, _ := strconv.Atoi(filepath.Base(dir))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(dir))))
		n.call(0, int32(tid), int32(pid), nameOfWorker(string(bytes.TrimSuffix(comm, []byte("\n")))))
	}
	return nil
}

// nameOfWorker leaves out what procfs says behind a worker's name: what it does, or did last (wq_worker_comm(), kernel/workqueue.c).
func nameOfWorker(comm string) string {
	if pool := strings.IndexByte(comm, ':'); pool > 0 && strings.HasPrefix(comm, "kworker/") {
		if work := strings.IndexAny(comm[pool:], "+-"); work > 0 {
			return comm[:pool+work]
		}
	}
	return comm
}

// call gives a thread a name from a time on.
func (n *names) call(since int64, tid, pid int32, comm string) {
	n.of[tid] = append(n.of[tid], naming{since: since, pid: pid, comm: comm})
	n.fresh = append(n.fresh, snapshot.Thread{TID: tid, PID: pid, Comm: comm})
}

func (n *names) end(tid int32, at int64) {
	if all := n.of[tid]; len(all) > 0 {
		all[len(all)-1].ended = at
	}
}

// at is what a thread was called at a time; without a name and a process where that is not known.
func (n *names) at(tid int32, time int64) snapshot.Thread {
	all := n.of[tid]
	if len(all) == 0 {
		return snapshot.Thread{TID: tid}
	}
	i := len(all) - 1
	for i > 0 && all[i].since > time {
		i--
	}
	return snapshot.Thread{TID: tid, PID: all[i].pid, Comm: all[i].comm}
}

// all are the names that threads have, or had last.
func (n *names) all() (threads []snapshot.Thread) {
	for tid, all := range n.of {
		last := all[len(all)-1]
		threads = append(threads, snapshot.Thread{TID: tid, PID: last.pid, Comm: last.comm})
	}
	slices.SortFunc(threads, func(a, b snapshot.Thread) int { return cmp.Compare(a.TID, b.TID) })
	return threads
}

// forget leaves what is needed for events from a time on.
func (n *names) forget(until int64) {
	for tid, all := range n.of {
		i := 0
		for i < len(all)-1 && all[i+1].since <= until {
			i++
		}
		if last := all[i]; i == len(all)-1 && last.ended != 0 && last.ended < until {
			delete(n.of, tid)
		} else if i > 0 {
			n.of[tid] = all[i:]
		}
	}
}
