/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Indices of preallocated arrays: those that user space has given back through a
 * queue, the one that has rested longest first; new ones only for want of those, so
 * that no more of an array is looked at than was in use at once. 0 is never handed
 * out.
 */
#pragma once
#include <bpf/bpf_helpers.h>

struct pool {
	__u32 next; /* the first index never handed out */
	__u32 size; /* indices below this exist; set before loading */
};

static __always_inline __u32 pool_get(volatile struct pool *p, void *returned)
{
	__u32 n = 0;

	if (!bpf_map_pop_elem(returned, &n))
		return n;
	if (p->next >= p->size)
		return 0;
	n = __sync_fetch_and_add(&p->next, 1);
	return n < p->size ? n : 0;
}
