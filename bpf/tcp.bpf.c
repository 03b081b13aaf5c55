// SPDX-License-Identifier: Dual MIT/GPL
/*
 * TCP: who talks, and why a connection paused. UDP: who talks (lib/datagram.bpf.h).
 *
 * What went over a connection is in the socket's own counters (struct tcp_sock), read when user space asks
 * (list_conns) and when the socket goes (tcp_destroy_sock): no event is needed for it. Whose it is: the opener's; of an
 * accepted one, the listener's until somebody uses it; then whoever uses it. Each has the bytes that it wrote and read.
 *
 * Stalls are found where they end. tcp_probe comes with each segment of an established connection, before the
 * kernel looks at it: so the socket still tells what it has been waiting for. What the retransmission timer did is
 * told by that timer and by tcp_retransmit_skb, and what the reader did by tcp_rcv_space_adjust. A span
 * has one cause: the rules are in the order in which they are tried (enum stall_cause).
 *
 * Keeps: a slot per connection, sums per process. Can lose: see enum loss. Where one side has closed the connection, only the timers and what is
 * sent again are seen, as tcp_probe is for established ones: of stalls, what held up the last that was sent is told. Writes single events, too, where
 * they are traced (lib/trace.bpf.h).
 */
#include "lib/conn.bpf.h"
#include "lib/datagram.bpf.h"
#include "lib/hist.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* A pause that is shorter is no stall; ns. */
const volatile __u64 least_stall = 5000000;

const volatile bool keep_worst;

/* What the kernel's timers count in. */
const volatile __u64 tick_ns;

/* Since 6.17 tcp_retransmit_skb tells of failed attempts, too, and with them of an error. */
const volatile bool retransmit_tells_error;

/* Of the sockets' timers, which only their functions tell apart: learnt from the first connection. */
volatile __u64 write_timer, delack_timer;

/* What a process's connections share. */
struct tcp_process {
	struct hist rtt;
	struct interval_max rtt_max;
	__u64 rtt_ns; /* their sum */
	__u64 synacks_again;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tcp_process);
} tcp_processes SEC(".maps");

struct stall_event {
	__u64 at, ns; /* its end, CLOCK_MONOTONIC; how long */
	__u32 owner;
	__u32 reader; /* tid, where it is the reader's stall */
	__u32 local[4], remote[4];
	__u16 local_port, remote_port;
	__u16 family, cause; /* enum stall_cause */
	__u32 netns;
	__u32 waiting; /* bytes */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} stall_events SEC(".maps");

const struct stall_event *stall_event_type __attribute__((unused));

struct netns_found {
	__u32 netns;
	__u32 pid; /* of a process in it */
};

/* What find_namespaces found, by netns_cookie_of(); user space removes it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct netns_found);
} namespaces SEC(".maps");

struct synack_counts {
	__u64 again;
	__u32 netns, zero;
};

/* SYN-ACKs that were sent again, by netns_cookie_of(): the kernel's RetransSegs counts them, and no socket does. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct synack_counts);
} synacks SEC(".maps");

/* ---- stalls ---- */

static __noinline int stalled(struct conn *c, __u32 cause, __u64 now, __u64 ns, __u32 waiting)
{
	struct stall_event *e;
	__u32 us = ns / 1000, reader;

	if (ns < least_stall || (__s64)ns < 0)
		return 0;
	cause &= STALL_CAUSES - 1;
	if (c->stall_interval != interval) {
		for (int i = 0; i < STALL_CAUSES; i++)
			c->stall[i].max_us = 0;
		c->stall_interval = interval;
	}
	c->stall[cause].ns += ns;
	c->stall[cause].count++;
	if (c->stall[cause].max_us < us)
		c->stall[cause].max_us = us;
	reader = cause == STALL_READER_NOT_SCHEDULED ? (__u32)bpf_get_current_pid_tgid() : 0;
	if (is_traced(TRACE_TCP_STALL) || stall_trigger)
		trace_stall(c, cause, ns, waiting | (__u64)reader << 32);
	if (!keep_worst)
		return 0;
	e = bpf_ringbuf_reserve(&stall_events, sizeof(*e), 0);
	if (!e) {
		lose(LOSS_STALLS_DROPPED);
		return 0;
	}
	e->at = now;
	e->ns = ns;
	e->owner = c->owner;
	e->reader = reader;
	__builtin_memcpy(e->local, c->local, sizeof(e->local));
	__builtin_memcpy(e->remote, c->remote, sizeof(e->remote));
	e->local_port = c->local_port;
	e->remote_port = c->remote_port;
	e->family = c->family;
	e->cause = cause;
	e->netns = c->netns;
	e->waiting = waiting;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline bool before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

/* The part of a segment's control block that is looked at (tcp_v4_fill_cb(), net/ipv4/tcp_ipv4.c). */
struct segment {
	__u32 ack, payload;
	__u32 window; /* bytes */
};

static __always_inline void segment_read(struct segment *s, struct sk_buff *skb, struct tcp_sock *tp)
{
	struct tcp_skb_cb *cb = (void *)skb->cb;
	__u32 seq = BPF_CORE_READ(cb, seq);
	__u8 flags = BPF_CORE_READ(cb, tcp_flags);
	__u16 window = 0;

	s->ack = BPF_CORE_READ(cb, ack_seq);
	s->payload = BPF_CORE_READ(cb, end_seq) - seq - !!(flags & TCPHDR_FIN) - !!(flags & TCPHDR_SYN);
	bpf_probe_read_kernel(&window, sizeof(window), BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header) + 14);
	s->window = (__u32)__builtin_bswap16(window) << BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
}

/* A small segment is held back until all that is outstanding is acknowledged (tcp_nagle_check(), net/ipv4/tcp_output.c). */
static __always_inline bool is_held_by_nagle(struct tcp_sock *tp, __u32 unsent)
{
	__u32 nonagle = BPF_CORE_READ_BITFIELD(tp, nonagle);

	return unsent < tp->mss_cache && tp->packets_out && !(nonagle & (TCP_NAGLE_OFF | TCP_NAGLE_CORK)) &&
	       before(tp->snd_una, tp->snd_sml) && !before(tp->snd_nxt, tp->snd_sml);
}

/* Why nothing was sent in the ns until now, though a segment could have been, or 0: the application had nothing to send. */
static __always_inline __u32 sender_waited_for(struct conn *c, struct sock *sk, struct tcp_sock *tp, __u64 now)
{
	__u32 unsent = tp->write_seq - tp->snd_nxt, flight = tp->packets_out + tp->retrans_out - tp->sacked_out - tp->lost_out;

	if (!unsent) {
		struct socket *socket = sk->sk_socket;

		if (tp->packets_out && socket && socket->flags & (1UL << SOCK_NOSPACE))
			return STALL_SEND_BUFFER;
		return 0;
	}
	if (BPF_CORE_READ_BITFIELD(tp, chrono_type) == TCP_CHRONO_RWND_LIMITED)
		return STALL_RECEIVE_WINDOW;
	if (sk->sk_pacing_status && tp->tcp_wstamp_ns > now)
		return 0; /* told of when it began */
	if (flight < tp->snd_cwnd && is_held_by_nagle(tp, unsent))
		return STALL_NAGLE_DELAYED_ACK;
	/* The latter: there was room for less than is worth sending (tcp_tso_should_defer(), net/ipv4/tcp_output.c). */
	if (flight >= tp->snd_cwnd || BPF_CORE_READ_BITFIELD(tp, is_cwnd_limited))
		return c->restart ? STALL_SLOW_START_RESTART : STALL_CWND_LIMITED;
	if (BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_CORK)
		return 0; /* the application holds it back */
	return STALL_UNEXPLAINED;
}

/*
 * Takes note of when something was sent or acknowledged last: before the segment that comes in now, or the timer that runs out. If
 * one side has closed the connection, no segment is seen: then a loss or a closed window has ended, and nobody knows when; what was
 * acknowledged, was at that time at the latest.
 */
static __always_inline void conn_move(struct conn *c, __u32 una, __u32 nxt, __u64 sent, __u64 now, __u64 latest)
{
	bool unseen = c->state != TCP_ESTABLISHED;

	if (una != c->una) {
		__u64 at = unseen ? latest : c->last;

		if (unseen)
			c->loss = 0;
		c->doubt = 0;
		c->una = una;
		if (c->moved < at)
			c->moved = at;
	}
	if (nxt != c->nxt) {
		if (unseen)
			c->zero_since = 0;
		c->nxt = nxt;
		if (c->moved < sent && sent < now)
			c->moved = sent;
	}
}

/*
 * The peer waited for the acknowledgement if it goes on at once, without having got anything else. It may also have
 * gone on by chance, if it sends something now and then: less than three in a row do not count.
 */
static __noinline int delack_ended(struct conn *c, struct tcp_sock *tp, const struct segment *s, __u64 now)
{
	__u64 took = c->delack_at - c->delack_since, at_once = (__u64)tp->rtt_min.s[0].v * 1500 + 300000;

	if (s->payload && c->delack_nxt == tp->snd_nxt && now - c->delack_at < at_once) {
		c->delacks++;
		if (c->delacks == 1) {
			c->delack_before[0] = took;
		} else if (c->delacks == 2) {
			c->delack_before[1] = took;
		} else {
			if (c->delacks == 3) {
				stalled(c, STALL_DELAYED_ACK, now, c->delack_before[0], 0);
				stalled(c, STALL_DELAYED_ACK, now, c->delack_before[1], 0);
			}
			stalled(c, STALL_DELAYED_ACK, now, took, 0);
		}
	} else {
		c->delacks = 0;
	}
	c->delack_at = 0;
	return 0;
}

/* If the peer had what a loss probe sent again, and says so (RFC 2883), it was late to acknowledge it, and nothing was lost. */
static __always_inline bool is_probe_spurious(struct conn *c, struct tcp_sock *tp)
{
	return tp->dsack_dups != c->probe_dsacks;
}

static __noinline int probe_ended(struct conn *c, struct tcp_sock *tp)
{
	if (!is_probe_spurious(c, tp))
		stalled(c, STALL_TAIL_LOSS_PROBE, c->probed_at, c->probed, tp->write_seq - tp->snd_una);
	c->probed = c->probed_long_ago = 0;
	return 0;
}

/*
 * What the peer says of the probe comes within a round trip, but perhaps after the acknowledgement that was late. This segment may say
 * it: the kernel will only look at it now.
 */
static __noinline int probe_check(struct conn *c, struct tcp_sock *tp)
{
	if (is_probe_spurious(c, tp)) {
		c->probed = c->probed_long_ago = 0;
		if (c->loss == STALL_TAIL_LOSS_PROBE)
			c->loss = 0;
	}
	if (!c->probed)
		return 0;
	if (c->probed_long_ago)
		probe_ended(c, tp);
	else
		c->probed_long_ago = c->last - c->probed_at > (__u64)tp->rtt_min.s[0].v * 2000 + 1000000;
	return 0;
}

/* What was lost is acknowledged now, or nobody waits for it any more. */
static __noinline int loss_ended(struct conn *c, struct tcp_sock *tp, __u64 now)
{
	__u32 cause = c->loss;
	__u64 since = c->loss_since;

	c->loss = 0;
	c->doubt = 0;
	if (cause != STALL_TAIL_LOSS_PROBE) {
		stalled(c, cause, now, now - since, tp->write_seq - tp->snd_una);
	} else if (now - c->timer_at >= (__u64)tp->rtt_min.s[0].v * 1000) { /* else it is no answer to the probe */
		c->probed = now - since;
		c->probed_at = now;
	}
	return 0;
}

/* Where a stall may have ended: the rare part of segment_in. */
static __noinline int segment_check(struct conn *c, struct sock *sk, struct sk_buff *skb, struct tcp_sock *tp)
{
	__u64 now = c->last;
	__u32 unsent = tp->write_seq - tp->snd_nxt, cause;
	struct segment s;

	segment_read(&s, skb, tp);
	if (c->delack_at)
		delack_ended(c, tp, &s, now);
	if (c->loss) {
		if (!before(tp->snd_una, s.ack))
			return 0;
		loss_ended(c, tp, now);
		return 0;
	}
	if (c->zero_since || (!tp->snd_wnd && unsent && !tp->packets_out)) {
		if (!c->zero_since)
			c->zero_since = c->moved;
		if (s.window >= (unsent < tp->mss_cache ? unsent : tp->mss_cache)) {
			stalled(c, STALL_ZERO_WINDOW, now, now - c->zero_since, unsent);
			c->zero_since = 0;
			c->moved = now;
		}
		return 0;
	}
	if (!before(tp->snd_una, s.ack) && s.window <= tp->snd_wnd) {
		/* Nothing goes on because of this segment. */
		if (!s.payload && tp->packets_out && !c->doubt)
			c->doubt = now;
		return 0;
	}
	c->doubt = 0;
	cause = now - c->moved < least_stall ? 0 : sender_waited_for(c, sk, tp, now);
	if (cause)
		stalled(c, cause, now, now - c->moved, cause == STALL_SEND_BUFFER ? tp->write_seq - tp->snd_una : unsent);
	c->moved = now;
	return 0;
}

/* As tcp_done() counts it. A thread that asks for SO_ERROR at this very moment takes the error away (sock_error(), include/net/sock.h). */
static __always_inline void conn_failed(struct conn *c, struct tcp_sock *tp, int error)
{
	c->flags |= CONN_FAILED;
	c->error = error ?: tp->inet_conn.icsk_retransmits ? CONN_TIMED_OUT : CONN_REFUSED;
}

/* Somebody may take it away (volatile). */
static __always_inline int error_of(struct sock *sk)
{
	return *(volatile int *)&sk->sk_err;
}

/*
 * A connection is in this state, and nobody saw how it came there: the kernel keeps some events from all programs, as where one on the same
 * tracepoint is running on that CPU, and some kernels keep those in the threads of a process, and in what interrupts them, from them.
 */
static __noinline int states_unseen(struct conn *c, struct sock *sk, int state)
{
	bool was_opening = c->state == TCP_SYN_SENT || c->state == TCP_SYN_RECV;
	struct tcp_sock *tp = tcp_of(sk);

	lose(LOSS_UNSEEN_STATES);
	c->state = state;
	if (!tp || !was_opening || state == TCP_SYN_SENT || state == TCP_SYN_RECV)
		return 0;
	if (state != TCP_CLOSE || tp->srtt_us) {
		c->established = c->began + (tp->srtt_us >> 3) * 1000ULL; /* about then */
		conn_describe(c, sk);
	} else { /* not by its owner, whose close() would have been seen in the thread that the socket goes in, which is */
		conn_failed(c, tp, error_of(sk));
	}
	return 0;
}

/* Of a socket that no connection is known of, NULL if somebody else sees to it, or there was no slot for it: it may be in use on two CPUs. */
static __noinline struct conn_ref *conn_claim(struct sock *sk)
{
	struct conn_ref none = {}, *ref = bpf_sk_storage_get(&conn_refs, sk, &none, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!ref)
		lose(LOSS_SOCKET_STORAGE_FAILED);
	return ref && !__sync_lock_test_and_set(&ref->begun, 1) ? ref : NULL;
}

/*
 * A connection that is older than the probe, and that no process had a file of: nobody has accepted it yet, it is on its way to somebody through a
 * Unix socket, or it is the kernel's. So many bytes have just been written to it. Or one that has its listener's context, and was accepted unseen.
 */
static __noinline struct conn *conn_found_late(struct sock *sk, __u32 written)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct conn_counts before = {};
	__u64 now = bpf_ktime_get_ns();
	struct conn_ref *ref;
	struct conn *c;

	if (!is_tcp(sk) || !tp)
		return NULL;
	ref = conn_claim(sk);
	if (!ref)
		return NULL;
	if (ref->owner) {
		c = conn_at(conn_begin(sk, NULL, &before, listener_of(ref), CONN_ACCEPTED | CONN_PROVISIONAL));
		if (c) {
			lose(LOSS_UNSEEN_STATES);
			c->established = now;
		}
		return c;
	}
	conn_count(&before, as_number(sk));
	if (written)
		count_written(&before, tp, written);
	if (is_kernels(sk, tp))
		return conn_at(conn_begin(sk, NULL, &before, OWNER_KERNEL, 0));
	return conn_at(conn_begin(sk, NULL, &before, OWNER_UNATTRIBUTED_SOCKET, CONN_PROVISIONAL));
}

/*
 * Whether the congestion window fell because the connection had sent nothing for a while (tcp_slow_start_after_idle_check(),
 * include/net/tcp.h), and not for a loss. Congestion controls that set it themselves, as bbr, don't.
 */
static __always_inline bool is_restarted(struct tcp_sock *tp, __u64 idle)
{
	return (__s64)idle > (__s64)(tp->inet_conn.icsk_rto * tick_ns) && !BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state) &&
	       !tp->retrans_out && !tp->inet_conn.icsk_ca_ops->cong_control;
}

/*
 * A segment has come in, and the kernel has not looked at it: the socket is as it was all the time since the last
 * segment was received or sent.
 */
SEC("tp_btf/tcp_probe")
int BPF_PROG(segment_in, struct sock *sk, struct sk_buff *skb)
{
	struct conn *c = conn_of(sk);
	struct tcp_sock *tp;
	__u64 now, sent, idle;
	__u32 owner;
	struct tcp_process *p;

	if (!c)
		c = conn_found_late(sk, 0);
	if (!c)
		return 0;
	tp = tcp_of(sk);
	if (!tp)
		return 0;
	now = bpf_ktime_get_ns();
	sent = tp->tcp_wstamp_ns; /* with pacing, when the next one may be */
	conn_move(c, tp->snd_una, tp->snd_nxt, sent, now, now);
	idle = sent - c->last;
	c->last = now;
	c->segs = tp->segs_in;
	if (c->probed || c->loss == STALL_TAIL_LOSS_PROBE)
		probe_check(c, tp);
	if (tp->copied_seq == tp->rcv_nxt) {
		c->ready = now;
		c->ready_ticks = bpf_jiffies64();
		if (c->reader)
			c->read_delay = run_delay_of(c->reader);
	}
	if (tp->rack.mstamp != c->rack && is_watched(c->netns)) {
		c->rack = tp->rack.mstamp;
		owner = c->owner;
		p = bpf_map_lookup_elem(&tcp_processes, &owner);
		if (p) {
			__u64 rtt = (__u64)tp->rack.rtt_us * 1000;

			if (hist_add(&p->rtt, rtt))
				__sync_fetch_and_add(&p->rtt_ns, rtt);
			max_add(&p->rtt_max, rtt);
		}
	}
	if (tp->snd_cwnd != c->cwnd) {
		if (tp->snd_cwnd < c->cwnd && is_restarted(tp, idle))
			c->restart = c->cwnd;
		else if (tp->snd_cwnd >= c->restart)
			c->restart = 0;
		c->cwnd = tp->snd_cwnd;
	}
	if (sent > now + least_stall && sent != c->paced && tp->write_seq != tp->snd_nxt && sk->sk_pacing_status) {
		stalled(c, STALL_PACING, now, sent - tp->tcp_mstamp * 1000, tp->write_seq - tp->snd_nxt);
		c->paced = sent;
	}
	if ((tp->write_seq != tp->snd_una && now - c->moved >= least_stall) || c->loss || c->delack_at || c->zero_since || tp->sacked_out || c->doubt)
		segment_check(c, sk, skb, tp);
	return 0;
}

/* After the segment was sent again. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(segment_again, struct sock *sk)
{
	struct conn *c = conn_of(sk);
	struct tcp_sock *tp;
	__u64 now, since;
	__u32 state, cause = 0;

	if (!c)
		return 0;
	if (retransmit_tells_error && (int)ctx[2]) {
		c->failed_retransmits++;
		return 0;
	}
	if (is_traced(TRACE_TCP_RETRANSMIT)) {
		if (!c->established) /* it had no port when it began */
			conn_describe(c, sk);
		trace_conn(TRACE_TCP_RETRANSMIT, c, sk->__sk_common.skc_state);
	}
	tp = tcp_of(sk);
	if (!tp)
		return 0;
	now = bpf_ktime_get_ns();
	state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);
	since = c->timer_since;
	conn_move(c, tp->snd_una, tp->snd_nxt, tp->tcp_wstamp_ns, now, now);
	/* Right after the timer, or once a process that had the socket's lock lets go of it. */
	if (c->timer_kind && state != TCP_CA_Recovery && now - c->timer_at < 100000000) {
		cause = c->timer_kind == ICSK_TIME_RETRANS ? STALL_RTO : STALL_TAIL_LOSS_PROBE;
	} else if (state == TCP_CA_Recovery && (c->recovery != tp->high_seq || !c->recovery)) {
		cause = STALL_FAST_RETRANSMIT;
		c->recovery = tp->high_seq;
		since = c->doubt ? c->doubt : c->moved;
	}
	c->timer_kind = 0;
	if (!cause || (c->loss && c->loss <= cause))
		return 0;
	if (!c->loss)
		c->loss_since = since;
	c->loss = cause;
	if (cause == STALL_TAIL_LOSS_PROBE) {
		if (c->probed)
			probe_ended(c, tp);
		c->probe_dsacks = tp->dsack_dups;
	}
	return 0;
}

/* ---- timers ---- */

static __always_inline __u64 write_timer_offset(void)
{
	struct inet_connection_sock___v618 *old = NULL;

	if (bpf_core_field_exists(old->icsk_retransmit_timer))
		return bpf_core_field_offset(old->icsk_retransmit_timer);
	return bpf_core_field_offset(struct sock, tcp_retransmit_timer);
}

static __always_inline struct conn *conn_of_timer(__u64 sk)
{
	__u32 *at = bpf_map_lookup_elem(&conn_timers, &sk);

	return at ? conn_at(*at) : NULL;
}

/* How long a timer of this kind has run: a loss probe's by tcp_schedule_loss_probe(), net/ipv4/tcp_output.c. */
static __always_inline __u64 timer_ran(struct tcp_sock *tp, __u8 kind)
{
	__u64 rto = BPF_CORE_READ(tp, inet_conn.icsk_rto) * tick_ns, probe;

	if (kind != ICSK_TIME_LOSS_PROBE)
		return kind == ICSK_TIME_RETRANS ? rto : 0;
	probe = (__u64)(BPF_CORE_READ(tp, srtt_us) >> 2) * 1000;
	probe += (BPF_CORE_READ(tp, packets_out) == 1 ? BPF_CORE_READ(tp, inet_conn.icsk_rto_min) : 2) * tick_ns;
	return probe < rto ? probe : rto;
}

checked_once int write_timer_expired(__u64 sk)
{
	struct tcp_sock *tp = (void *)sk;
	struct conn *c = conn_of_timer(sk);
	__u8 kind;

	if (!c)
		return 0;
	kind = BPF_CORE_READ(tp, inet_conn.icsk_pending);
	c->timer_at = bpf_ktime_get_ns();
	/* An acknowledgement has it begin anew. */
	conn_move(c, BPF_CORE_READ(tp, snd_una), BPF_CORE_READ(tp, snd_nxt), BPF_CORE_READ(tp, tcp_wstamp_ns), c->timer_at,
		  c->timer_at - timer_ran(tp, kind));
	c->timer_since = c->moved;
	c->timer_kind = kind == ICSK_TIME_RETRANS || kind == ICSK_TIME_LOSS_PROBE ? kind : 0;
	/* The window is closed, or too small for a segment to be worth while: it is probed. */
	if (kind == ICSK_TIME_PROBE0 && !c->zero_since && BPF_CORE_READ(tp, write_seq) != BPF_CORE_READ(tp, snd_nxt))
		c->zero_since = c->moved;
	return 0;
}

/* The acknowledgement that was put off is sent now. Timers that nothing is left to do for run out, too. */
checked_once int delack_timer_expired(__u64 sk)
{
	struct tcp_sock *tp = (void *)sk;
	struct conn *c = conn_of_timer(sk);

	if (!c || !(BPF_CORE_READ(tp, inet_conn.icsk_ack.pending) & ICSK_ACK_SCHED) ||
	    !before(BPF_CORE_READ(tp, rcv_wup), BPF_CORE_READ(tp, rcv_nxt)))
		return 0;
	c->delack_since = c->last;
	c->delack_nxt = BPF_CORE_READ(tp, snd_nxt);
	c->delack_at = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/timer_expire_entry")
int BPF_PROG(timer_expired, struct timer_list *timer)
{
	__u64 function = (__u64)timer->function;

	if (!function)
		return 0;
	if (function == write_timer)
		write_timer_expired(as_number(timer) - write_timer_offset());
	else if (function == delack_timer)
		delack_timer_expired(as_number(timer) - bpf_core_field_offset(struct inet_connection_sock, icsk_delack_timer));
	return 0;
}

/* ---- whose it is ---- */

static __always_inline void learn_timers(struct sock *sk, struct tcp_sock *tp)
{
	struct inet_connection_sock___v618 *old = (void *)tp;

	if (write_timer)
		return;
	delack_timer = (__u64)BPF_CORE_READ(tp, inet_conn.icsk_delack_timer.function);
	if (bpf_core_field_exists(old->icsk_retransmit_timer))
		write_timer = (__u64)BPF_CORE_READ(old, icsk_retransmit_timer.function);
	else
		write_timer = (__u64)BPF_CORE_READ(sk, tcp_retransmit_timer.function);
}

/*
 * Somebody else than its owner uses a connection, and has read, or written so many bytes: it is theirs, unless yet another one takes it over at
 * this moment. Then it is -1.
 */
static __noinline int conn_handed_over(struct conn *c, struct sock *sk, __u32 owner, __u32 written)
{
	__u64 now = bpf_ktime_get_ns();
	struct tcp_sock *tp;
	__u32 flags;

	/* A thread of the kernel acts on behalf of somebody, as for Multipath TCP, or on the kernel's own. */
	if (c->owner == OWNER_KERNEL || bpf_get_current_task_btf()->flags & PF_KTHREAD)
		return 0;
	if (c->flags & CONN_PROVISIONAL) {
		c->owner = owner;
		c->flags &= ~CONN_PROVISIONAL;
		return 0;
	}
	tp = tcp_of(sk);
	if (!tp || c->closed)
		return 0;
	/* After a write nobody holds the socket's lock. */
	if (__sync_lock_test_and_set(&c->leaves, 1))
		return -1;
	flags = (c->flags & (CONN_OPENED | CONN_ACCEPTED)) | CONN_MOVED_IN;
	conn_settle(c, tp, written);
	if (!conn_begin(sk, c, &c->now, owner, flags)) {
		c->leaves = 0;
		return 0;
	}
	c->ended = now;
	return 0;
}

/*
 * Nobody waits any more: all is acknowledged, or the connection is gone. After one side has closed it, that was now if nothing was sent
 * since it was looked at last, but for what says that it is closed: see conn_move().
 */
static __noinline int pauses_ended(struct conn *c, struct tcp_sock *tp, int from, __u64 now)
{
	if (from == TCP_ESTABLISHED || tp->snd_nxt - c->nxt <= 1) {
		if (c->loss)
			loss_ended(c, tp, now);
		else if (c->zero_since)
			stalled(c, STALL_ZERO_WINDOW, now, now - c->zero_since, tp->write_seq - tp->snd_nxt);
	}
	/* What acknowledges the end may have crossed the probe: what comes right after it tells, and is counted when the socket closes. */
	if (c->probed && c->probed_at != now)
		probe_ended(c, tp);
	c->loss = c->zero_since = 0;
	return 0;
}

static __always_inline void trace_state(struct conn *c, int from, int to)
{
	if (c && is_traced(TRACE_TCP_STATE))
		trace_conn(TRACE_TCP_STATE, c, to | from << 8);
}

static __always_inline int state_change(struct sock *sk, int from, int to)
{
	struct conn_ref *ref, listener = {};
	struct tcp_sock *tp;
	struct conn *c;
	__u64 now;
	int error;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	tp = tcp_of(sk);
	if (!tp)
		return 0;
	now = bpf_ktime_get_ns();
	learn_timers(sk, tp);
	if (to == TCP_LISTEN) {
		listener.owner = is_kernels(sk, tp) ? OWNER_KERNEL : owner_of_current();
		listener.pid = pid_of_owner(listener.owner);
		ref = bpf_sk_storage_get(&conn_refs, sk, &listener, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (ref)
			*ref = listener;
		else
			lose(LOSS_SOCKET_STORAGE_FAILED);
		return 0;
	}
	c = conn_of(sk);
	if (c && c->state == to) /* seen twice */
		return 0;
	if (to == TCP_SYN_SENT) {
		if (c) /* one that failed is tried again */
			conn_end(c, now);
		c = conn_at(conn_begin(sk, NULL, NULL, is_kernels(sk, tp) ? OWNER_KERNEL : owner_of_current(), CONN_OPENED));
		if (c)
			c->state = to;
		trace_state(c, from, to);
		return 0;
	}
	if (to == TCP_SYN_RECV && from != TCP_SYN_SENT) {
		ref = bpf_sk_storage_get(&conn_refs, sk, 0, 0);
		c = conn_at(conn_begin(sk, NULL, NULL, listener_of(ref), CONN_ACCEPTED | CONN_PROVISIONAL));
		if (c)
			c->state = to;
		trace_state(c, from, to);
		return 0;
	}
	if (!c)
		return 0;
	if (c->state != from)
		states_unseen(c, sk, from);
	c->state = to;
	switch (to) {
	case TCP_ESTABLISHED:
		c->established = now;
		conn_describe(c, sk);
		c->copied = tp->copied_seq;
		if (c->loss) /* a SYN was sent again */
			stalled(c, c->loss, now, now - c->loss_since, 0);
		c->loss = 0;
		c->moved = now;
		if (c->flags & CONN_ACCEPTED) /* the SYN-ACKs that were sent again are counted by themselves */
			c->before.retransmits = tp->total_retrans;
		break;
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK: /* by close() or shutdown(): tcp_close_state(), net/ipv4/tcp.c */
		conn_move(c, tp->snd_una, tp->snd_nxt, tp->tcp_wstamp_ns, now, now);
		if (c->flags & CONN_PROVISIONAL)
			conn_handed_over(c, sk, owner_of_current(), 0);
		break;
	case TCP_FIN_WAIT2: /* its end is acknowledged */
		pauses_ended(c, tp, from, now);
		break;
	case TCP_CLOSE:
		/* close() resets at once where something was not read, and has set all of sk_shutdown before. */
		if (c->flags & CONN_PROVISIONAL && sk->sk_shutdown == SHUTDOWN_MASK)
			conn_handed_over(c, sk, owner_of_current(), 0);
		conn_look(c);
		c->closed = now;
		/* It has failed, unless close() has set all of sk_shutdown, or a process that connects, or takes that back, has locked the socket. */
		error = error_of(sk);
		c->error = error;
		if ((from == TCP_SYN_SENT ? error || !sk->sk_lock.owned : from == TCP_SYN_RECV) && sk->sk_shutdown != SHUTDOWN_MASK)
			conn_failed(c, tp, error);
		pauses_ended(c, tp, from, now);
	}
	trace_state(c, from, to);
	return 0;
}

TP_BTF_TWICE("inet_sock_set_state", state_changed, state_change(sk, from, to), struct sock *sk, int from, int to)

static __always_inline int socket_goes(struct sock *sk)
{
	struct conn *c = conn_of(sk);
	struct tcp_sock *tp = tcp_of(sk);
	__u64 address = as_number(sk), now;

	bpf_map_delete_elem(&conn_timers, &address);
	if (!c || c->ended)
		return 0;
	now = bpf_ktime_get_ns();
	if (c->probed && tp)
		probe_ended(c, tp);
	conn_look(c);
	if (c->state != TCP_CLOSE) {
		states_unseen(c, sk, TCP_CLOSE);
		c->closed = now;
	}
	barrier();
	c->ended = now;
	return 0;
}

TP_BTF_TWICE("tcp_destroy_sock", socket_gone, socket_goes(sk), struct sock *sk)

/*
 * Another thread than before uses a connection, and has read, or written so many bytes: it may be of another process. NULL if there is no slot
 * any more, or another one takes it over at this moment.
 */
static __noinline struct conn *conn_user(struct conn *c, struct sock *sk, struct task_struct *task, __u32 written)
{
	struct task_context *t = task_context(task);

	if (!t)
		return NULL;
	t->marks |= TASK_TALKS;
	if (!c->established && (c->state == TCP_SYN_SENT || c->state == TCP_SYN_RECV) && sk->__sk_common.skc_state == TCP_ESTABLISHED)
		states_unseen(c, sk, TCP_ESTABLISHED);
	if (c->owner != t->owner || c->flags & CONN_PROVISIONAL) {
		if (conn_handed_over(c, sk, t->owner, written))
			return NULL;
		c = conn_of(sk);
		if (!c)
			return NULL;
	}
	c->reader = (__u64)task;
	c->reader_mark = task_mark(task);
	c->read_delay = task->sched_info.run_delay;
	return c;
}

/*
 * If the reader had to wait for a CPU most of the time since there was something to read, that was the cause. Of a thread that has
 * not used the connection before, that is not known.
 */
static __noinline int read_late(struct conn *c, struct sock *sk, struct task_struct *task)
{
	__u64 now = bpf_ktime_get_ns(), waited = now - c->ready, delay = task->sched_info.run_delay - c->read_delay;
	struct tcp_sock *tp = tcp_of(sk);

	if (!tp || (c->ready && waited < least_stall))
		return 0;
	if (c->last < c->ready || !c->ready) {
		if (tp->segs_in != c->segs)
			lose(LOSS_UNSEEN_SEGMENTS);
		if (!c->ready || tp->segs_in != c->segs)
			return 0;
	}
	stalled(c, delay > waited / 2 ? STALL_READER_NOT_SCHEDULED : STALL_READER_NOT_READING, now, waited, tp->rcv_nxt - tp->copied_seq);
	return 0;
}

/* A process reads from the connection. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(data_read, struct sock *sk)
{
	struct conn *c = conn_of(sk);
	struct task_struct *task;
	struct tcp_sock *tp;
	__u32 ticks;

	if (!c || !is_read_by_process(sk))
		return 0;
	task = bpf_get_current_task_btf();
	if (c->reader_mark != task_mark(task)) {
		c = conn_user(c, sk, task, 0);
		if (!c)
			return 0;
	}
	tp = tcp_of(sk);
	if (!tp)
		return 0;
	c->copied = tp->copied_seq;
	if (!c->first_byte)
		c->first_byte = c->ready;
	/* Ticks cost nothing, the clock more than all of this: so it is looked at only if it may have been long. */
	ticks = bpf_jiffies64();
	if ((ticks - c->ready_ticks + 1) * tick_ns >= least_stall)
		read_late(c, sk, task);
	c->read_delay = task->sched_info.run_delay;
	c->ready_ticks = ticks;
	c->ready = tp->copied_seq == tp->rcv_nxt ? 0 : bpf_ktime_get_ns();
	return 0;
}

/* A process that only writes owns a connection, too. */
static __always_inline int data_sent(struct sock *sk, int length, bool again)
{
	struct task_struct *task;
	struct conn *c;

	if (sk->sk_protocol != IPPROTO_TCP)
		return sk->sk_protocol == IPPROTO_UDP ? datagram_sent(sk, length, again) : 0;
	if (length <= 0)
		return 0;
	c = conn_of(sk);
	if (!c)
		c = conn_found_late(sk, length);
	if (!c)
		return 0;
	task = bpf_get_current_task_btf();
	if (c->reader_mark != task_mark(task))
		conn_user(c, sk, task, length);
	return 0;
}

TP_BTF_TWICE("sock_send_length", data_written, data_sent(sk, length, again), struct sock *sk, int length)

TP_BTF_TWICE("sock_recv_length", datagram_read,
	     sk->sk_protocol == IPPROTO_UDP ? datagram_received(sk, length, flags, again) : 0,
	     struct sock *sk, int length, int flags)

SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(datagram_dropped, int error, struct sock *sk)
{
	return drop_count(sk, error);
}

/* A SYN-ACK is sent again: the connection is a request yet, and who listens is its owner. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(synack_again, struct sock *sk)
{
	struct conn_ref *ref = bpf_sk_storage_get(&conn_refs, sk, 0, 0);
	__u32 owner = listener_of(ref);
	__u64 cookie = netns_cookie_of(sk);
	struct synack_counts first = {}, *sum;
	struct tcp_process *p = bpf_map_lookup_elem(&tcp_processes, &owner);

	first.netns = netns_of(sk);
	if (!is_watched(first.netns))
		return 0;
	if (p)
		__sync_fetch_and_add(&p->synacks_again, 1);
	sum = bpf_map_lookup_elem(&synacks, &cookie);
	if (!sum) {
		bpf_map_update_elem(&synacks, &cookie, &first, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&synacks, &cookie);
	}
	if (sum)
		__sync_fetch_and_add(&sum->again, 1);
	else
		lose(LOSS_NAMESPACE_TABLE_FULL);
	return 0;
}

/* ---- called by user space ---- */

/* Finds the network namespaces that somebody is in. */
SEC("iter/task")
int find_namespaces(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct netns_found netns = {};
	struct net *net;
	__u64 cookie;

	if (!task || task->pid != task->tgid)
		return 0;
	net = BPF_CORE_READ(task, nsproxy, net_ns);
	cookie = BPF_CORE_READ(net, net_cookie);
	netns.netns = BPF_CORE_READ(net, ns.inum);
	netns.pid = task->tgid;
	if (cookie && bpf_map_update_elem(&namespaces, &cookie, &netns, BPF_NOEXIST) == -E2BIG)
		lose(LOSS_NAMESPACE_TABLE_FULL);
	return 0;
}

/* Finds the sockets that are older than the probe, and whose they are. */
SEC("iter/task_file")
int find_conns(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct conn_ref listener = {};
	struct task_context *t;
	struct conn *c;
	struct tcp_sock *tp;
	struct sock *sk;

	if (!task)
		return 0;
	sk = sock_of(ctx->file);
	if (!sk)
		return 0;
	if (is_udp(sk))
		datagrams_found(sk, task);
	if (!is_tcp(sk))
		return 0;
	tp = tcp_of(sk);
	t = task_context(task);
	if (!tp || !t)
		return 0;
	learn_timers(sk, tp);
	if (sk->__sk_common.skc_state == TCP_CLOSE)
		return 0;
	if (sk->__sk_common.skc_state == TCP_LISTEN) {
		listener.owner = t->owner;
		listener.pid = pid_of_owner(listener.owner);
		bpf_sk_storage_get(&conn_refs, sk, &listener, BPF_LOCAL_STORAGE_GET_F_CREATE);
		return 0;
	}
	c = conn_of(sk);
	if (!c) {
		if (conn_claim(sk))
			conn_begin(sk, NULL, NULL, t->owner, 0);
	} else if (c->owner == OWNER_UNATTRIBUTED_SOCKET) { /* a segment came in first */
		c->owner = t->owner;
		c->flags &= ~CONN_PROVISIONAL;
	}
	return 0;
}

/* Finds who has sockets that dropped something, and that nobody used. */
SEC("iter/task_file")
int find_datagram_users(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct sock *sk;

	if (!task)
		return 0;
	sk = sock_of(ctx->file);
	if (sk && is_udp(sk))
		datagrams_found(sk, task);
	return 0;
}

/*
 * Looks at a connection by the address of its socket, as no iterator goes over sockets of all namespaces: the one over a map of socket
 * storage does, but takes down 7.2 when a socket goes meanwhile. A socket that is gone without having been seen to is closed, or another one.
 */
static long list_conn(void *map, const __u32 *at, struct conn *c, void *ctx)
{
	__u64 address = c->sk;
	struct sock *sk = (void *)address;
	__u32 *newest;

	if (*at >= conn_pool.next)
		return 1;
	if (!address || c->ended || c->closed || c->leaves)
		return 0;
	newest = bpf_map_lookup_elem(&conn_timers, &address);
	if ((newest && *newest != *at) || BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		return 0;
	conn_look(c);
	c->list = list_number;
	return 0;
}

/* Takes the counts of all connections. */
SEC("syscall")
int list_conns(void *ctx)
{
	bpf_for_each_map_elem(&conns, list_conn, NULL, 0);
	return 0;
}
