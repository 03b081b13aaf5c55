/* SPDX-License-Identifier: Dual MIT/GPL */
/* Sockets: what every probe that looks at them asks. */
#pragma once
#include "../kernel/net.h"
#include "owner.bpf.h"

void *bpf_rdonly_cast(const void *obj, __u32 type) __ksym __weak;

/* The cast costs nothing; before 6.2 there is a helper function alone, a call of which costs some 30 ns. */
static __always_inline struct tcp_sock *tcp_of(struct sock *sk)
{
	if (bpf_rdonly_cast)
		return bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
	return (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
}

/* Sockets of other families (NETLINK_XFRM) and raw ones have the protocols' numbers, too. */
static __always_inline bool is_tcp(struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_TCP && sk->sk_type == SOCK_STREAM;
}

static __always_inline bool is_udp(struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM;
}

/* NULL if a file is none. */
static __always_inline struct sock *sock_of(struct file *file)
{
	struct socket *socket = file ? bpf_sock_from_file(file) : NULL;

	return socket ? socket->sk : NULL;
}

/* In tcp_rcv_space_adjust(). Without the socket's lock it is no process that reads, but the kernel on an interrupt's behalf. */
static __always_inline bool is_read_by_process(struct sock *sk)
{
	return sk->sk_lock.owned;
}

/* Its network namespace, by the inode of it. */
static __always_inline __u32 netns_of(struct sock *sk)
{
	return sk->__sk_common.skc_net.net->ns.inum;
}

/* And by its own number: the inode of one that is gone is soon another one's. */
static __always_inline __u64 netns_cookie_of(struct sock *sk)
{
	return sk->__sk_common.skc_net.net->net_cookie;
}

/* The kernel's own sockets, as NFS's. Those of Multipath TCP are on behalf of a process. */
static __always_inline bool is_kernels(struct sock *sk, struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(sk, sk_kern_sock) && !tp->is_mptcp;
}

/* A number of a task's own. Its address is none: the next child of a shell may soon have that. */
static __always_inline __u64 task_mark(struct task_struct *task)
{
	return task->start_boottime ^ (__u64)task->pid << 42;
}

static __always_inline __u32 owner_of_current(void)
{
	struct task_context *c = task_context(bpf_get_current_task_btf());

	return c ? c->owner : OWNER_UNATTRIBUTED_PROCESS_TABLE_FULL;
}

/*
 * Where the kernel keeps a map's values of sockets: each socket has a cache of them, in which a map has the same place for all
 * (bpf_local_storage_lookup(), include/linux/bpf_local_storage.h). To look there costs nothing, bpf_sk_storage_get() three calls.
 */
struct storage_place {
	__u64 map; /* struct bpf_local_storage_map *, 0: not learnt yet */
	__u32 at;
	__u32 zero;
};

#define CACHED(n) \
	case n:   \
		return s->cache[n];

/*
 * The place is no constant, and the verifier wants one. Each time that it sees a pointer loaded through one that it trusts, it
 * looks for names among all types of the kernel, for milliseconds: hence the cast.
 */
static __always_inline struct bpf_local_storage_data *storage_cached(struct sock *sk, __u32 at)
{
	struct sock *any = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct sock));
	struct bpf_local_storage *s = any->sk_bpf_storage;

	if (!s)
		return NULL;
	switch (at) {
		CACHED(0)
		CACHED(1)
		CACHED(2)
		CACHED(3)
		CACHED(4)
		CACHED(5)
		CACHED(6)
		CACHED(7)
		CACHED(8)
		CACHED(9)
		CACHED(10)
		CACHED(11)
		CACHED(12)
		CACHED(13)
		CACHED(14)
		CACHED(15)
	}
	return NULL;
}

/* Of what is cached, the map and the first word of the value: the casts are to a type of two words. */
static __always_inline struct timespec64 *storage_words(struct bpf_local_storage_data *d)
{
	return bpf_rdonly_cast(d, bpf_core_type_id_kernel(struct timespec64));
}

/* Whether the first word of a socket's value is in the socket's cache, and that word. */
static __always_inline bool storage_word(struct sock *sk, volatile struct storage_place *p, __u64 *word)
{
	struct bpf_local_storage_data *d;
	struct timespec64 *words;

	if (!bpf_rdonly_cast || !p->map)
		return false;
	d = storage_cached(sk, p->at);
	if (!d)
		return false;
	words = storage_words(d);
	*word = words->tv_nsec;
	return (__u64)words->tv_sec == p->map;
}

/* Finds the place, if it is not known, given a value that bpf_sk_storage_get() has just returned. */
static __noinline int storage_learn(struct sock *sk, const void *value, volatile struct storage_place *p)
{
	__u64 address = as_number(value);
	struct bpf_local_storage_data *d;

	if (!bpf_rdonly_cast || p->map)
		return 0;
	for (__u32 at = 0; at < 16; at++) {
		d = storage_cached(sk, at);
		if (!d || as_number(d) + sizeof(__u64) != address)
			continue;
		p->at = at;
		barrier();
		p->map = storage_words(d)->tv_sec;
	}
	return 0;
}
