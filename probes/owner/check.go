package owner

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Tracepoint is one that a probe attaches to.
type Tracepoint struct {
	Name    string
	Present bool   // in the kernel
	Without string // what is lost where it is not; "" if the probe cannot work then
}

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
func Check(kernel *btf.Spec) ([]Tracepoint, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	return Tracepoints(spec, nil, kernel)
}

// Tracepoints lists those that the programs of an object attach to, by name.
// without says what is lost without those that the object can do without; kernel
// is as for Check.
func Tracepoints(spec *ebpf.CollectionSpec, without map[string]string, kernel *btf.Spec) ([]Tracepoint, error) {
	if kernel == nil {
		var err error
		if kernel, err = btf.LoadKernelSpec(); err != nil {
			return nil, fmt.Errorf("reading the kernel's types: %w", err)
		}
	}
	found := map[string]Tracepoint{}
	for _, p := range spec.Programs {
		if p.AttachType != ebpf.AttachTraceRawTp {
			continue
		}
		name := p.AttachTo
		_, err := kernel.AnyTypeByName("btf_trace_" + name)
		if err != nil && !errors.Is(err, btf.ErrNotFound) {
			return nil, fmt.Errorf("looking for tracepoint %s: %w", name, err)
		}
		found[name] = Tracepoint{Name: name, Present: err == nil, Without: without[name]}
	}
	var out []Tracepoint
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[name])
	}
	return out, nil
}

// Memory is how many bytes the kernel sets aside for the table, at most.
func (t *Table) Memory() (uint64, error) { return Memory(slices.Collect(maps.Values(t.Maps()))) }

// Memory is how many bytes the kernel accounts for maps.
func Memory(of []*ebpf.Map) (uint64, error) {
	var sum uint64
	for _, m := range of {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("reading the size of %s: %w", m, err)
		}
		bytes, ok := info.Memlock()
		if !ok {
			return 0, fmt.Errorf("the kernel does not tell the size of %s", m)
		}
		sum += bytes
	}
	return sum, nil
}
