/* SPDX-License-Identifier: MIT */
/*
 * What does hmm_range_fault() cost where nothing is to be faulted in, against the
 * kernel's own report of the same pages?
 *
 * The floor is one PAGEMAP_SCAN of the range, asking for the categories that a
 * snapshot needs. It reports ranges; a snapshot also writes one entry per page and
 * asks for the mapping's permissions. Half of the mixed area is on the device, in
 * runs of 64 KiB; PAGEMAP_SCAN sees holes there.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <uhmm/driver.h>

#include "bench.h"
#include "sys/uapi.h"

static const struct bench_line lines[] = {
	{ "snapshot", "ns", "PAGEMAP_SCAN, per page", BENCH_LESS, BENCH_RATIO, 1 / 1.5 },
	{ "snapshot_mixed", "ns", "PAGEMAP_SCAN, per page", BENCH_LESS, BENCH_OPEN, 0 },
};

#define CATEGORIES	(UHMM_PAGE_IS_FILE | UHMM_PAGE_IS_PRESENT | UHMM_PAGE_IS_SWAPPED | \
			 UHMM_PAGE_IS_PFNZERO | UHMM_PAGE_IS_HUGE)
#define RUN		(64 * KIB)

struct snapshot {
	struct bench_device device;
	struct bench_area area;
	int pagemap;
	size_t nr_pages;
	uint64_t *pfns;
	struct uhmm_page_region regions[512];
};

static int scan(struct snapshot *s)
{
	struct uhmm_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)s->area.base,
		.end = (uintptr_t)s->area.base + s->area.len,
		.vec = (uintptr_t)s->regions,
		.vec_len = COUNT(s->regions),
		.category_anyof_mask = CATEGORIES,
		.return_mask = CATEGORIES,
	};

	while (arg.start < arg.end) {
		if (ioctl(s->pagemap, UHMM_PAGEMAP_SCAN, &arg) < 0)
			return -errno;
		arg.start = arg.walk_end;
	}
	return 0;
}

static int take_scan(void *ctx, struct bench_samples *samples)
{
	struct snapshot *s = ctx;
	uint64_t start = bench_now_ns();
	int ret = scan(s);

	bench_samples_add(samples, (double)(bench_now_ns() - start) / (double)s->nr_pages);
	return ret;
}

static int take_snapshot(void *ctx, struct bench_samples *samples)
{
	struct snapshot *s = ctx;
	HMM_OPTS(hmm_range, range, .start = (uintptr_t)s->area.base,
		 .end = (uintptr_t)s->area.base + s->area.len, .pfns = s->pfns);
	uint64_t start = bench_now_ns();
	int ret = hmm_range_fault(s->device.mm, &range);

	bench_samples_add(samples, (double)(bench_now_ns() - start) / (double)s->nr_pages);
	return ret;
}

/* The bench proves first that what it times is a snapshot of these pages. */
static bool right(struct snapshot *s, size_t away_run)
{
	size_t page = hmm_page_size();

	for (size_t i = 0; i < s->nr_pages; i++) {
		bool away = away_run && (i * page / away_run) % 2;

		if (!(s->pfns[i] & HMM_PFN_VALID) != away)
			return false;
	}
	return true;
}

static int measure(struct bench_run *run, struct snapshot *s, size_t away_run, const char *name)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.5), .warmup = 2, .min_rounds = 5,
	};
	struct bench_turn turns[] = {
		{ .take = take_scan, .ctx = s },
		{ .take = take_snapshot, .ctx = s },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret && !right(s, away_run))
		ret = -EIO;
	if (!ret)
		bench_report(run, name, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int measure_mixed(struct bench_run *run, struct snapshot *s)
{
	for (size_t at = RUN; at < s->area.len; at += 2 * RUN) {
		int ret = bench_move_in(&s->device, s->area.base + at, RUN);

		if (ret)
			return ret;
	}
	return measure(run, s, RUN, "snapshot_mixed");
}

static int measure_both(struct bench_run *run, struct snapshot *s)
{
	int ret;

	s->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (s->pagemap < 0)
		return -errno;
	ret = scan(s);
	if (ret == -ENOTTY || ret == -EINVAL) {
		bench_note(run, "no PAGEMAP_SCAN to compare with (6.7)", ret);
		ret = -EOPNOTSUPP;
	}
	if (!ret)
		ret = measure(run, s, 0, "snapshot");
	if (!ret && bench_wanted(run, "snapshot_mixed"))
		ret = measure_mixed(run, s);
	close(s->pagemap);
	return ret;
}

static int run_snapshot(struct bench_run *run)
{
	size_t len = bench_quick(run) ? 32 * MIB : 128 * MIB;
	struct snapshot s = { .nr_pages = len / hmm_page_size() };
	int ret, close_ret;

	ret = bench_area_map(&s.area, len, false);
	if (!ret)
		ret = bench_device_open(&s.device, len, 0);
	if (!ret) {
		s.pfns = hmm_safe_alloc(s.nr_pages * sizeof(*s.pfns));
		ret = s.pfns ? measure_both(run, &s) : -ENOMEM;
		hmm_safe_free(s.pfns, s.nr_pages * sizeof(*s.pfns));
		close_ret = bench_device_close(&s.device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&s.area);
	return ret;
}

const struct bench bench_snapshot = {
	.name = "snapshot", .lines = lines, .nr_lines = COUNT(lines), .run = run_snapshot,
};
