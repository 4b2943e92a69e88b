/* SPDX-License-Identifier: MIT */
#include "tlb.h"

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "device.h"

/* Looks at a lane before the rest of its TLB goes, and before the CPU is given away. */
#define LOOKS_BEFORE_FLUSH	256
#define LOOKS_BEFORE_YIELD	64

static long membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

static struct soft_tlb_entry *entry_of(struct hmm_lane *lane, uintptr_t va)
{
	return &lane->tlb[(va >> SOFT_TLB_SHIFT) % SOFT_TLB_ENTRIES];
}

static void entry_clear(struct soft_tlb_entry *entry)
{
	atomic_store_explicit(&entry->read, SOFT_TLB_EMPTY, memory_order_relaxed);
	atomic_store_explicit(&entry->write, SOFT_TLB_EMPTY, memory_order_relaxed);
}

static void clear_range(struct hmm_lane *lane, uintptr_t start, uintptr_t end)
{
	if (end - start < SOFT_TLB_ENTRIES * SOFT_TLB_PIECE) {
		for (uintptr_t va = start; va < end; va += SOFT_TLB_PIECE) {
			struct soft_tlb_entry *entry = entry_of(lane, va);

			if (atomic_load_explicit(&entry->read, memory_order_relaxed) == va)
				entry_clear(entry);
		}
		return;
	}
	for (unsigned int i = 0; i < SOFT_TLB_ENTRIES; i++) {
		uintptr_t va = atomic_load_explicit(&lane->tlb[i].read, memory_order_relaxed);

		if (va >= start && va < end)
			entry_clear(&lane->tlb[i]);
	}
}

static void wait_inactive(struct hmm_lane *lane)
{
	for (unsigned int looks = 1;
	     atomic_load_explicit(&lane->active, memory_order_acquire); looks++) {
		if (looks == LOOKS_BEFORE_FLUSH)
			soft_tlb_flush(lane);
		if (looks % LOOKS_BEFORE_YIELD)
			soft_relax();
		else
			sched_yield();
	}
}

bool soft_tlb_register(void)
{
	return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
}

void soft_tlb_flush(struct hmm_lane *lane)
{
	for (unsigned int i = 0; i < SOFT_TLB_ENTRIES; i++)
		entry_clear(&lane->tlb[i]);
}

void soft_tlb_fill(struct hmm_lane *lane, uintptr_t va, const char *at, bool write)
{
	uintptr_t piece = va & ~(SOFT_TLB_PIECE - 1);
	struct soft_tlb_entry *entry = entry_of(lane, va);

	entry->delta = (uintptr_t)at - piece;
	atomic_store_explicit(&entry->read, piece, memory_order_relaxed);
	atomic_store_explicit(&entry->write, write ? piece : SOFT_TLB_EMPTY,
			      memory_order_relaxed);
}

/*
 * A lane outside a kernel takes the table lock before it enters one and sees the
 * cleared tags then; with none inside there is nothing to fence or to wait for.
 */
void soft_tlb_shootdown(struct hmm_soft *soft, uintptr_t start, uintptr_t end)
{
	for (unsigned int i = 0; i < soft->nr_lanes; i++)
		clear_range(&soft->lanes[i], start, end);
	soft_count(&soft->count.shootdowns, 1);
	if (!soft->nr_running)
		return;

	/* Once registered it cannot fail; a lane that fences itself needs our own fence. */
	if (soft->lanes[0].fenced)
		__sync_synchronize();
	else
		membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
	for (unsigned int i = 0; i < soft->nr_lanes; i++)
		if (atomic_load_explicit(&soft->lanes[i].running, memory_order_relaxed))
			wait_inactive(&soft->lanes[i]);
}
