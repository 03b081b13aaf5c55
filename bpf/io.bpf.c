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
 * Costs are measured by `make bench`.
 */
#include "lib/io.bpf.h"
#include "lib/jbd2.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* ---- requests in flight ---- */

#define QUEUES 1024
#define REQUEST_SLOTS 65536
#define MERGED_BIOS 16384

#define SLOT_LIVE 1U       /* between block_io_start and the last completion */
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
	__u32 journal_writers; /* then */
	__u32 zero;
};

/* Counts the threads that began to write a journal: what slots note of threads before that is void. */
volatile __u32 journal_writers;

/* Where the slots of a queue's tags are; indexed by request_queue.id, which the kernel keeps small and dense. */
struct queue_slots {
	__u64 queue; /* ids and addresses come back: another queue gets other slots */
	__u32 first;
	__u32 tags; /* per hardware queue */
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
 * The submitter of a bio that was merged into another one's request, or that
 * went to a device without requests.
 */
struct bio_owner {
	__u64 start; /* ns; 0 for a merged bio, whose request has it */
	__u32 owner;
	__u32 flags; /* SLOT_…; these and the transaction only where there are no requests */
	__u32 fs_device, tid;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MERGED_BIOS);
	__type(key, __u64); /* struct bio * */
	__type(value, struct bio_owner);
} bio_owners SEC(".maps");

/* Set for good once a merged bio's owner could not be kept: those without one may be its. */
volatile __u32 bio_owners_overflowed;

static __always_inline __u32 disk_device(struct gendisk *disk)
{
	return disk->major << 20 | disk->first_minor;
}

checked_once int queue_place(struct queue_slots *q, __u64 queue, __u32 tags, __u32 hardware_queues)
{
	__u32 first;

	if (!q)
		return 0;
	first = __sync_fetch_and_add(&request_slot_pool.next, tags * hardware_queues);
	if (first + tags * hardware_queues > request_slot_pool.size) {
		tags = 0; /* this queue's submitters cannot be kept */
		first = 0;
	}
	q->first = first;
	q->tags = tags;
	q->queue = queue;
	return 0;
}

/*
 * The slot of a request. With an I/O scheduler, the scheduler's tag stays with
 * the request all its life, and the driver's comes and goes.
 */
static __always_inline struct request_slot *request_slot(struct request *rq, bool make)
{
	int tag = rq->internal_tag >= 0 ? rq->internal_tag : rq->tag;
	struct request_queue *queue = rq->q;
	struct blk_mq_hw_ctx *hctx = rq->mq_hctx;
	__u32 id = queue->id, at;
	struct queue_slots *q = bpf_map_lookup_elem(&queues, &id);

	if (!q || tag < 0)
		return NULL;
	if (q->queue != (__u64)queue || (q->tags && (__u32)tag >= q->tags)) {
		__u32 tags;

		if (!make)
			return NULL;
		tags = hctx->tags->nr_tags;
		if (rq->internal_tag >= 0 && hctx->sched_tags->nr_tags > tags)
			tags = hctx->sched_tags->nr_tags;
		queue_place(q, as_number(queue), tags, queue->nr_hw_queues);
	}
	if ((__u32)tag >= q->tags)
		return NULL;
	at = q->first + hctx->queue_num * q->tags + tag;
	return bpf_map_lookup_elem(&request_slots, &at);
}

/* ---- merges: the other way for a bio to get into a request ---- */

/* Whether the pages of a bio tell its owner, so that its submitter need not be kept. */
static __always_inline bool is_writeback(__u32 opf, __u64 page)
{
	if ((opf & REQ_OP_MASK) != REQ_OP_WRITE || !page)
		return false;
	return page_flag(folio_flags(page_head(page)), PG_writeback);
}

checked_once int bio_keep_owner(__u64 bio, struct bio_owner *own)
{
	if (own && bpf_map_update_elem(&bio_owners, &bio, own, BPF_ANY)) {
		bio_owners_overflowed = 1;
		lose(LOSS_MERGED_BIOS_FULL);
	}
	return 0;
}

static __always_inline int bio_merged(struct bio *bio)
{
	struct bio_owner own = {};
	struct task_context *c;

	if (is_writeback(bio->bi_opf, (__u64)bio->bi_io_vec->bv_page))
		return 0;
	c = task_context(bpf_get_current_task_btf());
	/* The blocks of a commit are merged among themselves, and theirs is the request's owner. */
	if (!c || c->commit_tid)
		return 0;
	own.owner = c->owner;
	return bio_keep_owner(as_number(bio), &own);
}

SEC("tp_btf/block_bio_backmerge")
int BPF_PROG(bio_backmerge, struct bio *bio)
{
	return bio_merged(bio);
}

/* The bio goes in front of the one whose submitter the slot has: that one is no longer first, and has no entry. */
SEC("tp_btf/block_bio_frontmerge")
int BPF_PROG(bio_frontmerge, struct bio *bio)
{
	return bio_merged(bio);
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
		bio_keep_owner(m->bio, &own);
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

	if (!slot || !(slot->flags & SLOT_LIVE))
		return 0;
	m.owner = slot->owner;
	slot->flags = 0;
	bpf_loop(1024, keep_next_bio, &m, 0);
	return 0;
}

/* ---- charging ---- */

#define MOST_OWNERS 6 /* of one request: whose the operation is, is chosen among these */
#define MOST_PIECES 8192

struct piece {
	__u32 row;
	__u32 bytes;
};

static __always_inline struct bio_vec *bvec_at(__u64 vec, __u32 idx)
{
	return (void *)(vec + idx * bpf_core_type_size(struct bio_vec));
}

/* Its page. A function of numbers only: CO-RE would look for our own structs' fields in the kernel. */
static __always_inline __u64 bvec_page(__u64 vec, __u32 idx)
{
	struct bio_vec *bv = bvec_at(vec, idx);

	return (__u64)BPF_CORE_READ(bv, bv_page);
}

/* Whose bytes there are in a request, as far as MOST_OWNERS reaches. */
struct pieces {
	__u32 owners;
	__u32 last; /* the piece that was added to last */
	__u32 device;
	__u32 via; /* of the bytes added last */
	struct piece piece[MOST_OWNERS];
};

/* One completion while its bios are walked. */
struct completion {
	__u64 bio;
	__u32 left; /* bytes not yet charged */
	__u32 op;   /* enum io_op */
	__u32 row, flags; /* the slot's */
	__u32 fs_device, tid;
	__u32 alone; /* the only bio of its request, whose submitter the slot has */
	__u32 zero;
	struct pieces to;
};

/* A bio, or the rest of it, as it is charged. */
struct bio_view {
	__u64 bio, vec, private, bdev;
	__u64 page;
	__u32 opf, idx, done;
	__u32 bytes;
	__u64 sector;
};

static __always_inline void note_owner(struct pieces *to, __u32 row, __u32 bytes)
{
	for (int i = 0; i < MOST_OWNERS; i++) {
		if (i == to->owners) {
			to->piece[i].row = row;
			to->piece[i].bytes = bytes;
			to->owners = i + 1;
			to->last = i;
			return;
		}
		if (to->piece[i].row == row) {
			to->piece[i].bytes += bytes;
			to->last = i;
			return;
		}
	}
}

static __always_inline int count_piece(struct pieces *to, __u32 row, __u32 via, __u32 bytes)
{
	if (!to || via >= VIA_MAX)
		return 0;
	io_count_bytes(row, via, bytes);
	note_owner(to, row, bytes);
	to->via = via;
	return 0;
}

checked_once int charge_row(struct pieces *to, __u32 row, __u32 via, __u32 bytes)
{
	return count_piece(to, row, via, bytes);
}

checked_once int charge(struct pieces *to, __u32 owner, __u32 via, __u32 bytes)
{
	return to ? count_piece(to, io_row_find(owner, to->device), via, bytes) : 0;
}

static __always_inline int charge_transaction(struct completion *c, __u32 fs_device, __u32 tid, __u32 via, __u32 bytes)
{
	__u32 owner;
	bool kept;

	if (!c)
		return 0;
	owner = transaction_write(fs_device, tid, c->to.device,
				  via == VIA_WRITE_JOURNAL ? TRANSACTION_JOURNAL : TRANSACTION_CHECKPOINT, bytes, &kept);
	if (!kept)
		return charge(&c->to, owner, via, bytes);
	note_owner(&c->to, io_row_find(owner, c->to.device), bytes);
	c->to.via = via;
	return 0;
}

/* Charges to the submitter: the slot's, or the bio's own if it came by a merge. */
checked_once int charge_submitter(struct completion *c, __u64 bio, __u32 via, __u32 bytes)
{
	struct bio_owner *own;

	if (!c)
		return 0;
	if (!c->alone) {
		own = bpf_map_lookup_elem(&bio_owners, &bio);
		if (own)
			return charge(&c->to, own->owner, via, bytes);
		if (bio_owners_overflowed && !(c->flags & SLOT_JOURNAL))
			return charge(&c->to, OWNER_UNATTRIBUTED_MERGED_BIOS_FULL, via, bytes);
	}
	if (c->flags & SLOT_SUPERBLOCK)
		return charge(&c->to, OWNER_KERNEL_SUPERBLOCK, VIA_WRITE_JOURNAL, bytes);
	if (c->flags & SLOT_JOURNAL)
		return charge_transaction(c, c->fs_device, c->tid, VIA_WRITE_JOURNAL, bytes);
	if (c->flags & SLOT_FAST)
		via = VIA_WRITE_JOURNAL;
	return charge_row(&c->to, c->row, via, bytes);
}

const volatile __u32 page_shift = 12;

/* A bio of an inode that several owners dirtied, while its folios are walked. */
struct folio_walk {
	__u64 vec, inode;
	__u32 idx, done, left;
	__u32 via;
	struct pieces to;
};

/* One folio, or the part of it that is in this bio. */
static long charge_folio(__u32 i, void *ctx)
{
	struct folio_walk *w = ctx;
	__u64 vec_at = w->vec;
	__u32 idx = w->idx;
	struct bio_vec *vec = bvec_at(vec_at, idx);
	__u64 inode = w->inode, page = 0, head, flags, at;
	__u32 len = 0, offset = 0, take, rest, row;
	struct dirty_inode *e;

	if (!w->left)
		return 1;
	e = bpf_map_lookup_elem(&dirty_inodes, &inode);
	bpf_core_read(&page, sizeof(page), &vec->bv_page);
	bpf_core_read(&len, sizeof(len), &vec->bv_len);
	bpf_core_read(&offset, sizeof(offset), &vec->bv_offset);
	if (!e || len <= w->done)
		return 1;
	at = (__u64)offset + w->done;
	page += (at >> page_shift) * bpf_core_type_size(struct page);
	head = page_head(page);
	flags = folio_flags(head);
	at = (((page - head) / bpf_core_type_size(struct page)) << page_shift) + (at & ((1U << page_shift) - 1));
	rest = (folio_pages(head, flags) << page_shift) - at;
	take = len - w->done;
	if (take > rest)
		take = rest;
	if (take > w->left)
		take = w->left;
	row = io_row_find(dirty_folio_owner(e, inode, head, flags), w->to.device);
	charge_row(&w->to, row, w->via, take);
	if (keep_files)
		io_file_add(row, inode, true, take);
	w->left -= take;
	w->done += take;
	if (w->done >= len) {
		w->done = 0;
		w->idx++;
	}
	return 0;
}

static __always_inline int charge_shared(struct pieces *to, struct bio_view *v, __u64 inode, __u32 via)
{
	struct folio_walk w = { .inode = inode, .via = via };

	if (!to || !v)
		return 0;
	w.vec = v->vec;
	w.idx = v->idx;
	w.done = v->done;
	w.left = v->bytes;
	w.to = *to;
	bpf_loop(MOST_PIECES, charge_folio, &w, 0);
	if (w.left) {
		lose(LOSS_REQUEST_TOO_LONG);
		charge(&w.to, OWNER_UNATTRIBUTED_REQUEST_TOO_LONG, via, w.left);
	}
	*to = w.to;
	return 0;
}

/* Charges pages to whoever dirtied them. */
checked_once int charge_dirtier(struct pieces *to, struct bio_view *v, __u64 inode, __u32 via)
{
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &inode);
	__u32 row;

	if (!to || !v)
		return 0;
	if (!e)
		return charge(to, dirty_inodes_overflowed ? OWNER_UNATTRIBUTED_DIRTY_INODES_FULL : OWNER_UNATTRIBUTED_BEFORE_ATTACH,
			      via, v->bytes);
	if (e->shared)
		return charge_shared(to, v, inode, via);
	row = e->row;
	if (e->row_device != to->device || !row) {
		row = io_row_find(e->owner, to->device);
		e->row = row;
		e->row_device = to->device;
	}
	if (keep_files)
		io_file_add(row, inode, true, v->bytes);
	return charge_row(to, row, via, v->bytes);
}

/* The file system on a device, by its magic number; 0 if it has none or does not say. */
checked_once __u64 file_system_on(__u64 bdev)
{
	struct block_device *dev = (void *)bdev;
	struct super_block *sb = BPF_CORE_READ(dev, bd_holder); /* the super block since 6.5, its type before */

	return sb ? BPF_CORE_READ(sb, s_magic) : 0;
}

static __always_inline __u32 block_device_number(__u64 bdev)
{
	struct block_device *dev = (void *)bdev;

	return BPF_CORE_READ(dev, bd_dev);
}

/* Metadata that is in no page of an inode's. */
static __always_inline __u32 metadata_owner(__u64 bdev)
{
	__u64 magic = file_system_on(bdev);

	if (magic == XFS_SUPER_MAGIC)
		return OWNER_KERNEL_XFS_METADATA;
	if (magic == BTRFS_SUPER_MAGIC)
		return OWNER_KERNEL_BTRFS_METADATA;
	return OWNER_KERNEL_METADATA;
}

/*
 * A write of a block device's own page cache: metadata, or a device written
 * like a file.
 *
 * A checkpoint write carries the buffer, whose journal head names the
 * transaction (fs/jbd2/checkpoint.c); it stays linked until the write has ended.
 */
static __always_inline int charge_block_device(struct completion *c, struct bio_view *v, __u64 head, __u64 flags, __u64 inode)
{
	struct block_device *bdev;
	struct buffer_head *bh;
	__u32 via = VIA_WRITE_WRITEBACK;
	__u64 state = 0, page = 0;

	if (!c || !v)
		return 0;
	if (!page_flag(flags, PG_writeback) && (c->flags & (SLOT_JOURNAL | SLOT_FAST | SLOT_SUPERBLOCK)))
		return charge_submitter(c, v->bio, VIA_WRITE_METADATA, v->bytes);
	bh = (void *)v->private;
	bdev = (void *)v->bdev;
	bpf_core_read(&page, sizeof(page), &bh->b_page);
	if (page && page_head(page) == head) {
		bpf_core_read(&state, sizeof(state), &bh->b_state);
		if (state & (1ULL << bpf_core_enum_value(enum jbd_state_bits, BH_JBD))) {
			struct journal_head *jh = BPF_CORE_READ(bh, b_private);
			transaction_t *t = BPF_CORE_READ(jh, b_cp_transaction);
			__u32 device = BPF_CORE_READ(t, t_journal, j_fs_dev, bd_dev);

			if (t)
				return charge_transaction(c, device, BPF_CORE_READ(t, t_tid), VIA_WRITE_METADATA, v->bytes);
		}
	}
	if (BPF_CORE_READ(bdev, bd_holder)) {
		via = VIA_WRITE_METADATA;
		/* ext4 keeps its first superblock in the first 4 KiB. */
		if (v->sector - BPF_CORE_READ(bdev, bd_start_sect) < 8)
			return charge(&c->to, OWNER_KERNEL_SUPERBLOCK, via, v->bytes);
		if (file_system_on(v->bdev) == BTRFS_SUPER_MAGIC)
			return charge(&c->to, OWNER_KERNEL_BTRFS_METADATA, via, v->bytes);
	}
	/*
	 * A buffer written by itself is a process's fsync without a journal (sync_dirty_buffer(),
	 * fs/buffer.c); its page stays dirty, and was perhaps dirtied first by another one.
	 */
	if (!page_flag(flags, PG_writeback) && (!(c->flags & SLOT_KTHREAD) || !bpf_map_lookup_elem(&dirty_inodes, &inode)))
		return charge_submitter(c, v->bio, via, v->bytes);
	return charge_dirtier(&c->to, v, inode, via);
}

static __always_inline __u32 last_row(struct pieces *to)
{
	__u32 at = to->last;

	return at < MOST_OWNERS ? to->piece[at].row : 0;
}

/* Whether a direct write goes to extents that are marked unwritten until it ends, if it is an iomap_dio's. */
static __always_inline bool is_unwritten(__u64 private)
{
	struct iomap_dio *dio = (void *)private;

	return BPF_CORE_READ(dio, flags) & IOMAP_DIO_UNWRITTEN;
}

/* Direct I/O, whose file is in the iomap_dio that the bio belongs to: an inode on this device proves that it is one. */
checked_once int charge_direct(struct completion *c, struct bio_view *v)
{
	bool unwritten;
	struct iomap_dio *dio;
	struct inode *inode;
	struct io_row *row;
	__u32 at;

	if (!c || !v)
		return 0;
	charge_submitter(c, v->bio, c->op == IO_READ ? VIA_READ_DIRECT : VIA_WRITE_DIRECT, v->bytes);
	unwritten = c->op == IO_WRITE && is_unwritten(v->private);
	if (!keep_files && !unwritten)
		return 0;
	dio = (void *)v->private;
	inode = BPF_CORE_READ(dio, iocb, ki_filp, f_inode);
	if (!inode || BPF_CORE_READ(inode, i_mapping, host) != inode ||
	    BPF_CORE_READ(inode, i_sb, s_dev) != block_device_number(v->bdev))
		return 0;
	at = last_row(&c->to);
	row = bpf_map_lookup_elem(&io_rows, &at);
	if (unwritten && row)
		dirty_inode_note(inode, row->owner);
	if (keep_files)
		io_file_add(at, (__u64)inode, c->op == IO_WRITE, v->bytes);
	return 0;
}

/*
 * The inode of compressed data, whose pages are in no file: btrfs's workers write
 * them from a bio inside a btrfs_bio. An inode of a btrfs proves that it is one.
 */
checked_once __u64 btrfs_bio_inode(__u64 bio)
{
	struct btrfs_bio *b = (void *)(bio - bpf_core_field_offset(struct btrfs_bio, bio));
	struct btrfs_inode *i;
	struct inode *inode;

	if (!bpf_core_field_exists(b->inode))
		return 0;
	i = BPF_CORE_READ(b, inode);
	inode = (void *)i + bpf_core_field_offset(struct btrfs_inode, vfs_inode);
	if (!i || BPF_CORE_READ(inode, i_mapping, host) != inode || BPF_CORE_READ(inode, i_sb, s_magic) != BTRFS_SUPER_MAGIC)
		return 0;
	return (__u64)inode;
}

/* Charges one bio, by what its first page is: all pages of a bio are of one kind and of one inode. */
checked_once int charge_bio(struct completion *c, struct bio_view *v)
{
	__u64 head = 0, flags = 0, mapping = 0, inode;
	struct dirty_inode *e = NULL;
	struct block_device *bdev;
	__u32 kind;

	if (!c || !v)
		return 0;
	if (c->op == IO_DISCARD)
		return charge_submitter(c, v->bio, VIA_DISCARD, v->bytes);
	if (v->page) {
		head = page_head(v->page);
		flags = folio_flags(head);
		mapping = (__u64)BPF_CORE_READ((struct folio *)head, mapping);
	}
	if (c->op == IO_WRITE && v->opf & (1U << bpf_core_enum_value(enum req_flag_bits, __REQ_SWAP)))
		return charge(&c->to, OWNER_KERNEL_SWAP, VIA_WRITE_SWAP_OUT, v->bytes);
	if (!mapping || mapping & MAPPING_FLAGS) {
		if (c->op == IO_READ && mapping && page_flag(flags, PG_swapcache))
			return charge_submitter(c, v->bio, VIA_READ_SWAP_IN, v->bytes);
		goto no_file;
	}
	inode = (__u64)BPF_CORE_READ((struct address_space *)mapping, host);
	if (!inode)
		goto no_file;
	if (c->op == IO_WRITE && page_flag(flags, PG_writeback))
		e = bpf_map_lookup_elem(&dirty_inodes, &inode);
	if (e) {
		kind = e->kind;
	} else {
		/* A slab page's mapping can look like a file's; an inode's points back. */
		if ((__u64)BPF_CORE_READ((struct inode *)inode, i_mapping) != mapping)
			goto no_file;
		kind = inode_kind(inode);
	}
	if (c->op == IO_READ) {
		if (kind == INODE_BTRFS_TREES)
			return charge_submitter(c, v->bio, VIA_READ_METADATA, v->bytes);
		bdev = (void *)v->bdev;
		if (kind == INODE_BLOCK_DEVICE && BPF_CORE_READ(bdev, bd_holder))
			return charge_submitter(c, v->bio, VIA_READ_METADATA, v->bytes);
		/* A page that has its data already is the buffer of a direct read, mapped from another file. */
		if (page_flag(flags, PG_uptodate))
			return charge_direct(c, v);
		charge_submitter(c, v->bio, VIA_READ_FILE, v->bytes);
		if (keep_files)
			io_file_add(last_row(&c->to), inode, false, v->bytes);
		return 0;
	}
	if (kind == INODE_BTRFS_TREES)
		return charge(&c->to, OWNER_KERNEL_BTRFS_METADATA, VIA_WRITE_METADATA, v->bytes);
	if (kind == INODE_BLOCK_DEVICE)
		return charge_block_device(c, v, head, flags, inode);
	if (page_flag(flags, PG_writeback))
		return charge_dirtier(&c->to, v, inode, VIA_WRITE_WRITEBACK);
	/* The buffer of a direct write is itself a page of another file. */
	return charge_direct(c, v);

no_file:
	if (v->opf & (1U << bpf_core_enum_value(enum req_flag_bits, __REQ_META))) {
		if (c->op == IO_READ)
			return charge_submitter(c, v->bio, VIA_READ_METADATA, v->bytes);
		/* Only XFS's log sets REQ_IDLE beside REQ_META (xlog_write_iclog(), fs/xfs/xfs_log.c). */
		if (!(c->flags & (SLOT_JOURNAL | SLOT_FAST | SLOT_SUPERBLOCK)))
			return charge(&c->to, metadata_owner(v->bdev),
				      v->opf & (1U << bpf_core_enum_value(enum req_flag_bits, __REQ_IDLE)) ?
					      VIA_WRITE_JOURNAL : VIA_WRITE_METADATA,
				      v->bytes);
	}
	if (c->op == IO_WRITE && c->flags & SLOT_KTHREAD) {
		inode = btrfs_bio_inode(v->bio);
		if (inode)
			return charge_dirtier(&c->to, v, inode, VIA_WRITE_WRITEBACK);
	}
	return charge_direct(c, v);
}

/* The bios of a request that has several. */
static long charge_next_bio(__u32 i, void *ctx)
{
	struct completion *c = ctx;
	struct bio *bio = (void *)c->bio;
	struct bio_view v = { .bio = c->bio };
	__u64 key = c->bio;
	bool whole;

	if (!bio || !c->left)
		return 1;
	v.sector = BPF_CORE_READ(bio, bi_iter.bi_sector);
	v.opf = BPF_CORE_READ(bio, bi_opf);
	v.private = (__u64)BPF_CORE_READ(bio, bi_private);
	v.bdev = (__u64)BPF_CORE_READ(bio, bi_bdev);
	v.vec = (__u64)BPF_CORE_READ(bio, bi_io_vec);
	v.idx = BPF_CORE_READ(bio, bi_iter.bi_idx);
	v.done = BPF_CORE_READ(bio, bi_iter.bi_bvec_done);
	v.bytes = BPF_CORE_READ(bio, bi_iter.bi_size);
	v.page = bvec_page(v.vec, v.idx);
	whole = v.bytes <= c->left;
	if (!whole)
		v.bytes = c->left;
	c->left -= v.bytes;
	charge_bio(c, &v);
	if (whole)
		bpf_map_delete_elem(&bio_owners, &key);
	c->bio = (__u64)BPF_CORE_READ(bio, bi_next);
	return 0;
}

/* The row of the owner of most bytes, the first on a tie. */
static __always_inline __u32 largest_owner(struct pieces *c)
{
	__u32 row = c->piece[0].row, most = c->piece[0].bytes;

	for (int i = 1; i < MOST_OWNERS; i++) {
		if (i >= c->owners)
			break;
		if (c->piece[i].bytes > most) {
			most = c->piece[i].bytes;
			row = c->piece[i].row;
		}
	}
	return row;
}

/* The row of whoever submitted a request: for operations that move no bytes. */
checked_once __u32 submitter_row(struct completion *c)
{
	if (!c)
		return 0;
	c->to.owners = 0;
	charge_submitter(c, 0, VIA_FLUSH, 0);
	return c->to.piece[0].row;
}

static __always_inline enum io_op op_of(__u32 cmd_flags)
{
	__u32 op = cmd_flags & REQ_OP_MASK;

	/* op_stat_group(), include/linux/blk_types.h: zeroing, erasing and zone operations are writes. */
	if (op == REQ_OP_DISCARD)
		return IO_DISCARD;
	if (op == REQ_OP_FLUSH)
		return IO_FLUSH;
	return op & 1 ? IO_WRITE : IO_READ;
}

/* ---- completions that were not seen ---- */

/*
 * Not every completion reaches a program. The kernel runs none twice at a time on
 * one CPU, so one that interrupts another one's is skipped (bpf_prog.active,
 * kernel/trace/bpf_trace.c); and there are hardened kernels that run none while
 * PID 1 is current, interrupts included. But a request that was started and whose tag is
 * free again has completed: it is charged then, as what it was when it started.
 */
checked_once int charge_unseen(struct request_slot *slot)
{
	struct completion c = { .alone = true };
	struct dirty_inode *e;
	struct io_row *row;
	__u32 bytes, at;
	__u64 inode;

	if (!slot)
		return 0;
	inode = slot->inode;
	bytes = slot->bytes > slot->done ? slot->bytes - slot->done : 0;
	c.op = op_of(slot->cmd_flags);
	c.row = slot->row;
	c.flags = slot->flags;
	c.fs_device = slot->fs_device;
	c.tid = slot->tid;
	c.to.device = slot->device;
	lose(LOSS_UNSEEN_COMPLETIONS);
	if (inode) {
		e = bpf_map_lookup_elem(&dirty_inodes, &inode);
		charge(&c.to, e && e->kind == INODE_FILE && !e->shared ? e->owner : OWNER_UNATTRIBUTED_UNSEEN_COMPLETION,
		       VIA_WRITE_WRITEBACK, bytes);
	} else {
		charge_submitter(&c, 0, c.op == IO_READ	   ? VIA_READ_DIRECT :
				      c.op == IO_DISCARD ? VIA_DISCARD :
							   VIA_WRITE_DIRECT, bytes);
	}
	at = c.to.piece[0].row;
	row = bpf_map_lookup_elem(&io_rows, &at);
	if (row && c.op < IO_OPS)
		__sync_fetch_and_add(&row->ops[c.op], 1);
	return 0;
}

/* ---- start ---- */

/* The inode whose pages a request writes back. */
static __always_inline __u64 written_inode(struct request *rq)
{
	struct folio *folio;
	struct bio *bio;
	__u64 mapping, head;

	if ((rq->cmd_flags & REQ_OP_MASK) != REQ_OP_WRITE)
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

static __always_inline bool writes_journal(struct task_context *c)
{
	return c->commit_tid || c->marks & (TASK_SUPERBLOCK | TASK_FAST_COMMIT);
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

SEC("tp_btf/block_io_start")
int BPF_PROG(request_start, struct request *rq)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct request_slot *slot = request_slot(rq, true);
	__u32 device = disk_device(rq->q->disk), flags;
	struct task_context *c;

	if (!slot) {
		lose(LOSS_REQUEST_SLOTS_FULL);
		return 0;
	}
	flags = slot->flags;
	if (flags & SLOT_LIVE && __sync_val_compare_and_swap(&slot->flags, flags, 0) == flags)
		charge_unseen(slot);
	slot->request = (__u64)rq;
	slot->cmd_flags = rq->cmd_flags;
	slot->bytes = rq->__data_len;
	slot->done = 0;
	slot->inode = written_inode(rq);
	if (slot->task == (__u64)task && slot->task_start == task->start_boottime && slot->device == device &&
	    slot->journal_writers == journal_writers) {
		slot->flags = SLOT_LIVE;
		return 0;
	}
	slot->task = 0;
	slot->device = device;
	c = task_context(task);
	if (!c) {
		slot->owner = OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL;
		slot->row = io_row_find(slot->owner, device);
		slot->flags = SLOT_LIVE;
		return 0;
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
	slot->flags = SLOT_LIVE | submission_flags(c, task, rq->cmd_flags);
	return 0;
}

/* ---- completion ---- */

static __always_inline void note_worst(struct io_request *r, __u32 row, enum io_op op, __u64 start, __u64 issued)
{
	if (!start)
		return;
	r->at = bpf_ktime_get_ns();
	r->row = row;
	r->op = op;
	if (issued < start)
		issued = start;
	r->queue_ns = issued - start;
	r->device_ns = r->at - issued;
	io_worst_add(r);
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
	hist_add(&l->total, now - start);
	if (issued >= start) {
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

static __always_inline int complete(struct request *rq, struct request_slot *slot, __u32 bytes)
{
	__u32 cmd_flags = rq->cmd_flags, rq_flags = rq->rq_flags, op = cmd_flags & REQ_OP_MASK;
	struct bio *bio = rq->bio;
	struct completion c = {
		.left = bytes,
		.op = op_of(cmd_flags),
		.to.device = disk_device(rq->q->disk),
	};
	bool last = bytes >= rq->__data_len, sequence = rq_in_flush_sequence(rq_flags);
	__u32 row;

	/* Passthrough is accounted only where queue/iostats_passthrough says so. */
	if ((op == REQ_OP_DRV_IN || op == REQ_OP_DRV_OUT) && !rq_keeps_stats(rq_flags))
		goto end;
	if (slot && slot->flags & SLOT_LIVE) {
		c.row = slot->row;
		c.flags = slot->flags;
		c.fs_device = slot->fs_device;
		c.tid = slot->tid;
	} else {
		c.row = io_row_find(slot ? OWNER_UNATTRIBUTED_BEFORE_ATTACH : OWNER_UNATTRIBUTED_REQUEST_SLOTS_FULL, c.to.device);
	}
	/* blk-flush.c: a flush borrows the tag, and so the owner, of the first request that waits for it. */
	if (c.op == IO_FLUSH) {
		row = submitter_row(&c);
		count_operation(row, IO_FLUSH, 0, 0);
		if (keep_worst) {
			struct io_request r = { .via = VIA_FLUSH };

			note_worst(&r, row, IO_FLUSH, rq->start_time_ns, rq->io_start_time_ns);
		}
		return 0;
	}
	if (bio && bytes) {
		if (!bio->bi_next && !(c.flags & SLOT_PARTIAL)) {
			struct bio_view v = {
				.bio = (__u64)bio,
				.bdev = (__u64)bio->bi_bdev,
				.vec = (__u64)bio->bi_io_vec,
				.private = (__u64)bio->bi_private,
				.sector = bio->bi_iter.bi_sector,
				.opf = bio->bi_opf,
				.idx = bio->bi_iter.bi_idx,
				.done = bio->bi_iter.bi_bvec_done,
				.bytes = bytes,
			};

			if (!v.idx)
				v.page = (__u64)bio->bi_io_vec->bv_page;
			else
				v.page = bvec_page(v.vec, v.idx);
			c.left = 0;
			c.alone = true;
			charge_bio(&c, &v);
		} else {
			c.bio = as_number(bio);
			bpf_loop(MOST_PIECES, charge_next_bio, &c, 0);
			if (slot)
				slot->flags |= SLOT_PARTIAL;
		}
	}
	if (c.left)
		charge_submitter(&c, 0, c.op == IO_READ ? VIA_READ_DIRECT : c.op == IO_DISCARD ? VIA_DISCARD : VIA_WRITE_DIRECT,
				 c.left);
	if (c.to.owners)
		row = largest_owner(&c.to);
	else if (slot && c.flags & SLOT_CHARGED) {
		row = c.row;
		c.to.via = slot->via;
	} else
		row = submitter_row(&c);
	/*
	 * A request of a flush sequence completes once with its data, and again with none
	 * when the sequence ends: only then is it counted (blk_account_io_done()).
	 */
	if (slot)
		slot->done += bytes;
	if (last && !sequence) {
		count_operation(row, c.op, rq->start_time_ns, rq->io_start_time_ns);
		if (keep_worst) {
			struct io_request r = { .bytes = slot ? slot->done : bytes, .via = c.to.via, .sector = rq->__sector };

			note_worst(&r, row, c.op, rq->start_time_ns, rq->io_start_time_ns);
		}
	} else if (slot && c.to.owners) {
		slot->row = row;
		slot->via = c.to.via;
		slot->flags |= SLOT_CHARGED;
		slot->task = 0;
	}
end:
	if (slot && last && !sequence)
		slot->flags = 0;
	return 0;
}

/*
 * The common case, made short: a whole request of one bio whose pages are an
 * application's own memory, so it is its submitter's.
 */
static __always_inline bool is_plain(struct request *rq, struct request_slot *slot, __u32 bytes)
{
	const __u32 special = REQ_OP_MASK - 1 | 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_META) |
			      1U << bpf_core_enum_value(enum req_flag_bits, __REQ_SWAP);
	struct bio *bio = rq->bio;

	if (keep_files || keep_worst || !slot || slot->flags != SLOT_LIVE || rq->cmd_flags & special || !bytes || bytes != rq->__data_len ||
	    rq_in_flush_sequence(rq->rq_flags))
		return false;
	if (!bio || bio->bi_next || bio->bi_iter.bi_idx)
		return false;
	if (rq->cmd_flags & 1 && bio->bi_bdev->bd_holder && is_unwritten((__u64)bio->bi_private))
		return false;
	return is_private(bio->bi_io_vec->bv_page);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(request_complete, struct request *rq, int error, unsigned int bytes)
{
	struct request_slot *slot = request_slot(rq, false);
	struct io_row *row;
	bool write;
	__u32 at;

	if (!is_plain(rq, slot, bytes))
		return complete(rq, slot, bytes);
	at = slot->row;
	row = bpf_map_lookup_elem(&io_rows, &at);
	slot->flags = 0;
	if (!row)
		return 0;
	write = rq->cmd_flags & 1;
	__sync_fetch_and_add(&row->bytes[write ? VIA_WRITE_DIRECT : VIA_READ_DIRECT], bytes);
	__sync_fetch_and_add(&row->ops[write], 1);
	count_latency(row, write, rq->start_time_ns, rq->io_start_time_ns);
	return 0;
}

/* ---- devices without requests: zram, dm, md ---- */

/* zram accounts reads and writes alone (zram_submit_bio(), drivers/block/zram/zram_drv.c). */
static __always_inline bool is_zram(struct gendisk *disk)
{
	return disk->disk_name[0] == 'z' && disk->disk_name[1] == 'r' && disk->disk_name[2] == 'a' && disk->disk_name[3] == 'm';
}

static __always_inline bool takes_bios(struct bio *bio)
{
	struct gendisk *disk = bio->bi_bdev->bd_disk;

	return disk->fops->submit_bio && !((bio->bi_opf & REQ_OP_MASK) > REQ_OP_WRITE && is_zram(disk));
}

/* Attached only while such a device exists: it costs every bio of every device. */
SEC("tp_btf/block_bio_queue")
int BPF_PROG(bio_queue, struct bio *bio)
{
	struct bio_owner own = { .owner = OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL, .start = bpf_ktime_get_ns() };
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = as_number(bio);
	struct task_context *c;

	if (!takes_bios(bio))
		return 0;
	c = task_context(task);
	if (c) {
		own.owner = c->owner;
		own.flags = submission_flags(c, task, bio->bi_opf);
		own.fs_device = c->commit_device;
		own.tid = c->commit_tid;
	}
	return bio_keep_owner(key, &own);
}

/* Fires for these devices alone; they account whole bios when they end (bio_end_io_acct(), block/blk-core.c). */
SEC("tp_btf/block_bio_complete")
int BPF_PROG(bio_complete, struct request_queue *q, struct bio *bio)
{
	__u64 key = as_number(bio), start = 0;
	__u32 owner = bio_owners_overflowed ? OWNER_UNATTRIBUTED_MERGED_BIOS_FULL : OWNER_UNATTRIBUTED_BEFORE_ATTACH;
	struct completion c = {
		.op = op_of(bio->bi_opf),
		.alone = true,
		.to.device = disk_device(bio->bi_bdev->bd_disk),
	};
	struct bio_view v = {
		.bio = key,
		.bdev = (__u64)bio->bi_bdev,
		.vec = (__u64)bio->bi_io_vec,
		.private = (__u64)bio->bi_private,
		.sector = bio->bi_iter.bi_sector,
		.opf = bio->bi_opf,
		.idx = bio->bi_iter.bi_idx,
		.done = bio->bi_iter.bi_bvec_done,
		.bytes = bio->bi_iter.bi_size,
	};
	struct bio_owner *own;

	if (!takes_bios(bio))
		return 0;
	own = bpf_map_lookup_elem(&bio_owners, &key);
	if (own) {
		start = own->start;
		owner = own->owner;
		c.flags = own->flags;
		c.fs_device = own->fs_device;
		c.tid = own->tid;
		bpf_map_delete_elem(&bio_owners, &key);
	}
	v.page = bvec_page(v.vec, v.idx);
	c.row = io_row_find(owner, c.to.device);
	charge_bio(&c, &v);
	if (c.op != IO_FLUSH)
		count_operation(c.to.owners ? largest_owner(&c.to) : c.row, c.op, start, start);
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
	__u32 zero;
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
		charge_unseen(slot);
	return 0;
}

/* Before a reading: charges the requests that completed unseen and whose tag was not used again. */
SEC("syscall")
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
	return 0;
}

/* In the direction in which owners travel, so that none slips past. */
SEC("syscall")
int sweep_io(struct sweep *ctx)
{
	struct sweep s = { .number = ctx->number };

	bpf_for_each_map_elem(&dirty_folios, sweep_folio, &s, 0);
	bpf_for_each_map_elem(&dirty_inodes, sweep_inode, &s, 0);
	bpf_for_each_map_elem(&shares, sweep_share, &s, 0);
	bpf_for_each_map_elem(&transactions, sweep_transaction, &s, 0);
	bpf_for_each_map_elem(&bio_owners, sweep_bio, &s, 0);
	bpf_for_each_map_elem(&request_slots, sweep_slot, &s, 0);
	return 0;
}

/* Makes the row that a device's bytes go to when there is no room for their owner's. */
SEC("syscall")
int add_device(struct io_row_key *ctx)
{
	return io_row_find(OWNER_UNATTRIBUTED_ROW_TABLE_FULL, ctx->device);
}
