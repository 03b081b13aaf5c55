package remedy_test

import (
	"testing"

	"culprit/output/internal/remedy"
	"culprit/output/internal/text"
	"culprit/probes/snapshot"
)

// There is something to do about every cause, said once, in what fits two lines of a terminal.
func TestEveryCauseHasOne(t *testing.T) {
	causes := map[string]snapshot.Cause{}
	for _, c := range snapshot.Causes {
		r := remedy.Of(c)
		if other, ok := causes[r]; ok || r == "" || text.Width(r) > 2*75 || text.Escape(r) != r {
			t.Errorf("%s: %q (as for %q)", c, r, other)
		}
		causes[r] = c
	}
}
