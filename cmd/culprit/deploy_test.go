package main

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// deployed is a file of deploy/.
func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// settings are all values of NAME=VALUE in a text, as in units.
func settings(text, name string) (values []string) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// setting is the only one.
func setting(t *testing.T, text, name string) string {
	t.Helper()
	values := settings(text, name)
	if len(values) != 1 {
		t.Fatalf("%s is set %d times", name, len(values))
	}
	return values[0]
}

// flagLines are the flags in the service's configuration: those in effect, and then those proposed.
func flagLines(t *testing.T) (lines [][]string) {
	t.Helper()
	text := deployed(t, "culprit.default")
	for _, value := range append(settings(text, "CULPRIT_FLAGS"), settings(text, "#CULPRIT_FLAGS")...) {
		lines = append(lines, strings.Fields(strings.Trim(value, `"`)))
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines of flags, want 2", len(lines))
	}
	return lines
}

// accepts holds the command to flags.
func accepts(t *testing.T, args []string) {
	t.Helper()
	cmd, flags, err := newRoot().Find(args)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(flags); err != nil || cmd.Name() != "record" || cmd.Flags().NArg() != 0 {
		t.Errorf("culprit %s takes not %q: %v", cmd.Name(), args, err)
	}
}

// systemd knows every line of the unit, and finds little that the service could do harm with.
func TestDeployedUnit(t *testing.T) {
	unit := deployed(t, "culprit.service")
	start := strings.Fields(setting(t, unit, "ExecStart"))
	if start[0] != "/usr/bin/culprit" || start[len(start)-1] != "$CULPRIT_FLAGS" {
		t.Fatalf("it starts %q", start)
	}
	for _, flags := range flagLines(t) {
		accepts(t, append(slices.Clone(start[1:len(start)-1]), flags...))
	}
	file := filepath.Join(t.TempDir(), "culprit.service") // of a program that is there
	if err := os.WriteFile(file, []byte(strings.Replace(unit, start[0], program(), 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"verify", "--man=no", "--recursive-errors=no", file},
		{"security", "--offline=true", "--threshold=20", "--no-pager", file}, // of 100
	} {
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) != 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

// records has a command record into a directory while something is written to a disk: it counts that, to the byte.
func records(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	disk := emptyDisk(t, 16)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	// Its journal is there before anything is attached, and what was written before that is not to be missed: so it is written all the time.
	const mib = 1
	for writing := true; writing; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
			}
			writing = false
		default:
			dd(t, disk, mib)
			time.Sleep(50 * time.Millisecond)
		}
	}
	if got := reportOf(t, dir, filepath.Base(disk)); got.dd == 0 || got.dd != got.kernel || got.ours != got.kernel || got.residual != 0 {
		t.Errorf("recorded: %+v\n%s", got, &stderr)
	}
}

// systemCalls are those that a unit's filters allow.
func systemCalls(t *testing.T, unit string) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	var set func(name string, to bool)
	set = func(name string, to bool) {
		if !strings.HasPrefix(name, "@") {
			allowed[name] = to
			return
		}
		out, err := exec.Command("systemd-analyze", "syscall-filter", name).Output()
		if err != nil {
			t.Fatalf("what is in %s: %v", name, err)
		}
		for line := range strings.Lines(string(out)) {
			if member, ok := strings.CutPrefix(line, "    "); ok && !strings.HasPrefix(member, "#") {
				set(strings.TrimSpace(member), to)
			}
		}
	}
	for _, filter := range settings(unit, "SystemCallFilter") {
		names, without := strings.CutPrefix(filter, "~")
		for _, name := range strings.Fields(names) {
			set(name, !without)
		}
	}
	return allowed
}

// What the unit allows is enough: an ordinary user with its capabilities and no others, to whom everything but the
// state is read-only. No system call is made that the unit forbids.
func TestDeployedService(t *testing.T) {
	needRoot(t)
	unit, state := deployed(t, "culprit.service"), public(t)
	dir := filepath.Join(state, "culprit")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	list := func(name string) (caps string) {
		for _, c := range strings.Fields(setting(t, unit, name)) {
			caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
		}
		return caps
	}
	start := strings.Fields(strings.ReplaceAll(setting(t, unit, "ExecStart"), "%S", state))
	line := slices.Concat(
		[]string{"unshare", "--mount", "sh", "-ec", `
			mount --bind "$0" "$0"
			for d in / /proc /sys; do mount -o remount,bind,ro "$d"; done
			exec "$@"`, dir},
		nobody, []string{
			"--no-new-privs", "--inh-caps=" + list("AmbientCapabilities")[1:], "--ambient-caps=" + list("AmbientCapabilities")[1:],
			"--bounding-set=-all" + list("CapabilityBoundingSet"),
			"strace", "-f", "-qq", "-c", "-U", "name", "-o", filepath.Join(dir, "calls"), program(),
		},
		start[1:len(start)-1], flagLines(t)[0], []string{"--duration", "3s"})
	records(t, exec.Command(line[0], line[1:]...), dir)

	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	allowed, bpf := systemCalls(t, unit), false
	for _, name := range strings.Fields(string(calls)) {
		bpf = bpf || name == "bpf"
		if name != "syscall" && name != "total" && !strings.HasPrefix(name, "-") && !allowed[name] {
			t.Errorf("it calls %s, which the unit forbids", name)
		}
	}
	if !bpf {
		t.Errorf("no BPF program was loaded by %s", calls)
	}
}

// daemonSet is what of a DaemonSet is in use; that there is nothing else is checked, too.
type daemonSet struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   metadata
	Spec       struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata metadata
			Spec     podSpec
		}
	}
}

type metadata struct {
	Name                string
	Labels, Annotations map[string]string
}

type podSpec struct {
	HostPID                       bool `yaml:"hostPID"`
	AutomountServiceAccountToken  bool `yaml:"automountServiceAccountToken"`
	EnableServiceLinks            bool `yaml:"enableServiceLinks"`
	TerminationGracePeriodSeconds int  `yaml:"terminationGracePeriodSeconds"`
	Tolerations                   []struct{ Operator string }
	Containers                    []container
	Volumes                       []struct {
		Name     string
		HostPath struct{ Path, Type string } `yaml:"hostPath"`
	}
}

type container struct {
	Name, Image     string
	ImagePullPolicy string `yaml:"imagePullPolicy"`
	Args            []string
	Env             []struct {
		Name      string
		ValueFrom struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	ReadinessProbe struct {
		HTTPGet       struct{ Path, Port string } `yaml:"httpGet"`
		PeriodSeconds int                         `yaml:"periodSeconds"`
	} `yaml:"readinessProbe"`
	Resources       struct{ Requests, Limits map[string]string }
	SecurityContext struct {
		RunAsUser                int                   `yaml:"runAsUser"`
		AllowPrivilegeEscalation bool                  `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool                  `yaml:"readOnlyRootFilesystem"`
		SeccompProfile           struct{ Type string } `yaml:"seccompProfile"`
		AppArmorProfile          struct{ Type string } `yaml:"appArmorProfile"`
		Capabilities             struct{ Drop, Add []string }
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

// In a container of the program alone, with the capabilities and mounts of the DaemonSet, its arguments record what the host does.
func TestDeployedContainer(t *testing.T) {
	needRoot(t)
	var set daemonSet
	d := yaml.NewDecoder(strings.NewReader(deployed(t, "daemonset.yaml")))
	d.KnownFields(true)
	if err := d.Decode(&set); err != nil {
		t.Fatal(err)
	}
	pod := set.Spec.Template.Spec
	if set.APIVersion != "apps/v1" || set.Kind != "DaemonSet" || !pod.HostPID || len(pod.Containers) != 1 {
		t.Fatalf("it is %+v", set)
	}
	for name, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Metadata.Labels[name] != value {
			t.Errorf("pods are not labelled %s=%s", name, value)
		}
	}
	c := pod.Containers[0]
	accepts(t, c.Args)
	if got := c.SecurityContext.Capabilities; !slices.Equal(got.Drop, []string{"ALL"}) || !slices.Equal(got.Add, []string{"BPF", "PERFMON", "SYS_PTRACE"}) {
		t.Errorf("capabilities: %+v", got)
	}
	for _, instruction := range []string{"FROM scratch", "COPY bin/culprit /culprit", `ENTRYPOINT ["/culprit"]`} {
		if !slices.Contains(strings.Split(deployed(t, "Containerfile"), "\n"), instruction) {
			t.Errorf("the image is not made by %s", instruction)
		}
	}

	root := public(t)
	binary, err := os.ReadFile(program())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "culprit"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	host, recording := map[string]string{}, ""
	for _, v := range pod.Volumes {
		host[v.Name] = v.HostPath.Path
	}
	mounts := []string{"/proc", "/proc", "ro", "/sys", "/sys", "ro"} // those of every container
	for _, m := range c.VolumeMounts {
		from, mode := host[m.Name], "ro"
		switch {
		case from == "":
			t.Fatalf("there is no volume %s", m.Name)
		case !m.ReadOnly && recording != "":
			t.Fatalf("%s can be written to, too", m.Name)
		case !m.ReadOnly:
			recording, mode = t.TempDir(), "rw"
			from = recording
		}
		mounts = append(mounts, from, m.MountPath, mode)
	}
	for i := 1; i < len(mounts); i += 3 {
		if err := os.MkdirAll(filepath.Join(root, mounts[i]), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	capabilities := "--bounding-set=-all,+sys_chroot" // which is for chroot alone
	for _, name := range c.SecurityContext.Capabilities.Add {
		capabilities += ",+" + strings.ToLower(name)
	}
	line := slices.Concat(
		[]string{"unshare", "--mount", "sh", "-ec", `
			root=$0
			mount --bind "$root" "$root"
			while [ "$1" != -- ]; do
				mount --bind "$1" "$root$2"
				mount -o "remount,bind,$3" "$root$2"
				shift 3
			done
			shift
			mount -o remount,bind,ro "$root"
			exec "$@"`, root},
		mounts, []string{"--", "setpriv", "--no-new-privs", capabilities, "chroot", root, "/culprit"})
	for _, arg := range c.Args {
		arg = strings.ReplaceAll(arg, "$(NODE_NAME)", "node-7")
		line = append(line, strings.Replace(arg, ":9435", "127.0.0.1:0", 1)) // another one may be served here
	}
	records(t, exec.Command(line[0], append(line[1:], "--duration", "3s")...), recording)
	if parts, _ := filepath.Glob(filepath.Join(recording, "date=*", "host=node-7", "*.parquet")); len(parts) == 0 {
		t.Error("nothing was recorded as of the node")
	}
}

// The program knows whom to trust where the system does not say: in its image there is nothing but it.
func TestDeployedCertificates(t *testing.T) {
	const alone = "CULPRIT_TEST_WITHOUT_CERTIFICATES"
	if os.Getenv(alone) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$") // certificates are looked for once in a process
		nowhere := filepath.Join(t.TempDir(), "nowhere")
		cmd.Env = append(os.Environ(), alone+"=1", "SSL_CERT_FILE="+nowhere, "SSL_CERT_DIR="+nowhere)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if known, err := x509.SystemCertPool(); err != nil || known.Equal(x509.NewCertPool()) {
		t.Errorf("nobody is trusted: %v", err)
	}
}

// Packages of what was made later are newer ones, by the rules of both kinds.
func TestDeployedVersions(t *testing.T) {
	repository := t.TempDir()
	makefile, err := filepath.Abs(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = repository
		cmd.Env = append(os.Environ(), "MAKEFLAGS=", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("git", "init", "-q")
	before := ""
	for _, tag := range []string{"", "v1.2.0-rc1", "", "v1.2.0-rc2", "v1.2.0-rc10", "v1.2.0", "", "v1.2.1-rc1", "v1.10.0"} {
		run("git", "commit", "-q", "--allow-empty", "-m", "more")
		if tag != "" {
			run("git", "tag", "-a", "-m", tag, tag)
		}
		version := run("make", "-s", "-f", makefile, "--eval", `version:; @echo "$(PACKAGE_VERSION)"`, "version")
		if before != "" {
			run("dpkg", "--compare-versions", before, "lt", version)
			if order := run("rpm", "--eval", `%{lua:print(rpm.vercmp("`+before+`", "`+version+`"))}`); order != "-1" {
				t.Errorf("of %s and %s rpm says %s", before, version, order)
			}
		}
		if want := strings.Replace(strings.TrimPrefix(tag, "v"), "-", "~", 1); tag != "" && version != want {
			t.Errorf("the version of %s is %s, want %s", tag, version, want)
		}
		before = version
	}
}

// What packages install works as it is: the program, its manual, its completions, the service.
func TestDeployedPackages(t *testing.T) {
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MANWIDTH=100", "LC_ALL=C.UTF-8")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", cmd, err, out, &stderr)
		}
		return string(out)
	}
	run("make", "-C", top, "packages")
	only := func(pattern string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(top, "bin/packages", pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %q: %v", pattern, found, err)
		}
		return found[0]
	}
	deb, rpm, root := only("*.deb"), only("*.rpm"), t.TempDir()
	run("dpkg-deb", "-x", deb, root)
	if out := run(filepath.Join(root, "usr/bin/culprit"), "version"); !strings.HasPrefix(out, "culprit ") {
		t.Errorf("its version is %q", out)
	}
	for _, name := range []string{"culprit.service", "culprit.default"} {
		path := map[string]string{"culprit.service": "usr/lib/systemd/system/culprit.service", "culprit.default": "etc/default/culprit"}[name]
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != deployed(t, name) {
			t.Errorf("%s is not deploy/%s: %v", path, name, err)
		}
	}
	for _, c := range newRoot().Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		page := filepath.Join(root, "usr/share/man/man1", "culprit-"+c.Name()+".1.gz")
		text := run("man", "--warnings", "-l", page)
		for _, want := range []string{"culprit-" + c.Name() + " - " + c.Short, "SYNOPSIS"} {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
				t.Errorf("%s has no %q:\n%s", page, want, text)
			}
		}
		run("mandoc", "-T", "lint", "-W", "error", page)
	}
	completed := run("bash", "-c", `
		_get_comp_words_by_ref() { words=(culprit rec) cword=1 cur=rec prev=culprit; }
		. "$0"
		PATH=$1:$PATH COMP_LINE='culprit rec' COMP_POINT=11 COMP_TYPE=9 COMP_WORDS=(culprit rec) COMP_CWORD=1
		__start_culprit
		echo "${COMPREPLY[@]}"`, filepath.Join(root, "usr/share/bash-completion/completions/culprit"), filepath.Join(root, "usr/bin"))
	if strings.TrimSpace(completed) != "record" {
		t.Errorf(`"culprit rec" is completed by %q`, completed)
	}
	for _, script := range []string{"postinstall", "preremove", "postremove"} {
		run("sh", "-n", filepath.Join(top, "deploy/scripts", script))
	}

	// Both have the same, but for where zsh looks.
	files := func(list string) (files []string) {
		for line := range strings.Lines(list) {
			if path := strings.TrimSpace(line); !strings.Contains(path, "/zsh/") {
				files = append(files, path)
			}
		}
		slices.Sort(files)
		return files
	}
	inDeb := run("sh", "-c", `cd "$0" && find . -type f -printf '/%P\n'`, root)
	if d, r := files(inDeb), files(run("rpm", "-qlp", rpm)); !slices.Equal(d, r) {
		t.Errorf("the .deb has %q, the .rpm %q", d, r)
	}
	if out := run("dpkg-deb", "--ctrl-tarfile", deb); !strings.Contains(out, "/etc/default/culprit") {
		t.Error("the configuration is not kept when the package is replaced")
	}
}
