/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * What a thread waits for that sleeps: told by the system call that it sleeps in, and by the files that this is about. It is
 * looked at only if user space asks for it, and for processes that are followed.
 */
#pragma once
#include "../kernel/fs.h"
#include "../kernel/net.h"
#include "../kernel/sched.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Why a thread is not running. */
enum off {
	OFF_RUNNABLE, /* waits for a CPU; what of it the kernel does not count as waiting is in slept[OFF_RUNNABLE] */
	OFF_DISK,     /* in_iowait */
	OFF_BLOCKED,  /* uninterruptible otherwise */
	OFF_ASLEEP,   /* all that follow, too, unless they are told apart: */
	OFF_NETWORK,
	OFF_LOCK,
	OFF_EVENTS,
	OFF_MAX = 8, /* a power of two */
};

const enum off *off_type __attribute__((unused));

/* What is known of a system call. */
enum sleep_kind {
	SLEEP_OTHER,
	SLEEP_FILE,   /* its first argument is a file */
	SLEEP_POLL,   /* that is an array of struct pollfd, as long as its second argument says */
	SLEEP_LOCK,
	SLEEP_EVENTS, /* of files that it does not name */
};

const enum sleep_kind *sleep_kind_type __attribute__((unused));

#define SYSCALLS 512

const volatile bool tell_sleeps;

/* enum sleep_kind by number, which user space knows of its architecture. */
const volatile __u8 sleep_kinds[SYSCALLS];

#define TS_COMPAT 2    /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT 22   /* arch/arm64/include/asm/thread_info.h */

struct thread_info___x86 {
	__u32 status;
};

struct pt_regs___x86 {
	unsigned long orig_ax, di, si;
};

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
};

struct pollfd {
	int fd;
	short events, revents;
};

/* Of more than these, the first are looked at. */
#define POLLED 8

static __always_inline bool is_network(__u64 files, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ((struct files_struct *)files, fdt);
	struct file **place, *file = NULL;
	struct socket *socket;
	__u16 family;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return false;
	place = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), place + fd);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return false;
	socket = BPF_CORE_READ(file, private_data);
	family = BPF_CORE_READ(socket, sk, __sk_common.skc_family);
	return family == AF_INET || family == AF_INET6;
}

static __always_inline bool is_network_polled(__u64 files, __u64 at, __u64 n)
{
	struct pollfd polled[POLLED] = {};

	if (n > POLLED)
		n = POLLED;
	if (bpf_probe_read_user(polled, n * sizeof(polled[0]), (void *)at))
		return false;
	for (__u32 i = 0; i < POLLED && i < n; i++)
		if (is_network(files, polled[i].fd))
			return true;
	return false;
}

/* In a system call of a 32-bit program, which has other numbers; or a thread that works for io_uring, without registers of its own. */
static __always_inline bool is_foreign(struct task_struct *task)
{
	struct thread_info___x86 *x86 = (void *)&task->thread_info;

	if (task->flags & PF_IO_WORKER)
		return true;
	if (bpf_core_field_exists(x86->status))
		return BPF_CORE_READ(x86, status) & TS_COMPAT;
	return BPF_CORE_READ(task, thread_info.flags) & (1UL << TIF_32BIT);
}

/* What the current thread waits for, by its registers and its files; OFF_… */
checked_once int sleeps_for(__u64 regs, __u64 files)
{
	struct pt_regs___arm64 *arm = (void *)regs;
	struct pt_regs___x86 *x86 = (void *)regs;
	__u64 number, first, second;

	if (bpf_core_field_exists(x86->orig_ax)) {
		number = BPF_CORE_READ(x86, orig_ax);
		first = BPF_CORE_READ(x86, di);
		second = BPF_CORE_READ(x86, si);
	} else {
		number = BPF_CORE_READ(arm, syscallno);
		first = BPF_CORE_READ(arm, orig_x0);
		second = BPF_CORE_READ(arm, regs[1]);
	}
	if (number >= SYSCALLS)
		return OFF_ASLEEP;
	switch (sleep_kinds[number]) {
	case SLEEP_FILE:
		return is_network(files, first) ? OFF_NETWORK : OFF_ASLEEP;
	case SLEEP_POLL:
		return is_network_polled(files, first, second) ? OFF_NETWORK : OFF_EVENTS;
	case SLEEP_LOCK:
		return OFF_LOCK;
	case SLEEP_EVENTS:
		return OFF_EVENTS;
	}
	return OFF_ASLEEP;
}
