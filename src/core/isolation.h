/* SPDX-License-Identifier: MIT */
/*
 * An isolation: up to a block's pages on their way, out of the CPU's reach.
 *
 * It is the userspace form of the kernel's migration entry and page lock. While a
 * page's entry is PAGE_ISOLATED, a CPU that touches it waits; its bytes are the
 * isolation's: in the staging chunk, in the device memory it comes from, or nowhere
 * (a hole). Slot i stands for the page that was at base + i pages.
 *
 * The program goes on meanwhile. What it does to an address under way is followed:
 *
 *	migration				program
 *	---------				-------
 *	slot i: where[i] = A, entry(A) = ISOLATED
 *	mm lock dropped, bytes are copied
 *						mremap A -> B: entry moves,
 *						  where[i] = B
 *						or munmap A: entry dropped,
 *						  where[i] = 0
 *	mm lock
 *	commit or give at where[i]; 0: free the copy
 *
 * so that neither side ever waits for the other, and
 *
 *	entry(where[i]) == (ISOLATED, this, i)	for each slot in use with where[i] != 0
 *
 * Everything here is under the mm's lock, but the bytes, which belong to the thread
 * that got the isolation.
 */
#ifndef UHMM_CORE_ISOLATION_H
#define UHMM_CORE_ISOLATION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/directory.h"
#include "core/fault.h"
#include "core/staging.h"

#define ISOLATIONS		64u
#define ISOLATIONS_RESERVED	16u	/* of them for fault handlers */
#define BOUNCE_PAGES		8u	/* fewer pages than a move pays for go by copy */

enum slot_kind {
	SLOT_NONE,		/* not in use */
	SLOT_CONTENT,		/* bytes in the chunk */
	SLOT_ZERO,		/* ... and they are the zero page */
	SLOT_HOLE,		/* nothing populated */
	SLOT_DEVICE,		/* bytes in origin[i]'s device memory */
	SLOT_FILLED,		/* ... and by now in the chunk or bounce buffer too */
};

struct isolation {
	uint32_t id;			/* immutable, as is page_shift */
	uint32_t page_shift;
	uint32_t nr;			/* slots in use */
	uint32_t home;			/* device pages that the CPU has again */
	uint32_t low, high;		/* ... all of them in [low, high) */
	uintptr_t base;
	struct chunk *chunk;		/* or NULL */
	uintptr_t buffer;		/* address of slot 0's bytes: the chunk's, or bounce */
	const void *owner;		/* of the MIGRATE events of the taking */
	struct fault met;		/* the first that met one of the pages; read_ns 0: none */
	uint32_t doubted;		/* slots below it: may have gone home uncounted */
	uint32_t starved;		/* times that giving has waited for memory */
	bool in_use;
	bool huge;			/* taken as one 2 MiB page */
	bool keep_holes;		/* holes are not taken */
	uint64_t passed[BLOCK_PAGES / 64];	/* slots of device pages in what is taken: holes to a move */
	uint64_t landed[BLOCK_PAGES / 64];	/* slots to be fetched from limbo (remote.h) */
	void *bounce;			/* BOUNCE_PAGES pages, always there */
	uint8_t kind[BLOCK_PAGES];
	uint16_t reason[BLOCK_PAGES];	/* why a slot is SLOT_NONE again */
	uintptr_t where[BLOCK_PAGES];
	uint64_t origin[BLOCK_PAGES];	/* DEVICE, COHERENT: the entry it had */
};

enum tried {
	TRIED_NOT,	/* not reached */
	TRIED_PASSED,	/* taken, or nothing was there to take */
	TRIED_BUSY,	/* copy-on-write shared, merged, or pinned */
	TRIED_OCCUPIED,	/* something else is where it was to go */
};

/* What an operation of the mm did to the slots it was to take. */
struct taking {
	uint8_t tried[BLOCK_PAGES];
	uint8_t landed[BLOCK_PAGES];	/* SYS_PAGE_*: what is there now, where it was to go */
};

static inline uintptr_t block_base(uintptr_t addr)
{
	return addr & ~(arena_chunk_bytes() - 1);
}

/* A device page that what is taken goes past. */
static inline bool isolation_passes(const struct isolation *iso, uint32_t slot)
{
	return iso->passed[slot / 64] & BIT(slot % 64);
}

/* The slot of a page of the block, and where it was taken from. */
static inline uint32_t isolation_slot(const struct isolation *iso, uintptr_t addr)
{
	return (uint32_t)((addr - iso->base) >> iso->page_shift);
}

static inline uintptr_t isolation_addr(const struct isolation *iso, uint32_t slot)
{
	return iso->base + ((uintptr_t)slot << iso->page_shift);
}

/* The slot's bytes. */
static inline void *isolation_bytes(const struct isolation *iso, uint32_t slot)
{
	return (void *)(iso->buffer + ((uintptr_t)slot << iso->page_shift));
}

int isolations_init(struct hmm_mm *mm);
void isolations_fini(struct hmm_mm *mm);

/*
 * An isolation for the block of @addr; @wait: sleep until one is free (the mm lock is
 * dropped meanwhile), else NULL. Handlers may use the reserved ones.
 */
struct isolation *isolation_get(struct hmm_mm *mm, uintptr_t addr, bool wait);

/* Nothing is in use any more. Wakes who waited. The chunk, if any, is the caller's to put. */
void isolation_put(struct hmm_mm *mm, struct isolation *iso);

/* Sleep until some isolation has ended, or a while. The mm lock is dropped meanwhile. */
void isolation_wait(struct hmm_mm *mm);

/*
 * The kernel has no page for one of ours: true after such a wait, of which *waits counts
 * the caller's; false when there were enough, and what has no place is to be lost.
 */
bool isolation_wait_memory(struct hmm_mm *mm, uint32_t *waits);

/* Something else that isolation_wait() may wait for has come about. Lock held. */
void isolation_wake(struct hmm_mm *mm);

struct sys_vma;

/*
 * How far what is taken may reach past @first, its first page that is not PAGE_SYSTEM, over
 * PAGE_DEVICE ones. @end: of the mapping, or the block. Lock held.
 */
uintptr_t isolation_span(const struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t first,
			 uintptr_t end);

/*
 * Take the pages of [start, end), inside one mapping and the isolation's block, whose
 * entries are PAGE_SYSTEM or PAGE_COHERENT. iso->chunk is empty there. What cannot be
 * taken gets its reason. Up to isolation_span() there may be PAGE_DEVICE ones among them:
 * they are left. May drop and retake the mm lock.
 */
void isolation_take_system(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			   uintptr_t start, uintptr_t end);

/* Take @nr pages that are PAGE_DEVICE: from now on the bytes are ours to read. */
void isolation_take_device(struct hmm_mm *mm, struct isolation *iso, uintptr_t addr, uint32_t nr);

/*
 * @nr slots become pages of @devmem_id from @index on, which are bound for them; freed where
 * their address is gone.
 */
void isolation_commit(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr,
		      uint32_t devmem_id, uint64_t index);

/*
 * Put the slots' bytes back where the program has them, and PAGE_SYSTEM. SLOT_DEVICE
 * slots stay device pages. May drop and retake the mm lock.
 */
void isolation_give(struct hmm_mm *mm, struct isolation *iso);

/*
 * The bytes of what was taken into the buffer, where they are not there already. Some
 * slots may be lost on the way: SLOT_NONE then; their count comes back. No lock held.
 */
uint32_t isolation_fetch(struct hmm_mm *mm, struct isolation *iso);

/* The slot's bytes are gone: never zeros, but a signal. Lock held. */
struct free_run;
void isolation_lose(struct hmm_mm *mm, struct isolation *iso, uint32_t slot, struct free_run *run);

/*
 * Copy SLOT_DEVICE slots into the buffer (SLOT_FILLED). Those that the device cannot
 * read any more stay SLOT_DEVICE, and their count comes back. No lock held.
 */
uint32_t isolation_fill(struct hmm_mm *mm, struct isolation *iso);

/* A fault has met an isolated entry: the end wakes it. */
void isolation_met(struct hmm_mm *mm, uint64_t entry, const struct fault *f);

/* The page of an isolated entry is leaving, or moving. */
void isolation_forget(struct hmm_mm *mm, uint64_t entry);
void isolation_follow(struct hmm_mm *mm, uint64_t entry, uintptr_t to);

#endif
