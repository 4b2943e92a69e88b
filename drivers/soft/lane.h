/* SPDX-License-Identifier: MIT */
/*
 * A lane: a thread of the device that runs kernels, as the access functions see it.
 *
 * A refused access does not return: the lane leaves the kernel function by longjmp to
 * where it called it. Nothing is held then: not the table lock, not an access section.
 */
#ifndef SOFT_LANE_H
#define SOFT_LANE_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/soft.h>

#include "fault.h"
#include "tlb.h"

#define SOFT_LANE_STACK		(1UL << 20)
#define SOFT_SPAN_BYTES		(64UL << 10)	/* longest piece: bounds a shootdown's wait */
#define SOFT_BOUNCE_BYTES	(2 * SOFT_SPAN_BYTES)

struct soft_submission;

struct hmm_lane {
	_Atomic uint8_t active;		/* inside an access (tlb.h) */
	bool fenced;			/* no membarrier: fence at each access */
	_Atomic bool running;		/* in a kernel; changes under the table lock */
	unsigned int id;
	struct hmm_soft *soft;
	struct soft_tlb_entry tlb[SOFT_TLB_ENTRIES];

	/* The lane's own. */
	struct soft_submission *submission;
	uint64_t item;
	jmp_buf leave;
	struct soft_fault fault;
	char *bounce;			/* SOFT_BOUNCE_BYTES, for spans of guarded pages */

	/* Written by the lane, read by anyone. */
	_Atomic uint64_t tlb_misses;
	_Atomic uint64_t guarded;
	_Atomic uint64_t replays;

	struct hmm_safe_thread *thread;
} __attribute__((aligned(64)));

/* Counters with one writer need no locked instruction. */
static inline void soft_lane_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

#endif
