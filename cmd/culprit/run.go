package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"culprit/output/json"
	"culprit/output/table"
	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
	"culprit/probes/sched"
	"culprit/probes/snapshot"
	"culprit/probes/tcp"
)

// Exit statuses of culprit run for a command that could not be started, as env(1) and shells have them.
const (
	exitCannotExecute = 126
	exitNotFound      = 127
)

// ended is how the command ended that culprit run ran, which ends likewise, whatever else failed.
type ended struct {
	status int
	signal syscall.Signal // that ended it, or 0
	also   error          // of culprit's own
}

func (e ended) Error() string { return fmt.Sprintf("the command's exit status is %d", e.status) }

func (e ended) Unwrap() error { return e.also }

// notStarted is why the command could not be started.
type notStarted struct {
	command string
	why     error
}

func (e notStarted) Error() string {
	if errors.Is(e.why, exec.ErrNotFound) {
		return fmt.Sprintf("there is no command %q in PATH: give one, or the path of a program", e.command)
	}
	var number syscall.Errno
	if errors.As(e.why, &number) {
		return fmt.Sprintf("cannot execute %q: %v", e.command, number)
	}
	return fmt.Sprintf("cannot execute %q: %v", e.command, fs.ErrPermission) // what exec.LookPath says where access(2) does not
}

func (e notStarted) status() int {
	if errors.Is(e.why, exec.ErrNotFound) || errors.Is(e.why, fs.ErrNotExist) {
		return exitNotFound
	}
	return exitCannotExecute
}

// runFlags are those of culprit run.
type runFlags struct {
	watchFlags
	output string
	settle time.Duration

	owners  *owner.Table
	disks   *ioprobe.Probe
	cpus    *sched.Probe
	network *tcp.Probe
}

func newRun() *cobra.Command {
	f := runFlags{watchFlags: watchFlags{filters: filters{proc: hostProc, sys: hostSys}}}
	cmd := &cobra.Command{
		Use:   "run [--] COMMAND [ARG]...",
		Short: "Run a command, then say what it did and waited for",
		Long: `Runs a command and follows it and everything that it starts, from the first
instruction on, and nothing else: where their time went, what they read and wrote,
also what was only written back afterwards, whom they talked to, and their worst
moments. The report goes to standard error, or to --output.

The command keeps its terminal, its input and output, and its signals. culprit ends
as the command did: with its exit status, or by its signal. Signals are passed on to
it, but SIGINT and SIGQUIT in the foreground of a terminal, whose keys send them to
the command by themselves.

The files that it wrote are waited for, until they are on disk or --settle is over.
What it started and did not wait for is in the report as far as it got by then; what
file systems write of their own after that is not.

How to read it:
  TIME OF ITS THREADS   the time of all its threads, added up; waiting for a CPU is
                with who had it; network, locks and events are told by the system
                call that a thread slept in
  WORST MOMENT  the longest requests, waits for a CPU and TCP stalls; of a burst of
                requests, the longest
  the tables    as those of culprit io, sched and tcp, of the command's processes;
                their audits are of everybody on the machine`,
		Example: `  culprit run make -j8
  culprit run -- sh -c 'tar xf linux.tar; sync'
  culprit run -o report.txt ./server --port 80
  culprit run --json -o made.json make; jq .io.rows made.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(args); err != nil {
				return err
			}
			return f.run(args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.SetInterspersed(false) // what follows the command is its own
	flags.StringVarP(&f.output, "output", "o", "", "write the report to `FILE` instead of standard error; - is standard output")
	flags.BoolVar(&f.json, "json", false, "write it as one json object")
	f.registerBy(cmd, snapshot.ByComm)
	f.registerTop(cmd)
	flags.DurationVar(&f.settle, "settle", time.Second, "wait for at most this `TIME` until the files that it wrote are on disk")
	f.registerHost(cmd)
	return cmd
}

func (f *runFlags) check(args []string) error {
	if len(args) == 0 {
		return usagef("which command? give one, as in culprit run make -j8")
	}
	if f.settle < 0 {
		return usagef("bad --settle %v: give a time such as 5s, or 0", f.settle)
	}
	f.sort = snapshot.SchedSorts[0]
	return f.parse(nil, snapshot.SchedSorts)
}

// destination is where the report goes.
func (f *runFlags) destination(stdout, stderr io.Writer) (io.Writer, func() error, error) {
	none := func() error { return nil }
	switch f.output {
	case "":
		return stderr, none, nil
	case "-":
		return stdout, none, nil
	}
	// An older report stays until there is this one.
	file, err := os.OpenFile(f.output, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return nil, none, fmt.Errorf("creating the report: %w", err)
	}
	return file, file.Close, nil
}

// run runs the command and reports. Once the command has started, its error is how that ended.
func (f *runFlags) run(args []string, stdout, stderr io.Writer) (err error) {
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return notStarted{args[0], err}
	}
	w, closeReport, err := f.destination(stdout, stderr)
	if err != nil {
		return err
	}
	end, err := f.follow(path, args, w, stderr)
	err = errors.Join(err, closeReport())
	if end == nil {
		return err
	}
	end.also = err
	return *end
}

// follow runs the command with everything attached. How it ended is nil if it did not start.
func (f *runFlags) follow(path string, args []string, report, stderr io.Writer) (end *ended, err error) {
	_, _, closeAll, err := bringUp(owner.Options{Proc: f.proc}, nil, f.attachDisks, f.attachCPUs, f.attachNetwork)
	defer closing(&err, closeAll)
	if err != nil {
		return nil, err
	}
	if err := f.owners.Follow(); err != nil {
		return nil, err
	}
	signals := newPassing(stderr)
	r := snapshot.Run{Command: args}
	end, err = f.command(path, args, signals, &r)
	if err != nil {
		return end, err
	}
	if err := f.settled(signals, &r); err != nil {
		return end, err
	}
	signals.stop() // writing the report can take for ever
	if err := f.read(&r); err != nil {
		return end, err
	}
	return end, f.write(report, r)
}

func (f *runFlags) attachDisks(owners *owner.Table, _ *table.Table) (_ *part, err error) {
	f.owners = owners
	if f.disks, err = ioprobe.Load(owners, ioprobe.Options{Proc: f.proc, Sys: f.sys, Worst: true, WorstFollowed: true}); err != nil {
		return nil, err
	}
	return &part{close: f.disks.Close}, nil
}

func (f *runFlags) attachCPUs(owners *owner.Table, _ *table.Table) (_ *part, err error) {
	o := sched.Options{Proc: f.proc, ByProcess: true, Worst: true, WorstFollowed: true, Sleeps: true, TalkersFrom: talkersFrom(defaultMinStall)}
	if f.cpus, err = sched.Load(owners, o); err != nil {
		return nil, err
	}
	return &part{close: f.cpus.Close}, nil
}

func (f *runFlags) attachNetwork(owners *owner.Table, _ *table.Table) (_ *part, err error) {
	o := tcp.Options{Proc: f.proc, Worst: true, StallMin: defaultMinStall, Waits: f.cpus}
	if f.network, err = tcp.Load(owners, o); err != nil {
		return nil, err
	}
	return &part{close: f.network.Close}, nil
}

// command starts the command, and returns how it ended. It does not return before.
func (f *runFlags) command(path string, args []string, signals *passing, r *snapshot.Run) (end *ended, err error) {
	begin := time.Now()
	process, err := execute(path, args)
	if err != nil {
		return nil, notStarted{args[0], err}
	}
	// Not before: the command is not to lose what it would have had. It may have become another user since.
	err = limit(append(stillNeeded(f.proc), cap.KILL)...)
	type exit struct {
		state *os.ProcessState
		err   error
		wall  time.Duration
	}
	over := make(chan exit, 1)
	go func() {
		state, err := process.Wait()
		over <- exit{state, err, time.Since(begin)}
	}()
	collect := time.NewTicker(time.Second)
	defer collect.Stop()
	for {
		select {
		case s := <-signals.received:
			signals.pass(process, s)
		case <-collect.C:
			if err == nil {
				err = f.keep(r, f.owners.Collect)
			}
		case e := <-over:
			if e.err != nil {
				return nil, errors.Join(err, fmt.Errorf("waiting for the command: %w", e.err))
			}
			end := endOf(e.state)
			r.Wall, r.KernelCPU, r.Status = e.wall, e.state.UserTime()+e.state.SystemTime(), end.status
			if end.signal != 0 {
				r.Signal = unix.SignalName(end.signal)
			}
			return &end, err
		}
	}
}

// execute starts a program with all that this process has. What has no format is a shell's, as for execvp(3).
func execute(path string, args []string) (*os.Process, error) {
	as := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	process, err := os.StartProcess(path, args, as)
	if errors.Is(err, unix.ENOEXEC) {
		const shell = "/bin/sh"
		process, err = os.StartProcess(shell, append([]string{shell, path}, args[1:]...), as)
	}
	return process, err
}

func endOf(state *os.ProcessState) ended {
	if w := state.Sys().(syscall.WaitStatus); w.Signaled() {
		return ended{status: 128 + int(w.Signal()), signal: w.Signal()}
	}
	return ended{status: state.ExitCode()}
}

// repeat ends this process as the command ended, if a signal ended that: so that whoever waits for it can tell.
func (e ended) repeat() {
	if e.signal == 0 {
		return
	}
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // the core is the command's
	// os/signal does not take away Go's own handler, which prints a trace for some.
	var byDefault [4]uint64 // struct kernel_sigaction with SIG_DFL
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(e.signal), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	unix.Kill(os.Getpid(), e.signal)
	time.Sleep(100 * time.Millisecond) // the first process of a container is not ended by its own signals
}

// passing passes signals on to the command. Go cannot keep an ignored signal ignored but for SIGHUP and SIGINT, here and for the command.
type passing struct {
	received chan os.Signal
	stderr   io.Writer
}

var passed = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM}

func newPassing(stderr io.Writer) *passing {
	p := &passing{make(chan os.Signal, 16), stderr}
	for _, s := range passed {
		if !signal.Ignored(s) {
			signal.Notify(p.received, s)
		}
	}
	return p
}

// inForeground is whether the keys of a terminal send signals to this process, and so to what it starts.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func (p *passing) pass(to *os.Process, s os.Signal) {
	if (s == syscall.SIGINT || s == syscall.SIGQUIT) && inForeground() {
		return // by a key: the command has it, too
	}
	if err := to.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintf(p.stderr, "culprit: passing %v on to the command: %v\n", s, err)
	}
}

// wait is for at most so long. It ends with a signal, which it tells of.
func (p *passing) wait(most time.Duration) (interrupted bool) {
	select {
	case <-p.received:
		return true
	case <-time.After(most):
		return false
	}
}

func (p *passing) drain() {
	for len(p.received) > 0 {
		<-p.received
	}
}

// stop has signals do what they always do.
func (p *passing) stop() { signal.Reset(passed...) }

// keep has everything in order while the command runs.
func (f *runFlags) keep(r *snapshot.Run, collect func() error) error {
	if err := collect(); err != nil {
		return err
	}
	followed, err := f.owners.Followed()
	r.Processes, r.Running, r.Memory, r.Largest = followed.Processes, followed.Running, followed.Most, followed.MostComm
	return err
}

// settled waits until what the command changed is written.
func (f *runFlags) settled(signals *passing, r *snapshot.Run) error {
	signals.drain() // they were the command's
	for end := time.Now().Add(f.settle); ; {
		err := f.keep(r, f.owners.CollectAll)
		if err != nil {
			return err
		}
		if r.Dirty, err = f.disks.Dirty(f.owners.Follows); err != nil {
			return err
		}
		left := time.Until(end)
		if r.Dirty == 0 || left <= 0 || signals.wait(min(left, time.Second)) { // sweeps are counted as seconds
			return nil
		}
	}
}

// worstOfRun is how many of the longest waits and stalls are told.
const worstOfRun = 10

// read takes the command's part of the three reports.
func (f *runFlags) read(r *snapshot.Run) (err error) {
	by, followed := snapshot.By(f.by), func(p snapshot.Process) bool { return p.Followed }
	if r.IO, err = f.disks.Read(); err != nil {
		return err
	}
	if r.Sched, err = f.cpus.Read(); err != nil {
		return err
	}
	if r.TCP, err = f.network.Read(); err != nil {
		return err
	}
	r.IO = r.IO.Filter(followed).Group(by).SortBy(snapshot.IOSorts[0])
	// All of the worst that are known, and not only the same number of each group.
	r.Sched, r.TCP = r.Sched.Filter(followed), r.TCP.Filter(followed)
	waits, stalls := r.Sched.Worst, r.TCP.Worst
	r.Sched, r.TCP = r.Sched.Group(by).SortBy(snapshot.SchedSorts[0]), r.TCP.Group(by).SortBy(snapshot.TCPSorts[0])
	slices.SortStableFunc(waits, func(a, b snapshot.SchedWait) int { return cmp.Compare(b.Wait, a.Wait) })
	slices.SortStableFunc(stalls, func(a, b snapshot.TCPStall) int { return cmp.Compare(b.Duration, a.Duration) })
	r.Sched.Worst, r.TCP.Worst = waits[:min(len(waits), worstOfRun)], stalls[:min(len(stalls), worstOfRun)]
	return nil
}

func (f *runFlags) write(w io.Writer, r snapshot.Run) error {
	if file, ok := w.(*os.File); ok && f.output != "" && f.output != "-" {
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
			if err := file.Truncate(0); err != nil {
				return fmt.Errorf("replacing the report: %w", err)
			}
		}
	}
	if f.json {
		return json.Run(w, r, json.Options{Top: f.top})
	}
	return (&table.Table{W: w, Width: width(w), Top: f.top}).Run(r)
}
