/* SPDX-License-Identifier: MIT */
/*
 * What does the device pay for reaching memory through its own page table?
 *
 * device_load: loads of 8 bytes at addresses known in advance, all hits of the lane's
 * TLB and of the CPU's first cache; device_chase: each address comes out of the load
 * before, so that nothing of the look-up is hidden. device_span, device_read: bulk.
 * The floors are the same loops on plain memory, run by the same lane.
 */
#include <errno.h>
#include <string.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "device_load", "ns", "plain load", BENCH_LESS, BENCH_ABOVE_FLOOR, 2 },
	{ "device_chase", "ns", "plain pointer chase", BENCH_LESS, BENCH_OPEN, 0 },
	{ "device_span", "GB/s", "memcpy", BENCH_MORE, BENCH_RATIO, 0.9 },
	{ "device_read", "GB/s", "memcpy", BENCH_MORE, BENCH_OPEN, 0 },
};

#define LOADS	200000u
#define SLOTS	512u		/* one cache line each: 32 KiB, 8 pages */
#define LINE	64u

struct device {
	struct bench_device device;
	struct bench_area area, plain, to;
	uint32_t order[SLOTS];
	uint64_t ns;
	uint64_t sum;
};

static void kernel_load(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	const unsigned char *base = d->area.base;
	uint64_t start = bench_now_ns(), sum = item;

	for (uint32_t i = 0; i < LOADS; i++)
		sum += hmm_lane_load(lane, base + d->order[i % SLOTS] * LINE, 8);
	d->ns = bench_now_ns() - start;
	d->sum = sum;
}

static void kernel_plain_load(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	const unsigned char *base = d->plain.base;
	uint64_t start = bench_now_ns(), sum = item;

	(void)lane;
	for (uint32_t i = 0; i < LOADS; i++)
		sum += *(const volatile uint64_t *)(base + d->order[i % SLOTS] * LINE);
	d->ns = bench_now_ns() - start;
	d->sum = sum;
}

static void kernel_chase(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	uint64_t at = (uintptr_t)d->area.base + item, start = bench_now_ns();

	for (uint32_t i = 0; i < LOADS; i++)
		at = hmm_lane_load(lane, (const void *)(uintptr_t)at, 8);
	d->ns = bench_now_ns() - start;
	d->sum = at - (uintptr_t)d->area.base;
}

static void kernel_plain_chase(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	uint64_t at = (uintptr_t)d->plain.base + item, start = bench_now_ns();

	(void)lane;
	for (uint32_t i = 0; i < LOADS; i++)
		at = *(const volatile uint64_t *)(uintptr_t)at;
	d->ns = bench_now_ns() - start;
	d->sum = at - (uintptr_t)d->plain.base;
}

static void copy_piece(void *piece, size_t len, void *ctx)
{
	unsigned char **to = ctx;

	memcpy(*to, piece, len);
	*to += len;
}

static void kernel_span(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	unsigned char *to = d->to.base + item;
	uint64_t start = bench_now_ns();

	hmm_lane_span(lane, d->area.base, d->area.len, HMM_SOFT_READ, copy_piece, &to);
	d->ns = bench_now_ns() - start;
}

static void kernel_read(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	uint64_t start = bench_now_ns();

	hmm_lane_read(lane, d->to.base + item, d->area.base, d->area.len);
	d->ns = bench_now_ns() - start;
}

static void kernel_memcpy(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct device *d = arg;
	uint64_t start = bench_now_ns();

	(void)lane;
	memcpy(d->to.base + item, d->plain.base, d->plain.len);
	d->ns = bench_now_ns() - start;
}

static int take_loads(struct device *d, hmm_soft_kernel kernel, struct bench_samples *samples)
{
	int ret = hmm_soft_run(d->device.soft, kernel, 1, d, NULL);

	bench_samples_add(samples, (double)d->ns / LOADS);
	return ret;
}

static int take_load(void *ctx, struct bench_samples *samples)
{
	return take_loads(ctx, kernel_load, samples);
}

static int take_plain_load(void *ctx, struct bench_samples *samples)
{
	return take_loads(ctx, kernel_plain_load, samples);
}

/* Both chases walk the same cycle: they must end at the same place of it. */
static int take_chase(void *ctx, struct bench_samples *samples)
{
	struct device *d = ctx;
	uint64_t plain_end = d->sum;
	int ret = take_loads(d, kernel_chase, samples);

	return ret ? ret : d->sum == plain_end ? 0 : -EIO;
}

static int take_plain_chase(void *ctx, struct bench_samples *samples)
{
	return take_loads(ctx, kernel_plain_chase, samples);
}

static int take_bulk(struct device *d, hmm_soft_kernel kernel, struct bench_samples *samples)
{
	int ret = hmm_soft_run(d->device.soft, kernel, 1, d, NULL);

	bench_samples_add(samples, bench_gb_per_s(d->area.len, d->ns));
	return ret;
}

static int take_span(void *ctx, struct bench_samples *samples)
{
	return take_bulk(ctx, kernel_span, samples);
}

static int take_read(void *ctx, struct bench_samples *samples)
{
	return take_bulk(ctx, kernel_read, samples);
}

static int take_memcpy(void *ctx, struct bench_samples *samples)
{
	return take_bulk(ctx, kernel_memcpy, samples);
}

/* A cycle through all slots, in the order that the independent loads use. */
static void lay_chain(const struct device *d, const struct bench_area *area)
{
	for (uint32_t i = 0; i < SLOTS; i++) {
		uintptr_t next = (uintptr_t)area->base + d->order[(i + 1) % SLOTS] * LINE;

		memcpy(area->base + d->order[i] * LINE, &next, sizeof(next));
	}
}

static int compare(struct bench_run *run, struct device *d, const char *name,
		   int (*floor_take)(void *, struct bench_samples *),
		   int (*take)(void *, struct bench_samples *))
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.4), .warmup = 2, .min_rounds = 5,
	};
	struct bench_turn turns[] = {
		{ .take = floor_take, .ctx = d },
		{ .take = take, .ctx = d },
	};
	int ret;

	if (!bench_wanted(run, name))
		return 0;
	ret = bench_rounds(turns, COUNT(turns), &limits);
	if (!ret)
		bench_report(run, name, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int measure(struct bench_run *run, struct device *d)
{
	int ret = bench_move_in(&d->device, d->area.base, d->area.len);

	if (!ret)
		ret = compare(run, d, "device_load", take_plain_load, take_load);
	if (!ret)
		ret = compare(run, d, "device_chase", take_plain_chase, take_chase);
	if (!ret)
		ret = compare(run, d, "device_span", take_memcpy, take_span);
	if (!ret)
		ret = compare(run, d, "device_read", take_memcpy, take_read);
	if (!ret && memcmp(d->to.base + 2 * MIB, d->plain.base + 2 * MIB, d->to.len - 2 * MIB))
		ret = -EIO;
	return ret;
}

static int run_device(struct bench_run *run)
{
	struct device d = { 0 };
	size_t len = 32 * MIB;
	int ret, close_ret;

	bench_shuffle(d.order, SLOTS);
	ret = bench_area_map(&d.area, len, false);
	if (!ret)
		ret = bench_area_map(&d.plain, len, false);
	if (!ret)
		ret = bench_area_map(&d.to, len, false);
	if (!ret)
		ret = bench_device_open(&d.device, len, 0);
	if (!ret) {
		lay_chain(&d, &d.area);
		lay_chain(&d, &d.plain);
		ret = measure(run, &d);
		close_ret = bench_device_close(&d.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&d.to);
	bench_area_unmap(&d.plain);
	bench_area_unmap(&d.area);
	return ret;
}

const struct bench bench_device = {
	.name = "device", .lines = lines, .nr_lines = COUNT(lines), .run = run_device,
};
