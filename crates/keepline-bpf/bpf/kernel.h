/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The few declarations of the kernel that the programs here need.
 *
 * Fixed layouts are those of include/uapi/linux/bpf.h. Kernel structures name only the fields that
 * are used: libbpf finds their real offsets at load (CO-RE), so one object fits every kernel with
 * BTF.
 */
#ifndef KEEPLINE_KERNEL_H
#define KEEPLINE_KERNEL_H

typedef unsigned char __u8;
typedef signed short __s16;
typedef unsigned short __u16;
typedef signed int __s32;
typedef unsigned int __u32;
typedef signed long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define NULL ((void *)0)
#define true 1
#define false 0

/* enum bpf_map_type and map flags, include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_HASH_OF_MAPS = 13,
	BPF_MAP_TYPE_SK_STORAGE = 24,
};
enum { BPF_F_NO_PREALLOC = 1 };
enum { BPF_SK_STORAGE_GET_F_CREATE = 1 };

/* sock_ops.op, include/uapi/linux/bpf.h */
enum {
	BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB = 4,
	BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB = 5,
};

/* Addresses, levels and options of sockets: include/linux/socket.h, include/uapi/linux/{in,tcp}.h,
 * include/uapi/asm-generic/socket.h (the same numbers on x86-64 and arm64). */
enum { AF_INET = 2, AF_INET6 = 10 };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17 };
enum { SOL_SOCKET = 1, SOL_TCP = 6 };
enum { SO_KEEPALIVE = 9 };
enum { TCP_KEEPIDLE = 4, TCP_KEEPINTVL = 5, TCP_KEEPCNT = 6 };

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_CLOSE_WAIT = 8,
};

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port;  /* host byte order */
	__be16 dst_port; /* network byte order */
	__u16 : 16;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 rtt_min;
	__u32 snd_ssthresh;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 mss_cache;
	__u32 ecn_flags;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 packets_out;
	__u32 retrans_out;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 data_segs_in;
	__u32 segs_out;
	__u32 data_segs_out;
	__u32 lost_out;
	__u32 sacked_out;
	__u32 sk_txhash;
	__u64 bytes_received;
	__u64 bytes_acked;
	struct bpf_sock *sk;
};

struct bpf_sockopt {
	struct bpf_sock *sk;
	void *optval;
	void *optval_end;
	__s32 level;
	__s32 optname;
	__s32 optlen;
	__s32 retval;
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;    /* network byte order, as all addresses here */
	__u32 user_ip6[4];
	__u32 user_port;   /* network byte order, in the first two bytes */
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	struct bpf_sock *sk;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct inet_hashinfo {
	void *ehash;
	unsigned int ehash_mask;
	bool pernet; /* since 6.1: a table of one namespace */
};

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
	int sysctl_tcp_keepalive_time;  /* jiffies */
	int sysctl_tcp_keepalive_intvl; /* jiffies */
	__u8 sysctl_tcp_keepalive_probes;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	__u64 net_cookie; /* since 5.12 a plain number that every namespace has */
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

struct nsproxy {
	struct net *net_ns;
};

struct task_struct {
	struct nsproxy *nsproxy;
};

typedef struct {
	struct net *net;
} possible_net_t;

/* The last `next` of a chain is no pointer: it is odd, and half of it the number of the bucket. */
struct hlist_nulls_node {
	void *next;
	void **pprev;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie; /* 0: nobody has asked for it yet */
	unsigned long skc_flags;
	struct hlist_nulls_node skc_nulls_node;
};

struct inode {
	unsigned long i_ino;
};

struct socket_alloc {
	struct inode vfs_inode;
};

struct sock {
	struct sock_common __sk_common;
	void *sk_socket; /* in a struct socket_alloc, whose first member it is */
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct {
		__u32 lrcvtime; /* jiffies */
	} icsk_ack;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 lsndtime;               /* jiffies */
	__u32 rcv_tstamp;             /* jiffies */
	__u8 keepalive_probes;        /* 0: as the namespace's sysctl says */
	unsigned int keepalive_time;  /* jiffies, 0 likewise */
	unsigned int keepalive_intvl; /* jiffies, 0 likewise */
};

enum sock_flags { SOCK_KEEPOPEN = 3 };

union nf_inet_addr {
	__u32 all[4];
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union {
		__be16 all;
	} u;
	__u16 l3num;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
		__u8 protonum;
		__u8 dir;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct hlist_nulls_node hnnode;
	struct nf_conntrack_tuple tuple;
};

struct ip_ct_tcp {
	__u8 state;
};

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
};

struct nf_conn {
	__u32 timeout; /* jiffies */
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	possible_net_t ct_net;
	union nf_conntrack_proto proto;
};

struct hlist_node {
	void *next; /* NULL at the end of a chain */
};

struct timer_list {
	unsigned long expires; /* jiffies */
};

struct netns_ipvs {
	struct net *net;
};

/* Of the module ip_vs, or the kernel's own. */
struct ip_vs_conn {
	struct hlist_node c_list;
	__be16 cport;
	__be16 dport;
	__be16 vport;
	__u16 af;
	union nf_inet_addr caddr;
	union nf_inet_addr vaddr;
	union nf_inet_addr daddr;
	__u16 protocol;
	__u16 daf; /* the backend's family */
	struct netns_ipvs *ipvs;
	struct timer_list timer;
	volatile __u16 state;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* What both programs key by: a network namespace, an address in it, a port. Written by the loader
 * (src/layout.rs). An IPv4 address is kept as ::ffff:a.b.c.d, big-endian. */
struct address {
	__be32 word[4];
};

#define V4_MAPPED bpf_htonl_constant(0x0000ffff)
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_htonl_constant(x) __builtin_bswap32(x)
#else
#define bpf_htonl_constant(x) (x)
#endif

#endif
