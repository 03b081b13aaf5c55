package trace

import (
	"testing"

	"github.com/cilium/ebpf"

	"culprit/probes/internal/verify"
)

// Every program passes this kernel's verifier, with room for the next kernel's.
func TestVerifies(t *testing.T) {
	all, _ := Kinds()
	verify.Probe(t, Load, func(p *Probe) *ebpf.Collection { return p.objects }, Options{}, Options{Kinds: all})
}
