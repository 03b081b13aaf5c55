package owner

import "culprit/probes/snapshot"

// BacklogLimit bounds the memory of a report that runs for long while processes come and go.
const BacklogLimit = 16384

// Backlog is what a probe keeps for its next report because it frees where it was counted.
type Backlog[R any] struct {
	Rows   []R
	Folded uint64 // rows that were merged into others, ever
}

// Add keeps rows. When there are more than BacklogLimit, group makes fewer of all (snapshot.Fold).
func (b *Backlog[R]) Add(group func([]R, snapshot.By) []R, rows ...R) {
	b.Rows = append(b.Rows, rows...)
	if len(b.Rows) > BacklogLimit {
		folded := snapshot.Fold(BacklogLimit/2, b.Rows, group)
		b.Folded += uint64(len(b.Rows) - len(folded))
		b.Rows = folded
	}
}
