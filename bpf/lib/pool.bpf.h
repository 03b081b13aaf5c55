/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Indices of preallocated arrays: handed out in order first, then from those
 * that user space has given back through a queue. 0 is never handed out.
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

	if (p->next < p->size) {
		n = __sync_fetch_and_add(&p->next, 1);
		if (n < p->size)
			return n;
		n = 0;
	}
	if (bpf_map_pop_elem(returned, &n))
		return 0;
	return n;
}
