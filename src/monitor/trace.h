/* SPDX-License-Identifier: MIT */
/*
 * The trace of a run: the core's events, and the memory in use, as the JSON that Chrome's
 * and Perfetto's viewers open.
 *
 *	handlers, policy, listeners		writer
 *	---------------------------		------
 *	event -> ring, without a lock		every few ms: ring -> text -> file
 *	full: dropped, and counted		at the end: how many were dropped
 *
 * A viewer's process is one address space: a fork and an exec begin a new one, whose name
 * tells the program and its process id. The monitor's own work on it is on threads that
 * are named so.
 */
#ifndef UHMM_MONITOR_TRACE_H
#define UHMM_MONITOR_TRACE_H

#include <stdint.h>
#include <sys/types.h>

#include <uhmm/trace.h>

struct trace;

/* To @fd, which stays the caller's; times count from now. -ENOMEM. */
int trace_open(int fd, struct trace **out);

/* The writer, a thread. Events that come before wait in the ring. */
int trace_start(struct trace *trace);

/* Nothing comes any more: the rest is written. 0, or why not all of it was. NULL is fine. */
int trace_close(struct trace *trace);

/* An hmm_trace_fn; @ctx is the trace. */
void trace_hear(void *ctx, const struct hmm_trace_event *event);

/* The address space @mm (hmm_mm_id()) is that process's. NULL is fine. */
void trace_name(struct trace *trace, uint64_t mm, pid_t pid, const char name[16]);

/* Memory in use now, of the whole tree. */
void trace_memory(struct trace *trace, uint64_t resident_bytes, uint64_t device_bytes);

#endif
