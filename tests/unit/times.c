/* SPDX-License-Identifier: MIT */
/* The logarithmic scale of times: where a time is counted, and what is told of many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/times.h"

/* Buckets follow each other without a gap, and a time is in the one that its formula says. */
static void buckets_cover_every_time(void **state)
{
	uint64_t low = 0;

	(void)state;
	for (uint32_t b = 0; b < HMM_TIMES_BUCKETS; b++) {
		uint64_t end = times_bucket_end(b);

		assert_true(low == (b < 8 ? b : (8 + (uint64_t)b % 8) << (b / 8 - 1)));
		assert_int_equal(times_bucket(low), b);
		assert_int_equal(times_bucket(end - 1), b);
		low = end;
	}
	assert_int_equal(times_bucket(UINT64_MAX), HMM_TIMES_BUCKETS - 1);
	assert_true(low == UINT64_MAX);
}

/* What is told is not below the true value, at most an eighth above it, and never above the longest. */
static void quantiles_are_near(void **state)
{
	struct hmm_times times = { .size = sizeof(times) };

	(void)state;
	assert_int_equal(hmm_times_ns(&times, 500), 0);
	assert_int_equal(hmm_times_ns(&times, 1000), 0);
	for (uint64_t us = 1; us <= 1000; us++)
		times_record(&times, us * 1000);
	assert_int_equal(times.nr, 1000);
	assert_int_equal(times.sum_ns, 500500000);
	for (uint32_t permille = 1; permille <= 1000; permille++) {
		uint64_t ns = hmm_times_ns(&times, permille), exact = permille * 1000;

		assert_true(ns >= exact && ns <= exact + exact / 8);
		assert_true(ns <= 1000000);
	}
	times_record(&times, 3000000000u);
	assert_int_equal(hmm_times_ns(&times, 1000), 3000000000u);
	assert_true(hmm_times_ns(&times, 990) < 1200000);
}

/* A sum tells what the parts would have told together. */
static void parts_add_up(void **state)
{
	struct hmm_times odd = { .size = sizeof(odd) }, even = odd, all = odd;

	(void)state;
	for (uint64_t i = 0; i < 4000; i++) {
		times_record(i % 2 ? &odd : &even, i * i);
		times_record(&all, i * i);
	}
	hmm_times_add(&odd, &even);
	assert_memory_equal(&odd, &all, sizeof(all));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_cover_every_time),
		cmocka_unit_test(quantiles_are_near),
		cmocka_unit_test(parts_add_up),
	};

	return cmocka_run_group_tests_name("times", tests, NULL, NULL);
}
