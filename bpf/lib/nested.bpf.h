/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * The kernel runs no BPF program twice at a time on one CPU: an event in an
 * interrupt that comes while its program runs for another event is skipped
 * (bpf_prog.active, kernel/trace/bpf_trace.c). Where each event counts, two copies
 * of a program are attached to one tracepoint: the first marks each event that it
 * takes, the second takes those without a mark.
 *
 * Marks are a stack per CPU, because an interrupt can also come between the two. Marks
 * above the one that is found belong to interrupts that are over.
 */
#pragma once
#include <bpf/bpf_helpers.h>

#define NESTED_CPUS 1024
#define NESTED_DEPTH 6

struct nested {
	__u32 depth;
	__u32 zero;
	__u64 event[NESTED_DEPTH];
	__u64 spare; /* a cache line in all */
};

volatile struct nested nested[NESTED_CPUS];

static __always_inline void nested_mark(__u64 event)
{
	volatile struct nested *n = &nested[bpf_get_smp_processor_id() & (NESTED_CPUS - 1)];
	__u32 depth = n->depth;

	if (depth < NESTED_DEPTH) {
		n->event[depth] = event;
		n->depth = depth + 1;
	}
}

static __always_inline bool nested_marked(__u64 event)
{
	volatile struct nested *n = &nested[bpf_get_smp_processor_id() & (NESTED_CPUS - 1)];
	__u32 depth = n->depth;

	for (int i = 0; i < NESTED_DEPTH; i++) {
		if (i >= depth)
			break;
		if (n->event[i] == event) {
			n->depth = i;
			return true;
		}
	}
	return false;
}
