/* SPDX-License-Identifier: MIT */
/*
 * The soft device's memory: what fills it, eviction when it is full, peers, what comes
 * home with a fault, and options of impossible size.
 */
#define _GNU_SOURCE
#include "softdev.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NR	64
#define RW	(PROT_READ | PROT_WRITE)

/* migrate_in moves all that can move and counts it, on both sides. */
static void migrate_in_and_close(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 4096 * page);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(NR, 1);

	assert_int_equal(soft_move_in(soft, p, NR, NULL), NR);
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_int_equal(soft_stats_of(soft).migrated_in, NR);
	assert_int_equal(soft_stats_of(soft).mem_bytes, 4096 * page);
	assert_true(soft_stats_of(soft).mem_used >= NR * page);
	assert_int_equal(soft_move_in(soft, p, NR, NULL), 0);
	soft_checks(soft, p, NR, 1);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_at(w, p, NR, HMM_PLACE_SYSTEM);
	assert_holds(p, NR, 1, 0);
	assert_int_equal(hmm_soft_close(NULL), 0);
	munmap(p, NR * page);
}

/* Twice as much as fits: older blocks are evicted, and every byte is right. */
static void more_than_fits_evicts_older_blocks(void **state)
{
	struct world *w = *state;
	size_t nr = 2048;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1024 * page);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(nr, 2);
	size_t there;

	assert_true(soft_move_in(soft, p, nr, NULL) > 0);
	there = count_at(w, p, nr, HMM_PLACE_DEVICE);
	assert_in_range(there, 512, 1024);
	assert_true(soft_stats_of(soft).evicted >= nr - there - 512);
	assert_true(soft_stats_of(soft).mem_used <= 1024 * page);
	soft_checks(soft, p, nr, 2);
	soft_checks(soft, p, nr, 2);
	assert_holds(p, nr, 2, 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, nr, 2, 0);
	munmap(p, nr * page);
}

/* The smallest device there can be: one page. */
static void a_device_of_one_page(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = page, .lanes = 1);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(4, 3);

	soft_checks(soft, p, 4, 3);
	assert_true(count_at(w, p, 4, HMM_PLACE_DEVICE) <= 1);
	assert_holds(p, 4, 3, 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, 4 * page);
}

static void between(struct world *w, const void *group)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .peer_group = group);
	struct hmm_soft *a = soft_new(w, &opts), *b = soft_new(w, &opts);
	unsigned char *p = map_filled(NR, 4);
	struct hmm_soft_stats before;

	assert_int_not_equal(hmm_soft_devmem_id(a), hmm_soft_devmem_id(b));
	assert_int_equal(soft_move_in(a, p, NR, NULL), NR);
	stats_mark(w);
	before = soft_stats_of(a);
	assert_int_equal(soft_move_in(b, p, NR, NULL), NR);
	/* Through RAM the one writes and the other reads; among peers all is one read. */
	assert_int_equal(soft_stats_of(a).dma_bytes - before.dma_bytes, NR * page);
	assert_int_equal(soft_stats_of(a).migrated_out - before.migrated_out, group ? 0 : NR);
	assert_int_equal(soft_stats_of(b).dma_bytes, group ? 0 : NR * page);
	assert_int_equal(moved(w, pages_between), NR);
	assert_int_equal(moved(w, pages_to_system), 0);
	soft_checks(b, p, NR, 4);
	assert_int_equal(hmm_soft_close(a), 0);
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_int_equal(hmm_soft_close(b), 0);
	assert_holds(p, NR, 4, 0);
	munmap(p, NR * page);
}

/* Two devices of a group copy among themselves. */
static void device_to_device_in_a_group(void **state)
{
	between(*state, "group");
}

/* Two that have nothing in common go through RAM. */
static void device_to_device_without_a_group(void **state)
{
	between(*state, NULL);
}

static void one_reads_the_others(struct world *w, const void *group)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .migrate = HMM_SOFT_MIGRATE_NEVER,
		 .peer_group = group);
	struct hmm_soft *a = soft_new(w, &opts), *b = soft_new(w, &opts);
	unsigned char *p = map_filled(NR, 5);

	assert_int_equal(soft_move_in(a, p, NR, NULL), NR);
	soft_checks(b, p, NR, 5);
	soft_checks(a, p, NR, 5);
	assert_int_equal(hmm_soft_close(a), 0);
	assert_int_equal(hmm_soft_close(b), 0);
	assert_holds(p, NR, 5, 0);
	munmap(p, NR * page);
}

/* An access to another device's page, a peer's too, finds its bytes. */
static void device_reads_the_other_devices_pages(void **state)
{
	one_reads_the_others(*state, NULL);
	one_reads_the_others(*state, "group");
}

/* fault_around brings neighbours home with the page that was touched. */
static void fault_around_brings_neighbours(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .fault_around = 16);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(512, 12);

	assert_int_equal(soft_move_in(soft, p, 512, NULL), 512);
	assert_int_equal(touch_read(p + 100 * page), 0);
	assert_in_range(512 - count_at(w, p, 512, HMM_PLACE_DEVICE), 2, 16);
	assert_int_equal(moved(w, cpu_faults), 1);
	assert_int_equal(soft_stats_of(soft).cpu_faults, 1);
	assert_holds(p, 512, 12, 0);
	assert_true(moved(w, cpu_faults) <= 512 / 8);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, 512 * page);
}

/*
 * A CPU that reads front to back finds the next window on its way before it gets there:
 * all of it but the first page, by which it is seen to go on.
 */
static void stream_is_read_ahead(void **state)
{
	enum { ALL = 3 * 512, TOUCHED = 768 };
	/* No window is larger than 2 MiB, nor less than half a MiB one for a thread. */
	const size_t block = (2 << 20) / page, ahead = block < 128 ? block : 128;
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = ALL * page);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(ALL, 13), *next = p + TOUCHED * page;

	assert_int_equal(soft_move_in(soft, p, ALL, NULL), ALL);
	for (size_t i = 0; i < TOUCHED; i++)
		assert_int_equal(touch_read(p + i * page), 0);
	while (next < p + (ALL - ahead) * page && !count_at(w, next, 1, HMM_PLACE_DEVICE))
		next += page;
	assert_true(next < p + (ALL - ahead) * page);
	/* Nobody touches these. */
	while (count_at(w, next + page, ahead - 1, HMM_PLACE_SYSTEM) < ahead - 1)
		sched_yield();
	assert_int_equal(count_at(w, next, 1, HMM_PLACE_DEVICE), 1);
	assert_holds(p, ALL, 13, 0);
	/* One for a window, and a few until it is seen to go on. */
	assert_true(moved(w, cpu_faults) <= (ALL / block + 4 > 16 ? ALL / block + 4 : 16));
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, ALL * page);
}

struct streamer {
	const unsigned char *base;
	size_t nr;
	uint32_t seed;
	_Atomic bool stop;
	_Atomic uint64_t rounds, wrong;
};

/* Front to back, again and again, until told to stop. */
static void *stream_on(void *arg)
{
	struct streamer *s = arg;

	while (!atomic_load(&s->stop)) {
		for (size_t i = 0; i < s->nr; i++)
			if (*(const volatile uint64_t *)(s->base + i * page) !=
			    pattern(s->seed, i, 0))
				atomic_fetch_add(&s->wrong, 1);
		atomic_fetch_add(&s->rounds, 1);
	}
	return NULL;
}

/*
 * A stream loses no byte while its memory goes back under it, parts of it are unmapped
 * ahead of it, and in the end the device closes with read-ahead still posted.
 */
static void stream_against_changes(void **state)
{
	enum { ALL = 4 * 512, CHANGES = 60 };
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2 * ALL * page);
	unsigned char *p = map_filled(ALL, 14), *gone = map_filled(ALL, 15);
	struct streamer s = { .base = p, .nr = ALL, .seed = 14 };
	struct hmm_soft *soft = soft_new(w, &opts);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, stream_on, &s), 0);
	for (uint32_t i = 0; i < rounds(CHANGES); i++) {
		assert_true(soft_move_in(soft, p, ALL, NULL) >= 0);
		assert_true(soft_move_in(soft, gone, ALL, NULL) >= 0);
		/* Up to the middle of it, so that what is ahead is posted and then gone. */
		assert_holds(gone, ALL / 2, 15, 0);
		munmap(gone, ALL * page);
		gone = map_filled(ALL, 15);
		if (i % 4 == 3) {
			assert_int_equal(hmm_soft_close(soft), 0);
			soft = soft_new(w, &opts);
		}
	}
	atomic_store(&s.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(s.wrong, 0);
	assert_true(s.rounds > 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, ALL, 14, 0);
	assert_holds(gone, ALL, 15, 0);
	munmap(gone, ALL * page);
	munmap(p, ALL * page);
}

/* With fault_around 1 a touch brings its page and no other. */
static void fault_around_of_one(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .fault_around = 1);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(NR, 13);

	assert_int_equal(soft_move_in(soft, p, NR, NULL), NR);
	assert_int_equal(touch_read(p + 10 * page), 0);
	assert_int_equal(count_at(w, p, NR, HMM_PLACE_DEVICE), NR - 1);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, NR, 13, 0);
	munmap(p, NR * page);
}

/* Devices of impossible size, and options out of their bounds, are -EINVAL. */
static void impossible_options(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20);
	struct {
		struct hmm_soft_opts opts;
		uint64_t tail[2];
	} newer = { .opts = opts };
	struct hmm_soft *soft = (void *)1;

#define refused(field, value) do {						\
	struct hmm_soft_opts o_ = opts;						\
										\
	o_.field = (value);							\
	assert_int_equal(hmm_soft_open(w->mm, &o_, &soft), -EINVAL);		\
} while (0)
	refused(size, 0);
	refused(flags, 1);
	refused(mem_bytes, 4095);
	refused(mem_bytes, 4097);
	refused(mem_bytes, (1ULL << 40) + 4096);
	refused(mem_bytes, UINT64_MAX & ~4095ULL);
	refused(lanes, 65);
	refused(dma_queues, 17);
	refused(migrate, (enum hmm_soft_migrate)99);
	refused(prefetch, 102);
	refused(fault_around, 3);
	refused(fault_around, 1024);
#undef refused
	assert_int_equal(hmm_soft_open(NULL, &opts, &soft), -EINVAL);
	assert_int_equal(hmm_soft_open(w->mm, &opts, NULL), -EINVAL);
	newer.opts.size = sizeof(newer);
	newer.tail[1] = 1;
	assert_int_equal(hmm_soft_open(w->mm, &newer.opts, &soft), -E2BIG);
	assert_ptr_equal(soft, (void *)1);
	newer.tail[1] = 0;
	assert_int_equal(hmm_soft_open(w->mm, &newer.opts, &soft), 0);
	assert_int_equal(hmm_soft_close(soft), 0);
}

static void kernel_nothing(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)lane;
	(void)item;
	(void)arg;
}

/* Every function of soft.h with what it must refuse. */
static void bad_arguments(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20);
	HMM_OPTS(hmm_soft_inject, inject, .dma_error = 0);
	struct hmm_soft *soft = soft_new(w, &opts);
	struct hmm_soft_stats s = { 0 };
	unsigned char *p = map_filled(4, 14);
	uintptr_t a = (uintptr_t)p, b = a + 4 * page;

	assert_int_equal(hmm_soft_submit(NULL, kernel_nothing, 1, NULL), -EINVAL);
	assert_int_equal(hmm_soft_submit(soft, NULL, 1, NULL), -EINVAL);
	assert_int_equal(hmm_soft_submit(soft, kernel_nothing, 0, NULL), -EINVAL);
	assert_int_equal(hmm_soft_run(soft, NULL, 1, NULL, NULL), -EINVAL);
	assert_int_equal(hmm_soft_wait(NULL, 1, NULL), -EINVAL);
	assert_int_equal(hmm_soft_migrate_in(NULL, a, b, NULL), -EINVAL);
	assert_int_equal(hmm_soft_migrate_in(soft, a, a, NULL), -EINVAL);
	assert_int_equal(hmm_soft_migrate_in(soft, b, a, NULL), -EINVAL);
	assert_int_equal(hmm_soft_migrate_in(soft, a + 1, b, NULL), -EINVAL);
	assert_int_equal(hmm_soft_migrate_in(soft, a, b - 1, NULL), -EINVAL);
	assert_int_equal(hmm_soft_migrate_in(soft, (uintptr_t)1 << 63, ((uintptr_t)1 << 63) + page,
					     NULL), -EINVAL);
	assert_int_equal(hmm_soft_exclusive(soft, a, a), -EINVAL);
	assert_int_equal(hmm_soft_exclusive(soft, a + 1, b), -EINVAL);
	assert_int_equal(hmm_soft_exclusive(NULL, a, b), -EINVAL);
	assert_int_equal(hmm_soft_set_policy(soft, NULL), -EINVAL);
	assert_int_equal(hmm_soft_set_policy(NULL, &opts), -EINVAL);
	assert_int_equal(hmm_soft_inject(soft, NULL), -EINVAL);
	assert_int_equal(hmm_soft_inject(NULL, &inject), -EINVAL);
	inject.size = 0;
	assert_int_equal(hmm_soft_inject(soft, &inject), -EINVAL);
	assert_int_equal(hmm_soft_stats(soft, &s), -EINVAL);
	assert_int_equal(hmm_soft_stats(soft, NULL), -EINVAL);
	assert_int_equal(hmm_soft_stats(NULL, &s), -EINVAL);
	assert_int_equal(hmm_soft_pte(soft, 0), 0);
	assert_int_equal(hmm_soft_pte(soft, UINTPTR_MAX), 0);
	assert_at(w, p, 4, HMM_PLACE_SYSTEM);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, 4 * page);
}

static struct hmm_soft *forked;

static int child_calls(void *arg)
{
	struct hmm_soft_stats s = { .size = sizeof(s) };

	(void)arg;
	return !(hmm_soft_stats(forked, &s) == -ECHILD &&
		 hmm_soft_submit(forked, kernel_nothing, 1, NULL) == -ECHILD &&
		 hmm_soft_migrate_in(forked, page, 2 * page, NULL) == -ECHILD &&
		 hmm_soft_close(forked) == -ECHILD && hmm_soft_devmem_id(forked) == 0);
}

/* In a forked child the device is the parent's: -ECHILD. */
static void child_calls_answer_echild(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20);

	forked = soft_new(w, &opts);
	assert_int_equal(in_child(child_calls, NULL), 0);
	assert_int_equal(hmm_soft_close(forked), 0);
}

static void kernel_wait(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)lane;
	(void)item;
	atomic_store((_Atomic int64_t *)arg, hmm_soft_wait(forked, 1, NULL));
}

/* hmm_soft_wait() from inside a kernel is -EDEADLK. */
static void wait_from_a_kernel(void **state)
{
	static _Atomic int64_t ret;
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20);

	forked = soft_new(w, &opts);
	assert_int_equal(hmm_soft_run(forked, kernel_wait, 1, (void *)&ret, NULL), 0);
	assert_int_equal(ret, -EDEADLK);
	assert_int_equal(hmm_soft_close(forked), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(migrate_in_and_close),
		world_test(more_than_fits_evicts_older_blocks),
		world_test(a_device_of_one_page),
		world_test(device_to_device_in_a_group),
		world_test(device_to_device_without_a_group),
		world_test(device_reads_the_other_devices_pages),
		world_test(fault_around_brings_neighbours),
		world_test(stream_is_read_ahead),
		world_test(stream_against_changes),
		world_test(fault_around_of_one),
		world_test(impossible_options),
		world_test(bad_arguments),
		world_test(child_calls_answer_echild),
		world_test(wait_from_a_kernel),
	};

	need_mm();
	return cmocka_run_group_tests_name("soft_memory", tests, world_begin, world_end);
}
