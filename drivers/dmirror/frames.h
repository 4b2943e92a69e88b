/* SPDX-License-Identifier: MIT */
/*
 * The pages of a device's memory, in two sizes: a page, and a large one of 2 MiB.
 *
 * A block is 2 MiB of memory. It is handed out whole (a large page) or page by page:
 *
 *	nr_used == bits set in used[]
 *	large  =>  it was handed out whole; pages of it may have been freed since
 *	partial list: 0 < nr_used < FRAMES_BLOCK, not large
 *	empty list: nr_used == 0, of an earlier use; from nr_opened up none was used yet
 *
 * Who reads a page's bytes without keeping its owner from freeing it takes a hold: a
 * page that is freed while there is one keeps its bytes, and is handed out again only
 * when the last hold has ended.
 *
 * The lock is a leaf. frames_free() may be called under the core's mm lock, so nothing
 * under it allocates, waits, or touches memory that could be away.
 */
#ifndef DMIRROR_FRAMES_H
#define DMIRROR_FRAMES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define FRAMES_BLOCK	512u		/* pages of a block */
#define FRAMES_NONE	UINT32_MAX	/* no block */

struct frames_block {
	uint64_t used[FRAMES_BLOCK / 64];
	uint64_t freed[FRAMES_BLOCK / 64];	/* under a hold; still in used[] */
	uint32_t nr_used;
	uint32_t next, prev;			/* of its list; prev FRAMES_NONE: the first */
	bool large;
	bool listed;
};

struct frames {
	char *base;			/* immutable, as the next four */
	size_t page_size;
	uint64_t nr_pages;
	uint32_t nr_blocks;
	struct frames_block *blocks;

	pthread_mutex_t lock;		/* all that follows */
	uint32_t nr_opened;
	uint32_t empty, partial;	/* first of each list */
	uint32_t holds;
	uint64_t nr_freed;		/* bits in all freed[] */
};

/* As much of @bytes as is to be had, used as pages arrive. 0 or -ENOMEM. Maps memory. */
int frames_init(struct frames *frames, uint64_t bytes);
void frames_destroy(struct frames *frames);

/* Up to @nr consecutive pages; how many, 0 when the memory is full. */
uint64_t frames_alloc(struct frames *frames, uint64_t nr, uint64_t *first);

/* All pages of a block. */
bool frames_alloc_large(struct frames *frames, uint64_t *first);

void frames_free(struct frames *frames, uint64_t first, uint64_t nr);

/* Is the page part of one that was handed out as a large one? */
bool frames_is_large(struct frames *frames, uint64_t frame);

/* Pages below this one have been handed out at some time. */
uint64_t frames_high(struct frames *frames);

void frames_hold(struct frames *frames);
void frames_release(struct frames *frames);

static inline void *frames_at(const struct frames *frames, uint64_t frame)
{
	return frames->base + frame * frames->page_size;
}

#endif
