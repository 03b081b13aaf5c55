// Kernels runs the tests of all probes on every kernel of the matrix, in virtual
// machines, and prints what was checked where.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"culprit/probes/internal/kernels/wire"
)

// tested are the packages whose tests run on each kernel.
var tested = []struct {
	dir  string // below the repository's root
	skip string // tests that need the repository, not a kernel
	// The tests run the program of this package, which they would build otherwise.
	program bool
}{
	{dir: "probes/owner"},
	{dir: "probes/io"},
	{dir: "cmd/culprit", program: true, skip: "TestImportsGoOneWay|TestProbesAreOneSet|TestCommandsAreDocumented"},
}

func main() {
	if err := mainErr(); err != nil {
		fmt.Fprintln(os.Stderr, "test-kernels:", err)
		os.Exit(1)
	}
}

func mainErr() error {
	only := flag.String("kernel", "", "test only the kernel of this name")
	pkg := flag.String("package", "", "test only packages with this in their names")
	tests := flag.String("run", "", "test only what matches this regular expression")
	jobs := flag.Int("j", 2, "machines at a time")
	verbose := flag.Bool("v", false, "print what the tests print")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	base, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache := filepath.Join(base, "culprit", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	begin := time.Now()
	root, err := rootImage(cache)
	if err != nil {
		return fmt.Errorf("making the guest's root: %w", err)
	}
	tree, init, plan, err := build(work, *pkg, *tests)
	if err != nil {
		return err
	}
	fmt.Printf("built in %v\n", time.Since(begin).Round(time.Second))

	var wg sync.WaitGroup
	var failed []error
	var mu sync.Mutex
	slots := make(chan struct{}, *jobs)
	for _, k := range kernels {
		if k.offline || *only != "" && k.name != *only {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			begin := time.Now()
			err := test(ctx, k, cache, work, root, tree, init, plan, *verbose)
			mu.Lock()
			defer mu.Unlock()
			fmt.Printf("%s: %v\n", k.name, time.Since(begin).Round(time.Second))
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", k.name, err))
			}
		})
	}
	wg.Wait()
	for _, err := range failed {
		fmt.Println(err)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d kernels failed", len(failed))
	}
	return nil
}

func test(ctx context.Context, k kernel, cache, work, root, tree, init string, plan []wire.Test, verbose bool) error {
	i, err := fetch(k, cache)
	if err != nil {
		return err
	}
	dir := filepath.Join(work, k.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	image, err := testImage(dir, tree, i, plan)
	if err != nil {
		return err
	}
	m := machine{kernel: i, cpu: k.cpu, initramfs: init, root: root, tests: image}
	return m.run(ctx, dir, func(e wire.Event) {
		if verbose {
			os.Stdout.Write(e.Output)
		}
		if e.Ended {
			fmt.Printf("%s: %s: status %d\n", k.name, e.Package, e.Status)
		}
	})
}

// build makes what runs in the machines: the tests with their data, and the initramfs.
func build(work, pkg, only string) (tree, archive string, plan []wire.Test, err error) {
	tree = filepath.Join(work, "tree")
	goBuild := func(args ...string) error {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return "", "", nil, err
	}
	if _, err := run("sh", "-c", `git ls-files -z | tar -c --null -T - | tar -x -C "$0"`, tree); err != nil {
		return "", "", nil, err
	}
	for _, t := range tested {
		if !strings.Contains(t.dir, pkg) {
			continue
		}
		name := strings.ReplaceAll(t.dir, "/", "-") + ".test"
		if err := goBuild("test", "-c", "-o", filepath.Join(tree, name), "./"+t.dir); err != nil {
			return "", "", nil, err
		}
		p := wire.Test{
			Package: t.dir, Binary: filepath.Join(wire.TestDir, name), Dir: filepath.Join(wire.TestDir, t.dir),
			Args: []string{"-test.v=test2json", "-test.timeout=20m", "-test.short"},
		}
		if t.program {
			if err := goBuild("build", "-o", filepath.Join(tree, "culprit"), "./"+t.dir); err != nil {
				return "", "", nil, err
			}
			p.Env = append(p.Env, "CULPRIT_TEST_PROGRAM="+filepath.Join(wire.TestDir, "culprit"))
		}
		if t.skip != "" {
			p.Args = append(p.Args, "-test.skip="+t.skip)
		}
		if only != "" {
			p.Args = append(p.Args, "-test.run="+only)
		}
		plan = append(plan, p)
	}
	init := filepath.Join(work, "init")
	if err := goBuild("build", "-ldflags", "-s -w", "-o", init, "./probes/internal/kernels/guest"); err != nil {
		return "", "", nil, err
	}
	archive = filepath.Join(work, "initramfs")
	return tree, archive, plan, initramfs(archive, init)
}
