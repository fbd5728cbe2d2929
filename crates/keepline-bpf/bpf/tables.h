/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What tables.bpf.c is asked and tells (src/tables/), and what it remembers on its way. */
#ifndef KEEPLINE_TABLES_H
#define KEEPLINE_TABLES_H

#define ROOM (256 << 10) /* bytes of records in one call; src/tables.rs */
#define SLOTS 16         /* calls at the same time; src/tables.rs */
#define MOST_STEPS (1 << 20)
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

/* What a walk is asked, as the context of a raw tracepoint. */
struct question {
	__u64 slot;
	__u64 bucket; /* from here */
	__u64 last;   /* to here */
	__u64 base;   /* address of the first bucket; of sockets 0, they are found */
	__u64 inodes; /* whether those of sockets are wanted */
	/* Always 0. The verifier is to take the walk's state for unknown from the start. */
	__u64 zero;
};

struct walk {
	__u64 base;
	__u64 bucket;
	__u64 last;
	__u64 node;  /* where in the bucket; 0: at its start */
	__u64 used;  /* bytes of records */
	__u64 mark;  /* those before this bucket */
	__u64 seen;
	__u64 torn;
	__u64 net;   /* address of the namespace last met, */
	__u32 inum;  /* and its inode */
	__u32 slot;
	__u32 now;
	__u32 tries;
	__u64 inodes;
	__u64 touched; /* keeps loads that are for their effect on the caches alone */
};

#endif
