// SPDX-License-Identifier: MIT
#include "monitor/trace.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "monitor/log.h"
#include "monitor/trace_text.h"
#include "sys/sys.h"

#define RING		(1u << 15)	/* records; a power of two */
#define AHEAD		6u
#define PAUSE_NS	(20 * 1000000L)

/*
 * A slot is free for its @turn-th writer when turn == position, and full for the reader
 * when turn == position + 1.
 */
struct slot {
	_Atomic uint64_t turn;
	struct trace_record record;
};
_Static_assert(sizeof(struct slot) == 64, "one cache line each");

struct trace {
	struct slot *ring;		/* immutable */
	_Atomic uint64_t tail;		/* the next position to write */
	_Atomic uint64_t dropped;
	_Atomic bool stop;
	pthread_t writer;
	bool running;

	/* The writer's. */
	uint64_t head;
	struct trace_text text;
};

/* ---------------------------------------------------------------- the ring */

/* The next free slot, the caller's until done(); NULL: there is none, and that is counted. */
static struct slot *claim(struct trace *trace)
{
	uint64_t at = atomic_load_explicit(&trace->tail, memory_order_relaxed);

	for (;;) {
		struct slot *slot = &trace->ring[at & (RING - 1)];
		/* acquire: pairs with pop(); the record was read before it is written over */
		uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);

		if (turn < at) {
			atomic_fetch_add_explicit(&trace->dropped, 1, memory_order_relaxed);
			return NULL;
		}
		if (turn > at)
			at = atomic_load_explicit(&trace->tail, memory_order_relaxed);
		else if (atomic_compare_exchange_weak_explicit(&trace->tail, &at, at + 1,
							       memory_order_relaxed,
							       memory_order_relaxed)) {
			/* The writer has read those: they are in another CPU's cache. */
			__builtin_prefetch(&trace->ring[(at + AHEAD) & (RING - 1)], 1);
			return slot;
		}
	}
}

static void done(struct slot *slot)
{
	const uint64_t at = atomic_load_explicit(&slot->turn, memory_order_relaxed);

	/* release: pairs with pop() */
	atomic_store_explicit(&slot->turn, at + 1, memory_order_release);
}

/* The writer's. */
static bool pop(struct trace *trace, struct trace_record *out)
{
	struct slot *slot = &trace->ring[trace->head & (RING - 1)];

	if (atomic_load_explicit(&slot->turn, memory_order_acquire) != trace->head + 1)
		return false;
	*out = slot->record;
	atomic_store_explicit(&slot->turn, trace->head + RING, memory_order_release);
	trace->head++;
	return true;
}

/* ---------------------------------------------------------------- what is heard */

void trace_hear(void *ctx, const struct hmm_trace_event *event)
{
	struct slot *slot = claim(ctx);

	if (!slot)
		return;
	slot->record = (struct trace_record){
		.kind = (uint8_t)event->type, .device = (uint8_t)event->device,
		.what = (uint16_t)event->what, .mm = (uint32_t)event->mm & INT32_MAX,
		.thread = event->thread, .pages = (uint32_t)event->pages,
		.begin_ns = event->begin_ns, .end_ns = event->end_ns,
		.start = event->start, .end = event->end, .result = event->result,
	};
	done(slot);
}

void trace_name(struct trace *trace, uint64_t mm, pid_t pid, const char name[16])
{
	struct slot *slot = trace ? claim(trace) : NULL;

	if (!slot)
		return;
	slot->record = (struct trace_record){
		.kind = TRACE_NAME, .mm = (uint32_t)mm & INT32_MAX, .thread = (uint32_t)pid,
	};
	memcpy(slot->record.name, name, sizeof(slot->record.name) - 1);
	done(slot);
}

void trace_memory(struct trace *trace, uint64_t resident_bytes, uint64_t device_bytes)
{
	struct slot *slot = claim(trace);

	if (!slot)
		return;
	slot->record = (struct trace_record){
		.kind = TRACE_MEMORY, .ns = sys_now_ns(), .resident_bytes = resident_bytes,
		.device_bytes = device_bytes,
	};
	done(slot);
}

/* ---------------------------------------------------------------- the writer */

static void write_all(struct trace *trace)
{
	struct trace_record record;

	while (pop(trace, &record))
		trace_text_record(&trace->text, &record);
	trace_text_flush(&trace->text);
}

static void *writer_main(void *arg)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	struct trace *trace = arg;

	/* acquire: pairs with trace_close(); what was pushed before is there */
	while (!atomic_load_explicit(&trace->stop, memory_order_acquire)) {
		write_all(trace);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

int trace_open(int fd, struct trace **out)
{
	struct trace *trace = calloc(1, sizeof(*trace));

	if (trace)
		trace->ring = aligned_alloc(sizeof(*trace->ring), RING * sizeof(*trace->ring));
	if (!trace || !trace->ring) {
		free(trace);
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < RING; i++)
		atomic_init(&trace->ring[i].turn, i);
	trace_text_begin(&trace->text, fd, sys_now_ns());
	*out = trace;
	return 0;
}

int trace_start(struct trace *trace)
{
	int ret = pthread_create(&trace->writer, NULL, writer_main, trace);

	trace->running = ret == 0;
	return -ret;
}

int trace_close(struct trace *trace)
{
	uint64_t dropped;
	int ret;

	if (!trace)
		return 0;
	atomic_store_explicit(&trace->stop, true, memory_order_release);
	if (trace->running)
		pthread_join(trace->writer, NULL);
	write_all(trace);
	dropped = atomic_load_explicit(&trace->dropped, memory_order_relaxed);
	if (dropped)
		say(SAY_WARNING, "the trace lacks %llu events that came too fast to be written",
		    (unsigned long long)dropped);
	ret = trace_text_end(&trace->text, dropped);
	free(trace->ring);
	free(trace);
	return ret;
}
