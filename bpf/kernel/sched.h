/* SPDX-License-Identifier: Dual MIT/GPL */
/* Tasks, credentials, cgroups and run queues, as far as culprit reads them. */
#pragma once
#include "types.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct list_head {
	struct list_head *next, *prev;
};

typedef struct {
	__u32 val;
} kuid_t;

struct timer_list {
	void (*function)(struct timer_list *);
};

struct hrtimer {
	void (*function)(struct hrtimer *);
	__u8 is_soft;
};

struct cred {
	kuid_t uid;
};

struct signal_struct {
	atomic_t live;
	unsigned long maxrss; /* pages */
};

struct rq {
	__u64 clock;
	int cpu;
};

struct cfs_rq {
	struct rq *rq;
	__u64 throttled_clock_self;
	__u64 throttled_clock_self_time;
	int throttle_count;
};

/* Before 6.6 (677ea015f231 "sched: add throttled time stat for throttled children"). */
struct cfs_rq___v65 {
	__u64 throttled_clock_pelt_time;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
	__u64 sum_exec_runtime;
	__u64 nr_migrations;
};

struct sched_info {
	__u64 run_delay;
	__u64 last_arrival;
	__u64 last_queued;
};

struct kernfs_node {
	struct kernfs_node *__parent;
	const char *name;
	__u64 id;
};

/* Before 6.15 (633488947ef6 "kernfs: Use RCU to access kernfs_node::parent."). */
struct kernfs_node___v614 {
	struct kernfs_node *parent;
};

struct cgroup_root {
	char name[64];
	int hierarchy_id;
};

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

enum cgroup_subsys_id {
	memory_cgrp_id = 0, /* relocated */
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
	struct list_head cgrp_links;
};

struct cgrp_cset_link {
	struct cgroup *cgrp;
	struct list_head cgrp_link;
};

struct mm_struct;

struct thread_info {
	unsigned long flags;
	__u32 cpu;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state;
	unsigned int flags;
	unsigned char on_rq; /* an int before 7.0, of which this is the low byte */
	int exit_state;
	int exit_code;
	int prio;
	bool throttled; /* since 6.18 (e1fad12dcb66 "sched/fair: Switch to task based throttle model") */
	__u64 numa_pages_migrated;
	struct sched_entity se;
	struct sched_info sched_info;
	struct mm_struct *mm;
	unsigned int in_iowait : 1;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	__u64 start_boottime;
	const struct cred *cred;
	char comm[16];
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
};

struct bpf_iter__task {
	struct task_struct *task;
};

#pragma clang attribute pop
