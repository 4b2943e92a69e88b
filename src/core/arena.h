/* SPDX-License-Identifier: MIT */
/*
 * The arena: the process's memory that is never migrated, reserved once.
 *
 * The program may leave a gap in its address space and count on it staying one, so
 * nothing is mapped where the kernel likes during a request: all comes from one
 * reservation made at the first use.
 *
 *	| process | small objects, WIPEONFORK ... | chunks, DONTFORK ...        |
 *
 * Small objects (up to 512 KiB) hold every structure that a handle points to; a
 * forked child finds them zeroed, which is how it knows that they are not its own.
 * A chunk is 512 pages, aligned to its size: directory leaves, staging, stacks.
 * Pieces above 64 KiB that drivers ask for are mappings of their own.
 */
#ifndef UHMM_CORE_ARENA_H
#define UHMM_CORE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/lock.h"

#define BLOCK_PAGES	512u		/* of a block of user memory, and of a chunk */
#define LEAF_SHIFT	18		/* pages of a directory leaf */
#define LEAF_PAGES	(1u << LEAF_SHIFT)
#define LEAVES		8192u
#define DEVMEMS		256u

struct hmm_mm;
struct hmm_devmem;

/* A leaf of the directory: the entries of LEAF_PAGES pages from base on. */
struct leaf {
	uint64_t *entries;
	struct hmm_mm *mm;		/* NULL: free */
	uintptr_t base;
	uint32_t nr_used;		/* entries that are not PAGE_SYSTEM */
	uint16_t *used;			/* the same per block */
	uint16_t *told;			/* of used, to a listener; behind it in memory */
	uint64_t huge[LEAF_PAGES / BLOCK_PAGES / 64];	/* blocks that left as one huge page */
};

/* What a process has one of. Lives in the arena, zero in a forked child. */
struct process {
	uint64_t alive;			/* PROCESS_ALIVE in the process that made it */
	struct hmm_lock lock;		/* RANK_PROCESS: mm */
	struct hmm_mm *mm;		/* the local one */
	struct hmm_lock leaves_lock;	/* RANK_LEAVES: whose a leaf is, and of where */
	struct leaf leaves[LEAVES];	/* by id, 0 unused; the rest under its mm's lock */
};

/* The process, made at the first call. NULL: no address space for it. Maps memory. */
struct process *process_get(void);

/* The process if there is one and it is not one's parent's, else NULL. Any context. */
struct process *process_peek(void);

/* Zeroed, 64-byte aligned, at most 512 KiB; NULL: none left. Any context. */
void *arena_alloc(size_t bytes);
void arena_free(void *p, size_t bytes);

/*
 * As hmm_safe_alloc(), and freed like it, for tables with an entry for each of many: memory
 * of it is used by pages, never by huge ones, which would be for entries that nobody has.
 */
void *arena_table_alloc(size_t bytes);

/*
 * Consecutive chunks, inaccessible until they are made RW; -ENOMEM. Given
 * back chunks keep their protection and contents: the caller cleans up.
 */
int arena_chunks_get(size_t nr, void **out);
void arena_chunks_put(void *p, size_t nr);

size_t arena_chunk_bytes(void);

/* Is any of [start, end) memory of the library or its drivers? */
bool arena_owns(uintptr_t start, uintptr_t end);

/* Is @addr in the reservation itself? */
bool arena_holds(uintptr_t addr);

#endif
