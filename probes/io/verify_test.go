package io

import (
	"testing"

	"github.com/cilium/ebpf/rlimit"

	"culprit/probes/internal/verify"
	"culprit/probes/owner"
)

// Every program passes this kernel's verifier, with room for the next kernel's.
func TestVerifies(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	table, err := owner.Load(owner.Options{})
	if err != nil {
		t.Fatal(verify.Explain(err))
	}
	defer table.Close()
	for _, o := range []Options{{}, {NoSleeps: true}, {Files: true, Worst: true}} {
		p, err := Load(table, o)
		if err != nil {
			t.Errorf("%+v: %s", o, verify.Explain(err))
			continue
		}
		verify.Programs(t, p.objects)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
