package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"culprit/output/table"
	"culprit/probes/hook"
	"culprit/probes/owner"
)

func newDoctor() *cobra.Command {
	var f filters
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What this kernel and this user allow",
		Long: `Says, probe by probe, what this kernel and this user allow, what is lost where
they don't, and what to do about it. It loads and attaches each probe for a moment
to be sure. The exit status is 1 if a probe cannot work here.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			d := examine(f)
			if err := d.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if !d.OK {
				return errors.New("not every probe can work here: see above")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	f.registerHost(cmd)
	return cmd
}

// diagnosis is everything that doctor found out. Its JSON is the command's.
type diagnosis struct {
	Schema       string   `json:"schema"`
	Kernel       string   `json:"kernel"`
	Architecture string   `json:"architecture"`
	OK           bool     `json:"ok"` // every probe works
	Checks       []check  `json:"checks"`
	Memory       []memory `json:"memory"`
	UserBytes    uint64   `json:"user_bytes"` // resident memory of this process with all probes loaded
}

// States of a check.
const (
	ok       = "ok"
	degraded = "degraded" // it works, but something is lost
	failed   = "failed"
)

type check struct {
	Of     string `json:"of"` // the probe, else "user" or "kernel"
	Check  string `json:"check"`
	State  string `json:"state"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

type memory struct {
	Probe       string `json:"probe"`
	KernelBytes uint64 `json:"kernel_bytes"` // at most
}

func examine(f filters) *diagnosis {
	d := &diagnosis{Schema: "culprit.doctor/1", Architecture: runtime.GOARCH, OK: true, Checks: []check{}, Memory: []memory{}}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		d.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	d.user()
	d.names(f.proc)
	d.kernel()
	for _, p := range probes {
		d.tracepoints(p.name, p.check)
	}
	d.load(f)
	d.statistics(f.sys)
	return d
}

// need notes something without which nothing works.
func (d *diagnosis) need(met bool, of, what, detail, remedy string) {
	c := check{Of: of, Check: what, State: ok, Detail: detail}
	if !met {
		c.State, c.Remedy = failed, remedy
		d.OK = false
	}
	d.Checks = append(d.Checks, c)
}

func (d *diagnosis) user() {
	for _, c := range needed {
		d.need(mayTrace(c.Value), "user", capabilityName(c.Value), c.why, capabilityRemedy)
	}
	if ownUserNamespace() {
		d.need(false, "user", "user namespace", "not the first one", namespaceRemedy)
	}
}

// names tells which more capabilities would show more names.
func (d *diagnosis) names(proc string) {
	c := check{Of: "user", Check: "names of containers", State: ok}
	if os.Geteuid() != 0 && !hasCapability(cap.DAC_READ_SEARCH) {
		c.State, c.Detail = degraded, "docker, containerd, CRI-O and podman show them to root alone: ids instead"
		c.Remedy = "run as root, or add CAP_DAC_READ_SEARCH, if containers matter here"
	}
	d.Checks = append(d.Checks, c)
	if _, err := os.Stat(filepath.Join(proc, "1/root/etc")); proc != hostProc && errors.Is(err, fs.ErrPermission) {
		d.Checks = append(d.Checks, check{
			Of: "user", Check: "the host's files", State: degraded,
			Detail: "cannot be seen: users have the names of this container, containers their ids",
			Remedy: "run with CAP_SYS_PTRACE, as root or ambient (systemd's AmbientCapabilities=); a file's does not count below --proc",
		})
	}
}

func (d *diagnosis) kernel() {
	_, err := btf.LoadKernelSpec()
	d.need(err == nil, "kernel", "BTF", "describes the kernel's types", noTypesRemedy)
	if mode := lockdown(); mode != "" {
		d.need(mode != "confidentiality", "kernel", "lockdown", mode, lockdownRemedy)
	}
}

func (d *diagnosis) tracepoints(probe string, list func(*btf.Spec) ([]hook.Tracepoint, error)) {
	points, err := list(nil)
	if err != nil {
		return // without BTF, which is a check of its own
	}
	for _, p := range points {
		c := check{Of: probe, Check: "tracepoint " + p.Name, State: ok}
		switch {
		case p.Present:
		case p.Without == "":
			d.need(false, probe, c.Check, "this kernel does not have it", "use a newer kernel")
			continue
		default:
			c.State, c.Detail, c.Remedy = degraded, p.Without, "use a kernel that has it built in, if that matters here"
		}
		d.Checks = append(d.Checks, c)
	}
}

// load tries all probes for a moment.
func (d *diagnosis) load(f filters) {
	begin, missing := time.Now(), missingCapabilities()
	var attaches []attach
	var names []string
	for _, p := range probes {
		if p.attach != nil {
			attaches, names = append(attaches, p.attach(f)), append(names, p.name)
		}
	}
	owners, parts, closeAll, err := bringUp(owner.Options{Proc: f.proc}, &table.Table{W: io.Discard}, attaches...)
	if err != nil {
		of := "owner" // the process table, which comes before all probes
		if owners != nil {
			of = names[len(parts)]
		}
		remedy := "culprit summary -v says more"
		if !d.OK {
			remedy = "mend what failed above"
		}
		err = errors.Join(err, closeAll())
		d.need(false, of, "loads", explain(err, false, missing), remedy)
		return
	}
	took := time.Since(begin).Round(time.Millisecond)
	if bytes, err := owners.Memory(); err == nil {
		d.Memory = append(d.Memory, memory{"owner", bytes})
	}
	d.need(true, "all", "load", fmt.Sprintf("and attach, in %v", took), "")
	for i, p := range parts {
		if bytes, err := p.memory(); err == nil {
			d.Memory = append(d.Memory, memory{names[i], bytes})
		}
	}
	d.UserBytes = residentBytes()
	if err := closeAll(); err != nil {
		d.need(false, "kernel", "unloads", err.Error(), "")
	}
}

// residentBytes is the resident memory of this process, 0 if it cannot be told.
func residentBytes() uint64 {
	statm, _ := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// statistics finds disks whose own counters are switched off.
func (d *diagnosis) statistics(sys string) {
	for _, disk := range disks(sys) {
		setting := filepath.Join(sys, "block", disk, "queue/iostats")
		if on, err := os.ReadFile(setting); err == nil && strings.TrimSpace(string(on)) == "0" {
			d.Checks = append(d.Checks, check{
				Of: "io", Check: "statistics of " + disk, State: degraded,
				Detail: "are off: no books to balance with, and no latencies", Remedy: "echo 1 > " + setting,
			})
		}
	}
}

func (d *diagnosis) print(w io.Writer, asJSON bool) error {
	var b bytes.Buffer
	if asJSON {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(d); err != nil {
			return err
		}
	} else {
		d.table(&b)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("writing the diagnosis: %w", err)
	}
	return nil
}

func (d *diagnosis) table(b *bytes.Buffer) {
	fmt.Fprintf(b, "Linux %s %s\n", d.Kernel, d.Architecture)
	of := ""
	for _, c := range d.Checks {
		if c.Of != of {
			of = c.Of
			fmt.Fprintf(b, "\n%s\n", of)
		}
		fmt.Fprintln(b, strings.TrimRight(fmt.Sprintf("  %-8s %-34s %s", c.State, c.Check, c.Detail), " "))
		if c.Remedy != "" {
			fmt.Fprintf(b, "           → %s\n", c.Remedy)
		}
	}
	if len(d.Memory) == 0 {
		return
	}
	b.WriteString("\nmemory\n")
	for _, m := range d.Memory {
		fmt.Fprintf(b, "  %-8s at most %s in the kernel\n", m.Probe, humanize.IBytes(m.KernelBytes))
	}
	fmt.Fprintf(b, "  %-8s %s resident now\n", "culprit", humanize.IBytes(d.UserBytes))
}
