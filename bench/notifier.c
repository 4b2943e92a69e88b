/* SPDX-License-Identifier: MIT */
/*
 * What does a change of mappings pay for the subscriptions to other places?
 *
 * Notifiers on intervals of 64 KiB with gaps of 64 KiB between them; a change of one
 * page in a gap (notifier_none: among 1,000; notifier_none_10k) or in an interval
 * (notifier_find: among 10,000), at random, with the mm's lock as every change has
 * it. The floors do the least that could be done: take and give the lock; and search
 * a sorted array besides, and call.
 *
 * Looks inside the library: the public way to cause an invalidation is a change of
 * mappings, a thousand times what is measured here.
 */
#include <errno.h>
#include <stdlib.h>

#include "bench.h"
#include "core/mm.h"

static const struct bench_line lines[] = {
	{ "notifier_none", "ns", "lock and unlock", BENCH_LESS, BENCH_AT_MOST, 100 },
	{ "notifier_none_10k", "ns", "lock and unlock", BENCH_LESS, BENCH_OPEN, 0 },
	{ "notifier_find", "ns", "binary search and a call", BENCH_LESS, BENCH_AT_MOST, 300 },
};

#define NR_NOTIFIERS	10000u
#define NR_FEW		1000u
#define FIRST		0x100000000000UL	/* nothing needs to be mapped there */
#define INTERVAL	(64 * KIB)
#define CALLS		20000u

struct notifiers {
	struct hmm_mm *mm;
	struct hmm_notifier *all[NR_NOTIFIERS];
	uint32_t nr;		/* inserted */
	uintptr_t starts[NR_NOTIFIERS];
	uint32_t order[NR_NOTIFIERS];
	uint64_t called;
};

static void count(struct hmm_notifier *notifier, const struct hmm_event *event, uint64_t seq,
		  void *ctx)
{
	struct notifiers *n = ctx;

	(void)notifier;
	(void)event;
	(void)seq;
	n->called++;
}

static void call_lock(struct notifiers *n, uintptr_t addr)
{
	(void)addr;
	lock_acquire(&n->mm->lock);
	lock_release(&n->mm->lock);
}

static void call_search(struct notifiers *n, uintptr_t addr)
{
	uint32_t low = 0, high = n->nr;

	lock_acquire(&n->mm->lock);
	while (high - low > 1) {
		uint32_t middle = (low + high) / 2;

		if (n->starts[middle] <= addr)
			low = middle;
		else
			high = middle;
	}
	if (addr < n->starts[low] + INTERVAL)
		count(NULL, NULL, 0, n);
	lock_release(&n->mm->lock);
}

static void call_invalidate(struct notifiers *n, uintptr_t addr)
{
	lock_acquire(&n->mm->lock);
	mm_invalidate(n->mm, HMM_EVENT_UNMAP, addr, addr + n->mm->page, NULL);
	lock_release(&n->mm->lock);
}

struct side {
	struct notifiers *n;
	void (*call)(struct notifiers *n, uintptr_t addr);
	uintptr_t offset;	/* of the change from an interval's start */
	uint64_t calls_each;	/* callbacks that one call has to make */
};

static int take(void *ctx, struct bench_samples *samples)
{
	const struct side *side = ctx;
	struct notifiers *n = side->n;
	uint64_t start;

	n->called = 0;
	start = bench_now_ns();
	for (uint32_t i = 0; i < CALLS; i++)
		side->call(n, n->starts[n->order[i % n->nr]] + side->offset);
	bench_samples_add(samples, (double)(bench_now_ns() - start) / CALLS);
	return n->called == side->calls_each * CALLS ? 0 : -EIO;
}

static int compare(struct bench_run *run, const char *name, struct side *floor_side,
		   struct side *side)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.4), .warmup = 2, .min_rounds = 5,
	};
	struct bench_turn turns[] = {
		{ .take = take, .ctx = floor_side },
		{ .take = take, .ctx = side },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret)
		bench_report(run, name, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

/* Until there are @nr; changes then come in a new random order over all of them. */
static int subscribe(struct notifiers *n, uint32_t nr)
{
	HMM_OPTS(hmm_notifier_ops, ops, .invalidate = count);

	bench_shuffle(n->order, nr);
	for (; n->nr < nr; n->nr++) {
		uintptr_t start = n->starts[n->nr];
		int ret = hmm_notifier_insert(n->mm, start, start + INTERVAL, &ops, n,
					      &n->all[n->nr]);

		if (ret)
			return ret;
	}
	return 0;
}

static int measure(struct bench_run *run, struct notifiers *n)
{
	struct side lock = { n, call_lock, INTERVAL, 0 };
	struct side none = { n, call_invalidate, INTERVAL, 0 };
	struct side search = { n, call_search, 0, 1 };
	struct side find = { n, call_invalidate, 0, 1 };
	int ret = subscribe(n, NR_FEW);

	if (!ret)
		ret = compare(run, "notifier_none", &lock, &none);
	if (!ret)
		ret = subscribe(n, NR_NOTIFIERS);
	if (!ret)
		ret = compare(run, "notifier_none_10k", &lock, &none);
	return ret ? ret : compare(run, "notifier_find", &search, &find);
}

static int run_notifier(struct bench_run *run)
{
	struct notifiers *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return -ENOMEM;
	for (uint32_t i = 0; i < NR_NOTIFIERS; i++)
		n->starts[i] = FIRST + i * 2 * INTERVAL;
	ret = hmm_mm_create(NULL, &n->mm);
	if (!ret) {
		ret = measure(run, n);
		for (uint32_t i = 0; i < NR_NOTIFIERS; i++)
			(void)hmm_notifier_remove(n->all[i]);
		(void)hmm_mm_destroy(n->mm);
	}
	free(n);
	return ret;
}

const struct bench bench_notifier = {
	.name = "notifier", .lines = lines, .nr_lines = COUNT(lines), .run = run_notifier,
};
