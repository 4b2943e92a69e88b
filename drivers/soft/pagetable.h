/* SPDX-License-Identifier: MIT */
/*
 * The device's page table: a radix tree from address to entry.
 *
 *	47          39          30          21          12         0
 *	 | level 3   | level 2   | level 1   | level 0   |  offset |	(4 KiB pages)
 *
 * An entry holds the page's place as the lanes reach it (in device memory, in the
 * exclusive copy, or the program's own address) and its bits. An entry without VALID
 * is empty, or LOST: the page was in device memory and its bytes are gone. LOST only
 * makes the fault record say so; the core is asked nevertheless.
 *
 * `lock` is the driver's lock of the notifier's protocol: invalidate() takes it and
 * read_retry() is asked under it. Nodes come from a pool in safe memory that grows
 * before the lock is taken and never shrinks, so nothing is allocated under it.
 *
 *	node->nr == number of its entries that are not 0; a node other than the root
 *	with nr == 0 is in the pool
 */
#ifndef SOFT_PAGETABLE_H
#define SOFT_PAGETABLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uhmm/soft.h>

/* The public bits are HMM_SOFT_PTE_*; these are ours. */
#define SOFT_PTE_GUARDED	(1u << 6)	/* reached by guarded copies only */
#define SOFT_PTE_LOST		(1u << 7)
#define SOFT_PTE_DIRECT		(1u << 8)	/* what an erase reports of one without GUARDED */
#define SOFT_PTE_FLAGS		0xfffULL
#define SOFT_PTE_PUBLIC		0x3fU

#define SOFT_TABLE_BITS		9
#define SOFT_TABLE_ENTRIES	(1u << SOFT_TABLE_BITS)
#define SOFT_TABLE_LEVELS	4

struct soft_node {
	uint64_t entry[SOFT_TABLE_ENTRIES];
	uint32_t nr;
	struct soft_node *next;		/* in the pool */
};

struct soft_chunk;

struct soft_table {
	unsigned int page_shift;
	pthread_mutex_t lock;
	/* under lock */
	struct soft_node *root;
	struct soft_node *pool;
	size_t nr_pool;
	struct soft_chunk *chunks;
};

int soft_table_init(struct soft_table *table);
void soft_table_destroy(struct soft_table *table);

/*
 * Take the lock with nodes enough in the pool to fill @nr_pages consecutive entries.
 * 0, or -ENOMEM and the lock is not held. Call with no lock held.
 */
int soft_table_lock_for(struct soft_table *table, size_t nr_pages);

static inline void soft_table_lock(struct soft_table *table)
{
	pthread_mutex_lock(&table->lock);
}

static inline void soft_table_unlock(struct soft_table *table)
{
	pthread_mutex_unlock(&table->lock);
}

/* All of these under the lock. */

/* The entry's slot, or NULL where no node is. Its VALID and LOST stay as they are. */
uint64_t *soft_table_slot(struct soft_table *table, uintptr_t va);

/* The entry, or 0. */
uint64_t soft_table_get(struct soft_table *table, uintptr_t va);

/* Set an entry, not to 0; false when the pool is empty. */
bool soft_table_set(struct soft_table *table, uintptr_t va, uint64_t pte);

/* So many, each one's place a page behind the one's before. */
bool soft_table_set_run(struct soft_table *table, uintptr_t va, size_t nr, uint64_t pte);

/*
 * Forget [start, end). Visits populated nodes only: the range may be all of the
 * address space. Returns the bits of what was erased, or'ed; LOST marks go only with
 * @lost, because the events that lose a page must not wipe out the mark.
 */
uint64_t soft_table_erase(struct soft_table *table, uintptr_t start, uintptr_t end, bool lost);

/* Forget the entries in device memory, whatever their address. */
uint64_t soft_table_erase_local(struct soft_table *table);

/* How many entries of [start, end) are in device memory. */
size_t soft_table_count_local(struct soft_table *table, uintptr_t start, uintptr_t end);

/* The first page of [start, end) that has all of @flags, UINTPTR_MAX: none. */
uintptr_t soft_table_find(struct soft_table *table, uintptr_t start, uintptr_t end,
			  uint64_t flags);

#endif
