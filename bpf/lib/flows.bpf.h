/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Flows: whose socket a packet is for, found by its addresses and ports before the kernel has looked for the socket itself. (Where it has, the
 * socket's tracepoints do not tell of all packets: those that come while a process has the socket's lock are kept for later.)
 *
 * A TCP connection is the opener's, or the listener's until somebody reads from it; then the reader's. Of UDP, a port is whose socket
 * an iterator found: there are no tracepoints of those.
 */
#pragma once
#include "socket.bpf.h"
#include <bpf/bpf_endian.h>

#define FLOWS 65536

struct flow {
	__u64 sk; /* struct sock * */
	__u32 owner;
	__u32 port; /* of UDP, whose sockets go without notice; else 0 */
};

/* By a hash of a connection's ends, or of a port of listeners and UDP sockets. That two have the same one can be left out of account. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct flow);
} flows SEC(".maps");

/* Of a TCP socket. A connection that is accepted has a copy of its listener's. */
struct flow_ref {
	__u64 reader; /* task_mark() of who read last */
	__u64 flow;   /* its key in `flows`, 0: none */
	__u32 owner;
	__u32 pid; /* the owner's: its number may be another one's since */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct flow_ref);
} flow_refs SEC(".maps");

volatile struct storage_place flow_place;

/* Set where a packet came for a UDP port that no socket is known of: user space looks for it then. */
volatile __u32 ports_unknown;

static __always_inline __u64 mix(__u64 h, __u64 v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15;
	return h ^ h >> 32;
}

static __always_inline __u64 port_key(__u64 net, __u32 protocol, __u32 port)
{
	return mix(mix(net, protocol), port);
}

/* Of ports in network order: the remote one first. */
static __always_inline __u64 flow_key(__u64 net, __u64 remote, __u64 local, __u32 ports)
{
	return mix(mix(mix(net, remote), local), ports);
}

static __always_inline __u64 flow_key6(__u64 net, const __u64 remote[2], const __u64 local[2], __u32 ports)
{
	return mix(flow_key(net, remote[0], local[0], ports), remote[1] ^ (local[1] << 1));
}

/* Of an established connection. */
static __always_inline __u64 flow_of(struct sock *sk)
{
	__u32 ports = sk->__sk_common.skc_dport | (__u32)bpf_ntohs(sk->__sk_common.skc_num) << 16;
	__u64 remote[2], local[2];

	if (sk->__sk_common.skc_family == AF_INET6) {
		bpf_probe_read_kernel(remote, sizeof(remote), &sk->__sk_common.skc_v6_daddr);
		bpf_probe_read_kernel(local, sizeof(local), &sk->__sk_common.skc_v6_rcv_saddr);
		/* IPv4 packets reach IPv6 sockets, with mapped addresses. */
		if (!remote[0] && (__u32)remote[1] == bpf_htonl(0xffff))
			return flow_key(netns_of(sk), remote[1] >> 32, local[1] >> 32, ports);
		return flow_key6(netns_of(sk), remote, local, ports);
	}
	return flow_key(netns_of(sk), sk->__sk_common.skc_daddr, sk->__sk_common.skc_rcv_saddr, ports);
}

static __always_inline void flow_set(__u64 key, struct sock *sk, __u32 owner, __u32 port)
{
	struct flow f = { .sk = as_number(sk), .owner = owner, .port = port };

	if (bpf_map_update_elem(&flows, &key, &f, BPF_ANY))
		lose(LOSS_FLOW_TABLE_FULL);
}

static __always_inline void flow_give(struct flow_ref *ref, __u32 owner)
{
	ref->owner = owner;
	ref->pid = pid_of_owner(owner);
}

static __always_inline void flow_end(struct flow_ref *ref, struct sock *sk)
{
	__u64 key = ref->flow;
	struct flow *f = bpf_map_lookup_elem(&flows, &key);

	ref->flow = 0;
	if (f && f->sk == as_number(sk))
		bpf_map_delete_elem(&flows, &key);
}

/* The part of a packet that tells its flow. */
struct headers {
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	};
	__u32 ports;
};

/* Where there is a cast, loads cost nothing: calls for them, some 30 ns each. What cannot be read is 0 then. */
static __always_inline bool read_ipv4(struct iphdr *to, __u64 at)
{
	struct iphdr *ip;

	if (!bpf_rdonly_cast)
		return !bpf_probe_read_kernel(to, sizeof(*to), (void *)at);
	ip = bpf_rdonly_cast((void *)at, bpf_core_type_id_kernel(struct iphdr));
	to->version_ihl = ip->version_ihl;
	to->frag_off = ip->frag_off;
	to->protocol = ip->protocol;
	to->saddr = ip->saddr;
	to->daddr = ip->daddr;
	return true;
}

static __always_inline __u32 read_ports(__u64 at)
{
	struct udphdr *udp;
	__u32 ports = 0;

	if (!bpf_rdonly_cast) {
		bpf_probe_read_kernel(&ports, sizeof(ports), (void *)at);
		return ports;
	}
	udp = bpf_rdonly_cast((void *)at, bpf_core_type_id_kernel(struct udphdr));
	return udp->source | (__u32)udp->dest << 16;
}

checked_once __u32 flow_owner(__u64 key)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &key);

	return f ? f->owner : 0;
}

/* Whether a UDP socket still has its port. Where it was, there may be another one. */
static __always_inline bool has_port(const struct flow *f)
{
	struct sock *sk = (void *)f->sk;

	return BPF_CORE_READ(sk, __sk_common.skc_num) == f->port && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_UDP;
}

/* The same of a TCP socket's connection, or of what it listens on. Its end may have reached no program. */
static __always_inline bool has_ended(const struct flow *f)
{
	struct sock *sk = (void *)f->sk;

	return BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE;
}

/* Whose UDP socket has a port. If several share it, it is one of theirs. */
static __always_inline __u32 port_owner(__u64 key)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &key);

	if (f && has_port(f))
		return f->owner;
	ports_unknown = 1;
	return 0;
}

/*
 * Whose socket a packet is for that the network layer is about to get, 0 if that is not known: it may be for none. Extension headers of
 * IPv6, fragments but the first, and what is for a device of another network namespace (macvlan) are not looked into.
 */
static __always_inline __u32 packet_owner(struct sk_buff *skb)
{
	__u64 net = skb->dev->nd_net.net->ns.inum, data = (__u64)skb->data, key;
	__u32 protocol, owner;
	struct headers h;
	__u16 kind = skb->protocol;

	if (kind == bpf_htons(ETH_P_IP)) {
		if (!read_ipv4(&h.v4, data))
			return 0;
		if (h.v4.frag_off & bpf_htons(IP_OFFSET))
			return 0;
		data += (h.v4.version_ihl & 15) * 4;
		protocol = h.v4.protocol;
	} else if (kind == bpf_htons(ETH_P_IPV6)) {
		if (bpf_probe_read_kernel(&h.v6, sizeof(h.v6), (void *)data))
			return 0;
		data += sizeof(h.v6);
		protocol = h.v6.nexthdr;
	} else {
		return 0;
	}
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	h.ports = read_ports(data);
	if (protocol == IPPROTO_TCP) {
		if (kind == bpf_htons(ETH_P_IP))
			key = flow_key(net, h.v4.saddr, h.v4.daddr, h.ports);
		else
			key = flow_key6(net, h.v6.saddr, h.v6.daddr, h.ports);
		owner = flow_owner(key);
		if (owner)
			return owner;
	}
	key = port_key(net, protocol, bpf_ntohs(h.ports >> 16));
	return protocol == IPPROTO_TCP ? flow_owner(key) : port_owner(key);
}
