/* SPDX-License-Identifier: MIT */
/*
 * The device's memory: slots of 2 MiB.
 *
 * A slot is free; loose (pages of page_alloc(), which knows no addresses); or bound to
 * one 2 MiB block of the program's addresses, where page i of the block can only be
 * page i of the slot. Kernels see bound slots alone: so a whole block is one entry of
 * their page table.
 *
 *	used pages == nr_used; a free slot has none and is not bound
 *
 * A page of a bound slot is used by the core, or borrowed: it holds a copy of a page
 * that cannot move (borrow.h).
 *
 * `lock` is a leaf, taken by page_free() under the mm lock: nothing is allocated,
 * waited for or faulted on under it. What binds a slot (block) changes under the table
 * lock as well, so that either is enough to read it.
 */
#ifndef OPENCL_MEMORY_H
#define OPENCL_MEMORY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

#define OCL_BLOCK_PAGES	512	/* most, with 4 KiB pages */
#define OCL_BLOCK_WORDS	(OCL_BLOCK_PAGES / 64)
#define OCL_NO_SLOT	UINT32_MAX
#define OCL_HELD	4	/* blocks that move together, most */

struct ocl_slot {
	uint64_t used[OCL_BLOCK_WORDS];
	uint64_t borrowed[OCL_BLOCK_WORDS];
	uint32_t nr_used;
	uintptr_t block;	/* 0: not bound */
	uint64_t stamp;		/* when it was last served; the least is evicted first */
	bool pinned;		/* what the watched item needs stays */
	uint32_t moves;		/* of the whole block, by this run; the worker's */
};

struct ocl_memory {
	uint32_t nr_slots, block_pages;
	uint64_t nr_pages;

	pthread_mutex_t lock;
	/* under lock */
	struct ocl_slot *slots;
	uint32_t next;		/* where to look for a free slot */
	uint32_t held[OCL_HELD];	/* slots that the worker fills: they stay bound */
	uint32_t nr_held;
	uint32_t nr_free;
	uint64_t clock;
};

int ocl_memory_init(struct ocl_memory *mem, uint32_t nr_slots, uint32_t block_pages);
void ocl_memory_destroy(struct ocl_memory *mem);

/* Up to @nr consecutive pages of a loose or free slot; 0: there are none. */
uint64_t ocl_memory_take(struct ocl_memory *mem, uint64_t nr, uint64_t *first);
void ocl_memory_free(struct ocl_memory *mem, uint64_t first, uint64_t nr);

/* Page @i of a bound slot, for the core or (@borrow) a copy. False: it is used. */
bool ocl_memory_reserve(struct ocl_memory *mem, uint32_t slot, uint32_t i, bool borrow);

/* The page was borrowed and is to be the core's; false: it was not. */
bool ocl_memory_adopt(struct ocl_memory *mem, uint32_t slot, uint32_t i);
/* Give all that is borrowed of a slot back. */
void ocl_memory_return(struct ocl_memory *mem, uint32_t slot);

/* One more slot that may not be taken from its block until all are let go. */
void ocl_memory_hold(struct ocl_memory *mem, uint32_t slot);
void ocl_memory_let_go(struct ocl_memory *mem);

/* Bind a free slot, rather @wish, and hold it; OCL_NO_SLOT: none. Table lock held. */
uint32_t ocl_memory_bind(struct ocl_memory *mem, uintptr_t block, uint32_t wish);
/* Slots without a page that are bound and older than @before: the first; or OCL_NO_SLOT. */
uint32_t ocl_memory_idle(struct ocl_memory *mem, uint64_t before);
/* Unbind a slot without pages. Table lock held. */
void ocl_memory_unbind(struct ocl_memory *mem, uint32_t slot);

/* The slot to evict, served before @before and not pinned; it counts as served now. */
uint32_t ocl_memory_oldest(struct ocl_memory *mem, uint64_t before);
/* Note that it is needed. */
void ocl_memory_serve(struct ocl_memory *mem, uint32_t slot, bool pin);
void ocl_memory_unpin_all(struct ocl_memory *mem);
uint64_t ocl_memory_now(struct ocl_memory *mem);
uint64_t ocl_memory_bytes_used(struct ocl_memory *mem);

static inline uint64_t ocl_slot_page(const struct ocl_memory *mem, uint32_t slot)
{
	return (uint64_t)slot * mem->block_pages;
}

#endif
