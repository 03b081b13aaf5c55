package livetest

import (
	"io"
	"slices"
	"testing"

	"github.com/cilium/ebpf/rlimit"

	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Table loads the process table, until the test's end.
func Table(t testing.TB, o owner.Options) *owner.Table {
	t.Helper()
	table := loadTable(t, o)
	closeAtEnd(t, table)
	return table
}

func loadTable(t testing.TB, o owner.Options) *owner.Table {
	t.Helper()
	NeedRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	table, err := owner.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// Probe loads a probe beside a process table, until the test's end.
func Probe[O any, P io.Closer](t testing.TB, table *owner.Table, load func(*owner.Table, O) (P, error), o O) P {
	t.Helper()
	probe := loadProbe(t, table, load, o)
	closeAtEnd(t, probe)
	return probe
}

func loadProbe[O, P any](t testing.TB, table *owner.Table, load func(*owner.Table, O) (P, error), o O) P {
	t.Helper()
	probe, err := load(table, o)
	if err != nil {
		t.Fatal(err)
	}
	return probe
}

func closeAtEnd(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Shared is a probe with its process table, which stay loaded: in emulated machines, where to load programs takes seconds, tests have
// the same one. What one of them has left is for the next to read and forget.
type Shared[P any] struct {
	Table *owner.Table
	Probe P
}

// LoadShared loads them, if not that has been done.
func LoadShared[O, P any](t testing.TB, shared **Shared[P], load func(*owner.Table, O) (P, error), o O) *Shared[P] {
	t.Helper()
	if *shared == nil {
		table := loadTable(t, owner.Options{})
		*shared = &Shared[P]{table, loadProbe(t, table, load, o)}
	}
	return *shared
}

// Row is the row that is one of what, which there must be.
func Row[R any](t testing.TB, rows []R, what string, is func(R) bool) R {
	t.Helper()
	i := slices.IndexFunc(rows, is)
	if i < 0 {
		t.Fatalf("no row of %s", what)
	}
	return rows[i]
}

// LogLosses prints the counters that are not 0, for who reads a failure.
func LogLosses(t testing.TB, losses []snapshot.Loss) {
	t.Helper()
	for _, l := range losses {
		if l.Count > 0 {
			t.Logf("%s=%d", l.Name, l.Count)
		}
	}
}

// Lost is the counter of that name, 0 if there is none.
func Lost(losses []snapshot.Loss, name string) uint64 {
	for _, l := range losses {
		if l.Name == name {
			return l.Count
		}
	}
	return 0
}
