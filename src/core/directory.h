/* SPDX-License-Identifier: MIT */
/*
 * The directory: one 64-bit entry per tracked page, found by two loads.
 *
 * An address selects a leaf (of LEAF_PAGES pages) by a table of leaf ids, and an
 * entry in it. A page whose leaf does not exist is PAGE_SYSTEM. Leaves are made
 * before pages leave system memory, so that a look-up never allocates; their memory
 * is used as entries are written: 8 bytes per tracked page, 0.2 %.
 *
 *	entry:	state | device id << 8 | index << 16		device, coherent
 *		state | isolation << 8 | slot << 24		isolated
 *		state | slot << 8				exclusive
 *
 * A leaf counts its entries that are not PAGE_SYSTEM, in all and per block, so that
 * walks skip what is empty:
 *
 *	leaf->nr_used == sum(leaf->used[]) == entries that are not 0	(directory_check)
 *
 * All under the mm's lock.
 */
#ifndef UHMM_CORE_DIRECTORY_H
#define UHMM_CORE_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"

enum page_state {
	PAGE_SYSTEM,		/* the CPU owns the bytes; the page is untracked */
	PAGE_ISOLATED,		/* in flight; the isolation's owner has the bytes */
	PAGE_DEVICE,		/* device(id, index) has the bytes; a CPU access faults */
	PAGE_COHERENT,		/* belongs to device(id, index), mapped for the CPU */
	PAGE_EXCLUSIVE,		/* a device alone may access; a CPU access ends it */
	PAGE_LOST,		/* nobody has the bytes; a CPU access gets SIGBUS */
	PAGE_STATES
};

struct directory {
	struct process *process;	/* immutable */
	struct hmm_mm *mm;		/* immutable */
	uint16_t *leaf_of;		/* by address >> (page shift + LEAF_SHIFT) */
	uint32_t page_shift;		/* immutable */
	uint32_t nr_leaves;
	uint64_t told_to;		/* which listener leaf->told is about; 0: none */
	uint64_t count[PAGE_STATES];	/* pages by state; [PAGE_SYSTEM] unused */
};

/* May a page go from one state to the other? Out of range: no. */
bool page_may(unsigned int from, unsigned int to);
const char *page_state_name(unsigned int state);

static inline enum page_state entry_state(uint64_t e)
{
	return (enum page_state)(e & 7);
}

static inline uint64_t entry_device(enum page_state state, uint32_t id, uint64_t index)
{
	return (uint64_t)state | (uint64_t)id << 8 | index << 16;
}

static inline uint32_t entry_devmem(uint64_t e)
{
	return (uint32_t)(e >> 8) & 255;
}

static inline uint64_t entry_index(uint64_t e)
{
	return e >> 16;
}

/* Of one state, and on one device. */
static inline bool entry_is_like(uint64_t e, uint64_t other)
{
	return (e & 0xffff) == (other & 0xffff);
}

static inline uint64_t entry_isolated(uint32_t isolation, uint32_t slot)
{
	return PAGE_ISOLATED | (uint64_t)isolation << 8 | (uint64_t)slot << 24;
}

static inline uint32_t entry_isolation(uint64_t e)
{
	return (uint32_t)(e >> 8) & 0xffff;
}

static inline uint32_t entry_slot(uint64_t e)
{
	return (uint32_t)(e >> 24);
}

static inline uint64_t entry_exclusive(uint32_t slot)
{
	return PAGE_EXCLUSIVE | (uint64_t)slot << 8;
}

static inline uint32_t entry_exclusive_slot(uint64_t e)
{
	return (uint32_t)(e >> 8);
}

/* From a page's entry to the next one's, of consecutive slots and device pages. */
#define ENTRY_SLOT_STEP		((uint64_t)1 << 24)
#define ENTRY_INDEX_STEP	((uint64_t)1 << 16)

int directory_init(struct directory *dir, struct process *process, struct hmm_mm *mm);
void directory_fini(struct directory *dir);

/* Leaves for [start, end). -ENOMEM. May map memory of the reservation. */
int directory_reserve(struct directory *dir, uintptr_t start, uintptr_t end);

static inline uint64_t directory_get(const struct directory *dir, uintptr_t addr)
{
	uint16_t id = dir->leaf_of[addr >> (dir->page_shift + LEAF_SHIFT)];

	if (!id)
		return PAGE_SYSTEM;
	return dir->process->leaves[id].entries[(addr >> dir->page_shift) & (LEAF_PAGES - 1)];
}

/* Those of @nr pages in one block. */
void directory_get_run(const struct directory *dir, uintptr_t addr, uint32_t nr,
		       uint64_t *entries);

/*
 * The writers of entries: of one, and of @nr in one block, each of which differs by @step
 * from the one before; the state is the same. The leaf exists, or the state is PAGE_SYSTEM.
 */
void directory_set(struct directory *dir, uintptr_t addr, uint64_t entry);
void directory_set_run(struct directory *dir, uintptr_t addr, uint32_t nr, uint64_t entry,
		       uint64_t step);

/* First address >= @addr below @end with an entry that is not PAGE_SYSTEM, or @end. */
uintptr_t directory_next(const struct directory *dir, uintptr_t addr, uintptr_t end);

/* Entries in use in the block of @addr. */
uint32_t directory_block_used(const struct directory *dir, uintptr_t addr);

/* Did the block of @addr leave as one huge page, and nothing has come to it since? */
bool directory_block_huge(const struct directory *dir, uintptr_t addr);
void directory_block_set_huge(struct directory *dir, uintptr_t addr, bool huge);

/*
 * Blocks with another number of entries in use than listener @to was told of: @tell gets
 * each. Returns how many.
 */
uint32_t directory_tell(struct directory *dir, uint64_t to,
			void (*tell)(struct hmm_mm *mm, uintptr_t base, uint32_t used));

/* A page's place in 31 bits, never 0, for the reverse map of a devmem. */
uint32_t directory_place(const struct directory *dir, uintptr_t addr);

/* And back: the mm, which may be on its way out, and the address; NULL: nobody's. */
struct hmm_mm *process_place(struct process *process, uint32_t place, uintptr_t *addr);

/* RAM the leaves use, from their page tables. */
uint64_t directory_bytes(const struct directory *dir, int pagemap_fd);

void directory_check(const struct directory *dir);	/* aborts on a broken invariant */

#endif
