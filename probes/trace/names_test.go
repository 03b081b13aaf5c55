package trace

import (
	"testing"

	"culprit/probes/snapshot"
)

func TestNameOfWorker(t *testing.T) {
	for comm, want := range map[string]string{
		"kworker/0:1-events":     "kworker/0:1",
		"kworker/u8:3+flush-8:0": "kworker/u8:3",
		"kworker/1:0H-kblockd":   "kworker/1:0H",
		"kworker/2:1":            "kworker/2:1",
		"kworker/R-rcu_g":        "kworker/R-rcu_g",
		"a:b-c":                  "a:b-c",
	} {
		if got := nameOfWorker(comm); got != want {
			t.Errorf("%s is called %s, want %s", comm, got, want)
		}
	}
}

// A thread has the name that it had at the time; ids are used again; and who is long gone is forgotten.
func TestNamesOverTime(t *testing.T) {
	n := names{of: map[int32][]naming{}}
	n.call(0, 7, 7, "old")
	n.call(100, 7, 7, "new")
	n.end(7, 200)
	n.call(300, 7, 5, "other")
	for at, want := range map[int64]snapshot.Thread{
		50: {TID: 7, PID: 7, Comm: "old"}, 100: {TID: 7, PID: 7, Comm: "new"}, 250: {TID: 7, PID: 7, Comm: "new"}, 300: {TID: 7, PID: 5, Comm: "other"},
	} {
		if got := n.at(7, at); got != want {
			t.Errorf("at %d: %+v, want %+v", at, got, want)
		}
	}
	if got := n.at(8, 0); got != (snapshot.Thread{TID: 8}) {
		t.Errorf("nobody is %+v", got)
	}
	n.forget(299)
	if got := n.at(7, 250); got.Comm != "new" {
		t.Errorf("what may be needed is forgotten: %+v", got)
	}
	n.forget(301)
	if got := len(n.of[7]); got != 1 {
		t.Errorf("%d names are kept, want 1", got)
	}
	n.end(7, 400)
	n.forget(500)
	if len(n.of) != 0 {
		t.Errorf("the dead are kept: %+v", n.of)
	}
}
