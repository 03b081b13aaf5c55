package main

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	top     = "../.."
	module  = "culprit"
	library = "github.com/cilium/ebpf"
)

// The C files, the packages and the list of probes name the same set, and of each that
// users call, there are a command, an example and a word in the documents.
func TestProbesAreOneSet(t *testing.T) {
	var list []string
	for _, p := range probes {
		list = append(list, p.name)
	}
	slices.Sort(list)
	if got := names(t, "bpf/*.bpf.c", func(path string) string { return strings.TrimSuffix(filepath.Base(path), ".bpf.c") }); !slices.Equal(got, list) {
		t.Errorf("C files are %q, listed are %q", got, list)
	}
	if got := names(t, "probes/*/gen.go", func(path string) string { return filepath.Base(filepath.Dir(path)) }); !slices.Equal(got, list) {
		t.Errorf("packages with an object are %q, listed are %q", got, list)
	}
	for _, p := range probes {
		contains(t, "ARCHITECTURE.md", "bpf/"+p.name+".bpf.c")
		if p.command == nil {
			continue
		}
		if name := p.command().Name(); name != p.name {
			t.Errorf("the command of probe %s is called %s", p.name, name)
		}
		contains(t, "probes/"+p.name+"/EXAMPLE.md", "culprit "+p.name)
		contains(t, "README.md", "culprit "+p.name)
		contains(t, "README.md", "probes/"+p.name+"/EXAMPLE.md")
	}
	if got, want := len(names(t, "probes/*/EXAMPLE.md", filepath.Dir)), len(list)-1; got != want {
		t.Errorf("%d example pages, want %d", got, want)
	}
}

// Every command is in the README.
func TestCommandsAreDocumented(t *testing.T) {
	for _, c := range newRoot().Commands() {
		contains(t, "README.md", "culprit "+c.Name())
	}
}

func names(t *testing.T, pattern string, name func(path string) string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(top, pattern))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range paths {
		out = append(out, name(p))
	}
	slices.Sort(out)
	return out
}

func contains(t *testing.T, file, text string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(top, file))
	if err != nil {
		t.Error(err)
	} else if !strings.Contains(string(content), text) {
		t.Errorf("%s does not mention %s", file, text)
	}
}

type goPackage struct {
	ImportPath    string
	Deps, Imports []string
}

func packages(t *testing.T) map[string]goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Deps,Imports", "./...")
	list.Dir, list.Stderr = top, os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]goPackage{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// Imports go one way: commands → probes, output → snapshot.
func TestImportsGoOneWay(t *testing.T) {
	commands := map[string]bool{} // packages of probes that others may not import
	for _, p := range probes {
		commands[p.name] = p.command != nil
	}
	all := packages(t)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		p := all[path]
		part, rest, _ := strings.Cut(strings.TrimPrefix(path, module+"/"), "/")
		probe, _, _ := strings.Cut(rest, "/") // "internal" helps tests
		for _, dep := range p.Deps {
			switch {
			case part == "output" && strings.HasPrefix(dep, library):
				t.Errorf("%s knows %s: outputs know snapshots, never the kernel", path, dep)
			case part == "output" && strings.HasPrefix(dep, module+"/probes/") && dep != module+"/probes/snapshot":
				t.Errorf("%s knows %s: of the probes, outputs know the snapshot alone", path, dep)
			case part == "probes" && strings.HasPrefix(dep, module+"/output"):
				t.Errorf("%s knows %s: probes make snapshots and leave showing them to others", path, dep)
			case rest == "snapshot" && strings.Contains(dep, "."):
				t.Errorf("%s imports %s: the standard library is all that it may", path, dep)
			}
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "github.com/spf13/") && part != "cmd" {
				t.Errorf("%s imports %s: flags are known to commands alone", path, imported)
			}
			sibling, ok := strings.CutPrefix(imported, module+"/probes/")
			sibling, _, _ = strings.Cut(sibling, "/")
			if ok && part == "probes" && probe != "internal" && sibling != probe && commands[sibling] {
				t.Errorf("%s imports %s: what two probes need is shared", path, imported)
			}
		}
	}
}
