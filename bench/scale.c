/* SPDX-License-Identifier: MIT */
/*
 * Does a page cost the same in a small range and in a large one, in a program with
 * one mapping and in one with ten thousand?
 *
 * scale: the way there and back of 1 MiB up to 8 GiB (as much as RAM allows). The
 * machine itself is not flat: what was copied a moment ago is in a cache if it was
 * small, and RAM that went back to the kernel is cleared before it comes again. So each
 * size is taken as a multiple of what the machine needs for it: memcpy there and back
 * of the same slices and, for what does not fit into the RAM that an mm keeps for
 * migrations, MADV_DONTNEED and MADV_POPULATE_WRITE in between. The worst multiple is
 * set against the best. scale_1m and scale_max give the times themselves.
 * scale_vmas: 64 MiB as one mapping, against 64 MiB in 32 mappings among ten thousand
 * which all have pages away. Expected: flat, since nothing looks at more than the range.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "scale", "x", "best size", BENCH_LESS, BENCH_AT_MOST, 1.3 },
	{ "scale_1m", "ns", "the machine, per page", BENCH_LESS, BENCH_OPEN, 0 },
	{ "scale_max", "ns", "the machine, per page", BENCH_LESS, BENCH_OPEN, 0 },
	{ "scale_vmas", "ns", "one mapping, per page", BENCH_LESS, BENCH_RATIO, 1 / 1.3 },
};

#define VMA_BYTES	(2 * MIB)
#define NR_SMALL_VMAS	9968u	/* and 32 of 2 MiB: ten thousand */
#define MAX_SIZES	5
#define KEPT		(64 * MIB)	/* hmm_mm_opts.staging_bytes by default */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

struct scale {
	struct bench_device device;
	struct bench_area area, many, copy;	/* many: mappings; copy: as large as area */
	unsigned char *small;
};

struct slice {
	struct scale *scale;
	const struct bench_area *area;
	size_t len, at;
};

static double per_page(size_t len, uint64_t ns)
{
	return (double)ns / (double)(len / hmm_page_size());
}

static unsigned char *next_slice(struct slice *slice)
{
	unsigned char *base = slice->area->base + slice->at;

	slice->at += slice->len;
	if (slice->at + slice->len > slice->area->len)
		slice->at = 0;
	return base;
}

/* At least 64 MiB, so that a sample of the smallest size is no single short call. */
static int take_round_trip(void *ctx, struct bench_samples *samples)
{
	struct slice *slice = ctx;
	size_t total = slice->len > 64 * MIB ? slice->len : 64 * MIB;
	uint64_t start = bench_now_ns();

	for (size_t done = 0; done < total; done += slice->len) {
		unsigned char *base = next_slice(slice);
		int ret = bench_move_in(&slice->scale->device, base, slice->len);

		if (!ret)
			ret = bench_move_out(&slice->scale->device, base, slice->len);
		if (ret)
			return ret;
	}
	bench_samples_add(samples, per_page(total, bench_now_ns() - start));
	return 0;
}

/* To the kernel and back, as all must go that is more than one may keep. */
static int renew(unsigned char *base, size_t len)
{
	if (len <= KEPT)
		return 0;
	if (madvise(base + KEPT, len - KEPT, MADV_DONTNEED))
		return -errno;
	if (!madvise(base + KEPT, len - KEPT, MADV_POPULATE_WRITE))
		return 0;
	/* Before 5.14. */
	for (size_t at = KEPT; at < len; at += hmm_page_size())
		*(volatile unsigned char *)(base + at) = 0;
	return 0;
}

/* The same with memcpy: what was copied out is at the start of the copy, as on a device. */
static int take_memcpy(void *ctx, struct bench_samples *samples)
{
	struct slice *slice = ctx;
	size_t total = slice->len > 64 * MIB ? slice->len : 64 * MIB;
	uint64_t start = bench_now_ns();

	for (size_t done = 0; done < total; done += slice->len) {
		unsigned char *base = next_slice(slice);
		int ret;

		memcpy(slice->scale->copy.base, base, slice->len);
		ret = renew(base, slice->len);
		if (ret)
			return ret;
		memcpy(base, slice->scale->copy.base, slice->len);
	}
	bench_samples_add(samples, per_page(total, bench_now_ns() - start));
	return 0;
}

static unsigned int pick_sizes(size_t max, size_t *sizes)
{
	unsigned int nr = 0;

	for (size_t len = MIB; len < max && nr < MAX_SIZES - 1; len *= 16)
		sizes[nr++] = len;
	sizes[nr++] = max;
	return nr;
}

/* Turns come in pairs: floor, measurement. */
static void report_sizes(struct bench_run *run, struct bench_turn *turns, unsigned int nr_sizes)
{
	double floors[MAX_SIZES], costs[MAX_SIZES], best = 0, worst = 0;

	for (unsigned int i = 0; i < nr_sizes; i++) {
		double multiple;

		floors[i] = bench_quantile(&turns[2 * i].samples, 0.5);
		costs[i] = bench_quantile(&turns[2 * i + 1].samples, 0.5);
		multiple = costs[i] / floors[i];
		best = !i || multiple < best ? multiple : best;
		worst = multiple > worst ? multiple : worst;
	}
	bench_report(run, "scale", worst / best, 1);
	bench_report(run, "scale_1m", costs[0], floors[0]);
	bench_report(run, "scale_max", costs[nr_sizes - 1], floors[nr_sizes - 1]);
}

static int measure_sizes(struct bench_run *run, struct scale *s)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 3), .warmup = 1, .min_rounds = 2,
	};
	struct bench_turn turns[2 * MAX_SIZES] = { 0 };
	struct slice slices[2 * MAX_SIZES];
	size_t sizes[MAX_SIZES];
	unsigned int nr = pick_sizes(s->area.len, sizes);
	int ret;

	for (unsigned int i = 0; i < 2 * nr; i++) {
		slices[i] = (struct slice){ s, &s->area, sizes[i / 2], 0 };
		turns[i] = (struct bench_turn){
			.take = i % 2 ? take_round_trip : take_memcpy, .ctx = &slices[i],
		};
	}
	ret = bench_rounds(turns, 2 * nr, &limits);
	if (!ret)
		report_sizes(run, turns, nr);
	bench_turns_free(turns, 2 * nr);
	return ret;
}

/*
 * MADV_DONTDUMP on every other piece makes each a mapping of its own, without making
 * its pages any different to move.
 */
static int split(unsigned char *base, size_t piece, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i += 2)
		if (madvise(base + i * piece, piece, MADV_DONTDUMP))
			return -errno;
	return 0;
}

static int measure_vmas(struct bench_run *run, struct scale *s)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 1), .warmup = 1, .min_rounds = 3,
	};
	struct slice one = { s, &s->area, 64 * MIB, 0 };
	struct slice many = { s, &s->many, 64 * MIB, 0 };
	struct bench_turn turns[] = {
		{ .take = take_round_trip, .ctx = &one },
		{ .take = take_round_trip, .ctx = &many },
	};
	size_t page = hmm_page_size();
	int ret = split(s->many.base, VMA_BYTES, (unsigned int)(s->many.len / VMA_BYTES));

	if (!ret)
		ret = split(s->small, page, NR_SMALL_VMAS);
	for (unsigned int i = 0; i < NR_SMALL_VMAS && !ret; i++)
		ret = bench_move_in(&s->device, s->small + i * page, page);
	if (!ret)
		ret = bench_rounds(turns, COUNT(turns), &limits);
	if (!ret)
		bench_report(run, "scale_vmas", bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int measure(struct bench_run *run, struct scale *s)
{
	int ret = 0;

	if (bench_wanted(run, "scale") || bench_wanted(run, "scale_1m") ||
	    bench_wanted(run, "scale_max"))
		ret = measure_sizes(run, s);
	if (!ret && bench_wanted(run, "scale_vmas"))
		ret = measure_vmas(run, s);
	if (!ret && !bench_area_intact(&s->area))
		ret = -EIO;
	return ret;
}

/* There are three of this size: the area, its copy, and what is on the device. */
static size_t area_bytes(const struct bench_run *run)
{
	size_t max = bench_quick(run) ? 128 * MIB : 8 * GIB;

	while (max > 64 * MIB && max > bench_free_ram() / 8)
		max /= 2;
	return max;
}

static int run_scale(struct bench_run *run)
{
	size_t small_len = (NR_SMALL_VMAS * hmm_page_size() + VMA_BYTES - 1) & ~(VMA_BYTES - 1);
	struct bench_area small = { 0 };
	struct scale s = { 0 };
	int ret, close_ret;

	ret = bench_area_map(&s.area, area_bytes(run), false);
	if (!ret)
		ret = bench_area_map(&s.copy, s.area.len, false);
	if (!ret)
		ret = bench_area_map(&s.many, 64 * MIB, false);
	if (!ret)
		ret = bench_area_map(&small, small_len, false);
	if (!ret)
		ret = bench_device_open(&s.device, s.area.len + small_len, 0);
	if (!ret) {
		s.small = small.base;
		ret = measure(run, &s);
		close_ret = bench_device_close(&s.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&small);
	bench_area_unmap(&s.many);
	bench_area_unmap(&s.copy);
	bench_area_unmap(&s.area);
	return ret;
}

const struct bench bench_scale = {
	.name = "scale", .lines = lines, .nr_lines = COUNT(lines), .run = run_scale,
};
