// Package verify holds programs to a limit of what the verifier looks at, so that there is room for the next kernel's.
package verify

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
)

// mostInstructions is half of what the verifier looks at before it gives up (BPF_COMPLEXITY_LIMIT_INSNS).
const mostInstructions = 500_000

// Programs checks, and prints, how much of the verifier each program took.
func Programs(t *testing.T, objects *ebpf.Collection) {
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

// Explain is an error with the verifier's whole log.
func Explain(err error) string {
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return fmt.Sprintf("%v\n%+v", err, refused)
	}
	return err.Error()
}
