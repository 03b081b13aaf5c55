/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * The integer types that libbpf's headers expect, and the constants of the
 * kernel that are macros and therefore not in its type information.
 */
#pragma once

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;

typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* uapi/linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

enum {
	BPF_RB_NO_WAKEUP = 1,
};

enum {
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_CLONE = 1U << 9,
	BPF_F_MMAPABLE = 1U << 10,
};

#define BPF_LOCAL_STORAGE_GET_F_CREATE 1ULL

struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

/* include/linux/interrupt.h */
#define NET_RX_SOFTIRQ 3

/* include/linux/sched.h */
#define PF_KTHREAD 0x00200000
#define PF_IO_WORKER 0x00000010
#define PF_LOCAL_THROTTLE 0x00100000
#define TASK_UNINTERRUPTIBLE 0x002
#define TASK_DEAD 0x080
#define TASK_NOLOAD 0x400

/* kernel/sched/sched.h */
#define TASK_ON_RQ_MIGRATING 2

/* include/uapi/linux/stat.h */
#define S_IFMT 00170000
#define S_IFBLK 0060000
#define S_IFSOCK 0140000

/* include/linux/blk_types.h: enum req_op */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_DRV_IN 34
#define REQ_OP_DRV_OUT 35

/* fs/xfs/libxfs/xfs_format.h, include/uapi/linux/magic.h */
#define XFS_SUPER_MAGIC 0x58465342
#define BTRFS_SUPER_MAGIC 0x9123683E
/* include/uapi/linux/btrfs_tree.h: the inode whose page cache holds the trees */
#define BTRFS_BTREE_INODE_OBJECTID 1

/* include/linux/iomap.h */
#define IOMAP_DIO_UNWRITTEN 1
