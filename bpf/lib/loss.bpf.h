/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Everything that can be lost is counted where it is lost. The names that users see
 * are these enumerators, read from the object's type information: LOSS_X is "x".
 */
#pragma once
#include "../kernel/types.h"
#include <bpf/bpf_helpers.h>

enum loss {
	LOSS_PROCESS_TABLE_FULL,     /* a process without a slot: its events go to an [unattributed] row */
	LOSS_TASK_CONTEXT_FAILED,    /* no memory for a task's context */
	LOSS_NAME_TABLE_FULL,        /* a path of an executable or cgroup that was not kept */
	LOSS_REQUEST_SLOTS_FULL,     /* a request whose submitter could not be kept */
	LOSS_MERGED_BIOS_FULL,       /* a merged bio whose submitter could not be kept */
	LOSS_DIRTY_INODES_FULL,      /* a dirtied file whose owner could not be kept */
	LOSS_DIRTY_FOLIOS_FULL,      /* a folio of a shared file whose owner could not be kept */
	LOSS_JOURNAL_TABLE_FULL,     /* a share of a journal transaction that could not be kept */
	LOSS_ROW_TABLE_FULL,         /* an owner's first I/O on a device without a row to count it in */
	LOSS_HISTOGRAM_FULL,         /* a latency that no bucket was left for */
	LOSS_FILE_TABLE_FULL,        /* bytes of a file that the list of files does not know */
	LOSS_REQUEST_TOO_LONG,       /* a request with more pieces than are looked at */
	LOSS_UNSEEN_COMPLETIONS,     /* a completion that reached no program: charged afterwards, in no latency */
	LOSS_UNTIMED_REQUESTS,       /* a request without a start time (queue/iostats is 0): in no latency */
	LOSS_GROUP_TABLE_FULL,       /* a process that is a group of its own among culprits */
	LOSS_THREAD_TABLE_FULL,      /* a switch to or from a thread without a slot: its waits are not counted */
	LOSS_CULPRIT_TABLE_FULL,     /* a piece of a wait whose culprit could not be kept */
	LOSS_UNSEEN_SWITCHES,        /* context switches that reached no program, where that was noticed */
	LOSS_WORST_WAITS_DROPPED,    /* a long wait that user space was not told of in time */
	LOSS_CONNECTION_TABLE_FULL,  /* a connection without a slot: it is in no row */
	LOSS_SOCKET_STORAGE_FAILED,  /* no memory for a socket's context: likewise */
	LOSS_TIMER_TABLE_FULL,       /* a connection whose timers are not told from others': its losses are not among its stalls */
	LOSS_HANDOVERS_MISSED,       /* a use of a connection by a new owner that found no slot: it stays the old one's */
	LOSS_UNSEEN_SEGMENTS,        /* a segment that reached no program, where that was noticed: a stall whose beginning is not known */
	LOSS_UNSEEN_STATES,          /* changes of a connection's state that reached no program, where that was noticed: it is found out late */
	LOSS_STALLS_DROPPED,         /* a stall that user space was not told of in time: in the sums, but not among the worst */
	LOSS_NAMESPACE_TABLE_FULL,   /* what the kernel counts for a network namespace, and we have no place for: the audit lacks it */
	LOSS_FLOW_TABLE_FULL,        /* a connection whose packets' softirq time is charged to nobody */
	LOSS_NOTICES_DROPPED,        /* a thread's beginning, name or end, or a trigger, that user space did not take in time */
	LOSS_MAX,
};

const enum loss *loss_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOSS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

static __always_inline void lose(enum loss what)
{
	__u32 key = what;
	__u64 *n = bpf_map_lookup_elem(&losses, &key);

	if (n)
		__sync_fetch_and_add(n, 1);
}
