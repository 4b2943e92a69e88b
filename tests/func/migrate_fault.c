/* SPDX-License-Identifier: MIT */
/*
 * Faults of the CPU on device pages: by many threads, under writers, with neighbours,
 * and ended by the driver when it likes.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

struct racer {
	pthread_t thread;
	pthread_barrier_t *barrier;
	unsigned char *p;
	bool right;
};

static void *racer_run(void *arg)
{
	struct racer *r = arg;

	pthread_barrier_wait(r->barrier);
	r->right = holds(r->p, 1, 31, 0);
	return NULL;
}

/* Threads that fault on one page at once all see its bytes; it comes home once. */
static void threads_fault_on_one_page_at_once(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(1, 31);
	pthread_barrier_t barrier;
	struct racer racers[8];

	assert_int_equal(pthread_barrier_init(&barrier, NULL, ARRAY_LEN(racers)), 0);
	for (int round = 0; round < 40; round++) {
		/* A fault that was answered with another's may still be in a handler's hand. */
		assert_true(eventually(try_device(w, w->dev, p, 1, NULL) == 1));
		for (size_t i = 0; i < ARRAY_LEN(racers); i++) {
			racers[i] = (struct racer) { .barrier = &barrier, .p = p };
			assert_int_equal(pthread_create(&racers[i].thread, NULL, racer_run,
							&racers[i]), 0);
		}
		for (size_t i = 0; i < ARRAY_LEN(racers); i++) {
			pthread_join(racers[i].thread, NULL);
			assert_true(racers[i].right);
		}
	}
	assert_int_equal(moved(w, pages_to_system), 40);
	assert_int_equal(w->dev->pages_from, 40);
	pthread_barrier_destroy(&barrier);
	munmap(p, page);
}

static _Atomic uint32_t incrementing;

static void *incrementer_run(void *arg)
{
	_Atomic uint64_t *counters = arg;
	uint64_t n = 0;

	while (atomic_load(&incrementing)) {
		for (int i = 0; i < 16; i++)
			atomic_fetch_add(&counters[(size_t)i * WORDS], 1);
		n++;
	}
	return (void *)(uintptr_t)n;
}

/* Writers go on while their pages migrate: no increment is lost. */
static void no_write_is_lost_while_pages_migrate(void **state)
{
	struct world *w = *state;
	_Atomic uint64_t *p = map_pages(16, PROT_READ | PROT_WRITE, 0);
	uint64_t sum = 0;
	pthread_t threads[2];
	void *n;

	atomic_store(&incrementing, 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, incrementer_run, p), 0);
	for (int round = 0; round < 200; round++)
		IGNORE(try_device(w, round & 1 ? w->dev : w->other, p, 16, NULL));
	atomic_store(&incrementing, 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &n);
		sum += (uintptr_t)n;
	}
	for (int i = 0; i < 16; i++)
		assert_int_equal(p[(size_t)i * WORDS], sum);
	assert_true(moved(w, pages_to_device) > 0);
	munmap(p, 16 * page);
}

/* migrate_to_ram may bring neighbours home: one fault for all of them. */
static void driver_brings_neighbours_home(void **state)
{
	struct world *w = *state;
	unsigned char *base = map_pages(32, PROT_READ | PROT_WRITE, 0);
	unsigned char *p = (void *)(((uintptr_t)base + 16 * page - 1) & ~(16 * page - 1));

	fill(p, 16, 32);
	to_device(w, w->dev, p, 16);
	w->dev->around = 16;
	assert_int_equal(p[3 * page], (unsigned char)pattern(32, 3, 0));
	assert_int_equal(moved(w, cpu_faults), 1);
	assert_int_equal(moved(w, pages_to_system), 16);
	assert_int_equal(w->dev->faults, 1);
	assert_at(w, p, 16, HMM_PLACE_SYSTEM);
	assert_holds(p, 16, 32, 0);
	munmap(base, 32 * page);
}

static void *read_first_byte(void *arg)
{
	return (void *)(uintptr_t)*(volatile unsigned char *)arg;
}

/* A thread that touches @p, whose fault the driver has answered with -EINPROGRESS. */
static pthread_t toucher(struct testdev *dev, void *p)
{
	pthread_t thread;
	uint32_t before = atomic_load(&dev->nr_deferred);

	assert_int_equal(pthread_create(&thread, NULL, read_first_byte, p), 0);
	assert_true(eventually(atomic_load(&dev->nr_deferred) == before + 1));
	return thread;
}

static unsigned char joined(pthread_t thread)
{
	void *byte;

	assert_int_equal(pthread_join(thread, &byte), 0);
	return (unsigned char)(uintptr_t)byte;
}

static void fault_ends_later(struct world *w, struct testdev *dev, struct testdev *other)
{
	unsigned char *p = map_filled(4, 33);
	pthread_t first, second;

	to_device(w, dev, p, 2);
	to_device(w, other, p + 2 * page, 2);
	atomic_store(&dev->defer, true);
	first = toucher(dev, p);
	second = toucher(dev, p + page);
	/* Nobody is kept: the other device's fault is served, in this thread's time. */
	assert_holds(p + 2 * page, 2, 33, 2);
	assert_at(w, p, 2, HMM_PLACE_DEVICE);
	hmm_fault_done(dev->devmem, &dev->deferred[1]);
	assert_int_equal(joined(second), (unsigned char)pattern(33, 1, 0));
	hmm_fault_done(dev->devmem, &dev->deferred[0]);
	assert_int_equal(joined(first), (unsigned char)pattern(33, 0, 0));
	atomic_store(&dev->defer, false);
	assert_holds(p, 4, 33, 0);
	munmap(p, 4 * page);
}

/* A fault that the driver ends by itself keeps no handler, and ends in any order. */
static void driver_ends_a_fault_later(void **state)
{
	struct world *w = *state;

	fault_ends_later(w, w->dev, w->other);
}

/* The same from the thread of a devmem that is not fault safe. */
static void driver_ends_a_fault_later_unsafe(void **state)
{
	struct world *w = *state;

	fault_ends_later(w, w->other, w->dev);
}

/* The page was replaced while the driver had its fault: the CPU sees what is there now. */
static void fault_ends_after_its_page(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(2, 34);
	pthread_t thread;

	to_device(w, w->dev, p, 2);
	atomic_store(&w->dev->defer, true);
	thread = toucher(w->dev, p);
	assert_ptr_equal(mmap(p, page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p);
	hmm_fault_done(w->dev->devmem, &w->dev->deferred[0]);
	assert_int_equal(joined(thread), 0);
	atomic_store(&w->dev->defer, false);
	assert_holds(p + page, 1, 34, 1);
	munmap(p, 2 * page);
}

static uint64_t times_counted(struct world *w)
{
	struct hmm_times times = { .size = sizeof(times) };

	assert_int_equal(hmm_mm_fault_times(w->mm, &times), 0);
	return times.nr;
}

/*
 * Each fault on a page that was away is counted with the time that it took, however it
 * ends; one that the driver ends late has taken at least that long.
 */
static void faults_are_timed(void **state)
{
	struct world *w = *state;
	const uint64_t before = times_counted(w);
	struct hmm_times times = { .size = sizeof(times) };
	unsigned char *p = map_filled(8, 35);
	struct timespec start, now;
	pthread_t thread;

	assert_int_equal(hmm_mm_fault_times(w->mm, NULL), -EINVAL);
	times.size--;
	assert_int_equal(hmm_mm_fault_times(w->mm, &times), -EINVAL);
	times.size++;
	to_device(w, w->dev, p, 8);
	for (size_t i = 0; i < 6; i += 2)
		assert_holds(p + i * page, 1, 35, i);
	/* The CPU may be gone on before the handler has counted. */
	assert_true(eventually(times_counted(w) - before == moved(w, cpu_faults)));
	assert_true(moved(w, cpu_faults) >= 1);
	evict(w, p, 8);

	to_device(w, w->dev, p, 1);
	atomic_store(&w->dev->defer, true);
	thread = toucher(w->dev, p);
	assert_true(w->dev->deferred[0].read_ns > 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < 3000000);
	hmm_fault_done(w->dev->devmem, &w->dev->deferred[0]);
	joined(thread);
	atomic_store(&w->dev->defer, false);
	assert_int_equal(hmm_mm_fault_times(w->mm, &times), 0);
	assert_int_equal(times.nr - before, moved(w, cpu_faults));
	assert_true(times.max_ns >= 3000000);
	assert_true(hmm_times_ns(&times, 1000) == times.max_ns);
	munmap(p, 8 * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(threads_fault_on_one_page_at_once),
		world_test(no_write_is_lost_while_pages_migrate),
		world_test(driver_brings_neighbours_home),
		world_test(driver_ends_a_fault_later),
		world_test(driver_ends_a_fault_later_unsafe),
		world_test(fault_ends_after_its_page),
		world_test(faults_are_timed),
	};

	need_mm();
	return cmocka_run_group_tests_name("migrate_fault", tests, world_begin, world_end);
}
