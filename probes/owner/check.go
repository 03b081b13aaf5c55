package owner

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
)

// Spec is the process table's object as it was compiled.
func Spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the process table's object: %w", err)
	}
	return spec, nil
}

// Check tells which tracepoints the process table needs and whether the kernel with
// these types has them: the running one for nil. It needs no privileges.
func Check(kernel *btf.Spec) ([]hook.Tracepoint, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	return hook.Tracepoints(spec, nil, kernel)
}

// Memory is how many bytes the kernel sets aside for the table, at most.
func (t *Table) Memory() (uint64, error) { return hook.Memory(t.Maps(), nil) }
