/* SPDX-License-Identifier: Dual MIT/GPL */
/* The block layer, as far as culprit reads it. */
#pragma once
#include "fs.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct block_device_operations {
	void *submit_bio;
};

struct gendisk {
	int major;
	int first_minor;
	char disk_name[32];
	const struct block_device_operations *fops;
};

struct block_device {
	struct gendisk *bd_disk;
	__u64 bd_start_sect;
	__u32 bd_dev;
	void *bd_holder;
};

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
};

struct bvec_iter {
	__u64 bi_sector;
	unsigned int bi_size;
	unsigned int bi_idx;
	unsigned int bi_bvec_done;
} __attribute__((packed));

struct bio {
	struct bio *bi_next;
	struct block_device *bi_bdev;
	__u32 bi_opf;
	unsigned short bi_flags;
	struct bvec_iter bi_iter;
	void *bi_private;
	struct bio_vec *bi_io_vec;
};

struct btrfs_bio {
	struct btrfs_inode *inode;
	struct bio bio;
};

struct request_queue {
	int id;
	unsigned int nr_hw_queues;
	struct gendisk *disk;
};

struct blk_mq_tags {
	unsigned int nr_tags;
};

struct blk_flush_queue {
	unsigned int flush_running_idx : 1;
	struct list_head flush_queue[2];
};

struct blk_mq_hw_ctx {
	unsigned int queue_num;
	struct blk_flush_queue *fq;
	struct blk_mq_tags *tags;
	struct blk_mq_tags *sched_tags;
};

struct request {
	struct request_queue *q;
	struct blk_mq_hw_ctx *mq_hctx;
	__u32 cmd_flags;
	__u32 rq_flags;
	int tag;
	int internal_tag;
	unsigned int __data_len;
	__u64 __sector;
	struct bio *bio;
	__u64 start_time_ns;
	__u64 io_start_time_ns;
	atomic_t ref;
};

enum req_flag_bits {
	__REQ_META = 0, /* all relocated */
	__REQ_IDLE = 0,
	__REQ_FUA = 0,
	__REQ_PREFLUSH = 0,
	__REQ_SWAP = 0,
};


#pragma clang attribute pop
