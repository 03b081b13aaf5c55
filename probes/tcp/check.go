package tcp

import (
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
)

// without is what is lost where the kernel lacks a tracepoint, by its name; without any
// other the probe cannot work.
var without = map[string]string{
	"sock_send_length": "UDP is not counted, and a connection that a process only writes to stays whose it was",
	"sock_recv_length": "UDP is not counted",
}

// Spec is the tcp probe's object for the kernel with these types: without the programs that it cannot have.
func Spec(kernel *btf.Spec) (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the tcp probe's object: %w", err)
	}
	hook.Reduce(spec, without, kernel)
	if !tellsDatagrams(spec) {
		delete(spec.Programs, bpfProgDatagramDropped)
		delete(spec.Programs, bpfProgFindDatagramUsers)
	}
	return spec, nil
}

// tellsDatagrams is whether a kernel that an object was reduced for tells of UDP.
func tellsDatagrams(spec *ebpf.CollectionSpec) bool {
	return spec.Programs[bpfProgDataWritten] != nil && spec.Programs[bpfProgDatagramRead] != nil
}

// Check tells which tracepoints the probe uses and whether the kernel with these types
// has them: the running one for nil. It needs no privileges.
func Check(kernel *btf.Spec) ([]hook.Tracepoint, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the tcp probe's object: %w", err)
	}
	return hook.Tracepoints(spec, without, kernel)
}

// tellsError is whether tcp_retransmit_skb has its third argument.
func tellsError(kernel *btf.Spec) (bool, error) {
	proto, err := hook.Prototype(kernel, "tcp_retransmit_skb")
	if err != nil {
		return false, err
	}
	const context, sk, skb = 0, 1, 2
	return len(proto.Params) > skb+1, nil
}

// Memory is how many bytes the kernel sets aside for the probe, at most, without
// what it shares with the process table.
func (p *Probe) Memory() (uint64, error) {
	shared := p.table.Maps()
	maps.Copy(shared, p.shared)
	return hook.Memory(p.objects.Maps, shared)
}
