/* SPDX-License-Identifier: Dual MIT/GPL */
/* Sockets, TCP and packets, as far as culprit reads them. */
#pragma once
#include "sched.h"

/* include/linux/socket.h, include/uapi/linux/in.h */
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262

/* include/linux/net.h, include/linux/socket.h, include/net/sock.h, include/linux/udp.h: bits of udp_sock.udp_flags */
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000
#define RCV_SHUTDOWN 1
#define UDP_FLAGS_CORK 1
#define UDP_HEADER 8

/* include/uapi/asm-generic/errno-base.h, errno.h */
#define E2BIG 7
#define ENOMEM 12
#define ENOBUFS 105

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
};

/* include/linux/net.h, include/net/sock.h, include/net/inet_connection_sock.h */
#define SOCK_NOSPACE 2
#define SOCK_DONE 1
#define SHUTDOWN_MASK 3
#define SK_PACING_NEEDED 1
#define ICSK_ACK_SCHED 1
#define ICSK_TIME_RETRANS 1
#define ICSK_TIME_PROBE0 3
#define ICSK_TIME_LOSS_PROBE 5

/* include/net/tcp.h, include/uapi/linux/tcp.h */
#define TCP_NAGLE_OFF 1
#define TCP_NAGLE_CORK 2
#define TCP_CA_Recovery 3
#define TCP_CA_Loss 4
#define TCP_CHRONO_RWND_LIMITED 2
#define TCPHDR_FIN 0x01
#define TCPHDR_SYN 0x02

/* include/uapi/linux/if_ether.h, include/net/ip.h */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IP_OFFSET 0x1fff

/* On the wire: RFC 791, RFC 8200, RFC 768; TCP's ports are where UDP's are. */
struct iphdr {
	__u8 version_ihl;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__be32 saddr;
	__be32 daddr;
};

struct ipv6hdr {
	__be32 version;
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__u64 saddr[2];
	__u64 daddr[2];
};

struct udphdr {
	__be16 source;
	__be16 dest;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	union {
		struct {
			__be32 skc_daddr;
			__be32 skc_rcv_saddr;
		};
	};
	union {
		struct {
			__be16 skc_dport;
			__u16 skc_num;
		};
	};
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	union {
		unsigned long skc_flags;
	};
};

struct socket {
	unsigned long flags;
	struct sock *sk;
};

typedef struct {
	int owned;
} socket_lock_t;

struct tcp_congestion_ops {
	void *cong_control;
};

/* include/linux/bpf_local_storage.h */
struct bpf_local_storage_data;

struct bpf_local_storage {
	struct bpf_local_storage_data *cache[16];
};

struct sock {
	struct sock_common __sk_common;
	struct bpf_local_storage *sk_bpf_storage;
	socket_lock_t sk_lock;
	__u16 sk_type;
	__u16 sk_protocol;
	__u8 sk_kern_sock : 1;
	__u8 sk_shutdown;
	int sk_err;
	__u32 sk_pacing_status;
	struct socket *sk_socket;
	struct timer_list tcp_retransmit_timer;
};

struct inet_sock {
	struct sock sk;
};

struct udp_sock {
	unsigned long udp_flags;
	int pending; /* AF_… */
	__u16 len;   /* of what is pending, with the header */
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct timer_list icsk_delack_timer;
	__u32 icsk_rto, icsk_rto_min; /* ticks */
	const struct tcp_congestion_ops *icsk_ca_ops;
	__u8 icsk_ca_state : 5;
	__u8 icsk_retransmits;
	__u8 icsk_pending;
	struct {
		__u8 pending;
	} icsk_ack;
};

/* 6.18 has it, 7.2 in struct sock. */
struct inet_connection_sock___v618 {
	struct timer_list icsk_retransmit_timer;
};

struct tcp_rack {
	__u64 mstamp;
	__u32 rtt_us;
};

struct minmax_sample {
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_options_received {
	__u8 snd_wscale : 4;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 tcp_wstamp_ns;
	__u64 tcp_mstamp;
	__u32 segs_in;
	__u32 segs_out;
	__u32 total_retrans;
	__u32 rcv_nxt;
	__u32 rcv_wup;
	__u32 copied_seq;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 snd_sml;
	__u32 snd_wnd;
	__u32 snd_cwnd;
	__u32 write_seq;
	__u32 mss_cache;
	__u32 srtt_us;
	__u32 packets_out;
	__u32 retrans_out;
	__u32 lost_out;
	__u32 sacked_out;
	__u32 high_seq;
	__u32 dsack_dups;
	struct minmax rtt_min; /* us */
	struct tcp_rack rack;
	__u8 chrono_type : 2;
	__u8 nonagle : 4;
	__u8 is_cwnd_limited : 1;
	struct tcp_options_received rx_opt;
	bool is_mptcp;
};

struct tcp_skb_cb {
	__u32 seq;
	__u32 end_seq;
	__u8 tcp_flags;
	__u32 ack_seq;
};

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
	char cb[48];
	__be16 protocol;
	__u16 transport_header;
	unsigned char *head;
	unsigned char *data;
};

/* include/linux/time64.h */
struct timespec64 {
	__s64 tv_sec;
	__s64 tv_nsec;
};

struct nsproxy {
	struct net *net_ns;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop
