package owner

// BacklogLimit bounds the memory of a report that runs for long while processes come and go.
const BacklogLimit = 16384

// Backlog is what a probe keeps for its next report because it frees where it was counted.
type Backlog[R any] struct {
	Rows   []R
	Folded uint64 // rows that were merged into others, ever
}

// Add keeps rows. When there are more than BacklogLimit, fold makes fewer of all.
func (b *Backlog[R]) Add(fold func([]R) []R, rows ...R) {
	b.Rows = append(b.Rows, rows...)
	if len(b.Rows) > BacklogLimit {
		folded := fold(b.Rows)
		b.Folded += uint64(len(b.Rows) - len(folded))
		b.Rows = folded
	}
}
