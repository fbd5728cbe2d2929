/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What walks over the kernel's tables share: where they are, and their records' room. */
#ifndef KEEPLINE_WALK_H
#define KEEPLINE_WALK_H

#include "tables.h"

#define READ(into, address) bpf_probe_read_kernel(&(into), sizeof(into), (void *)(address))
#define OFFSET(type, field) bpf_core_field_offset(struct type, field)
#define FIELD(type, copy, offset) (*(type *)((copy) + (offset)))

/* Each step is one object or the start of one bucket. */
enum { GO_ON = 0, STOP = 1 };

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
	__u32 now; /* when it began */
	__u32 tries;
	__u64 inodes;
	__u64 touched; /* keeps loads that are for their effect on the caches alone */
};

/* Room for one record; NULL where it is full, with the bucket taken back. */
static __always_inline void *room(struct walk *walk, __u32 size)
{
	__u32 slot = walk->slot;
	struct batch *batch = bpf_map_lookup_elem(&keepline_tables, &slot);
	__u64 used = walk->used;
	char *record;

	if (!batch || used > ROOM - size) {
		walk->used = walk->mark;
		walk->node = 0;
		return NULL;
	}
	record = batch->records + used;
	/* Not to be put off: `used`, kept on the stack meanwhile, would have no bounds any more. */
	barrier_var(record);
	return record;
}

static __always_inline void meet(struct walk *walk, __u64 net)
{
	if (net == walk->net)
		return;
	walk->net = net;
	READ(walk->inum, net + OFFSET(net, ns.inum));
}

/* Word by word: the compiler knows nothing of how the copy is aligned. */
static __always_inline void copy_address(__be32 *to, const char *from)
{
	to[0] = FIELD(__be32, from, 0);
	to[1] = FIELD(__be32, from, 4);
	to[2] = FIELD(__be32, from, 8);
	to[3] = FIELD(__be32, from, 12);
}

static __always_inline void begin(struct walk *walk, const struct question *question)
{
	walk->slot = question->slot;
	walk->bucket = question->bucket;
	walk->last = question->last;
	walk->base = question->base;
	walk->inodes = question->inodes;
	walk->node = question->zero;
	walk->used = question->zero;
	walk->mark = question->zero;
	walk->seen = question->zero;
	walk->torn = question->zero;
	walk->net = question->zero;
	walk->inum = question->zero;
	walk->tries = question->zero;
	walk->touched = question->zero;
	walk->now = bpf_jiffies64();
}

static __always_inline int end(const struct walk *walk)
{
	__u32 slot = walk->slot;
	struct batch *batch = bpf_map_lookup_elem(&keepline_tables, &slot);

	if (!batch)
		return 0;
	/* In the midst of a bucket: it is read again. */
	batch->used = walk->node ? walk->mark : walk->used;
	batch->bucket = walk->bucket;
	batch->seen = walk->seen;
	batch->torn = walk->torn;
	batch->last = walk->last;
	return 1;
}

#endif
