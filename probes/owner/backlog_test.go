package owner_test

import (
	"testing"

	"culprit/probes/owner"
	"culprit/probes/snapshot"
)

// Rows are folded when there are too many, not before, and what was lost of them is counted.
func TestBacklog(t *testing.T) {
	sum := func(rows []int, _ snapshot.By) []int {
		n := 0
		for _, r := range rows {
			n += r
		}
		return []int{n}
	}
	var b owner.Backlog[int]
	for i := range owner.BacklogLimit {
		b.Add(sum, i)
	}
	if len(b.Rows) != owner.BacklogLimit || b.Folded != 0 {
		t.Errorf("%d rows, %d folded, before there were too many", len(b.Rows), b.Folded)
	}
	b.Add(sum, owner.BacklogLimit, owner.BacklogLimit+1)
	const last = owner.BacklogLimit + 1
	if len(b.Rows) != 1 || b.Rows[0] != last*(last+1)/2 || b.Folded != last {
		t.Errorf("%d rows, the first %d, %d folded", len(b.Rows), b.Rows[0], b.Folded)
	}
}
