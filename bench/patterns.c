/* SPDX-License-Identifier: MIT */
/*
 * What does a program that knows nothing of devices pay when its memory is on one, by
 * the order in which it comes to its pages?
 *
 * 16 MiB, moved to the device before each walk, walked in six ways. Each line is the
 * time of one walk against the same walk of memory that is there. pattern_X lets the
 * driver bring as many neighbours home as it has learnt to (its default);
 * pattern_X_alone brings each page by itself, which is what prefetching saves. Expected:
 * front to back and the stencil, which is three walks front to back at once, gain most;
 * where there is nothing to learn (random, chase, Zipf) prefetching must not cost much.
 */
#include <errno.h>
#include <stdlib.h>

#include "bench.h"

#define PATTERN(name)									\
	{ "pattern_" name, "ms", "memory that is there", BENCH_LESS, BENCH_OPEN, 0 },	\
	{ "pattern_" name "_alone", "ms", "memory that is there", BENCH_LESS, BENCH_OPEN, 0 }

static const struct bench_line lines[] = {
	PATTERN("sequential"),
	PATTERN("strided"),
	PATTERN("random"),
	PATTERN("zipf"),
	PATTERN("chase"),
	PATTERN("stencil"),
};

#define LINE		64u
#define STRIDE_PAGES	5u
#define ZIPF_PER_PAGE	4u
#define ROW_PAGES	4u	/* of the stencil's grid */

struct patterns {
	struct bench_device device;
	struct bench_area area, plain;
	uint32_t nr_pages;
	uint32_t *order;	/* each page once */
	uint32_t *zipf;		/* nr_pages * ZIPF_PER_PAGE draws */
};

static uint64_t word(const unsigned char *at)
{
	return *(const volatile uint64_t *)at;
}

static uint64_t walk_sequential(const struct patterns *p, const unsigned char *base)
{
	uint64_t sum = 0;

	for (size_t at = 0; at < p->area.len; at += LINE)
		sum += word(base + at);
	return sum;
}

static uint64_t walk_strided(const struct patterns *p, const unsigned char *base)
{
	uint64_t sum = 0;

	for (size_t at = 0; at < p->area.len; at += STRIDE_PAGES * hmm_page_size())
		sum += word(base + at);
	return sum;
}

static uint64_t walk_random(const struct patterns *p, const unsigned char *base)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < p->nr_pages; i++)
		sum += word(base + p->order[i] * hmm_page_size());
	return sum;
}

static uint64_t walk_zipf(const struct patterns *p, const unsigned char *base)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < p->nr_pages * ZIPF_PER_PAGE; i++)
		sum += word(base + p->zipf[i] * hmm_page_size());
	return sum;
}

/* The second word of a page is the number of the next one: see link_pages(). */
static uint64_t walk_chase(const struct patterns *p, const unsigned char *base)
{
	uint64_t sum = 0, at = 0;

	for (uint32_t i = 0; i < p->nr_pages; i++) {
		at = word(base + at * hmm_page_size() + sizeof(uint64_t));
		sum = sum * 31 + at;
	}
	return sum;
}

static uint64_t walk_stencil(const struct patterns *p, const unsigned char *base)
{
	size_t row = ROW_PAGES * hmm_page_size();
	uint64_t sum = 0;

	for (size_t at = row + LINE; at < p->area.len - row - LINE; at += LINE)
		sum += word(base + at - row) + word(base + at - LINE) + word(base + at) +
		       word(base + at + LINE) + word(base + at + row);
	return sum;
}

/* In the order of the lines. */
static uint64_t (*const walks[])(const struct patterns *p, const unsigned char *base) = {
	walk_sequential, walk_strided, walk_random, walk_zipf, walk_chase, walk_stencil,
};

struct side {
	struct patterns *p;
	unsigned int walk;
	uint32_t fault_around;
	uint64_t sum;		/* of the last walk */
};

static void timed_walk(struct side *side, const unsigned char *base,
		       struct bench_samples *samples)
{
	uint64_t start = bench_now_ns();

	side->sum = walks[side->walk](side->p, base);
	bench_samples_add(samples, (double)(bench_now_ns() - start) / 1e6);
}

static int take_plain(void *ctx, struct bench_samples *samples)
{
	struct side *side = ctx;

	timed_walk(side, side->p->plain.base, samples);
	return 0;
}

/* Both areas hold the same, so that what is added up tells a page that came home wrong. */
static int take_device(void *ctx, struct bench_samples *samples)
{
	struct side *side = ctx;
	struct patterns *p = side->p;
	HMM_OPTS(hmm_soft_opts, policy, .migrate = HMM_SOFT_MIGRATE_NEVER, .prefetch = 101,
		 .fault_around = side->fault_around);
	uintptr_t start = (uintptr_t)p->area.base;
	int64_t ret = hmm_soft_set_policy(p->device.soft, &policy);

	/* Some walks leave pages there. */
	if (!ret)
		ret = hmm_soft_migrate_in(p->device.soft, start, start + p->area.len, NULL);
	if (ret < 0)
		return (int)ret;
	timed_walk(side, p->area.base, samples);
	return side->sum == walks[side->walk](p, p->plain.base) ? 0 : -EIO;
}

static int compare(struct bench_run *run, struct patterns *p, unsigned int walk)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.6), .warmup = 1, .min_rounds = 3,
	};
	struct side sides[] = { { p, walk, 0, 0 }, { p, walk, 0, 0 }, { p, walk, 1, 0 } };
	struct bench_turn turns[] = {
		{ .take = take_plain, .ctx = &sides[0] },
		{ .take = take_device, .ctx = &sides[1] },
		{ .take = take_device, .ctx = &sides[2] },
	};
	int ret;

	if (!bench_wanted(run, lines[2 * walk].name) &&
	    !bench_wanted(run, lines[2 * walk + 1].name))
		return 0;
	ret = bench_rounds(turns, COUNT(turns), &limits);
	for (unsigned int i = 0; i < 2 && !ret; i++)
		bench_report(run, lines[2 * walk + i].name,
			     bench_quantile(&turns[1 + i].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

/* One cycle through all pages, in an order that is not the random walk's. */
static void link_pages(const struct patterns *p, const struct bench_area *area)
{
	for (uint32_t i = 0; i < p->nr_pages; i++) {
		uint32_t from = p->order[p->nr_pages - 1 - i];
		uint32_t to = p->order[(2 * p->nr_pages - 2 - i) % p->nr_pages];

		((uint64_t *)(area->base + from * hmm_page_size()))[1] = to;
	}
}

/* The k-th most wanted page is wanted 1/k as often as the first. */
static int draw_zipf(struct patterns *p)
{
	double *upto = malloc(p->nr_pages * sizeof(*upto)), total = 0;
	uint64_t state = 0x2545f4914f6cdd1du;

	if (!upto)
		return -ENOMEM;
	for (uint32_t k = 0; k < p->nr_pages; k++)
		upto[k] = total += 1.0 / (k + 1);
	for (uint32_t i = 0; i < p->nr_pages * ZIPF_PER_PAGE; i++) {
		uint32_t low = 0, high = p->nr_pages - 1;
		double at;

		state = state * 6364136223846793005u + 1442695040888963407u;
		at = (double)(state >> 11) / (double)(1ULL << 53) * total;
		while (low < high) {
			uint32_t middle = (low + high) / 2;

			if (upto[middle] < at)
				low = middle + 1;
			else
				high = middle;
		}
		p->zipf[i] = p->order[low];
	}
	free(upto);
	return 0;
}

static int prepare(struct patterns *p)
{
	int ret;

	p->order = malloc(p->nr_pages * sizeof(*p->order));
	p->zipf = malloc(p->nr_pages * ZIPF_PER_PAGE * sizeof(*p->zipf));
	if (!p->order || !p->zipf)
		return -ENOMEM;
	bench_shuffle(p->order, p->nr_pages);
	ret = draw_zipf(p);
	if (ret)
		return ret;
	link_pages(p, &p->area);
	link_pages(p, &p->plain);
	return bench_device_open(&p->device, p->area.len, 0);
}

static int run_patterns(struct bench_run *run)
{
	size_t len = bench_quick(run) ? 4 * MIB : 16 * MIB;
	struct patterns p = { .nr_pages = (uint32_t)(len / hmm_page_size()) };
	int ret, close_ret;

	ret = bench_area_map(&p.area, len, false);
	if (!ret)
		ret = bench_area_map(&p.plain, len, false);
	if (!ret)
		ret = prepare(&p);
	if (!ret) {
		for (unsigned int walk = 0; walk < COUNT(walks) && !ret; walk++)
			ret = compare(run, &p, walk);
		close_ret = bench_device_close(&p.device);
		ret = ret ? ret : close_ret;
	}
	free(p.zipf);
	free(p.order);
	bench_area_unmap(&p.plain);
	bench_area_unmap(&p.area);
	return ret;
}

const struct bench bench_patterns = {
	.name = "patterns", .lines = lines, .nr_lines = COUNT(lines), .run = run_patterns,
};
