// Package hook finds what the running kernel offers to BPF programs, prepares their objects for it, and attaches them.
package hook

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
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

// Again ends the names of second programs on a tracepoint, for kernels that preempt programs: they see what the first one,
// asleep on the CPU, keeps itself from (programs_are_preempted() in bpf/lib/compat.bpf.h). Both may see an event.
const Again = "_again"

func preempts(kernel *btf.Spec) bool {
	var class *btf.Typedef
	return kernel.TypeByName("class_srcu_fast_notrace_t", &class) == nil
}

// IsOfUse is whether a program sees anything that others of its object do not: a second one on a tracepoint, only where programs are preempted.
func IsOfUse[P any](name string, programs map[string]P, kernel *btf.Spec) bool {
	first, again := strings.CutSuffix(name, Again)
	_, second := programs[first]
	return !again || !second || preempts(kernel)
}

// Reduce removes the programs of an object whose tracepoint the kernel with these types lacks, where the
// object can do without it, and second programs on a tracepoint where the first one sees everything.
func Reduce(spec *ebpf.CollectionSpec, without map[string]string, kernel *btf.Spec) {
	for name, p := range spec.Programs {
		if !IsOfUse(name, spec.Programs, kernel) {
			delete(spec.Programs, name)
		}
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

// Iterate runs an iterator's program over everything once.
func Iterate(objects *ebpf.Collection, program string) error {
	l, err := link.AttachIter(link.IterOptions{Program: objects.Programs[program]})
	if err != nil {
		return fmt.Errorf("attaching %s: %w", program, err)
	}
	defer l.Close()
	r, err := l.Open()
	if err != nil {
		return fmt.Errorf("opening %s: %w", program, err)
	}
	defer r.Close()
	if err := Drain(r); err != nil {
		return fmt.Errorf("running %s: %w", program, err)
	}
	return nil
}

// Drain runs an open iterator to its end. The kernel interrupts one that goes over a million objects without printing anything
// (MAX_ITER_OBJECTS, kernel/bpf/bpf_iter.c), which then goes on where it was.
func Drain(iterator io.Reader) error {
	for {
		_, err := io.Copy(io.Discard, iterator)
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
}

// Missed counts the events that programs on tracepoints did not see, because the kernel skips a program that is running on the
// CPU already.
type Missed struct {
	last  map[string]uint64 // by program
	total uint64
}

// Read is how many events were missed so far, but for those of some programs. Of two programs on a tracepoint (Again) it is at most
// that many.
func (m *Missed) Read(objects *ebpf.Collection, but ...string) (uint64, error) {
	missed := map[string]uint64{}
	for name, program := range objects.Programs {
		if program.Type() != ebpf.Tracing || slices.Contains(but, name) {
			continue
		}
		stats, err := program.Stats()
		if err != nil {
			return 0, fmt.Errorf("reading the statistics of %s: %w", name, err)
		}
		missed[name] = stats.RecursionMisses
	}
	for name, n := range missed {
		n -= m.last[name]
		if again, twice := missed[name+Again]; twice {
			n = min(n, again-m.last[name+Again]) // what both missed is not more than either did
		} else if first, second := strings.CutSuffix(name, Again); second && objects.Programs[first] != nil {
			continue
		}
		m.total += n
	}
	m.last = missed
	return m.total, nil
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
