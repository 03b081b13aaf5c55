// Package snapshot holds the values that flow from the probes to the outputs:
// plain, immutable once made, and independent of the kernel. A probe makes one
// snapshot per interval; everything behind it (grouping, filtering, rendering,
// storing) works on these types alone.
//
// Units are those of the kernel side throughout: nanoseconds and bytes. Only
// the outputs scale them.
package snapshot

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is the identity of an owner as far as it is known: of one process
// when the row is a process's, of a group when rows were merged. A field in
// which the members of a group differ is empty (PID 0, zero Started).
type Process struct {
	PID       int       // thread group id in the host's pid namespace; 0 for a group or for no process
	PPID      int       // parent's thread group id when the process was first seen
	Started   time.Time // start of the process; it tells reused pids apart
	Comm      string    // the kernel's name of the task, at most 15 bytes
	Exe       string    // path of the executable inside its mount namespace
	Cgroup    string    // path in the hierarchy that DESIGN.md's rule chooses
	Unit      string    // systemd service unit, or ""
	Container string    // container or pod name or id, or ""
	User      string    // user name, else the decimal uid
	App       string    // application name, never ""
	Followed  bool      // belongs to a command that is followed (owner.Table.Follow); never merged with what doesn't
}

// By names the field that rows are grouped by.
type By string

// The groupings that every report accepts.
const (
	ByApp       By = "app"
	ByPID       By = "pid"
	ByComm      By = "comm"
	ByExe       By = "exe"
	ByCgroup    By = "cgroup"
	ByUnit      By = "unit"
	ByContainer By = "container"
	ByUser      By = "user"
)

// byIdentity is finer than all of them but ByPID: by everything that a process is called.
const byIdentity By = "identity"

// Bys lists every grouping in the order in which help prints them.
var Bys = []By{ByApp, ByPID, ByComm, ByExe, ByCgroup, ByUnit, ByContainer, ByUser}

// groupKey is comparable and equal for two processes exactly when they belong
// to one group.
type groupKey struct {
	name     string
	pid      int
	started  time.Time
	followed bool
}

func (p Process) key(by By) groupKey {
	if by == ByPID {
		return groupKey{name: p.App, pid: p.PID, started: p.Started}
	}
	if p.special() {
		return groupKey{name: p.App}
	}
	if by == byIdentity {
		return groupKey{name: strings.Join([]string{p.App, p.Comm, p.Exe, p.Cgroup, p.Unit, p.Container, p.User}, "\x00"), followed: p.Followed}
	}
	return groupKey{name: p.Name(by), followed: p.Followed}
}

// Name is the value of the field that by names. What belongs to no process (a
// row of the kernel, or one that could not be attributed) is named by its App
// under every grouping, so that it is never folded into somebody's row.
func (p Process) Name(by By) string {
	if p.special() {
		return p.App
	}
	switch by {
	case ByComm:
		return p.Comm
	case ByExe:
		return p.Exe
	case ByCgroup:
		return p.Cgroup
	case ByUnit:
		return p.Unit
	case ByContainer:
		return p.Container
	case ByUser:
		return p.User
	}
	return p.App
}

// called is whether a name is one by which users know p from reports grouped so: the group's or the application's; of
// processes the comm and the pid, too.
func (p Process) called(name string, by By) bool {
	if by == ByPID && (name == p.Comm || p.PID != 0 && name == strconv.Itoa(p.PID)) {
		return true
	}
	return name == p.Name(by) || name == p.App
}

// compare orders by name, then by pid.
func (p Process) compare(o Process, by By) int {
	return cmp.Or(strings.Compare(p.Name(by), o.Name(by)), cmp.Compare(p.PID, o.PID))
}

// special is whether p stands for no process. Threads of the kernel are processes
// in brackets too, but without a reason after a colon.
func (p Process) special() bool {
	switch p.App {
	case Interrupts, Softirqs, WakeUpPath, OwnQuota, OlderWaits, Kernel:
		return true
	}
	return p.Unattributed() || strings.HasPrefix(p.App, "[kernel: ")
}

// Unattributed is whether p stands for what could not be charged to anybody.
func (p Process) Unattributed() bool { return strings.HasPrefix(p.App, "[unattributed: ") }

// merge keeps of p what other shares with it.
func (p Process) merge(other Process) Process {
	if p.PID != other.PID {
		p.PID = 0
	}
	if p.PPID != other.PPID {
		p.PPID = 0
	}
	if !p.Started.Equal(other.Started) {
		p.Started = time.Time{}
	}
	for _, f := range []struct {
		mine *string
		its  string
	}{
		{&p.Comm, other.Comm}, {&p.Exe, other.Exe}, {&p.Cgroup, other.Cgroup}, {&p.Unit, other.Unit},
		{&p.Container, other.Container}, {&p.User, other.User}, {&p.App, other.App},
	} {
		if *f.mine != f.its {
			*f.mine = ""
		}
	}
	return p
}

// asGroup is p as the identity of its group: with the group's name in the
// field that by names, and without a pid unless rows are processes.
func (p Process) asGroup(by By) Process {
	if p.special() {
		switch by {
		case ByComm:
			p.Comm = p.App
		case ByExe:
			p.Exe = p.App
		case ByCgroup:
			p.Cgroup = p.App
		case ByUnit:
			p.Unit = p.App
		case ByContainer:
			p.Container = p.App
		case ByUser:
			p.User = p.App
		}
		return p
	}
	if by != ByPID {
		p.PID, p.PPID, p.Started = 0, 0, time.Time{}
	}
	return p
}

// Fold makes fewer of many rows of processes, at most limit if that can be: of those that are called the same in every way
// one, so that every grouping but that by process stays true; if that is not enough, one of each application.
func Fold[R any](limit int, rows []R, group func([]R, By) []R) []R {
	if rows = group(rows, byIdentity); len(rows) > limit {
		rows = group(rows, ByApp)
	}
	return rows
}

// Loss is one counter of something that was lost, skipped or could not be
// kept, counted where it happened.
type Loss struct {
	Name  string // as in the JSON contract's "loss" object
	Count uint64
}

// LossesSince is by how much each of the counters now grew, in the order of their names.
func LossesSince(was, now map[string]uint64) []Loss {
	var out []Loss
	for _, name := range slices.Sorted(maps.Keys(now)) {
		out = append(out, Loss{Name: name, Count: now[name] - was[name]})
	}
	return out
}
