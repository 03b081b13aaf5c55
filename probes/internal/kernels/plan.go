package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"culprit/probes/internal/kernels/wire"
)

// planned is a package whose tests run on each kernel.
type planned struct {
	dir  string // below the repository's root
	skip string // tests of what is the same on every kernel (the repository, flags and forms of output, names that runtimes and hosts keep in files, tables that are full), or needs more than guests have
	// The tests run the program of this package, which they would build otherwise.
	program bool
	beside  bool // in the machine of the one before it: it is not worth one of its own
}

// plans are in the order in which they begin: what takes longest comes first.
var plans = []planned{
	// Traffic as fast as it gets, tables that are full or large, the same once more, and who goes on within 0.3 ms of an acknowledgement:
	// emulated machines are late.
	{dir: "probes/tcp", skip: "TestHealthyTraffic|TestMisleadingTraffic/pictures|TestMisleadingTraffic/has_waited|TestMisleadingTraffic/HTTP|TestRemedies|TestLosses|TestLostWaits|TestFullTableRecovers|TestScale|" +
		"TestPartialReads|TestReadingsAddUp|TestNagle|TestAcceptedElsewhere|TestCauses/delayed_ack|TestStallTrigger|TestEventsOfStalls|TestEventsOfRefusals|TestEventsOfRetransmissions/(twice|replies|bulk|FIN|last)"},
	{dir: "probes/owner", beside: true},
	{dir: "probes/trace", beside: true},
	{dir: "probes/io", skip: "TestLossesAreSeen|TestEventsAreFiltered|TestTriggerOfRequests"}, // tables of all sizes, and what is the same everywhere
	// Tables that are full, and what the guests have no loads for: perf, stress-ng, the Go compiler.
	{dir: "probes/sched", skip: "TestLossesAreSeen|TestAgainstPerf|TestSoftirqsCaused|TestFirstWait|TestDepth|TestScale"},
	{dir: "cmd/culprit", program: true, skip: "TestImportsGoOneWay|TestProbesAreOneSet|TestCommandsAreDocumented|" +
		"TestScripts/output|TestScripts/usage|TestScripts/sched|TestScripts/tcp|TestScripts/summary|TestScripts/doctor|TestBlame|TestRun[A-Z]|TestTrace[A-Z]|TestTCPNamespace|TestLateDevice|TestHostFiles|TestContainerNames|TestNamesOfContainersThatEnd|TestFileCapabilitiesReadNoChosenFile|TestPrometheus|TestDashboard|TestDeployed"},
}

// plan is what runs on each kernel.
type plan struct {
	tree      string // what becomes the test disk: the repository, and the tests as programs
	initramfs string
	tests     []wire.Test
	machines  [][]string // packages, for each machine of a kernel
}

// build makes the plan, of the packages with pkg in their names and of the tests that match only.
func build(work, pkg, only string) (*plan, error) {
	p := &plan{tree: filepath.Join(work, "tree"), initramfs: filepath.Join(work, "initramfs")}
	if err := os.Mkdir(p.tree, 0o755); err != nil {
		return nil, err
	}
	if _, err := run("bash", "-o", "pipefail", "-c", `git ls-files -z | tar -c --null -T - | tar -x -C "$0"`, p.tree); err != nil {
		return nil, err
	}
	for _, t := range plans {
		if !strings.Contains(t.dir, pkg) {
			continue
		}
		name := strings.ReplaceAll(t.dir, "/", "-") + ".test"
		if err := goRun("test", "-c", "-o", filepath.Join(p.tree, name), "./"+t.dir); err != nil {
			return nil, err
		}
		test := wire.Test{Package: t.dir, Program: name, Args: []string{"-test.v=test2json", "-test.timeout=12m", "-test.short"}}
		if t.program {
			if err := goRun("build", "-o", filepath.Join(p.tree, wire.Culprit), "./"+t.dir); err != nil {
				return nil, err
			}
		}
		if t.skip != "" {
			test.Args = append(test.Args, "-test.skip="+t.skip)
		}
		if only != "" {
			test.Args = append(test.Args, "-test.run="+only)
		}
		p.tests = append(p.tests, test)
		if last := len(p.machines) - 1; t.beside && last >= 0 {
			p.machines[last] = append(p.machines[last], t.dir)
		} else {
			p.machines = append(p.machines, []string{t.dir})
		}
	}
	init := filepath.Join(work, "init")
	if err := goRun("build", "-ldflags", "-s -w", "-o", init, "./probes/internal/kernels/guest"); err != nil {
		return nil, err
	}
	return p, initramfs(p.initramfs, init)
}

func goRun(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
