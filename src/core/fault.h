/* SPDX-License-Identifier: MIT */
/*
 * A CPU fault: from its message to its end, which is one of
 *
 *	served		the page is there: counted with its time
 *	ended		it is not, or was never away; the CPU will see for itself
 *
 * Both are traced, once.
 */
#ifndef UHMM_CORE_FAULT_H
#define UHMM_CORE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include <uhmm/trace.h>

struct hmm_mm;

struct fault {
	uintptr_t addr;			/* of the page */
	uint64_t read_ns;		/* when its message was read */
	uint32_t tid;
	bool write;
	uint8_t kind;			/* enum hmm_trace_fault; HOLE until it is looked up */
};

/* The mm's lock held. @pages that were filled. */
void fault_served(struct hmm_mm *mm, const struct fault *f);
void fault_ended(struct hmm_mm *mm, const struct fault *f, size_t pages);

#endif
