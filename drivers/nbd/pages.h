/* SPDX-License-Identifier: MIT */
/*
 * The pages of the device: who has them, what is on the servers, and what they must hold.
 *
 *	used	reserved, bound to an address, or being trimmed
 *	dirty	a server may hold bytes for it; free and dirty: to be trimmed
 *	lost	could not be read back in time; tells again at once, until it is freed
 *	sum	XXH3 of the page's bytes, 0 where they are all zeros and no server has them
 *
 * 8 bytes and 3 bits for each page that was ever used: 0.20 %.
 *
 * `lock` is taken by page_free(), which may run under the mm lock: nothing is allocated
 * or waited for under it, and no other lock is taken.
 */
#ifndef NBD_PAGES_H
#define NBD_PAGES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGES_GROUP_WORDS	64u
#define PAGES_GROUP		(PAGES_GROUP_WORDS * 64u)

struct nbd_pages {
	uint64_t nr;
	uint64_t *sum;			/* a page's is its owner's */
	_Atomic uint64_t *dirty;
	size_t words;			/* of each map */

	pthread_mutex_t lock;
	/* under lock */
	uint64_t *used, *lost;
	uint16_t *group_used;		/* pages used of each PAGES_GROUP */
	uint64_t cursor;		/* group that allocation looks at first */
	uint64_t trim_cursor;		/* word that trimming looks at next */
	uint64_t nr_trimmable;		/* free and dirty */
};

int nbd_pages_init(struct nbd_pages *pages, uint64_t nr);
void nbd_pages_destroy(struct nbd_pages *pages);

/* Up to @nr consecutive pages; 0: none is free. */
uint64_t nbd_pages_alloc(struct nbd_pages *pages, uint64_t nr, uint64_t *first);

/* With the lock held. */
void nbd_pages_free(struct nbd_pages *pages, uint64_t first, uint64_t nr);
void nbd_pages_lose(struct nbd_pages *pages, uint64_t index);

bool nbd_pages_any_lost(struct nbd_pages *pages, uint64_t first, uint64_t nr);
void nbd_pages_written(struct nbd_pages *pages, uint64_t first, uint64_t nr);

/*
 * A run of free dirty pages within @chunk_pages, used from now on; 0: no more. Done: they
 * are free and clean.
 */
uint64_t nbd_pages_trim_begin(struct nbd_pages *pages, uint32_t chunk_pages, uint64_t *first);
void nbd_pages_trim_done(struct nbd_pages *pages, uint64_t first, uint64_t nr);

#endif
