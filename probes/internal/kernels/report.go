package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"culprit/probes/internal/kernels/wire"
)

// results are what one kernel's tests came to.
type results struct {
	kernel    kernel
	installed installed  // of the running kernel, its release alone
	mu        sync.Mutex // for what the machines report
	packages  map[string]*outcome
	findings  []finding
	failure   error // why nothing, or not everything, was run
}

// outcome is a test binary's.
type outcome struct {
	output bytes.Buffer
	status int
	ended  bool
	tests  map[string]*verdict
	first  []string // what those printed that failed, and passed when they were run again
}

const (
	allOfPackage = "(package)" // what belongs to no test
	passedSecond = "pass again"
)

// verdict is a test's, as `go tool test2json` has it.
type verdict struct {
	action string // pass, fail, skip or passedSecond
	output strings.Builder
}

// add takes a report of one of its test binaries.
func (r *results) add(e wire.Event) error {
	if e.Package == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.packages[e.Package]
	if o == nil {
		o = &outcome{}
		r.packages[e.Package] = o
	}
	o.output.Write(e.Output)
	if !e.Ended {
		return nil
	}
	o.ended, o.status = true, e.Status
	return o.decode(e.Package)
}

// decodeUnended sorts what test binaries printed that did not come to their end.
func (r *results) decodeUnended() error {
	var errs []error
	for pkg, o := range r.packages {
		if !o.ended {
			errs = append(errs, o.decode(pkg))
		}
	}
	return errors.Join(errs...)
}

// fail notes why not everything was run, if that is so.
func (r *results) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = errors.Join(r.failure, err)
}

// decode sorts the output of a test binary by its tests.
func (o *outcome) decode(pkg string) error {
	cmd := exec.Command("go", "tool", "test2json", "-p", pkg)
	cmd.Stdin = &o.output
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("decoding the output of %s: %w", pkg, err)
	}
	o.tests = map[string]*verdict{}
	for events := json.NewDecoder(bytes.NewReader(out)); ; {
		var e struct{ Action, Test, Output string }
		if err := events.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("decoding the output of %s: %w", pkg, err)
		}
		if e.Test == "" {
			e.Test = allOfPackage
		}
		v := o.tests[e.Test]
		if v == nil {
			v = &verdict{action: "fail"} // unless it says otherwise: it did not end
			o.tests[e.Test] = v
		}
		switch e.Action {
		case "output":
			v.output.WriteString(e.Output)
		case "pass", "fail", "skip":
			v.action = e.Action
		}
	}
}

// failed is whether anything did, of a test binary that must have run whole.
func (r *results) failed() bool {
	if r.failure != nil || slices.ContainsFunc(r.findings, func(f finding) bool { return f.without == "" }) {
		return true
	}
	for _, o := range r.packages {
		if !o.ended || o.status != 0 {
			return true
		}
	}
	return false
}

// ran is how many test binaries ran tests.
func (r *results) ran() int {
	n := 0
	for _, o := range r.packages {
		if len(o.tests) > 1 { // beside what belongs to none
			n++
		}
	}
	return n
}

// probe is the short name of a package.
func probe(pkg string) string { return path.Base(pkg) }

// print writes the table, kernel by kernel, of what was checked; then what kernels lack, how much
// their verifiers looked at, and what failed.
func printResults(w io.Writer, all []*results, offline []*results) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "PROBE\tCHECKED")
	checks := map[[2]string]bool{}
	for _, r := range all {
		fmt.Fprint(t, "\t", r.kernel.name)
		for pkg, o := range r.packages {
			for name := range o.tests {
				if !strings.Contains(name, "/") && name != allOfPackage {
					checks[[2]string{probe(pkg), name}] = true
				}
			}
		}
	}
	fmt.Fprintln(t)
	for _, c := range slices.SortedFunc(maps.Keys(checks), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		fmt.Fprintf(t, "%s\t%s", c[0], strings.TrimPrefix(c[1], "Test"))
		for _, r := range all {
			fmt.Fprint(t, "\t", mark(r, c[0], c[1]))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	fmt.Fprintln(w)
	for _, r := range append(slices.Clone(all), offline...) {
		fmt.Fprintf(w, "%s is %s\n", r.kernel.name, r.installed.release)
	}
	printInstructions(w, all)

	fmt.Fprintln(w, "\nnot on this kernel:")
	for _, r := range append(slices.Clone(offline), all...) {
		for _, f := range r.findings {
			fmt.Fprintf(w, "  %s: %s\n", r.kernel.name, f)
		}
		for pkg, o := range r.packages {
			for name, v := range o.tests {
				if v.action == "skip" {
					fmt.Fprintf(w, "  %s: %s: %s: %s\n", r.kernel.name, probe(pkg), name, reason(v.output.String()))
				}
			}
		}
	}
	for _, r := range all {
		printFirst(w, r)
	}
	for _, r := range all {
		printFailures(w, r)
	}
}

// printFirst shows what passed the second time only: nobody finds its cause who does not notice it.
func printFirst(w io.Writer, r *results) {
	for pkg, o := range r.packages {
		for _, output := range o.first {
			fmt.Fprintf(w, "\n%s: failed, and passed when it was run again: %s: %s", r.kernel.name, probe(pkg), output)
		}
	}
}

func mark(r *results, of, name string) string {
	for pkg, o := range r.packages {
		if v := o.tests[name]; probe(pkg) == of && v != nil {
			return map[string]string{"pass": "ok", "skip": "-", "fail": "FAILED", passedSecond: "ok, the 2nd time"}[o.action(name)]
		}
	}
	return "not run"
}

// action is a test's verdict; one whose parts were all skipped was.
func (o *outcome) action(name string) string {
	parts, skipped := 0, 0
	for part, v := range o.tests {
		if strings.HasPrefix(part, name+"/") {
			parts++
			if v.action == "skip" {
				skipped++
			}
		}
	}
	if parts > 0 && parts == skipped {
		return "skip"
	}
	return o.tests[name].action
}

// reason is what a skipped test said.
func reason(output string) string {
	var words []string
	for _, line := range strings.Split(output, "\n") {
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			words = append(words, strings.Fields(line)...)
		}
	}
	if len(words) > 0 && strings.HasSuffix(words[0], ":") {
		words = words[1:] // the place in the source
	}
	return strings.Join(words, " ")
}

// verified is what TestVerifies says of each program.
var verified = regexp.MustCompile(`verified (\w+): (\d+) instructions`)

func printInstructions(w io.Writer, all []*results) {
	most := map[string]map[string]int{} // by program, by kernel
	for _, r := range all {
		for _, o := range r.packages {
			for _, v := range o.tests {
				for _, m := range verified.FindAllStringSubmatch(v.output.String(), -1) {
					var n int
					fmt.Sscan(m[2], &n)
					if most[m[1]] == nil {
						most[m[1]] = map[string]int{}
					}
					most[m[1]][r.kernel.name] = max(most[m[1]][r.kernel.name], n)
				}
			}
		}
	}
	if len(most) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nINSTRUCTIONS VERIFIED")
	for _, r := range all {
		fmt.Fprint(t, "\t", r.kernel.name)
	}
	fmt.Fprintln(t)
	for _, program := range slices.Sorted(maps.Keys(most)) {
		fmt.Fprint(t, program)
		for _, r := range all {
			if n := most[program][r.kernel.name]; n > 0 {
				fmt.Fprint(t, "\t", n)
			} else {
				fmt.Fprint(t, "\t-")
			}
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

func printFailures(w io.Writer, r *results) {
	if !r.failed() {
		return
	}
	fmt.Fprintf(w, "\n%s failed\n", r.kernel.name)
	for pkg, o := range r.packages {
		for _, name := range slices.Sorted(maps.Keys(o.tests)) {
			if v := o.tests[name]; v.action == "fail" {
				fmt.Fprintf(w, "%s: %s:\n%s", probe(pkg), name, v.output.String())
			}
		}
		if !o.ended {
			fmt.Fprintf(w, "%s did not end\n", probe(pkg))
		}
	}
	if r.failure != nil {
		fmt.Fprintln(w, r.failure)
	}
}
