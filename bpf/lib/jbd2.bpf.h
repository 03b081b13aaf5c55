/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Whose updates a transaction of the ext4 journal holds. Every handle reports,
 * when it stops, how many blocks it dirtied: that is its owner's share. Handles that
 * were restarted report nothing for the transaction they left; what is missing
 * in the end (rs_blocks less the shares) is theirs.
 *
 * Journal and checkpoint writes of a transaction with one owner are charged to
 * it at once; with several, bytes gather in the transaction and user space divides them pro rata.
 */
#pragma once
#include "dirty.bpf.h"

#define TRANSACTIONS 16384
#define SHARES 65536

struct transaction_key {
	__u32 device; /* of the file system */
	__u32 tid;
};

/* Which of a transaction's writes. */
enum transaction_write {
	TRANSACTION_JOURNAL,
	TRANSACTION_CHECKPOINT,
	TRANSACTION_WRITES,
};

const enum transaction_write *transaction_write_type __attribute__((unused));

struct transaction {
	__s64 blocks;    /* sum over shares */
	__u32 rs_blocks; /* the kernel's own sum, known when committed */
	__u32 owner;     /* the first one */
	__u32 largest;   /* the owner of most blocks: operations and latencies are its */
	__s32 largest_blocks;
	__u8 several;
	__u8 dropped; /* no write of it will come any more */
	__u8 unsure;  /* a share could not be kept */
	__u8 zero;
	__u32 device[TRANSACTION_WRITES]; /* whole disk that bytes went to */
	__u64 bytes[TRANSACTION_WRITES];  /* not yet charged to anybody */
};

struct share_key {
	__u32 device, tid, owner;
};

struct share {
	__s32 blocks; /* can be negative: a handle gives back what another one added */
	__u32 restarts;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TRANSACTIONS);
	__type(key, struct transaction_key);
	__type(value, struct transaction);
} transactions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SHARES);
	__type(key, struct share_key);
	__type(value, struct share);
} shares SEC(".maps");

/* Set for good once a transaction could not be kept: unknown ones may be that one. */
volatile __u32 transactions_overflowed;

checked_once int share_add(__u32 device, __u32 tid, __u32 owner, int blocks, int restarts)
{
	struct share_key key = { device, tid, owner };
	struct transaction_key at = { device, tid };
	struct transaction *t = bpf_map_lookup_elem(&transactions, &at);
	struct share *s, fresh = {};

	if (!t) {
		struct transaction none = { .owner = owner, .largest = owner };

		bpf_map_update_elem(&transactions, &at, &none, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&transactions, &at);
		if (!t) {
			transactions_overflowed = 1;
			lose(LOSS_JOURNAL_TABLE_FULL);
			return 0;
		}
	}
	s = bpf_map_lookup_elem(&shares, &key);
	if (!s) {
		bpf_map_update_elem(&shares, &key, &fresh, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&shares, &key);
		if (!s) {
			t->unsure = 1;
			lose(LOSS_JOURNAL_TABLE_FULL);
			return 0;
		}
	}
	if (t->owner != owner)
		t->several = 1;
	if (restarts)
		__sync_fetch_and_add(&s->restarts, restarts);
	if (blocks) {
		__sync_fetch_and_add(&s->blocks, blocks);
		__sync_fetch_and_add(&t->blocks, blocks);
	}
	if (s->blocks > t->largest_blocks) {
		t->largest = owner;
		t->largest_blocks = s->blocks;
	}
	return 0;
}

/* Charges a write of a transaction: the owner to charge at once, or, with bytes kept for user space, whose operation it is. */
static __always_inline __u32 transaction_write(__u32 fs_device, __u32 tid, __u32 disk, enum transaction_write kind,
					       __u32 bytes, bool *kept)
{
	struct transaction_key at = { fs_device, tid };
	struct transaction *t = bpf_map_lookup_elem(&transactions, &at);

	*kept = false;
	if (!t)
		return transactions_overflowed ? OWNER_UNATTRIBUTED_JOURNAL_TABLE_FULL : OWNER_UNATTRIBUTED_BEFORE_ATTACH;
	if (t->unsure)
		return OWNER_UNATTRIBUTED_JOURNAL_TABLE_FULL;
	if (!t->several)
		return t->owner;
	*kept = true;
	t->device[kind] = disk;
	__sync_fetch_and_add(&t->bytes[kind], bytes);
	return t->largest;
}
