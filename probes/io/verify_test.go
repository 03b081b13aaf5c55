package io

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"culprit/probes/owner"
)

// mostInstructions is half of what the verifier looks at before it gives up (BPF_COMPLEXITY_LIMIT_INSNS).
const mostInstructions = 500_000

// Every program passes this kernel's verifier, with room for the next kernel's.
func TestVerifies(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	table, err := owner.Load(owner.Options{})
	if err != nil {
		t.Fatal(explain(err))
	}
	defer table.Close()
	for _, o := range []Options{{}, {NoSleeps: true}, {Files: true, Worst: true}} {
		p, err := Load(table, o)
		if err != nil {
			t.Errorf("%+v: %s", o, explain(err))
			continue
		}
		for name, program := range p.objects.Programs {
			info, err := program.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := info.VerifiedInstructions()
			if !ok {
				t.Fatalf("this kernel does not tell how much it verified")
			}
			t.Logf("verified %s: %d instructions", name, n)
			if n > mostInstructions {
				t.Errorf("%s takes the verifier %d instructions, at most %d", name, n, mostInstructions)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// explain is an error with the verifier's whole log.
func explain(err error) string {
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return fmt.Sprintf("%v\n%+v", err, refused)
	}
	return err.Error()
}
