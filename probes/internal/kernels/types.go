package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sync/errgroup"
)

// types are those that a kernel describes itself with.
type types struct {
	kernel  *btf.Spec
	modules map[string]*btf.Spec // by the module's name; on top of the kernel's
}

// readTypes gets a kernel's types out of its files.
func readTypes(k installed) (*types, error) {
	dir := filepath.Join(filepath.Dir(k.root), "types")
	if _, err := os.Stat(dir); err != nil {
		if err := extractTypes(k, dir); err != nil {
			return nil, fmt.Errorf("types of kernel %s: %w", k.release, err)
		}
	}
	kernel, err := btf.LoadSpec(filepath.Join(dir, vmlinux))
	if err != nil {
		return nil, fmt.Errorf("types of kernel %s: %w", k.release, err)
	}
	t := &types{kernel: kernel, modules: map[string]*btf.Spec{}}
	files, err := filepath.Glob(filepath.Join(dir, "modules/*"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if t.modules[filepath.Base(f)], err = btf.LoadSplitSpec(f, kernel); err != nil {
			return nil, fmt.Errorf("types of kernel %s: module %s: %w", k.release, filepath.Base(f), err)
		}
	}
	return t, nil
}

const vmlinux = "vmlinux"

// extractTypes makes a directory of the kernel's types and each module's, whole or not at all.
func extractTypes(k installed, dir string) error {
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), "unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	modules := filepath.Join(unfinished, "modules")
	if err := os.Mkdir(modules, 0o755); err != nil {
		return err
	}
	image, err := os.ReadFile(k.image)
	if err != nil {
		return err
	}
	compressed, err := payload(image)
	if err != nil {
		return fmt.Errorf("%s: %w", k.image, err)
	}
	if err := extract(compressed, filepath.Join(unfinished, vmlinux)); err != nil {
		return fmt.Errorf("%s: %w", k.image, err)
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	err = filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		name, _, isModule := strings.Cut(filepath.Base(path), ".ko")
		if err != nil || d.IsDir() || !isModule {
			return err
		}
		g.Go(func() error {
			file, err := os.ReadFile(path)
			if err == nil {
				err = extract(file, filepath.Join(modules, strings.ReplaceAll(name, "-", "_")))
			}
			if err != nil && !errors.Is(err, errNoTypes) { // 5.10's modules have none
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		})
		return nil
	})
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, dir); err != nil && !errors.Is(err, os.ErrExist) { // somebody else was faster
		return err
	}
	return nil
}

var errNoTypes = errors.New("no types (.BTF) in it")

// extract writes the types of an ELF file.
func extract(file []byte, to string) error {
	file, err := decompress(file)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return err
	}
	section := f.Section(".BTF")
	if section == nil {
		return errNoTypes
	}
	data, err := section.Data()
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// payload is the compressed kernel in a bzImage (Documentation/arch/x86/boot.rst).
func payload(image []byte) ([]byte, error) {
	const setupSects, magic, payloadOffset, payloadLength, end = 0x1f1, 0x202, 0x248, 0x24c, 0x250
	if len(image) < end || string(image[magic:magic+4]) != "HdrS" {
		return nil, errors.New("not a kernel for x86 (bzImage)")
	}
	sectors := uint64(image[setupSects])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if start+length > uint64(len(image)) || length < 4 {
		return nil, fmt.Errorf("its kernel should be %d bytes at %d, of %d", length, start, len(image))
	}
	// The last four bytes are the size of what is compressed.
	return image[start : start+length-4], nil
}

// decompressors are programs that read what begins so.
var decompressors = map[string][]string{
	"\x02\x21\x4c\x18": {"lz4", "-dc"},
	"\x28\xb5\x2f\xfd": {"zstd", "-dc"},
	"\xfd7zX":          {"xz", "-dc"},
}

// decompress undoes compression, if any.
func decompress(data []byte) ([]byte, error) {
	if len(data) < 4 || decompressors[string(data[:4])] == nil {
		return data, nil
	}
	command := decompressors[string(data[:4])]
	cmd := exec.Command(command[0], command[1:]...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(data), &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", command[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
