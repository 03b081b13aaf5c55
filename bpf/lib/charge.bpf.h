/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Whose the bytes of a completed request are: bio by bio, by what its pages
 * are. What was written back belongs to whoever dirtied it,
 * a journal to the owners of its transaction, all else to the submitter.
 */
#pragma once
#include "jbd2.bpf.h"
#include "request.bpf.h"

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

/* The folios of a bio whose inode several owners dirtied. */
struct folio_walk {
	__u64 vec, inode;
	__u32 idx, done, left;
	__u32 via;
};

/*
 * What a completion is worked out in. On the stack it would be too large: a program and
 * all that it calls have 512 bytes.
 */
struct scratch {
	struct completion c;
	struct bio_view v;
	struct folio_walk w;
	struct io_request r;
};

/* Each program has its own: one can interrupt another, but never itself. */
enum scratch_user {
	SCRATCH_REQUEST_COMPLETE,
	SCRATCH_BIO_COMPLETE,
	SCRATCH_START,
	SCRATCH_START_AGAIN,
	SCRATCH_SETTLE,
	SCRATCH_USERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_USERS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch(__u32 user)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &user);

	if (s)
		__builtin_memset(s, 0, sizeof(*s));
	return s;
}

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

/* One folio, or the part of it that is in this bio. */
static long charge_folio(__u32 i, void *ctx)
{
	struct scratch *s = *(struct scratch **)ctx;
	struct folio_walk *w = &s->w;
	struct pieces *to = &s->c.to;
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
	row = io_row_find(dirty_folio_owner(e, inode, head, flags), to->device);
	charge_row(to, row, w->via, take);
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

static __always_inline int charge_shared(struct scratch *s, __u64 inode, __u32 via)
{
	struct folio_walk *w = &s->w;

	w->inode = inode;
	w->via = via;
	w->vec = s->v.vec;
	w->idx = s->v.idx;
	w->done = s->v.done;
	w->left = s->v.bytes;
	bpf_loop(MOST_PIECES, charge_folio, &s, 0);
	if (w->left) {
		lose(LOSS_REQUEST_TOO_LONG);
		charge(&s->c.to, OWNER_UNATTRIBUTED_REQUEST_TOO_LONG, via, w->left);
	}
	return 0;
}

/* Charges pages to whoever dirtied them. */
static __always_inline int charge_dirtier(struct scratch *s, __u64 inode, __u32 via)
{
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &inode);
	struct pieces *to = &s->c.to;
	struct bio_view *v = &s->v;
	__u32 row;
	__u64 at;

	if (!e)
		return charge(to, dirty_inodes_overflowed ? OWNER_UNATTRIBUTED_DIRTY_INODES_FULL : OWNER_UNATTRIBUTED_BEFORE_ATTACH,
			      via, v->bytes);
	if (e->shared)
		return charge_shared(s, inode, via);
	at = e->row_at;
	row = at;
	if (at >> 32 != to->device || !row) {
		row = io_row_find(e->owner, to->device);
		e->row_at = (__u64)to->device << 32 | row;
	}
	if (keep_files)
		io_file_add(row, inode, true, v->bytes);
	return charge_row(to, row, via, v->bytes);
}

/* The file system on a device, by its magic number; 0 if it has none or does not say. */
checked_once __u64 file_system_on(__u64 bdev)
{
	struct super_block *sb = block_device_super(bdev);

	return sb ? BPF_CORE_READ(sb, s_magic) : is_held_by_btrfs(bdev) ? BTRFS_SUPER_MAGIC : 0;
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
 *
 * Returns false if it belongs to whoever dirtied it, with the way to charge it.
 */
static __always_inline bool charge_block_device(struct completion *c, struct bio_view *v, __u64 head, __u64 flags, __u64 inode,
					       __u32 *dirtier_via)
{
	struct block_device *bdev;
	struct buffer_head *bh;
	__u32 via = VIA_WRITE_WRITEBACK;
	__u64 state = 0, page = 0;

	if (!page_flag(flags, PG_writeback) && (c->flags & (SLOT_JOURNAL | SLOT_FAST | SLOT_SUPERBLOCK))) {
		charge_submitter(c, v->bio, VIA_WRITE_METADATA, v->bytes);
		return true;
	}
	bh = (void *)v->private;
	bdev = (void *)v->bdev;
	bpf_core_read(&page, sizeof(page), &bh->b_page);
	if (page && page_head(page) == head) {
		bpf_core_read(&state, sizeof(state), &bh->b_state);
		if (state & (1ULL << bpf_core_enum_value(enum jbd_state_bits, BH_JBD))) {
			struct journal_head *jh = BPF_CORE_READ(bh, b_private);
			transaction_t *t = BPF_CORE_READ(jh, b_cp_transaction);
			__u32 device = BPF_CORE_READ(t, t_journal, j_fs_dev, bd_dev);

			if (t) {
				charge_transaction(c, device, BPF_CORE_READ(t, t_tid), VIA_WRITE_METADATA, v->bytes);
				return true;
			}
		}
	}
	if (BPF_CORE_READ(bdev, bd_holder)) {
		via = VIA_WRITE_METADATA;
		/* ext4 keeps its first superblock in the first 4 KiB. */
		if (v->sector - BPF_CORE_READ(bdev, bd_start_sect) < 8) {
			charge(&c->to, OWNER_KERNEL_SUPERBLOCK, via, v->bytes);
			return true;
		}
		if (file_system_on(v->bdev) == BTRFS_SUPER_MAGIC) {
			charge(&c->to, OWNER_KERNEL_BTRFS_METADATA, via, v->bytes);
			return true;
		}
	}
	/*
	 * A buffer written by itself is a process's fsync without a journal (sync_dirty_buffer(),
	 * fs/buffer.c); its page stays dirty, and was perhaps dirtied first by another one.
	 */
	if (!page_flag(flags, PG_writeback) && (!(c->flags & SLOT_KTHREAD) || !bpf_map_lookup_elem(&dirty_inodes, &inode))) {
		charge_submitter(c, v->bio, via, v->bytes);
		return true;
	}
	*dirtier_via = via;
	return false;
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
checked_once int charge_direct(struct scratch *s)
{
	struct completion *c;
	struct bio_view *v;
	bool unwritten;
	struct iomap_dio *dio;
	struct inode *inode;
	struct io_row *row;
	__u32 at;

	if (!s)
		return 0;
	c = &s->c;
	v = &s->v;
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
checked_once int charge_bio(struct scratch *s)
{
	__u64 head = 0, flags = 0, mapping = 0, inode;
	struct dirty_inode *e = NULL;
	struct block_device *bdev;
	__u32 kind, via = VIA_WRITE_WRITEBACK;
	struct completion *c;
	struct bio_view *v;

	if (!s)
		return 0;
	c = &s->c;
	v = &s->v;
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
		kind = kind_of_inode(inode);
	}
	if (c->op == IO_READ) {
		if (kind == INODE_BTRFS_TREES)
			return charge_submitter(c, v->bio, VIA_READ_METADATA, v->bytes);
		bdev = (void *)v->bdev;
		if (kind == INODE_BLOCK_DEVICE && BPF_CORE_READ(bdev, bd_holder))
			return charge_submitter(c, v->bio, VIA_READ_METADATA, v->bytes);
		/* A page that has its data already is the buffer of a direct read, mapped from another file. */
		if (page_flag(flags, PG_uptodate))
			return charge_direct(s);
		charge_submitter(c, v->bio, VIA_READ_FILE, v->bytes);
		if (keep_files)
			io_file_add(last_row(&c->to), inode, false, v->bytes);
		return 0;
	}
	if (kind == INODE_BTRFS_TREES)
		return charge(&c->to, OWNER_KERNEL_BTRFS_METADATA, VIA_WRITE_METADATA, v->bytes);
	if (kind == INODE_BLOCK_DEVICE) {
		if (charge_block_device(c, v, head, flags, inode, &via))
			return 0;
		goto dirtier;
	}
	if (page_flag(flags, PG_writeback))
		goto dirtier;
	/* The buffer of a direct write is itself a page of another file. */
	return charge_direct(s);

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
			goto dirtier;
	}
	return charge_direct(s);

dirtier:
	return charge_dirtier(s, inode, via);
}

/* The bios of a request that has several. */
static long charge_next_bio(__u32 i, void *ctx)
{
	struct scratch *s = *(struct scratch **)ctx;
	struct completion *c = &s->c;
	struct bio_view *v = &s->v;
	__u64 key = c->bio, vec;
	struct bio *bio = (void *)key;
	__u32 bytes, idx;

	if (!bio || !c->left)
		return 1;
	vec = (__u64)BPF_CORE_READ(bio, bi_io_vec);
	idx = BPF_CORE_READ(bio, bi_iter.bi_idx);
	v->bio = key;
	v->sector = BPF_CORE_READ(bio, bi_iter.bi_sector);
	v->opf = BPF_CORE_READ(bio, bi_opf);
	v->private = (__u64)BPF_CORE_READ(bio, bi_private);
	v->bdev = (__u64)BPF_CORE_READ(bio, bi_bdev);
	v->vec = vec;
	v->idx = idx;
	v->done = BPF_CORE_READ(bio, bi_iter.bi_bvec_done);
	v->page = bvec_page(vec, idx);
	bytes = BPF_CORE_READ(bio, bi_iter.bi_size);
	v->bytes = bytes < c->left ? bytes : c->left;
	c->left -= v->bytes;
	charge_bio(s);
	if (bytes == v->bytes)
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
	c->alone = true;
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

/*
 * Not every completion reaches a program. The kernel runs none twice at a time on
 * one CPU, so one that interrupts another one's is skipped (bpf_prog.active,
 * kernel/trace/bpf_trace.c); and there are hardened kernels that run none while
 * PID 1 is current, interrupts included. But a request that was started and whose tag is
 * free again has completed: it is charged then, as what it was when it started.
 */
checked_once int charge_unseen(struct request_slot *slot, __u32 flags, __u32 user)
{
	struct scratch *s = scratch(user);
	struct completion *c;
	struct dirty_inode *e;
	struct io_row *row;
	__u32 bytes, at, op;
	__u64 inode;

	if (!slot || !s)
		return 0;
	/* As at a completion that is seen, passthrough does not count. */
	op = slot->cmd_flags & REQ_OP_MASK;
	if (op == REQ_OP_DRV_IN || op == REQ_OP_DRV_OUT)
		return 0;
	inode = slot->inode;
	bytes = slot->bytes > slot->done ? slot->bytes - slot->done : 0;
	c = &s->c;
	c->alone = true;
	c->op = op_of(slot->cmd_flags);
	c->row = slot->row;
	c->flags = flags;
	c->fs_device = slot->fs_device;
	c->tid = slot->tid;
	c->to.device = slot->device;
	lose(LOSS_UNSEEN_COMPLETIONS);
	if (inode) {
		e = bpf_map_lookup_elem(&dirty_inodes, &inode);
		charge(&c->to, e && e->kind == INODE_FILE && !e->shared ? e->owner : OWNER_UNATTRIBUTED_UNSEEN_COMPLETION,
		       VIA_WRITE_WRITEBACK, bytes);
	} else {
		charge_submitter(c, 0, c->op == IO_READ	    ? VIA_READ_DIRECT :
				       c->op == IO_DISCARD ? VIA_DISCARD :
							     VIA_WRITE_DIRECT, bytes);
	}
	at = c->to.piece[0].row;
	op = c->op;
	row = bpf_map_lookup_elem(&io_rows, &at);
	if (row && op < IO_OPS)
		__sync_fetch_and_add(&row->ops[op], 1);
	if (is_request_traced()) {
		s->r.row = at;
		s->r.op = op;
		s->r.via = c->to.via;
		s->r.bytes = slot->bytes;
		s->r.number = slot->number;
		s->r.thread = slot->thread;
		trace_completion(&s->r);
	}
	return 0;
}
