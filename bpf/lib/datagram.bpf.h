/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * UDP: what each process sent and received, and what receive buffers had no room for.
 *
 * Nothing is kept of who talks to whom: a datagram is counted for the process that makes the system call. A drop
 * happens behind its back, so a socket's own storage names who used it last. Of a socket that nobody has used
 * yet, user space looks for whoever has it open.
 *
 * A datagram costs some 200 ns at each end, and a read from a TCP connection 60 ns, for not being one.
 */
#pragma once
#include "conn.bpf.h"

struct datagram_counts {
	__u64 sent_bytes, received_bytes;
	__u64 sent, received; /* as the kernel counts them: one with UDP_SEGMENT, or UDP_GRO, is one */
	__u64 dropped;        /* for want of room or memory */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct datagram_counts);
} datagrams SEC(".maps");

/* What the kernel is to have counted in a network namespace. */
struct datagram_audit {
	__u64 sent, received;
	__u64 dropped; /* for want of room */
	__u64 refused; /* that send() told of, and SndbufErrors, too */
	__u32 owner;   /* somebody with a socket in there, */
	__u32 pid;     /* and who that was then */
	__u32 netns, zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* netns_cookie_of() */
	__type(value, struct datagram_audit);
} datagram_audits SEC(".maps");

/* Who used a socket last. The number may have been given to another process since then, which has another pid. */
struct datagram_user {
	__u32 owner;
	__u32 pid;
	__u32 has_unclaimed; /* drops */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct datagram_user);
} datagram_users SEC(".maps");

/* Drops, by the address of a socket that nobody has used. User space has their owner looked for, takes the others, and removes what is here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} unclaimed_drops SEC(".maps");

static __always_inline struct datagram_audit *datagram_audit_of(struct sock *sk, __u32 owner)
{
	__u64 cookie = netns_cookie_of(sk);
	struct datagram_audit first = {}, *a = bpf_map_lookup_elem(&datagram_audits, &cookie);

	if (!a) {
		first.netns = netns_of(sk);
		bpf_map_update_elem(&datagram_audits, &cookie, &first, BPF_NOEXIST);
		a = bpf_map_lookup_elem(&datagram_audits, &cookie);
		if (!a)
			lose(LOSS_NAMESPACE_TABLE_FULL);
	}
	if (a && owner >= OWNER_FIRST && a->owner != owner) {
		a->owner = owner;
		a->pid = pid_of_owner(owner);
	}
	return a;
}

static __always_inline void drops_charge(__u32 owner, __u64 n)
{
	struct datagram_counts *d = bpf_map_lookup_elem(&datagrams, &owner);

	if (d)
		__sync_fetch_and_add(&d->dropped, n);
}

/* A process uses a socket that was somebody else's, or has it open and nobody used it. */
static __noinline int datagrams_handed_over(struct sock *sk, __u32 owner)
{
	struct datagram_user none = {}, *u = bpf_sk_storage_get(&datagram_users, sk, &none, BPF_LOCAL_STORAGE_GET_F_CREATE);
	__u64 address = as_number(sk), *drops;

	if (!u) {
		lose(LOSS_SOCKET_STORAGE_FAILED);
		return 0;
	}
	u->owner = owner;
	u->pid = pid_of_owner(owner);
	if (!u->has_unclaimed)
		return 0;
	u->has_unclaimed = 0;
	drops = bpf_map_lookup_elem(&unclaimed_drops, &address);
	if (drops) /* not removed: more may be on their way there */
		drops_charge(owner, __sync_lock_test_and_set(drops, 0));
	return 0;
}

/* Whose a datagram is, that the current process sends or receives. */
static __always_inline __u32 datagram_owner(struct sock *sk, struct task_context *t)
{
	struct datagram_user *u = bpf_sk_storage_get(&datagram_users, sk, 0, 0);
	__u32 owner = t ? t->owner : OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL;

	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock))
		owner = OWNER_KERNEL;
	if (!u || u->owner != owner)
		datagrams_handed_over(sk, owner);
	return owner;
}

/*
 * Whether another program has counted this event, for those of which there are two: who comes first, of either, leaves its mark, which the
 * other takes away. A mark does not tell events apart: of two in a row on one thread, of which each program sees another one, one is lost.
 */
static __always_inline bool is_counted(struct task_context *t, bool again)
{
	__u32 own = again ? TASK_DATAGRAM_AGAIN : TASK_DATAGRAM, other = again ? TASK_DATAGRAM : TASK_DATAGRAM_AGAIN;

	if (!programs_are_preempted() || !t)
		return false;
	if (t->marks & other) {
		t->marks &= ~other;
		return true;
	}
	t->marks |= own;
	return false;
}

/*
 * Whether a send() made a datagram of all that was waiting. With MSG_MORE, the last one does. With UDP_CORK, setsockopt() will, of
 * which nothing tells: the first one counts for it, after which just that waits (udp_sendmsg(), net/ipv4/udp.c).
 */
static __always_inline bool is_sent(struct sock *sk, __u32 length)
{
	struct udp_sock *up = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct udp_sock));

	if (!up->pending)
		return true;
	return bpf_core_field_exists(up->udp_flags) && up->udp_flags & UDP_FLAGS_CORK && up->len == length + UDP_HEADER;
}

/* A send() has returned so much. */
static __noinline int datagram_sent(struct sock *sk, int length, bool again)
{
	struct task_context *t = task_context(bpf_get_current_task_btf());
	struct socket *socket = sk->sk_socket;
	struct datagram_counts *d;
	struct datagram_audit *a;
	__u32 owner;

	if (!is_udp(sk) || !is_watched(netns_of(sk)) || is_counted(t, again))
		return 0;
	owner = datagram_owner(sk, t);
	a = datagram_audit_of(sk, owner);
	if (length < 0) {
		if (a && (length == -ENOBUFS || (socket && socket->flags & (1UL << SOCK_NOSPACE))))
			__sync_fetch_and_add(&a->refused, 1);
		return 0;
	}
	d = bpf_map_lookup_elem(&datagrams, &owner);
	if (d && length)
		__sync_fetch_and_add(&d->sent_bytes, length);
	if (!is_sent(sk, length))
		return 0;
	if (d)
		__sync_fetch_and_add(&d->sent, 1);
	if (a)
		__sync_fetch_and_add(&a->sent, 1);
	return 0;
}

/* A recv() has returned so much. */
static __noinline int datagram_received(struct sock *sk, int length, int flags, bool again)
{
	struct task_context *t;
	struct datagram_counts *d;
	struct datagram_audit *a;
	__u32 owner;

	if (length < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) || !is_udp(sk) || !is_watched(netns_of(sk)))
		return 0;
	if (!length && sk->sk_shutdown & RCV_SHUTDOWN) /* a reader that waited is told of the end */
		return 0;
	t = task_context(bpf_get_current_task_btf());
	if (is_counted(t, again))
		return 0;
	owner = datagram_owner(sk, t);
	a = datagram_audit_of(sk, owner);
	d = bpf_map_lookup_elem(&datagrams, &owner);
	if (d) {
		__sync_fetch_and_add(&d->received, 1);
		if (length)
			__sync_fetch_and_add(&d->received_bytes, length);
	}
	if (a)
		__sync_fetch_and_add(&a->received, 1);
	return 0;
}

/* Whether the process that used a socket last still has its number. */
static __always_inline bool is_user_known(struct datagram_user *u)
{
	return is_owner_known(u->owner, u->pid);
}

/* A datagram found no place in the socket's receive buffer (-ENOMEM), or the kernel has no more memory for such (-ENOBUFS). */
static __always_inline int drop_count(struct sock *sk, int error)
{
	struct datagram_user none = {}, *u;
	__u64 address = as_number(sk), zero = 0, *drops;
	struct datagram_audit *a;

	if (!is_udp(sk) /* UDP-Lite */ || !is_watched(netns_of(sk)))
		return 0;
	a = datagram_audit_of(sk, OWNER_NONE);
	if (a && error == -ENOMEM)
		__sync_fetch_and_add(&a->dropped, 1);
	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock)) {
		drops_charge(OWNER_KERNEL, 1);
		return 0;
	}
	u = bpf_sk_storage_get(&datagram_users, sk, &none, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!u) {
		lose(LOSS_SOCKET_STORAGE_FAILED);
		drops_charge(OWNER_UNATTRIBUTED_SOCKET, 1);
		return 0;
	}
	if (is_user_known(u)) {
		drops_charge(u->owner, 1);
		return 0;
	}
	u->owner = 0;
	bpf_map_update_elem(&unclaimed_drops, &address, &zero, BPF_NOEXIST);
	drops = bpf_map_lookup_elem(&unclaimed_drops, &address);
	if (drops)
		__sync_fetch_and_add(drops, 1);
	else
		drops_charge(OWNER_UNATTRIBUTED_SOCKET, 1);
	/* After the drop: whoever begins to use the socket meanwhile looks for it when this is set. */
	barrier();
	u->has_unclaimed = 1;
	return 0;
}

/* A process has a socket open: it is taken to be its user, unless there is one. */
static __always_inline void datagrams_found(struct sock *sk, struct task_struct *task)
{
	struct datagram_user *u = bpf_sk_storage_get(&datagram_users, sk, 0, 0);
	struct task_context *t;

	if (u && is_user_known(u)) {
		if (u->has_unclaimed)
			datagrams_handed_over(sk, u->owner);
		return;
	}
	t = task_context(task);
	if (t)
		datagrams_handed_over(sk, t->owner);
}
