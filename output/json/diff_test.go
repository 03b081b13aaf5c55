package json_test

import (
	"testing"

	"culprit/output/internal/sample"
	"culprit/output/json"
)

func TestDiffGolden(t *testing.T) {
	checkGolden(t, "diff.json", json.Diff, json.Options{Top: 4}, sample.Diff())
}
