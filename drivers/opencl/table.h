/* SPDX-License-Identifier: MIT */
/*
 * The device's page table: what <uhmm/device.clh> walks, and our mirror of it.
 *
 *	words	the directory, then leaves of 4096 entries, one per bound block
 *	pages	per slot, bits per page: there, writable, a copy
 *
 * `lock` is held by the worker for as long as a launch runs, and invalidate() takes it:
 * so an invalidation waits for the launch, and the device never uses what one has
 * taken. Nothing is allocated, freed, mapped or faulted on under it; the worker that
 * holds it runs on safe memory and waits for the engine alone.
 *
 * The device's copy is brought up to date by ocl_table_upload(), before each launch:
 * what changed is marked, per leaf and per slot. Runs (how many blocks follow each
 * other both here and there) are found anew then.
 */
#ifndef OPENCL_TABLE_H
#define OPENCL_TABLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "memory.h"

struct ocl_channel;

struct ocl_table {
	pthread_mutex_t lock;
	/* under lock */
	uint64_t *words;
	uint32_t nr_leaves, max_leaves;
	bool *leaf_dirty;		/* [max_leaves] */
	bool directory_dirty;
	bool stale;			/* entries' flags and runs are to be found anew */
	uint64_t *pages;		/* [slots][HMM_PAGES_WORDS] */
	bool *slot_dirty;		/* [slots] */
	struct ocl_memory *memory;
	uint32_t page_shift;
	uint32_t pool_slots;		/* runs do not cross buffers */
};

#define OCL_TABLE_LEAVES	64	/* to begin with: half a TiB of addresses */

int ocl_table_init(struct ocl_table *table, struct ocl_memory *memory, uint32_t page_shift,
		   uint32_t pool_slots);
void ocl_table_destroy(struct ocl_table *table);

static inline uint64_t ocl_table_words(uint32_t leaves)
{
	return OCL_DIRECTORY_WORDS + (uint64_t)leaves * OCL_LEAF_WORDS;
}

static inline void ocl_table_lock(struct ocl_table *table)
{
	pthread_mutex_lock(&table->lock);
}

static inline void ocl_table_unlock(struct ocl_table *table)
{
	pthread_mutex_unlock(&table->lock);
}

/*
 * Make sure that @block has a leaf; the table may grow. On the worker, lock not held.
 * 0, -ENOMEM, -EIO.
 */
int ocl_table_prepare(struct ocl_table *table, struct ocl_channel *channel, uintptr_t block);

/* The following with the lock held. */

/* The slot of a block, or OCL_NO_SLOT. */
uint32_t ocl_table_slot(const struct ocl_table *table, uintptr_t va);
void ocl_table_bind(struct ocl_table *table, uintptr_t block, uint32_t slot);
void ocl_table_unbind(struct ocl_table *table, uintptr_t block);

struct ocl_pte {
	bool there, write, copy;
};
struct ocl_pte ocl_table_get(const struct ocl_table *table, uintptr_t va);
/* The block is bound. */
void ocl_table_set(struct ocl_table *table, uintptr_t va, struct ocl_pte pte);

/* Take [start, end) from the device, copies only where asked; pages that were there. */
uint64_t ocl_table_erase(struct ocl_table *table, uintptr_t start, uintptr_t end, bool copies);

/* Bring the device's copy up to date, through the worker's slot. */
int ocl_table_upload(struct ocl_table *table, struct ocl_channel *channel);

#endif
