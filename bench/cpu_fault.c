/* SPDX-License-Identifier: MIT */
/*
 * How long does a CPU wait for one device page, against the least that any handler
 * of a userfaultfd needs?
 *
 * One page at a time, in random order, nothing around it brought home. The floor is
 * a bare server with its handlers placed as the library's are, all polling and reading
 * one descriptor, UFFDIO_COPY of a page that lies ready.
 * Every other touch is a write. What the library adds is its locks, a look-up, the
 * driver's copy and the bookkeeping of a page that has come home.
 */
#include <errno.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "cpu_fault", "us", "bare userfaultfd p50", BENCH_LESS, BENCH_RATIO, 1 / 1.25 },
	{ "cpu_fault_p99", "us", "bare userfaultfd p99", BENCH_LESS, BENCH_RATIO, 1 / 1.5 },
};

struct cpu_fault {
	struct bench_device device;
	struct bench_server *server;
	struct bench_area area, bare, store;
	uint32_t order[512];
	uint32_t nr_pages;
};

static int touch_all(const struct cpu_fault *f, unsigned char *base,
		     struct bench_samples *samples)
{
	size_t page = hmm_page_size();

	for (uint32_t i = 0; i < f->nr_pages; i++) {
		volatile uint64_t *word = (volatile uint64_t *)(base + f->order[i] * page);
		uint64_t start = bench_now_ns();

		if (i & 1)
			word[1] = i;
		else
			(void)word[1];
		bench_samples_add(samples, (double)(bench_now_ns() - start) / 1e3);
		if (word[0] != f->order[i])
			return -EIO;
	}
	return 0;
}

static int take_bare(void *ctx, struct bench_samples *samples)
{
	struct cpu_fault *f = ctx;
	int ret = bench_server_reset(f->server);

	return ret ? ret : touch_all(f, f->bare.base, samples);
}

static int take_device(void *ctx, struct bench_samples *samples)
{
	struct cpu_fault *f = ctx;
	int ret = bench_move_in(&f->device, f->area.base, f->area.len);

	return ret ? ret : touch_all(f, f->area.base, samples);
}

static int measure(struct bench_run *run, struct cpu_fault *f)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 2), .warmup = 2, .min_rounds = 4,
	};
	struct bench_turn turns[] = {
		{ .take = take_bare, .ctx = f },
		{ .take = take_device, .ctx = f },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret) {
		bench_report(run, "cpu_fault", bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
		bench_report(run, "cpu_fault_p99", bench_quantile(&turns[1].samples, 0.99),
			     bench_quantile(&turns[0].samples, 0.99));
	}
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int run_cpu_fault(struct bench_run *run)
{
	struct cpu_fault f = { .nr_pages = COUNT(f.order) };
	size_t len = f.nr_pages * hmm_page_size();
	int ret, close_ret;

	bench_shuffle(f.order, f.nr_pages);
	ret = bench_area_map(&f.area, len, false);
	if (!ret)
		ret = bench_area_map(&f.bare, len, false);
	if (!ret)
		ret = bench_area_map(&f.store, len, false);
	if (!ret)
		ret = bench_server_start(&f.bare, &f.store, hmm_page_size(), BENCH_PLACED,
					 &f.server);
	if (!ret)
		ret = bench_device_open(&f.device, len, 1);
	if (!ret) {
		ret = measure(run, &f);
		close_ret = bench_device_close(&f.device);
		ret = ret ? ret : close_ret;
	}
	bench_server_stop(f.server);
	bench_area_unmap(&f.store);
	bench_area_unmap(&f.bare);
	bench_area_unmap(&f.area);
	return ret;
}

const struct bench bench_cpu_fault = {
	.name = "cpu_fault", .lines = lines, .nr_lines = COUNT(lines), .run = run_cpu_fault,
};
