package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// bin is the directory of the program as users build it. Others than root must be able to run it.
var bin string

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case talker:
		os.Exit(talk(os.Args[1:]))
	case hog:
		os.Exit(hogCPU())
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	// Under nohup(1), the programs that are tested would ignore the signal, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	var err error
	if bin, err = os.MkdirTemp("", "culprit"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(bin)
	if err := os.Chmod(bin, 0o755); err != nil {
		panic(err)
	}
	for _, name := range []string{talker, hog} {
		if err := copyProgram("/proc/self/exe", name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	// Elsewhere than where it can be built, it is brought along.
	if built := os.Getenv("CULPRIT_TEST_PROGRAM"); built != "" {
		if err := copyProgram(built, "culprit"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		return 1
	}
	return m.Run()
}

// copyProgram puts a program where others than root can run it.
func copyProgram(file, name string) error {
	program, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bin, name), program, 0o755)
}

func program() string { return filepath.Join(bin, "culprit") }

// needRoot fails a test that loads BPF programs as another user.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test runs the commands on the running kernel, and needs root")
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits STATUS PROGRAM ARGS… runs a program. If it is to fail, it must say why in one line,
// and print nothing else.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits status program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if got != want {
		ts.Fatalf("exit status %d, want %d\n%s%s", got, want, stdout, stderr)
	}
	if want != exitOK && (stdout != "" || !strings.HasPrefix(stderr, "culprit: ") || strings.Count(stderr, "\n") != 1) {
		ts.Fatalf("not one line that says what was wrong:\n%s%s", stdout, stderr)
	}
}
