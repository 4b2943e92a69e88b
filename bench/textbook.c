/* SPDX-License-Identifier: MIT */
/*
 * How does a device page's way home compare with the pagers that programs write for
 * themselves: a server of one thread with poll, read, UFFDIO_COPY; and mprotect with a
 * handler of SIGSEGV?
 *
 * Here those are what we are compared with, not what we hope to reach: ratios are well
 * above 1 or we are not worth using. textbook_stream reads front to back with the
 * server's usual granule of one page and our default; textbook_stream_64k with 64 KiB
 * on both sides; textbook_fault is one page at a time in random order. The server's
 * thread is woken on an idle CPU if there is one, which costs more than all the rest;
 * where other programs keep the CPUs busy it does as well as threads that are pinned.
 * segv_*: the same walks against the signal handler, which wakes nobody and in which
 * no system call works: single faults are where it is good.
 */
#include <errno.h>
#include <string.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "textbook_stream", "GB/s", "page server, 4 KiB", BENCH_MORE, BENCH_RATIO, 5 },
	{ "textbook_stream_64k", "GB/s", "page server, 64 KiB", BENCH_MORE, BENCH_RATIO, 1.25 },
	{ "textbook_fault", "us", "page server p50", BENCH_LESS, BENCH_RATIO, 1 / 0.45 },
	{ "textbook_fault_p99", "us", "page server p99", BENCH_LESS, BENCH_RATIO, 3 },
	{ "segv_stream", "GB/s", "mprotect and SIGSEGV", BENCH_MORE, BENCH_OPEN, 0 },
	{ "segv_fault", "us", "mprotect and SIGSEGV p50", BENCH_LESS, BENCH_OPEN, 0 },
	{ "segv_fault_p99", "us", "mprotect and SIGSEGV p99", BENCH_LESS, BENCH_OPEN, 0 },
};

#define PIECE		(64 * KIB)
#define NR_FAULTS	256u

struct textbook {
	struct bench_device device;
	struct bench_server *server;
	struct bench_area area, served, store, to;
	uint32_t order[NR_FAULTS];
};

static int stream(const struct textbook *t, const unsigned char *from,
		  struct bench_samples *samples)
{
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < t->to.len; at += PIECE)
		memcpy(t->to.base + at, from + at, PIECE);
	bench_samples_add(samples, bench_gb_per_s(t->to.len, bench_now_ns() - start));
	return bench_area_intact(&t->to) ? 0 : -EIO;
}

static int take_server_stream(void *ctx, struct bench_samples *samples)
{
	struct textbook *t = ctx;
	int ret = bench_server_reset(t->server);

	return ret ? ret : stream(t, t->served.base, samples);
}

static int take_stream(void *ctx, struct bench_samples *samples)
{
	struct textbook *t = ctx;
	uintptr_t start = (uintptr_t)t->area.base;
	int64_t moved = hmm_soft_migrate_in(t->device.soft, start, start + t->area.len, NULL);

	/* Single faults before may have left most of it there. */
	return moved < 0 ? (int)moved : stream(t, t->area.base, samples);
}

/* Every fourth page, so that no two faults are neighbours. */
static int touch(const struct textbook *t, unsigned char *base, struct bench_samples *samples)
{
	size_t step = 4 * hmm_page_size();

	for (uint32_t i = 0; i < NR_FAULTS; i++) {
		volatile uint64_t *word = (volatile uint64_t *)(base + t->order[i] * step);
		uint64_t start = bench_now_ns(), value = *word;

		bench_samples_add(samples, (double)(bench_now_ns() - start) / 1e3);
		if (value != t->order[i] * 4)
			return -EIO;
	}
	return 0;
}

static int take_server_fault(void *ctx, struct bench_samples *samples)
{
	struct textbook *t = ctx;
	int ret = bench_server_reset(t->server);

	return ret ? ret : touch(t, t->served.base, samples);
}

static int take_fault(void *ctx, struct bench_samples *samples)
{
	struct textbook *t = ctx;
	uintptr_t start = (uintptr_t)t->area.base;
	uintptr_t end = start + 4 * NR_FAULTS * hmm_page_size();
	int64_t moved = hmm_soft_migrate_in(t->device.soft, start, end, NULL);

	/* Three of four pages are still there from the round before. */
	return moved < 0 ? (int)moved : touch(t, t->area.base, samples);
}

static int take_segv_stream(void *ctx, struct bench_samples *samples)
{
	struct textbook *t = ctx;
	int ret = bench_segv_reset();

	return ret ? ret : stream(t, t->served.base, samples);
}

static int take_segv_fault(void *ctx, struct bench_samples *samples)
{
	struct textbook *t = ctx;
	int ret = bench_segv_reset();

	return ret ? ret : touch(t, t->served.base, samples);
}

static int set_policy(struct textbook *t, uint32_t fault_around)
{
	HMM_OPTS(hmm_soft_opts, policy, .migrate = HMM_SOFT_MIGRATE_NEVER, .prefetch = 101,
		 .fault_around = fault_around);

	return hmm_soft_set_policy(t->device.soft, &policy);
}

static int take_turns(struct bench_run *run, struct bench_turn *turns)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.7), .warmup = 1, .min_rounds = 3,
	};

	return bench_rounds(turns, 2, &limits);
}

static int rounds(struct bench_run *run, struct textbook *t, size_t granule,
		  uint32_t fault_around, struct bench_turn *turns)
{
	int ret = set_policy(t, fault_around);

	if (!ret)
		ret = bench_server_start(&t->served, &t->store, granule, BENCH_ONE_THREAD,
					 &t->server);
	if (!ret)
		ret = take_turns(run, turns);
	bench_server_stop(t->server);
	t->server = NULL;
	return ret;
}

static int segv_rounds(struct bench_run *run, struct textbook *t, uint32_t fault_around,
		       struct bench_turn *turns)
{
	int ret = set_policy(t, fault_around);

	if (!ret)
		ret = bench_segv_start(&t->served, &t->store);
	if (ret)
		return ret;
	ret = take_turns(run, turns);
	bench_segv_stop();
	return ret;
}

static int compare_stream(struct bench_run *run, struct textbook *t, size_t granule,
			  uint32_t fault_around, const char *name)
{
	struct bench_turn turns[] = {
		{ .take = take_server_stream, .ctx = t },
		{ .take = take_stream, .ctx = t },
	};
	int ret;

	if (!bench_wanted(run, name))
		return 0;
	ret = rounds(run, t, granule, fault_around, turns);
	if (!ret)
		bench_report(run, name, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int compare_fault(struct bench_run *run, struct textbook *t)
{
	struct bench_turn turns[] = {
		{ .take = take_server_fault, .ctx = t },
		{ .take = take_fault, .ctx = t },
	};
	int ret;

	if (!bench_wanted(run, "textbook_fault") && !bench_wanted(run, "textbook_fault_p99"))
		return 0;
	ret = rounds(run, t, hmm_page_size(), 1, turns);
	if (!ret) {
		bench_report(run, "textbook_fault", bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
		bench_report(run, "textbook_fault_p99", bench_quantile(&turns[1].samples, 0.99),
			     bench_quantile(&turns[0].samples, 0.99));
	}
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int compare_segv(struct bench_run *run, struct textbook *t)
{
	struct bench_turn streams[] = {
		{ .take = take_segv_stream, .ctx = t },
		{ .take = take_stream, .ctx = t },
	};
	struct bench_turn faults[] = {
		{ .take = take_segv_fault, .ctx = t },
		{ .take = take_fault, .ctx = t },
	};
	int ret = segv_rounds(run, t, 0, streams);

	if (!ret)
		bench_report(run, "segv_stream", bench_quantile(&streams[1].samples, 0.5),
			     bench_quantile(&streams[0].samples, 0.5));
	if (!ret)
		ret = segv_rounds(run, t, 1, faults);
	if (!ret) {
		bench_report(run, "segv_fault", bench_quantile(&faults[1].samples, 0.5),
			     bench_quantile(&faults[0].samples, 0.5));
		bench_report(run, "segv_fault_p99", bench_quantile(&faults[1].samples, 0.99),
			     bench_quantile(&faults[0].samples, 0.99));
	}
	bench_turns_free(faults, COUNT(faults));
	bench_turns_free(streams, COUNT(streams));
	return ret;
}

static int measure(struct bench_run *run, struct textbook *t)
{
	int ret = compare_stream(run, t, hmm_page_size(), 0, "textbook_stream");

	if (!ret)
		ret = compare_stream(run, t, 64 * KIB, (uint32_t)(64 * KIB / hmm_page_size()),
				     "textbook_stream_64k");
	if (!ret)
		ret = compare_fault(run, t);
	if (!ret && (bench_wanted(run, "segv_stream") || bench_wanted(run, "segv_fault") ||
		     bench_wanted(run, "segv_fault_p99")))
		ret = compare_segv(run, t);
	return ret;
}

static int run_textbook(struct bench_run *run)
{
	size_t len = bench_quick(run) ? 4 * MIB : 16 * MIB;
	struct textbook t = { 0 };
	int ret, close_ret;

	bench_shuffle(t.order, NR_FAULTS);
	ret = bench_area_map(&t.area, len, false);
	if (!ret)
		ret = bench_area_map(&t.served, len, false);
	if (!ret)
		ret = bench_area_map(&t.store, len, false);
	if (!ret)
		ret = bench_area_map(&t.to, len, false);
	if (!ret)
		ret = bench_device_open(&t.device, len, 0);
	if (!ret) {
		ret = measure(run, &t);
		close_ret = bench_device_close(&t.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&t.to);
	bench_area_unmap(&t.store);
	bench_area_unmap(&t.served);
	bench_area_unmap(&t.area);
	return ret;
}

const struct bench bench_textbook = {
	.name = "textbook", .lines = lines, .nr_lines = COUNT(lines), .run = run_textbook,
};
