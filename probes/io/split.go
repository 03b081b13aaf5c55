package io

import (
	"cmp"
	"math/bits"
	"slices"
)

// part is one owner's part of a transaction's writes.
type part struct {
	owner, device uint32
	bytes         [2]uint64 // by bpfTransactionWrite
}

// splitTransaction divides what a transaction wrote since it was last read among
// the owners of its updates, pro rata, in whole bytes that add up exactly.
func splitTransaction(key bpfTransactionKey, was, now bpfTransaction, shares map[bpfShareKey]bpfShare) []part {
	var out []part
	for kind := range now.Bytes {
		bytes := now.Bytes[kind] - was.Bytes[kind]
		if bytes == 0 {
			continue
		}
		owners, weights := transactionWeights(key, now, shares)
		for i, n := range apportion(bytes, weights) {
			if n != 0 {
				p := part{owner: owners[i], device: now.Device[kind]}
				p.bytes[kind] = n
				out = append(out, p)
			}
		}
	}
	return out
}

// transactionWeights are the blocks that each owner dirtied. Handles that were
// restarted did not report theirs (jbd2__journal_restart(), fs/jbd2/transaction.c): what the kernel's
// sum has more than ours, is divided by how often each one did that.
func transactionWeights(key bpfTransactionKey, t bpfTransaction, shares map[bpfShareKey]bpfShare) (owners []uint32, weights []uint64) {
	type weighed struct {
		owner    uint32
		blocks   uint64
		restarts uint64
	}
	var all []weighed
	var restarts uint64
	for k, s := range shares {
		if k.Device == key.Device && k.Tid == key.Tid {
			all = append(all, weighed{k.Owner, uint64(max(s.Blocks, 0)), uint64(s.Restarts)})
			restarts += uint64(s.Restarts)
		}
	}
	slices.SortFunc(all, func(a, b weighed) int { return cmp.Compare(a.owner, b.owner) })
	var unreported []uint64
	if missing := int64(t.RsBlocks) - t.Blocks; missing > 0 && restarts > 0 {
		var by []uint64
		for _, w := range all {
			by = append(by, w.restarts)
		}
		unreported = apportion(uint64(missing), by)
	}
	var sum uint64
	for i, w := range all {
		if unreported != nil {
			w.blocks += unreported[i]
		}
		owners, weights = append(owners, w.owner), append(weights, w.blocks)
		sum += w.blocks
	}
	if sum == 0 {
		return []uint32{t.Owner}, []uint64{1}
	}
	return owners, weights
}

// apportion divides total by weights, whose sum must not be 0, by largest
// remainder: the parts add up to total, and each is off by less than one.
func apportion(total uint64, weights []uint64) []uint64 {
	var sum uint64
	for _, w := range weights {
		sum += w
	}
	parts, rests, order := make([]uint64, len(weights)), make([]uint64, len(weights)), make([]int, len(weights))
	left := total
	for i, w := range weights {
		hi, lo := bits.Mul64(total, w)
		parts[i], rests[i] = bits.Div64(hi, lo, sum)
		left -= parts[i]
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rests[b], rests[a]) })
	for _, i := range order[:left] {
		parts[i]++
	}
	return parts
}
