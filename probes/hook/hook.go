// Package hook finds what the running kernel offers to BPF programs, prepares their objects for it, and attaches them.
package hook

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// Types are those of the running kernel.
func Types() (*btf.Spec, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("this kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	return kernel, nil
}

// Prototype is that of a tracepoint's handlers in the kernel with these types.
func Prototype(kernel *btf.Spec, tracepoint string) (*btf.FuncProto, error) {
	var def *btf.Typedef
	if err := kernel.TypeByName("btf_trace_"+tracepoint, &def); err != nil {
		return nil, fmt.Errorf("this kernel has no tracepoint %s: %w", tracepoint, err)
	}
	if ptr, ok := def.Type.(*btf.Pointer); ok {
		if proto, ok := ptr.Target.(*btf.FuncProto); ok {
			return proto, nil
		}
	}
	return nil, fmt.Errorf("tracepoint %s of this kernel has no prototype", tracepoint)
}

// Tracepoint is one that a probe attaches to.
type Tracepoint struct {
	Name    string
	Present bool   // in the kernel
	Without string // what is lost where it is not; "" if the probe cannot work then
}

// Tracepoints lists those that the programs of an object attach to, by name.
// without says what is lost without those that the object can do without; kernel
// is the running one's types for nil.
func Tracepoints(spec *ebpf.CollectionSpec, without map[string]string, kernel *btf.Spec) ([]Tracepoint, error) {
	if kernel == nil {
		var err error
		if kernel, err = Types(); err != nil {
			return nil, err
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

// Reduce removes the programs of an object whose tracepoint the kernel with these types lacks, where the
// object can do without it.
func Reduce(spec *ebpf.CollectionSpec, without map[string]string, kernel *btf.Spec) {
	for name, p := range spec.Programs {
		if _, dispensable := without[p.AttachTo]; dispensable {
			if _, err := Prototype(kernel, p.AttachTo); err != nil {
				delete(spec.Programs, name)
			}
		}
	}
}

// Resize gives maps of an object a number of entries, by name; 0 leaves a map's own.
func Resize(spec *ebpf.CollectionSpec, entries map[string]uint32) {
	for name, n := range entries {
		if n != 0 {
			spec.Maps[name].MaxEntries = n
		}
	}
}

// SetVariables gives global variables of an object their values, by name.
func SetVariables(spec *ebpf.CollectionSpec, values map[string]any) error {
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

// Attach attaches a program to the tracepoint that it was compiled for.
func Attach(objects *ebpf.Collection, program string) (link.Link, error) {
	l, err := link.AttachTracing(link.TracingOptions{Program: objects.Programs[program]})
	if err != nil {
		return nil, fmt.Errorf("attaching %s: %w", program, err)
	}
	return l, nil
}

// Missed is how often the kernel skipped each program that is attached to a tracepoint, because it was
// running on that CPU already.
func Missed(objects *ebpf.Collection) (map[string]uint64, error) {
	missed := map[string]uint64{}
	for name, program := range objects.Programs {
		if program.Type() != ebpf.Tracing {
			continue
		}
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("reading the statistics of %s: %w", name, err)
		}
		missed[name] = stats.RecursionMisses
	}
	return missed, nil
}

// Memory is how many bytes the kernel accounts for the maps of an object, without those that it shares, by name.
func Memory(all, shared map[string]*ebpf.Map) (uint64, error) {
	var sum uint64
	for name, m := range all {
		if shared[name] != nil {
			continue
		}
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("reading the size of %s: %w", m, err)
		}
		bytes, ok := info.Memlock()
		if !ok && m.Type() == ebpf.SkStorage {
			continue // before 6.4 it is not told; the memory is each socket's own
		}
		if !ok {
			return 0, fmt.Errorf("the kernel does not tell the size of %s", m)
		}
		sum += bytes
	}
	return sum, nil
}
