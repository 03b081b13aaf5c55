/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Requests in flight: who submitted each one, in a slot that its hardware queue
 * and tag lead to without a hash; and the submitters of bios that have no slot of their
 * own, because they were merged or go to a device without requests.
 */
#pragma once
#include "io.bpf.h"

#define QUEUES 1024
#define REQUEST_SLOTS 65536
#define MERGED_BIOS 16384

#define SLOT_LIVE 1U       /* between a request's start and its last completion */
#define SLOT_JOURNAL 2U    /* part of the commit of (fs_device, tid) */
#define SLOT_FAST 4U       /* part of a fast commit, which is its submitter's */
#define SLOT_SUPERBLOCK 8U /* the journal's superblock */
#define SLOT_PARTIAL 16U   /* completed in part: what is left may be somebody else's bio */
#define SLOT_CHARGED 32U   /* row is that of the owner of most bytes */
#define SLOT_KTHREAD 64U   /* a thread of the kernel submitted it */

struct request_slot {
	__u64 request; /* struct request * */
	__u64 inode;   /* whose pages are written back, 0 for other requests */
	__u32 owner;
	__u32 row;
	__u32 device;
	__u32 flags;
	__u32 fs_device, tid;
	__u32 cmd_flags;
	__u32 bytes; /* when it started; what is merged later is not in it */
	__u32 done;  /* bytes completed so far */
	__u32 via;   /* of those */
	/* The thread whose owner and row these are, at its next request too; 0 for none. */
	__u64 task, task_start;
	__u64 disk;            /* struct gendisk *, then */
	__u32 journal_writers; /* then */
	__u32 started;         /* low half of request.start_time_ns, where more than one program takes a start */
	__u32 number, thread;  /* of a request that is traced, 0 for others; the tid of who submitted it */
};

/* Counts the threads that began to write a journal: what slots note of threads before that is void. */
volatile __u32 journal_writers;

/* Where the slots of a queue's tags are; indexed by request_queue.id, which the kernel keeps small and dense. */
struct queue_slots {
	__u64 queue; /* ids and addresses come back: another queue gets other slots */
	__u32 first;
	__u32 tags; /* per hardware queue; 0: its submitters cannot be kept */
	__u32 hardware_queues;
	__u32 placing; /* a CPU gives it its place */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, struct queue_slots);
} queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REQUEST_SLOTS);
	__type(key, __u32);
	__type(value, struct request_slot);
} request_slots SEC(".maps");

volatile struct pool request_slot_pool = { .next = 1, .size = REQUEST_SLOTS };

/*
 * The submitter of a bio that was merged into another one's request, that went to a device without
 * requests, or, before 6.5, that waits for a flush.
 */
struct bio_owner {
	__u64 start; /* ns; 0 for a merged bio, whose request has it */
	__u32 owner;
	__u32 flags; /* SLOT_…; these and the transaction only of bios that are no merged ones */
	__u32 fs_device, tid;
	__u32 sweep; /* the first one that found it */
	__u32 number, thread; /* as those of a slot */
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MERGED_BIOS);
	__type(key, __u64); /* struct bio * */
	__type(value, struct bio_owner);
} bio_owners SEC(".maps");

#define BIO_SWEEPS 120

/* Not 0 until so many sweeps, whole ones or not, after a merged bio's owner could not be kept: those without one may be its. */
volatile __u32 bio_owners_overflowed;

static __always_inline __u32 disk_device(struct gendisk *disk)
{
	return disk->major << 20 | disk->first_minor;
}

static long forget_slot(__u32 i, void *ctx)
{
	__u32 *at = ctx;
	struct request_slot *slot = bpf_map_lookup_elem(&request_slots, at);

	if (slot)
		slot->flags = 0;
	++*at;
	return 0;
}

/*
 * Gives a queue its slots, and again when it has got more tags: what is in flight then, is of an
 * unknown submitter, and must not be taken for completed unseen. Of several CPUs
 * one does it; the others' requests go without.
 */
checked_once int queue_place(struct queue_slots *q, __u64 queue, __u32 tags, __u32 hardware_queues)
{
	__u32 first, want = tags * hardware_queues, old;

	if (!q || __sync_val_compare_and_swap(&q->placing, 0, 1))
		return 0;
	old = q->first;
	if (q->tags)
		bpf_loop(q->tags * q->hardware_queues, forget_slot, &old, 0);
	q->queue = 0;
	for (int i = 0; i < 8; i++) {
		first = request_slot_pool.next;
		if (want > request_slot_pool.size || first > request_slot_pool.size - want)
			break;
		if (__sync_val_compare_and_swap(&request_slot_pool.next, first, first + want) == first)
			goto placed;
	}
	tags = 0;
	first = 0;
placed:
	q->first = first;
	q->tags = tags;
	q->hardware_queues = hardware_queues;
	q->queue = queue;
	q->placing = 0;
	return 0;
}

/*
 * The slot of a request. With an I/O scheduler, the scheduler's tag stays with
 * the request all its life, and the driver's comes and goes.
 */
static __always_inline struct request_slot *request_slot(struct request *rq, bool make)
{
	__u32 tag = rq->internal_tag >= 0 ? rq->internal_tag : rq->tag; /* none is the largest number */
	struct request_queue *queue = rq->q;
	struct blk_mq_hw_ctx *hctx = rq->mq_hctx;
	__u32 id = queue->id, number = hctx->queue_num, tags, at;
	struct queue_slots *q = bpf_map_lookup_elem(&queues, &id);

	if (!q)
		return NULL;
	if (q->queue == (__u64)queue && tag < q->tags && number < q->hardware_queues)
		goto found;
	/* A queue without slots stays without. */
	if (!make || (__s32)tag < 0 || (q->queue == (__u64)queue && !q->tags))
		return NULL;
	tags = hctx->tags->nr_tags;
	if (rq->internal_tag >= 0 && hctx->sched_tags->nr_tags > tags)
		tags = hctx->sched_tags->nr_tags;
	queue_place(q, as_number(queue), tags, queue->nr_hw_queues);
	if (q->queue != (__u64)queue || tag >= q->tags || number >= q->hardware_queues)
		return NULL;
found:
	at = q->first + number * q->tags + tag;
	return bpf_map_lookup_elem(&request_slots, &at);
}

/* Whether a slot is that of this request, and not of an earlier one with its tag: where more than one program takes its start. */
static __always_inline bool is_started(struct request_slot *slot, __u64 rq, __u64 start)
{
	return slot->flags & SLOT_LIVE && slot->request == rq && slot->started == (__u32)start;
}

/* Whether the pages of a bio tell its owner, so that its submitter need not be kept. */
static __always_inline bool is_writeback(__u32 opf, __u64 page)
{
	if ((opf & REQ_OP_MASK) != REQ_OP_WRITE || !page)
		return false;
	return page_flag(folio_flags(page_head(page)), PG_writeback);
}

/* A loss is not counted by a program that sees an event again. */
static __always_inline int bio_keep_owner(__u64 bio, struct bio_owner *own, bool again)
{
	if (bpf_map_update_elem(&bio_owners, &bio, own, BPF_ANY)) {
		bio_owners_overflowed = BIO_SWEEPS;
		if (!again)
			lose(LOSS_MERGED_BIOS_FULL);
	}
	return 0;
}
