// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * TCP keepalive for every selected socket, whatever the application asked for.
 *
 * A connection gets it at the moment it is established (sockops), and an application that sets
 * longer times later is held to the limit (cgroup/setsockopt) where that was asked for. Shorter
 * times of its own are kept. TCP_USER_TIMEOUT is never touched: it would end connections. Open
 * connections are for exact.bpf.c, which can give back what they had.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct settings {
	__u32 idle;     /* seconds without traffic until the first probe; 0: leave it alone */
	__u32 interval; /* seconds between probes */
	__u32 probes;   /* unanswered ones until the connection is given up; 0: as it is */
	__u32 enforce;  /* whether who sets longer times later is held to these */
};

/* What the peer of a socket is looked up by. Port 0: any; address 0: any (then port 0, too). */
struct selector {
	__u64 netns;
	struct address peer;
	__be16 port;
	__u16 pad[3];
};

struct config {
	char version[16];
	struct settings others; /* for sockets that no selector fits */
	__u32 rules;            /* how many there are in keepline_sel */
};

/* Constants of this load: the verifier drops what they switch off. */
const volatile struct {
	__u32 hz;           /* jiffies a second */
	__u32 page_size;    /* bytes */
	__u32 by_namespace; /* whether this kernel tells namespaces apart */
} constants;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} keepline_conf SEC(".maps");

/* Written before the programs are attached, and not after: the memory of a replaced value would be
 * another's while it is read. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct selector);
	__type(value, struct settings);
} keepline_sel SEC(".maps");

/* The settings for a socket with this peer: the most exact selector decides. */
static __always_inline const struct settings *select_by(struct selector *key)
{
	const struct settings *found;

	found = bpf_map_lookup_elem(&keepline_sel, key);
	if (found)
		return found;
	key->port = 0;
	found = bpf_map_lookup_elem(&keepline_sel, key);
	if (found)
		return found;
	__builtin_memset(&key->peer, 0, sizeof(key->peer));
	return bpf_map_lookup_elem(&keepline_sel, key);
}

static __always_inline struct config *configured(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&keepline_conf, &first);
}

static __always_inline const struct settings *others(const struct config *config)
{
	return config->others.idle ? &config->others : NULL;
}

static __always_inline const struct settings *settings_of(struct tcp_sock *tp)
{
	struct sock_common *sk = &tp->inet_conn.icsk_inet.sk.__sk_common;
	const struct config *config = configured();
	const struct settings *found;
	struct selector key = {};

	if (!config)
		return NULL;
	if (!constants.by_namespace || !config->rules ||
	    !bpf_core_field_exists(sk->skc_net.net->net_cookie))
		return others(config);
	key.netns = sk->skc_net.net->net_cookie;
	key.port = sk->skc_dport;
	if (sk->skc_family == AF_INET) {
		key.peer.word[2] = V4_MAPPED;
		key.peer.word[3] = sk->skc_daddr;
	} else if (bpf_core_field_exists(sk->skc_v6_daddr)) {
		key.peer.word[0] = sk->skc_v6_daddr.in6_u.u6_addr32[0];
		key.peer.word[1] = sk->skc_v6_daddr.in6_u.u6_addr32[1];
		key.peer.word[2] = sk->skc_v6_daddr.in6_u.u6_addr32[2];
		key.peer.word[3] = sk->skc_v6_daddr.in6_u.u6_addr32[3];
	}
	found = select_by(&key);
	if (!found)
		return others(config);
	return found->idle ? found : NULL;
}

enum {
	CHANGE_IDLE = 1,
	CHANGE_INTERVAL = 2,
	CHANGE_PROBES = 4,
	CHANGE_ON = 8,
};

/* What is to be set on a socket. Times of 0 stand for the namespace's sysctl. */
static __always_inline __u32 changes(struct tcp_sock *tp, const struct settings *settings)
{
	struct sock_common *sk = &tp->inet_conn.icsk_inet.sk.__sk_common;
	struct net *net = sk->skc_net.net;
	__u64 idle = tp->keepalive_time, interval = tp->keepalive_intvl;
	__u32 change = 0;

	if (!idle)
		idle = (__u32)net->ipv4.sysctl_tcp_keepalive_time;
	if (!interval)
		interval = (__u32)net->ipv4.sysctl_tcp_keepalive_intvl;
	if (idle > (__u64)settings->idle * constants.hz)
		change |= CHANGE_IDLE;
	if (interval > (__u64)settings->interval * constants.hz)
		change |= CHANGE_INTERVAL;
	if (!tp->keepalive_probes && settings->probes)
		change |= CHANGE_PROBES;
	if (!(sk->skc_flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_KEEPOPEN))))
		change |= CHANGE_ON;
	return change;
}

/* The times first: switching keepalive on starts the timer with them. */
static __always_inline long carry_out(void *at, const struct settings *settings, __u32 change)
{
	long failed = 0;
	int value;

	if (change & CHANGE_IDLE) {
		value = settings->idle;
		failed |= bpf_setsockopt(at, SOL_TCP, TCP_KEEPIDLE, &value, sizeof(value));
	}
	if (change & CHANGE_INTERVAL) {
		value = settings->interval;
		failed |= bpf_setsockopt(at, SOL_TCP, TCP_KEEPINTVL, &value, sizeof(value));
	}
	if (change & CHANGE_PROBES) {
		value = settings->probes;
		failed |= bpf_setsockopt(at, SOL_TCP, TCP_KEEPCNT, &value, sizeof(value));
	}
	if (change & CHANGE_ON) {
		value = 1;
		failed |= bpf_setsockopt(at, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value));
	}
	return failed;
}

/* `reply` is left as it is: it may be another program's answer. */
SEC("sockops")
int keepline_new(struct bpf_sock_ops *ctx)
{
	const struct settings *settings;
	struct tcp_sock *tp;
	struct bpf_sock *sk;

	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 1;
	settings = settings_of(tp);
	if (settings)
		carry_out(ctx, settings, changes(tp, settings));
	return 1;
}

/* Returns 1 always: the call goes on, with our value where the application's was too long. */
SEC("cgroup/setsockopt")
int keepline_later(struct bpf_sockopt *ctx)
{
	const struct settings *settings;
	const struct config *config;
	struct bpf_sock *sk = ctx->sk;
	struct selector key = {};
	int *value = ctx->optval;
	__u32 limit;

	/* More than the kernel shows to programs: 0 says that the original is to be used,
	 * anything else ends the call with EFAULT. */
	if (ctx->optlen > (int)constants.page_size) {
		ctx->optlen = 0;
		return 1;
	}
	if (!(ctx->level == SOL_TCP &&
	      (ctx->optname == TCP_KEEPIDLE || ctx->optname == TCP_KEEPINTVL)) &&
	    !(ctx->level == SOL_SOCKET && ctx->optname == SO_KEEPALIVE))
		return 1;
	if (ctx->optlen < (int)sizeof(*value) || (void *)(value + 1) > ctx->optval_end)
		return 1;
	if (!sk || sk->protocol != IPPROTO_TCP)
		return 1;
	/* Before there is a connection the application may say what it likes: keepline_new looks
	 * at the outcome. */
	if (sk->state != TCP_ESTABLISHED && sk->state != TCP_CLOSE_WAIT &&
	    sk->state != TCP_FIN_WAIT1 && sk->state != TCP_FIN_WAIT2)
		return 1;

	config = configured();
	if (!config)
		return 1;
	settings = NULL;
	if (constants.by_namespace && config->rules) {
		__u32 v4 = sk->dst_ip4, v6 = sk->dst_ip6[3];

		/* Both are read before one is chosen: a pointer that is chosen would be a
		 * modified one, which the verifier does not follow. */
		barrier_var(v4);
		barrier_var(v6);
		key.netns = bpf_get_netns_cookie(ctx);
		key.port = sk->dst_port;
		if (sk->family == AF_INET) {
			key.peer.word[2] = V4_MAPPED;
			key.peer.word[3] = v4;
		} else {
			key.peer.word[0] = sk->dst_ip6[0];
			key.peer.word[1] = sk->dst_ip6[1];
			key.peer.word[2] = sk->dst_ip6[2];
			key.peer.word[3] = v6;
		}
		settings = select_by(&key);
	}
	if (!settings)
		settings = others(config);
	if (!settings || !settings->idle || !settings->enforce)
		return 1;

	if (ctx->level == SOL_SOCKET) {
		if (!*value)
			*value = 1;
		return 1;
	}
	limit = ctx->optname == TCP_KEEPIDLE ? settings->idle : settings->interval;
	/* What the kernel refuses (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL in include/net/tcp.h) stays
	 * the application's error. */
	if (*value > (int)limit && *value <= 32767)
		*value = limit;
	return 1;
}
