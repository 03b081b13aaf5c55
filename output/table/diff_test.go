package table_test

import (
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

func TestDiffGolden(t *testing.T) {
	none := sample.Diff()
	none.Changes = nil
	checkAll(t, []printed[snapshot.Diff]{
		{"diff-80", table.Table{}, (*table.Table).Diff, []snapshot.Diff{sample.Diff(), none}},
		{"diff-132", table.Table{Width: 132, Top: 2}, (*table.Table).Diff, []snapshot.Diff{sample.Diff()}},
	})
}

func TestDiffFits(t *testing.T) {
	d := sample.Diff()
	for i := range d.Changes {
		c := &d.Changes[i]
		c.A = snapshot.Estimate{Value: 1.8e19, Low: 1, High: 1e300}
		c.B = snapshot.Estimate{Value: 1e-300, Low: 0, High: 1}
	}
	for _, by := range snapshot.Bys {
		d.By = by
		fits(t, by, func(t *table.Table) error { return t.Diff(d) })
	}
}
