/* SPDX-License-Identifier: MIT */
/*
 * uhmm/trace.h - hear of what the library does, as it does it.
 *
 * EXPERIMENTAL: what `uhmm run --trace` needs; not part of what 1.0 promises.
 *
 * While nobody listens it costs a look at a pointer for each event.
 */
#ifndef UHMM_TRACE_H
#define UHMM_TRACE_H

#include <uhmm/uhmm.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

enum hmm_trace_type {
	HMM_TRACE_FAULT,	/* a CPU touched a page that was not there, and goes on */
	HMM_TRACE_MIGRATE,	/* hmm_migrate_setup() to hmm_migrate_finalize() */
	HMM_TRACE_HOME,		/* pages of a device, in one run, came home */
	HMM_TRACE_INVALIDATE,	/* notifiers were told */
	HMM_TRACE_CHANGE,	/* the program changed a mapping */
	HMM_TRACE_FORK,
	HMM_TRACE_LOST,		/* a page whose bytes cannot be brought back */
	HMM_TRACE_AWAY,		/* where pages are away: by hmm_trace_away() alone */
	HMM_TRACE_TYPES
};

/* What a fault met. */
enum hmm_trace_fault {
	HMM_FAULT_HOLE,		/* nothing was there yet */
	HMM_FAULT_DEVICE,
	HMM_FAULT_EXCLUSIVE,
	HMM_FAULT_FLIGHT,	/* a page on its way */
	HMM_FAULT_LOST,
};

/*
 *		what			pages			result
 * FAULT	enum hmm_trace_fault	HOLE: filled with it	1: to write
 * MIGRATE	enum hmm_reason		that went		that stayed: for that
 *		of the first that				reason and others
 *		stayed
 * HOME					that came
 * INVALIDATE	enum hmm_event_type	callbacks made
 * CHANGE	system call number				what it returned, or
 *								INT64_MIN: the kernel
 *								makes it itself
 * FORK								hmm_mm_id() of the child's
 *								mm, or 0
 * LOST					1
 * AWAY					of start to end that	of start to end, all told
 *					are a device's, on the
 *					way, or lost
 */
struct hmm_trace_event {
	uint32_t type;			/* enum hmm_trace_type */
	uint32_t what;
	uint64_t mm;			/* hmm_mm_id() */
	uint64_t begin_ns, end_ns;	/* CLOCK_MONOTONIC; equal: a moment */
	uint64_t start, end;		/* addresses in that mm */
	uint32_t thread;		/* who did it: FAULT, CHANGE, FORK: a thread of the
					   program's, or 0; else one of the library's user */
	uint32_t device;		/* hmm_devmem_id() of MIGRATE and HOME, or 0 */
	int64_t pages, result;
};

/*
 * Called on any thread, fault handlers too, with the mm's lock held: short, calls nothing
 * of libuhmm, waits for nobody that may wait for a fault or a change of a mapping, and
 * touches no memory that could be away (hmm_safe_alloc() gives some that cannot). The
 * event is the library's. Events come in the order in which they end.
 */
typedef void (*hmm_trace_fn)(void *ctx, const struct hmm_trace_event *event);

/**
 * hmm_trace_start() - have @fn hear of the events of @mm
 *
 * And of the other address spaces that share its devices (remote.h). What is under way is
 * told when it ends, as if it had just begun.
 *
 * Return: 0; -EINVAL on NULL; -EBUSY: somebody listens; -ENOMEM; -ECHILD; -EDEADLK.
 */
int hmm_trace_start(struct hmm_mm *mm, hmm_trace_fn fn, void *ctx) HMM_MUST_CHECK;

/**
 * hmm_trace_stop() - no more
 *
 * When this returns @fn is not running and will not be called. hmm_mm_destroy() does the
 * same for the last mm.
 *
 * Return: 0, also where nobody listened; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_trace_stop(struct hmm_mm *mm);

/**
 * hmm_trace_away() - have the listener told where pages of @mm are away
 *
 * An event for each block (2 MiB where a page has 4 KiB) that has another number of them
 * than it was last told of; a listener that is new is told of each that has any. Of
 * an mm of remote.h it is told once more when that is gone: then there are none.
 *
 * Return: how many were told; 0 where nobody listens; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_trace_away(struct hmm_mm *mm);

/** hmm_mm_id() - a number of its own among those that share its devices; 0 for NULL. */
uint64_t hmm_mm_id(const struct hmm_mm *mm);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
