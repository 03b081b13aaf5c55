/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * What the io probe counts, and where: one row per owner and device, found by
 * index wherever a request or a thread can remember it.
 */
#pragma once
#include "hist.bpf.h"
#include "owner.bpf.h"
#include "trace.bpf.h"

#define IO_ROWS 8192

enum io_via {
	VIA_READ_FILE,
	VIA_READ_DIRECT,
	VIA_READ_METADATA,
	VIA_READ_SWAP_IN,
	VIA_WRITE_DIRECT,
	VIA_WRITE_WRITEBACK,
	VIA_WRITE_JOURNAL,
	VIA_WRITE_METADATA,
	VIA_WRITE_SWAP_OUT,
	VIA_DISCARD,
	VIA_FLUSH,
	VIA_MAX,
};

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_DISCARD,
	IO_FLUSH,
	IO_OPS,
};

const enum io_via *io_via_type __attribute__((unused));
const enum io_op *io_op_type __attribute__((unused));

/*
 * Most requests go to an idle device as soon as they are made, and the kernel takes one time for both
 * (blk_time_get_ns(), block/blk.h): of these one histogram says it all.
 */
struct io_latency {
	struct hist unqueued;             /* of requests that waited 0 ns */
	struct hist total, queue, device; /* of the others */
	__u64 sum;                        /* of unqueued and total, ns */
	struct interval_max max;
};

struct io_row {
	__u32 owner;
	__u32 device; /* major << 20 | minor, of the whole disk */
	__u64 bytes[VIA_MAX];
	__u64 ops[IO_OPS];
	struct io_latency latency[2]; /* IO_READ, IO_WRITE */
};

struct io_row_key {
	__u32 owner, device;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, IO_ROWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct io_row);
} io_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IO_ROWS);
	__type(key, struct io_row_key);
	__type(value, __u32);
} io_row_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, IO_ROWS);
	__type(value, __u32);
} io_rows_returned SEC(".maps");

volatile struct pool io_row_pool = { .next = 1, .size = IO_ROWS };

/* Times that belong to no device, by owner. */
struct io_sleep {
	__u64 blocked_ns;
	__u64 throttled_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct io_sleep);
} io_times SEC(".maps");

checked_once __u32 io_row_new(__u32 owner, __u32 device)
{
	struct io_row_key key = { owner, device };
	struct io_row *row;
	__u32 at, *known;

	at = pool_get(&io_row_pool, &io_rows_returned);
	row = at ? bpf_map_lookup_elem(&io_rows, &at) : NULL;
	if (!row)
		return 0;
	row->owner = owner;
	row->device = device;
	if (!bpf_map_update_elem(&io_row_of, &key, &at, BPF_NOEXIST))
		return at;
	row->owner = 0;
	bpf_map_push_elem(&io_rows_returned, &at, BPF_ANY);
	/* Another CPU was first, or there is no room. */
	known = bpf_map_lookup_elem(&io_row_of, &key);
	return known ? *known : 0;
}

/*
 * The row of an owner on a device. Without room it is that of OWNER_UNATTRIBUTED_ROW_TABLE_FULL,
 * which user space makes for each device before anything is attached or when the device appears.
 */
static __always_inline __u32 io_row_find(__u32 owner, __u32 device)
{
	struct io_row_key key = { owner, device };
	__u32 *known = bpf_map_lookup_elem(&io_row_of, &key), at;

	if (known)
		return *known;
	at = io_row_new(owner, device);
	if (at)
		return at;
	lose(LOSS_ROW_TABLE_FULL);
	key.owner = OWNER_UNATTRIBUTED_ROW_TABLE_FULL;
	known = bpf_map_lookup_elem(&io_row_of, &key);
	return known ? *known : 0;
}

static __always_inline void io_count_bytes(__u32 at, enum io_via via, __u64 bytes)
{
	struct io_row *row = bpf_map_lookup_elem(&io_rows, &at);

	if (row && via < VIA_MAX)
		__sync_fetch_and_add(&row->bytes[via], bytes);
}

/* ---- the busiest files, when asked for ---- */

#define IO_FILES 16384

const volatile bool keep_files = false;

struct io_file_key {
	__u32 owner, device; /* the file system's device */
	__u64 ino;
	__u32 generation;
	__u32 zero;
};

struct io_file {
	__u64 read_bytes, write_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IO_FILES);
	__type(key, struct io_file_key);
	__type(value, struct io_file);
} io_files SEC(".maps");

checked_once int io_file_add(__u32 at, __u64 inode_at, bool write, __u32 bytes)
{
	struct io_row *row = bpf_map_lookup_elem(&io_rows, &at);
	struct inode *inode = (void *)inode_at;
	struct io_file_key key = {};
	struct io_file *f, fresh = {};
	__u64 alias;

	/* A device's own pages are no file. */
	if (!row || (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFBLK)
		return 0;
	key.owner = row->owner;
	key.device = BPF_CORE_READ(inode, i_sb, s_dev);
	key.ino = BPF_CORE_READ(inode, i_ino);
	key.generation = BPF_CORE_READ(inode, i_generation);
	f = bpf_map_lookup_elem(&io_files, &key);
	if (!f) {
		/* The top bit keeps files apart from cgroups, and a device number from an executable's address. */
		alias = (__u64)BPF_CORE_READ(inode, i_dentry.first);
		if (alias)
			name_of_path((__u64)key.device << 32 | key.generation, key.ino | 1ULL << 63, dentry_of_alias(alias), 0);
		bpf_map_update_elem(&io_files, &key, &fresh, BPF_NOEXIST);
		f = bpf_map_lookup_elem(&io_files, &key);
		if (!f) {
			lose(LOSS_FILE_TABLE_FULL);
			return 0;
		}
	}
	__sync_fetch_and_add(write ? &f->write_bytes : &f->read_bytes, bytes);
	return 0;
}

/* ---- the slowest requests of each interval, when asked for ---- */

#define IO_WORST 32

const volatile bool keep_worst = false;

/* Only those of processes that are followed. */
const volatile bool worst_followed = false;

struct io_request {
	__u64 at; /* completion, ns, CLOCK_MONOTONIC */
	__u64 queue_ns, device_ns;
	__u64 sector;
	__u32 bytes;
	__u32 row;
	__u32 op;  /* enum io_op */
	__u32 via; /* enum io_via, of its first bytes */
	__u32 number, thread; /* as its slot has them */
};

struct io_slowest {
	__u64 least; /* of those kept, once all places are taken */
	__u32 least_at;
	__u32 n;
	__u32 interval;
	__u32 zero;
	struct io_request request[IO_WORST];
};

/* Per CPU, one for each parity of the interval, so that user space reads the one that has just ended. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct io_slowest);
} io_worst SEC(".maps");

static __always_inline bool is_row_followed(__u32 row)
{
	struct io_row *r = bpf_map_lookup_elem(&io_rows, &row);

	return r && is_followed(r->owner);
}

checked_once int io_worst_add(struct io_request *r)
{
	__u32 now = interval, key = now & 1, at;
	struct io_slowest *w = bpf_map_lookup_elem(&io_worst, &key);
	__u64 took, least = ~0ULL;

	if (!w || !r || (worst_followed && !is_row_followed(r->row)))
		return 0;
	took = r->queue_ns + r->device_ns;
	if (w->interval != now) {
		w->interval = now;
		w->n = 0;
		w->least = 0;
	}
	at = w->n;
	if (at < IO_WORST) {
		w->n = at + 1;
	} else {
		if (took <= w->least)
			return 0;
		at = w->least_at;
		if (at >= IO_WORST)
			return 0;
	}
	w->request[at] = *r;
	if (w->n < IO_WORST)
		return 0;
	for (int i = 0; i < IO_WORST; i++) {
		__u64 that = w->request[i].queue_ns + w->request[i].device_ns;

		if (that < least) {
			least = that;
			w->least_at = i;
		}
	}
	w->least = least;
	return 0;
}

/* ---- single events, when asked for ---- */

/* Only those of this device, 0: of all; only completions of requests that took so many ns. */
const volatile __u32 trace_device;
const volatile __u64 trace_least;

/* A flight recorder waits for a request that takes longer, ns; 0: it does not. */
const volatile __u64 io_trigger;

/* How many requests were given a number: 0 stands for none. */
volatile __u32 requests_numbered;

static __always_inline bool is_request_traced(void)
{
	return trace_kinds & (1ULL << TRACE_IO_QUEUE | 1ULL << TRACE_IO_ISSUE | 1ULL << TRACE_IO_MERGE | 1ULL << TRACE_IO_COMPLETE) || io_trigger;
}

static __always_inline __u32 request_number(void)
{
	return is_request_traced() ? __sync_fetch_and_add(&requests_numbered, 1) + 1 : 0;
}

/* What a request is to do, which whoever is running need not have to do with; a completion has more. */
static __noinline int trace_request(enum trace_kind kind, struct io_request *r, __u32 owner, __u32 device)
{
	struct trace_record record = { .kind = kind, .a = r->op, .b = r->thread, .c = device };

	if ((trace_device && trace_device != device) || !is_wanted(owner))
		return 0;
	record.more[0] = r->sector;
	record.more[1] = r->bytes | (__u64)r->number << 32;
	return trace_interruptible(&record, TRACE_SHORT + 16);
}

/* The current thread submits a request. */
static __noinline int trace_submission(struct io_request *r, __u32 device)
{
	struct task_context *c = trace_some ? task_context(bpf_get_current_task_btf()) : NULL;

	r->thread = bpf_get_current_pid_tgid();
	return trace_request(TRACE_IO_QUEUE, r, c ? c->owner : OWNER_NONE, device);
}

checked_once int trace_completion(struct io_request *r)
{
	struct trace_record record = { .kind = TRACE_IO_COMPLETE };
	struct io_row *row;
	__u32 at;

	if (!r)
		return 0;
	at = r->row;
	row = bpf_map_lookup_elem(&io_rows, &at);
	if (!row || (trace_device && trace_device != row->device) || !is_wanted(row->owner))
		return 0;
	if (io_trigger && r->queue_ns + r->device_ns > io_trigger)
		trigger(NOTICE_IO, row->owner, 0, r->queue_ns + r->device_ns, NULL);
	if (!is_traced(TRACE_IO_COMPLETE) || r->queue_ns + r->device_ns < trace_least)
		return 0;
	record.a = r->op | r->via << 8;
	record.b = row->owner;
	record.c = row->device;
	record.more[0] = r->sector;
	record.more[1] = r->bytes | (__u64)r->number << 32;
	record.more[2] = r->queue_ns;
	record.more[3] = r->device_ns;
	record.more[4] = r->thread;
	return trace_interruptible(&record, TRACE_SHORT + 40);
}
