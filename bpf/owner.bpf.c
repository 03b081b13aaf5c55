// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Keeps the process table true: exec, rename, cgroup moves and exits of
 * processes that have a slot. A process without one is described when it gets
 * one (lib/owner.bpf.h), so the many that never cause an event cost one hash lookup here.
 *
 * Can lose: names, counted as name_table_full. Costs one hash lookup an event, and a
 * microsecond or two where a process is described anew.
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

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	__u32 owner = owner_of(task);

	if (owner)
		process_describe(owner, as_number(task));
	return 0;
}

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

/* signal->live counts the threads that have not begun to exit; it is 0 at the last one's. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	struct process *p;
	__u32 owner;

	if (task->signal->live.counter)
		return 0;
	owner = owner_of(task);
	p = bpf_map_lookup_elem(&processes, &owner);
	if (p && owner)
		__sync_fetch_and_or(&p->flags, PROCESS_DEAD);
	return 0;
}
