package io

import (
	"fmt"

	"github.com/cilium/ebpf"

	"culprit/probes/owner"
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

// Check tells which tracepoints the probe uses and whether the running kernel
// has them. It needs no privileges.
func Check() ([]owner.Tracepoint, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("reading the io probe's object: %w", err)
	}
	return owner.Tracepoints(spec, without)
}

// Memory is how many bytes the kernel sets aside for the probe, at most, without
// what it shares with the process table.
func (p *Probe) Memory() (uint64, error) {
	shared := p.table.Maps()
	var own []*ebpf.Map
	for name, m := range p.objects.Maps {
		if shared[name] == nil {
			own = append(own, m)
		}
	}
	return owner.Memory(own)
}
