package io

import "culprit/probes/bpfmap"

// Dirty is how many files hold changes of some owners that are not written to disk yet, as of the table's last CollectAll. Metadata is
// not among them.
func (p *Probe) Dirty(of func(owner uint32) bool) (files int, err error) {
	inodes, err := bpfmap.All[uint64, bpfDirtyInode](p.objects.Maps[bpfMapDirtyInodes])
	if err != nil {
		return 0, err
	}
	folios, err := bpfmap.All[uint64, bpfDirtyFolio](p.objects.Maps[bpfMapDirtyFolios])
	if err != nil {
		return 0, err
	}
	shared := map[uint64]bool{}
	for _, f := range folios {
		if e := inodes[f.Inode]; e.Cycle == f.Cycle && of(f.Owner) {
			shared[f.Inode] = true
		}
	}
	for address, e := range inodes {
		if bpfInodeKind(e.Kind) == bpfInodeKindINODE_FILE && e.Doubt == 0 && (of(e.Owner) || shared[address]) {
			files++
		}
	}
	return files, nil
}
