/* SPDX-License-Identifier: MIT */
/* The bench harness sees what it is for: a slower measurement has a lower ratio. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* Compiled in: the test is there also where the benches are not built. */
#include "../../bench/harness.c"

static const struct bench_line us_line = {
	.name = "spin", .unit = "us", .floor = "spin", .better = BENCH_LESS,
	.budget = BENCH_RATIO, .limit = 0.75,
};

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

/* Busy for *ctx microseconds. */
static int take_spin(void *ctx, struct bench_samples *samples)
{
	const double *us = ctx;
	double start = now_us();

	while (now_us() - start < *us)
		;
	bench_samples_add(samples, now_us() - start);
	return 0;
}

static double spin_ratio(double floor_us, double us, double q)
{
	struct bench_limits limits = {
		.seconds = 10, .warmup = 2, .min_rounds = 101, .max_rounds = 101,
	};
	struct bench_turn turns[] = {
		{ .take = take_spin, .ctx = &floor_us },
		{ .take = take_spin, .ctx = &us },
	};
	double ratio;

	assert_int_equal(bench_rounds(turns, 2, &limits), 0);
	assert_int_equal(turns[0].samples.nr, 101);
	assert_int_equal(turns[1].samples.nr, 101);
	ratio = bench_ratio(&us_line, bench_quantile(&turns[1].samples, q),
			    bench_quantile(&turns[0].samples, q));
	bench_turns_free(turns, 2);
	return ratio;
}

/* A path made twice as slow on purpose is at half of its former ratio, and a MISS. */
static void slowed_path_lowers_ratio(void **state)
{
	double equal, slowed;

	(void)state;
	equal = spin_ratio(200, 200, 0.5);
	slowed = spin_ratio(200, 400, 0.5);

	assert_true(equal > 0.9 && equal < 1.1);
	assert_true(slowed > 0.4 && slowed < 0.6);
	assert_true(bench_ok(&us_line, 200 / equal, 200));
	assert_false(bench_ok(&us_line, 200 / slowed, 200));
}

struct log {
	char order[32];
	size_t nr;
};

static int take_a(void *ctx, struct bench_samples *samples)
{
	struct log *log = ctx;

	log->order[log->nr++] = 'a';
	bench_samples_add(samples, (double)log->nr);
	return 0;
}

static int take_b(void *ctx, struct bench_samples *samples)
{
	struct log *log = ctx;

	log->order[log->nr++] = 'b';
	bench_samples_add(samples, (double)log->nr);
	return log->nr == 12 ? -EIO : 0;
}

/* Floor and measurement take turns; what was taken to warm up is thrown away. */
static void turns_alternate_after_warmup(void **state)
{
	struct bench_limits limits = { .warmup = 2, .min_rounds = 3 };
	struct log log = { .nr = 0 };
	struct bench_turn turns[] = {
		{ .take = take_a, .ctx = &log },
		{ .take = take_b, .ctx = &log },
	};

	(void)state;
	assert_int_equal(bench_rounds(turns, 2, &limits), 0);
	assert_string_equal(log.order, "ababababab");
	assert_int_equal(turns[0].samples.nr, 3);
	assert_true(turns[0].samples.values[0] == 5);
	bench_turns_free(turns, 2);
}

/* A measurement that fails ends the rounds with its error. */
static void failing_turn_ends_rounds(void **state)
{
	struct bench_limits limits = { .min_rounds = 100 };
	struct log log = { .nr = 0 };
	struct bench_turn turns[] = {
		{ .take = take_a, .ctx = &log },
		{ .take = take_b, .ctx = &log },
	};

	(void)state;
	assert_int_equal(bench_rounds(turns, 2, &limits), -EIO);
	assert_int_equal(log.nr, 12);
	bench_turns_free(turns, 2);
}

/* A quantile is a sample: the least that the asked share does not exceed. */
static void quantiles_are_samples(void **state)
{
	struct bench_samples samples;

	(void)state;
	assert_int_equal(bench_samples_init(&samples, 100), 0);
	assert_true(bench_quantile(&samples, 0.5) == 0);
	for (int i = 100; i > 0; i--)
		bench_samples_add(&samples, i);
	bench_samples_add(&samples, 1e9);	/* no room: dropped */
	assert_int_equal(samples.nr, 100);
	assert_true(bench_quantile(&samples, 0) == 1);
	assert_true(bench_quantile(&samples, 0.5) == 50);
	assert_true(bench_quantile(&samples, 0.99) == 99);
	assert_true(bench_quantile(&samples, 1) == 100);
	bench_samples_free(&samples);
}

static bool near(double a, double b)
{
	return a - b < 1e-9 && b - a < 1e-9;
}

/* Larger is better in every ratio, and every kind of budget is such a ratio. */
static void ratios_and_budgets_agree(void **state)
{
	struct bench_line line = us_line;

	(void)state;
	assert_true(near(bench_ratio(&line, 20, 10), 0.5));
	assert_true(near(bench_ratio(&line, 0, 10), 0));

	line.better = BENCH_MORE;
	assert_true(near(bench_ratio(&line, 20, 10), 2));
	assert_true(bench_ok(&line, 7.5, 10));
	assert_false(bench_ok(&line, 7.4, 10));

	line.better = BENCH_LESS;
	line.budget = BENCH_AT_MOST;
	line.limit = 300;
	assert_true(near(bench_budget_ratio(&line, 150), 0.5));
	assert_true(bench_ok(&line, 299, 150));
	assert_false(bench_ok(&line, 301, 150));

	line.budget = BENCH_ABOVE_FLOOR;
	line.limit = 2;
	assert_true(near(bench_budget_ratio(&line, 2), 0.5));
	assert_true(bench_ok(&line, 3.9, 2));
	assert_false(bench_ok(&line, 4.1, 2));

	line.budget = BENCH_OPEN;
	assert_true(bench_ok(&line, 1e6, 2));
}

/* A line of JSON has the keys that interface.md promises, and nothing breaks out of it. */
static void json_is_one_line(void **state)
{
	struct bench_machine machine = { .cpu = "a \"b\" \\ c\n", .driver = "soft", .cpus = 2 };
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	assert_non_null(f);
	bench_print_json(f, &machine, &us_line, 16, 10);
	fclose(f);
	assert_non_null(strstr(text, "{\"name\": \"spin\", \"unit\": \"us\", \"value\": 16, "
			       "\"floor\": \"spin\", \"floor_value\": 10, \"ratio\": 0.625, "
			       "\"budget\": 0.75, \"ok\": false, "));
	assert_non_null(strstr(text, "\"cpu\": \"a \\\"b\\\" \\\\ c\\u000a\""));
	assert_ptr_equal(strchr(text, '\n'), text + len - 1);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slowed_path_lowers_ratio),
		cmocka_unit_test(turns_alternate_after_warmup),
		cmocka_unit_test(failing_turn_ends_rounds),
		cmocka_unit_test(quantiles_are_samples),
		cmocka_unit_test(ratios_and_budgets_agree),
		cmocka_unit_test(json_is_one_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
