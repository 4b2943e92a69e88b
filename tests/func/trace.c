/* SPDX-License-Identifier: MIT */
/* What is told of: every fault, migration, invalidation, change and fork, once each. */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <uhmm/trace.h>

#define NR	8
#define TOLD	512
#define BLOCK	(512 * page)

/* Static, as the listener asks for. */
static struct {
	_Atomic uint32_t nr;
	struct hmm_trace_event events[TOLD];
} told;

static void listen(void *ctx, const struct hmm_trace_event *event)
{
	uint32_t i = atomic_load(&told.nr);

	(void)ctx;
	if (i < TOLD)
		told.events[i] = *event;
	atomic_store(&told.nr, i + 1);
}

static void start(struct world *w)
{
	atomic_store(&told.nr, 0);
	assert_int_equal(hmm_trace_start(w->mm, listen, NULL), 0);
	stats_mark(w);
}

/* Sum of the pages of all events like this; *nr counts them. */
static int64_t pages_told(enum hmm_trace_type type, uint32_t what, uint32_t *nr)
{
	int64_t pages = 0;

	*nr = 0;
	for (uint32_t i = 0; i < atomic_load(&told.nr) && i < TOLD; i++) {
		const struct hmm_trace_event *e = &told.events[i];

		if (e->type != type || e->what != what)
			continue;
		assert_true(e->begin_ns && e->begin_ns <= e->end_ns);
		++*nr;
		pages += e->pages;
	}
	return pages;
}

static uint32_t nr_told(enum hmm_trace_type type, uint32_t what)
{
	uint32_t nr;

	pages_told(type, what, &nr);
	return nr;
}

/* The last event of the type, and of any kind or @what; the test fails without one. */
#define ANY	UINT32_MAX

static const struct hmm_trace_event *last_of(enum hmm_trace_type type, uint32_t what)
{
	for (uint32_t i = atomic_load(&told.nr); i-- > 0; ) {
		const struct hmm_trace_event *e = &told.events[i];

		if (i < TOLD && e->type == type && (what == ANY || e->what == what))
			return e;
	}
	fail_msg("no event of type %d", type);
	return NULL;
}

static const struct hmm_trace_event *last(enum hmm_trace_type type)
{
	return last_of(type, ANY);
}

/* Filled pages that lie in one block: they move in one go. */
static unsigned char *map_in_block(uint32_t seed)
{
	const size_t len = 2 * BLOCK;
	unsigned char *base = map_pages(len / page, PROT_READ | PROT_WRITE, 0);
	unsigned char *p = (void *)(((uintptr_t)base + BLOCK - 1) & ~(BLOCK - 1));

	if (p > base)
		munmap(base, (size_t)(p - base));
	munmap(p + NR * page, (size_t)(base + len - p) - NR * page);
	fill(p, NR, seed);
	return p;
}

/* One listener at a time, and none is told of anything once it has stopped. */
static void one_listener_until_it_stops(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);

	assert_int_equal(hmm_trace_start(NULL, listen, NULL), -EINVAL);
	assert_int_equal(hmm_trace_start(w->mm, NULL, NULL), -EINVAL);
	assert_int_equal(hmm_trace_stop(NULL), -EINVAL);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	assert_int_equal(hmm_mm_id(NULL), 0);
	assert_true(hmm_mm_id(w->mm) > 0);
	start(w);
	assert_int_equal(hmm_trace_start(w->mm, listen, NULL), -EBUSY);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	atomic_store(&told.nr, 0);
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR, 1, 0);
	assert_int_equal(atomic_load(&told.nr), 0);
	munmap(p, NR * page);
}

/* What went and what came are as many pages as the counters say, at their addresses. */
static void migrations_are_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_in_block(2);
	const struct hmm_trace_event *e;
	uint32_t nr;

	start(w);
	to_device(w, w->dev, p, NR);
	assert_int_equal(pages_told(HMM_TRACE_MIGRATE, HMM_REASON_NONE, &nr), NR);
	e = last(HMM_TRACE_MIGRATE);
	assert_int_equal(e->mm, hmm_mm_id(w->mm));
	assert_int_equal(e->start, (uintptr_t)p);
	assert_int_equal(e->end, (uintptr_t)p + NR * page);
	assert_int_equal(e->device, w->dev->id);
	assert_int_equal(e->result, 0);
	assert_int_equal(e->thread, (uint32_t)syscall(SYS_gettid));
	evict(w, p, NR);
	assert_int_equal(pages_told(HMM_TRACE_HOME, 0, &nr), NR);
	assert_int_equal(moved(w, pages_to_system), NR);
	assert_int_equal(last(HMM_TRACE_HOME)->device, w->dev->id);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	munmap(p, NR * page);
}

/* Pages that stay are told with the reason. */
static void reasons_are_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	uint64_t reasons[HMM_REASONS] = { 0 };

	memset(p, 1, NR * page);
	start(w);
	assert_int_equal(try_device(w, w->dev, p, NR, reasons), 0);
	assert_int_equal(last(HMM_TRACE_MIGRATE)->pages, 0);
	assert_int_equal(last(HMM_TRACE_MIGRATE)->what, HMM_REASON_SHARED);
	assert_int_equal(last(HMM_TRACE_MIGRATE)->result, NR);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	munmap(p, NR * page);
}

/* Each fault is told once, when it ends, with who touched what, and how. */
static void faults_are_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(2 * NR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	const struct hmm_trace_event *e;
	uint32_t nr;

	fill(p, NR, 3);
	to_device(w, w->dev, p, NR);
	start(w);
	*(volatile unsigned char *)p = 7;
	assert_true(eventually(nr_told(HMM_TRACE_FAULT, HMM_FAULT_DEVICE) == 1));
	/* Neighbours of the mapping may be touched meanwhile, for the first time. */
	e = last_of(HMM_TRACE_FAULT, HMM_FAULT_DEVICE);
	assert_int_equal(e->start, (uintptr_t)p);
	assert_int_equal(e->result, 1);
	if (!masked("thread-id"))
		assert_int_equal(e->thread, (uint32_t)syscall(SYS_gettid));
	for (size_t i = 1; i < NR; i++)
		assert_int_equal(touch_read(p + i * page), 0);
	assert_int_equal(touch_read(p + NR * page), 0);
	assert_true(eventually(nr_told(HMM_TRACE_FAULT, HMM_FAULT_DEVICE) == moved(w, cpu_faults)));
	pages_told(HMM_TRACE_FAULT, HMM_FAULT_HOLE, &nr);
	assert_int_equal(pages_told(HMM_TRACE_FAULT, HMM_FAULT_HOLE, &nr), moved(w, zero_fills));
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	munmap(p, 2 * NR * page);
}

/* Changes of mappings are told, and what notifiers heard of them. */
static void changes_are_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 4);
	struct heard *h = listen_to(w, p, p + NR * page);

	to_device(w, w->dev, p, NR);
	start(w);
	assert_int_equal(madvise(p, page, MADV_DONTNEED), 0);
	assert_int_equal(munmap(p + page, (NR - 1) * page), 0);
	assert_true(eventually(nr_told(HMM_TRACE_CHANGE, SYS_munmap) >= 1));
	assert_int_equal(nr_told(HMM_TRACE_CHANGE, SYS_madvise), 1);
	assert_true(last(HMM_TRACE_CHANGE)->start == (uintptr_t)p + page);
	assert_true(last(HMM_TRACE_CHANGE)->end == (uintptr_t)p + NR * page);
	if (strict())
		assert_int_equal(last(HMM_TRACE_CHANGE)->thread, (uint32_t)syscall(SYS_gettid));
	assert_true(nr_told(HMM_TRACE_INVALIDATE, HMM_EVENT_UNMAP) >= 1);
	assert_true(nr_told(HMM_TRACE_INVALIDATE, HMM_EVENT_CLEAR) >= 1);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	listen_end(h);
	munmap(p, page);
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* A fork is told once. */
static void forks_are_told(void **state)
{
	struct world *w = *state;

	start(w);
	assert_int_equal(in_child(nothing, NULL), 0);
	assert_int_equal(nr_told(HMM_TRACE_FORK, 0), moved(w, forks));
	assert_true(moved(w, forks) >= 1);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
}

/* The pages away in the block of @addr, as was told of last; 0: nothing was told. */
static int64_t told_away(uintptr_t addr)
{
	for (uint32_t i = atomic_load(&told.nr); i-- > 0; ) {
		const struct hmm_trace_event *e = &told.events[i];

		if (e->type == HMM_TRACE_AWAY && e->start <= addr && addr < e->end)
			return e->pages;
	}
	return 0;
}

/* Where pages are is told block by block, and again only where it has changed. */
static void places_are_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_in_block(6);

	assert_int_equal(hmm_trace_away(NULL), -EINVAL);
	to_device(w, w->dev, p, NR);
	assert_int_equal(hmm_trace_away(w->mm), 0);
	start(w);
	assert_true(hmm_trace_away(w->mm) >= 1);
	assert_int_equal(last(HMM_TRACE_AWAY)->result, BLOCK / page);
	assert_int_equal(told_away((uintptr_t)p), NR);
	assert_int_equal(hmm_trace_away(w->mm), 0);
	assert_int_equal(touch_read(p), 0);
	assert_true(hmm_trace_away(w->mm) >= 1);
	assert_int_equal(told_away((uintptr_t)p), NR - moved(w, pages_to_system));
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	start(w);
	evict(w, p, NR);
	assert_int_equal(hmm_trace_away(w->mm), 0);
	assert_int_equal(hmm_trace_stop(w->mm), 0);
	munmap(p, NR * page);
}

static void *stop_and_start(void *arg)
{
	struct world *w = arg;

	for (int i = 0; i < 200; i++) {
		assert_int_equal(hmm_trace_start(w->mm, listen, NULL), 0);
		assert_int_equal(hmm_trace_stop(w->mm), 0);
	}
	return NULL;
}

/* To begin and to end listening is safe at any time. */
static void listening_comes_and_goes(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 5);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, stop_and_start, w), 0);
	for (int i = 0; i < 50; i++) {
		to_device(w, w->dev, p, NR);
		assert_holds(p, NR, 5, 0);
		evict(w, p, NR);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(one_listener_until_it_stops),
		world_test(migrations_are_told),
		world_test(reasons_are_told),
		world_test(faults_are_told),
		world_test(changes_are_told),
		world_test(forks_are_told),
		world_test(places_are_told),
		world_test(listening_comes_and_goes),
	};

	need_mm();
	return cmocka_run_group_tests_name("trace", tests, world_begin, world_end);
}
