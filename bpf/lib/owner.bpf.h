/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * The process table: who owns an event.
 *
 * An owner is a slot of `processes`. A thread's context (task storage) holds its
 * process's number, so stamping an event costs one storage lookup. A process
 * gets its slot at its first event; what it is called is captured then, at
 * exec, rename and cgroup moves (owner.bpf.c), and kept after its death. User space gives a
 * slot back only when the process is gone and nothing refers to its number.
 *
 * All objects of one culprit share these maps: user space makes them once.
 */
#pragma once
#include "compat.bpf.h"
#include "loss.bpf.h"
#include "pool.bpf.h"

/* Owners below OWNER_FIRST stand for no process; OWNER_X_Y is the row's name in user space. */
enum owner {
	OWNER_NONE,
	OWNER_UNATTRIBUTED_BEFORE_ATTACH,
	OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL,
	OWNER_UNATTRIBUTED_REQUEST_SLOTS_FULL,
	OWNER_UNATTRIBUTED_MERGED_BIOS_FULL,
	OWNER_UNATTRIBUTED_DIRTY_INODES_FULL,
	OWNER_UNATTRIBUTED_DIRTY_FOLIOS_FULL,
	OWNER_UNATTRIBUTED_JOURNAL_TABLE_FULL,
	OWNER_UNATTRIBUTED_ROW_TABLE_FULL,
	OWNER_UNATTRIBUTED_REQUEST_TOO_LONG,
	OWNER_UNATTRIBUTED_UNSEEN_COMPLETION,
	OWNER_KERNEL_SUPERBLOCK,
	OWNER_KERNEL_XFS_METADATA,
	OWNER_KERNEL_BTRFS_METADATA,
	OWNER_KERNEL_SWAP,
	OWNER_KERNEL_LOOP,
	OWNER_KERNEL_METADATA,
	OWNER_UNATTRIBUTED_CULPRIT_TABLE_FULL,
	OWNER_UNATTRIBUTED_UNSEEN_WAIT,
	OWNER_INTERRUPTS,
	OWNER_SOFTIRQS,
	OWNER_WAKE_UP_PATH,
	OWNER_QUOTA,
	OWNER_OLDER,
	OWNER_KERNEL,
	OWNER_UNATTRIBUTED_SOCKET,
	OWNER_UNATTRIBUTED_PACKET,
	OWNER_FIRST = 32,
};

const enum owner *owner_type __attribute__((unused));

#define PROCESSES 32768
#define NAMES 8192
#define NAME_LEN 256       /* kept of a path, its first components lost first */
#define NAME_PART 256      /* kept of one component: NAME_MAX and the NUL */
#define NAME_DEPTH 24

/* Where a path is kept: two words that identify what it names, all 0 for none. */
struct name_key {
	__u64 a, b;
};

struct name {
	char parts[NAME_LEN + NAME_PART]; /* components from the last to the first, each ended by NUL */
};

/* Everything that a process is called by, but its number. */
struct identity {
	struct name_key exe;
	struct name_key cgroup2, cgroup_systemd, cgroup_memory;
	__u32 uid;
	__u32 kthread;  /* is a thread of the kernel */
	__u32 followed; /* was started by culprit, or by such a process */
	__u32 zero;
	char comm[16];
};

struct process {
	__u64 start_boottime; /* ns, CLOCK_BOOTTIME */
	__u32 pid, ppid;
	__u32 flags; /* PROCESS_… */
	__u32 group; /* of all processes with this identity; 0: it found no place */
	__u32 exec_pages; /* of one that is followed: its peak when it executed its program, which may be its parent's (exec_mmap(), fs/exec.c) */
	__u32 zero;
	struct identity who;
};

enum process_flags {
	PROCESS_DEAD = 1,
	PROCESS_RELEASED = 2, /* by user space, which is about to free the slot */
};

const enum process_flags *process_flags_type __attribute__((unused));

/* One process, told apart from others that had the same pid. */
struct process_key {
	__u64 start_boottime;
	__u32 pid;
	__u32 zero;
};

/* What every probe keeps for a thread. */
struct task_context {
	__u32 owner;
	/* io */
	__u32 io_device;      /* the device that io_row is for */
	__u32 io_row;         /* the row that this thread's last request was counted in */
	__u32 throttled;      /* the next sleep is balance_dirty_pages()'s */
	__u64 sleeping_since; /* for I/O, in the run queue's clock */
	/* sched */
	__u32 thread; /* its slot of `threads`, 0: none yet */
	__u32 zero;
	/* jbd2 */
	__u32 handle_device, handle_tid; /* the transaction that this thread's handle joined */
	__u32 commit_device, commit_tid; /* the transaction that this thread commits; 0: none */
	__u32 inode_owner;               /* who dirtied the inode that is being written out or updated here */
	__u32 marks;                     /* TASK_… */
};

#define TASK_FAST_COMMIT 1U /* between ext4_fc_commit_start and _stop */
#define TASK_SUPERBLOCK 2U  /* the next write is the journal's superblock */
#define TASK_WRITEPAGES 4U  /* between ext4_writepages and _result */
#define TASK_TALKS 8U       /* has used a TCP connection */
#define TASK_DATAGRAM 16U   /* one of two programs on a tracepoint has counted a datagram, */
#define TASK_DATAGRAM_AGAIN 32U /* or the other one */

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_context);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct process);
} processes SEC(".maps");

/* The slots handed out, as a map and not a global because all objects share it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pool);
} process_pool SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PROCESSES);
	__type(value, __u32);
} processes_returned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROCESSES);
	__type(key, struct process_key);
	__type(value, __u32);
} process_owners SEC(".maps");

/* Groups have numbers from here on: below it are those of owners. */
#define GROUP_FIRST (1U << 20)
#define GROUPS 8192

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GROUPS);
	__type(key, struct identity);
	__type(value, __u32);
} groups SEC(".maps");

/* How many numbers were given to groups. None is given twice. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} groups_made SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NAMES);
	__type(key, struct name_key);
	__type(value, struct name);
} names SEC(".maps");

/*
 * A path is put together here before it is kept: it is too large for the stack. A program that
 * comes between another one's beginning and end goes without.
 */
struct name_scratch {
	struct name name;
	__u32 taken;
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct name_scratch);
} name_scratch SEC(".maps");

/*
 * The number of the last sweep that found something referring to an owner: a
 * probe's sweep program writes it, user space frees what it has not seen for two sweeps.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} owner_seen SEC(".maps");

/*
 * Paths are walked by bpf_loop(), whose body is verified once: a loop of the
 * compiler's is verified pass by pass, in every program that can make a process's slot.
 */
struct name_walk {
	struct name *name;
	__u64 at;  /* dentry or kernfs node */
	__u64 mnt; /* struct mount, 0 within a file system */
	__u32 len;
	__u32 zero;
};

static __always_inline void name_add(struct name_walk *w, const void *part)
{
	__u32 len = w->len;
	long added;

	if (len >= NAME_LEN)
		return;
	added = bpf_probe_read_kernel_str(w->name->parts + len, NAME_PART, part);
	if (added > 0)
		w->len = len + added;
}

/* Where the path of something is put together; NULL if it is kept already. */
static __always_inline struct name *name_begin(__u64 a, __u64 b)
{
	struct name_key key = { a, b };
	struct name_scratch *n;
	__u32 zero = 0;

	if ((!a && !b) || bpf_map_lookup_elem(&names, &key))
		return NULL;
	n = bpf_map_lookup_elem(&name_scratch, &zero);
	if (!n)
		return NULL;
	if (__sync_val_compare_and_swap(&n->taken, 0, 1)) {
		lose(LOSS_NAME_TABLE_FULL);
		return NULL;
	}
	__builtin_memset(&n->name, 0, sizeof(n->name));
	return &n->name;
}

static __always_inline void name_keep(__u64 a, __u64 b, struct name *n)
{
	struct name_scratch *taken = (void *)n;
	struct name_key key = { a, b };

	if (bpf_map_update_elem(&names, &key, n, BPF_ANY))
		lose(LOSS_NAME_TABLE_FULL);
	taken->taken = 0;
}

static long name_dentry(__u32 i, void *ctx)
{
	struct name_walk *w = ctx;
	struct dentry *dentry = (void *)w->at, *parent;
	struct mount *mnt = (void *)w->mnt, *up;

	if (mnt && dentry == BPF_CORE_READ(mnt, mnt.mnt_root)) {
		up = BPF_CORE_READ(mnt, mnt_parent);
		if (up == mnt)
			return 1;
		w->at = (__u64)BPF_CORE_READ(mnt, mnt_mountpoint);
		w->mnt = (__u64)up;
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry)
		return 1;
	name_add(w, BPF_CORE_READ(dentry, d_name.name));
	w->at = (__u64)parent;
	return 0;
}

/*
 * Keeps the path of a dentry within its mount namespace, or within its file system if mnt is 0. The
 * key comes in two words: what a pointer leads to could be no key before 6.2.
 */
checked_once int name_of_path(__u64 a, __u64 b, __u64 dentry, __u64 vfsmnt)
{
	struct name_walk w = { .at = dentry };

	w.name = name_begin(a, b);
	if (!w.name)
		return 0;
	if (vfsmnt)
		w.mnt = vfsmnt - bpf_core_field_offset(struct mount, mnt);
	bpf_loop(NAME_DEPTH, name_dentry, &w, 0);
	name_keep(a, b, w.name);
	return 0;
}

static long name_kernfs(__u32 i, void *ctx)
{
	struct name_walk *w = ctx;
	struct kernfs_node *kn = (void *)w->at, *parent = kernfs_parent(kn);

	if (!parent)
		return 1;
	name_add(w, BPF_CORE_READ(kn, name));
	w->at = (__u64)parent;
	return 0;
}

checked_once int name_of_cgroup(struct name_key *key, __u64 cgroup)
{
	struct cgroup *cgrp = (void *)cgroup;
	struct kernfs_node *kn = BPF_CORE_READ(cgrp, kn);
	struct name_walk w = { .at = (__u64)kn };

	if (!key || !kn)
		return 0;
	key->a = BPF_CORE_READ(kn, id);
	key->b = 1 + BPF_CORE_READ(cgrp, root, hierarchy_id);
	w.name = name_begin(key->a, key->b);
	if (!w.name)
		return 0;
	bpf_loop(NAME_DEPTH, name_kernfs, &w, 0);
	name_keep(key->a, key->b, w.name);
	return 0;
}

/* v1's "name=systemd" hierarchy has no controller to find it by: it is one of the set's links. */
struct systemd_walk {
	__u64 link, head;
	__u64 cgroup;
};

static long find_systemd(__u32 i, void *ctx)
{
	struct systemd_walk *w = ctx;
	__u64 at = w->link;
	struct cgrp_cset_link *link = (void *)(at - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link));
	struct cgroup *cgrp;
	struct cgroup_root *root;
	__u64 name = 0;

	if (!at || at == w->head)
		return 1;
	cgrp = BPF_CORE_READ(link, cgrp);
	root = BPF_CORE_READ(cgrp, root);
	bpf_core_read(&name, sizeof(name), &root->name);
	if (name == 0x00646d6574737973) { /* "systemd" */
		w->cgroup = (__u64)cgrp;
		return 1;
	}
	w->link = (__u64)BPF_CORE_READ(link, cgrp_link.next);
	return 0;
}

checked_once __u64 systemd_cgroup(__u64 css_set)
{
	struct css_set *set = (void *)css_set;
	struct systemd_walk w = {
		.head = css_set + bpf_core_field_offset(struct css_set, cgrp_links),
		.link = (__u64)BPF_CORE_READ(set, cgrp_links.next),
	};

	bpf_loop(32, find_systemd, &w, 0);
	return w.cgroup;
}

/* What tells a process from others that had its number before, or have it later: 0 for owners that are none. */
static __always_inline __u32 pid_of_owner(__u32 owner)
{
	struct process *p = bpf_map_lookup_elem(&processes, &owner);

	return p ? p->pid : 0;
}

static __always_inline bool is_owner_known(__u32 owner, __u32 pid)
{
	struct process *p = bpf_map_lookup_elem(&processes, &owner);

	return owner && p && p->pid == pid && !(p->flags & PROCESS_RELEASED);
}

static __always_inline bool is_followed(__u32 owner)
{
	struct process *p = bpf_map_lookup_elem(&processes, &owner);

	return p && p->who.followed;
}

/* Finds the group of those who are called the same. */
checked_once int process_join(__u32 owner)
{
	struct process *p = bpf_map_lookup_elem(&processes, &owner);
	__u32 zero = 0, number, *group, *made;

	if (!p)
		return 0;
	group = bpf_map_lookup_elem(&groups, &p->who);
	if (!group) {
		made = bpf_map_lookup_elem(&groups_made, &zero);
		if (!made)
			return 0;
		number = GROUP_FIRST + __sync_fetch_and_add(made, 1);
		bpf_map_update_elem(&groups, &p->who, &number, BPF_NOEXIST);
		/* Another CPU may have been first. */
		group = bpf_map_lookup_elem(&groups, &p->who);
	}
	if (!group)
		lose(LOSS_GROUP_TABLE_FULL);
	p->group = group ? *group : 0;
	return 0;
}

/* Everything about a process that can change in its life. */
checked_once int process_describe(__u32 owner, __u64 task_at)
{
	struct process *p = bpf_map_lookup_elem(&processes, &owner);
	struct task_struct *task = (void *)task_at, *leader = BPF_CORE_READ(task, group_leader);
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct cgroup_subsys_state *css = NULL;
	struct name_key key = {};
	__u64 systemd;

	if (!p)
		return 0;
	p->who.uid = BPF_CORE_READ(task, cred, uid.val);
	bpf_probe_read_kernel(p->who.comm, sizeof(p->who.comm), &leader->comm);
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD) {
		p->who.kthread = 1;
		return process_join(owner);
	}
	if (exe) {
		struct dentry *dentry = BPF_CORE_READ(exe, f_path.dentry);

		/* The inode number tells a dentry from a later one at the same address. */
		key.a = (__u64)dentry;
		key.b = BPF_CORE_READ(exe, f_inode, i_ino) << 16;
		name_of_path(key.a, key.b, (__u64)dentry, (__u64)BPF_CORE_READ(exe, f_path.mnt));
		p->who.exe = key;
	}
	key.a = key.b = 0;
	name_of_cgroup(&key, (__u64)BPF_CORE_READ(set, dfl_cgrp));
	p->who.cgroup2 = key;
	key.a = key.b = 0;
	systemd = systemd_cgroup((__u64)set);
	if (systemd)
		name_of_cgroup(&key, systemd);
	p->who.cgroup_systemd = key;
	key.a = key.b = 0;
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		bpf_probe_read_kernel(&css, sizeof(css),
				      &set->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) & 15]);
	if (css)
		name_of_cgroup(&key, (__u64)BPF_CORE_READ(css, cgroup));
	p->who.cgroup_memory = key;
	return process_join(owner);
}

/* The slot of a task's process, made at its first event. */
checked_once __u32 process_owner(__u64 task_at)
{
	struct task_struct *task = (void *)task_at, *leader = BPF_CORE_READ(task, group_leader);
	struct process_key key = { .pid = BPF_CORE_READ(task, tgid) };
	__u32 zero = 0, owner, *known;
	struct process *p;
	struct pool *pool;

	key.start_boottime = BPF_CORE_READ(leader, start_boottime);
	known = bpf_map_lookup_elem(&process_owners, &key);
	if (known)
		return *known;
	pool = bpf_map_lookup_elem(&process_pool, &zero);
	owner = pool ? pool_get(pool, &processes_returned) : 0;
	if (!owner)
		goto full;
	p = bpf_map_lookup_elem(&processes, &owner);
	if (!p)
		goto full;
	__builtin_memset(p, 0, sizeof(*p));
	p->start_boottime = key.start_boottime;
	p->pid = key.pid;
	p->ppid = BPF_CORE_READ(leader, real_parent, tgid);
	process_describe(owner, task_at);
	if (bpf_map_update_elem(&process_owners, &key, &owner, BPF_NOEXIST)) {
		bpf_map_push_elem(&processes_returned, &owner, BPF_ANY);
		/* Another thread of the process was first, or there is no room. */
		known = bpf_map_lookup_elem(&process_owners, &key);
		if (known)
			return *known;
		goto full;
	}
	return owner;
full:
	lose(LOSS_PROCESS_TABLE_FULL);
	return OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL;
}

/*
 * The context of a task, with its owner; NULL only without memory. A process
 * that found the table full is looked up again at its next event.
 */
static __always_inline struct task_context *task_context(struct task_struct *task)
{
	struct task_context *c = bpf_task_storage_get(&tasks, task, 0, 0);

	if (c && c->owner >= OWNER_FIRST)
		return c;
	if (!c)
		c = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!c) {
		lose(LOSS_TASK_CONTEXT_FAILED);
		return NULL;
	}
	c->owner = process_owner(as_number(task));
	c->io_row = 0; /* was perhaps that of those without a place */
	return c;
}
