/* SPDX-License-Identifier: MIT */
/*
 * A mirror's page table: a radix tree over page numbers, 512 entries a node.
 *
 * Nodes are made before the lock is taken that guards them, since the core's callbacks
 * take it too, and live as long as the table: 8 bytes for a page once looked at.
 */
#ifndef DMIRROR_TABLE_H
#define DMIRROR_TABLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* An entry. 0: nothing is known of the page, a device access faults. */
#define PTE_VALID	(1ULL << 0)
#define PTE_WRITE	(1ULL << 1)
#define PTE_PRIVATE	(1ULL << 2)	/* in this device's memory; the frame above bit 12 */
#define PTE_COHERENT	(1ULL << 3)	/* in some coherent memory: the CPU's address reaches it */
#define PTE_ATOMIC	(1ULL << 4)	/* this device's alone; where the bytes are from bit 12 up */

#define TABLE_LEVELS	4u
#define TABLE_BITS	9u
#define TABLE_FANOUT	(1u << TABLE_BITS)

struct table_node {
	uint64_t entry[TABLE_FANOUT];		/* of a leaf: entries; else nodes */
};

struct table {
	unsigned int page_shift;
	struct table_node *root;
};

int table_init(struct table *table);
void table_destroy(struct table *table);

/* Nodes for [start, end); takes @lock where it needs it. 0, -ENOMEM, -EFAULT beyond its reach. */
int table_reserve(struct table *table, pthread_mutex_t *lock, uintptr_t start, uintptr_t end);

/* Lock held. The entry of @va, or NULL where no node is. */
uint64_t *table_find(const struct table *table, uintptr_t va);

/* The next page's: @va, whose predecessor has @entry (or none). For walks page by page. */
static inline uint64_t *table_next(const struct table *table, uint64_t *entry, uintptr_t va)
{
	return entry && va >> table->page_shift & (TABLE_FANOUT - 1) ? entry + 1 :
								       table_find(table, va);
}

static inline uint64_t table_get(const struct table *table, uintptr_t va)
{
	const uint64_t *entry = table_find(table, va);

	return entry ? *entry : 0;
}

/* Clear [start, end). Was anything there? */
bool table_erase(struct table *table, uintptr_t start, uintptr_t end);

/* Has an entry of [start, end) one of these bits? */
bool table_any(const struct table *table, uintptr_t start, uintptr_t end, uint64_t bits);

static inline uint64_t pte_frame(uint64_t pte)
{
	return pte >> 12;
}

static inline void *pte_bytes(uint64_t pte)
{
	return (void *)(uintptr_t)(pte & ~0xfffULL);
}

#endif
