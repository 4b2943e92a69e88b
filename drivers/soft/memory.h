/* SPDX-License-Identifier: MIT */
/*
 * The device's memory: frames of a page, in blocks of 2 MiB.
 *
 * A frame is free; used (reserved by a migration, or bound to an address by the
 * core); or retired: it was lost and then freed, and may hold no page until the
 * keeper has scrubbed it, because a poison of its old life may be on its way.
 *
 *	used frames (retired ones too) == nr_used
 *	a block is in `lru` if and only if it has used frames, in `partial` if it has
 *	free ones as well, in `empty` if it has been used before and is not now
 *
 * Blocks from nr_fresh up were never used; nothing of them has been touched, so
 * that a device of 1 TiB opens at once.
 *
 * `lock` is taken by page_free(), which may run under the mm lock: nothing is
 * allocated, freed or waited for under it, and no other lock is taken.
 */
#ifndef SOFT_MEMORY_H
#define SOFT_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "list.h"

struct hmm_devmem;

#define SOFT_BLOCK_BYTES	(2UL << 20)
#define SOFT_BLOCK_PAGES	512	/* most, with 4 KiB pages */
#define SOFT_BLOCK_WORDS	(SOFT_BLOCK_PAGES / 64)
#define SOFT_NO_FRAME		UINT64_MAX

struct soft_block {
	uint64_t used[SOFT_BLOCK_WORDS];
	uint64_t lost[SOFT_BLOCK_WORDS];
	uint64_t retired[SOFT_BLOCK_WORDS];
	uint32_t nr_used;
	struct soft_link lru;		/* by stamp, oldest first */
	struct soft_link list;		/* partial or empty */
	uint64_t stamp;			/* the touch its place in lru stands for */
	_Atomic uint64_t touch;		/* tick of the last touch; no lock */
};

struct soft_memory {
	char *base;
	uint64_t bytes;
	uint64_t nr_pages;
	unsigned int page_shift;
	uint32_t block_pages;
	uint64_t nr_blocks;
	_Atomic uintptr_t *va;		/* per frame: where it was last mapped; a hint */
	_Atomic uint64_t tick;
	_Atomic uint64_t nr_used;
	_Atomic uint64_t nr_lost;	/* lost and not yet retired */

	pthread_mutex_t lock;
	/* under lock */
	struct soft_block *blocks;
	uint64_t nr_fresh;
	struct soft_link lru, partial, empty;
	uint64_t nr_retired;
};

int soft_memory_init(struct soft_memory *mem, uint64_t bytes);
void soft_memory_destroy(struct soft_memory *mem);

/* Up to @nr consecutive frames of one block; how many, 0 when there is none. */
uint64_t soft_memory_alloc(struct soft_memory *mem, uint64_t nr, uint64_t *first);

/* True when some frame became retired and the keeper has work. */
bool soft_memory_free(struct soft_memory *mem, uint64_t first, uint64_t nr);

/*
 * The block touched least recently, as a frame range; it goes to the end of the
 * line, so that one which cannot be emptied does not stop the others. False: none.
 */
bool soft_memory_oldest(struct soft_memory *mem, uint64_t *first, uint64_t *nr);

/* A frame, or every used one, has lost its bytes. */
void soft_memory_lose(struct soft_memory *mem, uint64_t frame);
void soft_memory_lose_all(struct soft_memory *mem);
bool soft_memory_is_lost(struct soft_memory *mem, uint64_t first, uint64_t nr);

/* The next run of lost frames from @from on, within one block; 0: no more. */
uint64_t soft_memory_next_lost(struct soft_memory *mem, uint64_t from, uint64_t *first);

/* Return retired frames to use. */
void soft_memory_scrub(struct soft_memory *mem);

static inline char *soft_memory_at(const struct soft_memory *mem, uint64_t frame)
{
	return mem->base + (frame << mem->page_shift);
}

static inline bool soft_memory_has(const struct soft_memory *mem, const void *p)
{
	return (uintptr_t)p - (uintptr_t)mem->base < mem->bytes;
}

static inline void soft_memory_touch(struct soft_memory *mem, const void *p)
{
	uint64_t block = ((uintptr_t)p - (uintptr_t)mem->base) / SOFT_BLOCK_BYTES;
	uint64_t tick = atomic_load_explicit(&mem->tick, memory_order_relaxed);

	atomic_store_explicit(&mem->blocks[block].touch, tick, memory_order_relaxed);
}

#endif
