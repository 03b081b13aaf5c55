/* SPDX-License-Identifier: Dual MIT/GPL */
/* Files, page cache, buffer heads and the ext4 journal, as far as culprit reads them. */
#pragma once
#include "sched.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr {
	const unsigned char *name;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	union {
		struct hlist_node d_alias;
	} d_u;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct mm_struct {
	struct file *exe_file;
};

struct kiocb {
	struct file *ki_filp;
};

struct iomap_dio {
	struct kiocb *iocb;
	unsigned int flags;
};

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
};

struct xarray {
	unsigned int xa_flags;
};

struct address_space {
	struct inode *host;
	struct xarray i_pages;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	struct address_space *i_mapping;
	unsigned long i_ino;
	__u32 i_generation;
	union {
		struct hlist_head i_dentry;
	};
};

struct btrfs_inode {
	struct inode vfs_inode;
};

/* Before 6.18 (53fbef56e07d "mm: introduce memdesc_flags_t"). */
struct folio___v617 {
	unsigned long flags;
};

typedef struct {
	unsigned long f;
} memdesc_flags_t;

struct page {
	memdesc_flags_t flags;
	unsigned long compound_head;
	struct address_space *mapping;
};

/* Before 6.18. */
struct page___v617 {
	unsigned long flags;
};

/* 7.1 and later: a mask instead of a pointer where struct page is a power of two. */
struct page___v71 {
	unsigned long compound_info;
};

struct folio {
	memdesc_flags_t flags;
	struct address_space *mapping;
	unsigned long _flags_1;
};

enum pageflags {
	PG_writeback = 0, /* all relocated */
	PG_dirty = 0,
	PG_uptodate = 0,
	PG_head = 0,
	PG_swapcache = 0,
};

struct buffer_head {
	unsigned long b_state;
	struct page *b_page;
	void *b_private;
};

enum jbd_state_bits {
	BH_JBD = 0, /* relocated */
};

struct block_device;

struct journal_s {
	struct block_device *j_fs_dev;
};
typedef struct journal_s journal_t;

struct transaction_s {
	journal_t *t_journal;
	__u32 t_tid;
};
typedef struct transaction_s transaction_t;

struct journal_head {
	transaction_t *b_cp_transaction;
};

struct transaction_run_stats_s {
	__u32 rs_blocks;
};

#pragma clang attribute pop
