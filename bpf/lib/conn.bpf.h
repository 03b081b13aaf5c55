/* SPDX-License-Identifier: Dual MIT/GPL */
/*
 * Connections: a slot for each tenure, that is for the time for which one process owns a TCP socket. The
 * socket's own storage names the slot, so that an event finds it without a hash.
 */
#pragma once
#include "socket.bpf.h"
#include "trace.bpf.h"

#define CONNS 65536

/* The only network namespace whose sums by process are wanted, 0: all. */
const volatile __u32 only_netns;

static __always_inline bool is_watched(__u32 netns)
{
	return !only_netns || netns == only_netns;
}

enum stall_cause {
	STALL_RTO = 1,
	STALL_TAIL_LOSS_PROBE,
	STALL_FAST_RETRANSMIT,
	STALL_ZERO_WINDOW,
	STALL_RECEIVE_WINDOW,
	STALL_PACING,
	STALL_SLOW_START_RESTART,
	STALL_CWND_LIMITED,
	STALL_NAGLE_DELAYED_ACK,
	STALL_SEND_BUFFER,
	STALL_DELAYED_ACK,
	STALL_READER_NOT_SCHEDULED,
	STALL_READER_NOT_READING,
	STALL_UNEXPLAINED,
	STALL_CAUSES = 16,
};

const enum stall_cause *stall_cause_type __attribute__((unused));

enum conn_flags {
	CONN_OPENED = 1,
	CONN_ACCEPTED = 2,
	CONN_PROVISIONAL = 4, /* its owner is the listener's: nobody has used it yet */
	CONN_MOVED_IN = 8,    /* another tenure of the socket came before */
	CONN_FAILED = 16,     /* closed by the network before it was established */
};

const enum conn_flags *conn_flags_type __attribute__((unused));

/* Of include/uapi/asm-generic/errno.h, as a socket keeps them. */
enum conn_error {
	CONN_TIMED_OUT = 110, /* ETIMEDOUT */
	CONN_REFUSED = 111,   /* ECONNREFUSED */
};

const enum conn_error *conn_error_type __attribute__((unused));

/* What a socket has done so far. The kernel's segment counts wrap. */
struct conn_counts {
	__u64 sent, received; /* bytes of payload */
	__u32 segs_out, segs_in;
	__u32 retransmits;
	__u32 zero;
};

struct conn_stalls {
	__u64 ns;
	__u32 count;
	__u32 max_us; /* in the interval of the connection's last stall */
};

/*
 * Written under the socket's lock, but for `ended`, which user space waits for; and by timers that run out, which come before the
 * lock, and after a write, who uses it. Times are CLOCK_MONOTONIC, ns.
 */
struct conn {
	__u64 sk; /* 0: the slot is free */
	__u32 owner;
	__u32 flags; /* CONN_… */
	__u32 list;  /* the last one that it is in */
	__u32 leaves; /* another tenure of the socket comes after */
	__u32 local[4], remote[4];
	__u16 local_port, remote_port; /* host order */
	__u16 family;
	__u8 state, error;
	__u32 netns;
	__u32 srtt_us;
	__u64 netns_cookie;
	__u64 began; /* the tenure */
	__u64 established, first_byte, closed, ended;
	struct conn_counts before, now; /* when the tenure began; when it was looked at last */
	__u32 failed_retransmits;
	/* Stalls: */
	__u32 cwnd;        /* at the last segment */
	__u32 una, nxt;    /* snd_una and snd_nxt as they were last, */
	__u64 moved;       /* and when they moved, or the window opened */
	__u64 last;        /* when the last segment came in */
	__u32 segs;        /* segs_in then */
	__u32 copied;      /* copied_seq when its owner read last */
	__u64 rack;        /* which round-trip time was taken last */
	__u64 ready;       /* since when there is something to read, 0: there is nothing, as far as was seen */
	__u64 reader;      /* struct task_struct * of who read or wrote last, */
	__u64 reader_mark; /* its task_mark(), */
	__u64 read_delay;  /* and its sched_info.run_delay at `ready` */
	__u64 timer_at;    /* the retransmission timer ran out, */
	__u64 timer_since; /* having waited since then, */
	__u32 timer_kind;  /* for ICSK_TIME_… */
	__u32 loss;        /* enum stall_cause: segments are lost, */
	__u64 loss_since;  /* and nothing went on since then */
	__u64 doubt;       /* when the first acknowledgement came that acknowledged nothing new */
	__u32 recovery;    /* high_seq of the last recovery that was told of */
	__u32 restart;     /* the congestion window that idling lost, until it is there again */
	__u64 zero_since;  /* the receiver has no room */
	__u64 paced;       /* the departure that was told of last */
	__u64 probed, probed_at;       /* a loss probe was acknowledged then, after so long */
	__u32 probe_dsacks;            /* dsack_dups before that */
	__u32 ready_ticks;             /* jiffies at `ready`, or when all was read */
	__u64 delack_since, delack_at; /* the last acknowledgement that was put off */
	__u64 delack_before[2];        /* ns of those before that the peer seems to have waited for, if they are not told of yet */
	__u32 delacks;                 /* how many of those in a row */
	__u32 delack_nxt;              /* snd_nxt then */
	__u32 stall_interval;          /* of the last stall */
	__u32 probed_long_ago;         /* more than a round trip */
	struct conn_stalls stall[STALL_CAUSES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CONNS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct conn);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, CONNS);
	__type(value, __u32);
} conns_returned SEC(".maps");

volatile struct pool conn_pool = { .next = 1, .size = CONNS };

/* Counted up by user space before each list. */
volatile __u32 list_number;

/* Of a socket. A connection that is accepted has a copy of its listener's, and so knows who that is. */
struct conn_ref {
	__u32 conn;  /* its slot, 0: it listens */
	__u32 owner; /* who listens */
	__u32 pid;   /* the owner's */
	__u32 begun; /* somebody has begun the first tenure, or is about to; it has no slot for want of one */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct conn_ref);
} conn_refs SEC(".maps");

/* By the address of the socket: all that a timer tells. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} conn_timers SEC(".maps");

/* Of a task that may be gone: then it is whatever is in its place. Where there is no cast, see tcp_of(). */
static __always_inline __u64 run_delay_of(__u64 task)
{
	struct task_struct *t;

	if (!bpf_rdonly_cast)
		return BPF_CORE_READ((struct task_struct *)task, sched_info.run_delay);
	t = bpf_rdonly_cast((void *)task, bpf_core_type_id_kernel(struct task_struct));
	return t->sched_info.run_delay;
}

static __always_inline struct conn *conn_at(__u32 at)
{
	return at ? bpf_map_lookup_elem(&conns, &at) : NULL;
}

/* Who listens, or listened, where a connection comes from. */
static __always_inline __u32 listener_of(const struct conn_ref *ref)
{
	return ref && is_owner_known(ref->owner, ref->pid) ? ref->owner : OWNER_UNATTRIBUTED_SOCKET;
}

volatile struct storage_place conn_place;

static __always_inline struct conn *conn_of(struct sock *sk)
{
	struct conn_ref *ref;
	struct conn *c;
	__u64 word;
	__u32 at;

	if (storage_word(sk, &conn_place, &word)) {
		at = word;
	} else {
		ref = bpf_sk_storage_get(&conn_refs, sk, 0, 0);
		if (!ref)
			return NULL;
		storage_learn(sk, ref, &conn_place);
		at = ref->conn;
	}
	c = conn_at(at);
	return c && c->sk == (__u64)sk ? c : NULL;
}

/* tcp_fin() sets SOCK_DONE. */
static __always_inline bool has_fin(__u64 sk)
{
	struct sock *s = (void *)sk;

	return BPF_CORE_READ(s, __sk_common.skc_flags) & (1UL << SOCK_DONE);
}

/* bytes_received counts a FIN as a byte (tcp_rcv_nxt_update() by end_seq, net/ipv4/tcp_input.c). */
static __always_inline __u64 received_by(__u64 sk)
{
	struct tcp_sock *tp = (void *)sk;
	__u64 received = BPF_CORE_READ(tp, bytes_received);

	return received ? received - has_fin(sk) : 0;
}

checked_once int conn_count(struct conn_counts *n, __u64 sk)
{
	struct tcp_sock *tp = (void *)sk;

	if (!n)
		return 0;
	n->sent = BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);
	n->received = received_by(sk);
	n->segs_out = BPF_CORE_READ(tp, segs_out);
	n->segs_in = BPF_CORE_READ(tp, segs_in);
	n->retransmits = BPF_CORE_READ(tp, total_retrans);
	return 0;
}

/*
 * What a connection has done by now. A closed one was looked at before tcp_disconnect() cleared it (SO_LINGER's reset does that). Its
 * CPU may be at it: a FIN is counted before it is told of, for up to a microsecond, and what is sent again is taken off before it is sent.
 */
static __always_inline void conn_look(struct conn *c)
{
	/* volatile: else the compiler takes a pointer that equals it, and the verifier wants a number. */
	__u64 sk = *(volatile __u64 *)&c->sk;
	struct tcp_sock *tp = (void *)sk;
	struct conn_counts n = {};
	__u64 again;

	if (c->closed)
		return;
	conn_count(&n, sk);
	for (int i = 0; i < 32 && n.received > c->now.received; i++) {
		again = received_by(sk);
		if (again < n.received) {
			n.received = again;
			break;
		}
	}
	if (n.sent < c->now.sent) /* or the former owner's bytes are on their way yet */
		n.sent = c->now.sent;
	if (n.received < c->now.received)
		n.received = c->now.received;
	c->now = n;
	c->srtt_us = BPF_CORE_READ(tp, srtt_us) >> 3;
}

static __always_inline void conn_describe(struct conn *c, struct sock *sk)
{
	c->family = sk->__sk_common.skc_family;
	c->local_port = sk->__sk_common.skc_num;
	c->remote_port = __builtin_bswap16(sk->__sk_common.skc_dport);
	c->netns = netns_of(sk);
	c->netns_cookie = netns_cookie_of(sk);
	if (c->family == AF_INET6) {
		bpf_probe_read_kernel(c->local, sizeof(c->local), &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_probe_read_kernel(c->remote, sizeof(c->remote), &sk->__sk_common.skc_v6_daddr);
	} else {
		c->local[0] = sk->__sk_common.skc_rcv_saddr;
		c->remote[0] = sk->__sk_common.skc_daddr;
	}
}

/* Takes what was written, sent or not, for sent, but for the last so many bytes. */
static __always_inline void count_written(struct conn_counts *n, struct tcp_sock *tp, __u32 but)
{
	n->sent += (__u64)(tp->write_seq - tp->snd_nxt) - but;
}

/*
 * What a connection's owner wrote and read, when somebody else has just written so many bytes, or read. What user space was told of
 * already stays the owner's.
 */
static __always_inline void conn_settle(struct conn *c, struct tcp_sock *tp, __u32 written)
{
	struct conn_counts n = {}, told = c->now;
	struct conn_counts again = {};
	__s32 unread = 0;

	/* After a write nobody holds the socket's lock. */
	for (int i = 0; i < 4; i++) {
		conn_count(&n, c->sk);
		unread = tp->rcv_nxt - has_fin(c->sk) - c->copied;
		conn_count(&again, c->sk);
		if (n.received == again.received)
			break;
	}
	count_written(&n, tp, written);
	if (unread > 0)
		n.received -= unread;
	if (n.sent < told.sent)
		n.sent = told.sent;
	if (n.received < told.received)
		n.received = told.received;
	c->now = n;
}

/* Ends a tenure: user space reads it once more, and gives the slot back. */
static __always_inline void conn_end(struct conn *c, __u64 now)
{
	conn_look(c);
	barrier();
	c->ended = now;
}

/*
 * Begins a tenure, and returns its slot, 0 for want of one: a connection that has an owner already stays that one's then. It takes over from
 * another tenure, NULL for the first; that one's counts are those before, NULL for what the socket did until now.
 */
static __noinline __u32 conn_begin(struct sock *sk, struct conn *former, struct conn_counts *before, __u32 owner, __u32 flags)
{
	struct conn_ref none = {}, *ref = bpf_sk_storage_get(&conn_refs, sk, &none, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct tcp_sock *tp = tcp_of(sk);
	__u64 address = as_number(sk), now = bpf_ktime_get_ns();
	struct conn_counts all = {};
	struct conn *c;
	__u32 at;

	if (!ref || !tp) {
		lose(LOSS_SOCKET_STORAGE_FAILED);
		return 0;
	}
	at = pool_get(&conn_pool, &conns_returned);
	c = conn_at(at);
	if (!c && flags & CONN_MOVED_IN) {
		lose(LOSS_HANDOVERS_MISSED);
		return 0;
	}
	ref->owner = owner;
	ref->pid = pid_of_owner(owner);
	ref->begun = 1;
	if (!c) {
		ref->conn = 0;
		lose(LOSS_CONNECTION_TABLE_FULL);
		return 0;
	}
	__builtin_memset(c, 0, sizeof(*c));
	c->owner = owner;
	c->flags = flags;
	c->list = list_number;
	c->began = c->last = c->moved = now;
	c->state = sk->__sk_common.skc_state;
	conn_describe(c, sk);
	if (former) {
		c->established = former->established;
		c->first_byte = former->first_byte;
	}
	if (before)
		all = *before;
	else
		conn_count(&all, address);
	c->before = c->now = all;
	c->copied = tp->copied_seq;
	c->segs = tp->segs_in;
	c->ready_ticks = bpf_jiffies64();
	c->rack = tp->rack.mstamp;
	c->cwnd = tp->snd_cwnd;
	c->una = tp->snd_una;
	c->nxt = tp->snd_nxt;
	if (bpf_map_update_elem(&conn_timers, &address, &at, BPF_ANY))
		lose(LOSS_TIMER_TABLE_FULL);
	/* Now: for user space, a slot with a socket is in use. Whatever goes on at the socket meanwhile is the tenure's before it. */
	__sync_lock_test_and_set(&c->sk, address);
	__sync_lock_test_and_set(&ref->conn, at);
	return at;
}

/* ---- single events, when asked for ---- */

/* A flight recorder waits for a pause that is longer, ns; 0: it does not. */
const volatile __u64 stall_trigger;

/* The ends of a connection, in a record of an event. An IPv4 address is the first word of four. */
struct trace_ends {
	__u32 local[4], remote[4];
	__u16 local_port, remote_port; /* host order */
	__u32 family;
};

const struct trace_ends *trace_ends_type __attribute__((unused));

static __always_inline struct trace_record conn_record(enum trace_kind kind, struct conn *c, __u16 a)
{
	struct trace_record r = { .kind = kind, .a = a, .b = c->owner, .c = c->netns };
	struct trace_ends *e = (void *)r.more;

	__builtin_memcpy(e->local, c->local, sizeof(e->local));
	__builtin_memcpy(e->remote, c->remote, sizeof(e->remote));
	e->local_port = c->local_port;
	e->remote_port = c->remote_port;
	e->family = c->family;
	return r;
}

/* An event of a connection that has no more to it. */
static __noinline int trace_conn(enum trace_kind kind, struct conn *c, __u32 a)
{
	struct trace_record r = conn_record(kind, c, a);

	if (!is_watched(c->netns) || !is_wanted(c->owner))
		return 0;
	return trace_interruptible(&r, TRACE_SHORT + sizeof(struct trace_ends));
}

static __noinline int trace_stall(struct conn *c, __u32 cause, __u64 ns, __u64 waiting_and_reader)
{
	struct trace_record r = conn_record(TRACE_TCP_STALL, c, cause);

	if (!is_watched(c->netns) || !is_wanted(c->owner))
		return 0;
	if (stall_trigger && ns > stall_trigger)
		trigger(NOTICE_STALLED, c->owner, 0, ns, NULL);
	r.more[5] = ns;
	r.more[6] = waiting_and_reader;
	return is_traced(TRACE_TCP_STALL) ? trace_interruptible(&r, TRACE_SHORT + sizeof(struct trace_ends) + 16) : 0;
}
