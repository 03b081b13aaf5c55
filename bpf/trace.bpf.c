// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Single events, in order, for files that timelines and query engines open: who had each CPU and who woke whom, migrations, throttling, the life of
 * threads, interrupts and softirqs, signals, OOM kills, and on request page faults, system calls and timers. Those of disks and of TCP come from the
 * programs of the io and tcp probes.
 *
 * Hooks one tracepoint for each kind of event that is asked for. Keeps the last records of each CPU (lib/trace.bpf.h), and sends
 * the lives of threads besides, so that names outlive what is overwritten, and what a flight recorder waits for. Can lose: records that user space did not read
 * before they were overwritten, which it counts; what it was to be told at once, as notices_dropped.
 *
 * Costs, by `make bench` and bpf_stats_enabled on 6.18, of which some 80 ns are the measurement's own: 130 ns a context switch, 135 ns a wake-up,
 * and 16 bytes each; with user space, a third of what perf sched record costs. Where only some processes' events are wanted, each switch and wake-up looks for two threads' owners.
 */
#include "lib/compat.bpf.h"
#include "lib/loss.bpf.h"
#include "lib/trace.bpf.h"
#include "kernel/sched.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

static __always_inline __u32 current_tid(void) { return bpf_get_current_pid_tgid(); }

/* ---- the lives of threads ---- */

SEC("tp_btf/task_newtask")
int BPF_PROG(trace_thread_begins, struct task_struct *task)
{
	tell(NOTICE_BEGINS, task->pid, task->tgid, current_tid(), task->comm);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(trace_executes, struct task_struct *task)
{
	tell(NOTICE_EXECUTES, task->pid, task->tgid, 0, task->comm);
	return 0;
}

SEC("tp_btf/task_rename")
int BPF_PROG(trace_renamed, struct task_struct *task, const char *comm)
{
	tell(NOTICE_RENAMED, task->pid, task->tgid, 0, comm);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(trace_thread_ends, struct task_struct *task)
{
	tell(NOTICE_ENDS, task->pid, task->tgid, task->exit_code, task->comm);
	return 0;
}

/* A flight recorder's triggers. */
const volatile __u64 wait_trigger;   /* a wait for a CPU of so many ns; 0: none */
const volatile __u64 signal_trigger; /* signals, by the bit of their number less one */

/* As bpf/sched.bpf.c finds it: the kernel has not yet taken note of the arrival. */
static __always_inline void trigger_by_wait(struct task_struct *next)
{
	__u64 queued = next->sched_info.last_queued, now = next->se.cfs_rq->rq->clock;

	if (queued && now > queued && now - queued > wait_trigger)
		trigger(NOTICE_WAITED, next->pid, next->tgid, now - queued, next->comm);
}

/* ---- scheduling ---- */

/* As sched_switch prints it: __task_state_index(), include/linux/sched.h. */
static __always_inline __u16 sleeps_how(bool preempt, unsigned int state, int exit_state)
{
	const unsigned int idle = 0x402, report = 0x7f; /* TASK_IDLE, TASK_REPORT */

	if (preempt)
		return TRACE_PREEMPTED;
	if ((state & idle) == idle)
		return TRACE_IDLE;
	return (state | exit_state) & report;
}

/* Whoever would run on, and whose cgroup's quota is used up, which is none of real-time threads'. */
#define MAX_RT_PRIO 100

static __always_inline void throttled(struct task_struct *task, unsigned int state)
{
	struct trace_record r = { .kind = TRACE_THROTTLE, .b = task->pid };

	if (!state && task->prio >= MAX_RT_PRIO && is_leaf_throttled(task->se.cfs_rq) && is_throttled(task))
		trace_uninterrupted(&r, TRACE_SHORT);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(trace_switch, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int state)
{
	struct trace_record r = {
		.kind = TRACE_SWITCH, .a = sleeps_how(preempt, state, prev->exit_state), .b = prev->pid, .c = next->pid | next->prio << 24
	};

	if (wait_trigger && is_task_wanted(next))
		trigger_by_wait(next);
	if (!is_task_wanted(prev) && !is_task_wanted(next))
		return 0;
	if (is_traced(TRACE_THROTTLE) && is_task_wanted(prev))
		throttled(prev, state);
	if (!is_traced(TRACE_SWITCH))
		return 0;
	return trace_uninterrupted(&r, TRACE_SHORT);
}

/* Interrupts may be on: who is on its way to sleep can be woken before (try_to_wake_up() where it is current, kernel/sched/core.c). */
static __always_inline int woken(struct task_struct *task)
{
	struct trace_record r = { .kind = TRACE_WAKING, .a = task->thread_info.cpu, .b = task->pid, .c = current_tid() };
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	/* The interrupt that hrtimers come with is no device's. */
	if (t && (t->irq_since || t->softirq_since || t->timer_since[TIMER_HARD]))
		r.c |= TRACE_INTERRUPT;
	if (!is_task_wanted(task) && (r.c & TRACE_INTERRUPT || !is_task_wanted(bpf_get_current_task_btf())))
		return 0;
	return trace_interruptible(&r, TRACE_SHORT);
}

SEC("tp_btf/sched_waking")
int BPF_PROG(trace_waking, struct task_struct *task)
{
	return woken(task);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(trace_wakeup_new, struct task_struct *task)
{
	return woken(task);
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(trace_migrate, struct task_struct *task, int to)
{
	struct trace_record r = { .kind = TRACE_MIGRATE, .a = to, .b = task->pid, .c = task->thread_info.cpu };

	return is_task_wanted(task) ? trace_uninterrupted(&r, TRACE_SHORT) : 0;
}

/* ---- interrupts ---- */

/* Who wakes somebody needs to know of them in any case. */
const volatile bool keep_irqs = true, keep_softirqs = true;

static __always_inline __u32 saturated(__u64 ns) { return ns > ~0U ? ~0U : ns; }

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(trace_irq_begins)
{
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (t)
		t->irq_since = bpf_ktime_get_boot_ns();
	return 0;
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(trace_irq, int number)
{
	struct trace_record r = { .kind = TRACE_IRQ, .a = number, .c = current_tid() };
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (!t || !t->irq_since)
		return 0;
	r.b = saturated(bpf_ktime_get_boot_ns() - t->irq_since);
	t->irq_since = 0;
	return keep_irqs ? trace_uninterrupted(&r, TRACE_SHORT) : 0;
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(trace_softirq_begins)
{
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (t)
		t->softirq_since = bpf_ktime_get_boot_ns();
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(trace_softirq, unsigned int kind)
{
	struct trace_record r = { .kind = TRACE_SOFTIRQ, .a = kind, .c = current_tid() };
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (!t || !t->softirq_since)
		return 0;
	r.b = saturated(bpf_ktime_get_boot_ns() - t->softirq_since);
	t->softirq_since = 0;
	return keep_softirqs ? trace_interruptible(&r, TRACE_SHORT) : 0;
}

/* ---- timers ---- */

struct trace_function {
	char name[48];
};

const struct trace_function *trace_function_type __attribute__((unused));

/* What functions of timers are called, by their address: user space may not be allowed to know. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct trace_function);
} trace_functions SEC(".maps");

static const char symbol[] = "%ps";

checked_once int function_learn(__u64 address)
{
	struct trace_function f = {};

	if (!bpf_map_lookup_elem(&trace_functions, &address)) {
		bpf_snprintf(f.name, sizeof(f.name), symbol, &address, sizeof(address));
		bpf_map_update_elem(&trace_functions, &address, &f, BPF_ANY);
	}
	return 0;
}

static __always_inline int timer_begins(enum timer_level level, __u64 function)
{
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (!t)
		return 0;
	if (is_traced(TRACE_TIMER))
		function_learn(function);
	t->timer_function[level] = function;
	t->timer_since[level] = bpf_ktime_get_boot_ns();
	return 0;
}

static __always_inline int timer_ends(bool high_resolution)
{
	struct trace_record r = { .kind = TRACE_TIMER, .a = high_resolution, .c = current_tid() };
	enum timer_level level = TIMER_LOW;
	struct trace_cpu *t;
	__u32 cpu;

	t = trace_here(&cpu);
	if (!t)
		return 0;
	if (high_resolution)
		level = t->timer_since[TIMER_HARD] ? TIMER_HARD : TIMER_SOFT;
	if (!t->timer_since[level])
		return 0;
	r.b = saturated(bpf_ktime_get_boot_ns() - t->timer_since[level]);
	r.more[0] = t->timer_function[level];
	t->timer_since[level] = 0;
	return is_traced(TRACE_TIMER) ? trace_interruptible(&r, TRACE_SHORT + 8) : 0;
}

SEC("tp_btf/timer_expire_entry")
int BPF_PROG(trace_timer_begins, struct timer_list *timer)
{
	return timer_begins(TIMER_LOW, (__u64)BPF_CORE_READ(timer, function));
}

SEC("tp_btf/timer_expire_exit")
int BPF_PROG(trace_timer)
{
	return timer_ends(false);
}

SEC("tp_btf/hrtimer_expire_entry")
int BPF_PROG(trace_hrtimer_begins, struct hrtimer *timer)
{
	return timer_begins(BPF_CORE_READ(timer, is_soft) ? TIMER_SOFT : TIMER_HARD, (__u64)BPF_CORE_READ(timer, function));
}

SEC("tp_btf/hrtimer_expire_exit")
int BPF_PROG(trace_hrtimer)
{
	return timer_ends(true);
}

/* ---- signals, memory, system calls ---- */

struct kernel_siginfo {
	int si_code;
} __attribute__((preserve_access_index));

SEC("tp_btf/signal_generate")
int BPF_PROG(trace_signal, int number, struct kernel_siginfo *info, struct task_struct *task, int group, int result)
{
	struct trace_record r = { .kind = TRACE_SIGNAL, .a = number, .b = task->pid, .c = current_tid() };
	__u64 address = 0;
	int code = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &info);
	if (address > 1) /* SEND_SIG_NOINFO, SEND_SIG_PRIV (include/linux/sched/signal.h) */
		code = BPF_CORE_READ((struct kernel_siginfo *)address, si_code);
	r.more[0] = (__u32)code | (__u64)result << 32;
	if (number > 0 && number <= 64 && signal_trigger >> (number - 1) & 1 && is_task_wanted(task))
		trigger(NOTICE_SIGNALLED, task->pid, task->tgid, number, task->comm);
	if (!is_task_wanted(task) && !is_task_wanted(bpf_get_current_task_btf()))
		return 0;
	return trace_uninterrupted(&r, TRACE_SHORT + 8); /* siglock is held */
}

/* The task since 6.10 (72ba14deb40a "mm: update mark_victim tracepoints fields"), its id before. */
const volatile bool oom_tells_task = true;

SEC("tp_btf/mark_victim")
int trace_oom(__u64 *ctx)
{
	struct trace_record r = { .kind = TRACE_OOM };

	r.b = oom_tells_task ? BPF_CORE_READ((struct task_struct *)ctx[0], pid) : ctx[0];
	return trace_interruptible(&r, TRACE_SHORT);
}

static __always_inline int faulted(__u64 address, __u16 user)
{
	struct trace_record r = { .kind = TRACE_FAULT, .a = user, .b = current_tid(), .more = { address } };

	return is_task_wanted(bpf_get_current_task_btf()) ? trace_interruptible(&r, TRACE_SHORT + 8) : 0;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(trace_fault_user, unsigned long address)
{
	return faulted(address, 1);
}

SEC("tp_btf/page_fault_kernel")
int BPF_PROG(trace_fault_kernel, unsigned long address)
{
	return faulted(address, 0);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(trace_syscall, void *regs, long number)
{
	struct trace_record r = { .kind = TRACE_SYSCALL, .a = number, .b = current_tid() };

	return !is_task_wanted(bpf_get_current_task_btf()) ? 0 : trace_interruptible(&r, TRACE_SHORT);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(trace_syscall_ends, void *regs, long result)
{
	struct trace_record r = { .kind = TRACE_SYSCALL_ENDS, .b = current_tid(), .more = { result } };

	return !is_task_wanted(bpf_get_current_task_btf()) ? 0 : trace_interruptible(&r, TRACE_SHORT + 8);
}
