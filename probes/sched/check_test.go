package sched_test

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
	"culprit/probes/sched"
)

// What the kernel's builder left out is named, instead of a relocation that fails.
func TestNotBuiltIn(t *testing.T) {
	run := &btf.Struct{Name: "cfs_rq"}
	for option, types := range map[string][]btf.Type{
		"CONFIG_SCHED_INFO":       {&btf.Struct{Name: "sched_info"}, &btf.Struct{Name: "sched_entity", Members: []btf.Member{{Name: "cfs_rq", Type: &btf.Pointer{Target: run}}}}},
		"CONFIG_FAIR_GROUP_SCHED": {&btf.Struct{Name: "sched_info", Members: []btf.Member{{Name: "run_delay", Type: &btf.Int{Size: 8}}}}, &btf.Struct{Name: "sched_entity"}},
	} {
		b, err := btf.NewBuilder(types, nil)
		if err != nil {
			t.Fatal(err)
		}
		kernel, err := b.Spec()
		if err != nil {
			t.Fatal(err)
		}
		_, err = sched.Spec(kernel)
		var missing hook.NotBuiltIn
		if !errors.As(err, &missing) || missing.Option != option {
			t.Errorf("without %s: %v", option, err)
		}
	}
}
