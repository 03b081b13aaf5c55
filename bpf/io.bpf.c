// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Disk I/O, charged to the owner that caused it.
 *
 * A request's submitter is kept by (hardware queue, tag) when accounting of
 * the request starts, and everything is counted when it completes, as the
 * kernel's own statistics are (blk_account_io_completion(), block/blk-mq.c). What was written
 * back is charged by page: to whoever dirtied it (lib/dirty.bpf.h), or, for the
 * ext4 journal, to the owners of the transaction (lib/jbd2.bpf.h).
 *
 * Keeps: a row per owner and device (lib/io.bpf.h), one slot per tag, an entry per
 * dirtied inode and per transaction. Can lose: see enum loss; a loss moves
 * bytes to an [unattributed] row and never out of the device's sum.
 *
 * Costs, by `make bench` on 6.18, of which some 50 ns are the measurement's own: 95 ns
 * at a request's start and 130 at its completion, 60 a context switch, 95 a dirtied folio. Where single events are traced (lib/trace.bpf.h), 240 at its
 * start, 180 when it is issued and 260 at its completion; else the verifier removes what they need.
 */
#include "lib/charge.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* ---- merges: the other way for a bio to get into a request ---- */

static __always_inline bool writes_journal(struct task_context *c)
{
	return c->commit_tid || c->marks & (TASK_SUPERBLOCK | TASK_FAST_COMMIT);
}

static __always_inline int bio_merged(struct bio *bio, bool again)
{
	struct bio_owner own = {};
	struct task_context *c;

	if (is_writeback(bio->bi_opf, (__u64)bio->bi_io_vec->bv_page))
		return 0;
	c = task_context(bpf_get_current_task_btf());
	if (c)
		c->marks &= ~TASK_SUPERBLOCK;
	/* The blocks of a commit are merged among themselves, and theirs is the request's owner. */
	if (!c || writes_journal(c))
		return 0;
	own.owner = c->owner;
	return bio_keep_owner(as_number(bio), &own, again);
}

TP_BTF_TWICE("block_bio_backmerge", bio_backmerge, bio_merged(bio, again), struct bio *bio)

/* The bio goes in front of the one whose submitter the slot has: that one is no longer first, and has no entry. */
TP_BTF_TWICE("block_bio_frontmerge", bio_frontmerge, bio_merged(bio, again), struct bio *bio)

/* What happens to a request that has a slot, which may be the one that it had before it was told of. */
static __noinline int trace_slot(enum trace_kind kind, struct request_slot *slot, struct request *rq)
{
	struct io_request r = { .op = op_of(rq->cmd_flags), .sector = rq->__sector, .bytes = rq->__data_len };
	struct gendisk *disk = rq->q->disk;

	if (!disk)
		return 0;
	if (slot->request == (__u64)rq && slot->flags & SLOT_LIVE) {
		r.number = slot->number;
		r.thread = slot->thread;
	}
	return trace_request(kind, &r, slot->owner, disk_device(disk));
}

struct rq_merge {
	__u64 bio;
	__u32 owner;
};

static long keep_next_bio(__u32 i, void *ctx)
{
	struct rq_merge *m = ctx;
	struct bio *bio = (void *)m->bio, *next;
	struct bio_owner own = { .owner = m->owner };

	if (!bio)
		return 1;
	if (!bpf_map_lookup_elem(&bio_owners, &m->bio) &&
	    !is_writeback(BPF_CORE_READ(bio, bi_opf), (__u64)BPF_CORE_READ(bio, bi_io_vec, bv_page)))
		bio_keep_owner(m->bio, &own, false);
	next = BPF_CORE_READ(bio, bi_next);
	m->bio = (__u64)next;
	return 0;
}

/* A whole request goes into its neighbour: its slot is about to be another's. */
SEC("tp_btf/block_rq_merge")
int BPF_PROG(request_merge, struct request *rq)
{
	struct request_slot *slot = request_slot(rq, false);
	struct rq_merge m = { .bio = as_number(rq->bio) };
	__u32 flags;

	if (!has_io_start() && (!slot || !is_started(slot, (__u64)rq, rq->start_time_ns))) {
		/* It is merged as it is inserted, by its submitter (elv_attempt_insert_merge()). */
		struct task_context *c = task_context(bpf_get_current_task_btf());

		if (c && !writes_journal(c)) {
			m.owner = c->owner;
			bpf_loop(MOST_PIECES, keep_next_bio, &m, 0);
		}
		return 0;
	}
	if (!slot || !(slot->flags & SLOT_LIVE))
		return 0;
	if (is_traced(TRACE_IO_MERGE))
		trace_slot(TRACE_IO_MERGE, slot, rq);
	m.owner = slot->owner;
	flags = slot->flags;
	slot->flags = 0;
	/* A commit's are merged among themselves, and theirs is the request's owner. */
	if (!(flags & (SLOT_JOURNAL | SLOT_FAST | SLOT_SUPERBLOCK)))
		bpf_loop(MOST_PIECES, keep_next_bio, &m, 0);
	return 0;
}

/* ---- start ---- */

/* The inode whose pages a request writes back. */
static __always_inline __u64 written_inode(struct request *rq)
{
	struct folio *folio;
	struct bio *bio;
	__u64 mapping, head;

	/* Writeback never asks a scheduler to idle (wbc_to_write_flags()), and direct I/O always does (dio_bio_write_op()). */
	if ((rq->cmd_flags & (REQ_OP_MASK | 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_IDLE))) != REQ_OP_WRITE)
		return 0;
	bio = rq->bio;
	if (!bio || !bio->bi_iter.bi_size || is_private(bio->bi_io_vec->bv_page))
		return 0;
	head = page_head((__u64)bio->bi_io_vec->bv_page);
	folio = (void *)head;
	mapping = (__u64)BPF_CORE_READ(folio, mapping);
	if (!mapping || mapping & MAPPING_FLAGS || !page_flag(folio_flags(head), PG_writeback))
		return 0;
	return (__u64)BPF_CORE_READ((struct address_space *)mapping, host);
}

/* What a thread is submitting: marks for a slot, whose transaction is the thread's commit_tid. */
static __always_inline __u32 submission_flags(struct task_context *c, struct task_struct *task, __u32 cmd_flags)
{
	__u32 op = cmd_flags & REQ_OP_MASK, flags = task->flags & PF_KTHREAD ? SLOT_KTHREAD : 0;

	if (!writes_journal(c))
		return flags;
	if (op != REQ_OP_WRITE && op != REQ_OP_FLUSH)
		return flags;
	if (c->marks & TASK_SUPERBLOCK) {
		c->marks &= ~TASK_SUPERBLOCK;
		return flags | SLOT_SUPERBLOCK;
	}
	if (c->marks & TASK_FAST_COMMIT)
		return flags | SLOT_FAST;
	return flags | SLOT_JOURNAL;
}

/* A request of another thread than the slot's last one. */
static __noinline int start_of_another(struct request_slot *slot, struct task_struct *task, struct gendisk *disk, __u32 cmd_flags)
{
	struct task_context *c = task_context(task);
	__u32 device = disk_device(disk);
	int zero = 0;

	slot->task = 0;
	slot->disk = (__u64)disk;
	slot->device = device;
	if (!c) {
		slot->owner = OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL;
		slot->row = io_row_find(slot->owner, device);
		slot->flags = SLOT_LIVE;
		goto out;
	}
	if (c->io_device != device || !c->io_row) {
		c->io_row = io_row_find(c->owner, device);
		c->io_device = device;
	}
	slot->owner = c->owner;
	slot->row = c->io_row;
	slot->fs_device = c->commit_device;
	slot->tid = c->commit_tid;
	if (c->owner >= OWNER_FIRST && !(task->flags & PF_KTHREAD || writes_journal(c))) {
		slot->journal_writers = journal_writers;
		slot->task_start = task->start_boottime;
		slot->task = (__u64)task;
	}
	slot->flags = SLOT_LIVE | submission_flags(c, task, cmd_flags);
out:
	barrier_var(zero); /* see complete() */
	return zero;
}

/* Gives a slot to a request. One that it still has can only have completed unseen. */
static __always_inline void slot_begin(struct request_slot *slot, __u64 rq, __u32 cmd_flags, __u32 bytes, enum scratch_user user)
{
	__u32 flags = slot->flags;

	if (flags & SLOT_LIVE && __sync_val_compare_and_swap(&slot->flags, flags, 0) == flags)
		charge_unseen(slot, flags, user);
	slot->request = rq;
	slot->cmd_flags = cmd_flags;
	slot->bytes = bytes;
	slot->done = 0;
	if (is_request_traced()) {
		slot->number = request_number();
		slot->thread = bpf_get_current_pid_tgid();
	}
}

static __always_inline int started(struct request *rq, enum scratch_user user)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct request_slot *slot = request_slot(rq, true);
	struct gendisk *disk = rq->q->disk;

	if (!disk)
		return 0; /* a queue of commands alone, such as NVMe's for its administration */
	if (!slot) {
		/* Once a request: before 6.5 when it is issued, which every one is. */
		if (user == (has_io_start() ? SCRATCH_START : SCRATCH_START_AGAIN))
			lose(LOSS_REQUEST_SLOTS_FULL);
		return 0;
	}
	if (programs_are_preempted()) {
		if (is_started(slot, (__u64)rq, rq->start_time_ns))
			return 0;
		slot->started = rq->start_time_ns;
	}
	slot_begin(slot, (__u64)rq, rq->cmd_flags, rq->__data_len, user);
	if (is_traced(TRACE_IO_QUEUE)) {
		struct io_request r = { .op = op_of(rq->cmd_flags), .sector = rq->__sector, .bytes = rq->__data_len, .number = slot->number };

		trace_submission(&r, disk_device(disk));
	}
	slot->inode = written_inode(rq);
	if (slot->task != (__u64)task || slot->task_start != task->start_boottime || slot->disk != (__u64)disk ||
	    slot->journal_writers != journal_writers)
		return start_of_another(slot, task, disk, rq->cmd_flags);
	slot->flags = SLOT_LIVE;
	return 0;
}

TP_BTF_TWICE("block_io_start", request_start, started(rq, again ? SCRATCH_START_AGAIN : SCRATCH_START), struct request *rq)

/* Keeps who submits a bio, and why, until its request or it itself is seen again. */
static __always_inline int keep_submitter(struct bio *bio, __u64 start, __u32 number)
{
	struct bio_owner own = {
		.owner = OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL, .start = start, .number = number, .thread = bpf_get_current_pid_tgid()
	};
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_context *c = task_context(task);

	if (c) {
		own.owner = c->owner;
		own.flags = submission_flags(c, task, bio->bi_opf);
		own.fs_device = c->commit_device;
		own.tid = c->commit_tid;
	}
	return bio_keep_owner(as_number(bio), &own, false);
}

/* ---- start, before 6.5: when a request is inserted or issued, whichever comes first ---- */

#define FLUSHES (1U << bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH) | \
		 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_FUA))

/* A request that flushes too is issued by a worker (block/blk-flush.c): its submitter is kept by its bio until then. */
SEC("tp_btf/block_getrq")
int BPF_PROG(request_allocated, struct bio *bio)
{
	return bio->bi_opf & FLUSHES ? keep_submitter(bio, 0, 0) : 0;
}

/* Makes a request its kept submitter's. */
static __noinline int started_by(struct request_slot *slot, __u64 bio)
{
	struct bio_owner *own = bpf_map_lookup_elem(&bio_owners, &bio);
	int zero = 0;

	if (own) {
		slot->task = 0;
		slot->thread = own->thread;
		slot->owner = own->owner;
		slot->row = io_row_find(own->owner, slot->device);
		slot->fs_device = own->fs_device;
		slot->tid = own->tid;
		slot->flags = SLOT_LIVE | own->flags;
		bpf_map_delete_elem(&bio_owners, &bio);
	}
	barrier_var(zero); /* see complete() */
	return zero;
}

/* Starts a request that is not issued itself, because a flush is all it is about. */
static __noinline int started_unissued(struct request_slot *slot, __u64 at, __u32 device, enum scratch_user user)
{
	struct request *rq = (void *)at;
	int zero = 0;

	slot_begin(slot, at, BPF_CORE_READ(rq, cmd_flags), BPF_CORE_READ(rq, __data_len), user);
	slot->started = BPF_CORE_READ(rq, start_time_ns);
	slot->inode = 0;
	slot->task = 0;
	slot->device = device;
	slot->owner = OWNER_UNATTRIBUTED_BEFORE_ATTACH;
	slot->row = io_row_find(slot->owner, device);
	slot->flags = SLOT_LIVE;
	started_by(slot, (__u64)BPF_CORE_READ(rq, bio));
	if (is_traced(TRACE_IO_QUEUE)) {
		__u32 at_scratch = user;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &at_scratch); /* of the stack there is too little */

		if (s) {
			s->r.op = op_of(slot->cmd_flags);
			s->r.sector = BPF_CORE_READ(rq, __sector);
			s->r.bytes = slot->bytes;
			s->r.number = slot->number;
			s->r.thread = slot->thread;
			trace_request(TRACE_IO_QUEUE, &s->r, slot->owner, device);
		}
	}
	barrier_var(zero);
	return zero;
}

/* The request that the flush with a tag borrows it from: the first one that waits (blk_kick_flush()). */
static __always_inline __u64 flush_lender(struct request *flush)
{
	struct blk_flush_queue *fq = flush->mq_hctx->fq;
	__u32 running = BPF_CORE_READ_BITFIELD_PROBED(fq, flush_running_idx);
	struct list_head *list = (void *)fq + bpf_core_field_offset(struct blk_flush_queue, flush_queue) +
				 (running & 1) * bpf_core_type_size(struct list_head);

	return (__u64)BPF_CORE_READ(list, next) - bpf_core_field_offset(struct request___v64, flush.list);
}

static __always_inline int flush_issued(struct request *flush, enum scratch_user user)
{
	struct request_slot *slot = request_slot(flush, true);
	struct gendisk *disk = flush->q->disk;
	__u64 at = flush_lender(flush);
	struct request *rq = (void *)at;

	if (!slot || !disk || is_started(slot, at, BPF_CORE_READ(rq, start_time_ns)))
		return 0;
	return started_unissued(slot, at, disk_device(disk), user);
}

/* By the bio: a request loses its marks where the device has no use for them (blk_insert_flush()). */
static __always_inline bool flushes(struct request *rq)
{
	return rq->bio && rq->bio->bi_opf & FLUSHES;
}

static __always_inline int started_late(struct request *rq, enum scratch_user user)
{
	struct request_slot *slot;

	if ((rq->cmd_flags & REQ_OP_MASK) == REQ_OP_FLUSH)
		return flush_issued(rq, user);
	slot = request_slot(rq, false);
	if (slot && is_started(slot, (__u64)rq, rq->start_time_ns))
		return 0;
	started(rq, user);
	slot = request_slot(rq, false);
	if (!slot)
		return 0;
	slot->started = rq->start_time_ns;
	return flushes(rq) ? started_by(slot, (__u64)rq->bio) : 0;
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(request_insert, struct request *rq)
{
	return started_late(rq, SCRATCH_START);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(request_issue, struct request *rq)
{
	return started_late(rq, SCRATCH_START_AGAIN);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(request_issue_traced, struct request *rq)
{
	struct request_slot *slot = request_slot(rq, false);

	return slot ? trace_slot(TRACE_IO_ISSUE, slot, rq) : 0;
}

/* ---- completion ---- */

/* Without a start, the kernel keeps no times of this request. A function of its own: of the stack there is too little in complete() on 6.1. */
checked_once int note_request(struct io_request *r, __u32 row, __u32 op, __u64 start, __u64 issued)
{
	if (!r || (!(keep_worst && start) && !is_request_traced()))
		return 0;
	r->at = bpf_ktime_get_ns();
	r->row = row;
	r->op = op;
	if (!start || issued < start)
		issued = start;
	r->queue_ns = issued - start;
	r->device_ns = start ? r->at - issued : 0;
	if (keep_worst && start)
		io_worst_add(r);
	if (is_request_traced())
		trace_completion(r);
	return 0;
}

static __always_inline void count_latency(struct io_row *row, enum io_op op, __u64 start, __u64 issued)
{
	struct io_latency *l;
	__u64 now;

	if (!start) {
		lose(LOSS_UNTIMED_REQUESTS);
		return;
	}
	now = bpf_ktime_get_ns();
	l = &row->latency[op];
	__sync_fetch_and_add(&l->sum, now - start);
	max_add(&l->max, now - start);
	if (issued == start) {
		hist_add(&l->unqueued, now - start);
		return;
	}
	hist_add(&l->total, now - start);
	if (issued > start) {
		hist_add(&l->queue, issued - start);
		hist_add(&l->device, now - issued);
	}
}

static __always_inline void count_operation(__u32 at, enum io_op op, __u64 start, __u64 issued)
{
	struct io_row *row = bpf_map_lookup_elem(&io_rows, &at);

	if (!row || op >= IO_OPS)
		return;
	__sync_fetch_and_add(&row->ops[op], 1);
	if (op <= IO_WRITE)
		count_latency(row, op, start, issued);
}

static __noinline int complete(struct request *rq, struct request_slot *slot, __u32 bytes)
{
	struct scratch *s;
	__u32 cmd_flags = rq->cmd_flags, rq_flags = rq->rq_flags, op = cmd_flags & REQ_OP_MASK;
	struct bio *bio = rq->bio;
	struct completion *c;
	bool last = bytes >= rq->__data_len, sequence = rq_in_flush_sequence(rq_flags);
	__u32 row;
	int zero = 0;

	/* One that shared its flush with an earlier one was never issued. */
	if (!has_io_start() && slot && flushes(rq) && !is_started(slot, (__u64)rq, rq->start_time_ns))
		started_unissued(slot, (__u64)rq, disk_device(rq->q->disk), SCRATCH_REQUEST_COMPLETE);
	s = scratch(SCRATCH_REQUEST_COMPLETE);
	if (!s)
		goto out;
	c = &s->c;
	c->left = bytes;
	c->op = op_of(cmd_flags);
	c->to.device = disk_device(rq->q->disk);
	if (is_request_traced() && slot && slot->flags & SLOT_LIVE) {
		s->r.number = slot->number;
		s->r.thread = slot->thread;
	}
	/* Passthrough is accounted only where queue/iostats_passthrough says so. */
	if ((op == REQ_OP_DRV_IN || op == REQ_OP_DRV_OUT) && !rq_keeps_stats(rq_flags))
		goto end;
	if (slot && slot->flags & SLOT_LIVE) {
		c->row = slot->row;
		c->flags = slot->flags;
		c->fs_device = slot->fs_device;
		c->tid = slot->tid;
	} else {
		c->row = io_row_find(slot ? OWNER_UNATTRIBUTED_BEFORE_ATTACH : OWNER_UNATTRIBUTED_REQUEST_SLOTS_FULL, c->to.device);
	}
	/* blk-flush.c: a flush borrows the tag, and so the owner, of the first request that waits for it. */
	if (c->op == IO_FLUSH) {
		row = submitter_row(c);
		count_operation(row, IO_FLUSH, 0, 0);
		s->r.via = VIA_FLUSH;
		s->r.number = 0;
		note_request(&s->r, row, IO_FLUSH, rq->start_time_ns, rq->io_start_time_ns);
		goto out;
	}
	if (bio && bytes) {
		if (!bio->bi_next && !(c->flags & SLOT_PARTIAL)) {
			struct bio_view *v = &s->v;

			v->bio = (__u64)bio;
			v->bdev = (__u64)bio->bi_bdev;
			v->vec = (__u64)bio->bi_io_vec;
			v->private = (__u64)bio->bi_private;
			v->sector = bio->bi_iter.bi_sector;
			v->opf = bio->bi_opf;
			v->idx = bio->bi_iter.bi_idx;
			v->done = bio->bi_iter.bi_bvec_done;
			v->bytes = bytes;
			v->page = bvec_page(*(volatile __u64 *)&v->vec, v->idx); /* read back, it is a number */
			c->left = 0;
			c->alone = true;
			charge_bio(s);
		} else {
			c->bio = (__u64)bio;
			bpf_loop(MOST_PIECES, charge_next_bio, &s, 0);
			if (slot)
				slot->flags |= SLOT_PARTIAL;
		}
	}
	c->alone = true;
	if (c->left)
		charge_submitter(c, 0, c->op == IO_READ ? VIA_READ_DIRECT : c->op == IO_DISCARD ? VIA_DISCARD : VIA_WRITE_DIRECT,
				 c->left);
	if (c->to.owners)
		row = largest_owner(&c->to);
	else if (slot && c->flags & SLOT_CHARGED) {
		row = c->row;
		c->to.via = slot->via;
	} else
		row = submitter_row(c);
	/*
	 * A request of a flush sequence completes once with its data, and again with none
	 * when the sequence ends: only then is it counted (blk_account_io_done()).
	 */
	if (slot)
		slot->done += bytes;
	if (last && !sequence) {
		count_operation(row, c->op, rq->start_time_ns, rq->io_start_time_ns);
		s->r.bytes = slot ? slot->done : bytes;
		s->r.via = c->to.via;
		s->r.sector = rq->__sector;
		note_request(&s->r, row, c->op, rq->start_time_ns, rq->io_start_time_ns);
	} else if (slot && c->to.owners) {
		slot->row = row;
		slot->via = c->to.via;
		slot->flags |= SLOT_CHARGED;
		slot->task = 0;
	}
end:
	if (slot && last && !sequence)
		slot->flags = 0;
out:
	/* A constant would not be returned at all, and the verifier object to what is left in its place. */
	barrier_var(zero);
	return zero;
}

/* The bit of bio.bi_flags that says so, BIO_PAGE_PINNED; 32: not on this kernel. User space finds it, its enum has no name. */
const volatile __u32 bio_page_pinned = 32;

/*
 * The common case, made short: a whole request of one bio whose pages are an
 * application's own memory, so it is its submitter's. Pages that direct I/O has pinned
 * are (bio_iov_iter_get_pages(), block/bio.c), and need no look.
 */
static __always_inline bool is_plain(struct request *rq, struct request_slot *slot, __u32 bytes)
{
	/* Neither operations beyond read and write, nor what can need a flush sequence. */
	const __u32 special = REQ_OP_MASK - 1 | 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_META) |
			      1U << bpf_core_enum_value(enum req_flag_bits, __REQ_SWAP) |
			      1U << bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH) |
			      1U << bpf_core_enum_value(enum req_flag_bits, __REQ_FUA);
	struct bio *bio = rq->bio;

	if (keep_files || keep_worst || !slot || slot->flags != SLOT_LIVE || rq->cmd_flags & special || !bytes || bytes != rq->__data_len)
		return false;
	if (!bio || bio->bi_next)
		return false;
	if (rq->cmd_flags & 1 && bio->bi_bdev->bd_holder && is_unwritten((__u64)bio->bi_private))
		return false;
	if (bio_page_pinned < 32 && bio->bi_flags & 1U << bio_page_pinned)
		return true;
	return !bio->bi_iter.bi_idx && is_private(bio->bi_io_vec->bv_page);
}

/* A function of its own: what is called by complete() leaves request_complete() 32 bytes of the stack, and no more. */
static __noinline int complete_plain(struct request *rq, struct request_slot *slot, __u32 bytes)
{
	bool write = rq->cmd_flags & 1;
	struct io_request r = {
		.sector = rq->__sector, .bytes = bytes, .via = write ? VIA_WRITE_DIRECT : VIA_READ_DIRECT,
		.number = slot->number, .thread = slot->thread
	};
	__u32 at = slot->row;
	struct io_row *row = bpf_map_lookup_elem(&io_rows, &at);

	slot->flags = 0;
	if (!row)
		return 0;
	__sync_fetch_and_add(&row->bytes[write ? VIA_WRITE_DIRECT : VIA_READ_DIRECT], bytes);
	__sync_fetch_and_add(&row->ops[write], 1);
	count_latency(row, write, rq->start_time_ns, rq->io_start_time_ns);
	return is_request_traced() ? note_request(&r, at, write, rq->start_time_ns, rq->io_start_time_ns) : 0;
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(request_complete, struct request *rq, int error, unsigned int bytes)
{
	struct request_slot *slot = request_slot(rq, false);

	return is_plain(rq, slot, bytes) ? complete_plain(rq, slot, bytes) : complete(rq, slot, bytes);
}

/* ---- devices without requests: zram, dm, md ---- */

/* zram accounts reads and writes alone (zram_submit_bio(), drivers/block/zram/zram_drv.c). */
static __always_inline bool is_zram(struct gendisk *disk)
{
	return disk->disk_name[0] == 'z' && disk->disk_name[1] == 'r' && disk->disk_name[2] == 'a' && disk->disk_name[3] == 'm';
}

/* md accounts no flush without data (md_flush_request(), drivers/md/md.c). */
static __always_inline bool is_md(struct gendisk *disk)
{
	return disk->disk_name[0] == 'm' && disk->disk_name[1] == 'd' && (disk->disk_name[2] == '_' || (disk->disk_name[2] >= '0' && disk->disk_name[2] <= '9'));
}

static __always_inline bool takes_bios(struct bio *bio)
{
	struct gendisk *disk = bio->bi_bdev->bd_disk;
	__u32 op = bio->bi_opf & REQ_OP_MASK;

	return disk->fops->submit_bio && !(op > REQ_OP_WRITE && is_zram(disk)) &&
	       !(op == REQ_OP_WRITE && !bio->bi_iter.bi_size && is_md(disk));
}

/* Attached only while such a device exists: it costs every bio of every device. */
SEC("tp_btf/block_bio_queue")
int BPF_PROG(bio_queue, struct bio *bio)
{
	struct io_request r = { .op = op_of(bio->bi_opf), .sector = bio->bi_iter.bi_sector, .bytes = bio->bi_iter.bi_size };

	if (!takes_bios(bio))
		return 0;
	r.number = request_number();
	if (is_traced(TRACE_IO_QUEUE) && r.op != IO_FLUSH)
		trace_submission(&r, disk_device(bio->bi_bdev->bd_disk));
	return keep_submitter(bio, bpf_ktime_get_ns(), r.number);
}

/* Fires for these devices alone; they account whole bios when they end (bio_end_io_acct(), block/blk-core.c). */
SEC("tp_btf/block_bio_complete")
int BPF_PROG(bio_complete, struct request_queue *q, struct bio *bio)
{
	__u32 owner = bio_owners_overflowed ? OWNER_UNATTRIBUTED_MERGED_BIOS_FULL : OWNER_UNATTRIBUTED_BEFORE_ATTACH;
	__u64 key = as_number(bio), start = 0;
	struct bio_owner *own;
	struct completion *c;
	struct bio_view *v;
	struct scratch *s;
	__u32 row;

	if (!takes_bios(bio))
		return 0;
	s = scratch(SCRATCH_BIO_COMPLETE);
	if (!s)
		return 0;
	c = &s->c;
	c->op = op_of(bio->bi_opf);
	c->alone = true;
	c->to.device = disk_device(bio->bi_bdev->bd_disk);
	v = &s->v;
	v->bio = key;
	v->bdev = (__u64)bio->bi_bdev;
	v->vec = (__u64)bio->bi_io_vec;
	v->private = (__u64)bio->bi_private;
	v->sector = bio->bi_iter.bi_sector;
	v->opf = bio->bi_opf;
	v->idx = bio->bi_iter.bi_idx;
	v->done = bio->bi_iter.bi_bvec_done;
	v->bytes = bio->bi_iter.bi_size;
	own = bpf_map_lookup_elem(&bio_owners, &key);
	if (own) {
		start = own->start;
		owner = own->owner;
		c->flags = own->flags;
		c->fs_device = own->fs_device;
		c->tid = own->tid;
		s->r.number = own->number;
		s->r.thread = own->thread;
		bpf_map_delete_elem(&bio_owners, &key);
	}
	v->page = bvec_page(*(volatile __u64 *)&v->vec, v->idx); /* read back, it is a number */
	c->row = io_row_find(owner, c->to.device);
	s->r.sector = v->sector;
	s->r.bytes = v->bytes;
	charge_bio(s);
	if (c->op == IO_FLUSH)
		return 0;
	row = c->to.owners ? largest_owner(&c->to) : c->row;
	s->r.via = c->to.via;
	count_operation(row, c->op, start, start);
	note_request(&s->r, row, c->op, start, start);
	return 0;
}

/* ---- who dirtied, whose journal ---- */

SEC("tp_btf/writeback_dirty_folio")
int BPF_PROG(folio_dirtied, struct folio *folio, struct address_space *mapping)
{
	if (mapping)
		dirty(folio, mapping->host);
	return 0;
}

/*
 * Whose updates a handle holds: within the writing out of an inode, of whoever
 * dirtied it, and so for what a thread of the kernel updates; else the thread's own.
 */
static __always_inline __u32 handle_owner(struct task_context *c)
{
	return c->inode_owner ? c->inode_owner : c->owner;
}

SEC("tp_btf/jbd2_handle_start")
int BPF_PROG(handle_start, __u32 device, __u32 tid)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	c->handle_device = device;
	c->handle_tid = tid;
	return 0;
}

/* jbd2__journal_restart() leaves a transaction without a report. */
SEC("tp_btf/jbd2_handle_restart")
int BPF_PROG(handle_restart, __u32 device, __u32 tid)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	if (c->handle_device == device && c->handle_tid)
		share_add(device, c->handle_tid, handle_owner(c), 0, 1);
	c->handle_device = device;
	c->handle_tid = tid;
	return 0;
}

SEC("tp_btf/jbd2_handle_stats")
int BPF_PROG(handle_stats, __u32 device, __u32 tid, unsigned int type, unsigned int line, int interval, int sync,
	     int requested, int dirtied)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	if (dirtied)
		share_add(device, tid, handle_owner(c), dirtied, 0);
	/* What the next handle is about, its own update will say. */
	if (!(c->marks & TASK_WRITEPAGES))
		c->inode_owner = 0;
	return 0;
}

SEC("tp_btf/jbd2_start_commit")
int BPF_PROG(start_commit, journal_t *journal, transaction_t *transaction)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	__sync_fetch_and_add(&journal_writers, 1);
	c->commit_device = journal->j_fs_dev->bd_dev;
	c->commit_tid = transaction->t_tid;
	return 0;
}

SEC("tp_btf/jbd2_end_commit")
int BPF_PROG(end_commit, journal_t *journal, transaction_t *transaction)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (c)
		c->commit_tid = 0;
	return 0;
}

SEC("tp_btf/jbd2_run_stats")
int BPF_PROG(run_stats, __u32 device, __u32 tid, struct transaction_run_stats_s *stats)
{
	struct transaction_key key = { device, tid };
	struct transaction *t = bpf_map_lookup_elem(&transactions, &key);

	if (t)
		t->rs_blocks = stats->rs_blocks;
	return 0;
}

/* All its buffers are in place: forget a transaction of one owner here, leave another one for user space to read. */
SEC("tp_btf/jbd2_drop_transaction")
int BPF_PROG(drop_transaction, journal_t *journal, transaction_t *transaction)
{
	struct transaction_key key = { journal->j_fs_dev->bd_dev, transaction->t_tid };
	struct transaction *t = bpf_map_lookup_elem(&transactions, &key);
	struct share_key share = { key.device, key.tid };

	if (!t)
		return 0;
	t->dropped = 1;
	if (t->several)
		return 0;
	share.owner = t->owner;
	bpf_map_delete_elem(&shares, &share);
	bpf_map_delete_elem(&transactions, &key);
	return 0;
}

SEC("tp_btf/jbd2_write_superblock")
int BPF_PROG(write_superblock)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	__sync_fetch_and_add(&journal_writers, 1);
	c->marks |= TASK_SUPERBLOCK;
	return 0;
}

SEC("tp_btf/ext4_fc_commit_start")
int BPF_PROG(fast_commit_start)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	__sync_fetch_and_add(&journal_writers, 1);
	c->marks |= TASK_FAST_COMMIT;
	return 0;
}

SEC("tp_btf/ext4_fc_commit_stop")
int BPF_PROG(fast_commit_stop)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (c)
		c->marks &= ~TASK_FAST_COMMIT;
	return 0;
}

SEC("tp_btf/ext4_writepages")
int BPF_PROG(writepages, struct inode *inode)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	c->inode_owner = dirty_inode_owner(inode);
	c->marks |= TASK_WRITEPAGES;
	return 0;
}

SEC("tp_btf/ext4_writepages_result")
int BPF_PROG(writepages_result, struct inode *inode)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	if (!c)
		return 0;
	c->inode_owner = 0;
	c->marks &= ~TASK_WRITEPAGES;
	return 0;
}

/* A worker that completes or converts extents updates one inode after another, outside of any writepages. */
SEC("tp_btf/ext4_mark_inode_dirty")
int BPF_PROG(mark_inode_dirty, struct inode *inode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_context *c;
	__u32 owner;

	if (!(task->flags & PF_KTHREAD))
		return 0;
	c = task_context(task);
	owner = dirty_inode_owner(inode);
	if (c && owner)
		c->inode_owner = owner;
	return 0;
}

/* ---- threads asleep for I/O ---- */

/* Arguments of balance_dirty_pages: 12 up to 6.12, 8 since; the pause is the last but one. User space counts them. */
const volatile __u32 balance_dirty_pages_arguments = 8;

SEC("tp_btf/balance_dirty_pages")
int dirty_throttled(__u64 *ctx)
{
	struct task_context *c;
	__s64 pause;

	/* The barriers keep each access at a constant offset, as the verifier wants it. */
	if (balance_dirty_pages_arguments == 8) {
		pause = ctx[6];
		barrier_var(pause);
	} else {
		pause = ctx[10];
		barrier_var(pause);
	}
	if (pause <= 0)
		return 0;
	if (is_traced(TRACE_IO_THROTTLE) && is_task_wanted(bpf_get_current_task_btf())) {
		struct trace_record r = { .kind = TRACE_IO_THROTTLE, .b = bpf_get_current_pid_tgid(), .more = { pause } };

		trace_interruptible(&r, TRACE_SHORT + 8);
	}
	c = task_context(bpf_get_current_task_btf());
	if (c)
		c->throttled = 1;
	return 0;
}

/*
 * One hook for both ends of a sleep: at its switch-in, a task's
 * sched_info.last_queued is still the moment when it was woken
 * (sched_info_switch() runs after the tracepoint, kernel/sched/stats.h).
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(task_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	bool out = BPF_CORE_READ_BITFIELD(prev, in_iowait), in = BPF_CORE_READ_BITFIELD(next, in_iowait);
	struct task_context *c;
	__u64 clock, woken;

	if (!out && !in)
		return 0;
	clock = next->se.cfs_rq->rq->clock;
	if (out && !preempt && prev->__state) {
		c = task_context(prev);
		if (c)
			c->sleeping_since = clock;
	}
	if (!in)
		return 0;
	c = bpf_task_storage_get(&tasks, next, 0, 0);
	if (!c || !c->sleeping_since)
		return 0;
	woken = next->sched_info.last_queued;
	if (!woken)
		woken = clock;
	if (woken > c->sleeping_since) {
		__u32 owner = c->owner;
		struct io_sleep *t = bpf_map_lookup_elem(&io_times, &owner);

		if (t)
			__sync_fetch_and_add(c->throttled ? &t->throttled_ns : &t->blocked_ns, woken - c->sleeping_since);
	}
	c->sleeping_since = 0;
	c->throttled = 0;
	return 0;
}

/* ---- called by user space ---- */

/* What still refers to an owner keeps its number from being given to another one. */
static __always_inline void seen(__u32 owner, __u32 sweep)
{
	__u32 *last = bpf_map_lookup_elem(&owner_seen, &owner);

	if (last)
		*last = sweep;
}

struct sweep {
	__u32 number;
	__u32 left; /* entries of the tables of what is dirty */
};

/*
 * An inode that is clean or gone needs no entry. It goes at the second sweep
 * that finds it so, because it can be dirtied while it is looked at.
 */
static long sweep_inode(void *map, const __u64 *key, struct dirty_inode *e, struct sweep *s)
{
	struct inode *inode = (void *)*key;

	seen(e->owner, s->number);
	if (BPF_CORE_READ(inode, i_ino) == e->ino && BPF_CORE_READ(inode, i_generation) == e->generation &&
	    BPF_CORE_READ(inode, i_mapping, i_pages.xa_flags) & XA_DIRTY_OR_WRITEBACK) {
		e->doubt = 0;
		s->left++;
		return 0;
	}
	if (!e->doubt)
		e->doubt = 1;
	else
		bpf_map_delete_elem(&dirty_inodes, key);
	return 0;
}

static long sweep_folio(void *map, const __u64 *key, struct dirty_folio *f, struct sweep *s)
{
	__u64 inode = f->inode, folio = *key, flags = folio_flags(folio);
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &inode);
	struct folio *at = (void *)folio;

	if (!e || e->cycle != f->cycle || !(page_flag(flags, PG_dirty) || page_flag(flags, PG_writeback)) ||
	    (__u64)BPF_CORE_READ(at, mapping, host) != inode) {
		bpf_map_delete_elem(&dirty_folios, key);
		return 0;
	}
	seen(f->owner, s->number);
	seen(f->writing, s->number);
	s->left++;
	return 0;
}

static long sweep_transaction(void *map, const struct transaction_key *key, struct transaction *t, struct sweep *s)
{
	seen(t->owner, s->number);
	seen(t->largest, s->number);
	return 0;
}

static long sweep_share(void *map, const struct share_key *key, struct share *share, struct sweep *s)
{
	seen(key->owner, s->number);
	return 0;
}

static long settle_slot(void *map, const __u32 *key, struct request_slot *slot, void *ctx)
{
	struct request *rq = (void *)slot->request;
	__u32 flags = slot->flags;

	if (*key >= request_slot_pool.next)
		return 1;
	/* A request whose references are gone is free (blk_mq_free_request(), block/blk-mq.c). */
	if (flags & SLOT_LIVE && !BPF_CORE_READ(rq, ref.counter) &&
	    __sync_val_compare_and_swap(&slot->flags, flags, 0) == flags)
		charge_unseen(slot, flags, SCRATCH_SETTLE);
	return 0;
}

/*
 * Programs that user space runs (BPF_PROG_TEST_RUN). What can make a row needs a queue, which programs that
 * may sleep, as those of SEC("syscall"), cannot use before 6.2.
 */

/* Before a reading: charges the requests that completed unseen and whose tag was not used again. */
SEC("raw_tp")
int settle(void *ctx)
{
	bpf_for_each_map_elem(&request_slots, settle_slot, NULL, 0);
	return 0;
}

static long sweep_slot(void *map, const __u32 *key, struct request_slot *slot, struct sweep *s)
{
	struct io_row *row;
	__u32 at = slot->row;

	if (*key >= request_slot_pool.next)
		return 1;
	if (!(slot->flags & SLOT_LIVE))
		return 0;
	seen(slot->owner, s->number);
	row = bpf_map_lookup_elem(&io_rows, &at);
	if (row)
		seen(row->owner, s->number);
	return 0;
}

static long sweep_bio(void *map, const __u64 *key, struct bio_owner *b, struct sweep *s)
{
	seen(b->owner, s->number);
	/* Left behind by a completion that was not seen. No request takes this long. */
	if (!b->sweep)
		b->sweep = s->number;
	else if (s->number - b->sweep > BIO_SWEEPS)
		bpf_map_delete_elem(&bio_owners, key);
	return 0;
}

static __u32 last_sweep; /* its number */

/* In the direction in which owners travel, so that none slips past. It returns how many entries are left. */
SEC("syscall")
int sweep_io(struct sweep *ctx)
{
	struct sweep s = { .number = ctx->number };
	__u32 passed = s.number - last_sweep;

	bpf_for_each_map_elem(&dirty_folios, sweep_folio, &s, 0);
	bpf_for_each_map_elem(&dirty_inodes, sweep_inode, &s, 0);
	bpf_for_each_map_elem(&shares, sweep_share, &s, 0);
	bpf_for_each_map_elem(&transactions, sweep_transaction, &s, 0);
	bpf_for_each_map_elem(&bio_owners, sweep_bio, &s, 0);
	bpf_for_each_map_elem(&request_slots, sweep_slot, &s, 0);
	bio_owners_overflowed -= passed < bio_owners_overflowed ? passed : bio_owners_overflowed;
	last_sweep = s.number;
	return s.left;
}

/* Makes the row that a device's bytes go to when there is no room for their owner's. */
SEC("raw_tp")
int add_device(struct bpf_raw_tracepoint_args *ctx)
{
	return io_row_find(OWNER_UNATTRIBUTED_ROW_TABLE_FULL, ctx->args[0]);
}
