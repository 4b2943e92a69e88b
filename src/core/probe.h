/* SPDX-License-Identifier: MIT */
/*
 * The probe uhmm:event, for perf, bpftrace and whatever else knows USDT: the events of
 * <uhmm/trace.h>, of every mm, by a nop and a note in the library's file.
 *
 *	arg0 type, arg1 what, arg2 mm, arg3 start, arg4 end, arg5 pages, arg6 result,
 *	arg7 nanoseconds that it took, arg8 thread
 *
 * Who attaches to it raises the semaphore: while that is 0 nothing is put together.
 */
#ifndef UHMM_CORE_PROBE_H
#define UHMM_CORE_PROBE_H

#include <stdbool.h>

#include <uhmm/trace.h>

#if HMM_USDT
#define _SDT_HAS_SEMAPHORES 1	/* sdt.h's own name for it */
#include <sys/sdt.h>

extern unsigned short uhmm_event_semaphore __attribute__((visibility("hidden")));

static inline bool probe_wanted(void)
{
	/* volatile: the kernel writes it; who sees it late misses an event */
	return __builtin_expect(*(volatile unsigned short *)&uhmm_event_semaphore, 0);
}

static inline void probe_event(const struct hmm_trace_event *e)
{
	DTRACE_PROBE9(uhmm, event, e->type, e->what, e->mm, e->start, e->end, e->pages, e->result,
		      e->end_ns - e->begin_ns, e->thread);
}
#else
static inline bool probe_wanted(void)
{
	return false;
}

static inline void probe_event(const struct hmm_trace_event *e)
{
	(void)e;
}
#endif

#endif
