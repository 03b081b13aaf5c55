package io

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"culprit/probes/hook"
)

// without is what is lost where the kernel lacks a tracepoint, by its name; without any
// other the probe cannot work.
var without = map[string]string{
	"jbd2_handle_start":      "ext4's journal: blocks of restarted handles go to the transaction's other owners",
	"jbd2_handle_restart":    "ext4's journal: blocks of restarted handles go to the transaction's other owners",
	"jbd2_handle_stats":      "ext4's journal and metadata are charged to nobody",
	"jbd2_start_commit":      "ext4's journal is charged to its thread",
	"jbd2_end_commit":        "ext4's journal is charged to its thread",
	"jbd2_run_stats":         "ext4's journal: blocks of restarted handles go to the transaction's other owners",
	"jbd2_drop_transaction":  "transactions of ext4's journal are kept until their table is full",
	"jbd2_write_superblock":  "the superblock of ext4's journal is charged to whoever writes it",
	"ext4_fc_commit_start":   "ext4's fast commits are shown as metadata",
	"ext4_fc_commit_stop":    "ext4's fast commits are shown as metadata",
	"ext4_writepages":        "ext4's metadata of files written back is charged to the thread that does it",
	"ext4_writepages_result": "ext4's metadata of files written back is charged to the thread that does it",
	"ext4_mark_inode_dirty":  "ext4's metadata of files written back is charged to the thread that does it",
}

// start is where a request is first seen, since 6.5, and standIns are what is used before.
const start = "block_io_start"

var standIns = []string{"block_getrq", "block_rq_insert", "block_rq_issue"}

// Spec is the io probe's object for the kernel with these types: without the programs that it needs not.
func Spec(kernel *btf.Spec) (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the io probe's object: %w", err)
	}
	hook.Reduce(spec, nil, kernel)
	needless := standIns
	if _, err := hook.Prototype(kernel, start); err != nil {
		needless = []string{start}
	}
	for name, p := range spec.Programs {
		if slices.Contains(needless, p.AttachTo) && name != bpfProgRequestIssueTraced {
			delete(spec.Programs, name)
		}
	}
	return spec, nil
}

// Check tells which tracepoints the probe uses and whether the kernel with these types
// has them: the running one for nil. It needs no privileges.
func Check(kernel *btf.Spec) ([]hook.Tracepoint, error) {
	if kernel == nil {
		var err error
		if kernel, err = hook.Types(); err != nil {
			return nil, err
		}
	}
	spec, err := Spec(kernel)
	if err != nil {
		return nil, err
	}
	points, err := hook.Tracepoints(spec, without, kernel)
	if err == nil && PassesPages(kernel) {
		points = append(points, hook.Tracepoint{
			Name:    "block_bio_complete for single pages",
			Without: "zram: pages read or written one at a time are in no row, but in the residual (rw_page, until 6.3)",
		})
	}
	return points, err
}

// PassesPages is whether drivers of the kernel with these types take pages past the block layer, whose statistics
// have them nevertheless. It was so until 6.3.
func PassesPages(kernel *btf.Spec) bool {
	var operations *btf.Struct
	err := kernel.TypeByName("block_device_operations", &operations)
	return err == nil && slices.ContainsFunc(operations.Members, func(m btf.Member) bool { return m.Name == "rw_page" })
}

// Memory is how many bytes the kernel sets aside for the probe, at most, without
// what it shares with the process table and with a trace.
func (p *Probe) Memory() (uint64, error) {
	shared := p.table.Maps()
	maps.Copy(shared, p.shared)
	return hook.Memory(p.objects.Maps, shared)
}
