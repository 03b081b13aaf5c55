// Package verify holds programs to a limit of what the verifier looks at, so that there is room for the next kernel's.
package verify

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"culprit/probes/owner"
)

// mostInstructions is half of what the verifier looks at before it gives up (BPF_COMPLEXITY_LIMIT_INSNS).
const mostInstructions = 500_000

// Probe loads a probe with each of some options: every program passes this kernel's verifier.
func Probe[O any, P io.Closer](t *testing.T, load func(*owner.Table, O) (P, error), objects func(P) *ebpf.Collection, options ...O) {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	table, err := owner.Load(owner.Options{})
	if err != nil {
		t.Fatal(explain(err))
	}
	defer table.Close()
	for _, o := range options {
		p, err := load(table, o)
		if err != nil {
			t.Errorf("%+v: %s", o, explain(err))
			continue
		}
		programs(t, objects(p))
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// programs checks, and prints, how much of the verifier each program took.
func programs(t *testing.T, objects *ebpf.Collection) {
	t.Helper()
	for name, program := range objects.Programs {
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
}

// explain is an error with the verifier's whole log.
func explain(err error) string {
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return fmt.Sprintf("%v\n%+v", err, refused)
	}
	return err.Error()
}
