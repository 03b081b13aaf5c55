/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * The run history: who ran on each CPU, and when, so that a wait that ends can be charged to what
 * occupied the CPU meanwhile.
 *
 * The last runs are kept one by one. The few long waits hold most of the time that is waited, and
 * reach further back: for them there are chapters, each the sums by group of a CPU's runs
 * of a millisecond or more. Eight chapters make one of the next level, so that five levels of 64
 * go back for minutes. A chapter that a wait begins within is charged pro rata.
 *
 * Culprits are added up by group (lib/owner.bpf.h). Everything is in the clock of the CPU's run queue.
 */
#pragma once
#include "owner.bpf.h"

#define RUNS 64
#define CHAPTERS 64
#define CHAPTER_LEVELS 5
#define CHAPTER_RATIO 8
#define CHAPTER_NS (1U << 20)
#define CHAPTER_GROUPS 32

struct run {
	__u64 start; /* it ends where the next one starts */
	__u64 irq, softirq; /* ns within it */
	__u32 owner;
	__u32 tid;
};

struct chapter {
	__u64 start, end;
	__u64 ns[CHAPTER_GROUPS];
	__u32 group[CHAPTER_GROUPS]; /* 0: free */
};

/* A CPU, and what runs on it now. */
struct cpu {
	__u64 since;   /* 0: nothing was seen yet */
	__u64 runtime; /* the thread's sum_exec_runtime then */
	__u64 task;    /* struct task_struct *, 0 when idle */
	__u32 owner;
	__u32 tid;
	__u32 thread;  /* slot of `threads`, 0: none */
	__u32 zero;
	/* Interrupts: sums, and how much of them is charged to runs already. */
	__u64 irq, softirq, irq_charged, softirq_charged;
	__u64 irq_since, softirq_since, softirq_irq;
	/* Of softirqs, those of network reception, and the packet that one works for. */
	__u64 net;
	__u64 packet_since, packet_irq;
	__u32 packet_owner; /* 0: none yet */
	__u32 is_net;
	__u64 clock_offset, next_offset; /* CLOCK_MONOTONIC less the run queue's clock: the least of this period and the last */
	__u64 offset_until;
	__u64 made[CHAPTER_LEVELS]; /* chapters so far; at level 0, the one that is being made comes next */
	__u64 runs;                 /* so far */
	struct run run[RUNS];
};

/* Nothing runs from now on. */
static __always_inline void runs_idle(struct cpu *c)
{
	c->task = 0;
	c->owner = OWNER_WAKE_UP_PATH;
	c->tid = 0;
	c->thread = 0;
}

/* One of each for each CPU: user space sets their sizes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct cpu);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CHAPTER_LEVELS * CHAPTERS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct chapter);
} chapters SEC(".maps");

/* Whether every process is to be told apart, at the price of memory. */
const volatile bool by_process;

static __always_inline __u32 group_of(__u32 owner)
{
	struct process *p;

	if (by_process || owner < OWNER_FIRST)
		return owner;
	p = bpf_map_lookup_elem(&processes, &owner);
	return p && p->group ? p->group : owner;
}

static __always_inline struct chapter *chapter_at(__u32 cpu, __u32 level, __u64 number)
{
	__u32 at = (cpu * CHAPTER_LEVELS + level) * CHAPTERS + (number & (CHAPTERS - 1));

	return bpf_map_lookup_elem(&chapters, &at);
}

/* Whether a chapter is there: made, and not overwritten since. */
static __always_inline bool chapter_kept(__u32 cpu, __u32 level, __u64 number)
{
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	__u64 made;

	if (!c || level >= CHAPTER_LEVELS)
		return false;
	made = c->made[level];
	/* At level 0 the one that is being made counts, too: it has overwritten one more. */
	return level ? number < made && number + CHAPTERS >= made : number <= made && number + CHAPTERS > made;
}

#define CHAPTER_PROBES 8

/* Whether there was a place for the group. */
checked_once int chapter_add(struct chapter *c, __u32 group, __u64 ns)
{
	if (!c || !ns)
		return 1;
	for (__u32 i = 0; i < CHAPTER_PROBES; i++) {
		__u32 at = (group + i) & (CHAPTER_GROUPS - 1);

		if (c->group[at] == group || !c->group[at]) {
			c->group[at] = group;
			c->ns[at] += ns;
			return 1;
		}
	}
	return 0;
}

struct chapter_merge {
	__u64 first; /* of the chapters that become one */
	__u32 cpu, level;
	__u32 into;
	__u32 zero;
};

static long chapter_merge(__u32 i, void *ctx)
{
	struct chapter_merge *m = ctx;
	struct chapter *from = chapter_at(m->cpu, m->level, m->first + i / CHAPTER_GROUPS), *to;
	__u32 at = i & (CHAPTER_GROUPS - 1), into = m->into;

	to = bpf_map_lookup_elem(&chapters, &into);
	if (!from || !to)
		return 1;
	to->end = from->end;
	chapter_add(to, from->group[at], from->ns[at]); /* or it is what is left of the chapter */
	return 0;
}

/* Makes one chapter of the last ones of a level. */
checked_once int chapter_raise(__u32 cpu, __u32 level, __u64 made, __u64 number)
{
	struct chapter_merge m = { .cpu = cpu, .level = level, .first = made - CHAPTER_RATIO };
	struct chapter *first = chapter_at(cpu, level, m.first), *to = chapter_at(cpu, level + 1, number);

	if (!first || !to)
		return 0;
	__builtin_memset(to, 0, sizeof(*to));
	to->start = first->start;
	m.into = (cpu * CHAPTER_LEVELS + level + 1) * CHAPTERS + (number & (CHAPTERS - 1));
	bpf_loop(CHAPTER_RATIO * CHAPTER_GROUPS, chapter_merge, &m, 0);
	return 0;
}

/* Ends the chapter that is being made, and begins the next one. */
checked_once int chapter_end(__u32 cpu, __u64 now)
{
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	struct chapter *next;

	if (!c)
		return 0;
	c->made[0]++;
	for (__u32 level = 0; level < CHAPTER_LEVELS - 1; level++) {
		if (c->made[level] % CHAPTER_RATIO)
			break;
		chapter_raise(cpu, level, c->made[level], c->made[level + 1]);
		c->made[level + 1]++;
	}
	next = chapter_at(cpu, 0, c->made[0]);
	if (!next)
		return 0;
	__builtin_memset(next, 0, sizeof(*next));
	next->start = next->end = now;
	return 0;
}

static __noinline struct chapter *chapter_add_next(struct chapter *open, __u32 cpu, struct cpu *c, __u32 group, __u64 ns)
{
	if (chapter_add(open, group, ns))
		return open;
	/* It is full: what is in it already ends where this run begins. */
	chapter_end(cpu, c->since);
	open = chapter_at(cpu, 0, c->made[0]);
	if (open)
		chapter_add(open, group, ns);
	return open;
}

/* Adds what a CPU has run until now to its history, and returns the group that ran. */
static __always_inline __u32 run_add(struct cpu *c, __u32 cpu, __u64 now, __u64 irq, __u64 softirq)
{
	struct run *r = &c->run[c->runs & (RUNS - 1)];
	struct chapter *open = chapter_at(cpu, 0, c->made[0]);
	__u64 ns = now - c->since - irq - softirq;
	__u32 group = group_of(c->owner), at = group & (CHAPTER_GROUPS - 1);

	r->start = c->since;
	r->irq = irq;
	r->softirq = softirq;
	r->owner = c->owner;
	r->tid = c->tid;
	c->runs++;
	if (!open)
		return group;
	if (!open->start) /* the first one */
		open->start = c->since;
	if (open->group[at] == group)
		open->ns[at] += ns;
	else if (ns)
		open = chapter_add_next(open, cpu, c, group, ns);
	if (open && irq)
		open = chapter_add_next(open, cpu, c, OWNER_INTERRUPTS, irq);
	if (open && softirq)
		open = chapter_add_next(open, cpu, c, OWNER_SOFTIRQS, softirq);
	if (!open)
		return group;
	open->end = now;
	if (now - open->start >= CHAPTER_NS)
		chapter_end(cpu, now);
	return group;
}
