// Command culprit tells which application causes disk I/O, waits for CPUs and
// stalls in TCP, and proves its figures against the kernel's own counters.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Exit statuses, as README.md documents them.
const (
	exitOK      = 0
	exitRefused = 1 // by the kernel or the system
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	// A closed pipe is to be an error of Write, so that everything is detached and closed.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	missing := missingCapabilities() // before any are given up
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	complain := func(err error) {
		verbose, _ := root.PersistentFlags().GetBool("verbose")
		fmt.Fprintln(stderr, "culprit:", explain(err, verbose, missing))
	}
	err := root.Execute()
	var end ended
	if errors.As(err, &end) {
		if end.also != nil && !errors.Is(end.also, syscall.EPIPE) {
			complain(end.also)
		}
		end.repeat()
		return end.status
	}
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return exitOK // whoever read our output has seen enough
	}
	complain(err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	var start notStarted
	if errors.As(err, &start) {
		return start.status()
	}
	return exitRefused
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "culprit",
		Short: "Which application causes disk I/O, waits for CPUs, and stalls in TCP",
		Long: `culprit charges disk I/O to the application that caused it, also when a kernel
thread writes it back half a minute later, waits for a CPU to whoever had it, and
pauses of TCP connections to what caused them. Each report ends with an audit: the
kernel's own counters, culprit's sums, and what is left between them.

It needs root, or the capabilities CAP_BPF and CAP_PERFMON; culprit doctor says
what this machine allows.`,
		Example: `  culprit summary               ten seconds of everything on one page
  culprit io                    until Ctrl-C, then one report
  culprit io 5                  a report every 5 seconds
  culprit io 1 10 --by pid      ten reports, by process
  culprit run make -j8          what a command did and waited for
  culprit io --json | jq .      for programs`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return noEmptyFlags(cmd) },
	}
	root.PersistentFlags().BoolP("verbose", "v", false, "say more, including the verifier's log when the kernel refuses a program")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newSummary(), newRun(), newConvert(), newRecord(), newReport(), newDoctor(), newVersion(), newMan())
	for _, p := range probes {
		if p.command != nil {
			root.AddCommand(p.command())
		}
	}
	return root
}

// usageError is what the user can mend in the command line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		return usagef("there is no command %q: the commands are %s", args[0], strings.Join(names, ", "))
	}
	return usagef("%s takes no arguments, but got %q: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
}

// flagError says of a flag that could not be parsed what is accepted.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		// A negative number looks like flags.
		short := unknown.GetSpecifiedShortnames()
		if short != "" && strings.Trim(short, "0123456789.") == "" && strings.Contains(cmd.Use, "INTERVAL") {
			return usagef("INTERVAL and COUNT cannot be negative, but got -%s: give seconds from %s, then how many reports", short, intervalRange)
		}
		return usagef("%v: see %s --help", err, cmd.CommandPath())
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return badValue(invalid.GetFlag(), invalid.GetValue())
	}
	return usagef("%v: see %s --help", err, cmd.CommandPath())
}

func badValue(flag *pflag.Flag, given string) usageError {
	want, usage := pflag.UnquoteUsage(flag)
	if want == "" {
		want = "true or false"
	}
	return usageError{fmt.Sprintf("bad --%s %q: give %s: %s", flag.Name, given, want, usage)}
}

// noEmptyFlags refuses --app "$APP" where there is no such variable, which would be a report of all applications.
func noEmptyFlags(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		given := []string{flag.Value.String()}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			given = list.GetSlice()
		}
		if err == nil && (len(given) == 0 || slices.Contains(given, "")) {
			bad := badValue(flag, "")
			if flag.DefValue != "" && flag.DefValue != "[]" {
				bad.text += ", such as " + flag.DefValue
			}
			err = bad
		}
	})
	return err
}

// explain is an error in one line, with what to do about it where that is known. The process
// lacked the capabilities missing.
func explain(err error, verbose bool, missing string) string {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) && verbose {
		return fmt.Sprintf("%+v", verifier)
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	switch {
	case errors.Is(err, unix.EPERM):
		return refusal(text, missing)
	case errors.As(err, &verifier):
		return text + " (-v prints the verifier's log)"
	case errors.Is(err, ebpf.ErrNotSupported):
		if _, missing := btf.LoadKernelSpec(); missing != nil {
			return noTypes + ": " + noTypesRemedy
		}
	}
	return text
}
