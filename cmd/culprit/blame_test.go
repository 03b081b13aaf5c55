package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culprit/probes/owner"
	"culprit/probes/sched"
)

// hog is the name by which the tests run themselves to keep others off a CPU.
const hog = "hog"

// hogCPU computes in bursts of 100 ms, which is more than an acknowledgement is put off for, with 20 ms in between, as a real-time thread: who else is to
// run on its CPU waits for a burst's end.
func hogCPU() int {
	runtime.LockOSThread()
	attributes := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &attributes, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
		for begin := time.Now(); time.Since(begin) < 100*time.Millisecond; {
		}
		pause := unix.NsecToTimespec(20e6)
		unix.Nanosleep(&pause, nil) // that is no other thread's business
	}
	return 0
}

// disturbed has the talker talk on one CPU, which the hog takes from it now and then, and returns its pid.
func disturbed(t *testing.T) int {
	t.Helper()
	talking := exec.Command("taskset", "-c", "0", filepath.Join(bin, talker), "sleep", "infinity")
	inBackground(t, talking)
	inBackground(t, exec.Command("taskset", "-c", "0", filepath.Join(bin, hog)))
	return talking.Process.Pid
}

// blamedStalls are the stalls of the talker's readers in a report that have somebody who had the CPU. The rest have nobody.
func blamedStalls(t *testing.T, report []byte) (blamed int) {
	t.Helper()
	var tcp struct {
		Exemplars []struct {
			App, Cause string
			Duration   uint64 `json:"duration_ns"`
			Ran        []struct {
				App string
				NS  uint64
			}
		}
		Loss map[string]uint64
	}
	for line := range bytes.Lines(report) {
		if bytes.Contains(line, []byte(`"schema":"culprit.tcp/`)) {
			if err := json.Unmarshal(line, &tcp); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, told := tcp.Loss["waits_missed"]; !told {
		t.Errorf("nothing is said about lost waits: %v", tcp.Loss)
	}
	for _, e := range tcp.Exemplars {
		if e.Cause != "reader_not_scheduled" && len(e.Ran) > 0 {
			t.Errorf("%+v", e)
		}
		if len(e.Ran) == 0 {
			continue
		}
		blamed++
		var sum uint64
		for _, r := range e.Ran {
			sum += r.NS
		}
		if e.Ran[0].App != hog || sum > e.Duration {
			t.Errorf("%+v", e)
		}
	}
	return blamed
}

// Who had the CPU of a reader that waited for it is named in every format.
func TestBlame(t *testing.T) {
	needRoot(t)
	only := fmt.Sprintf(" --by comm -p %d", disturbed(t))
	for _, args := range []string{"tcp --worst --json --duration 2s", "tcp --worst 2 1 --json", "summary --json --duration 2s"} {
		for _, u := range someCallers(t) {
			t.Run(u.name+" "+args, func(t *testing.T) {
				if blamedStalls(t, output(t, u.command(strings.Fields(args+only)...))) == 0 {
					t.Error("nobody is blamed")
				}
			})
		}
	}
	for args, want := range map[string]string{
		"":             `(?m)^ +the CPU had: ` + hog + ` `,
		"--format csv": `(?m),ran,` + talker + `,.*,` + hog + `,`,
	} {
		out := output(t, exec.Command(program(), strings.Fields("tcp --worst --duration 2s "+args+only)...))
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("%s: no %s in\n%s", args, want, out)
		}
	}
}

// Without the sched probe, stalls are told of nevertheless, and one line says what is lost.
func TestBlameIsDispensable(t *testing.T) {
	var stderr bytes.Buffer
	var f tcpFlags
	p, err := f.attachWaits(&stderr, func(_ *owner.Table, o sched.Options) (*sched.Probe, error) {
		if !o.NoPackets {
			t.Error("waits are paid for with each packet")
		}
		return nil, errors.New("loading the sched probe: no")
	})(nil, nil)
	if err != nil || f.waits != nil {
		t.Fatalf("%v, %v", err, f.waits)
	}
	if got, want := stderr.String(), "culprit: stalls are without who had the CPU: loading the sched probe: no\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if bytes, err := p.memory(); err != nil || bytes != 0 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	if err := errors.Join(p.report(), p.close()); err != nil {
		t.Error(err)
	}
}
