/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What tables.bpf.c and ipvs.bpf.c are asked and tell (src/tables/). */
#ifndef KEEPLINE_TABLES_H
#define KEEPLINE_TABLES_H

#define ROOM (256 << 10) /* bytes of records in one call; src/tables/reader.rs */
#define SLOTS 16         /* calls at the same time; src/tables/mod.rs */
/* In one call, which the kernel does not interrupt (bpf_prog_test_run_raw_tp): less than a
 * millisecond. src/tables/reader.rs goes on. */
#define MOST_STEPS (1 << 15)
#define MOST_TRIES 8
#define IPS_OFFLOAD_BIT 14 /* include/uapi/linux/netfilter/nf_conntrack_common.h */

struct batch {
	__u64 bucket; /* where to go on */
	__u64 used;   /* bytes of records */
	__u64 seen;   /* objects walked over */
	__u64 torn;   /* buckets that would not hold still */
	__u64 last;   /* the question's, or the table's last bucket */
	char records[ROOM];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct batch);
} keepline_tables SEC(".maps");

struct socket_record {
	__be32 local[4]; /* IPv4: the first word */
	__be32 remote[4];
	__u16 local_port;
	__be16 remote_port;
	__u32 netns; /* inode of the namespace */
	__u64 cookie;
	__u64 inode;
	__u32 idle;  /* jiffies since the last data or acknowledgement */
	__u32 heard; /* of these, received */
	__u32 keepalive_time; /* jiffies; 0: as the namespace has it */
	__u32 keepalive_interval;
	__u32 interface;
	__u8 family;
	__u8 state;
	__u8 keepalive; /* 0: off */
	__u8 keepalive_probes;
};

struct entry_record {
	__be32 address[4][4]; /* original source and destination, those of the reply */
	__be16 port[4];
	__u32 netns;
	__u32 expires; /* jiffies */
	__u8 family;
	__u8 state;
	__u8 offloaded;
	__u8 pad[5];
};

struct conn_record {
	__be32 address[3][4]; /* client, virtual address, backend */
	__be16 port[3];
	__u16 state;
	__u32 netns;
	__u32 expires; /* jiffies */
	__u8 family;
	__u8 backend_family;
	__u8 pad[6];
};

/* What a walk is asked, as the context of a raw tracepoint. */
struct question {
	__u64 slot;
	__u64 bucket; /* from here */
	__u64 last;   /* to here */
	__u64 base;   /* address of the first bucket, of conntrack's table; others are found */
	__u64 inodes; /* whether those of sockets are wanted */
	/* Always 0. The verifier is to take the walk's state for unknown from the start. */
	__u64 zero;
};

#endif
