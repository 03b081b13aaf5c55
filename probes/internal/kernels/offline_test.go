package main

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"

	ioprobe "culprit/probes/io"
	"culprit/probes/owner"
)

// Whatever has an object is checked and tested on every kernel.
func TestEveryProbeIsInTheMatrix(t *testing.T) {
	generated, err := filepath.Glob("../../*/gen.go")
	if err != nil || len(generated) < 2 {
		t.Fatalf("found %d objects: %v", len(generated), err)
	}
	for _, file := range generated {
		name := filepath.Base(filepath.Dir(file))
		if !slices.ContainsFunc(objects, func(o object) bool { return o.name == name }) {
			t.Errorf("%s is not in objects (offline.go)", name)
		}
		if dir := "probes/" + name; !slices.ContainsFunc(plans, func(p planned) bool { return p.dir == dir }) {
			t.Errorf("%s is not in plans (plan.go)", dir)
		}
	}
}

// What runs these tests can run the objects.
func TestRunningKernelLacksNothing(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		found, err := lacking(o, &types{kernel: kernel})
		if err != nil {
			t.Error(err)
		}
		for _, f := range found {
			if f.without == "" {
				t.Error(f)
			}
		}
	}
}

func TestUnmet(t *testing.T) {
	running, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := ioprobe.Spec(running)
	if err != nil {
		t.Fatal(err)
	}
	other, err := owner.Spec()
	if err != nil {
		t.Fatal(err)
	}
	// The process table's object knows tasks, but nothing of the block layer, nor is it a kernel with helpers.
	found, err := unmet(spec.Programs["request_complete"], spec.Types, []*btf.Spec{other.Types}, abilities{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"field request.tag", "field bio.bi_iter.bi_size", "enumerator pageflags.PG_writeback", "helper Loop"} {
		if !slices.Contains(found, want) {
			t.Errorf("%q was not found missing, of %q", want, found)
		}
	}
	for _, unwanted := range []string{"field task_struct.flags", "field page___v71.compound_info"} {
		if slices.Contains(found, unwanted) {
			t.Errorf("%q was found missing", unwanted)
		}
	}
}
