// Kernels runs the tests of all probes on every kernel of the matrix, in virtual
// machines and on the running one, and prints what was checked where. What probes ask of
// the kernels' types is checked first, without starting them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"culprit/probes/internal/kernels/wire"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := matrix(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "test-kernels:", err)
		os.Exit(1)
	}
}

// running is the name of the running kernel in the matrix.
const running = "running"

func matrix(ctx context.Context) error {
	only := flag.String("kernel", "", "test this kernel alone, by its name in the matrix, or \""+running+"\"")
	pkg := flag.String("package", "", "test only packages with this in their names")
	tests := flag.String("run", "", "test only what matches this regular expression")
	machines := flag.Int("j", runtime.NumCPU(), "virtual machines at a time")
	limit := flag.Duration("limit", 30*time.Minute, "end everything after this time")
	verbose := flag.Bool("v", false, "print what the tests print")
	flag.Parse()
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("the limit of %v for everything is over", *limit))
	defer cancel()

	base, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache := filepath.Join(base, "culprit", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	if err := sweep(cache); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%5.0fs "+format+"\n", append([]any{time.Since(begin).Seconds()}, args...)...)
	}
	root, err := rootImage(cache)
	if err != nil {
		return fmt.Errorf("making the root of the virtual machines: %w", err)
	}
	p, err := build(work, *pkg, *tests)
	if err != nil {
		return err
	}
	if len(p.tests) == 0 {
		return fmt.Errorf("no package has %q in its name", *pkg)
	}
	say("built")

	var offline, all []*results
	var group errgroup.Group
	group.SetLimit(*machines)
	processors, err := processors(*machines)
	if err != nil {
		return err
	}
	host := &results{kernel: kernel{name: running}, packages: map[string]*outcome{}}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	host.installed.release = unix.ByteSliceToString(name.Release[:])
	if *only == "" || *only == running {
		// Alone, because live tests change what the whole machine does: a virtual one that boots meanwhile has no idea of time.
		host.fail(runHere(ctx, p, host.event(say, *verbose)))
	}
	for _, k := range kernels {
		if *only != "" && *only != k.name {
			continue
		}
		r := &results{kernel: k, packages: map[string]*outcome{}}
		if r.installed, err = fetch(k, cache); err != nil {
			return err
		}
		if r.findings, err = relocate(r.installed); err != nil {
			return err
		}
		if k.offline {
			offline = append(offline, r)
			continue
		}
		all = append(all, r)
	}
	images := make([]func() (string, error), len(all))
	for i, r := range all {
		images[i] = sync.OnceValues(func() (string, error) {
			dir := filepath.Join(work, r.kernel.name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
			return testImage(dir, p.tree, p.tests, r.installed)
		})
	}
	inMachines := func(i int, into *results, packages []string, flags ...string) {
		group.Go(func() error {
			image, err := images[i]()
			if err == nil {
				processor := <-processors
				defer func() { processors <- processor }()
				m := machine{all[i].installed, all[i].kernel.cpu, processor, p.initramfs, root, image, packages, flags}
				err = inMachine(ctx, m, work, into.event(say, *verbose))
			}
			into.fail(err)
			return nil
		})
	}
	// Many machines, the longest first, so that no processor has nothing to do while another has two left.
	for _, packages := range p.machines {
		for i, r := range all {
			inMachines(i, r, packages)
		}
	}
	group.Wait()
	failures, second := make([]map[string][]string, len(all)), make([]*results, len(all))
	for i, r := range all {
		r.fail(r.decodeUnended())
		failures[i], second[i] = r.failures(), &results{kernel: r.kernel, packages: map[string]*outcome{}}
		for pkg, tests := range failures[i] {
			say("%s: %s: once more: %s", r.kernel.name, pkg, strings.Join(tests, ", "))
			inMachines(i, second[i], []string{pkg}, runOnly(tests))
		}
	}
	group.Wait()
	for i, r := range all {
		r.passedAgain(failures[i], second[i])
	}
	if *only == "" || *only == running {
		all = append(all, host)
	}
	fmt.Println()
	printResults(os.Stdout, all, offline)
	if len(all)+len(offline) == 0 {
		return fmt.Errorf("no kernel %q: see probes/internal/kernels/fetch.go, or \"%s\"", *only, running)
	}
	failed := 0
	for _, r := range all {
		if r.failed() || r.ran() != len(p.tests) {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d kernels failed", failed, len(all))
	}
	say("everything passed")
	return nil
}

// processors are those that n machines have at a time.
func processors(n int) (chan int, error) {
	var usable unix.CPUSet
	if err := unix.SchedGetaffinity(0, &usable); err != nil {
		return nil, fmt.Errorf("asking which processors there are: %w", err)
	}
	free := make(chan int, n)
	for i := 0; len(free) < n; i++ {
		if usable.IsSet(i % (len(usable) * 64)) {
			free <- i % (len(usable) * 64)
		}
	}
	return free, nil
}

// sweep removes what runs that were killed left behind.
func sweep(cache string) error {
	left, err := filepath.Glob(filepath.Join(cache, "run-*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > 2*time.Hour {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// event takes what a kernel's tests report.
func (r *results) event(say func(string, ...any), verbose bool) func(wire.Event) {
	return func(e wire.Event) {
		if verbose {
			os.Stdout.Write(e.Output)
		}
		if err := r.add(e); err != nil {
			r.fail(err)
		}
		if e.Ended {
			say("%s: %s ended with status %d", r.kernel.name, e.Package, e.Status)
		}
	}
}

// inMachine runs a machine, with files of its own below work.
func inMachine(ctx context.Context, m machine, work string, event func(wire.Event)) error {
	dir, err := os.MkdirTemp(work, "machine-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := m.run(ctx, dir, event); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(m.packages, ", "), err)
	}
	return nil
}

// runHere runs the tests on the running kernel.
func runHere(ctx context.Context, p *plan, event func(wire.Event)) error {
	for _, t := range p.tests {
		cmd := exec.CommandContext(ctx, t.Path(p.tree), t.Args...)
		cmd.Dir = t.Dir(p.tree)
		cmd.Env = append(os.Environ(), t.Env(p.tree)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // and say where it was
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return fmt.Errorf("running %s: %w", t.Package, err)
		}
		event(wire.Event{Package: t.Package, Output: out})
		event(wire.Event{Package: t.Package, Ended: true, Status: cmd.ProcessState.ExitCode()})
	}
	return context.Cause(ctx)
}
