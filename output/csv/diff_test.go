package csv_test

import (
	"bytes"
	"testing"

	"culprit/output/csv"
	"culprit/output/internal/golden"
	"culprit/output/internal/sample"
)

func TestDiffGolden(t *testing.T) {
	var out bytes.Buffer
	if err := csv.NewWriter(&out, csv.Options{Top: 4}).Diff(sample.Diff()); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "diff.csv", out.Bytes())
}
