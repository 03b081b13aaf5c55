package trace

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
)

// without is what is lost where the kernel lacks a tracepoint, by its name; without any
// other the probe cannot work.
var without = map[string]string{
	"page_fault_user":   "no page.fault events of user space",
	"page_fault_kernel": "no page.fault events of the kernel",
	"mark_victim":       "no oom.kill events",
}

// Spec is the trace probe's object for the kernel with these types: without the programs that it cannot have.
func Spec(kernel *btf.Spec) (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the trace probe's object: %w", err)
	}
	hook.Reduce(spec, without, kernel)
	return spec, nil
}

// Check tells which tracepoints the probe uses and whether the kernel with these types
// has them: the running one for nil. It needs no privileges.
func Check(kernel *btf.Spec) ([]hook.Tracepoint, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the trace probe's object: %w", err)
	}
	return hook.Tracepoints(spec, without, kernel)
}

// oomTellsTask is whether mark_victim's first argument is a task.
func oomTellsTask(kernel *btf.Spec) bool {
	proto, err := hook.Prototype(kernel, "mark_victim")
	if err != nil {
		return false // and there is no such program
	}
	const context, task = 0, 1
	_, pointer := btf.UnderlyingType(proto.Params[task].Type).(*btf.Pointer)
	return pointer
}

// Memory is how many bytes the kernel sets aside for the probe, at most, without
// what it shares with the process table.
func (p *Probe) Memory() (uint64, error) { return hook.Memory(p.objects.Maps, p.table.Maps()) }
