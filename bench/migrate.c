/* SPDX-License-Identifier: MIT */
/*
 * What does it cost to move memory to a device and back, against copying it?
 *
 * Each way copies every byte once, so the floor is memcpy of the same pieces between
 * two areas of the same size. Expected: near memcpy for 2 MiB runs, where what is
 * done per call disappears; far below it for single pages, where it is everything.
 * Areas are large enough that their bytes come from memory, also in a quick run.
 *
 * _move, _copy: against the same pieces by the kernel's calls alone, with nothing that
 * keeps account of them: UFFDIO_MOVE to other addresses and memcpy from there, the same
 * backwards, and UFFDIO_COPY into memory that is not there. Expected: above 1, for our
 * long copies go past the caches, and a page that is copied in is a new one.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "sys/uapi.h"

static const struct bench_line lines[] = {
	{ "migrate_to_device", "GB/s", "memcpy 2 MiB", BENCH_MORE, BENCH_RATIO, 0.75 },
	{ "migrate_to_system", "GB/s", "memcpy 2 MiB", BENCH_MORE, BENCH_RATIO, 0.75 },
	{ "migrate_to_device_move", "GB/s", "UFFDIO_MOVE and memcpy", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_system_move", "GB/s", "memcpy and UFFDIO_MOVE", BENCH_MORE, BENCH_OPEN, 0 },
	{ "migrate_to_system_copy", "GB/s", "UFFDIO_COPY 2 MiB", BENCH_MORE, BENCH_OPEN, 0 },
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

/* ---------------------------------------------------------------- the kernel alone */

/* Pages of @area go to the same place in @limbo, and their bytes to @store. */
struct kernel {
	struct bench_area area, limbo, store;
	size_t piece;
	int uffd;
};

static int take_kernel_in(void *ctx, struct bench_samples *samples)
{
	struct kernel *k = ctx;
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < k->area.len; at += k->piece) {
		int ret = bench_uffd_move(k->uffd, k->limbo.base + at, k->area.base + at, k->piece);

		if (ret)
			return ret;
		memcpy(k->store.base + at, k->limbo.base + at, k->piece);
	}
	bench_samples_add(samples, bench_gb_per_s(k->area.len, bench_now_ns() - start));
	return 0;
}

static int take_kernel_out(void *ctx, struct bench_samples *samples)
{
	struct kernel *k = ctx;
	uint64_t start = bench_now_ns();

	for (size_t at = 0; at < k->area.len; at += k->piece) {
		int ret;

		memcpy(k->limbo.base + at, k->store.base + at, k->piece);
		ret = bench_uffd_move(k->uffd, k->area.base + at, k->limbo.base + at, k->piece);
		if (ret)
			return ret;
	}
	bench_samples_add(samples, bench_gb_per_s(k->area.len, bench_now_ns() - start));
	return 0;
}

static int take_kernel_copy(void *ctx, struct bench_samples *samples)
{
	struct kernel *k = ctx;
	uint64_t start;

	if (madvise(k->area.base, k->area.len, MADV_DONTNEED))
		return -errno;
	start = bench_now_ns();
	for (size_t at = 0; at < k->area.len; at += k->piece) {
		int ret = bench_uffd_copy(k->uffd, k->area.base + at, k->store.base + at, k->piece);

		if (ret)
			return ret;
	}
	bench_samples_add(samples, bench_gb_per_s(k->area.len, bench_now_ns() - start));
	return 0;
}

static int measure_kernel(struct bench_run *run, struct migrate *m, struct kernel *k)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.7), .warmup = 2, .min_rounds = 3,
	};
	struct bench_turn turns[] = {
		{ .take = take_kernel_in, .ctx = k },
		{ .take = take_in, .ctx = m },
		{ .take = take_kernel_out, .ctx = k },
		{ .take = take_out, .ctx = m },
		{ .take = take_kernel_copy, .ctx = k },
	};
	double value[COUNT(turns)];
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret && !(bench_area_intact(&m->area) && bench_area_intact(&k->area)))
		ret = -EIO;
	for (size_t i = 0; i < COUNT(turns) && !ret; i++)
		value[i] = bench_quantile(&turns[i].samples, 0.5);
	if (!ret) {
		bench_report(run, "migrate_to_device_move", value[1], value[0]);
		bench_report(run, "migrate_to_system_move", value[3], value[2]);
		bench_report(run, "migrate_to_system_copy", value[3], value[4]);
	}
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int kernel_open(struct kernel *k, size_t len)
{
	int ret = bench_area_map(&k->area, len, false);

	if (!ret)
		ret = bench_area_map(&k->limbo, len, false);
	if (!ret)
		ret = bench_area_map(&k->store, len, false);
	if (!ret && madvise(k->limbo.base, len, MADV_DONTNEED))
		ret = -errno;
	if (!ret)
		ret = bench_uffd_register(k->uffd, &k->area);
	return ret ? ret : bench_uffd_register(k->uffd, &k->limbo);
}

static void kernel_close(struct kernel *k)
{
	close(k->uffd);
	bench_area_unmap(&k->store);
	bench_area_unmap(&k->limbo);
	bench_area_unmap(&k->area);
}

static int against_kernel(struct bench_run *run, size_t len, size_t piece)
{
	struct migrate m = { .piece = piece };
	struct kernel k = { .piece = piece };
	int ret, close_ret;

	if (!bench_wanted(run, "migrate_to_device_move") &&
	    !bench_wanted(run, "migrate_to_system_move") &&
	    !bench_wanted(run, "migrate_to_system_copy"))
		return 0;
	k.uffd = bench_uffd_open(UHMM_UFFD_FEATURE_MOVE);
	if (k.uffd < 0) {
		bench_note(run, k.uffd == -EOPNOTSUPP ? "no UFFDIO_MOVE to compare with (6.8)" :
							"no userfaultfd to compare with", k.uffd);
		return 0;
	}
	ret = kernel_open(&k, len);
	if (!ret)
		ret = bench_area_map(&m.area, len, false);
	if (!ret)
		ret = bench_device_open(&m.device, len, 0);
	if (!ret) {
		ret = measure_kernel(run, &m, &k);
		close_ret = bench_device_close(&m.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&m.area);
	kernel_close(&k);
	return ret;
}

static int run_migrate(struct bench_run *run)
{
	size_t large = 64 * MIB, small = 16 * MIB;
	int ret;

	ret = measure_size(run, large, 2 * MIB, false, "migrate_to_device", "migrate_to_system");
	if (!ret)
		ret = against_kernel(run, large, 2 * MIB);
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
