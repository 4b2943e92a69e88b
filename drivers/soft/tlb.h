/* SPDX-License-Identifier: MIT */
/*
 * The TLB of a lane, and how an invalidation takes a translation away from it.
 *
 * Direct mapped, in pieces of 4 KiB whatever the page size is. An entry holds the
 * piece's address twice, for reads and for writes, and what to add to an address to
 * reach the bytes; an address that may not be written has no write tag. A write tag
 * implies that the page table's entry is DIRTY, either tag that it is ACCESSED and
 * VALID, so that clearing the page table and the tags under one lock leaves no trace.
 *
 * A hit is plain instructions. The lane says that it is inside an access by an
 * ordinary store; the fence that should stand between this and the look at the tag is
 * made by the invalidation, with membarrier(2), on behalf of every lane:
 *
 *	lane                            invalidation, table lock held
 *	----                            -----------------------------
 *	active = 1                      clear the page table's entries
 *	(compiler barrier)              clear the tags
 *	tag = entry.tag                 membarrier: every running lane fences here (*)
 *	tag differs: active = 0,        while (active) wait
 *	    slow path (table lock)      nobody uses the translation
 *	load or store at addr + delta
 *	active = 0 (release)
 *
 * (*) falls either before the lane's look at the tag, which then sees it cleared, or
 * after it, and then active = 1 was made visible, and the invalidation waits. Where
 * the kernel has no membarrier the lane fences for itself.
 *
 * A lane that goes from access to access can look active every time it is looked at.
 * So the invalidation clears the rest of its tags after a while: its next access
 * misses, and the slow path waits for the table lock with active = 0.
 *
 * Only the lane fills its entries, under the table lock; the invalidation clears tags
 * under the same lock. The lane reads tags without it.
 */
#ifndef SOFT_TLB_H
#define SOFT_TLB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOFT_TLB_SHIFT		12
#define SOFT_TLB_ENTRIES	256u
#define SOFT_TLB_PIECE		((uintptr_t)1 << SOFT_TLB_SHIFT)
#define SOFT_TLB_EMPTY		UINTPTR_MAX	/* no address masked to a piece is this */

struct soft_tlb_entry {
	_Atomic uintptr_t read;
	_Atomic uintptr_t write;
	uintptr_t delta;
	uintptr_t unused;	/* so that an index is a shift */
};

struct hmm_soft;
struct hmm_lane;

/* Prepare membarrier; false: lanes fence for themselves. */
bool soft_tlb_register(void);

/* Empty a lane's TLB without waiting for it. Table lock held. */
void soft_tlb_flush(struct hmm_lane *lane);

/* Fill the entry of @va, which is reached at @at. The lane itself, table lock held. */
void soft_tlb_fill(struct hmm_lane *lane, uintptr_t va, const char *at, bool write);

/*
 * When this returns no lane uses a translation of [start, end), whose page table
 * entries the caller has erased. Table lock held, and not on a lane inside an access.
 */
void soft_tlb_shootdown(struct hmm_soft *soft, uintptr_t start, uintptr_t end);

#endif
