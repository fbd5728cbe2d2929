// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Connections to a virtual address go to a backend from the start: connect() and sendmsg() are
 * given its address, so no load balancer is on the way and none can forget the session. The
 * application sees the virtual address: as its peer, and as the origin of datagrams.
 *
 * UDP sockets that are connected stay with the director. Nothing would tell one that its backend is
 * gone, and send() passes no hook; the director chooses anew with its next datagram.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#ifndef MOST_BACKENDS /* another one: another version's, for the tests */
#define MOST_BACKENDS 256 /* a power of two; src/direct/table.rs */
#endif
#define ECONNREFUSED 111
#define MOST_TRIES 3 /* with a service that is replaced under each */

/* Port 0: any. */
struct service_key {
	__u64 netns;
	struct address vip;
	__be16 port;
	__u8 protocol;
	__u8 pad[5];
};

struct backend {
	struct address address;
	__be16 port; /* 0: the one that was asked for */
	__u16 alias; /* who is chosen where this one is not (Vose's alias method) */
	__u32 share; /* of 2^32 draws at this place, those that stay; all ones: every one */
	__u32 weight; /* for the reader only */
	__u32 pad;
};

/* Replaced as a whole, never changed in place. But since kernel 6.1 the map gives the memory of the old
 * one to the next at once (bpf_mem_alloc), which may be another service, whoever reads it still: what
 * was read counts only where the service is the same afterwards. */
struct service {
	__u32 generation; /* another one after each replacement */
	__u16 count;
	__u16 is_open; /* whether a backend takes new connections */
	struct backend backends[MOST_BACKENDS];
};

struct endpoint {
	struct address address;
	__be16 port;
	__u16 pad;
};

/* What a connected socket was asked for, and what it got. */
struct origin {
	struct endpoint vip;
	struct endpoint backend;
};

/* Datagrams of a socket that is not connected, both ways. */
struct flow_key {
	__u64 socket; /* its cookie */
	struct endpoint peer;
	__u8 is_answer;
	__u8 pad[3];
};

struct flow {
	struct endpoint other;
	__u32 generation;
};

const volatile struct {
	__u32 can_refuse; /* whether bpf_set_retval() is there for these hooks */
	char version[16]; /* for the reader only */
} constants;

/* A service takes 16 KB, room for one 16 bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct service_key);
	__type(value, struct service);
} keepline_vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} keepline_origin SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768); /* all allocated at once: about 4 MB */
	__type(key, struct flow_key);
	__type(value, struct flow);
} keepline_flows SEC(".maps");

enum verdict { NOT_OURS, DIRECT, REFUSED };

static __always_inline bool same(const struct endpoint *a, const struct endpoint *b)
{
	return a->address.word[0] == b->address.word[0] &&
	       a->address.word[1] == b->address.word[1] &&
	       a->address.word[2] == b->address.word[2] &&
	       a->address.word[3] == b->address.word[3] && a->port == b->port;
}

static __always_inline void ask_for(struct service_key *key, __u64 netns,
				    const struct endpoint *vip, __u8 protocol)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->netns = netns;
	key->vip = vip->address;
	key->port = vip->port;
	key->protocol = protocol;
}

/* Leaves the key as that of the service that was found. */
static __always_inline struct service *service_of(struct service_key *key)
{
	struct service *service = bpf_map_lookup_elem(&keepline_vips, key);

	if (service)
		return service;
	key->port = 0;
	return bpf_map_lookup_elem(&keepline_vips, key);
}

static __always_inline __u32 generation_of(const struct service *service)
{
	return *(const volatile __u32 *)&service->generation;
}

/* Whether what was read of a service was that service all the time. */
static __always_inline bool is_still(const struct service_key *key, const struct service *service,
				     __u32 generation)
{
	const struct service *now = bpf_map_lookup_elem(&keepline_vips, key);

	if (!now)
		return false;
	/* The verifier is to see that it is not NULL, also where it is the same. */
	barrier_var(now);
	return now == service && generation_of(now) == generation;
}

static __always_inline void at(const struct backend *backend, __be16 asked, struct endpoint *to)
{
	to->address = backend->address;
	to->port = backend->port ? backend->port : asked;
}

/* One of the backends, by weight. */
static __always_inline bool choose(struct service *service, __be16 asked, struct endpoint *to)
{
	struct backend *backend;
	__u32 place;

	if (!service->is_open || !service->count)
		return false;
	place = bpf_get_prandom_u32() % service->count;
	backend = &service->backends[place & (MOST_BACKENDS - 1)];
	if (backend->share != ~0U && bpf_get_prandom_u32() >= backend->share)
		backend = &service->backends[backend->alias & (MOST_BACKENDS - 1)];
	at(backend, asked, to);
	return true;
}

/* What an earlier connect() of this socket was asked for is not its peer any more. */
static __always_inline void forget(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (sk)
		bpf_sk_storage_delete(&keepline_origin, sk);
}

/* Where a TCP socket is connected to. */
static __always_inline enum verdict connected(struct bpf_sock_addr *ctx, __u64 netns,
					      struct endpoint *peer)
{
	enum verdict verdict = REFUSED;
	struct bpf_sock *sk = ctx->sk;
	struct endpoint backend = {};
	struct service *service;
	struct service_key key;
	struct origin *origin;
	bool is_sure = false;
	__u32 generation, i;

	for (i = 0; i < MOST_TRIES && !is_sure; i++) {
		ask_for(&key, netns, peer, IPPROTO_TCP);
		service = service_of(&key);
		if (!service) {
			forget(ctx);
			return NOT_OURS;
		}
		generation = generation_of(service);
		verdict = choose(service, peer->port, &backend) ? DIRECT : REFUSED;
		is_sure = is_still(&key, service, generation);
	}
	if (!is_sure || verdict == REFUSED)
		return REFUSED;
	/* Without it the socket works, and shows its backend. */
	origin = sk ? bpf_sk_storage_get(&keepline_origin, sk, NULL,
					 BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (origin) {
		origin->vip = *peer;
		origin->backend = backend;
	}
	*peer = backend;
	return DIRECT;
}

static __always_inline bool has(struct service *service, const struct endpoint *backend,
				__be16 asked)
{
	struct endpoint now;
	__u32 i;

	for (i = 0; i < MOST_BACKENDS && i < service->count; i++) {
		at(&service->backends[i], asked, &now);
		if (same(&now, backend))
			return true;
	}
	return false;
}

/* Where a datagram of a connected socket goes, which hears its peer only: where it was sent to. A
 * version before this one connected UDP sockets to backends; there the VIP is still their peer. */
static __always_inline enum verdict to_peer(struct bpf_sock *sk, struct endpoint *peer)
{
	struct origin *origin = bpf_sk_storage_get(&keepline_origin, sk, NULL, 0);

	if (!origin || !same(&origin->vip, peer))
		return NOT_OURS;
	*peer = origin->backend;
	return DIRECT;
}

/* The answer's half of a flow: by whom it comes, and what it is called. */
static __always_inline struct flow *answer_of(struct flow_key *key, const struct endpoint *backend)
{
	key->peer = *backend;
	key->is_answer = 1;
	return bpf_map_lookup_elem(&keepline_flows, key);
}

/* Where a datagram goes: to the backend of the last one as long as there is that backend. */
static __always_inline enum verdict datagram(struct bpf_sock_addr *ctx, __u64 netns,
					     struct endpoint *peer)
{
	enum verdict verdict = REFUSED;
	struct bpf_sock *sk = ctx->sk;
	struct flow_key question = {};
	struct flow flow = {}, *last;
	struct service *service;
	struct service_key key;
	bool is_sure = false;
	__u32 i;

	/* Not only of sendto() with an address: the kernel itself gives the address of its peer to an
	 * IPv6 socket that is connected to IPv4 (udpv6_sendmsg). */
	if (sk && sk->state == TCP_ESTABLISHED)
		return to_peer(sk, peer);
	for (i = 0; i < MOST_TRIES && !is_sure; i++) {
		ask_for(&key, netns, peer, IPPROTO_UDP);
		service = service_of(&key);
		if (!service)
			return NOT_OURS;
		flow.generation = generation_of(service);
		question.socket = bpf_get_socket_cookie(ctx);
		question.peer = *peer;
		question.is_answer = 0;
		last = bpf_map_lookup_elem(&keepline_flows, &question);
		if (last) {
			bool is_recent = last->generation == flow.generation;

			flow.other = last->other;
			/* Each half may be displaced without the other; and one that is just being
			 * displaced may be another's by now. Where both say the same, they hold. */
			if (is_recent) {
				struct flow_key back = { .socket = question.socket };
				struct flow *half = answer_of(&back, &flow.other);

				if (half && same(&half->other, peer)) {
					*peer = flow.other;
					return DIRECT;
				}
			}
		}
		verdict = DIRECT;
		/* Once only: the verifier looks through all backends at each try. */
		if (i || !last || !has(service, &flow.other, peer->port))
			verdict = choose(service, peer->port, &flow.other) ? DIRECT : REFUSED;
		is_sure = is_still(&key, service, flow.generation);
	}
	if (!is_sure || verdict == REFUSED)
		return REFUSED;
	bpf_map_update_elem(&keepline_flows, &question, &flow, 0);

	flow.generation = 0;
	question.peer = flow.other;
	question.is_answer = 1;
	flow.other = *peer;
	*peer = question.peer;
	bpf_map_update_elem(&keepline_flows, &question, &flow, 0);
	return DIRECT;
}

/* What the peer of a connected socket is called, if it is the one that was put there. */
static __always_inline bool called(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	struct bpf_sock *sk = ctx->sk;
	struct origin *origin;

	origin = sk ? bpf_sk_storage_get(&keepline_origin, sk, NULL, 0) : NULL;
	if (!origin || !same(&origin->backend, peer))
		return false;
	*peer = origin->vip;
	return true;
}

/* Where a datagram came from, as far as the application knows. */
static __always_inline bool answered(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	struct flow_key key = {};
	struct endpoint vip;
	struct flow *flow;
	__u32 i;

	if (called(ctx, peer))
		return true;
	key.socket = bpf_get_socket_cookie(ctx);
	for (i = 0; i < MOST_TRIES; i++) {
		flow = answer_of(&key, peer);
		if (!flow)
			return false;
		vip = flow->other;
		/* It may have been displaced by another's meanwhile. */
		flow = answer_of(&key, peer);
		if (flow && same(&flow->other, &vip)) {
			*peer = vip;
			return true;
		}
	}
	return false;
}

/* The answer of a hook that may refuse: 1 goes on, 0 is EPERM unless told otherwise. */
static __always_inline int answer(enum verdict verdict)
{
	if (verdict != REFUSED)
		return 1;
	if (constants.can_refuse)
		bpf_set_retval(-ECONNREFUSED);
	return 0;
}

/* These read and write `ctx` field by field, each at its own offset: the verifier does not follow
 * a pointer into it. */
static __always_inline void read4(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	peer->address.word[2] = V4_MAPPED;
	peer->address.word[3] = ctx->user_ip4;
	peer->port = (__be16)ctx->user_port;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip4 = peer->address.word[3];
	ctx->user_port = peer->port;
}

static __always_inline void read6(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	peer->address.word[0] = ctx->user_ip6[0];
	peer->address.word[1] = ctx->user_ip6[1];
	peer->address.word[2] = ctx->user_ip6[2];
	peer->address.word[3] = ctx->user_ip6[3];
	peer->port = (__be16)ctx->user_port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip6[0] = peer->address.word[0];
	ctx->user_ip6[1] = peer->address.word[1];
	ctx->user_ip6[2] = peer->address.word[2];
	ctx->user_ip6[3] = peer->address.word[3];
	ctx->user_port = peer->port;
}

#define CONNECT(N)                                                                             \
	SEC("cgroup/connect" #N)                                                               \
	int keepline_conn##N(struct bpf_sock_addr *ctx)                                        \
	{                                                                                      \
		struct endpoint peer = {};                                                     \
		enum verdict verdict;                                                          \
                                                                                               \
		if (ctx->protocol != IPPROTO_TCP) {                                            \
			forget(ctx);                                                           \
			return 1;                                                              \
		}                                                                              \
		read##N(ctx, &peer);                                                           \
		verdict = connected(ctx, bpf_get_netns_cookie(ctx), &peer);                    \
		if (verdict == DIRECT)                                                         \
			write##N(ctx, &peer);                                                  \
		return answer(verdict);                                                        \
	}

#define SENDMSG(N)                                                                             \
	SEC("cgroup/sendmsg" #N)                                                               \
	int keepline_send##N(struct bpf_sock_addr *ctx)                                        \
	{                                                                                      \
		struct endpoint peer = {};                                                     \
		enum verdict verdict;                                                          \
                                                                                               \
		read##N(ctx, &peer);                                                           \
		verdict = datagram(ctx, bpf_get_netns_cookie(ctx), &peer);                     \
		if (verdict == DIRECT)                                                         \
			write##N(ctx, &peer);                                                  \
		return answer(verdict);                                                        \
	}

#define RECVMSG(N)                                                                             \
	SEC("cgroup/recvmsg" #N)                                                               \
	int keepline_recv##N(struct bpf_sock_addr *ctx)                                        \
	{                                                                                      \
		struct endpoint peer = {};                                                     \
                                                                                               \
		read##N(ctx, &peer);                                                           \
		if (answered(ctx, &peer))                                                      \
			write##N(ctx, &peer);                                                  \
		return 1;                                                                      \
	}

#define GETPEERNAME(N)                                                                         \
	SEC("cgroup/getpeername" #N)                                                           \
	int keepline_name##N(struct bpf_sock_addr *ctx)                                        \
	{                                                                                      \
		struct endpoint peer = {};                                                     \
                                                                                               \
		read##N(ctx, &peer);                                                           \
		if (called(ctx, &peer))                                                        \
			write##N(ctx, &peer);                                                  \
		return 1;                                                                      \
	}

CONNECT(4)
CONNECT(6)
SENDMSG(4)
SENDMSG(6)
RECVMSG(4)
RECVMSG(6)
GETPEERNAME(4)
GETPEERNAME(6)
