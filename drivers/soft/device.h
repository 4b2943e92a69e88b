/* SPDX-License-Identifier: MIT */
/*
 * The soft device as a whole.
 *
 * Locks, from the outside in; a thread takes them only in this order:
 *
 *   mover->lock, exclusive.lock     held across calls of the core
 *   kernels.lock, faults.lock       never held across calls of the core
 *   table.lock                      what invalidate() takes
 *   memory.lock, policy.lock, dma.lock, keeper.lock, readahead.lock
 *                                   leaves; what page_free and the copies take
 *
 * All of the device lies in safe memory: callbacks touch it. The handle itself is
 * small enough to come from the library's arena, where a forked child reads zeros;
 * so `magic` tells the child that it is not its device.
 */
#ifndef SOFT_DEVICE_H
#define SOFT_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

#include "dma.h"
#include "fault.h"
#include "keeper.h"
#include "kernel.h"
#include "lane.h"
#include "memory.h"
#include "mover.h"
#include "pagetable.h"
#include "policy.h"
#include "readahead.h"

#define SOFT_MAGIC		0x74666f736d6d68ULL
#define SOFT_LANES		64

struct soft_counters {
	_Atomic uint64_t device_faults, replays, shootdowns, migrated_in, migrated_out, evicted;
	_Atomic uint64_t prefetched, thrash_held, exclusive_pages;
	_Atomic uint64_t dma_transfers, dma_bytes, dma_errors, cpu_faults;
};

struct hmm_soft {
	_Atomic uint64_t magic;
	struct hmm_mm *mm;
	struct hmm_notifier *notifier;
	struct hmm_devmem *devmem;
	const void *owner;		/* the peer group, or the device */
	uint32_t devmem_id;
	size_t page_size;
	uintptr_t user_end;

	struct soft_memory memory;
	struct soft_table table;
	struct soft_dma dma;
	struct soft_fault_queue faults;
	struct soft_policy policy;
	struct soft_kernels kernels;
	struct soft_keeper keeper;
	struct soft_readahead readahead;
	struct soft_mover mover;	/* everybody's but the fault server's */
	struct soft_mover fault_mover;
	struct soft_exclusive exclusive;
	struct soft_counters count;

	unsigned int nr_lanes;
	struct hmm_lane *lanes;
	char *bounce;			/* the lanes' buffers */
	unsigned int nr_running;	/* lanes in a kernel; under the table lock */
	uint64_t mem_mbps;
	_Atomic uint64_t mem_free_ns;	/* as the link's, for spans of device memory */
};

/* 0; -EINVAL: NULL; -ECHILD: made by the process that this one was forked from. */
int soft_check(const struct hmm_soft *soft);

/* The device behind a devmem that may be any driver's; NULL: not a soft device. */
struct hmm_soft *soft_of_devmem(const struct hmm_devmem *devmem);

static inline void soft_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uintptr_t soft_page_of(const struct hmm_soft *soft, uintptr_t va)
{
	return va & ~(uintptr_t)(soft->page_size - 1);
}

#endif
