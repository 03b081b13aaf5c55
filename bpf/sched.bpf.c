// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Run-queue latency: how long each thread waited for a CPU, and what occupied the CPU meanwhile.
 *
 * One hook does that. At sched_switch the kernel has not yet taken note of the arrival
 * (sched_info_switch() runs after the tracepoint, kernel/sched/stats.h), so sched_info.last_queued still
 * says since when the next thread has waited, in the run queue's clock; what it waited on
 * other run queues before is the growth of sched_info.run_delay since it last ran. The
 * wait is charged by the CPU's run history (lib/runs.bpf.h) piece by piece, and only there: a thread's
 * wait is the sum over its culprits, which user space holds against the kernel's run_delay.
 *
 * Keeps: a slot per thread, a histogram per process, each CPU's run history. Can lose: see enum loss.
 *
 * Who caused network softirqs is told by each packet's addresses and ports (lib/flows.bpf.h).
 *
 * Costs, by `make bench` on 6.18, of which some 50 ns are the measurement's own: 155 ns a context switch, 175 ns a packet that a
 * softirq receives, 110 ns a read from a TCP connection. An interrupt or softirq is seen twice.
 */
#include "lib/flows.bpf.h"
#include "lib/hist.bpf.h"
#include "lib/runs.bpf.h"
#include "lib/sleep.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* ---- what is kept ---- */

#define CULPRITS 6

struct culprit {
	__u32 group;
	__u32 zero;
	__u64 ns;
	__u64 listed; /* ns when the iterator last passed: sums of one moment */
};

#define THREAD_THROTTLED 1U /* went off the CPU because its quota was used up (since 6.18) */
#define THREAD_KSOFTIRQD 2U

/* A thread. It is written where its run queue is locked, so by one CPU at a time. */
struct thread {
	__u64 task;     /* struct task_struct *: slots are used again */
	__u32 owner, tid;
	__u32 flags;    /* THREAD_… */
	__u32 off;      /* enum off */
	__u64 on_at;    /* the run queue's clock when it came on its CPU last, */
	__u64 off_at;   /* and when it went off, 0 since then, */
	__u64 executed; /* with that much se.sum_exec_runtime */
	__u64 expected; /* sched_info.run_delay, once all waits so far are in it */
	__u64 waited;   /* of them, since off_at */
	__u64 ran, irq, softirq;
	__u64 switches;
	__u64 latencies; /* ns, all of them together */
	__u64 slept[OFF_MAX];
	struct culprit culprit[CULPRITS]; /* those that came first; further ones are in `culprits` */
	__u64 unplaced;                   /* ns that found no place there either */
	/* By the iterator: */
	__u64 kernel_wait; /* run_delay */
	__u64 kernel_before; /* what of it is older than the slot */
	__u64 counted;       /* ours at the same moment: `expected` */
	__u64 unplaced_listed;
	__u64 waiting;     /* ns that it has been waiting for by then */
	__u64 unseen;      /* ns that it has been on a CPU since off_at: that reached no program */
	__u64 migrations;
	__u64 numa_pages;  /* migrated between nodes */
	__u32 list;        /* the last one that it is in */
	__u32 listed;      /* it is in one */
	__u32 dead;        /* its last switch is over: by sched_switch */
	__u32 zero;
	char comm[16];
};

#define THREADS 32768
#define CULPRIT_PAIRS 65536

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, THREADS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, THREADS);
	__type(value, __u32);
} threads_returned SEC(".maps");

volatile struct pool thread_pool = { .next = 1, .size = THREADS };

struct culprit_key {
	__u32 victim, culprit; /* groups */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CULPRIT_PAIRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct culprit_key);
	__type(value, __u64);
} culprits SEC(".maps");

/* What a process's threads share. */
struct sched_process {
	struct hist wait;
	struct interval_max max;
	__u64 worst_floor;    /* longer waits may be among the worst of its group */
	__u32 worst_interval; /* then */
	__u32 zero;
	__u64 caused; /* ns of softirqs that receive packets for its sockets */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct sched_process);
} sched_processes SEC(".maps");

/* The worst waits of a group in an interval, so that few others are told of. */
#define WORST 10

struct worst {
	__u64 ns[WORST];
	__u32 interval;
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, GROUPS);
	__type(key, __u32);
	__type(value, struct worst);
} worsts SEC(".maps");

/* A long wait, with who ran meanwhile, the last one first. */
struct exemplar {
	__u64 at; /* its end, CLOCK_MONOTONIC */
	__u64 wait;
	__u64 elsewhere; /* of it, on the queues of other CPUs, before */
	__u64 quota;
	__u64 irq, softirq;
	__u32 owner, tid;
	__u32 cpu;
	__u32 n;
	struct {
		__u32 owner, tid;
		__u64 ns;
	} ran[RUNS]; /* those that there are, when told of */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} exemplars SEC(".maps");

/* Written by sched_switch alone, which nothing interrupts. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exemplar);
} exemplar_scratch SEC(".maps");

const volatile bool keep_worst;

/* Only those of processes that are followed. */
const volatile bool worst_followed;

/* Of threads that use TCP connections, user space is told of each wait of so many ns or more: it may be why such a one stalled. */
const volatile __u64 talkers_wait = -1;

/* Counted up by user space before each run of the iterator. */
volatile __u32 list_number;

/* CLOCK_BOOTTIME when everything was attached, 0 until then: threads that are older may have waited before. */
volatile __u64 attached_at;

/* When a group's tasks were kept off a CPU because its quota was used up: the last such spans of a leaf cfs_rq. */
#define SPANS 8

struct leaf {
	__u64 since;  /* of the span that has not ended; 0: there is none */
	__u64 before; /* the kernel's sum of throttled time then */
	__u32 spans;  /* so far */
	__u32 zero;
	struct {
		__u64 from, to;
	} span[SPANS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64); /* struct cfs_rq * */
	__type(value, struct leaf);
} leaves SEC(".maps");

/* ---- charging ---- */

static __noinline int charge_pair(struct thread *t, __u32 group, __u64 ns)
{
	struct culprit_key key = { .victim = group_of(t->owner), .culprit = group };
	__u64 *sum, zero = 0;

	sum = bpf_map_lookup_elem(&culprits, &key);
	if (!sum) {
		bpf_map_update_elem(&culprits, &key, &zero, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&culprits, &key);
	}
	if (sum) {
		__sync_fetch_and_add(sum, ns);
		return 0;
	}
	lose(LOSS_CULPRIT_TABLE_FULL);
	t->unplaced += ns;
	return 0;
}

static __always_inline void charge_to(struct thread *t, __u32 group, __u64 ns)
{
	if (!ns)
		return;
	for (int i = 0; i < CULPRITS; i++) {
		struct culprit *c = &t->culprit[i];

		if (!c->group)
			c->group = group;
		if (c->group == group) {
			c->ns += ns;
			return;
		}
	}
	charge_pair(t, group, ns);
}

checked_once int charge(__u32 thread, __u32 group, __u64 ns)
{
	struct thread *t = bpf_map_lookup_elem(&threads, &thread);

	if (t)
		charge_to(t, group, ns);
	return 0;
}

/* ns of the whole, for a part of it. */
static __always_inline __u64 pro_rata(__u64 ns, __u64 part, __u64 whole)
{
	if (part >= whole)
		return ns;
	return ns * ((part << 16) / whole) >> 16;
}

/* What of a wait is to be charged yet, from its end to its beginning. */
struct charging {
	__u64 from, to;
	__u64 number;  /* of the run or chapter that was looked at last */
	__u64 reached; /* its start */
	__u32 cpu, level;
	__u32 thread;
	__u32 zero;
};

/* The part of a run that lies within a wait. */
struct piece {
	__u64 ns, irq, softirq;
};

/* What of the run that ends where the charging has reached is within the wait; goes on to the run before it. */
static __always_inline struct piece piece_of(struct charging *w, const struct run *r)
{
	__u64 from = w->from > r->start ? w->from : r->start, to = w->to < w->reached ? w->to : w->reached, whole = w->reached - r->start;
	struct piece p = {};

	if (to > from) {
		p.irq = pro_rata(r->irq, to - from, whole);
		p.softirq = pro_rata(r->softirq, to - from, whole);
		p.ns = to - from - p.irq - p.softirq;
	}
	w->reached = r->start;
	return p;
}

checked_once int charge_run(struct charging *w)
{
	struct piece p;
	__u32 cpu;
	struct cpu *c;
	struct run *r;

	if (!w)
		return 0;
	cpu = w->cpu;
	c = bpf_map_lookup_elem(&cpus, &cpu);
	if (!c)
		return 0;
	r = &c->run[w->number & (RUNS - 1)];
	p = piece_of(w, r);
	charge(w->thread, OWNER_INTERRUPTS, p.irq);
	charge(w->thread, OWNER_SOFTIRQS, p.softirq);
	charge(w->thread, group_of(r->owner), p.ns);
	return 0;
}

static long charge_runs(__u32 i, void *ctx)
{
	struct charging *w = ctx;

	if (!w->number)
		return 1;
	w->number--;
	charge_run(w);
	return w->reached <= w->from;
}

checked_once int charge_chapter(struct charging *w)
{
	__u64 from, to, part, whole, left;
	struct chapter *c;

	if (!w)
		return 0;
	c = chapter_at(w->cpu, w->level, w->number);
	if (!c)
		return 0;
	from = w->from > c->start ? w->from : c->start;
	to = w->to < c->end ? w->to : c->end;
	w->reached = c->start;
	if (to <= from)
		return 0;
	part = to - from;
	whole = c->end - c->start;
	left = part;
	for (int i = 0; i < CHAPTER_GROUPS; i++) {
		__u64 ns = pro_rata(c->ns[i], part, whole);

		if (!ns)
			continue;
		if (ns > left)
			ns = left;
		charge(w->thread, c->group[i], ns);
		left -= ns;
	}
	/* What had no place in the chapter, and what rounding left. */
	charge(w->thread, OWNER_OLDER, left);
	return 0;
}

static long charge_chapters(__u32 i, void *ctx)
{
	struct charging *w = ctx;
	struct chapter *upper;
	__u32 level = w->level;

	if (!w->number)
		return 1;
	/* The fewest chapters: those of a level above, as soon as one of them lies within the wait, */
	if (w->number % CHAPTER_RATIO == 0 && chapter_kept(w->cpu, level + 1, w->number / CHAPTER_RATIO - 1)) {
		upper = chapter_at(w->cpu, level + 1, w->number / CHAPTER_RATIO - 1);
		if (upper && (upper->start >= w->from || !chapter_kept(w->cpu, level, w->number - 1))) {
			w->level = level + 1;
			w->number /= CHAPTER_RATIO;
			return 0;
		}
	}
	if (!chapter_kept(w->cpu, level, w->number - 1))
		return 1;
	/* and those of the level below again where the wait begins. */
	upper = chapter_at(w->cpu, level, w->number - 1);
	if (upper && level && upper->start < w->from && chapter_kept(w->cpu, level - 1, (w->number - 1) * CHAPTER_RATIO)) {
		w->level = level - 1;
		w->number *= CHAPTER_RATIO;
		return 0;
	}
	w->number--;
	charge_chapter(w);
	return w->reached <= w->from;
}

/* Charges [from, to) of a thread's wait to whoever had the CPU. */
checked_once int charge_history(__u32 cpu, __u32 thread, __u64 from, __u64 to)
{
	struct charging w = { .from = from, .to = to, .cpu = cpu, .thread = thread };
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);

	if (!c || to <= from)
		return 0;
	w.reached = c->since ? c->since : to;
	/* What runs now is not in the history yet: so it is on a CPU that a waiting thread is taken away from. */
	if (to > w.reached) {
		__u64 begin = from > w.reached ? from : w.reached;

		charge(thread, group_of(c->owner), to - begin);
		w.to = begin;
	}
	if (w.to > from) {
		__u64 number = c->runs > RUNS ? c->runs - RUNS : 0;

		if (!c->runs) {
			w.reached = w.to; /* nothing was seen of this CPU yet */
		} else if (c->run[number & (RUNS - 1)].start <= from) {
			w.number = c->runs;
			bpf_loop(RUNS, charge_runs, &w, 0);
		} else {
			w.number = c->made[0] + 1;
			bpf_loop(CHAPTERS * CHAPTER_LEVELS, charge_chapters, &w, 0);
		}
		if (w.to > w.reached)
			w.to = w.reached;
		if (w.to > from)
			charge(thread, OWNER_OLDER, w.to - from);
	}
	return 0;
}

/* ---- quota ---- */

/*
 * No tracepoint tells that a cgroup has used up its share of CPU time. The kernel's sum of each leaf's
 * throttled time does: a span begins when a thread goes off the CPU with the leaf throttled, and by the
 * time a thread of it comes on again, the sum has grown by the span's length.
 */
checked_once int leaf_throttled(__u64 at, __u64 since, __u64 before)
{
	struct leaf *l = bpf_map_lookup_elem(&leaves, &at), fresh = {};

	if (!l) {
		bpf_map_update_elem(&leaves, &at, &fresh, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&leaves, &at);
	}
	if (l && (!l->since || before < l->before)) { /* another one had the address */
		l->since = since;
		l->before = before;
	}
	return 0;
}

/* Whether a thread may have waited because the quota of its leaf was used up. */
static __always_inline bool is_limited(const struct thread *t, struct cfs_rq *leaf)
{
	return throttled_time(leaf) && (is_throttled_by_group() || t->flags & THREAD_THROTTLED);
}

/* Charges a wait of a thread whose leaf has been throttled, and returns the part that is the quota's. */
checked_once __u64 charge_limited(__u32 cpu, __u32 thread, __u64 from, __u64 to, __u64 at)
{
	struct leaf *l = bpf_map_lookup_elem(&leaves, &at);
	__u64 quota = 0;

	if (l) {
		__u32 first = l->spans;

		for (int i = 0; i < SPANS; i++) {
			__u64 begin = l->span[(first + i) & (SPANS - 1)].from, end = l->span[(first + i) & (SPANS - 1)].to;

			if (begin < from)
				begin = from;
			if (end > to)
				end = to;
			if (end <= begin)
				continue;
			charge_history(cpu, thread, from, begin);
			charge(thread, OWNER_QUOTA, end - begin);
			quota += end - begin;
			from = end;
		}
		/* A thread can be taken to another CPU meanwhile. */
		if (l->since && l->since < to) {
			__u64 begin = l->since > from ? l->since : from;

			charge_history(cpu, thread, from, begin);
			charge(thread, OWNER_QUOTA, to - begin);
			quota += to - begin;
			from = to;
		}
	}
	charge_history(cpu, thread, from, to);
	return quota;
}

/* Ends the span that a thread of the leaf, coming on its CPU, shows to be over. */
checked_once int leaf_runs(__u64 at, __u64 throttled, __u64 now)
{
	struct leaf *l = bpf_map_lookup_elem(&leaves, &at);
	__u64 from, to;

	if (!l || !l->since || throttled <= l->before)
		return 0;
	from = l->since;
	to = from + throttled - l->before;
	if (to > now)
		to = now;
	l->span[l->spans & (SPANS - 1)].from = from;
	l->span[l->spans & (SPANS - 1)].to = to;
	l->spans++;
	l->since = 0;
	return 0;
}

/* ---- threads ---- */

/* Takes the sums of one moment: the kernel's, and ours of all that is charged. */
static __always_inline void take_sums(struct thread *t, __u64 run_delay)
{
	t->kernel_wait = run_delay;
	t->counted = t->expected;
	for (int i = 0; i < CULPRITS; i++)
		t->culprit[i].listed = t->culprit[i].ns;
	t->unplaced_listed = t->unplaced;
}

/* A slot for a thread. One that is older than the probe has waited before. */
checked_once __u32 thread_new(__u64 task_at, __u32 owner)
{
	struct task_struct *task = (void *)task_at;
	__u32 at = pool_get(&thread_pool, &threads_returned);
	struct thread *t;
	__u64 name = 0;

	t = bpf_map_lookup_elem(&threads, &at);
	if (!at || !t) {
		lose(LOSS_THREAD_TABLE_FULL);
		return 0;
	}
	__builtin_memset(t, 0, sizeof(*t));
	t->task = task_at;
	t->owner = owner;
	bpf_probe_read_kernel(t->comm, sizeof(t->comm), &task->comm);
	t->list = list_number;
	if (!attached_at || BPF_CORE_READ(task, start_boottime) < attached_at) {
		t->expected = BPF_CORE_READ(task, sched_info.run_delay);
		t->kernel_before = t->kernel_wait = t->counted = t->expected;
	}
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD) {
		bpf_probe_read_kernel(&name, sizeof(name), &task->comm);
		if (name == 0x7172697466736f6b) /* "ksoftirq" */
			t->flags = THREAD_KSOFTIRQD;
	}
	/* Last: for user space, a slot with a number is in use. */
	barrier();
	t->tid = BPF_CORE_READ(task, pid);
	return at;
}

/* The slot of a thread, made at its first event; 0 if there is none left. */
static __noinline __u32 thread_find(struct task_struct *task, struct task_context *c)
{
	__u64 address = as_number(task);
	__u32 was = c->thread, at = was, fresh;
	struct thread *t = bpf_map_lookup_elem(&threads, &at);

	if (at && t && t->task == address)
		return at;
	fresh = thread_new(address, c->owner);
	if (!fresh)
		return 0;
	at = __sync_val_compare_and_swap(&c->thread, was, fresh);
	if (at == was)
		return fresh;
	/* The iterator and a switch met. */
	t = bpf_map_lookup_elem(&threads, &fresh);
	if (t)
		t->tid = t->task = 0;
	bpf_map_push_elem(&threads_returned, &fresh, BPF_ANY);
	return at;
}

static __always_inline __u32 thread_of(struct task_struct *task)
{
	struct task_context *c = task_context(task);

	return c ? thread_find(task, c) : 0;
}

static __always_inline enum off off_reason(struct task_struct *task, bool preempt, unsigned int state)
{
	if (preempt || !state)
		return OFF_RUNNABLE;
	if (BPF_CORE_READ_BITFIELD(task, in_iowait))
		return OFF_DISK;
	return (state & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD)) == TASK_UNINTERRUPTIBLE ? OFF_BLOCKED : OFF_ASLEEP;
}

/*
 * The time by CLOCK_MONOTONIC, as the run queue's clock would have it: that one stands still where a
 * wakeup preempts what runs (rq_clock_skip_update(), kernel/sched/core.c), idle included. The two differ by what drifts
 * slowly, and is the least difference seen lately.
 */
static __always_inline __u64 fresh_clock(struct cpu *c, __u64 clock)
{
	__u64 now = bpf_ktime_get_ns(), offset = now - clock;

	if (!c->offset_until)
		c->clock_offset = c->next_offset = offset;
	if (now > c->offset_until) {
		c->clock_offset = c->next_offset;
		c->next_offset = offset;
		c->offset_until = now + (1 << 26);
	}
	if ((__s64)(offset - c->next_offset) < 0)
		c->next_offset = offset;
	offset = c->next_offset;
	if ((__s64)(c->clock_offset - offset) < 0)
		offset = c->clock_offset;
	return now - offset;
}

/* ---- the worst waits ---- */

static long exemplar_run(__u32 i, void *ctx)
{
	struct charging *w = ctx;
	__u32 cpu = w->cpu, zero = 0, n;
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	struct exemplar *e = bpf_map_lookup_elem(&exemplar_scratch, &zero);
	struct piece p;
	struct run *r;

	if (!c || !e || !w->number || w->reached <= w->from)
		return 1;
	w->number--;
	r = &c->run[w->number & (RUNS - 1)];
	p = piece_of(w, r);
	e->irq += p.irq;
	e->softirq += p.softirq;
	n = e->n & (RUNS - 1);
	e->ran[n].owner = r->owner;
	e->ran[n].tid = r->tid;
	e->ran[n].ns = p.ns;
	e->n++;
	return 0;
}

/* Whether a wait is among the worst of its group in this interval: then it is from now on. All that is followed is one group. */
checked_once int worst_note(__u32 owner, __u64 wait)
{
	struct sched_process *p;
	struct worst *kept, fresh = {};
	__u32 group = worst_followed ? 0 : group_of(owner), least = 0;
	__u64 floor;

	p = bpf_map_lookup_elem(&sched_processes, &owner);
	if (!p || (worst_followed && !is_followed(owner)))
		return 0;
	kept = bpf_map_lookup_elem(&worsts, &group);
	if (!kept || kept->interval != interval) {
		fresh.interval = interval;
		bpf_map_update_elem(&worsts, &group, &fresh, BPF_ANY);
		kept = bpf_map_lookup_elem(&worsts, &group);
		if (!kept)
			return 0;
	}
	floor = kept->ns[0];
	for (int i = 1; i < WORST; i++) {
		if (kept->ns[i] < floor) {
			floor = kept->ns[i];
			least = i;
		}
	}
	p->worst_floor = floor;
	p->worst_interval = interval;
	if (wait <= floor)
		return 0;
	for (int i = 0; i < WORST; i++)
		if (i == least)
			kept->ns[i] = wait;
	return 1;
}

/* Tells user space of a wait of the thread that its CPU has now. */
checked_once int wait_tell(__u64 at, __u64 wait, __u64 queued, __u64 quota, __u64 elsewhere)
{
	__u32 cpu = bpf_get_smp_processor_id(), zero = 0, thread, n;
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	struct exemplar *e = bpf_map_lookup_elem(&exemplar_scratch, &zero);
	struct charging w = { .cpu = cpu, .to = -1 };
	struct thread *t;

	if (!c || !e)
		return 0;
	thread = c->thread;
	t = bpf_map_lookup_elem(&threads, &thread);
	if (!t)
		return 0;
	e->at = at;
	e->wait = wait;
	e->elsewhere = elsewhere;
	e->quota = quota;
	e->irq = e->softirq = 0;
	e->owner = t->owner;
	e->tid = t->tid;
	e->cpu = cpu;
	e->n = 0;
	/* The quota's part comes first. */
	w.reached = c->since;
	w.from = (queued ? queued : w.reached) + quota;
	w.number = c->runs;
	if (w.from < w.reached) {
		bpf_loop(RUNS, exemplar_run, &w, 0);
	} else if (!quota && !elsewhere) {
		/* The clock stood still meanwhile: so whoever ran last did. */
		e->ran[0].owner = c->run[(c->runs - 1) & (RUNS - 1)].owner;
		e->ran[0].tid = c->run[(c->runs - 1) & (RUNS - 1)].tid;
		e->ran[0].ns = wait;
		e->n = 1;
	}
	n = e->n < RUNS ? e->n : RUNS;
	if (bpf_ringbuf_output(&exemplars, e, offsetof(struct exemplar, ran) + n * sizeof(e->ran[0]), BPF_RB_NO_WAKEUP))
		lose(LOSS_WORST_WAITS_DROPPED);
	return 0;
}

/* ---- the switch ---- */

/* For how long a thread was on CPUs since it went off one, unseen, by the kernel's sum. */
static __always_inline __u64 ran_unseen(const struct thread *t, __u64 runtime)
{
	return (__s64)(runtime - t->executed) > 0 ? runtime - t->executed : 0;
}

/*
 * A thread is on a CPU again, having waited for one for so long since it went off, with so much se.sum_exec_runtime. Clocks of two
 * CPUs can differ by less than a microsecond.
 */
static __always_inline void has_slept(struct thread *t, __u64 arrival, __u64 wait, __u64 runtime)
{
	__u64 off = arrival - t->off_at - wait, ran = ran_unseen(t, runtime);

	if (t->off_at && (__s64)off > 0) {
		if (ran > off)
			ran = off;
		t->ran += ran;
		t->slept[t->off & (OFF_MAX - 1)] += off - ran;
	}
	t->on_at = arrival;
	t->off_at = 0;
}

/*
 * Somebody else goes off the CPU than came on it last: switches in between reached no program. When the one that goes came on is
 * known, unless it is the idle task; then the other's own sum says how long that one ran.
 */
checked_once int switch_unseen(__u32 cpu, __u64 arrival, __u64 now)
{
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	__u32 thread;
	struct thread *t;
	__u64 until;

	if (!c)
		return 0;
	lose(LOSS_UNSEEN_SWITCHES);
	until = arrival;
	if (!until) {
		struct task_struct *task = (void *)c->task;

		until = c->since + BPF_CORE_READ(task, se.sum_exec_runtime) - c->runtime;
	}
	if (until < c->since || until > now)
		until = now;
	thread = c->thread;
	t = bpf_map_lookup_elem(&threads, &thread);
	if (t && thread) {
		t->ran += until - c->since;
		t->switches++;
		t->off = OFF_ASLEEP; /* as far as it did not wait or run, which is known */
		t->off_at = until;
		t->executed = c->runtime + until - c->since;
	}
	run_add(c, cpu, until, 0, 0);
	c->since = until;
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(thread_switch, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int state)
{
	__u64 now = next->se.cfs_rq->rq->clock, irq, softirq, span, wait, from, delay, queued, elsewhere, quota = 0;
	__u32 cpu = bpf_get_smp_processor_id(), thread, owner, group = OWNER_OLDER;
	struct cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	struct sched_process *p;
	struct task_context *tc;
	struct thread *t;
	struct cfs_rq *leaf;

	if (!c)
		return 0;
	/* Off. */
	if (c->since && (prev->pid ? c->task != (__u64)prev || prev->sched_info.last_arrival > c->since : c->task != 0)) {
		switch_unseen(cpu, prev->pid ? prev->sched_info.last_arrival : 0, now);
		runs_idle(c);
		if (prev->pid) {
			tc = task_context(prev);
			if (tc) {
				c->thread = thread_of(prev);
				c->owner = tc->owner;
				c->tid = prev->pid;
			}
			thread = c->thread;
			t = bpf_map_lookup_elem(&threads, &thread);
			if (t && thread) {
				wait = prev->sched_info.run_delay - t->expected;
				t->expected += wait;
				has_slept(t, c->since, wait + t->waited, prev->se.sum_exec_runtime - (now - c->since));
				t->waited = 0;
				charge_history(cpu, thread, c->since - wait, c->since);
				if (wait >= talkers_wait && tc && tc->marks & TASK_TALKS)
					wait_tell(bpf_ktime_get_ns() - (now - c->since), wait, c->since - wait, 0, 0);
			}
		}
	}
	if (!c->since)
		c->since = now;
	span = now - c->since;
	irq = c->irq - c->irq_charged;
	softirq = c->softirq - c->softirq_charged;
	thread = c->thread;
	t = bpf_map_lookup_elem(&threads, &thread);
	if (irq | softirq) {
		/* A clock that stood still saw nothing of it: it is the next one's. */
		if (irq > span)
			irq = span;
		if (softirq > span - irq)
			softirq = span - irq;
		c->irq_charged += irq;
		c->softirq_charged += softirq;
		if (t && t->flags & THREAD_KSOFTIRQD)
			softirq = 0; /* its work */
	}
	if (span)
		group = run_add(c, cpu, now, irq, softirq);
	if (t && thread) {
		t->ran += span - irq - softirq;
		t->irq += irq;
		t->softirq += softirq;
		t->switches++;
		t->off = off_reason(prev, preempt, state);
		if (tell_sleeps && t->off == OFF_ASLEEP && prev->mm && is_followed(t->owner) && !is_foreign(prev))
			t->off = sleeps_for(as_number((void *)bpf_task_pt_regs(prev)), as_number(prev->files));
		t->off_at = now;
		t->executed = prev->se.sum_exec_runtime;
		leaf = prev->se.cfs_rq;
		if (is_leaf_throttled(leaf) && is_throttled(prev)) {
			t->flags |= THREAD_THROTTLED;
			leaf_throttled(as_number(leaf), throttled_since(leaf, now), throttled_time(leaf));
		} else {
			t->flags &= ~THREAD_THROTTLED;
		}
		if (state & TASK_DEAD) {
			take_sums(t, prev->sched_info.run_delay);
			t->dead = 1;
		}
	}
	/* On. */
	from = c->since;
	c->since = now;
	if (!next->pid) {
		runs_idle(c);
		return 0;
	}
	tc = task_context(next);
	c->task = (__u64)next;
	c->tid = next->pid;
	c->runtime = next->se.sum_exec_runtime;
	if (!tc) {
		c->owner = OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL;
		c->thread = 0;
		return 0;
	}
	owner = tc->owner;
	c->owner = owner;
	thread = tc->thread;
	t = bpf_map_lookup_elem(&threads, &thread);
	if (!t || t->task != (__u64)next) {
		thread = thread_find(next, tc);
		t = bpf_map_lookup_elem(&threads, &thread);
	}
	c->thread = thread;
	if (!t || !thread)
		return 0;
	queued = next->sched_info.last_queued;
	wait = queued ? now - queued : 0;
	delay = next->sched_info.run_delay - t->expected;
	t->expected += delay + wait;
	if (delay)
		charge_to(t, OWNER_UNATTRIBUTED_UNSEEN_WAIT, delay);
	if (wait) {
		leaf = next->se.cfs_rq;
		if (throttled_time(leaf))
			leaf_runs(as_number(leaf), throttled_time(leaf), now);
		if (is_limited(t, leaf))
			quota = charge_limited(cpu, thread, queued, now, as_number(leaf));
		else if (queued >= from && !(irq | softirq))
			charge_to(t, group, wait);
		else
			charge_history(cpu, thread, queued, now);
	}
	elsewhere = t->waited + delay;
	wait += t->waited;
	t->waited = 0;
	has_slept(t, now, wait, c->runtime);
	wait += delay;
	p = bpf_map_lookup_elem(&sched_processes, &owner);
	if (!p)
		return 0;
	if (queued && (!wait || now + c->clock_offset > c->offset_until)) {
		__u64 fresh = fresh_clock(c, now);

		if (!wait)
			wait = fresh - queued;
	}
	t->latencies += wait;
	hist_add(&p->wait, wait);
	max_add(&p->max, wait);
	if ((keep_worst && (wait > p->worst_floor || p->worst_interval != interval) && worst_note(owner, wait)) ||
	    (wait >= talkers_wait && tc->marks & TASK_TALKS))
		wait_tell(bpf_ktime_get_ns(), wait, queued, quota, elsewhere);
	return 0;
}

/*
 * A thread that waits is taken to another CPU: what it has waited on this one is in run_delay already
 * (sched_info_dequeue()), and its run queue is still the old one, locked.
 */
SEC("tp_btf/sched_migrate_task")
int BPF_PROG(thread_migrated, struct task_struct *task)
{
	struct rq *rq = task->se.cfs_rq->rq;
	struct cfs_rq *leaf = task->se.cfs_rq;
	__u64 to = rq->clock, wait;
	__u32 thread, cpu = rq->cpu;
	struct thread *t;

	if (task->on_rq != TASK_ON_RQ_MIGRATING)
		return 0;
	thread = thread_of(task);
	t = bpf_map_lookup_elem(&threads, &thread);
	if (!t || !thread)
		return 0;
	wait = task->sched_info.run_delay - t->expected;
	if (!wait)
		return 0;
	t->expected += wait;
	t->waited += wait;
	if (is_limited(t, leaf))
		charge_limited(cpu, thread, to - wait, to, as_number(leaf));
	else
		charge_history(cpu, thread, to - wait, to);
	return 0;
}

/* ---- interrupts ---- */

static __always_inline struct cpu *this_cpu(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline int irq_begins(void)
{
	struct cpu *c = this_cpu();

	if (c)
		c->irq_since = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int irq_ends(void)
{
	struct cpu *c = this_cpu();

	if (c && c->irq_since)
		c->irq += bpf_ktime_get_ns() - c->irq_since;
	if (c)
		c->irq_since = 0;
	return 0;
}

/* Those of devices have handlers; the architecture's own are told by tracepoints of theirs. */
#define INTERRUPT(name, entry, exit)		\
	SEC("tp_btf/" #entry)			\
	int name##_begins(void *ctx)		\
	{					\
		return irq_begins();		\
	}					\
						\
	SEC("tp_btf/" #exit)			\
	int name##_ends(void *ctx)		\
	{					\
		return irq_ends();		\
	}

INTERRUPT(irq_handler, irq_handler_entry, irq_handler_exit)
INTERRUPT(local_timer, local_timer_entry, local_timer_exit)
INTERRUPT(reschedule, reschedule_entry, reschedule_exit)
INTERRUPT(call_function, call_function_entry, call_function_exit)
INTERRUPT(call_function_one, call_function_single_entry, call_function_single_exit)
INTERRUPT(irq_work, irq_work_entry, irq_work_exit)
INTERRUPT(ipi, ipi_entry, ipi_exit)

SEC("tp_btf/softirq_entry")
int BPF_PROG(softirq_begins, unsigned int kind)
{
	struct cpu *c = this_cpu();

	if (c) {
		c->softirq_since = bpf_ktime_get_ns();
		c->softirq_irq = c->irq;
		c->is_net = kind == NET_RX_SOFTIRQ;
		c->packet_owner = 0; /* should the end of the last one have reached no program */
	}
	return 0;
}

/* A packet's time lasts until the next one, or the end of the softirq, and begins with the softirq if it is the first one. */
static __always_inline void packet_ends(struct cpu *c, __u64 now)
{
	__u32 owner = c->packet_owner;
	struct sched_process *p = owner ? bpf_map_lookup_elem(&sched_processes, &owner) : NULL;
	__u64 irq = c->irq - c->packet_irq, span = now - c->packet_since;

	if (p && span > irq)
		__sync_fetch_and_add(&p->caused, span - irq);
}

/*
 * Its own time is its span less the interrupts in it. One that comes between the two readings, here or at the beginning, is
 * in the span and not in its interrupts, and never the other way round.
 */
SEC("tp_btf/softirq_exit")
int BPF_PROG(softirq_ends)
{
	struct cpu *c = this_cpu();

	if (c && c->softirq_since) {
		__u64 now = bpf_ktime_get_ns(), irq = c->irq - c->softirq_irq, span = now - c->softirq_since;

		if (span > irq) {
			c->softirq += span - irq;
			if (c->is_net)
				c->net += span - irq;
		}
		packet_ends(c, now);
		c->packet_owner = c->is_net = 0;
		c->softirq_since = 0;
	}
	return 0;
}

/* ---- who caused network softirqs ---- */

/* A device, or the queue of a virtual one, hands a packet to the network layer. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(packet_in, struct sk_buff *skb)
{
	struct cpu *c = this_cpu();
	__u32 owner;
	__u64 now;

	/* A process that writes to a TUN device has no softirq to charge for. */
	if (!c || !c->is_net)
		return 0;
	if (c->packet_owner) {
		now = bpf_ktime_get_ns();
		packet_ends(c, now);
		c->packet_since = now;
		c->packet_irq = c->irq;
	} else {
		c->packet_since = c->softirq_since;
		c->packet_irq = c->softirq_irq;
	}
	owner = packet_owner(skb);
	c->packet_owner = owner ? owner : OWNER_UNATTRIBUTED_PACKET;
	return 0;
}

static __always_inline __u64 listener_key(struct sock *sk)
{
	return port_key(netns_of(sk), IPPROTO_TCP, sk->__sk_common.skc_num);
}

static __always_inline int flow_change(struct sock *sk, int from, int to)
{
	struct flow_ref *ref, fresh = {};
	struct tcp_sock *tp;
	__u32 owner;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (to == TCP_SYN_SENT || to == TCP_LISTEN) {
		tp = tcp_of(sk);
		if (!tp)
			return 0;
		flow_give(&fresh, is_kernels(sk, tp) ? OWNER_KERNEL : owner_of_current());
		ref = bpf_sk_storage_get(&flow_refs, sk, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!ref) {
			lose(LOSS_SOCKET_STORAGE_FAILED);
			return 0;
		}
		ref->owner = fresh.owner;
		ref->pid = fresh.pid;
		ref->flow = 0;
		if (to == TCP_LISTEN)
			flow_set(ref->flow = listener_key(sk), sk, ref->owner, 0);
		return 0;
	}
	ref = bpf_sk_storage_get(&flow_refs, sk, 0, 0);
	if (!ref)
		return 0;
	switch (to) {
	case TCP_SYN_RECV:
		if (from == TCP_SYN_SENT || !ref->flow)
			break;
		/*
		 * A copy of the listener's, whose process may be gone since it was made. Only then the port tells more: it may be
		 * several listeners'.
		 */
		if (!is_owner_known(ref->owner, ref->pid)) {
			owner = flow_owner(ref->flow);
			flow_give(ref, owner ? owner : OWNER_UNATTRIBUTED_PACKET);
		}
		ref->flow = 0;
		break;
	case TCP_ESTABLISHED:
		if (!is_owner_known(ref->owner, ref->pid))
			flow_give(ref, OWNER_UNATTRIBUTED_PACKET);
		flow_set(ref->flow = flow_of(sk), sk, ref->owner, 0);
		break;
	case TCP_CLOSE:
		if (ref->flow)
			flow_end(ref, sk);
	}
	return 0;
}

TP_BTF_TWICE("inet_sock_set_state", flow_changed, flow_change(sk, from, to), struct sock *sk, int from, int to)

/*
 * That of a socket which is read from. One that is older than the probe and that nobody had accepted yet when it looked has none
 * until then.
 */
static __always_inline struct flow_ref *flow_ref_of(struct sock *sk)
{
	struct flow_ref *ref = bpf_sk_storage_get(&flow_refs, sk, 0, 0), fresh = {};

	if (ref)
		return ref;
	if (sk->__sk_common.skc_state != TCP_CLOSE)
		fresh.flow = flow_of(sk);
	ref = bpf_sk_storage_get(&flow_refs, sk, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!ref)
		lose(LOSS_SOCKET_STORAGE_FAILED);
	return ref;
}

/* Whoever reads owns the connection. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(flow_read, struct sock *sk)
{
	struct task_struct *task;
	struct flow_ref *ref;
	__u64 reader;
	__u32 owner;

	if (!is_read_by_process(sk))
		return 0;
	task = bpf_get_current_task_btf();
	if (storage_word(sk, &flow_place, &reader) && reader == task_mark(task))
		return 0;
	ref = flow_ref_of(sk);
	if (!ref)
		return 0;
	storage_learn(sk, ref, &flow_place);
	if (ref->reader == task_mark(task))
		return 0;
	ref->reader = task_mark(task);
	owner = owner_of_current();
	if ((owner == ref->owner && pid_of_owner(owner) == ref->pid) || ref->owner == OWNER_KERNEL || task->flags & PF_KTHREAD)
		return 0;
	flow_give(ref, owner);
	if (ref->flow)
		flow_set(ref->flow, sk, owner, 0);
	return 0;
}

/* ---- called by user space ---- */

/* Finds the sockets that are older than the probe, and those of UDP, and whose they are. */
SEC("iter/task_file")
int find_flows(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct flow_ref *ref, fresh = {};
	struct task_context *t;
	struct sock *sk;

	if (!task)
		return 0;
	sk = sock_of(ctx->file);
	if (!sk || (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return 0;
	t = task_context(task);
	if (!t)
		return 0;
	if (is_udp(sk)) {
		if (sk->__sk_common.skc_num)
			flow_set(port_key(netns_of(sk), IPPROTO_UDP, sk->__sk_common.skc_num), sk, t->owner, sk->__sk_common.skc_num);
		return 0;
	}
	if (!is_tcp(sk) || sk->__sk_common.skc_state == TCP_CLOSE || bpf_sk_storage_get(&flow_refs, sk, 0, 0))
		return 0;
	flow_give(&fresh, t->owner);
	fresh.flow = sk->__sk_common.skc_state == TCP_LISTEN ? listener_key(sk) : flow_of(sk);
	ref = bpf_sk_storage_get(&flow_refs, sk, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (ref)
		flow_set(fresh.flow, sk, t->owner, 0);
	return 0;
}

/*
 * Takes the kernel's own sum of each thread, and how long it has been waiting now. Makes slots
 * for those that are older than the probe, and notes what they are doing.
 */
SEC("iter/task")
int collect(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__u64 queued, now;
	__u32 thread, cpu;
	struct thread *t;
	struct cpu *c;

	/* One that has ended takes no note of it here: its slot may be another's. */
	if (!task || task->exit_state)
		return 0;
	thread = thread_of(task);
	t = bpf_map_lookup_elem(&threads, &thread);
	if (!t || !thread)
		return 0;
	/* A thread other than the first one that executes a program takes that one's number (de_thread(), fs/exec.c). */
	t->tid = task->pid;
	/* Its CPU may be at it: all sums are to be of one moment. */
	for (int i = 0; i < 4; i++) {
		__u64 delay = task->sched_info.run_delay, switches = t->switches;

		take_sums(t, delay);
		if (t->counted == t->expected && delay == task->sched_info.run_delay && switches == t->switches)
			break;
	}
	t->migrations = task->se.nr_migrations;
	if (bpf_core_field_exists(task->numa_pages_migrated))
		t->numa_pages = task->numa_pages_migrated;
	t->list = list_number;
	t->listed = 1;
	bpf_probe_read_kernel(t->comm, sizeof(t->comm), &task->comm);
	t->waiting = 0;
	t->unseen = t->off_at ? ran_unseen(t, task->se.sum_exec_runtime) : 0;
	cpu = task->se.cfs_rq->rq->cpu;
	c = bpf_map_lookup_elem(&cpus, &cpu);
	if (!c || !c->offset_until)
		return 0;
	now = bpf_ktime_get_ns() - c->clock_offset;
	queued = task->sched_info.last_queued;
	if (queued && now > queued)
		t->waiting = now - queued;
	if (!t->switches && !t->off_at && c->tid != t->tid) {
		t->off = off_reason(task, false, task->__state);
		t->off_at = now;
		t->executed = task->se.sum_exec_runtime;
	}
	return 0;
}

static __always_inline struct process *released(__u32 owner)
{
	struct process *p = owner < OWNER_FIRST || owner >= GROUP_FIRST ? NULL : bpf_map_lookup_elem(&processes, &owner);

	return p && p->flags & PROCESS_RELEASED ? p : NULL;
}

/* The number of a process that is gone gives way to its group's, so that it can be given to another one. */
static __always_inline void settle(__u32 *place)
{
	__u32 owner = *place;
	struct process *p = released(owner);

	if (p)
		__sync_val_compare_and_swap(place, owner, p->group ? p->group : OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL);
}

static long settle_cpu(void *map, const __u32 *key, struct cpu *c, void *ctx)
{
	for (int i = 0; i < RUNS; i++)
		settle(&c->run[i].owner);
	return 0;
}

static long settle_chapter(void *map, const __u32 *key, struct chapter *c, void *ctx)
{
	for (int i = 0; i < CHAPTER_GROUPS; i++)
		settle(&c->group[i]);
	return 0;
}

static long settle_thread(void *map, const __u32 *key, struct thread *t, void *ctx)
{
	if (*key >= thread_pool.next)
		return 1;
	for (int i = 0; i < CULPRITS; i++)
		settle(&t->culprit[i].group);
	return 0;
}

static long settle_flow(void *map, const __u64 *key, struct flow *f, void *ctx)
{
	__u32 owner = f->owner;

	if (f->port ? released(owner) || !has_port(f) : has_ended(f))
		bpf_map_delete_elem(map, key);
	else if (released(owner))
		__sync_val_compare_and_swap(&f->owner, owner, OWNER_UNATTRIBUTED_PACKET);
	return 0;
}

SEC("syscall")
int sweep_sched(void *ctx)
{
	bpf_for_each_map_elem(&flows, settle_flow, NULL, 0);
	bpf_for_each_map_elem(&cpus, settle_cpu, NULL, 0);
	bpf_for_each_map_elem(&chapters, settle_chapter, NULL, 0);
	bpf_for_each_map_elem(&threads, settle_thread, NULL, 0);
	return 0;
}
