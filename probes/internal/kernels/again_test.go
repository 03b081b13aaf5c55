package main

import (
	"errors"
	"slices"
	"testing"
)

// What fails once in an emulated machine is run again, few tests of those alone that came to their end; what fails twice has failed.
func TestAgain(t *testing.T) {
	of := func(status int, actions ...string) *results {
		o := &outcome{ended: true, status: status, tests: map[string]*verdict{allOfPackage: {action: "pass"}}}
		for i, action := range actions {
			o.tests[[]string{"TestA", "TestA/part", "TestB", "TestC", "TestD", "TestE"}[i]] = &verdict{action: action}
		}
		return &results{packages: map[string]*outcome{"p": o}}
	}
	unended := of(1, "fail")
	unended.packages["p"].ended = false
	broken := of(1, "fail")
	broken.failure = errors.New("no machine")
	for _, c := range []struct {
		name          string
		first, second *results
		again         []string
		failed        bool
	}{
		{"all passed", of(0, "pass"), of(0), nil, false},
		{"once", of(1, "fail", "fail", "pass"), of(0, "pass", "pass"), []string{"TestA"}, false},
		{"twice", of(1, "fail", "fail", "pass"), of(1, "fail", "pass"), []string{"TestA"}, true},
		{"not run again", of(1, "fail"), of(0), []string{"TestA"}, true},
		{"too many", of(1, "fail", "pass", "fail", "fail", "fail"), of(0, "pass", "pass", "pass", "pass", "pass"), nil, true},
		{"without a test", of(2, "pass"), of(0, "pass"), nil, true},
		{"not to the end", unended, of(0, "pass"), nil, true},
		{"no machine", broken, of(0, "pass"), nil, true},
		{"no second machine", of(1, "fail"), broken, []string{"TestA"}, true},
	} {
		failures := c.first.failures()
		if names := failures["p"]; !slices.Equal(names, c.again) {
			t.Errorf("%s: %v are run again, want %v", c.name, names, c.again)
		}
		c.first.passedAgain(failures, c.second)
		if c.first.failed() != c.failed {
			t.Errorf("%s: failed: %v, want %v", c.name, c.first.failed(), c.failed)
		}
		if o := c.first.packages["p"]; c.again != nil && !c.failed && (mark(c.first, "p", "TestA") != "ok, the 2nd time" || len(o.first) != 2) {
			t.Errorf("%s: marked %q, of the failure is left: %q", c.name, mark(c.first, "p", "TestA"), o.first)
		}
	}
}
