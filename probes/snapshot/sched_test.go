package snapshot

import (
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
	s := all.BecauseOf([]string{"db"})
	if len(s.Rows) != 1 || s.Rows[0].App != "web" || s.Rows[0].Wait() != 2 || s.Rows[0].Wall() != all.Rows[1].Wall() {
		t.Errorf("%+v", s.Rows)
	}
	if all.Rows[1].Wait() != 14 {
		t.Error("the snapshot was changed")
	}
}
