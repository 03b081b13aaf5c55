/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Histograms of durations that take memory only where they have counts: a
 * histogram is an index of octaves, each of which gets a chunk of 16 counters
 * from a pool at its first value. Everything only grows; user space subtracts.
 */
#pragma once
#include "hist_rule.h"
#include "loss.bpf.h"
#include "pool.bpf.h"

#define HIST_CHUNKS 65536

/* Named in Go too: what no program's signature mentions would be dropped from the type information. */
const enum hist_rule *hist_rule_type __attribute__((unused));

struct hist_chunk {
	__u32 count[HIST_SUBS];
};

struct hist {
	__u32 chunk[HIST_OCTAVES]; /* index into hist_chunks, 0: no value there yet */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HIST_CHUNKS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct hist_chunk);
} hist_chunks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, HIST_CHUNKS);
	__type(value, __u32);
} hist_chunks_returned SEC(".maps");

volatile struct pool hist_chunk_pool = { .next = 1, .size = HIST_CHUNKS };

static __noinline __u32 hist_new_chunk(__u32 *place)
{
	__u32 fresh = pool_get(&hist_chunk_pool, &hist_chunks_returned), seen;

	if (!fresh) {
		lose(LOSS_HISTOGRAM_FULL);
		return 0;
	}
	seen = __sync_val_compare_and_swap(place, 0, fresh);
	if (!seen)
		return fresh;
	/* Another CPU was first. */
	bpf_map_push_elem(&hist_chunks_returned, &fresh, BPF_ANY);
	return seen;
}

/* False if no place was left for it. */
static __always_inline bool hist_add(struct hist *h, __u64 ns)
{
	__u32 bucket = hist_bucket(ns);
	__u32 *place = &h->chunk[(bucket / HIST_SUBS) & (HIST_OCTAVES - 1)];
	__u32 at = *place;
	struct hist_chunk *c;

	if (!at) {
		at = hist_new_chunk(place);
		if (!at)
			return false;
	}
	c = bpf_map_lookup_elem(&hist_chunks, &at);
	if (c)
		__sync_fetch_and_add(&c->count[bucket & (HIST_SUBS - 1)], 1);
	return c;
}

/*
 * The exact maximum of each interval without a reset: the number of the
 * interval, which user space counts up, stands in the upper bits, so a newer
 * interval's value is always larger. Two places, taken in turn, so that user space can read
 * the interval that has just ended while the next one is written.
 */
#define MAX_NS_BITS 48

volatile __u32 interval;

struct interval_max {
	__u64 at[2];
};

static __always_inline void max_add(struct interval_max *m, __u64 ns)
{
	__u32 now = interval;
	__u64 *place = &m->at[now & 1], packed, seen = *place;

	if (ns >> MAX_NS_BITS)
		ns = (1ULL << MAX_NS_BITS) - 1;
	packed = ((__u64)now << MAX_NS_BITS) | ns;
	/* A lost race is another CPU's larger value or one that a retry beats. */
	for (int i = 0; i < 8 && seen < packed; i++) {
		__u64 was = __sync_val_compare_and_swap(place, seen, packed);

		if (was == seen)
			return;
		seen = was;
	}
}
