/* SPDX-License-Identifier: MIT */
/*
 * Staging: RAM of the arena that pages pass through on their way.
 *
 * A chunk stands in for one block of the program's memory at a time, page for page,
 * so that a slot of the chunk has the offset in its huge page that the program's
 * page has, and a 2 MiB page can move whole. Pages that a migration to the device
 * leaves behind stay present in their slots and are filled again by the next
 * migration home, which saves allocating and zeroing them.
 *
 * A chunk that is taken into needs the slots absent and must be registered with the
 * mm's userfaultfd; a chunk that is filled needs them present, or absent and the
 * chunk not registered (an ordinary first touch then).
 *
 * An idle chunk is under the staging lock; a chunk in use belongs to its isolation.
 */
#ifndef UHMM_CORE_STAGING_H
#define UHMM_CORE_STAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"

#define STAGING_CHUNKS_MAX	512u

/* What is where a remote mm's pages land. */
enum landed {
	LANDED_NOTHING,
	LANDED_PAGES,
	LANDED_MAPPING,		/* mremap has replaced the mapping there */
};

struct chunk {
	uintptr_t addr;			/* immutable */
	bool in_use;
	bool registered;
	bool has_table;			/* small pages were here: no whole 2 MiB page fits */
	bool huge;			/* one 2 MiB page */
	bool remapped;			/* holds the program's own mapping: replace it */
	enum landed landed;		/* at landing */
	uintptr_t landing;		/* in use for a remote mm: slot 0's address in its limbo */
	uint64_t present[BLOCK_PAGES / 64];
	uint32_t nr_present;
};

struct staging {
	struct hmm_lock lock;		/* RANK_STAGING */
	struct hmm_mm *mm;		/* immutable; whose chunks are taken into, NULL: nobody's */
	uint32_t nr, max;		/* chunks made; most of them */
	struct chunk *chunks;		/* [max] */
};

/* @bytes: 0 for the default. */
int staging_init(struct staging *staging, struct hmm_mm *mm, uint64_t bytes);
void staging_fini(struct staging *staging);

/*
 * A chunk whose slots [first, first + nr) are absent, registered. @whole: one where
 * a 2 MiB page fits, if there is one. No lock held; may discard and register. NULL:
 * all chunks are in use.
 */
struct chunk *staging_get_empty(struct staging *staging, uint32_t first, uint32_t nr, bool whole);

/*
 * A chunk whose slots [first, first + nr) can be written. @huge: backed by one 2 MiB
 * page. No lock held.
 */
struct chunk *staging_get_writable(struct staging *staging, uint32_t first, uint32_t nr,
				   bool huge);

/* Give it back. No lock held; may discard. */
void staging_put(struct staging *staging, struct chunk *chunk);

/* Slots have become present or absent, by whoever uses the chunk. */
void chunk_set(struct chunk *chunk, uint32_t first, uint32_t nr, bool present);

#endif
