/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Who dirtied a page of a file, so that its writeback can be charged to them
 * long after: one entry per inode while one owner dirties it, and one more per
 * folio from the moment a second one does.
 *
 * The kernel reports a folio only when it turns from clean to dirty
 * (folio_account_dirtied(), mm/page-writeback.c), before the tag is set in the mapping:
 * so the tags seen at the event are those of the inode's other folios.
 */
#pragma once
#include "owner.bpf.h"

#define DIRTY_INODES 131072
#define DIRTY_FOLIOS 131072

/*
 * __GFP_BITS_SHIFT: where the marks of an xarray begin in xa_flags. Not in the
 * type information before 6.10, so user space sets it.
 */
const volatile __u32 xa_mark_shift = 27;

/* PAGECACHE_TAG_DIRTY and PAGECACHE_TAG_WRITEBACK, include/linux/fs.h. */
#define XA_DIRTY_OR_WRITEBACK (3U << xa_mark_shift)

enum inode_kind {
	INODE_FILE,
	INODE_BLOCK_DEVICE,
	INODE_BTRFS_TREES, /* the inode whose pages are a btrfs's trees */
};

const enum inode_kind *inode_kind_type __attribute__((unused));

struct dirty_inode {
	__u64 ino;
	__u32 generation;
	__u32 owner;  /* who dirtied it first since it was last clean */
	__u64 row_at; /* device << 32 | the owner's row there, in one word because CPUs share it; a hint */
	__u32 cycle;  /* counts how often it was found clean again: older folios' entries are void */
	__u8 shared;  /* a second owner came: folios have entries */
	__u8 unsure;  /* a folio's entry could not be kept in this cycle */
	__u8 doubt;   /* the sweep found it clean; the next one removes it */
	__u8 kind;    /* enum inode_kind */
	/* The thread that last dirtied it, and is known to be that owner's; 0 for none. */
	__u32 task_owner;
	__u64 task, task_start;
};

struct dirty_folio {
	__u64 inode;
	__u32 cycle;
	__u32 owner;
	__u32 writing; /* owner of the write that was in flight when the folio was dirtied again */
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DIRTY_INODES);
	__type(key, __u64); /* struct inode * */
	__type(value, struct dirty_inode);
} dirty_inodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DIRTY_FOLIOS);
	__type(key, __u64); /* struct folio * */
	__type(value, struct dirty_folio);
} dirty_folios SEC(".maps");

/* How many entries both tables ever got: when to sweep them. */
volatile __u64 dirty_entries;

/* Set for good once an inode's owner could not be kept: unknown inodes may be that one. */
volatile __u32 dirty_inodes_overflowed;

static __always_inline bool dirty_inode_is(struct dirty_inode *e, struct inode *inode)
{
	return e->ino == inode->i_ino && e->generation == inode->i_generation;
}

checked_once __u32 kind_of_inode(__u64 address)
{
	struct inode *inode = (void *)address;
	__u16 mode = BPF_CORE_READ(inode, i_mode);

	if ((mode & S_IFMT) == S_IFBLK)
		return INODE_BLOCK_DEVICE;
	if (BPF_CORE_READ(inode, i_ino) == BTRFS_BTREE_INODE_OBJECTID &&
	    BPF_CORE_READ(inode, i_sb, s_magic) == BTRFS_SUPER_MAGIC)
		return INODE_BTRFS_TREES;
	return INODE_FILE;
}

/* A folio of an inode that has several owners in this cycle. */
checked_once int dirty_shared_folio(struct dirty_inode *e, __u64 inode, __u64 folio, __u32 owner)
{
	struct dirty_folio *known, fresh = { .inode = inode, .owner = owner };

	if (!e)
		return 0;
	fresh.cycle = e->cycle;
	known = bpf_map_lookup_elem(&dirty_folios, &folio);
	if (known && (known->inode != inode || known->cycle != e->cycle))
		known = NULL;
	if (page_flag(folio_flags(folio), PG_writeback))
		fresh.writing = known ? known->owner : e->owner;
	if (!known)
		__sync_fetch_and_add(&dirty_entries, 1);
	if (bpf_map_update_elem(&dirty_folios, &folio, &fresh, BPF_ANY)) {
		e->unsure = 1;
		lose(LOSS_DIRTY_FOLIOS_FULL);
	}
	return 0;
}

/* Everything but the common case, which is one owner dirtying one more folio of its file. */
static __noinline int dirty_inode_changed(struct inode *inode, struct folio *folio, __u32 owner, bool kernel_thread)
{
	struct dirty_inode fresh = {
		.ino = inode->i_ino,
		.generation = inode->i_generation,
		.owner = owner,
		.kind = kind_of_inode(as_number(inode)),
	};
	__u64 key = (__u64)inode;
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &key);

	if (!e) {
		__sync_fetch_and_add(&dirty_entries, 1);
		if (bpf_map_update_elem(&dirty_inodes, &key, &fresh, BPF_NOEXIST)) {
			dirty_inodes_overflowed = 1;
			lose(LOSS_DIRTY_INODES_FULL);
		}
		return 0;
	}
	e->doubt = 0;
	if (!dirty_inode_is(e, inode) || !(inode->i_mapping->i_pages.xa_flags & XA_DIRTY_OR_WRITEBACK)) {
		/* The address's next inode, or clean again: a new cycle begins with this owner. */
		fresh.cycle = e->cycle + 1;
		*e = fresh;
		return 0;
	}
	/*
	 * folio_redirty_for_writepage() reports a folio again as the flusher: a
	 * thread of the kernel never takes what an application dirtied.
	 */
	if (kernel_thread)
		return 0;
	if (e->owner != owner)
		e->shared = 1;
	if (e->shared)
		dirty_shared_folio(e, as_number(inode), as_number(folio), owner);
	return 0;
}

/*
 * The worker of a loop device writes its backing file as a kernel thread that is
 * marked not to throttle itself (loop_process_work(), drivers/block/loop.c);
 * nfsd marks itself likewise but has a name of its own.
 */
static __always_inline bool is_loop_worker(struct task_struct *task)
{
	return (task->flags & (PF_KTHREAD | PF_LOCAL_THROTTLE)) == (PF_KTHREAD | PF_LOCAL_THROTTLE) &&
	       task->comm[0] == 'k' && task->comm[1] == 'w';
}

static __always_inline void dirty(struct folio *folio, struct inode *inode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = (__u64)inode;
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &key);
	bool plain = e && !e->shared && !e->doubt && dirty_inode_is(e, inode);
	struct task_context *c;
	__u32 owner;

	if (plain && e->task == (__u64)task && e->task_start == task->start_boottime && e->task_owner == e->owner)
		return;
	c = task_context(task);
	if (!c)
		return;
	owner = is_loop_worker(task) ? OWNER_KERNEL_LOOP : c->owner;
	if (plain && e->owner == owner) {
		/* Not of a thread of the kernel, which works for one and then for another. */
		if (owner >= OWNER_FIRST && !(task->flags & PF_KTHREAD)) {
			e->task_owner = owner;
			e->task_start = task->start_boottime;
			e->task = (__u64)task;
		}
		return;
	}
	dirty_inode_changed(inode, folio, owner, task->flags & PF_KTHREAD);
}

/*
 * Notes who writes an inode without dirtying its pages, for the worker that
 * converts its extents afterwards. The sweep finds the inode clean and drops the note.
 */
static __always_inline void dirty_inode_note(struct inode *inode, __u32 owner)
{
	__u64 key = (__u64)inode;
	struct dirty_inode fresh = {
		.ino = BPF_CORE_READ(inode, i_ino),
		.generation = BPF_CORE_READ(inode, i_generation),
		.owner = owner,
	};
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &key);

	if (e && e->ino == fresh.ino && e->generation == fresh.generation && e->owner == owner) {
		e->doubt = 0;
		return;
	}
	if (e && BPF_CORE_READ(inode, i_mapping, i_pages.xa_flags) & XA_DIRTY_OR_WRITEBACK)
		return;
	fresh.cycle = e ? e->cycle + 1 : 0;
	if (!e)
		__sync_fetch_and_add(&dirty_entries, 1);
	if (bpf_map_update_elem(&dirty_inodes, &key, &fresh, BPF_ANY))
		lose(LOSS_DIRTY_INODES_FULL);
}

/* Who owns the write of a folio of an inode with this entry. Call it while the write is in flight. */
static __always_inline __u32 dirty_folio_owner(struct dirty_inode *e, __u64 inode, __u64 folio, __u64 flags)
{
	struct dirty_folio *f;

	if (!e->shared)
		return e->owner;
	f = bpf_map_lookup_elem(&dirty_folios, &folio);
	if (f && f->inode == inode && f->cycle == e->cycle)
		/* Still or again dirty: dirtied since this write began. */
		return f->writing && page_flag(flags, PG_dirty) ? f->writing : f->owner;
	return e->unsure ? OWNER_UNATTRIBUTED_DIRTY_FOLIOS_FULL : e->owner;
}

/* Who dirtied an inode, as far as one answer can be given; 0 if nobody was seen. */
static __always_inline __u32 dirty_inode_owner(struct inode *inode)
{
	__u64 key = (__u64)inode;
	struct dirty_inode *e = bpf_map_lookup_elem(&dirty_inodes, &key);

	return e && dirty_inode_is(e, inode) ? e->owner : 0;
}
