/* SPDX-License-Identifier: MIT */
/*
 * Who listens to a family's events, if anybody does; and the probe of all families.
 *
 *	emitter, mm lock held		hmm_trace_stop()
 *	---------------------		----------------
 *	tracer = family->tracer		.
 *	.				family->tracer = NULL
 *	tracer->fn(event)		family_barrier(): every mm's lock, once
 *	unlock				.
 *					free the tracer
 */
#ifndef UHMM_CORE_TRACE_H
#define UHMM_CORE_TRACE_H

#include <uhmm/trace.h>

#include "core/mm.h"
#include "core/probe.h"

struct tracer {
	hmm_trace_fn fn;
	void *ctx;
	uint64_t nr;		/* no other of the family has it; above 0 */
};

static inline bool tracing(const struct hmm_mm *mm)
{
	return __builtin_expect(atomic_load_explicit(&mm->family->tracer,
						     memory_order_relaxed) != NULL, 0) ||
	       probe_wanted();
}

/* When something begins that is traced once it ends; 0: nobody listens. */
static inline uint64_t trace_begin(const struct hmm_mm *mm)
{
	return tracing(mm) ? sys_now_ns() : 0;
}

/*
 * Tell of @event; the mm, and the end, the beginning and the thread where they are 0, are
 * filled in: now, a moment, this one. The mm's lock held.
 */
void trace_event(struct hmm_mm *mm, struct hmm_trace_event *event);

/* For an event that is a moment, and no more than this. The mm's lock held. */
static inline void trace_moment(struct hmm_mm *mm, enum hmm_trace_type type, uint32_t what,
				uintptr_t start, uintptr_t end, int64_t pages)
{
	struct hmm_trace_event event = {
		.type = type, .what = what, .start = start, .end = end, .pages = pages,
	};

	if (tracing(mm))
		trace_event(mm, &event);
}

/* What hmm_trace_away() does; returns how many. The mm's lock held. */
uint32_t trace_away(struct hmm_mm *mm);

/* The family is going; nobody can be listening any more. */
void tracer_close(struct family *family);

#endif
