/* SPDX-License-Identifier: MIT */
/*
 * The program's end of the link: starting it, and requests to it.
 *
 * Slots are handed out without a lock. A thread that holds slots whose requests are under
 * way never waits for another slot before it has waited for those, so that threads
 * short of slots cannot wait for each other.
 *
 * Nothing here is ever away: shared memory is not migrated, the rest is safe memory. So all
 * but opening and closing may run where CPU faults are served.
 */
#ifndef NBD_CHANNEL_H
#define NBD_CHANNEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link.h"

#define NO_SLOT		UINT32_MAX

struct nbd_channel {
	struct link_memory *mem;
	size_t bytes, page;
	uint32_t chunk_pages, nr_groups, nr_workers;
	uint64_t nr_pages;
	int wake_fd[LINK_WORKERS];	/* -1: not open, as all of them */
	int link_fd;			/* pidfd of the link */
	int lane_fd;			/* where lanes come from */
	_Atomic bool dead;		/* the link has ended by itself */
	pthread_mutex_t post_lock[LINK_WORKERS];	/* a leaf: order of a ring's entries */
	_Atomic uint64_t free_single, free_bulk;	/* slots nobody holds */
	_Atomic uint32_t freed, freed_waiters;		/* futex: bulk slots that came back */
};

/* Start the link and wait for its servers. @said: one line when that failed. */
int nbd_channel_open(struct nbd_channel *ch, const struct link_config *config, char *said,
		     size_t said_bytes);
void nbd_channel_close(struct nbd_channel *ch);

/* A slot of one page, or of a chunk; NO_SLOT: none is free. */
uint32_t nbd_channel_get_single(struct nbd_channel *ch);
uint32_t nbd_channel_get_bulk(struct nbd_channel *ch);
uint32_t nbd_channel_wait_bulk(struct nbd_channel *ch);	/* holding no other */
void nbd_channel_put(struct nbd_channel *ch, uint32_t slot);

/* Of a read: servers (bits) that gave wrong bytes, or none, and how long it has been wanted. */
struct nbd_past {
	uint32_t avoid, shun, waited_ms;
};

/* Hand a slot to the link. */
void nbd_channel_post(struct nbd_channel *ch, uint32_t slot, enum link_op op, uint64_t index,
		      uint32_t nr, struct nbd_past past);
bool nbd_channel_done(const struct nbd_channel *ch, uint32_t slot);

/* Wait for a posted slot: 0 or its error. The caller holds it still. */
int nbd_channel_wait(struct nbd_channel *ch, uint32_t slot);

/* A lane that the link has made, the caller's from now on; -1: there is none. */
int nbd_channel_lane(struct nbd_channel *ch, uint32_t *server);
/* One that it had made is closed. */
void nbd_channel_lane_lost(struct nbd_channel *ch, uint32_t server);

/* The link has died: whatever waits for it fails. */
void nbd_channel_break(struct nbd_channel *ch);

static inline char *nbd_channel_buffer(const struct nbd_channel *ch, uint32_t slot)
{
	return link_buffer(ch->mem, slot, ch->page);
}

#endif
