/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Single events, for user space to read in order, or to keep the last ones of: a ring of memory for each CPU that user space maps, and
 * that new records overwrite the oldest of. BPF's own ring buffers can only drop the newest, are shared by all CPUs, and add 8 bytes to a record.
 *
 * A position counts bytes since the beginning. What an interrupt's programs write lies behind what they interrupt, which is published with it.
 */
#pragma once
#include "../kernel/types.h"
#include "loss.bpf.h"
#include "owner.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define TRACE_CHUNK (1 << 16)
#define TRACE_LONGEST 72 /* bytes of a record */

/* A record is words of 8 bytes. What a, b, c and more mean depends on its kind. */
struct trace_record {
	__u32 at; /* the low half of ns, CLOCK_BOOTTIME */
	__u8 kind;
	__u8 words;
	__u16 a;
	__u32 b, c;
	__u64 more[(TRACE_LONGEST - 16) / 8];
};

const struct trace_record *trace_record_type __attribute__((unused));

enum trace_kind {
	TRACE_NONE,
	TRACE_CLOCK,        /* more: the whole time */
	TRACE_SWITCH,       /* a: how the one that goes off sleeps, b: its tid, c: the next one's, and above 24 bits its priority */
	TRACE_WAKING,       /* a: the CPU that it ran on last, b: its tid, c: the waker's, TRACE_INTERRUPT: by an interrupt meanwhile */
	TRACE_MIGRATE,      /* a: to, b: its tid, c: from */
	TRACE_IRQ,          /* at its end. a: its number, b: ns that it took, c: the tid that it interrupted */
	TRACE_SOFTIRQ,      /* at its end. a: its kind, b and c likewise */
	TRACE_SIGNAL,       /* a: its number, b: the tid that it is for, c: the sender's, more: si_code, and above 32 bits what became of it */
	TRACE_OOM,          /* b: the tid of who is killed */
	TRACE_FAULT,        /* a: 1 in user space, b: the tid, more: the address */
	TRACE_SYSCALL,      /* a: its number, b: the tid */
	TRACE_SYSCALL_ENDS, /* b: the tid, more: what it returned */
	TRACE_TIMER,        /* at its end. a: 1 of high resolution, b: ns that it took, c: the tid that it interrupted, more: its function */
	TRACE_THROTTLE,     /* b: the tid of who goes off the CPU */
	TRACE_IO_QUEUE,     /* a: enum io_op, b: the tid, c: the device; more: the sector, the bytes, and above 32 bits the request's number, 0: none */
	TRACE_IO_ISSUE,     /* likewise */
	TRACE_IO_MERGE,     /* likewise */
	TRACE_IO_COMPLETE,  /* likewise, but a: above 8 bits enum io_via, b: the owner; more: ns in the queue, ns in the device, the submitter's tid */
	TRACE_IO_THROTTLE,  /* b: the tid, more: the pause, in ticks */
	TRACE_TCP_STATE,      /* a: to, above 8 bits from, b: the owner, c: the network namespace, more: struct trace_ends */
	TRACE_TCP_RETRANSMIT, /* a: the state, b, c and more likewise */
	TRACE_TCP_STALL,      /* a: enum stall_cause, b, c and more likewise, ns, the bytes that wait, and above 32 bits the reader's tid */
	TRACE_KINDS,
};

const enum trace_kind *trace_kind_type __attribute__((unused));

/* Those of them that are traced, by their bits. */
const volatile __u64 trace_kinds;

static __always_inline bool is_traced(enum trace_kind kind) { return trace_kinds >> kind & 1; }

#define TRACE_INTERRUPT (1U << 31)
#define TRACE_PREEMPTED 0x100
#define TRACE_IDLE 0x80

struct trace_chunk {
	__u64 first; /* the position of the first record that begins in it, */
	__u64 at;    /* about when that was, */
	__u64 count; /* and how many records there were before */
	__u8 data[TRACE_CHUNK + TRACE_LONGEST]; /* the last one may be longer than the chunk */
};

/* Of timers: within one of a level, only those of a higher one can come. */
enum timer_level {
	TIMER_LOW,  /* of low resolution */
	TIMER_SOFT, /* an hrtimer that softirqs call */
	TIMER_HARD, /* an hrtimer that interrupts call */
};

struct trace_cpu {
	__u64 reserved;  /* the position behind the last record, */
	__u64 published; /* and behind the last of which all before are written, too */
	__u64 count;     /* of records */
	__u64 at;        /* of the last one */
	__u64 nested;    /* how many programs that can be interrupted are writing */
	__u64 irq_since, softirq_since;
	__u64 timer_since[3], timer_function[3]; /* by enum timer_level */
	__u64 unused[3]; /* two lines of the cache, of which processors fetch pairs */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* CPUs */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct trace_cpu);
} trace_cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4); /* each CPU's */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct trace_chunk);
} trace_chunks SEC(".maps");

/* Of each CPU, less one. Their number is a power of two. */
const volatile __u32 trace_chunk_mask = 3;

static __always_inline struct trace_chunk *trace_chunk_of(__u32 cpu, __u64 position)
{
	__u32 at = cpu * (trace_chunk_mask + 1) + (position / TRACE_CHUNK & trace_chunk_mask);

	return bpf_map_lookup_elem(&trace_chunks, &at);
}

/* The record at a position is to be so long. */
static __always_inline struct trace_record *trace_place(const struct trace_cpu *t, __u32 cpu, __u64 position, __u32 length, __u64 now)
{
	struct trace_chunk *chunk;

	if ((position + length) / TRACE_CHUNK != position / TRACE_CHUNK) {
		chunk = trace_chunk_of(cpu, position + length);
		if (chunk) {
			chunk->first = position + length;
			chunk->at = now;
			chunk->count = t->count;
		}
	}
	chunk = trace_chunk_of(cpu, position);
	return chunk ? (void *)&chunk->data[position % TRACE_CHUNK] : NULL;
}

static __always_inline void trace_write(struct trace_record *r, const struct trace_record *from, __u32 length)
{
	__u64 *to = (void *)r;
	const __u64 *word = (const void *)from;

#pragma unroll
	for (__u32 i = 0; i < length / 8; i++)
		to[i] = word[i];
}

/* What a record's time is the low half of must be told before that half comes around again. */
static __always_inline bool trace_clock_is_due(const struct trace_cpu *t, __u64 now)
{
	return now - t->at > 1U << 30;
}

#define TRACE_SHORT 16

static __always_inline struct trace_record trace_clock(__u64 now)
{
	return (struct trace_record){ .at = now, .kind = TRACE_CLOCK, .words = TRACE_SHORT / 8, .b = now, .c = now >> 32 };
}

static __always_inline struct trace_cpu *trace_here(__u32 *cpu)
{
	*cpu = bpf_get_smp_processor_id();
	return bpf_map_lookup_elem(&trace_cpus, cpu);
}

/* Where interrupts are off, or no program can come in between that writes. */
static __always_inline int trace_uninterrupted(struct trace_record *r, __u32 length)
{
	__u64 now = bpf_ktime_get_boot_ns(), position;
	struct trace_record *place, clock;
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (!t)
		return 0;
	r->at = now;
	r->words = length / 8;
	position = t->reserved;
	if (trace_clock_is_due(t, now)) {
		clock = trace_clock(now);
		t->count++;
		t->reserved = position + TRACE_SHORT;
		place = trace_place(t, cpu, position, TRACE_SHORT, now);
		if (place)
			trace_write(place, &clock, TRACE_SHORT);
		position += TRACE_SHORT;
	}
	t->at = now;
	t->count++;
	t->reserved = position + length;
	place = trace_place(t, cpu, position, length, now);
	if (place)
		trace_write(place, r, length);
	barrier();
	if (!t->nested)
		t->published = position + length;
	return 0;
}

/* Where they are on, or where a thread can be preempted. */
static __always_inline int trace_interruptible(struct trace_record *r, __u32 length)
{
	struct trace_record *place, clock;
	struct trace_cpu *t;
	__u64 now, position;
	__u32 cpu;

	t = trace_here(&cpu);
	if (!t)
		return 0;
	__sync_fetch_and_add(&t->nested, 1);
	now = bpf_ktime_get_boot_ns();
	r->at = now;
	r->words = length / 8;
	if (trace_clock_is_due(t, now)) {
		clock = trace_clock(now);
		__sync_fetch_and_add(&t->count, 1);
		position = __sync_fetch_and_add(&t->reserved, TRACE_SHORT);
		place = trace_place(t, cpu, position, TRACE_SHORT, now);
		if (place)
			trace_write(place, &clock, TRACE_SHORT);
	}
	t->at = now;
	__sync_fetch_and_add(&t->count, 1);
	position = __sync_fetch_and_add(&t->reserved, length);
	place = trace_place(t, cpu, position, length, now);
	if (place)
		trace_write(place, r, length);
	if (__sync_fetch_and_add(&t->nested, -1) == 1)
		t->published = *(volatile __u64 *)&t->reserved;
	return 0;
}

/* ---- whose events ---- */

/* Not everybody's events are wanted. */
const volatile bool trace_some;

/* By owner: the stamp of a process whose events are not wanted. User space says so; until then, they are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} trace_unwanted SEC(".maps");

/* Of what a process is, which it may not be any more when it has executed another program; never 0. Groups are numbered one after the other. */
static __always_inline __u32 trace_stamp(const struct process *p) { return ((__u32)(p->start_boottime >> 8) ^ p->group) << 1 | 1; }

static __always_inline bool is_wanted(__u32 owner)
{
	__u32 *unwanted;
	struct process *p;

	if (!trace_some)
		return true;
	p = bpf_map_lookup_elem(&processes, &owner);
	unwanted = bpf_map_lookup_elem(&trace_unwanted, &owner);
	return !p || !unwanted || *unwanted != trace_stamp(p);
}

/* Idle tasks are nobody's. */
static __always_inline bool is_task_wanted(struct task_struct *task)
{
	struct task_context *c;

	if (!trace_some)
		return true;
	if (!task->pid)
		return false;
	c = task_context(task);
	return !c || is_wanted(c->owner);
}

/* ---- what user space is told at once ---- */

enum notice {
	NOTICE_BEGINS,
	NOTICE_EXECUTES,
	NOTICE_RENAMED,
	NOTICE_ENDS,
	/* What a flight recorder waits for: */
	NOTICE_WAITED,    /* for a CPU, too long */
	NOTICE_SIGNALLED, /* is sent a signal */
	NOTICE_IO,        /* a request took too long */
	NOTICE_STALLED,   /* a connection did nothing for too long */
};

const enum notice *notice_type __attribute__((unused));

/* What happened to a thread, and what it is called from then on. */
struct trace_notice {
	__u64 at;    /* ns, CLOCK_BOOTTIME */
	__u64 value; /* BEGINS: the tid of who made it, ENDS: the exit code, SIGNALLED: the number, other triggers: ns */
	__u32 what;  /* enum notice */
	__u32 cpu;
	__u32 tid, pid; /* IO, STALLED: the owner, 0 */
	char comm[16];
};

const struct trace_notice *trace_notice_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} trace_notices SEC(".maps");

static __always_inline bool tell(enum notice what, __u32 tid, __u32 pid, __u64 value, const char *comm)
{
	struct trace_notice *n = bpf_ringbuf_reserve(&trace_notices, sizeof(*n), 0);

	if (!n) {
		lose(LOSS_NOTICES_DROPPED);
		return false;
	}
	n->at = bpf_ktime_get_boot_ns();
	n->value = value;
	n->what = what;
	n->cpu = bpf_get_smp_processor_id();
	n->tid = tid;
	n->pid = pid;
	__builtin_memset(n->comm, 0, sizeof(n->comm));
	if (comm)
		bpf_probe_read_kernel_str(n->comm, sizeof(n->comm), comm);
	bpf_ringbuf_submit(n, BPF_RB_NO_WAKEUP);
	return true;
}

/* One trigger is told of, until user space arms them again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} trace_armed SEC(".maps");

static __always_inline void trigger(enum notice what, __u32 tid, __u32 pid, __u64 value, const char *comm)
{
	__u32 zero = 0, *armed = bpf_map_lookup_elem(&trace_armed, &zero);

	if (armed && *armed && __sync_val_compare_and_swap(armed, 1, 0) && !tell(what, tid, pid, value, comm))
		*armed = 1;
}
