/* SPDX-License-Identifier: MIT */
/*
 * The CPU's threads and the device's lanes count in the same words, each with the
 * atomics it has: C11's here, hmm_lane_add() there. The device takes the page
 * exclusively, and the CPU's next touch takes it back. Not one count may be lost.
 */
#include <uhmm/soft.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNTERS	64
#define THREADS		2
#define ROUNDS		50
#define LANE_ADDS	2000		/* of the device, in each round */
#define CPU_ADDS	200000		/* of each thread, in all */
#define CPU_PAUSE	512		/* adds after which a thread rests */

/* Nothing else is on its page: taking it takes only the counters. */
struct counters {
	_Atomic uint64_t counter[COUNTERS];
};

struct world {
	struct hmm_mm *mm;
	struct hmm_soft *soft;
	struct counters *counters;	/* one page */
	atomic_uint threads_done;
};

/* The address of the counters is all that a kernel is given. */
static void kernel_count(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct counters *counters = arg;

	hmm_lane_add(lane, &counters->counter[item % COUNTERS], 1, 8);
}

/* Rests now and then, so that the device has the page for a while as well. */
static void *count_on_cpu(void *arg)
{
	static const struct timespec pause = { .tv_nsec = 200000 };
	struct world *world = arg;

	for (unsigned int i = 0; i < CPU_ADDS; i++) {
		atomic_fetch_add_explicit(&world->counters->counter[i % COUNTERS], 1,
					  memory_order_relaxed);
		if (i % CPU_PAUSE == CPU_PAUSE - 1)
			nanosleep(&pause, NULL);
	}
	atomic_fetch_add(&world->threads_done, 1);
	return NULL;
}

static int fail(const char *what, int ret)
{
	fprintf(stderr, "exclusive_counters: %s: %s\n", what, strerror(-ret));
	if (ret == -EPERM || ret == -EOPNOTSUPP)
		fprintf(stderr, "exclusive_counters: `uhmm doctor` says what is missing here\n");
	return ret;
}

/*
 * One round: take the page, then count on the lanes. -EBUSY means that the CPU was
 * quicker than we could follow; the adds are exact all the same.
 */
static int count_on_device(struct world *world)
{
	uintptr_t start = (uintptr_t)world->counters;
	int64_t had = hmm_soft_exclusive(world->soft, start, start + hmm_page_size());
	int ret;

	if (had < 0 && had != -EBUSY)
		return fail("taking the counters", had);
	ret = hmm_soft_run(world->soft, kernel_count, LANE_ADDS, world->counters, NULL);
	return ret ? fail("counting on the device", ret) : 0;
}

/* Adds to *@device_adds. */
static int count(struct world *world, uint64_t *device_adds)
{
	pthread_t thread[THREADS];
	unsigned int started = 0, round = 0;
	int ret = 0;

	while (started < THREADS && !ret) {
		ret = -pthread_create(&thread[started], NULL, count_on_cpu, world);
		started += !ret;
	}
	if (ret)
		fail("starting a thread", ret);
	while (!ret && (round < ROUNDS || atomic_load(&world->threads_done) < THREADS)) {
		ret = count_on_device(world);
		*device_adds += ret ? 0 : LANE_ADDS;
		round++;
	}
	for (unsigned int i = 0; i < started; i++)
		pthread_join(thread[i], NULL);
	return ret;
}

static int report(struct world *world, uint64_t device_adds)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	uint64_t total = 0, expected = device_adds + (uint64_t)THREADS * CPU_ADDS;
	int ret = hmm_mm_stats(world->mm, &stats);

	if (ret)
		return fail("counters", ret);
	for (unsigned int i = 0; i < COUNTERS; i++)
		total += atomic_load(&world->counters->counter[i]);
	printf("%u CPU threads counted %u times, the device %" PRIu64 " times\n", THREADS,
	       THREADS * CPU_ADDS, device_adds);
	printf("the device took the page exclusively %" PRIu64 " times, the CPU took it back %"
	       PRIu64 " times, by %" PRIu64 " faults\n", stats.exclusive_begun,
	       stats.exclusive_ended, stats.cpu_faults);
	printf("total %" PRIu64 ", expected %" PRIu64 ": %s\n", total, expected,
	       total == expected ? "nothing is lost" : "COUNTS ARE LOST");
	return total == expected ? 0 : -EIO;
}

int main(void)
{
	HMM_OPTS(hmm_soft_opts, opts, .migrate = HMM_SOFT_MIGRATE_NEVER);
	static struct world world;
	uint64_t device_adds = 0;
	int ret, closed;

	world.counters = aligned_alloc(hmm_page_size(), hmm_page_size());
	if (!world.counters)
		return 1;
	memset(world.counters, 0, hmm_page_size());
	ret = hmm_mm_create(NULL, &world.mm);
	if (!ret)
		ret = hmm_soft_open(world.mm, &opts, &world.soft);
	if (ret)
		fail("opening a device", ret);
	else
		ret = count(&world, &device_adds);
	if (!ret)
		ret = report(&world, device_adds);
	closed = hmm_soft_close(world.soft);
	if (!closed)
		closed = hmm_mm_destroy(world.mm);
	if (closed)
		fail("closing", closed);
	free(world.counters);
	return ret || closed;
}
