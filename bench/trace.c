/* SPDX-License-Identifier: MIT */
/*
 * What does `uhmm run --trace` cost a program that does nothing but fault?
 *
 * One device page after the other, in random order, with the trace's ring, writer and
 * file (which throws away what it gets) and without, by turns. Two events a page: the
 * fault and the page that came home, and a third, since the device mirrors the range.
 * Their text is written by another thread, which this machine may run on another CPU. A
 * program that also computes pays less: promised is 2 % of its time.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "bench.h"
#include "monitor/trace.h"

static const struct bench_line lines[] = {
	{ "trace_fault", "us", "the same fault, not traced", BENCH_LESS, BENCH_RATIO, 0.9 },
};

struct traced {
	struct bench_device device;
	struct bench_area area;
	struct trace *trace;
	uint32_t order[2048];
	uint32_t nr_pages;
};

/* The mean of all pages: an event that is late is not lost in a quantile. */
static int touch_all(const struct traced *t, struct bench_samples *samples)
{
	const size_t page = hmm_page_size();
	const uint64_t start = bench_now_ns();

	for (uint32_t i = 0; i < t->nr_pages; i++)
		if (*(volatile uint64_t *)(t->area.base + t->order[i] * page) != t->order[i])
			return -EIO;
	bench_samples_add(samples, (double)(bench_now_ns() - start) / 1e3 / t->nr_pages);
	return 0;
}

static int take_plain(void *ctx, struct bench_samples *samples)
{
	struct traced *t = ctx;
	int ret = bench_move_in(&t->device, t->area.base, t->area.len);

	return ret ? ret : touch_all(t, samples);
}

static int take_traced(void *ctx, struct bench_samples *samples)
{
	struct traced *t = ctx;
	int ret = bench_move_in(&t->device, t->area.base, t->area.len);

	if (!ret)
		ret = hmm_trace_start(t->device.mm, trace_hear, t->trace);
	if (ret)
		return ret;
	ret = touch_all(t, samples);
	hmm_trace_stop(t->device.mm);
	return ret;
}

static int measure(struct bench_run *run, struct traced *t)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 2), .warmup = 2, .min_rounds = 4,
	};
	struct bench_turn turns[] = {
		{ .take = take_plain, .ctx = t },
		{ .take = take_traced, .ctx = t },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret)
		bench_report(run, "trace_fault", bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int with_trace(struct bench_run *run, struct traced *t)
{
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 ? -EIO : trace_open(fd, &t->trace);

	if (!ret)
		ret = trace_start(t->trace);
	if (!ret)
		ret = measure(run, t);
	trace_close(t->trace);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int run_trace(struct bench_run *run)
{
	struct traced t = { .nr_pages = COUNT(t.order) };
	const size_t len = t.nr_pages * hmm_page_size();
	int ret, close_ret;

	bench_shuffle(t.order, t.nr_pages);
	ret = bench_area_map(&t.area, len, false);
	if (!ret)
		ret = bench_device_open(&t.device, len, 1);
	if (!ret) {
		ret = with_trace(run, &t);
		close_ret = bench_device_close(&t.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&t.area);
	return ret;
}

const struct bench bench_trace = {
	.name = "trace", .lines = lines, .nr_lines = COUNT(lines), .run = run_trace,
};
