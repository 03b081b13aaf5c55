package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fewFailures is how many tests of a kernel may fail and be run again. An emulated machine has no idea of time: it stands still while
// its host has others to run. What fails with many others, or twice, does not fail by that.
const fewFailures = 3

// failures are the tests that failed, by package: none where something else did, or too much.
func (r *results) failures() map[string][]string {
	failures, n := map[string][]string{}, 0
	for pkg, o := range r.packages {
		if !o.ended {
			return nil
		}
		for name, v := range o.tests {
			if v.action == "fail" && !strings.Contains(name, "/") && name != allOfPackage {
				failures[pkg] = append(failures[pkg], name)
				n++
			}
		}
		if o.status != 0 && len(failures[pkg]) == 0 {
			return nil
		}
	}
	if r.failure != nil || n > fewFailures {
		return nil
	}
	return failures
}

// runOnly is the flag that runs these tests of a test binary alone.
func runOnly(tests []string) string {
	return "-test.run=^(" + strings.Join(tests, "|") + ")$"
}

// passedAgain puts what failed, and passed when it was run again, in the place of the failure, whose output is kept to be shown.
func (r *results) passedAgain(failures map[string][]string, again *results) {
	if again.failure != nil {
		return
	}
	for pkg, names := range failures {
		o, second := r.packages[pkg], again.packages[pkg]
		if second == nil || !second.ended || second.status != 0 {
			continue
		}
		if slices.ContainsFunc(names, func(name string) bool { return second.tests[name] == nil || second.tests[name].action != "pass" }) {
			continue
		}
		ofNames := func(test string, _ *verdict) bool {
			top, _, _ := strings.Cut(test, "/")
			return slices.Contains(names, top)
		}
		for test, v := range o.tests {
			if ofNames(test, v) && v.action == "fail" {
				o.first = append(o.first, fmt.Sprintf("%s:\n%s", test, v.output.String()))
			}
		}
		slices.Sort(o.first)
		maps.DeleteFunc(o.tests, ofNames)
		for test, v := range second.tests {
			if ofNames(test, v) {
				o.tests[test] = v
			}
		}
		for _, name := range names {
			o.tests[name].action = passedSecond
		}
		o.status = 0
	}
}
