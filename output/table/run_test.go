package table_test

import (
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/table"
	"culprit/probes/snapshot"
)

func TestRunGolden(t *testing.T) {
	checkAll(t, []printed[snapshot.Run]{
		{"run-80", table.Table{}, (*table.Table).Run, []snapshot.Run{sample.Run(snapshot.ByComm), sample.RunIdle()}},
		{"run-132-pid", table.Table{Width: 132, Top: 2}, (*table.Table).Run, []snapshot.Run{sample.Run(snapshot.ByPID)}},
	})
}

func TestRunFits(t *testing.T) {
	for _, by := range snapshot.Bys {
		fits(t, by, func(t *table.Table) error { return t.Run(sample.RunNasty(by)) })
	}
}
