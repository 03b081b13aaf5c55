package rows_test

import (
	"slices"
	"testing"
	"time"

	"culprit/output/internal/rows"
	"culprit/output/internal/sample"
	"culprit/probes/snapshot"
)

func row(app, device string, blocked uint64) snapshot.IORow {
	return snapshot.IORow{Process: snapshot.Process{App: app}, Device: device, BlockedNS: blocked}
}

func TestTop(t *testing.T) {
	in := snapshot.IO{By: snapshot.ByApp, Rows: []snapshot.IORow{
		row("a", "vda", 0), row("b", "", 5), row("c", "", 4), row("a", "vdb", 0), row("b", "vda", 0), row("a", "", 3),
	}}
	var folded []snapshot.IORow
	for _, l := range rows.Lines(in.Rows, in.By) {
		folded = append(folded, l.IORow)
	}
	// b stands where its blocked time stood: that is what it may be sorted by.
	want := []snapshot.IORow{row("a", "vda", 3), row("b", "vda", 5), row("c", "", 4), row("a", "vdb", 0)}
	if !slices.EqualFunc(folded, want, equal) {
		t.Errorf("lines %v, want %v", folded, want)
	}
	for n, want := range map[int][]int{0: {0, 1, 2, 3, 4, 5}, 1: {0, 5}, 2: {0, 1, 4, 5}, 3: {0, 1, 2, 4, 5}, 4: {0, 1, 2, 3, 4, 5}, 9: {0, 1, 2, 3, 4, 5}} {
		kept, omitted := rows.Top(in, n)
		var rows []snapshot.IORow
		for _, i := range want {
			rows = append(rows, in.Rows[i])
		}
		if !slices.EqualFunc(kept.Rows, rows, equal) || len(omitted) != len(in.Rows)-len(want) {
			t.Errorf("top %d keeps %v and omits %v, want %v", n, kept.Rows, omitted, rows)
		}
	}
}

func equal(a, b snapshot.IORow) bool {
	return a.App == b.App && a.Device == b.Device && a.BlockedNS == b.BlockedNS
}

func TestTopLists(t *testing.T) {
	in := sample.IO(snapshot.ByApp)
	kept, _ := rows.Top(in, 3)
	// Of the three groups, two have files: postgres three, and fstrim none.
	if len(kept.Files) != 3 || len(kept.Worst) != 3 || kept.Worst[0].LatencyNS() < kept.Worst[1].LatencyNS() {
		t.Errorf("files %v, worst %v", kept.Files, kept.Worst)
	}
	if in.Worst[0].Op != "flush" {
		t.Error("the snapshot was changed")
	}
}

func TestTopSched(t *testing.T) {
	in := sample.SchedThreads(snapshot.ByApp)
	for n, want := range map[int][4]int{0: {7, 0, 2, 4}, 1: {1, 6, 1, 1}, 2: {2, 5, 2, 2}, 9: {7, 0, 2, 4}} {
		kept, omitted := rows.TopSched(in, n)
		if got := [4]int{len(kept.Rows), len(omitted), len(kept.Worst), len(kept.Threads)}; got != want {
			t.Errorf("top %d: %v rows, omitted, waits and threads, want %v", n, got, want)
		}
	}
	if len(in.Worst) != 2 || in.Worst[1].PID == 0 {
		t.Error("the snapshot was changed")
	}
}

func TestTopTCP(t *testing.T) {
	in := sample.TCPConnections(snapshot.ByApp)
	for n, want := range map[int][5]int{0: {8, 0, 5, 6, 3}, 1: {1, 7, 2, 1, 1}, 2: {2, 6, 5, 2, 2}, 9: {8, 0, 5, 6, 3}} {
		kept, omitted := rows.TopTCP(in, n)
		got := [5]int{len(kept.Rows), len(omitted), len(kept.Worst), len(kept.Connections), len(kept.Rows[0].Remotes)}
		if got != want {
			t.Errorf("top %d: %v rows, omitted, stalls, connections and remote ends, want %v", n, got, want)
		}
	}
	if len(in.Worst) != 5 || len(in.Rows[0].Remotes) != 3 {
		t.Error("the snapshot was changed")
	}
}

// A pid that was used again is another group.
func TestKey(t *testing.T) {
	p := snapshot.Process{PID: 7, Started: time.Unix(1, 0), App: "a"}
	q := p
	q.Started = q.Started.Add(1)
	if rows.KeyOf(p, snapshot.ByPID) == rows.KeyOf(q, snapshot.ByPID) || rows.KeyOf(p, snapshot.ByApp) != rows.KeyOf(q, snapshot.ByApp) {
		t.Error("a pid used again is the same group, or an app is two")
	}
}
