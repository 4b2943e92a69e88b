/* SPDX-License-Identifier: MIT */
/*
 * How fast does a CPU read through memory that is on the device?
 *
 * The program is not told: it copies the area with memcpy, front to back, and each
 * page comes home at its fault, with as many neighbours as the driver's default
 * pattern detection brings. The floor is the same memcpy of memory that is there.
 */
#include <errno.h>
#include <string.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "cpu_stream", "GB/s", "memcpy", BENCH_MORE, BENCH_RATIO, 0.5 },
};

#define PIECE	(256 * KIB)

struct cpu_stream {
	struct bench_device device;
	struct bench_area area, from, to;
};

static void stream(const struct cpu_stream *s, const unsigned char *from,
		   struct bench_samples *samples)
{
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < s->to.len; at += PIECE)
		memcpy(s->to.base + at, from + at, PIECE);
	bench_samples_add(samples, bench_gb_per_s(s->to.len, bench_now_ns() - start));
}

static int take_memcpy(void *ctx, struct bench_samples *samples)
{
	struct cpu_stream *s = ctx;

	stream(s, s->from.base, samples);
	return 0;
}

static int take_device(void *ctx, struct bench_samples *samples)
{
	struct cpu_stream *s = ctx;
	int ret = bench_move_in(&s->device, s->area.base, s->area.len);

	if (ret)
		return ret;
	stream(s, s->area.base, samples);
	return bench_area_intact(&s->to) ? 0 : -EIO;
}

static int measure(struct bench_run *run, struct cpu_stream *s)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 1), .warmup = 2, .min_rounds = 3,
	};
	struct bench_turn turns[] = {
		{ .take = take_memcpy, .ctx = s },
		{ .take = take_device, .ctx = s },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret)
		bench_report(run, "cpu_stream", bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int run_cpu_stream(struct bench_run *run)
{
	size_t len = 64 * MIB;
	struct cpu_stream s = { 0 };
	int ret, close_ret;

	ret = bench_area_map(&s.area, len, false);
	if (!ret)
		ret = bench_area_map(&s.from, len, false);
	if (!ret)
		ret = bench_area_map(&s.to, len, false);
	if (!ret)
		ret = bench_device_open(&s.device, len, 0);
	if (!ret) {
		ret = measure(run, &s);
		close_ret = bench_device_close(&s.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&s.to);
	bench_area_unmap(&s.from);
	bench_area_unmap(&s.area);
	return ret;
}

const struct bench bench_cpu_stream = {
	.name = "cpu_stream", .lines = lines, .nr_lines = COUNT(lines), .run = run_cpu_stream,
};
