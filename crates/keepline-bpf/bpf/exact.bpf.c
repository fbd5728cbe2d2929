// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Keepalive of single sockets, read and set as getsockopt() and setsockopt() would: for sockets
 * whose descriptor nobody can lend, since no process holds it or none may be looked into.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* As an application reads and sets them: seconds, and never "as the namespace has it". */
struct settings {
	__u32 enabled;
	__u32 idle;
	__u32 interval;
	__u32 probes;
};

struct wish {
	struct settings before;
	struct settings after;
	__u32 set; /* 0: only reads */
};

/* To the reader (src/exact.rs), one a socket. */
struct answer {
	__u64 cookie;
	struct settings is;
	__u32 set; /* whether it is set now */
	__u32 pad;
};

const volatile struct {
	__u32 hz; /* jiffies a second */
} constants;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* src/exact.rs: as many as are asked for */
	__type(key, __u64); /* the socket's cookie, which is never given to another */
	__type(value, struct wish);
} keepline_wish SEC(".maps");

static __always_inline bool same(const struct settings *a, const struct settings *b)
{
	return a->enabled == b->enabled && a->idle == b->idle && a->interval == b->interval &&
	       a->probes == b->probes;
}

/* MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL, and MAX_TCP_KEEPCNT, include/net/tcp.h. What a socket shows
 * may be more: its namespace's sysctls know no such limit. */
enum { MOST_SECONDS = 32767, MOST_PROBES = 127 };

static __always_inline void option(struct tcp_sock *tp, int level, int name, __u32 wanted, __u32 most)
{
	int value = wanted < most ? wanted : most;

	bpf_setsockopt(tp, level, name, &value, sizeof(value));
}

/* What a socket shows already is not set: one without times of its own goes on as its namespace has
 * them. As crates/keepline-kernel/src/pidfd.rs. */
static __always_inline void change(struct tcp_sock *tp, const struct settings *is,
				   const struct settings *to)
{
	bool starts = to->enabled && !is->enabled && to->idle <= MOST_SECONDS;

	/* On first: the times set a running timer anew. */
	if (to->enabled != is->enabled)
		option(tp, SOL_SOCKET, SO_KEEPALIVE, to->enabled, 1);
	if (to->interval != is->interval)
		option(tp, SOL_TCP, TCP_KEEPINTVL, to->interval, MOST_SECONDS);
	if (to->probes != is->probes)
		option(tp, SOL_TCP, TCP_KEEPCNT, to->probes, MOST_PROBES);
	/* A timer that was switched on counts from now, this one from when it last heard something. */
	if (to->idle != is->idle || starts)
		option(tp, SOL_TCP, TCP_KEEPIDLE, to->idle, MOST_SECONDS);
}

SEC("iter/tcp")
int keepline_exact(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct answer answer = {};
	struct wish *wish;
	struct tcp_sock *tp;
	struct net *net;
	__u32 hz = constants.hz;

	if (!sk || !hz)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp) /* TIME_WAIT, or a request that is no socket yet */
		return 0;
	sk = &tp->inet_conn.icsk_inet.sk.__sk_common;
	answer.cookie = sk->skc_cookie.counter;
	/* Who asks has it from sock_diag, which gives every socket one. */
	if (!answer.cookie)
		return 0;
	wish = bpf_map_lookup_elem(&keepline_wish, &answer.cookie);
	if (!wish)
		return 0;
	net = sk->skc_net.net;
	answer.is.enabled =
		!!(sk->skc_flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_KEEPOPEN)));
	/* keepalive_time_when(), keepalive_intvl_when(), keepalive_probes() in include/net/tcp.h */
	answer.is.idle = (tp->keepalive_time ?: (__u32)net->ipv4.sysctl_tcp_keepalive_time) / hz;
	answer.is.interval = (tp->keepalive_intvl ?: (__u32)net->ipv4.sysctl_tcp_keepalive_intvl) / hz;
	answer.is.probes = tp->keepalive_probes ?: net->ipv4.sysctl_tcp_keepalive_probes;
	/* Who has set it otherwise meanwhile has decided. */
	answer.set = wish->set && (same(&answer.is, &wish->before) || same(&answer.is, &wish->after));
	/* A full buffer: the kernel comes back with the same socket. Nothing is changed before it is
	 * told. */
	if (bpf_seq_write(ctx->meta->seq, &answer, sizeof(answer)))
		return 0;
	if (answer.set)
		change(tp, &answer.is, &wish->after);
	return 0;
}
