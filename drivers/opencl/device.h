/* SPDX-License-Identifier: MIT */
/*
 * An OpenCL device as a whole.
 *
 *	program's threads   ── calls ──►  worker   ── requests ──►  engine (process)
 *	CPU faults, copies  ────────────────────────── requests ──►   OpenCL runtime
 *	               └──►  pools (where the device's memory is the CPU's)
 *
 * All that the public functions do with the device is done by one worker thread, on
 * safe memory: it alone binds blocks to slots, serves faults and launches.
 *
 * Locks, from the outside in:
 *
 *	programs.lock		held while the engine builds
 *	worker.lock		never held across calls of the core
 *	table.lock		held over a launch; what invalidate() takes
 *	pools.lock		held over a launch as writer, over a copy as reader
 *	memory.lock, channel.lock	leaves
 *
 * The engine waits for nothing of the program's but requests: so an invalidation that
 * waits for a launch, with the mm lock held, waits for the device alone. The copies
 * keep the rules of the fault path (memcpy, the wire, a futex).
 *
 * The handle is small enough to come from the library's arena, where a forked child
 * reads zeros; so `magic` tells the child that it is not its device.
 */
#ifndef OPENCL_DEVICE_H
#define OPENCL_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>
#include <uhmm/opencl.h>

#include "borrow.h"
#include "channel.h"
#include "memory.h"
#include "mover.h"
#include "pools.h"
#include "port.h"
#include "program.h"
#include "table.h"
#include "worker.h"

#define OCL_MAGIC	0x6c636e65706fULL

struct ocl_counters {
	_Atomic uint64_t runs, launches, rounds, restarts, faults, migrated_in, migrated_out;
	_Atomic uint64_t evicted, borrowed, invalidations, transfers, transfer_bytes, cpu_faults;
};

struct hmm_opencl {
	_Atomic uint64_t magic;
	struct hmm_mm *mm;
	struct hmm_notifier *notifier;
	struct hmm_devmem *devmem;
	uint32_t devmem_id;
	size_t page_size;
	uintptr_t user_end;
	uint32_t fault_around;		/* 0: by the pattern */
	pthread_mutex_t streams_lock;	/* a leaf */
	struct hmm_streams streams;
	uint64_t slice_ns;
	bool has_atomic64;

	struct ocl_channel channel;
	struct ocl_pools pools;
	struct ocl_memory memory;
	struct ocl_table table;
	struct ocl_mover mover;
	struct ocl_borrow borrow;
	struct ocl_worker worker;
	struct ocl_counters count;
	struct ocl_programs programs;
	struct ocl_port port;
};

/* 0; -EINVAL: NULL; -ECHILD: made by the process that this one was forked from. */
int ocl_check(const struct hmm_opencl *ocl);

static inline void ocl_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uintptr_t ocl_page_of(const struct hmm_opencl *ocl, uintptr_t va)
{
	return va & ~(uintptr_t)(ocl->page_size - 1);
}

static inline uintptr_t ocl_block_of(uintptr_t va)
{
	return va & ~(uintptr_t)(HMM_BLOCK - 1);
}

static inline uint32_t ocl_page_in_block(const struct hmm_opencl *ocl, uintptr_t va)
{
	return (uint32_t)((va & (HMM_BLOCK - 1)) / ocl->page_size);
}

#endif
