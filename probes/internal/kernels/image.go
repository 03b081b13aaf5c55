package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cavaliergopher/cpio"

	"culprit/probes/internal/kernels/wire"
)

// guestPackages are the Debian packages that tests use; the guest's root holds them and
// what they depend on, as they are installed here.
var guestPackages = []string{
	"bash", "bsdutils", "dash", "coreutils", "findutils", "grep", "mount", "procps", "sed", "tar", "util-linux", "libcap2-bin",
	"kmod", "iproute2", "dmsetup", "mdadm",
	"e2fsprogs", "xfsprogs", "btrfs-progs",
	"fio", "git", "gcc", "libc6-dev",
}

// run is a program to its end, and what it wrote to its standard output.
func run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// rootImage makes the guest's root file system, once for each set of installed packages.
func rootImage(cache string) (string, error) {
	closure, err := run("apt-cache", append([]string{"depends", "--recurse", "--installed", "--no-recommends", "--no-suggests",
		"--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}, guestPackages...)...)
	if err != nil {
		return "", err
	}
	needed := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?m)^[a-z0-9][^\s:]*`).FindAllString(closure, -1) {
		needed[name] = true
	}
	all, err := run("dpkg-query", "--show", "--showformat", "${Package}\t${binary:Package}\t${Version}\n")
	if err != nil {
		return "", err
	}
	var packages []string
	installed := map[string]bool{}
	var versions strings.Builder
	for _, line := range strings.Split(all, "\n") {
		if name, rest, _ := strings.Cut(line, "\t"); needed[name] {
			packages = append(packages, strings.Fields(rest)[0])
			installed[name] = true
			versions.WriteString(line + "\n")
		}
	}
	for _, name := range guestPackages {
		if !installed[name] {
			return "", fmt.Errorf("package %s is not installed: make test-kernels does that as root", name)
		}
	}
	image := filepath.Join(cache, fmt.Sprintf("root-%x.ext4", sha256.Sum256([]byte(versions.String()))))
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	list, err := run("dpkg-query", append([]string{"--listfiles"}, packages...)...)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(cache, "root-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	files, tree := filepath.Join(dir, "files"), filepath.Join(dir, "tree")
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib/modules", "usr/lib64", "dev", "proc", "sys", "tmp", "run", "root", "etc", wire.TestDir} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return "", err
		}
	}
	// Packages still name files by way of these links.
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(tree, d)); err != nil {
			return "", err
		}
	}
	var wanted []string
	for _, name := range strings.Split(list, "\n") {
		if info, err := os.Lstat(name); err == nil && !info.IsDir() && !regexp.MustCompile(`^/usr/share/(doc|man|locale|info)/`).MatchString(name) {
			wanted = append(wanted, name)
		}
	}
	wanted = append(wanted, "/etc/passwd", "/etc/group", "/etc/ld.so.cache")
	if err := os.WriteFile(files, []byte(strings.Join(wanted, "\n")), 0o644); err != nil {
		return "", err
	}
	copyFiles := `tar -C / -P --no-recursion -cf - -T "$0" | tar -C "$1" --keep-directory-symlink -xf -`
	if _, err := run("bash", "-o", "pipefail", "-c", copyFiles, files, tree); err != nil {
		return "", err
	}
	if err := makeImage(image, tree); err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(cache, "root-*.ext4"))
	for _, other := range old {
		if other != image {
			os.Remove(other)
		}
	}
	return image, err
}

// makeImage makes an ext4 image of a directory, whole or not at all.
func makeImage(image, tree string) error {
	size, err := run("du", "--summarize", "--block-size=1M", tree)
	if err != nil {
		return err
	}
	var mib int
	if _, err := fmt.Sscan(size, &mib); err != nil {
		return err
	}
	unfinished, err := os.CreateTemp(filepath.Dir(image), filepath.Base(image)+".")
	if err != nil {
		return err
	}
	defer os.Remove(unfinished.Name())
	unfinished.Close()
	if _, err := run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, unfinished.Name(), fmt.Sprintf("%dM", mib*5/4+32)); err != nil {
		return err
	}
	return os.Rename(unfinished.Name(), image)
}

// testImage makes the disk with the tests and a kernel's modules.
func testImage(dir, tree string, tests []wire.Test, k installed) (string, error) {
	text, err := json.Marshal(tests)
	if err != nil {
		return "", err
	}
	own := filepath.Join(dir, "tree")
	if err := os.Mkdir(own, 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(own)
	if _, err := run("cp", "-a", "--link", tree+"/.", own); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(own, filepath.Base(wire.PlanFile)), text, 0o644); err != nil {
		return "", err
	}
	modules := filepath.Join(own, "modules")
	if err := os.Mkdir(modules, 0o755); err != nil {
		return "", err
	}
	if _, err := run("cp", "-a", k.modules, modules); err != nil {
		return "", err
	}
	image := filepath.Join(dir, "tests.ext4")
	return image, makeImage(image, own)
}

// initramfs makes the archive that a kernel unpacks first: init, and nothing else.
func initramfs(path, init string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	program, err := os.Open(init)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	w := cpio.NewWriter(z)
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Size: info.Size()}); err != nil {
		return err
	}
	if _, err := io.Copy(w, program); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
