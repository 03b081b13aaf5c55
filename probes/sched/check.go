package sched

import (
	"fmt"
	"maps"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
)

// without is what is lost where the kernel lacks a tracepoint, by its name; without any
// other the probe cannot work.
var without = map[string]string{
	"local_timer_entry":          localTimer,
	"local_timer_exit":           localTimer,
	"reschedule_entry":           ipis,
	"reschedule_exit":            ipis,
	"call_function_entry":        ipis,
	"call_function_exit":         ipis,
	"call_function_single_entry": ipis,
	"call_function_single_exit":  ipis,
	"irq_work_entry":             ipis,
	"irq_work_exit":              ipis,
	"ipi_entry":                  ipis,
	"ipi_exit":                   ipis,
	"netif_receive_skb":          packets,
	"inet_sock_set_state":        packets,
	"tcp_rcv_space_adjust":       packets,
}

const (
	localTimer = "the timer interrupt's time is its victim's own"
	ipis       = "the time of interrupts between processors is their victim's own"
	packets    = "who caused network softirqs is not known"
)

// others are the interrupts' tracepoints of another architecture: x86 has some for each kind of vector, the others have
// these two, beside irq_handler_entry.
func others(tracepoint string) bool {
	_, interrupt := without[tracepoint]
	return interrupt && (tracepoint == "ipi_entry" || tracepoint == "ipi_exit") == (runtime.GOARCH == "amd64")
}

// needs are what the run queues' waits are read from.
var needs = []hook.Need{
	{Struct: "sched_info", Member: "run_delay", Option: "CONFIG_SCHED_INFO"},
	{Struct: "sched_entity", Member: "cfs_rq", Option: "CONFIG_FAIR_GROUP_SCHED"},
}

func load() (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the sched probe's object: %w", err)
	}
	maps.DeleteFunc(spec.Programs, func(_ string, p *ebpf.ProgramSpec) bool { return others(p.AttachTo) })
	return spec, nil
}

// Spec is the sched probe's object for the kernel with these types: without the programs that it cannot have.
// The error is a hook.NotBuiltIn if the probe cannot work there at all.
func Spec(kernel *btf.Spec) (*ebpf.CollectionSpec, error) {
	if err := hook.Met(kernel, needs); err != nil {
		return nil, fmt.Errorf("loading the sched probe: %w", err)
	}
	spec, err := load()
	if err == nil {
		hook.Reduce(spec, without, kernel)
	}
	return spec, err
}

// Check tells which tracepoints the probe uses and whether the kernel with these types
// has them: the running one for nil. It needs no privileges.
func Check(kernel *btf.Spec) ([]hook.Tracepoint, error) {
	spec, err := load()
	if err != nil {
		return nil, err
	}
	return hook.Tracepoints(spec, without, kernel)
}

// Memory is how many bytes the kernel sets aside for the probe, at most, without
// what it shares with the process table.
func (p *Probe) Memory() (uint64, error) { return hook.Memory(p.objects.Maps, p.table.Maps()) }
