/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Everything in which kernels differ: what changed, then one accessor that all
 * probes call. Shape is read from the running kernel's type information, never
 * from a version, because distributions backport.
 */
#pragma once
#include "../kernel/block.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/*
 * Functions without `static` are verified once, on their own, and not again at
 * each call: what is long or called from many places is one. The verifier lets
 * them take numbers and plain memory, so pointers into the kernel are passed as
 * numbers and read with BPF_CORE_READ.
 */
#define checked_once __attribute__((noinline))

/* A trusted pointer as a number, which takes a detour because the verifier does not forget. */
static __always_inline __u64 as_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* Its low bits need none: half a register, once moved, is no pointer to the verifier. */
static __always_inline __u32 low_bits(const void *pointer)
{
	__u32 bits;

	asm volatile("%0 = %1" : "=w"(bits) : "w"((__u32)(__u64)pointer));
	return bits;
}

/*
 * Since 7.0 a thread can be preempted within a tracepoint's program (srcu_fast_notrace in
 * __DECLARE_TRACE(), include/linux/tracepoint.h), and until it goes on, the others on its CPU pass the
 * tracepoint unseen: the kernel never runs a program within itself. Turning preemption off in the program
 * only moves that to its end. So where a thread can be preempted and an event be seen twice, there is a
 * second program, NAME_again, which user space loads on such kernels.
 */
typedef struct {
	void *lock;
} class_srcu_fast_notrace_t;

#define programs_are_preempted() bpf_core_type_exists(class_srcu_fast_notrace_t)

/* Both programs of a tracepoint: what they call, which `again` tells apart, and the tracepoint's arguments. */
#define TP_BTF_TWICE(tracepoint, name, call, args...)	\
	SEC("tp_btf/" tracepoint)			\
	int BPF_PROG(name, args)			\
	{						\
		const bool again = false;		\
							\
		(void)again;				\
		return call;				\
	}						\
							\
	SEC("tp_btf/" tracepoint)			\
	int BPF_PROG(name##_again, args)		\
	{						\
		const bool again = true;		\
							\
		(void)again;				\
		return call;				\
	}

/* 633488947ef6 (6.15) renamed kernfs_node.parent. Goes when 6.12 is no longer supported. */
static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *kn)
{
	struct kernfs_node___v614 *old = (void *)kn;

	if (bpf_core_field_exists(old->parent))
		return BPF_CORE_READ(old, parent);
	return BPF_CORE_READ(kn, __parent);
}

/*
 * Bits of request.rq_flags: macros at first, then an enum without a name, then enum rqf_flags. User space
 * finds them, and these are the macros'. Goes when 6.1 and 6.12 do.
 */
const volatile __u32 rqf_flush_seq = 4;
const volatile __u32 rqf_io_stat = 13;

static __always_inline bool rq_in_flush_sequence(__u32 rq_flags)
{
	return rq_flags & 1U << rqf_flush_seq;
}

static __always_inline bool rq_keeps_stats(__u32 rq_flags)
{
	return rq_flags & 1U << rqf_io_stat;
}

/*
 * block_io_start is there since 6.5; block_getrq, block_rq_insert and block_rq_issue stand in for it before
 * (bpf/io.bpf.c). Goes when 6.1 does.
 */
typedef void (*btf_trace_block_io_start)(void *, struct request *);

static __always_inline bool has_io_start(void)
{
	return bpf_core_type_exists(btf_trace_block_io_start);
}

/*
 * The super block on a device, if it says. It holds the device since 6.5; before, its type did, and
 * bd_super named it, but not for btrfs, which opens its devices itself. The flavour goes when 6.1 does.
 */
struct file_system_type {
	const char *name;
} __attribute__((preserve_access_index));

struct block_device___v65 {
	struct super_block *bd_super;
	struct file_system_type *bd_holder;
} __attribute__((preserve_access_index));

static __always_inline struct super_block *block_device_super(__u64 bdev)
{
	struct block_device___v65 *old = (void *)bdev;
	struct block_device *dev = (void *)bdev;

	if (bpf_core_field_exists(old->bd_super))
		return BPF_CORE_READ(old, bd_super);
	return BPF_CORE_READ(dev, bd_holder);
}

static __always_inline bool is_held_by_btrfs(__u64 bdev)
{
	struct block_device___v65 *old = (void *)bdev;
	__u64 name = 0;

	if (!bpf_core_field_exists(old->bd_super))
		return false;
	bpf_probe_read_kernel_str(&name, sizeof(name), BPF_CORE_READ(old, bd_holder, name));
	return name == 0x7366727462; /* "btrfs" */
}

struct request___v64 {
	struct {
		struct list_head list;
	} flush;
} __attribute__((preserve_access_index));

/* struct dentry's union with d_alias has no name from 7.1 on. The old form goes when 6.18 does. */
struct dentry___v71 {
	struct hlist_node d_alias;
} __attribute__((preserve_access_index));

/* The dentry of a link in inode.i_dentry. */
static __always_inline __u64 dentry_of_alias(__u64 alias)
{
	if (bpf_core_field_exists(struct dentry___v71, d_alias))
		return alias - bpf_core_field_offset(struct dentry___v71, d_alias);
	return alias - bpf_core_field_offset(struct dentry, d_u.d_alias);
}

/*
 * The head of the folio that a page is in. A tail page holds the head's address
 * plus one; from 7.1 (compound_info), where the size of struct page is a
 * power of two, a mask to be put over the tail's own address.
 */
static __always_inline __u64 page_head(__u64 page)
{
	struct page___v71 *p71 = (void *)page;
	struct page *p = (void *)page;
	__u64 info = 0;

	if (bpf_core_field_exists(p71->compound_info)) {
		bpf_core_read(&info, sizeof(info), &p71->compound_info);
		if (!(info & 1))
			return page;
		if (!(bpf_core_type_size(struct page) & (bpf_core_type_size(struct page) - 1)))
			return as_number((void *)page) & info;
		return info - 1;
	}
	bpf_core_read(&info, sizeof(info), &p->compound_head);
	return info & 1 ? info - 1 : page;
}

/* 53fbef56e07d (6.18) put the flags into a struct. The flavour goes when 6.12 does. */
static __always_inline __u64 folio_flags(__u64 head)
{
	struct folio___v617 *old = (void *)head;
	struct folio *f = (void *)head;
	__u64 flags = 0;

	if (bpf_core_field_exists(old->flags))
		bpf_core_read(&flags, sizeof(flags), &old->flags);
	else
		bpf_core_read(&flags, sizeof(flags), &f->flags.f);
	return flags;
}

/*
 * Pages of the folio with this head. Its order moved from a byte of its own into
 * the low byte of _flags_1 with ebc1baf5c9b4 (6.6). The flavour goes when 6.1 does.
 */
struct folio___v65 {
	unsigned char _folio_order;
} __attribute__((preserve_access_index));

static __always_inline __u32 folio_pages(__u64 head, __u64 flags)
{
	struct folio___v65 *f65 = (void *)head;
	struct folio *f = (void *)head;
	__u64 order = 0;

	if (!(flags & (1ULL << bpf_core_enum_value(enum pageflags, PG_head))))
		return 1;
	if (bpf_core_field_exists(f65->_folio_order))
		bpf_core_read(&order, 1, &f65->_folio_order);
	else
		bpf_core_read(&order, sizeof(order), &f->_flags_1);
	return 1U << (order & 0x1f);
}

#define page_flag(flags, name) ((flags) & (1ULL << bpf_core_enum_value(enum pageflags, name)))

#define MAPPING_FLAGS 3 /* PAGE_MAPPING_ANON and its kin, include/linux/page-flags.h */

/*
 * Whether a page certainly belongs to no file: memory of a process that is not being swapped, or of the
 * kernel. It is read in place: a call costs some 30 ns where processors must guard returns.
 */
static __always_inline bool is_private(struct page *page)
{
	struct page___v617 *p617 = (void *)page;
	struct page___v71 *p71 = (void *)page;
	__u32 compound;
	__u64 flags;

	if (!bpf_core_field_exists(page->mapping))
		return false;
	if (bpf_core_field_exists(p71->compound_info))
		compound = low_bits((void *)p71->compound_info);
	else
		compound = low_bits((void *)page->compound_head);
	/* Of a tail page, the head would have to be read. */
	if (compound & 1)
		return false;
	if (!page->mapping)
		return true;
	if (!(low_bits(page->mapping) & MAPPING_FLAGS))
		return false;
	if (bpf_core_field_exists(p617->flags))
		flags = p617->flags;
	else
		flags = page->flags.f;
	return !page_flag(flags, PG_swapcache);
}

/*
 * How long all tasks of a leaf cfs_rq have been kept off its CPU for want of quota, and since when they are. Before 6.6
 * there is a sum in another clock alone, which stands still at the same times.
 */
static __always_inline __u64 throttled_time(struct cfs_rq *leaf)
{
	struct cfs_rq___v65 *old = (void *)leaf;

	if (bpf_core_field_exists(leaf->throttled_clock_self_time))
		return leaf->throttled_clock_self_time;
	if (bpf_core_field_exists(old->throttled_clock_pelt_time))
		return BPF_CORE_READ(old, throttled_clock_pelt_time);
	return 0; /* built without CONFIG_CFS_BANDWIDTH */
}

static __always_inline bool is_leaf_throttled(struct cfs_rq *leaf)
{
	return bpf_core_field_exists(leaf->throttle_count) && leaf->throttle_count > 0;
}

static __always_inline __u64 throttled_since(struct cfs_rq *leaf, __u64 now)
{
	if (bpf_core_field_exists(leaf->throttled_clock_self) && leaf->throttled_clock_self)
		return leaf->throttled_clock_self;
	return now;
}

/* e1fad12dcb66 (6.18): a task is throttled on its own, on its way to user space, and not with its whole group. */
static __always_inline bool is_throttled_by_group(void)
{
	return !bpf_core_field_exists(struct task_struct, throttled);
}

static __always_inline bool is_throttled(struct task_struct *task)
{
	return is_throttled_by_group() || task->throttled;
}
