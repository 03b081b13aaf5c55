package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// kernels is the matrix. A new one is one line.
var kernels = []kernel{
	{name: "5.10", suite: "bullseye", offline: true},
	{name: "6.1", suite: "bookworm", cpu: noCmpxchg16b},
	{name: "6.12", suite: "trixie", cpu: noCmpxchg16b},
	{name: "newest", suite: "sid", cpu: wholeCPU},
}

// kernel is one of the matrix.
type kernel struct {
	name    string
	suite   string // Debian's, whose kernel for virtual machines it is
	cpu     string // QEMU's
	offline bool   // only its types are checked
}

// Without what is emulated byte by byte: clearing and copying memory as CPUs do it best (erms, fsrm) takes a tenth of all time.
// The allocator of older kernels trips over how QEMU 7.2 emulates cmpxchg16b; that of newer ones
// gives BPF programs no memory without it (kmalloc_nolock(), mm/slub.c).
const (
	wholeCPU     = "max,-erms,-fsrm"
	noCmpxchg16b = wholeCPU + ",-cx16"
)

// installed is a kernel unpacked in the cache.
type installed struct {
	release string // uname -r
	image   string // vmlinuz
	root    string // what its packages hold
	modules string // root's lib/modules/RELEASE, with depmod's tables
}

const (
	metapackage = "linux-image-cloud-amd64"
	fresh       = 24 * time.Hour // a mirror is asked for newer packages when the last answer is older
)

// fetch gets a kernel from the mirror that this machine's apt is set up with, or
// from the cache if it was got before and the mirror has no newer one or cannot be reached.
func fetch(k kernel, cache string) (installed, error) {
	fail := func(err error) (installed, error) {
		return installed{}, fmt.Errorf("kernel %s of Debian %s: %w", k.name, k.suite, err)
	}
	dir, err := filepath.Abs(filepath.Join(cache, k.suite))
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fail(fmt.Errorf("locking %s: %w", dir, err))
	}
	// A link to the whole kernel last got, as old as the mirror's answer.
	current := filepath.Join(dir, "current")
	link, missing := os.Lstat(current)
	if missing != nil || time.Since(link.ModTime()) > fresh {
		if err := renew(k, dir, current); err != nil {
			if missing != nil {
				return fail(err)
			}
			version, _ := os.Readlink(current)
			fmt.Fprintf(os.Stderr, "kernel %s: taking %s from the cache: %v\n", k.name, version, err)
		}
	}
	found, err := open(current)
	if err != nil {
		return fail(err)
	}
	return found, nil
}

// renew makes current a link to the newest kernel that the mirror has.
func renew(k kernel, dir, current string) error {
	if err := configureApt(k, dir); err != nil {
		return err
	}
	if _, err := apt(dir, dir, "apt-get", "update"); err != nil {
		return err
	}
	dependencies, err := apt(dir, dir, "apt-cache", "depends", "--recurse", "--important", metapackage)
	if err != nil {
		return err
	}
	packages := follow(dependencies, metapackage)
	uris, err := apt(dir, dir, "apt-get", append([]string{"download", "--print-uris"}, packages...)...)
	if err != nil {
		return err
	}
	file := regexp.MustCompile(` ` + metapackage + `_(\S+)_\w+\.deb `).FindStringSubmatch(uris)
	if file == nil {
		return fmt.Errorf("apt-get does not say which version of %s it would download", metapackage)
	}
	version := "kernel-" + file[1]
	if _, err := os.Stat(filepath.Join(dir, version)); err != nil {
		if err := unpack(dir, version, packages); err != nil {
			return err
		}
	}
	link := filepath.Join(dir, "current.new")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(version, link); err != nil {
		return err
	}
	if err := os.Rename(link, current); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "kernel-*"))
	if err != nil {
		return err
	}
	for _, o := range old {
		if filepath.Base(o) != version {
			if err := os.RemoveAll(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpack makes a kernel of its packages, whole or not at all.
func unpack(dir, version string, packages []string) error {
	unfinished := filepath.Join(dir, "unfinished")
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	downloads, root := filepath.Join(unfinished, "packages"), filepath.Join(unfinished, "root")
	for _, d := range []string{downloads, root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if _, err := apt(dir, downloads, "apt-get", append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(downloads, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := run("dpkg-deb", "--extract", f, root); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(downloads); err != nil {
		return err
	}
	// Newer packages have their modules in /usr/lib, where depmod does not look.
	if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	k, err := open(unfinished)
	if err != nil {
		return err
	}
	if _, err := run("depmod", "--basedir", k.root, k.release); err != nil {
		return err
	}
	return os.Rename(unfinished, filepath.Join(dir, version))
}

// open finds the parts of an unpacked kernel.
func open(dir string) (installed, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return installed{}, err
	}
	k := installed{root: filepath.Join(dir, "root")}
	if k.modules, err = only(filepath.Join(k.root, "lib/modules/*")); err != nil {
		return installed{}, err
	}
	k.release = filepath.Base(k.modules)
	if k.image, err = only(filepath.Join(k.root, "boot/vmlinuz-*")); err != nil {
		k.image, err = only(filepath.Join(k.modules, "vmlinuz"))
	}
	return k, err
}

// only is the one path of a pattern.
func only(pattern string) (string, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(paths) != 1 {
		return "", fmt.Errorf("%d files match %s, not one", len(paths), pattern)
	}
	return paths[0], nil
}

// follow lists a package and those of a kernel's that it depends on, of what apt-cache depends printed.
func follow(dependencies, root string) []string {
	of := map[string][]string{}
	name := ""
	for _, line := range strings.Split(dependencies, "\n") {
		if kind, on, ok := strings.Cut(line, "epends: "); ok && strings.HasPrefix(kind, " ") {
			of[name] = append(of[name], on)
		} else if !strings.HasPrefix(line, " ") {
			name = line
		}
	}
	kernels := regexp.MustCompile(`^linux-(image|binary|modules)-`)
	seen, out := map[string]bool{root: true}, []string{root}
	for i := 0; i < len(out); i++ {
		for _, on := range of[out[i]] {
			if kernels.MatchString(on) && !seen[on] {
				seen[on] = true
				out = append(out, on)
			}
		}
	}
	return out
}

// apt runs one of apt's programs with the configuration of a suite, whatever this machine's is.
func apt(dir, workingDir, program string, args ...string) (string, error) {
	cmd := exec.Command(program, append([]string{"--config-file=" + filepath.Join(dir, "apt.conf")}, args...)...)
	cmd.Dir, cmd.Env = workingDir, append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		_, why, _ := strings.Cut(stderr.String(), "E: ") // warnings stand before it, consequences after it
		why, _, _ = strings.Cut(why, "\n")
		return "", fmt.Errorf("%s %s: %w: %s", program, args[0], err, why)
	}
	return string(out), nil
}

const aptConf = `Dir::State "%[1]s";
Dir::State::Status "/dev/null";
Dir::Cache "%[1]s";
Dir::Etc::SourceList "%[1]s/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root"; // another user may not read the cache
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`

// configureApt sets apt up for a suite of the archive that this machine uses, and nothing else.
func configureApt(k kernel, dir string) error {
	targets, err := run("apt-get", "indextargets", "--format", "$(REPO_URI) $(SOURCESENTRY)", "Created-By: Packages", "Label: Debian")
	if err != nil {
		return err
	}
	target, _, _ := strings.Cut(targets, "\n")
	uri, entry, ok := strings.Cut(target, " ")
	if !ok {
		return errors.New("apt knows no archive of Debian's on this machine: run apt-get update")
	}
	colon := strings.LastIndex(entry, ":")
	sources, err := os.ReadFile(entry[:max(colon, 0)])
	if err != nil {
		return fmt.Errorf("reading where apt's archive is configured: %w", err)
	}
	number, err := strconv.Atoi(entry[colon+1:])
	if err != nil {
		return fmt.Errorf("finding where apt's archive is configured: %w", err)
	}
	source := fmt.Sprintf("deb [target=Packages%s] %s %s main\n", signedBy(string(sources), number), uri, k.suite)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "apt.conf"), fmt.Appendf(nil, aptConf, dir), 0o644)
}

// signedBy is the option that names the keyring of the entry with this number in a file of apt's sources: a line of
// the old format, a paragraph of the new one. Without one there, apt trusts the keys that it trusts everywhere.
func signedBy(sources string, number int) string {
	entries := strings.Split(sources, "\n")
	if paragraphs := regexp.MustCompile(`(?m)^URIs:`); paragraphs.MatchString(sources) {
		entries = slices.DeleteFunc(regexp.MustCompile(`\n\s*\n`).Split(sources, -1), func(p string) bool { return !paragraphs.MatchString(p) })
	}
	if number < 1 || number > len(entries) {
		return ""
	}
	keyring := regexp.MustCompile(`(?mi)^[^#\n]*\bsigned-by(?:=|:\s*)(/[^\s\],]+)`).FindStringSubmatch(entries[number-1])
	if keyring == nil {
		return ""
	}
	return " signed-by=" + keyring[1]
}
