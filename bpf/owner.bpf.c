// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Keeps the process table true: exec, rename, cgroup moves and exits of
 * processes that have a slot. A process without one is described when it gets
 * one (lib/owner.bpf.h), so the many that never cause an event cost one hash lookup here.
 * Where a command is followed, it and all its descendants have a slot from their beginning, and are marked.
 *
 * Can lose: names, counted as name_table_full; descendants, as process_table_full and events_missed. Costs one hash lookup an
 * event, and a microsecond or two where a process is described anew.
 */
#include "lib/owner.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* By the process and not by the thread: the one that executes, or exits last, need not be one that caused an event. */
static __always_inline __u32 owner_of(struct task_struct *task)
{
	struct process_key key = { .start_boottime = task->group_leader->start_boottime, .pid = task->tgid };
	__u32 *owner = bpf_map_lookup_elem(&process_owners, &key);

	return owner ? *owner : 0;
}

/* The process of which the first child that executes a program is followed, with all that it starts; 0: none is. */
volatile __u32 follower;

struct followed {
	__u64 processes; /* so far */
	__u64 ended;
	__u64 most_pages;   /* the largest peak of one that has ended, */
	char most_comm[16]; /* and its name, or that of one that ended at the same moment */
};

volatile struct followed all_followed;

const struct followed *followed_type __attribute__((unused));

/* Twice is once: two programs see an event where they are preempted. */
static __always_inline __u32 follow(struct task_struct *task)
{
	__u32 owner = process_owner(as_number(task));
	struct process *p = bpf_map_lookup_elem(&processes, &owner);

	if (p && owner >= OWNER_FIRST && !__sync_val_compare_and_swap(&p->who.followed, 0, 1)) {
		__sync_fetch_and_add(&all_followed.processes, 1);
		process_join(owner);
	}
	return owner;
}

/* In the process that follows. */
SEC("syscall")
int follow_child(void *ctx)
{
	follower = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* How large one has been that ends, or executes another program. A peak that it had when it executed this one need not be its own. */
static __always_inline void peak_note(struct process *p, __u64 pages)
{
	__u64 most = all_followed.most_pages;

	if (pages <= p->exec_pages)
		return;
	for (int i = 0; i < 8 && pages > most; i++) {
		__u64 seen = __sync_val_compare_and_swap(&all_followed.most_pages, most, pages);

		if (seen == most) {
			bpf_probe_read_kernel((void *)all_followed.most_comm, sizeof(all_followed.most_comm), p->who.comm);
			break;
		}
		most = seen;
	}
}

static __always_inline int executes(struct task_struct *task)
{
	__u32 owner;
	struct process *p;

	if (follower && !all_followed.processes && task->group_leader->real_parent->tgid == follower)
		follow(task);
	owner = owner_of(task);
	p = bpf_map_lookup_elem(&processes, &owner);
	if (!p || !owner)
		return 0;
	if (p->who.followed) {
		if (p->exec_pages)
			peak_note(p, task->signal->maxrss);
		p->exec_pages = task->signal->maxrss;
	}
	process_describe(owner, as_number(task));
	return 0;
}

TP_BTF_TWICE("sched_process_exec", process_exec, executes(task), struct task_struct *task)

/* The child has not run yet. */
static __always_inline int forks(struct task_struct *parent, struct task_struct *child)
{
	if (child->pid == child->tgid && is_followed(owner_of(parent)))
		follow(child);
	return 0;
}

/* Attached only where processes are followed. */
TP_BTF_TWICE("sched_process_fork", process_fork, forks(parent, child), struct task_struct *parent, struct task_struct *child)

/* Only the main thread's name is the process's. The tracepoint comes before the change. */
SEC("tp_btf/task_rename")
int BPF_PROG(process_rename, struct task_struct *task, const char *comm)
{
	struct process *p;
	__u32 owner;

	if (task->pid != task->tgid)
		return 0;
	owner = owner_of(task);
	p = bpf_map_lookup_elem(&processes, &owner);
	if (!p || !owner)
		return 0;
	__builtin_memset(p->who.comm, 0, sizeof(p->who.comm));
	bpf_probe_read_kernel_str(p->who.comm, sizeof(p->who.comm), comm);
	process_join(owner);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(process_moved, struct cgroup *to, const char *path, struct task_struct *task)
{
	__u32 owner = owner_of(task);

	if (owner)
		process_describe(owner, as_number(task));
	return 0;
}

/* signal->live counts the threads that have not begun to exit. It is 0 at the last one's, and at others' that exit at the same time. */
static __always_inline int exits(struct task_struct *task)
{
	struct process *p;
	__u32 owner;

	if (task->signal->live.counter)
		return 0;
	owner = owner_of(task);
	p = bpf_map_lookup_elem(&processes, &owner);
	if (!p || !owner || __sync_fetch_and_or(&p->flags, PROCESS_DEAD) & PROCESS_DEAD || !p->who.followed)
		return 0;
	__sync_fetch_and_add(&all_followed.ended, 1);
	peak_note(p, task->signal->maxrss);
	return 0;
}

TP_BTF_TWICE("sched_process_exit", process_exit, exits(task), struct task_struct *task)
