/* SPDX-License-Identifier: MIT */
/*
 * Every public function with null, misaligned, reversed, overflowing, kernel-half and
 * unmapped ranges, unknown flags and options of another age: a negative errno with
 * the meaning its header states, and nothing changed.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uhmm/plugin.h>
#include <uhmm/soft.h>

#define NR	8
#define RW	(PROT_READ | PROT_WRITE)

static unsigned char *good;		/* NR pages with a pattern, half of them away */
static uintptr_t lo, hi;		/* their bounds */
static uint64_t arrays[2][8192];
static void *contents[1024];
static uint8_t places[8192];

/* Ranges that break the contract of every function that takes one. */
struct bad_range {
	const char *name;
	uintptr_t start, end;
};

static size_t bad_ranges(struct bad_range *bad)
{
	const uintptr_t last = ~(uintptr_t)(page - 1);
	const struct bad_range all[] = {
		{ "empty", lo, lo },
		{ "reversed", hi, lo },
		{ "start misaligned", lo + 1, hi },
		{ "start misaligned by a word", lo + 8, hi },
		{ "end misaligned", lo, hi - 1 },
		{ "both misaligned", lo + 512, lo + page + 512 },
		{ "zero and zero", 0, 0 },
		{ "wraps", last, page },
		{ "across the end of user space", hmm_user_end() - page, hmm_user_end() + page },
		{ "beyond the end of user space", hmm_user_end(), hmm_user_end() + page },
		{ "non-canonical", (uintptr_t)1 << 55, ((uintptr_t)1 << 55) + page },
		{ "kernel half", last - page, last },
		{ "all of it", 0, last },
	};

	memcpy(bad, all, sizeof(all));
	return ARRAY_LEN(all);
}

#define refuses_ranges(call, expected) do {					\
	struct bad_range bad_[16];						\
	size_t nr_ = bad_ranges(bad_);						\
										\
	for (size_t i_ = 0; i_ < nr_; i_++) {					\
		uintptr_t start = bad_[i_].start, end = bad_[i_].end;		\
		int64_t ret_ = (call);						\
										\
		if (ret_ != (expected))						\
			fail_msg("%s: %s: %lld", #call, bad_[i_].name,		\
				 (long long)ret_);				\
	}									\
} while (0)

static int begin_good(void **state)
{
	struct world *w;

	world_test_begin(state);
	w = *state;
	good = map_filled(NR, 1);
	lo = (uintptr_t)good;
	hi = lo + NR * page;
	to_device(w, w->dev, good, NR / 2);
	return 0;
}

/* Whatever was refused changed nothing: places, bytes, and nothing in flight. */
static int end_good(void **state)
{
	struct world *w = *state;

	assert_at(w, good, NR / 2, HMM_PLACE_DEVICE);
	assert_at(w, good + NR / 2 * page, NR / 2, HMM_PLACE_SYSTEM);
	assert_int_equal(moved(w, pages_to_system), 0);
	assert_holds(good, NR, 1, 0);
	munmap(good, NR * page);
	return world_test_end(state);
}

#define good_test(f)	cmocka_unit_test_setup_teardown(f, begin_good, end_good)

/* hmm_evict() */
static void evict_refuses(void **state)
{
	struct world *w = *state;

	refuses_ranges(hmm_evict(w->mm, start, end), -EINVAL);
	assert_int_equal(hmm_evict(NULL, lo, hi), -EINVAL);
}

/* hmm_residency() */
static void residency_refuses(void **state)
{
	struct world *w = *state;

	memset(places, 0xaa, sizeof(places));
	refuses_ranges(hmm_residency(w->mm, start, end, places), -EINVAL);
	assert_int_equal(hmm_residency(NULL, lo, hi, places), -EINVAL);
	assert_int_equal(hmm_residency(w->mm, lo, hi, NULL), -EINVAL);
	for (size_t i = 0; i < sizeof(places); i++)
		assert_int_equal(places[i], 0xaa);
}

static int fault(struct hmm_mm *mm, uintptr_t start, uintptr_t end, bool wait)
{
	struct hmm_range range = { .size = sizeof(range), .start = start, .end = end,
				   .pfns = arrays[0], .default_flags = HMM_PFN_REQ_FAULT };

	return wait ? hmm_range_fault_wait(mm, &range, 10) : hmm_range_fault(mm, &range);
}

/* hmm_range_fault() and hmm_range_fault_wait() */
static void range_fault_refuses(void **state)
{
	struct world *w = *state;
	struct {
		struct hmm_range range;
		uint64_t tail[2];
	} r = { .range = { .start = lo, .end = hi, .pfns = arrays[0] } };

	refuses_ranges(fault(w->mm, start, end, false), -EINVAL);
	refuses_ranges(fault(w->mm, start, end, true), -EINVAL);
	assert_int_equal(fault(NULL, lo, hi, false), -EINVAL);
	assert_int_equal(fault(NULL, lo, hi, true), -EINVAL);
	assert_int_equal(hmm_range_fault(w->mm, NULL), -EINVAL);
	assert_int_equal(hmm_range_fault_wait(w->mm, NULL, 1), -EINVAL);
	assert_int_equal(hmm_range_fault(w->mm, &r.range), -EINVAL);	/* size not set */
	r.range.size = sizeof(r);
	assert_int_equal(hmm_range_fault(w->mm, &r.range), 0);
	r.tail[1] = 1;
	assert_int_equal(hmm_range_fault(w->mm, &r.range), -E2BIG);
	assert_int_equal(hmm_range_fault_wait(w->mm, &r.range, 1), -E2BIG);
	r.range.size = sizeof(r.range);
	r.range.pfns = NULL;
	assert_int_equal(hmm_range_fault(w->mm, &r.range), -EINVAL);
}

/* Requests that are none: other bits of default_flags or of the mask. */
static void range_fault_refuses_unknown_requests(void **state)
{
	struct world *w = *state;
	struct hmm_range range = { .size = sizeof(range), .start = lo, .end = hi,
				   .pfns = arrays[0], .default_flags = 1 };

	memset(arrays[0], 0, sizeof(arrays[0]));
	assert_int_equal(hmm_range_fault(w->mm, &range), -EINVAL);
	range.default_flags = HMM_PFN_ERROR;
	assert_int_equal(hmm_range_fault(w->mm, &range), -EINVAL);
}

/* hmm_copy_from_user() and hmm_copy_to_user() */
static void guarded_copies_refuse(void **state)
{
	struct world *w = *state;
	char buf[16];

	assert_int_equal(hmm_copy_from_user(NULL, buf, lo, 1), -EINVAL);
	assert_int_equal(hmm_copy_to_user(NULL, lo, buf, 1), -EINVAL);
	assert_int_equal(hmm_copy_from_user(w->mm, NULL, hi - page, 1), -EINVAL);
	assert_int_equal(hmm_copy_to_user(w->mm, hi - page, NULL, 1), -EINVAL);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, lo, SIZE_MAX), -EINVAL);
	assert_int_equal(hmm_copy_to_user(w->mm, UINTPTR_MAX - 4, buf, 16), -EINVAL);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, 0, 1), -EFAULT);
	assert_int_equal(hmm_copy_to_user(w->mm, 0, buf, 1), -EFAULT);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, hmm_user_end(), 16), -EFAULT);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, UINTPTR_MAX - 64, 16), -EFAULT);
	assert_int_equal(hmm_copy_to_user(w->mm, UINTPTR_MAX - 64, buf, 16), -EFAULT);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, hi - page, 0), 0);
}

static void quiet(struct hmm_notifier *n, const struct hmm_event *e, uint64_t seq, void *ctx)
{
	(void)n;
	(void)e;
	(void)seq;
	(void)ctx;
}

/* hmm_notifier_insert() and hmm_notifier_remove() */
static void notifier_insert_refuses(void **state)
{
	struct world *w = *state;
	struct {
		struct hmm_notifier_ops ops;
		uint64_t tail[2];
	} o = { .ops = { .size = sizeof(struct hmm_notifier_ops), .invalidate = quiet } };
	struct hmm_notifier *n = (void *)1;

	assert_int_equal(hmm_notifier_insert(NULL, lo, hi, &o.ops, NULL, &n), -EINVAL);
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi, NULL, NULL, &n), -EINVAL);
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi, &o.ops, NULL, NULL), -EINVAL);
	assert_int_equal(hmm_notifier_insert(w->mm, lo, lo, &o.ops, NULL, &n), -EINVAL);
	assert_int_equal(hmm_notifier_insert(w->mm, hi, lo, &o.ops, NULL, &n), -EINVAL);
	assert_int_equal(hmm_notifier_insert(w->mm, lo + 1, hi, &o.ops, NULL, &n), -EINVAL);
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi - 1, &o.ops, NULL, &n), -EINVAL);
	o.ops.size = 0;
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi, &o.ops, NULL, &n), -EINVAL);
	o.ops.size = sizeof(o.ops);
	o.ops.invalidate = NULL;
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi, &o.ops, NULL, &n), -EINVAL);
	o.ops.invalidate = quiet;
	o.ops.size = sizeof(o);
	o.tail[0] = 1;
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi, &o.ops, NULL, &n), -E2BIG);
	assert_ptr_equal(n, (void *)1);
	o.tail[0] = 0;
	assert_int_equal(hmm_notifier_insert(w->mm, lo, hi, &o.ops, NULL, &n), 0);
	assert_int_equal(hmm_notifier_remove(n), 0);
	assert_int_equal(hmm_notifier_remove(NULL), 0);
}

/* A subscription to all of user space hears everything in it. */
static void notifier_of_the_whole_address_space(void **state)
{
	struct world *w = *state;
	struct heard *h = listen_to(w, (void *)0, (void *)hmm_user_end());
	unsigned char *p = map_filled(2, 2);

	to_device(w, w->other, p, 2);
	assert_true(heard_event(h, HMM_EVENT_MIGRATE, world_owner_b, p, p + 2 * page));
	listen_end(h);
	munmap(p, 2 * page);
}

static int setup(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct hmm_migrate m = { .size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = start,
				 .end = end, .src = arrays[0], .dst = arrays[1] };

	return hmm_migrate_setup(mm, &m);
}

/* hmm_migrate_setup() */
static void migrate_setup_refuses(void **state)
{
	struct world *w = *state;
	struct {
		struct hmm_migrate m;
		uint64_t tail[2];
	} o = { .m = { .size = sizeof(struct hmm_migrate), .flags = HMM_MIGRATE_SYSTEM,
		       .start = lo, .end = hi, .src = arrays[0], .dst = arrays[1] } };
	unsigned char *big = map_pages(HMM_MIGRATE_MAX_PAGES + 1, RW, 0);
	struct hmm_migrate m;

	refuses_ranges(setup(w->mm, start, end), -EINVAL);
	assert_int_equal(setup(NULL, lo, hi), -EINVAL);
	assert_int_equal(hmm_migrate_setup(w->mm, NULL), -EINVAL);
	assert_int_equal(setup(w->mm, (uintptr_t)big,
			       (uintptr_t)big + (HMM_MIGRATE_MAX_PAGES + 1) * page), -EINVAL);
	m = o.m;
	m.flags = 0;
	assert_int_equal(hmm_migrate_setup(w->mm, &m), -EINVAL);
	m = o.m;
	m.flags = HMM_MIGRATE_KEEP_HOLES;	/* of nothing */
	assert_int_equal(hmm_migrate_setup(w->mm, &m), -EINVAL);
	m = o.m;
	m.flags |= 1ULL << 20;
	assert_int_equal(hmm_migrate_setup(w->mm, &m), -EINVAL);
	m = o.m;
	m.src = NULL;
	assert_int_equal(hmm_migrate_setup(w->mm, &m), -EINVAL);
	m = o.m;
	m.dst = NULL;
	assert_int_equal(hmm_migrate_setup(w->mm, &m), -EINVAL);
	m = o.m;
	m.size = 0;
	assert_int_equal(hmm_migrate_setup(w->mm, &m), -EINVAL);
	o.m.size = sizeof(o);
	o.tail[1] = 7;
	assert_int_equal(hmm_migrate_setup(w->mm, &o.m), -E2BIG);
	munmap(big, (HMM_MIGRATE_MAX_PAGES + 1) * page);
}

/* Steps of a migration without the step before them do nothing. */
static void migrate_steps_without_setup(void **state)
{
	struct world *w = *state;
	struct hmm_migrate m = { .size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = lo,
				 .end = hi, .src = arrays[0], .dst = arrays[1] };

	memset(arrays, 0, sizeof(arrays));
	assert_int_equal(hmm_migrate_copy(NULL, &m), -EINVAL);
	assert_int_equal(hmm_migrate_copy(w->mm, NULL), -EINVAL);
	assert_int_equal(hmm_migrate_copy(w->mm, &m), -EINVAL);
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	hmm_migrate_pages(w->mm, NULL);
	hmm_migrate_finalize(NULL, NULL);
}

/* hmm_migrate_to_device() */
static void migrate_to_device_refuses(void **state)
{
	struct world *w = *state;
	struct hmm_devmem *d = w->other->devmem;

	refuses_ranges(hmm_migrate_to_device(w->mm, d, start, end, HMM_MIGRATE_SYSTEM, NULL),
		       -EINVAL);
	assert_int_equal(hmm_migrate_to_device(NULL, d, lo, hi, HMM_MIGRATE_SYSTEM, NULL),
			 -EINVAL);
	assert_int_equal(hmm_migrate_to_device(w->mm, NULL, lo, hi, HMM_MIGRATE_SYSTEM, NULL),
			 -EINVAL);
	assert_int_equal(hmm_migrate_to_device(w->mm, d, lo, hi, 0, NULL), -EINVAL);
	assert_int_equal(hmm_migrate_to_device(w->mm, d, lo, hi, 1ULL << 9, NULL), -EINVAL);
	assert_int_equal(testdev_used(w->other), 0);
}

/* hmm_exclusive_begin() and hmm_exclusive_end() */
static void exclusive_refuses(void **state)
{
	struct world *w = *state;

	refuses_ranges(hmm_exclusive_begin(w->mm, start, end, world_owner_a, contents), -EINVAL);
	refuses_ranges(hmm_exclusive_end(w->mm, start, end), -EINVAL);
	assert_int_equal(hmm_exclusive_begin(NULL, lo, hi, world_owner_a, contents), -EINVAL);
	assert_int_equal(hmm_exclusive_begin(w->mm, lo, hi, NULL, contents), -EINVAL);
	assert_int_equal(hmm_exclusive_begin(w->mm, lo, hi, world_owner_a, NULL), -EINVAL);
	assert_int_equal(hmm_exclusive_begin(w->mm, lo, lo + 513 * page, world_owner_a, contents),
			 -EINVAL);
	assert_int_equal(hmm_exclusive_end(NULL, lo, hi), -EINVAL);
	assert_int_equal(moved(w, exclusive_begun), 0);
}

/* hmm_devmem_*() of no device */
static void devmem_calls_refuse_null(void **state)
{
	uintptr_t addr = 1;

	(void)state;
	assert_int_equal(hmm_devmem_remove(NULL), 0);
	assert_int_equal(hmm_devmem_lookup(NULL, 0, &addr), -EINVAL);
	assert_int_equal(hmm_devmem_evict(NULL, 0, 1), -EINVAL);
	assert_int_equal(hmm_devmem_poison(NULL, 0, 1), -EINVAL);
	assert_int_equal(addr, 1);
}

/* A device is opened by a table of options, and closed once. */
static void device_open_refuses(void **state)
{
	struct world *w = *state;
	struct hmm_device device;

	assert_int_equal(hmm_device_open(NULL, hmm_soft_plugin(), NULL, &device), -EINVAL);
	assert_int_equal(hmm_device_open(w->mm, NULL, NULL, &device), -EINVAL);
	assert_int_equal(hmm_device_open(w->mm, hmm_soft_plugin(), NULL, NULL), -EINVAL);
	assert_int_equal(hmm_device_open(w->mm, hmm_soft_plugin(), "lanes=65", &device), -EINVAL);
	assert_string_equal(device.said, "soft: lanes must be: 0 to 64");
	assert_int_equal(hmm_device_close(&device), 0);
	assert_int_equal(hmm_device_open(w->mm, hmm_soft_plugin(), "fault_around=3", &device),
			 -EINVAL);
	assert_string_equal(device.said, "soft: fault_around must be a power of two");
	assert_int_equal(hmm_device_open(w->mm, hmm_soft_plugin(), "mem=1M,lanes=1", &device), 0);
	assert_non_null(device.devmem);
	assert_int_equal(hmm_device_close(&device), 0);
	assert_int_equal(hmm_device_close(&device), 0);
	assert_int_equal(hmm_device_close(NULL), -EINVAL);
}

/* Less than a page of memory is one, however large they are, and not the default. */
static void device_memory_is_whole_pages(void **state)
{
	HMM_OPTS(hmm_soft_stats, stats);
	struct world *w = *state;
	struct hmm_device device;

	assert_int_equal(hmm_device_open(w->mm, hmm_soft_plugin(), "mem=4097,lanes=1", &device), 0);
	assert_int_equal(hmm_soft_stats(device.ctx, &stats), 0);
	assert_int_equal(stats.mem_bytes, (4097 + page - 1) & ~(page - 1));
	assert_int_equal(hmm_device_close(&device), 0);
}

/* Ranges that are well formed but have nothing mapped in them are no error. */
static void unmapped_ranges_are_empty(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);
	uintptr_t start = (uintptr_t)p, end = start + NR * page;
	uint64_t reasons[HMM_REASONS] = { 0 };

	munmap(p, NR * page);
	assert_int_equal(hmm_evict(w->mm, start, end), 0);
	assert_int_equal(hmm_residency(w->mm, start, end, places), 0);
	assert_int_equal(places[0], HMM_PLACE_GAP);
	assert_int_equal(hmm_exclusive_begin(w->mm, start, end, world_owner_a, contents), -EFAULT);
	assert_int_equal(hmm_exclusive_end(w->mm, start, end), 0);
	assert_int_equal(hmm_migrate_to_device(w->mm, w->other->devmem, start, end,
					       HMM_MIGRATE_SYSTEM, reasons), 0);
	assert_int_equal(reasons[HMM_REASON_GAP], NR);
	assert_int_equal(hmm_evict(w->mm, page, hmm_user_end()) >= NR / 2, 1);
	to_device(w, w->dev, good, NR / 2);
	w->start = stats_now(w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		good_test(evict_refuses),
		good_test(residency_refuses),
		good_test(range_fault_refuses),
		good_test(range_fault_refuses_unknown_requests),
		good_test(guarded_copies_refuse),
		good_test(notifier_insert_refuses),
		good_test(notifier_of_the_whole_address_space),
		good_test(migrate_setup_refuses),
		good_test(migrate_steps_without_setup),
		good_test(migrate_to_device_refuses),
		good_test(exclusive_refuses),
		good_test(devmem_calls_refuse_null),
		good_test(device_open_refuses),
		good_test(device_memory_is_whole_pages),
		good_test(unmapped_ranges_are_empty),
	};

	need_mm();
	return cmocka_run_group_tests_name("badinput", tests, world_begin, world_end);
}
