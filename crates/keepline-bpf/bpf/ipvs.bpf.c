// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The connections that IPVS remembers, read from its table as they are: before kernel 6.14 the only
 * listing (/proc/net/ip_vs_conn) is counted from its start again at every page, which takes time with
 * the square of its length. Apart from tables.bpf.c, since libbpf has to look through the types of all
 * modules for these.
 *
 * Nothing is changed, locked or counted. Under RCU (as every program runs) an entry that is taken out
 * of the table stays what it is, and leads on along its chain (ip_vs_conn_rcu_free): what was there
 * all the time is met once. An entry that moves to another chain meanwhile, as those of FTP's second
 * connections do once, may lead astray: who is accused is looked at again.
 */
#include "kernel.h"
#include "walk.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CONN(field) OFFSET(ip_vs_conn, field)

/* No program may use them by BTF; in /proc/kallsyms they are where that has data, too. */
extern const void ip_vs_conn_tab __ksym __weak;
extern const void ip_vs_conn_tab_size __ksym __weak;

static __always_inline void put_address(struct conn_record *record, __u32 at, const char *copy,
					__u32 address, __u32 port)
{
	copy_address(record->address[at], copy + address);
	record->port[at] = FIELD(__be16, copy, port);
}

/* No static function: so the verifier looks at it once by itself, and not at every turn of the loop. */
int next_conn(struct walk *walk)
{
	char copy[112] __attribute__((aligned(8)));
	struct conn_record *record;
	unsigned long expires = 0;
	__u64 node, cp, net = 0;

	if (!walk)
		return STOP;
	node = walk->node;
	if (!node) {
		if (walk->bucket > walk->last ||
		    READ(node, walk->base + walk->bucket * sizeof(void *)))
			return STOP;
		walk->mark = walk->used;
		if (!node) {
			walk->bucket++;
			return GO_ON;
		}
	}
	cp = node - CONN(c_list);
	if (READ(copy, cp))
		return STOP;
	walk->seen++;
	/* Templates of persistent services have no client's port. */
	if (FIELD(__u16, copy, CONN(protocol)) == IPPROTO_TCP && FIELD(__be16, copy, CONN(cport))) {
		record = room(walk, sizeof(*record));
		if (!record)
			return STOP;
		READ(net, FIELD(__u64, copy, CONN(ipvs)) + OFFSET(netns_ipvs, net));
		meet(walk, net);
		record->netns = walk->inum;
		record->family = FIELD(__u16, copy, CONN(af));
		record->backend_family = FIELD(__u16, copy, CONN(daf));
		put_address(record, 0, copy, CONN(caddr), CONN(cport));
		put_address(record, 1, copy, CONN(vaddr), CONN(vport));
		put_address(record, 2, copy, CONN(daddr), CONN(dport));
		READ(record->state, cp + CONN(state));
		READ(expires, cp + CONN(timer.expires));
		record->expires = (__u32)expires - walk->now;
		/* Run out, and only not cleared away yet. */
		if ((__s32)record->expires < 0)
			record->expires = 0;
		walk->used += sizeof(*record);
	}
	walk->node = FIELD(__u64, copy, CONN(c_list.next));
	if (!walk->node)
		walk->bucket++;
	return GO_ON;
}

static long step_conn(__u64 number, struct walk *walk)
{
	(void)number;
	return next_conn(walk) ? STOP : GO_ON;
}

SEC("raw_tp")
int keepline_ipvs(const struct question *question)
{
	struct walk walk;
	__u64 base = 0;
	__u32 size = 0;

	if (READ(base, &ip_vs_conn_tab) || READ(size, &ip_vs_conn_tab_size) || !base || !size)
		return 0;
	begin(&walk, question);
	walk.base = base;
	if (walk.last > size - 1)
		walk.last = size - 1;
	bpf_loop(MOST_STEPS, step_conn, &walk, 0);
	return end(&walk);
}
