/* SPDX-License-Identifier: MIT */
/*
 * Do many threads that fault at once get at least as much done as one alone?
 *
 * Device pages touched one by one, nothing around them brought home: 4,096 of them by
 * one thread, against the same by 2, 8 and 64 threads which take turns at the pages.
 * The figure is faults per millisecond. Expected: above 1 as long as there are CPUs,
 * and not below it when there are more threads than CPUs.
 */
#include <errno.h>
#include <pthread.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "fault_threads_2", "1/ms", "one thread", BENCH_MORE, BENCH_RATIO, 1 },
	{ "fault_threads_8", "1/ms", "one thread", BENCH_MORE, BENCH_RATIO, 1 },
	{ "fault_threads_64", "1/ms", "one thread", BENCH_MORE, BENCH_RATIO, 1 },
};

#define NR_PAGES	4096u
#define MAX_THREADS	64u

struct crew {
	struct bench_device *device;
	const struct bench_area *area;
	const uint32_t *order;
	unsigned int nr;
	pthread_barrier_t begin, end;
	bool stop;		/* read after begin */
};

struct toucher {
	struct crew *crew;
	unsigned int first;
	pthread_t thread;
	bool wrong;
};

static void *touch(void *arg)
{
	struct toucher *t = arg;
	const struct crew *crew = t->crew;
	size_t page = hmm_page_size();

	for (;;) {
		pthread_barrier_wait(&t->crew->begin);
		if (crew->stop)
			return NULL;
		for (uint32_t i = t->first; i < NR_PAGES; i += crew->nr) {
			uint32_t at = crew->order[i];

			t->wrong |= *(volatile uint64_t *)(crew->area->base + at * page) != at;
		}
		pthread_barrier_wait(&t->crew->end);
	}
}

static int take(void *ctx, struct bench_samples *samples)
{
	struct crew *crew = ctx;
	int ret = bench_move_in(crew->device, crew->area->base, crew->area->len);
	uint64_t start;

	if (ret)
		return ret;
	start = bench_now_ns();
	pthread_barrier_wait(&crew->begin);
	pthread_barrier_wait(&crew->end);
	bench_samples_add(samples, NR_PAGES * 1e6 / (double)(bench_now_ns() - start));
	return 0;
}

/* A crew of one is a thread too, so that both sides pay for the same start and end. */
static int crew_start(struct crew *crew, struct toucher *touchers)
{
	unsigned int nr = crew->nr;
	int ret = 0;

	pthread_barrier_init(&crew->begin, NULL, nr + 1);
	pthread_barrier_init(&crew->end, NULL, nr + 1);
	for (unsigned int i = 0; i < nr && !ret; i++) {
		touchers[i] = (struct toucher){ .crew = crew, .first = i };
		ret = -pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]);
	}
	return ret;
}

static int crew_stop(struct crew *crew, struct toucher *touchers)
{
	bool wrong = false;

	crew->stop = true;
	pthread_barrier_wait(&crew->begin);
	for (unsigned int i = 0; i < crew->nr; i++) {
		pthread_join(touchers[i].thread, NULL);
		wrong |= touchers[i].wrong;
	}
	return wrong ? -EIO : 0;
}

/*
 * A crew that could not start in full is left at its barrier: the bench fails, and
 * its process ends with it.
 */
static int compare(struct bench_run *run, struct crew *one, struct crew *many, const char *name)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.4), .warmup = 1, .min_rounds = 4,
	};
	struct bench_turn turns[] = {
		{ .take = take, .ctx = one },
		{ .take = take, .ctx = many },
	};
	struct toucher alone, touchers[MAX_THREADS];
	int ret, stop_ret;

	ret = crew_start(one, &alone);
	if (!ret)
		ret = crew_start(many, touchers);
	if (ret)
		return ret;
	ret = bench_rounds(turns, COUNT(turns), &limits);
	if (!ret)
		bench_report(run, name, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	stop_ret = crew_stop(many, touchers);
	ret = ret ? ret : stop_ret;
	stop_ret = crew_stop(one, &alone);
	return ret ? ret : stop_ret;
}

static int measure(struct bench_run *run, struct bench_device *device,
		   const struct bench_area *area)
{
	static const unsigned int threads[] = { 2, 8, 64 };
	uint32_t order[NR_PAGES];
	int ret = 0;

	bench_shuffle(order, NR_PAGES);
	for (size_t i = 0; i < COUNT(threads) && !ret; i++) {
		struct crew one = { .device = device, .area = area, .order = order, .nr = 1 };
		struct crew many = one;

		many.nr = threads[i];
		if (bench_wanted(run, lines[i].name))
			ret = compare(run, &one, &many, lines[i].name);
	}
	return ret;
}

static int run_fault_threads(struct bench_run *run)
{
	struct bench_device device;
	struct bench_area area;
	int ret, close_ret;

	ret = bench_area_map(&area, NR_PAGES * hmm_page_size(), false);
	if (ret)
		return ret;
	ret = bench_device_open(&device, area.len, 1);
	if (!ret) {
		ret = measure(run, &device, &area);
		close_ret = bench_device_close(&device);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&area);
	return ret;
}

const struct bench bench_fault_threads = {
	.name = "fault_threads", .lines = lines, .nr_lines = COUNT(lines),
	.run = run_fault_threads,
};
