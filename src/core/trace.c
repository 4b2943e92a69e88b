/* SPDX-License-Identifier: MIT */
#include "core/trace.h"

#if HMM_USDT
/* Where tools look for it. */
unsigned short uhmm_event_semaphore __attribute__((section(".probes")));
#endif

/* Asked for once: a system call for each event would be a good part of its cost. */
static uint32_t own_tid(void)
{
	if (!thread_state.tid)
		thread_state.tid = sys_gettid();
	return thread_state.tid;
}

void trace_event(struct hmm_mm *mm, struct hmm_trace_event *event)
{
	/* acquire: pairs with hmm_trace_start(); what is pointed to is there */
	const struct tracer *tracer = atomic_load_explicit(&mm->family->tracer,
							   memory_order_acquire);

	lock_assert_held(&mm->lock);
	if (!tracer && !probe_wanted())
		return;
	event->mm = hmm_mm_id(mm);
	if (!event->end_ns)
		event->end_ns = sys_now_ns();
	if (!event->begin_ns)
		event->begin_ns = event->end_ns;
	if (!event->thread)
		event->thread = own_tid();
	probe_event(event);
	if (tracer)
		tracer->fn(tracer->ctx, event);
}

int hmm_trace_start(struct hmm_mm *mm, hmm_trace_fn fn, void *ctx)
{
	struct tracer *tracer, *none = NULL;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!fn)
		return -EINVAL;
	tracer = arena_alloc(sizeof(*tracer));
	if (!tracer)
		return -ENOMEM;
	*tracer = (struct tracer){
		fn, ctx, atomic_fetch_add_explicit(&mm->family->last_tracer, 1, memory_order_relaxed) + 1,
	};
	/* release: pairs with trace_event() */
	if (atomic_compare_exchange_strong_explicit(&mm->family->tracer, &none, tracer,
						    memory_order_release, memory_order_relaxed))
		return 0;
	arena_free(tracer, sizeof(*tracer));
	return -EBUSY;
}

int hmm_trace_stop(struct hmm_mm *mm)
{
	struct tracer *tracer;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	tracer = atomic_exchange_explicit(&mm->family->tracer, NULL, memory_order_relaxed);
	if (!tracer)
		return 0;
	family_barrier(mm->family);
	arena_free(tracer, sizeof(*tracer));
	return 0;
}

static void tell_away(struct hmm_mm *mm, uintptr_t base, uint32_t used)
{
	struct hmm_trace_event event = {
		.type = HMM_TRACE_AWAY, .start = base, .end = base + BLOCK_PAGES * mm->page,
		.pages = used, .result = BLOCK_PAGES,
	};

	trace_event(mm, &event);
}

uint32_t trace_away(struct hmm_mm *mm)
{
	/* acquire: pairs with hmm_trace_start() */
	const struct tracer *tracer = atomic_load_explicit(&mm->family->tracer,
							   memory_order_acquire);

	lock_assert_held(&mm->lock);
	return tracer ? directory_tell(&mm->dir, tracer->nr, tell_away) : 0;
}

int hmm_trace_away(struct hmm_mm *mm)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	lock_acquire(&mm->lock);
	ret = (int)trace_away(mm);
	lock_release(&mm->lock);
	return ret;
}

void tracer_close(struct family *family)
{
	struct tracer *tracer = atomic_load_explicit(&family->tracer, memory_order_relaxed);

	if (tracer)
		arena_free(tracer, sizeof(*tracer));
}

uint64_t hmm_mm_id(const struct hmm_mm *mm)
{
	return mm ? (uint64_t)mm->generation * FAMILY_MMS + mm->slot : 0;
}
