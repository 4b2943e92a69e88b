/* SPDX-License-Identifier: MIT */
/*
 * Migration to the device, and exclusive access.
 *
 * A mover is the arrays of one migration in safe memory. The fault queue's server has
 * one; another, under `lock`, is everybody else's. Device memory is reserved, and room
 * made by eviction, before a page is taken: an eviction waits for pages in flight, and
 * must not wait for our own.
 */
#ifndef SOFT_MOVER_H
#define SOFT_MOVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

#include "memory.h"

struct soft_mover {
	pthread_mutex_t lock;		/* held across calls of the core; never in a callback */
	uint32_t max_pages;
	uint64_t *src, *dst;
	uint64_t *frames;		/* reserved */
	uint64_t *given;		/* which of them each page got, or SOFT_NO_FRAME */
	uint64_t reasons[HMM_REASONS];
};

/*
 * Exclusive access. hmm_exclusive_begin() has no sequence to retry by, and one taken
 * before it would always collide with its own event. So invalidate() itself watches
 * the range of a begin: our own event says that its pages are being taken, and clears
 * them in `hit`; any other sets them. A page that is clear in the end was not touched
 * since it was taken.
 */
struct soft_exclusive {
	pthread_mutex_t lock;		/* one begin at a time; held across calls of the core */
	void **contents;
	/* under the table lock */
	uintptr_t start, end;
	uint64_t hit[SOFT_BLOCK_WORDS];
};

int soft_mover_init(struct soft_mover *mover, uint32_t max_pages);
void soft_mover_destroy(struct soft_mover *mover);

/*
 * Move what can be moved of [start, end), at most max_pages of it; @next is where it
 * ended. Refused pages are counted in mover->reasons. The mover's lock is held.
 * Pages moved, or an error and nothing was.
 */
int64_t soft_mover_move(struct hmm_soft *soft, struct soft_mover *mover, uintptr_t start,
			uintptr_t end, uintptr_t *next);

int soft_exclusive_init(struct soft_exclusive *exclusive);
void soft_exclusive_destroy(struct soft_exclusive *exclusive);

/* As hmm_exclusive_begin(), and map what was had. -EBUSY also: had and lost again. */
int64_t soft_exclusive_take(struct hmm_soft *soft, uintptr_t start, uintptr_t end);

/* An invalidation of [start, end), by our own begin or another's doing. Table lock held. */
void soft_exclusive_watch(struct hmm_soft *soft, uintptr_t start, uintptr_t end, bool own);

/* Give back all that is mapped exclusively. */
void soft_exclusive_end_all(struct hmm_soft *soft);

/* The devmem operation. */
int64_t soft_page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index);

#endif
