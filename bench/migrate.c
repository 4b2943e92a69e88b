/* SPDX-License-Identifier: MIT */
/*
 * What does it cost to move memory to a device and back, against copying it?
 *
 * Each way copies every byte once, so the floor is memcpy of the same pieces between
 * two areas of the same size. Expected: near memcpy for 2 MiB runs, where what is
 * done per call disappears; far below it for single pages, where it is everything.
 * Areas are large enough that their bytes come from memory, also in a quick run.
 */
#include <errno.h>
#include <string.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "migrate_to_device", "GB/s", "memcpy 2 MiB", BENCH_MORE, BENCH_RATIO, 0.75 },
	{ "migrate_to_system", "GB/s", "memcpy 2 MiB", BENCH_MORE, BENCH_RATIO, 0.75 },
	{ "migrate_to_device_64k", "GB/s", "memcpy 64 KiB", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_system_64k", "GB/s", "memcpy 64 KiB", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_device_4k", "GB/s", "memcpy 4 KiB", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_system_4k", "GB/s", "memcpy 4 KiB", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_device_thp", "GB/s", "memcpy 2 MiB of THP", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_system_thp", "GB/s", "memcpy 2 MiB of THP", BENCH_MORE, BENCH_OPEN, 0 },
};

struct migrate {
	struct bench_device device;
	struct bench_area area, from, to;
	size_t piece;
};

static int take_memcpy(void *ctx, struct bench_samples *samples)
{
	struct migrate *m = ctx;
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < m->area.len; at += m->piece)
		memcpy(m->to.base + at, m->from.base + at, m->piece);
	bench_samples_add(samples, bench_gb_per_s(m->area.len, bench_now_ns() - start));
	return 0;
}

static int take_in(void *ctx, struct bench_samples *samples)
{
	struct migrate *m = ctx;
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < m->area.len; at += m->piece) {
		int ret = bench_move_in(&m->device, m->area.base + at, m->piece);

		if (ret)
			return ret;
	}
	bench_samples_add(samples, bench_gb_per_s(m->area.len, bench_now_ns() - start));
	return 0;
}

static int take_out(void *ctx, struct bench_samples *samples)
{
	struct migrate *m = ctx;
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < m->area.len; at += m->piece) {
		int ret = bench_move_out(&m->device, m->area.base + at, m->piece);

		if (ret)
			return ret;
	}
	bench_samples_add(samples, bench_gb_per_s(m->area.len, bench_now_ns() - start));
	return 0;
}

static int measure(struct bench_run *run, struct migrate *m, const char *in, const char *out)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.7), .warmup = 2, .min_rounds = 3,
	};
	struct bench_turn turns[] = {
		{ .take = take_memcpy, .ctx = m },
		{ .take = take_in, .ctx = m },
		{ .take = take_out, .ctx = m },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret && !bench_area_intact(&m->area))
		ret = -EIO;
	if (!ret) {
		double floor_value = bench_quantile(&turns[0].samples, 0.5);

		bench_report(run, in, bench_quantile(&turns[1].samples, 0.5), floor_value);
		bench_report(run, out, bench_quantile(&turns[2].samples, 0.5), floor_value);
	}
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int measure_size(struct bench_run *run, size_t len, size_t piece, bool huge,
			const char *in, const char *out)
{
	struct migrate m = { .piece = piece };
	int ret, close_ret;

	if (!bench_wanted(run, in) && !bench_wanted(run, out))
		return 0;
	ret = bench_area_map(&m.area, len, huge);
	if (!ret)
		ret = bench_area_map(&m.from, len, huge);
	if (!ret)
		ret = bench_area_map(&m.to, len, huge);
	if (!ret)
		ret = bench_device_open(&m.device, len, 0);
	if (!ret) {
		ret = measure(run, &m, in, out);
		close_ret = bench_device_close(&m.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&m.to);
	bench_area_unmap(&m.from);
	bench_area_unmap(&m.area);
	return ret;
}

static int run_migrate(struct bench_run *run)
{
	size_t large = 64 * MIB, small = 16 * MIB;
	int ret;

	ret = measure_size(run, large, 2 * MIB, false, "migrate_to_device", "migrate_to_system");
	if (!ret)
		ret = measure_size(run, small, 64 * KIB, false,
				   "migrate_to_device_64k", "migrate_to_system_64k");
	if (!ret)
		ret = measure_size(run, small, hmm_page_size(), false,
				   "migrate_to_device_4k", "migrate_to_system_4k");
	if (!ret)
		ret = measure_size(run, large, 2 * MIB, true,
				   "migrate_to_device_thp", "migrate_to_system_thp");
	return ret;
}

const struct bench bench_migrate = {
	.name = "migrate", .lines = lines, .nr_lines = COUNT(lines), .run = run_migrate,
};
