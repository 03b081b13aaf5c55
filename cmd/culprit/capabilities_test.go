package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// caller is a command line's beginning: culprit, run with some privileges.
type caller struct {
	name    string
	culprit []string
}

func (u caller) command(args ...string) *exec.Cmd {
	line := append(append([]string{}, u.culprit...), args...)
	return exec.Command(line[0], line[1:]...)
}

// callers are all who can run culprit.
func callers(t *testing.T) []caller {
	return []caller{
		{"root", []string{program()}},
		ambient(cap.BPF, cap.PERFMON),
		capable(t, cap.BPF, cap.PERFMON),
	}
}

// someCallers are all of them, or, where time is short, the one in whose place the others are most often.
func someCallers(t *testing.T) []caller {
	everybody := callers(t)
	if testing.Short() {
		return everybody[1:2]
	}
	return everybody
}

// eachReport runs f with what a command prints for some callers in some groupings, of a second.
func eachReport(t *testing.T, command []string, f func(t *testing.T, out []byte)) {
	bys := []string{"pid", "app", "user"}
	if testing.Short() {
		bys = bys[:1]
	}
	for _, u := range someCallers(t) {
		for _, by := range bys {
			t.Run(u.name+" by "+by, func(t *testing.T) {
				f(t, output(t, u.command(slices.Concat(command, []string{"--by", by, "--duration", "1s"})...)))
			})
		}
	}
}

var nobody = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}

// ambient is an ordinary user whose session has some capabilities, as by systemd's AmbientCapabilities=.
func ambient(caps ...cap.Value) caller {
	var list string
	for _, c := range caps {
		list += ",+" + strings.TrimPrefix(c.String(), "cap_")
	}
	return caller{fmt.Sprint("ambient ", caps), append(nobody[:len(nobody):len(nobody)],
		"--inh-caps="+list[1:], "--ambient-caps="+list[1:], "--bounding-set=-all"+list, program())}
}

// capable is an ordinary user with nothing but a program whose file has some capabilities.
func capable(t *testing.T, caps ...cap.Value) caller {
	t.Helper()
	binary, err := os.ReadFile(program())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(public(t), "culprit")
	if err := os.WriteFile(file, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	set := cap.NewSet()
	for _, f := range []cap.Flag{cap.Permitted, cap.Effective} {
		if err := set.SetFlag(f, true, caps...); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.SetFile(file); err != nil {
		t.Fatal(err)
	}
	return caller{fmt.Sprint("file ", caps), append(nobody[:len(nobody):len(nobody)], file)}
}

// public is a directory that ordinary users can read, which t.TempDir's are not.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "culprit")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// output runs a command, which must succeed and complain about nothing.
func output(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() != 0 {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return out
}

// Everything works as for root: what it takes to see others' files, executables, users and
// slowest requests is in the kernel.
func TestOrdinaryUsers(t *testing.T) {
	needRoot(t)
	write(t)
	inBackground(t, talking())
	users := callers(t)[1:]
	commands := []struct{ args, want string }{
		{"summary --duration 0.5s -n 0", `(?s)\ndd .*books balance.*\ndd .*\nAUDIT .*\ntalk .*\nAUDIT `},
		{"doctor", `(?m)^  ok       load .*\n`},
		{"io --files --worst --hist --duration 0.5s -n 0", `(?s)\ndd .* dio .*books balance.*\ndd\n .* writes: p50 .*\ndd .*/data\n.*\nCOMPLETED `},
		{"sched --matrix --time --threads --worst --hist --duration 0.5s -n 0", `(?s)\ndd .*\nAUDIT .*\nENDED `},
		{"tcp --stalls --connections --peers --worst --hist --duration 0.5s -n 0", `(?s)\ntalk .* nagle.*\nAUDIT .*\ntalk +nagle_delayed_ack .*\nENDED `},
		{"run -n 0 -o - dd if=/dev/zero of=/dev/null count=1 status=none", `(?s)exit status 0 .*\nTIME OF .*\nrunning .*\nAUDIT .*\ndd .*\nAUDIT `},
		// Forms of these:
		{"io --by exe --duration 0.5s -n 0", `/dd +\w+ .* dio `},
		{"io --by user --user root --duration 0.5s", `\nroot .* dio `},
		{"io 0.2 2 --format csv", `(?m)^start,`},
		{"sched 0.2 2 --format csv --by pid", `(?m)^start,`},
		{"tcp 0.2 2 --format csv --by pid", `(?m)^start,`},
	}
	if testing.Short() { // how it came to its capabilities makes little difference to a command, and these two load everything
		users, commands = users[:1], commands[:2]
	}
	for _, u := range users {
		t.Run(u.name, func(t *testing.T) {
			for _, c := range commands {
				if out := output(t, u.command(strings.Fields(c.args)...)); !regexp.MustCompile(c.want).Match(out) {
					t.Errorf("%s printed nothing like %s:\n%s", c.args, c.want, out)
				}
			}
		})
	}
}

func TestMissingCapability(t *testing.T) {
	needRoot(t)
	for given, missing := range map[cap.Value]cap.Value{cap.BPF: cap.PERFMON, cap.PERFMON: cap.BPF} {
		for _, u := range []caller{ambient(given), capable(t, given)} {
			t.Run(u.name, func(t *testing.T) {
				refused := func(args ...string) (stdout, stderr string) {
					t.Helper()
					var errs bytes.Buffer
					cmd := u.command(args...)
					cmd.Stderr = &errs
					out, err := cmd.Output()
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.ExitCode() != exitRefused {
						t.Errorf("%v ended with %v, want exit status %d", args, err, exitRefused)
					}
					return string(out), errs.String()
				}
				out, errs := refused("io", "--duration", "1s")
				want := "culprit: missing " + capabilityName(missing) + ": " + capabilityRemedy + "\n"
				if out != "" || errs != want {
					t.Errorf("io said %q, want %q", out+errs, want)
				}
				out, _ = refused("doctor")
				for state, c := range map[string]cap.Value{ok: given, failed: missing} {
					if line := fmt.Sprintf("\n  %-8s %s ", state, capabilityName(c)); !strings.Contains(out, line) {
						t.Errorf("doctor does not say %q:\n%s", line, out)
					}
				}
			})
		}
	}
}

// What only attaching needed is gone from every thread.
func TestCapabilitiesAreGivenUp(t *testing.T) {
	needRoot(t)
	many := []cap.Value{cap.BPF, cap.PERFMON, cap.DAC_READ_SEARCH, cap.DAC_OVERRIDE, cap.SYS_PTRACE, cap.SYS_ADMIN, cap.SETPCAP}
	host := filepath.Join(public(t), "host")
	if err := os.Symlink("/proc", host); err != nil {
		t.Fatal(err)
	}
	everybody := callers(t)
	type given struct {
		caller
		args string
		left []cap.Value
	}
	all := []given{
		{everybody[0], "", nil},
		{everybody[1], "", nil},
		{everybody[2], "", nil},
		{ambient(many...), "", []cap.Value{cap.DAC_READ_SEARCH}},
		{capable(t, many...), "", []cap.Value{cap.DAC_READ_SEARCH}},
		{everybody[0], "--proc " + host, []cap.Value{cap.SYS_PTRACE}},
		{ambient(many...), "--proc " + host, []cap.Value{cap.DAC_READ_SEARCH, cap.SYS_PTRACE}},
		{capable(t, many...), "--proc " + host, nil},
	}
	if testing.Short() { // all of them were tried on the running kernel
		all = []given{all[1], all[6]}
	}
	for _, c := range all {
		t.Run(c.name+" "+c.args, func(t *testing.T) {
			w := start(t, c.caller, append([]string{"io", "0.1", "--json"}, strings.Fields(c.args)...)...)
			for range 10 { // it goes on, and new threads are no exception
				w.report(t)
				w.checkCapabilities(t, c.left)
			}
		})
	}
}

// running is a culprit that prints reports.
type running struct {
	pid int
	out *bufio.Reader
}

// start runs culprit until the test ends; it has attached everything when its first report is there.
func start(t *testing.T, u caller, args ...string) running {
	t.Helper()
	cmd := u.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT)
		go io.Copy(io.Discard, out) // its last report may be longer than a pipe holds
		if err := cmd.Wait(); err != nil || stderr.Len() != 0 {
			t.Errorf("%s: %v\n%s", cmd, err, &stderr)
		}
	})
	return running{cmd.Process.Pid, bufio.NewReader(out)}
}

// report is the next line.
func (r running) report(t *testing.T) []byte {
	t.Helper()
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("no further report: %v", err)
	}
	return line
}

// checkCapabilities holds every thread to the capabilities in left.
func (r running) checkCapabilities(t *testing.T, left []cap.Value) {
	t.Helper()
	var bits uint64
	for _, c := range left {
		bits |= 1 << c
	}
	set := fmt.Sprintf("%016x", bits)
	want := map[string]string{"CapEff": set, "CapPrm": set, "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1"}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads: %v", len(threads), err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			field, value, _ := strings.Cut(line, ":")
			if value = strings.TrimSpace(value); want[field] != "" && value != want[field] {
				t.Errorf("%s: %s is %s, want %s", thread, field, value, want[field])
			}
		}
	}
}

// A program is attached late, when the first device without requests comes up: that needs none of
// the capabilities that are gone by then.
func TestLateDevice(t *testing.T) {
	needRoot(t)
	for _, u := range someCallers(t) {
		t.Run(u.name, func(t *testing.T) {
			// A sysfs in which disks come up when the test wants.
			sys := public(t)
			block := filepath.Join(sys, "block")
			if err := os.Mkdir(block, 0o755); err != nil {
				t.Fatal(err)
			}
			disk := newZram(t)
			inBackground(t, writer("/dev/"+disk))
			w := start(t, u, "io", "0.1", "--json", "-n", "0", "--sys", sys)
			w.report(t)
			if w.attachedTo(t, "block_bio_queue") {
				t.Fatal("block_bio_queue is attached without need")
			}
			if err := os.Symlink("/sys/block/"+disk, filepath.Join(block, disk)); err != nil {
				t.Fatal(err)
			}
			type device struct {
				App, Device string
				WriteBytes  uint64 `json:"write_bytes"`
				Residual    uint64 `json:"residual_bytes"`
				Skew        uint64 `json:"audit_skew"`
			}
			written, audited := uint64(0), false
			for range 20 {
				var report struct{ Rows, Devices []device }
				if err := json.Unmarshal(w.report(t), &report); err != nil {
					t.Fatal(err)
				}
				for _, r := range report.Rows {
					if r.Device == disk && r.App == "dd" {
						written += r.WriteBytes
					}
				}
				for _, d := range report.Devices {
					if d.Device == disk && written > 0 {
						audited = true
						if d.Residual > d.Skew {
							t.Errorf("%d bytes residual with a skew of %d", d.Residual, d.Skew)
						}
					}
				}
			}
			if !w.attachedTo(t, "block_bio_queue") {
				t.Error("block_bio_queue is not attached")
			}
			if written == 0 || !audited {
				t.Errorf("dd wrote %d bytes, audited: %v", written, audited)
			}
		})
	}
}

// Sockets of UDP that come up late are found by an iterator that is attached and opened then.
func TestLatePorts(t *testing.T) {
	needRoot(t)
	for _, u := range someCallers(t) {
		t.Run(u.name, func(t *testing.T) {
			w := start(t, u, "sched", "0.5", "--json", "-n", "0", "--by", "pid")
			w.report(t)
			receiver, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer receiver.Close()
			for range 20 {
				if _, err := receiver.WriteTo(make([]byte, 100), receiver.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				var report struct {
					Rows []struct {
						PID    int
						Caused uint64 `json:"softirq_caused_ns"`
					}
				}
				if err := json.Unmarshal(w.report(t), &report); err != nil {
					t.Fatal(err)
				}
				for _, r := range report.Rows {
					if r.PID == os.Getpid() && r.Caused > 0 {
						return
					}
				}
			}
			t.Error("no softirq is charged to whom it received datagrams for")
		})
	}
}

// attachedTo is whether culprit has a program on a tracepoint, from its fdinfo.
func (r running) attachedTo(t *testing.T, tracepoint string) bool {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", r.pid))
	if err != nil || len(infos) == 0 {
		t.Fatalf("no open files: %v", err)
	}
	for _, info := range infos {
		text, _ := os.ReadFile(info)
		if strings.Contains(string(text), "tp_name:\t"+tracepoint+"\n") {
			return true
		}
	}
	return false
}

// newZram finds a device that takes bios, not requests, and returns its name.
func newZram(t *testing.T) string {
	t.Helper()
	exec.Command("modprobe", "zram").Run() // what it says does not matter: the next line tells
	out, err := exec.Command("zramctl", "--find", "--size", "16M").CombinedOutput()
	if err != nil {
		t.Fatalf("this kernel has no zram: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		// The last one who has it open may take a moment to let go of it.
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			out, err := exec.Command("zramctl", "--reset", dev).CombinedOutput()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("zramctl --reset %s: %v: %s", dev, err, out)
			}
		}
	})
	return strings.TrimPrefix(dev, "/dev/")
}

// Names of containers are root's to read, and one more capability's.
func TestContainerNames(t *testing.T) {
	needRoot(t)
	const id = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"
	inContainer(t, "nerdctl-"+id+".scope")
	names := []cap.Value{cap.BPF, cap.PERFMON, cap.DAC_READ_SEARCH}
	everybody := callers(t)
	for _, c := range []struct {
		caller
		want   string
		doctor string
	}{
		{everybody[0], "webshop", ok},
		{everybody[1], id, degraded},
		{everybody[2], id, degraded},
		{ambient(names...), "webshop", ok},
		{capable(t, names...), "webshop", ok},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := caller{c.name, append(inRuntime(id), c.culprit...)}
			writes(t, u.command("io", "--json", "-n", "0", "--duration", "0.5s"), c.want)
			if out, want := output(t, u.command("doctor")), fmt.Sprintf("\n  %-8s names of containers", c.doctor); !bytes.Contains(out, []byte(want)) {
				t.Errorf("doctor does not say %q:\n%s", want, out)
			}
		})
	}
}

// A container is named while there is what has its name.
func TestNamesOfContainersThatEnd(t *testing.T) {
	needRoot(t)
	const id = "c0ffee11c0ffee11c0ffee11c0ffee11c0ffee11c0ffee11c0ffee11c0ffee11"
	inContainer(t, "nerdctl-"+id+".scope")
	cmd := exec.Command("unshare", append(inRuntime(id)[1:], program(), "io", "--json", "-n", "0", "--duration", "5s")...)
	cmd.Env = append(os.Environ(), "GONE=3")
	writes(t, cmd, "webshop")
}

// writes has culprit io tell what an application wrote.
func writes(t *testing.T, culprit *exec.Cmd, app string) {
	t.Helper()
	var report struct {
		Rows []struct {
			App string
			Via struct{ Direct uint64 } `json:"write_via"`
		}
	}
	if err := json.Unmarshal(output(t, culprit), &report); err != nil {
		t.Fatal(err)
	}
	written := map[string]uint64{}
	for _, r := range report.Rows {
		written[r.App] += r.Via.Direct
	}
	if written[app] == 0 {
		t.Errorf("%s wrote nothing: %v", app, written)
	}
}

// inRuntime begins a command in a mount namespace of its own, in which containerd keeps the name of a container, until $GONE seconds have
// passed.
func inRuntime(id string) []string {
	return []string{"unshare", "--mount", "sh", "-ec", `
		umask 077
		mount -t tmpfs -o mode=711 none /run
		mkdir -p "$0"
		chmod 711 /run/containerd "${0%/*/*}" "${0%/*}"
		echo '{"annotations":{"nerdctl/name":"webshop"}}' > "$0"/config.json
		[ -z "$GONE" ] || { sleep "$GONE"; rm "$0"/config.json; } &
		exec "$@"`, "/run/containerd/io.containerd.runtime.v2.task/default/" + id}
}

// inContainer keeps dd writing in a cgroup of its own until the test ends.
func inContainer(t *testing.T, name string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\S+ \S+ \S+ / (\S+) .* - cgroup2 `).FindSubmatch(mounts)
	if found == nil {
		t.Fatal("cgroup2 is not mounted")
	}
	dir := filepath.Join(string(found[1]), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(5 * time.Second); os.Remove(dir) != nil && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond) // its processes are about to end
		}
	})
	cgroup, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	load := writer(filepath.Join(t.TempDir(), "data"))
	load.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	inBackground(t, load)
}

// A container sees the host's files behind the host's procfs, which takes root or one more capability, also
// after everything is attached. The host here is a process with an /etc, the container has none.
func TestHostFiles(t *testing.T) {
	needRoot(t)
	write(t)
	host := public(t)
	container := []string{"unshare", "--mount", "--pid", "--fork", "sh", "-ec", `
		mount -t proc none ` + host + `
		unshare --mount sh -ec 'mount -t tmpfs none /etc; exec "$@"' sh "$@"
		exit 0`, "sh"}
	more := []cap.Value{cap.BPF, cap.PERFMON, cap.SYS_PTRACE}
	everybody := callers(t)
	for _, c := range []struct {
		caller
		user   string // who writes
		hidden bool
	}{
		{everybody[0], "root", false},
		{everybody[1], "0", true},
		{everybody[2], "0", true},
		{ambient(more...), "root", false},
		{capable(t, more...), "0", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := caller{c.name, append(append([]string{}, container...), c.culprit...)}
			out := output(t, u.command("io", "--proc", host, "--by", "user", "--duration", "0.5s"))
			if !regexp.MustCompile(`\n` + c.user + ` .* dio `).Match(out) {
				t.Errorf("no row of user %s:\n%s", c.user, out)
			}
			out = output(t, u.command("doctor", "--proc", host))
			if got := bytes.Contains(out, []byte("\n  degraded the host's files ")); got != c.hidden {
				t.Errorf("doctor says that files are hidden: %v, want %v\n%s", got, c.hidden, out)
			}
		})
	}
}

// A program whose file has capabilities reads nothing with them that its user chose.
func TestFileCapabilitiesReadNoChosenFile(t *testing.T) {
	needRoot(t)
	dir := public(t)
	for file, text := range map[string]string{"diskstats": "secret", "block/secret/size": "1"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := capable(t, cap.BPF, cap.PERFMON, cap.DAC_READ_SEARCH)
	for args, want := range map[string]string{
		"io --duration 0.1s --proc " + dir:           "permission denied\n",
		"__complete io --sys " + dir + " --device /": "\n:4\n",
	} {
		out, _ := u.command(strings.Fields(args)...).CombinedOutput()
		if bytes.Contains(bytes.ReplaceAll(out, []byte(dir), nil), []byte("secret")) || !strings.Contains("\n"+string(out), want) {
			t.Errorf("%s printed %q", args, out)
		}
	}
}
