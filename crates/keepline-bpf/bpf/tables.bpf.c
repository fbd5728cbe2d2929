// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The kernel's own tables of TCP sockets and of tracked connections, read as they are: one walk
 * tells of all namespaces, where sock_diag and ctnetlink walk the same tables once for each and
 * spend microseconds on every message.
 *
 * Nothing is changed, locked or counted. Under RCU (as every program runs) the objects of both
 * tables stay objects of their kind (SLAB_TYPESAFE_BY_RCU), but may be freed and become others
 * while they are read. So, as the kernel's own lockless look-ups do, the chain's end must bear the
 * number of its bucket, and each object is looked at again after it was read; a bucket where either
 * does not hold is read anew. Every read of memory is one that cannot fault
 * (bpf_probe_read_kernel, bpf_rdonly_cast).
 *
 * src/tables/ calls these with BPF_PROG_RUN and takes the records from the map.
 */
#include "kernel.h"
#include "walk.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Places of fields. From few outer types: libbpf looks through all types of the kernel for each,
 * which takes a millisecond. */
#define SOCK(field) OFFSET(tcp_sock, inet_conn.icsk_inet.sk.__sk_common.field)
#define CONN(field) OFFSET(nf_conn, field)
#define TUPLE(field) (CONN(tuplehash[0].tuple.field) - CONN(tuplehash[0].tuple))
#define TUPLE_SIZE 40 /* struct nf_conntrack_tuple, aligned to four */

#define HAS_IPV6 bpf_core_field_exists(struct tcp_sock, inet_conn.icsk_inet.sk.__sk_common.skc_v6_daddr)

/* Since kernel 6.2: memory may be read by plain loads that yield 0 where they would fault. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

#define HAS_LOADS bpf_ksym_exists(bpf_rdonly_cast)
#define AS(type, address)                                                                      \
	((const struct type *)bpf_rdonly_cast((void *)(address),                               \
					      bpf_core_type_id_kernel(struct type)))

/* Objects lie all over memory, and waiting for it is most of the time of a walk. So where plain
 * loads can be had, what a few buckets lead to is fetched at once before it is looked at. */
#define AHEAD 8

static __always_inline bool is_time_to_fetch(const struct walk *walk, __u64 *heads)
{
	return HAS_LOADS && !walk->node && !(walk->bucket % AHEAD) &&
	       walk->bucket + AHEAD - 1 <= walk->last &&
	       !bpf_probe_read_kernel(heads, AHEAD * sizeof(*heads),
				      (void *)(walk->base + walk->bucket * sizeof(void *)));
}

static __always_inline void fetch_sockets(struct walk *walk)
{
	__u64 heads[AHEAD], sum = 0;
	int i;

	if (!is_time_to_fetch(walk, heads))
		return;
	for (i = 0; i < AHEAD; i++) {
		const struct tcp_sock *tp;

		if (heads[i] & 1)
			continue;
		tp = AS(tcp_sock, heads[i] - SOCK(skc_nulls_node));
		sum += tp->inet_conn.icsk_inet.sk.__sk_common.skc_daddr;
		sum += tp->inet_conn.icsk_inet.sk.__sk_common.skc_flags;
		sum += tp->lsndtime;
		sum += tp->rcv_tstamp;
		sum += tp->inet_conn.icsk_ack.lrcvtime;
	}
	walk->touched += sum;
}

static __always_inline void fetch_entries(struct walk *walk)
{
	__u64 heads[AHEAD], sum = 0;
	int i;

	if (!is_time_to_fetch(walk, heads))
		return;
	for (i = 0; i < AHEAD; i++) {
		const struct nf_conn *ct;

		if (heads[i] & 1)
			continue;
		ct = AS(nf_conn, heads[i] - CONN(tuplehash[0].hnnode));
		sum += ct->timeout;
		sum += ct->tuplehash[0].tuple.dst.protonum;
		sum += ct->tuplehash[1].tuple.dst.protonum;
		sum += ct->proto.tcp.state;
	}
	walk->touched += sum;
}

/* The next object, or 0 at the end of a bucket or all. */
static __always_inline __u64 next_object(struct walk *walk, long *step)
{
	__u64 node = walk->node;

	*step = GO_ON;
	if (!node) {
		if (walk->bucket > walk->last) {
			*step = STOP;
			return 0;
		}
		if (READ(node, walk->base + walk->bucket * sizeof(void *))) {
			*step = STOP;
			return 0;
		}
		walk->mark = walk->used;
	}
	if (!(node & 1))
		return node;
	walk->node = 0;
	if (node >> 1 != walk->bucket) {
		/* Led astray into another chain by an object that moved there. */
		if (walk->tries < MOST_TRIES) {
			walk->tries++;
			walk->used = walk->mark;
			return 0;
		}
		walk->torn++;
	}
	walk->tries = 0;
	walk->bucket++;
	return 0;
}

/* The object changed while it was read. */
static __always_inline long read_bucket_anew(struct walk *walk)
{
	walk->node = 0;
	if (walk->tries < MOST_TRIES) {
		walk->tries++;
	} else {
		walk->torn++;
		walk->tries = 0;
		walk->bucket++;
	}
	walk->used = walk->mark;
	return GO_ON;
}

static __always_inline bool same_tuple(const char *one, const char *other)
{
	return FIELD(__u64, one, 0) == FIELD(__u64, other, 0) &&
	       FIELD(__u64, one, 8) == FIELD(__u64, other, 8) &&
	       FIELD(__u64, one, 16) == FIELD(__u64, other, 16) &&
	       FIELD(__u64, one, 24) == FIELD(__u64, other, 24) &&
	       FIELD(__u64, one, 32) == FIELD(__u64, other, 32);
}

static __always_inline __u32 lesser(__u32 one, __u32 other)
{
	return one < other ? one : other;
}

/* These two are no static functions: so the verifier looks at each once by itself, and not at every
 * turn of the loop, which takes longer than all sockets of a machine. */
int next_socket(struct walk *walk)
{
	char copy[128] __attribute__((aligned(8)));
	char again[64] __attribute__((aligned(8)));
	struct socket_record *record;
	__u32 sent = 0, acked = 0, received = 0, now;
	__u64 node, sk, net, holder = 0;
	long step;
	__u8 state;

	if (!walk)
		return STOP;
	fetch_sockets(walk);
	node = next_object(walk, &step);
	if (!node)
		return step;
	sk = node - SOCK(skc_nulls_node);
	if (READ(copy, sk))
		return STOP;
	walk->node = FIELD(__u64, copy, SOCK(skc_nulls_node.next));
	walk->seen++;
	state = FIELD(__u8, copy, SOCK(skc_state));
	/* TIME_WAIT and requests are smaller objects without the rest. */
	if (state != TCP_ESTABLISHED && state != TCP_FIN_WAIT2 && state != TCP_CLOSE_WAIT)
		return GO_ON;
	record = room(walk, sizeof(*record));
	if (!record)
		return STOP;
	net = FIELD(__u64, copy, SOCK(skc_net.net));
	meet(walk, net);
	record->netns = walk->inum;
	record->state = state;
	record->family = FIELD(__u16, copy, SOCK(skc_family));
	if (record->family == AF_INET6 && HAS_IPV6) {
		copy_address(record->local, copy + SOCK(skc_v6_rcv_saddr));
		copy_address(record->remote, copy + SOCK(skc_v6_daddr));
	} else {
		record->local[0] = FIELD(__u32, copy, SOCK(skc_rcv_saddr));
		record->remote[0] = FIELD(__u32, copy, SOCK(skc_daddr));
	}
	record->local_port = FIELD(__u16, copy, SOCK(skc_num));
	record->remote_port = FIELD(__u16, copy, SOCK(skc_dport));
	record->cookie = FIELD(__u64, copy, SOCK(skc_cookie.counter));
	record->interface = FIELD(__u32, copy, SOCK(skc_bound_dev_if));
	record->keepalive = FIELD(__u64, copy, SOCK(skc_flags)) >>
				    bpf_core_enum_value(enum sock_flags, SOCK_KEEPOPEN) &
			    1;
	if (HAS_LOADS) {
		const struct tcp_sock *tp = AS(tcp_sock, sk);

		sent = tp->lsndtime;
		acked = tp->rcv_tstamp;
		received = tp->inet_conn.icsk_ack.lrcvtime;
	} else {
		READ(sent, sk + OFFSET(tcp_sock, lsndtime));
		READ(acked, sk + OFFSET(tcp_sock, rcv_tstamp));
		READ(received, sk + OFFSET(tcp_sock, inet_conn.icsk_ack.lrcvtime));
	}
	/* Asked for after the stamps were read, and for each socket: what is younger than the walk would
	 * seem to be as old as the numbers go. */
	now = bpf_jiffies64();
	record->heard = lesser(now - acked, now - received);
	record->idle = lesser(now - sent, record->heard);
	if (record->keepalive) {
		READ(record->keepalive_time, sk + OFFSET(tcp_sock, keepalive_time));
		READ(record->keepalive_interval, sk + OFFSET(tcp_sock, keepalive_intvl));
		READ(record->keepalive_probes, sk + OFFSET(tcp_sock, keepalive_probes));
	}
	record->inode = 0;
	if (walk->inodes || state == TCP_FIN_WAIT2) {
		READ(holder, sk + OFFSET(tcp_sock, inet_conn.icsk_inet.sk.sk_socket));
		if (holder)
			READ(record->inode, holder + OFFSET(socket_alloc, vfs_inode.i_ino));
	}
	/* Still the same: an object that was freed and used again meanwhile has other ports, or
	 * another namespace, or another state. */
	if (READ(again, sk) || FIELD(__u64, again, SOCK(skc_net.net)) != net ||
	    FIELD(__u32, again, SOCK(skc_dport)) != FIELD(__u32, copy, SOCK(skc_dport)) ||
	    FIELD(__u32, again, SOCK(skc_family)) != FIELD(__u32, copy, SOCK(skc_family)))
		return read_bucket_anew(walk);
	/* No process holds it any more. */
	if (state == TCP_FIN_WAIT2 && !holder)
		return GO_ON;
	walk->used += sizeof(*record);
	return GO_ON;
}

static __always_inline void put_tuple(struct entry_record *record, __u32 at, const char *tuple)
{
	copy_address(record->address[at], tuple + TUPLE(src.u3));
	copy_address(record->address[at + 1], tuple + TUPLE(dst.u3));
	record->port[at] = FIELD(__be16, tuple, TUPLE(src.u.all));
	record->port[at + 1] = FIELD(__be16, tuple, TUPLE(dst.u.all));
}

int next_entry(struct walk *walk)
{
	char tuple[TUPLE_SIZE] __attribute__((aligned(8)));
	char copy[256] __attribute__((aligned(8)));
	struct entry_record *record;
	__u64 node, ct, net;
	long step;

	if (!walk)
		return STOP;
	fetch_entries(walk);
	node = next_object(walk, &step);
	if (!node)
		return step;
	/* As if it were the first of the two by which a connection is in the table. */
	ct = node - CONN(tuplehash[0].hnnode);
	if (READ(tuple, ct + CONN(tuplehash[0].tuple)))
		return STOP;
	/* By its reply it would be met again. */
	if (FIELD(__u8, tuple, TUPLE(dst.dir)))
		return READ(walk->node, node) ? STOP : GO_ON;
	if (READ(copy, ct))
		return STOP;
	walk->node = FIELD(__u64, copy, CONN(tuplehash[0].hnnode.next));
	walk->seen++;
	if (FIELD(__u8, tuple, TUPLE(dst.protonum)) != IPPROTO_TCP)
		return GO_ON;
	record = room(walk, sizeof(*record));
	if (!record)
		return STOP;
	net = FIELD(__u64, copy, CONN(ct_net.net));
	meet(walk, net);
	record->netns = walk->inum;
	record->family = FIELD(__u16, copy, CONN(tuplehash[0].tuple.src.l3num));
	put_tuple(record, 0, copy + CONN(tuplehash[0].tuple));
	put_tuple(record, 2, copy + CONN(tuplehash[1].tuple));
	record->expires = FIELD(__u32, copy, CONN(timeout)) - walk->now;
	record->state = FIELD(__u8, copy, CONN(proto.tcp.state));
	record->offloaded = FIELD(__u64, copy, CONN(status)) >> IPS_OFFLOAD_BIT & 1;
	/* Still the same connection. */
	if (READ(tuple, ct + CONN(tuplehash[0].tuple)) ||
	    !same_tuple(tuple, copy + CONN(tuplehash[0].tuple)))
		return read_bucket_anew(walk);
	/* Run out, and only not cleared away yet (nf_ct_is_expired). */
	if ((__s32)record->expires <= 0)
		return GO_ON;
	walk->used += sizeof(*record);
	return GO_ON;
}

static long step_socket(__u64 number, struct walk *walk)
{
	(void)number;
	return next_socket(walk) ? STOP : GO_ON;
}

static long step_entry(__u64 number, struct walk *walk)
{
	(void)number;
	return next_entry(walk) ? STOP : GO_ON;
}

SEC("raw_tp")
int keepline_socks(const struct question *question)
{
	__u64 task = bpf_get_current_task(), proxy = 0, net = 0, table = 0, base = 0;
	struct walk walk;
	__u32 mask = 0;
	bool pernet = false;

	READ(proxy, task + OFFSET(task_struct, nsproxy));
	READ(net, proxy + OFFSET(nsproxy, net_ns));
	READ(table, net + OFFSET(net, ipv4.tcp_death_row.hashinfo));
	READ(base, table + OFFSET(inet_hashinfo, ehash));
	if (bpf_core_field_exists(struct inet_hashinfo, pernet))
		READ(pernet, table + OFFSET(inet_hashinfo, pernet));
	if (READ(mask, table + OFFSET(inet_hashinfo, ehash_mask)) || !base || pernet)
		return 0;
	begin(&walk, question);
	walk.base = base;
	if (walk.last > mask)
		walk.last = mask;
	bpf_loop(MOST_STEPS, step_socket, &walk, 0);
	return end(&walk);
}

SEC("raw_tp")
int keepline_conns(const struct question *question)
{
	struct walk walk;

	begin(&walk, question);
	bpf_loop(MOST_STEPS, step_entry, &walk, 0);
	return end(&walk);
}

struct __sk_buff {
	__u32 len;
};

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

struct bpf_sock_tuple {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
					 __u32 tuple__sz, struct bpf_ct_opts *opts,
					 __u32 opts__sz) __ksym;
extern void bpf_ct_release(struct nf_conn *ct) __ksym;

/* A question of src/tables/locate.rs, and the answer. */
struct probe {
	struct bpf_sock_tuple known;
	__u32 pad;
	__u64 word;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct probe);
} keepline_probe SEC(".maps");

/* Where one connection is, by which the table that it is in can be found: the table itself has no
 * name that a program may use on every kernel. */
SEC("tc")
int keepline_find(struct __sk_buff *skb)
{
	struct bpf_ct_opts opts = { .netns_id = -1 /* this one */, .l4proto = IPPROTO_TCP };
	struct bpf_sock_tuple tuple;
	struct probe *probe;
	struct nf_conn *ct;
	__u32 first = 0;

	probe = bpf_map_lookup_elem(&keepline_probe, &first);
	if (!probe)
		return 0;
	tuple = probe->known;
	ct = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple), &opts, sizeof(opts));
	if (!ct)
		return 0;
	probe->word = (__u64)ct + CONN(tuplehash[0].hnnode);
	bpf_ct_release(ct);
	return 1;
}

/* Eight bytes of memory. */
SEC("raw_tp")
int keepline_peek(const struct question *question)
{
	struct probe *probe;
	__u32 first = 0;

	probe = bpf_map_lookup_elem(&keepline_probe, &first);
	return probe && !READ(probe->word, question->base);
}
