/* SPDX-License-Identifier: MIT */
/*
 * How much RAM does the library spend on a page that is away?
 *
 * A device exactly as large as what is moved to it, so that everything counts: the
 * directory with its upper levels, and the devmem's reverse table. The floor is one
 * 8-byte entry per page. The kernel pays 64 bytes, 1.6 %.
 */
#include <errno.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "metadata", "%", "8 bytes a page", BENCH_LESS, BENCH_AT_MOST, 0.3 },
};

static int measure(struct bench_run *run, struct bench_device *device,
		   const struct bench_area *area)
{
	HMM_OPTS(hmm_stats, stats, .metadata_bytes = 0);
	int ret = bench_move_in(device, area->base, area->len);

	if (!ret)
		ret = hmm_mm_stats(device->mm, &stats);
	if (ret)
		return ret;
	if (stats.device_pages * hmm_page_size() != area->len)
		return -EIO;
	bench_report(run, "metadata", 100.0 * (double)stats.metadata_bytes / (double)area->len,
		     100.0 * 8 / (double)hmm_page_size());
	return 0;
}

static int run_metadata(struct bench_run *run)
{
	struct bench_device device;
	struct bench_area area;
	int ret, close_ret;

	ret = bench_area_map(&area, bench_quick(run) ? 64 * MIB : 512 * MIB, false);
	if (ret)
		return ret;
	ret = bench_device_open(&device, area.len, 0);
	if (!ret) {
		ret = measure(run, &device, &area);
		close_ret = bench_device_close(&device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&area);
	return ret;
}

const struct bench bench_metadata = {
	.name = "metadata", .lines = lines, .nr_lines = COUNT(lines), .run = run_metadata,
};
