package snapshot

import (
	"fmt"
	"reflect"
	"testing"
	"time"
)

func schedRows() Sched {
	web, db, hog := Process{App: "web", Comm: "web"}, Process{App: "db", Comm: "db"}, Process{App: "hog", Comm: "hog"}
	at := func(p Process, pid int) Process {
		p.PID, p.Started = pid, time.Unix(int64(pid), 0)
		return p
	}
	return Sched{By: ByPID, Rows: []SchedRow{
		{Process: at(db, 3), Threads: 1, OnCPU: 50, Culprits: []Culprit{{at(hog, 9), 20}}},
		{Process: at(web, 1), Threads: 2, OnCPU: 10, Waiting: 5, Before: 3, Culprits: []Culprit{{at(hog, 9), 7}, {Process{App: OwnQuota}, 4}}},
		{Process: at(web, 2), Threads: 1, Asleep: 100, Culprits: []Culprit{{at(hog, 8), 1}, {at(db, 3), 2}}},
	}}
}

// Grouping loses no nanosecond, of victims or of culprits.
func TestSchedGroup(t *testing.T) {
	s := schedRows().Group(ByApp)
	if len(s.Rows) != 2 || s.Rows[0].App != "db" || s.Rows[1].App != "web" {
		t.Fatalf("%+v", s.Rows)
	}
	web := s.Rows[1]
	if web.PID != 0 || web.Threads != 3 || web.Wait() != 14 || web.Quota() != 4 || web.Wall() != 10+14+5-3+100 {
		t.Errorf("%+v: wait %d, quota %d, wall %d", web, web.Wait(), web.Quota(), web.Wall())
	}
	want := []Culprit{{Process{App: "hog", Comm: "hog"}, 8}, {Process{App: OwnQuota}, 4}, {Process{App: "db", Comm: "db"}, 2}}
	if len(web.Culprits) != len(want) {
		t.Fatalf("%+v", web.Culprits)
	}
	for i, c := range web.Culprits {
		if c != want[i] {
			t.Errorf("culprit %d is %+v, want %+v", i, c, want[i])
		}
	}
	if by := schedRows().Group(ByApp).SortBy("name").Rows; by[0].App != "db" || by[1].App != "web" {
		t.Errorf("%+v", by)
	}
}

// Leaving out culprits leaves the time of the threads as it is.
func TestSchedBecauseOf(t *testing.T) {
	all := schedRows().Group(ByApp)
	apart := schedRows()
	s := apart.BecauseOf([]string{"db"}, ByApp)
	if len(s.Rows) != 1 || s.Rows[0].App != "web" || s.Rows[0].Wait() != 2 || s.Rows[0].Wall() != all.Rows[1].Wall() {
		t.Errorf("%+v", s.Rows)
	}
	if all.Rows[1].Wait() != 14 || apart.Rows[1].Wait() != 11 || apart.Rows[2].Wait() != 3 {
		t.Error("the snapshot was changed")
	}
}

// Culprits are given by the names that a report shows, or by their application, in every grouping.
func TestSchedBecauseOfNames(t *testing.T) {
	of := func(app, comm string, pid int) Process {
		return Process{PID: pid, Comm: comm, User: "root", App: app}
	}
	victim := of("web", "nginx", 1)
	var s Sched
	for i, c := range []Process{of("backup", "tar", 7), of("backup", "gzip", 8), of("cron", "tar", 9), {App: Interrupts}} {
		ns := uint64(1) << i
		s.Rows = append(s.Rows, SchedRow{Process: victim, Culprits: []Culprit{{c, ns}}})
		s.Worst = append(s.Worst, SchedWait{Process: victim, Wait: ns, Ran: []SchedRan{{c, 0, ns}}})
	}
	for _, c := range []struct {
		by   By
		name string
		want uint64
	}{
		{ByApp, "backup", 1 + 2},
		{ByApp, "tar", 0},
		{ByApp, "7", 0},
		{ByPID, "backup", 1 + 2},
		{ByPID, "tar", 1 + 4},
		{ByPID, "8", 2},
		{ByPID, "0", 0},
		{ByComm, "tar", 1 + 4},
		{ByComm, "cron", 4},
		{ByUser, "root", 1 + 2 + 4},
		{ByUser, "backup", 1 + 2},
		{ByUser, Interrupts, 8},
	} {
		got := s.BecauseOf([]string{c.name}, c.by)
		var wait, worst uint64
		for _, r := range got.Rows {
			wait += r.Wait()
		}
		for _, w := range got.Worst {
			worst += w.Wait
		}
		if wait != c.want || worst != c.want || len(got.Rows) > 1 {
			t.Errorf("because of %s by %s: waits of %d and %d ns in %d rows, want %d", c.name, c.by, wait, worst, len(got.Rows), c.want)
		}
	}
}

// Long reports merge the dead that are called the same: every grouping by name stays as it was.
func TestFold(t *testing.T) {
	var all Sched
	for pid := range 300 {
		p := Process{PID: pid + 1, App: fmt.Sprint("app", pid%2), Comm: fmt.Sprint("comm", pid%3), User: fmt.Sprint("user", pid%5)}
		all.Rows = append(all.Rows, SchedRow{Process: p, Switches: uint64(pid), Culprits: []Culprit{{Process: p, NS: uint64(pid)}}})
	}
	rows := func(rows []SchedRow, by By) []SchedRow { return Sched{Rows: rows}.Group(by).Rows }
	fine, coarse := Sched{Rows: Fold(100, all.Rows, rows)}, Sched{Rows: Fold(20, all.Rows, rows)}
	if len(fine.Rows) != 30 || len(coarse.Rows) != 2 {
		t.Errorf("%d and %d rows", len(fine.Rows), len(coarse.Rows))
	}
	for _, by := range []By{ByApp, ByComm, ByUser} {
		if got, want := fine.Group(by).Rows, all.Group(by).Rows; !reflect.DeepEqual(got, want) {
			t.Errorf("by %s:\n%+v\nnot\n%+v", by, got, want)
		}
	}
	if got, want := coarse.Group(ByApp).Rows, all.Group(ByApp).Rows; len(got) != len(want) || got[0].Switches != want[0].Switches {
		t.Errorf("by app: %+v, not %+v", got, want)
	}
}
