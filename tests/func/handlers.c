/* SPDX-License-Identifier: MIT */
/*
 * Many handlers: a fault wakes one of them, or two, that runs where the fault comes from,
 * and yet as many faults are served at once as there are handlers.
 */
#define _GNU_SOURCE
#include "world.h"

#include <dirent.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HANDLERS	16u
#define NR		512u

static int tids[64];		/* of the library's threads */
static size_t nr_tids;

static size_t threads(int *out, size_t max)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	size_t nr = 0;

	assert_non_null(dir);
	while ((entry = readdir(dir)) && nr < max)
		if (atoi(entry->d_name) > 0)
			out[nr++] = atoi(entry->d_name);
	closedir(dir);
	return nr;
}

static int begin(void **state)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = strict() ? HMM_MM_STRICT : 0,
		 .nr_handlers = HANDLERS);
	struct world *w = calloc(1, sizeof(*w));
	int before[8], after[ARRAY_LEN(tids)];
	size_t nr = threads(before, ARRAY_LEN(before)), nr_after;

	assert_non_null(w);
	assert_int_equal(hmm_mm_create(&opts, &w->mm), 0);
	nr_after = threads(after, ARRAY_LEN(after));
	for (size_t i = 0; i < nr_after; i++) {
		bool old = false;

		for (size_t j = 0; j < nr; j++)
			old |= after[i] == before[j];
		if (!old)
			tids[nr_tids++] = after[i];
	}
	assert_true(nr_tids >= HANDLERS);
	*state = w;
	return 0;
}

/* Each page of it faults once, one after the other. */
static void fault_all(struct world *w, unsigned char *p)
{
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR, 1, 0);
}

/* A file of /proc about the thread. */
static void read_task(int tid, const char *name, char *text, size_t size)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, name);
	file = fopen(path, "r");
	assert_non_null(file);
	text[fread(text, 1, size - 1, file)] = '\0';
	fclose(file);
}

static uint64_t sleeps_of(int tid)
{
	static const char key[] = "\nvoluntary_ctxt_switches:";
	char text[4096];
	const char *at;

	read_task(tid, "status", text, sizeof(text));
	at = strstr(text, key);
	assert_non_null(at);
	return strtoull(at + strlen(key), NULL, 10);
}

static uint64_t sleeps(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < nr_tids; i++)
		sum += sleeps_of(tids[i]);
	return sum;
}

static void a_fault_wakes_few_of_many_handlers(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	uint64_t before;

	fault_all(w, p);
	before = sleeps();
	fault_all(w, p);
	fault_all(w, p);
	/* Whoever is woken sleeps again, and some for a lock. */
	assert_true(sleeps() - before < 4 * 2 * NR);
	munmap(p, NR * page);
}

static _Atomic uint32_t inside;
static _Atomic bool too_few;

/* As a device that answers when all have asked. */
static int wait_for_all(struct testdev *dev, bool to_device, uint64_t index, uint64_t nr_pages)
{
	(void)dev;
	(void)index;
	(void)nr_pages;
	if (to_device)
		return 0;
	atomic_fetch_add(&inside, 1);
	if (!eventually(atomic_load(&inside) >= HANDLERS))
		atomic_store(&too_few, true);
	return 0;
}

struct toucher {
	pthread_t thread;
	unsigned char *p;
	uint64_t nr;
	bool right;
};

static void *touch(void *arg)
{
	struct toucher *t = arg;

	t->right = holds(t->p + t->nr * page, 1, 1, t->nr);
	return NULL;
}

static void as_many_faults_are_served_at_once_as_there_are_handlers(void **state)
{
	static struct toucher t[HANDLERS];
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);

	for (uint32_t round = rounds(20); round > 0; round--) {
		atomic_store(&inside, 0);
		fault_all(w, p);	/* one at a time: most sleep */
		to_device(w, w->dev, p, NR);
		w->dev->hook = wait_for_all;
		for (uint64_t i = 0; i < HANDLERS; i++) {
			t[i].p = p;
			t[i].nr = i * (NR / HANDLERS);
			assert_int_equal(pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
		}
		for (size_t i = 0; i < HANDLERS; i++) {
			pthread_join(t[i].thread, NULL);
			assert_true(t[i].right);
		}
		w->dev->hook = NULL;
		assert_false(atomic_load(&too_few));
		assert_holds(p, NR, 1, 0);
	}
	munmap(p, NR * page);
}

static _Atomic bool go_on;

/* As a device that is slow. */
static int wait_for_go_on(struct testdev *dev, bool to_device, uint64_t index, uint64_t nr_pages)
{
	(void)dev;
	(void)index;
	(void)nr_pages;
	if (to_device)
		return 0;
	atomic_fetch_add(&inside, 1);
	while (!atomic_load(&go_on))
		sched_yield();
	return 0;
}

/* A fault that the driver ends later; what it was told of other handlers. */
static uint32_t spare_of(struct world *w, struct toucher *t)
{
	atomic_store(&w->dev->nr_deferred, 0);
	atomic_store(&w->dev->defer, true);
	pthread_create(&t->thread, NULL, touch, t);
	while (!atomic_load(&w->dev->nr_deferred))
		sched_yield();
	atomic_store(&w->dev->defer, false);
	return w->dev->deferred[0].spare;
}

static void end_of(struct world *w, struct toucher *t)
{
	hmm_fault_done(w->dev->devmem, &w->dev->deferred[0]);
	pthread_join(t->thread, NULL);
}

/* While the others wait for a slow device nobody would meet the next fault; and else somebody. */
static void drivers_are_told_whether_a_handler_is_free(void **state)
{
	static struct toucher t[HANDLERS + 1];
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	uint32_t last, next = 0;

	for (uint64_t i = 0; i <= HANDLERS; i++) {
		t[i].p = p;
		t[i].nr = i * (NR / HANDLERS - 1);
	}
	to_device(w, w->dev, p, NR);
	atomic_store(&inside, 0);
	w->dev->hook = wait_for_go_on;
	for (uint64_t i = 0; i < HANDLERS - 1; i++)
		assert_int_equal(pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
	while (atomic_load(&inside) < HANDLERS - 1)
		sched_yield();
	last = spare_of(w, &t[HANDLERS - 1]);
	atomic_store(&go_on, true);
	end_of(w, &t[HANDLERS - 1]);
	for (uint64_t i = 0; i < HANDLERS - 1; i++)
		pthread_join(t[i].thread, NULL);
	w->dev->hook = NULL;
	/* Those that have served may not have come to wait again. */
	for (int tries = 0; tries < 1000 && !next; tries++) {
		to_device(w, w->dev, p + t[HANDLERS].nr * page, 1);
		next = spare_of(w, &t[HANDLERS]);
		end_of(w, &t[HANDLERS]);
	}
	for (size_t i = 0; i <= HANDLERS; i++)
		assert_true(t[i].right);
	assert_int_equal(last, 0);
	assert_int_equal(next, 1);
	munmap(p, NR * page);
}

static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* The handler that may run on @cpu alone. */
static int placed_on(int cpu)
{
	cpu_set_t set;
	int found = 0;

	for (size_t i = 0; i < nr_tids; i++) {
		if (sched_getaffinity(tids[i], sizeof(set), &set) || CPU_COUNT(&set) != 1 ||
		    !CPU_ISSET(cpu, &set))
			continue;
		assert_int_equal(found, 0);
		found = tids[i];
	}
	return found;
}

static bool sleeps_now(int tid)
{
	char text[512];
	const char *at;

	read_task(tid, "stat", text, sizeof(text));
	at = strrchr(text, ')');
	assert_non_null(at);
	return at[2] == 'S';
}

/*
 * How many of NR faults from @cpu the handler there slept between. Each comes when it has
 * come to wait again: who it wakes may well take its CPU from it before.
 */
static uint64_t met_near(struct world *w, unsigned char *p, int cpu)
{
	int near = placed_on(cpu);
	uint64_t before = near ? sleeps_of(near) : 0;

	to_device(w, w->dev, p, NR);
	for (size_t i = 0; i < NR; i++) {
		while (near && !sleeps_now(near))
			sched_yield();
		assert_holds(p + i * page, 1, 1, i);
	}
	return near ? sleeps_of(near) - before : 0;
}

/* Of a thread that asks for no call: by an rseq area. */
static bool libc_tells_cpus(void)
{
#ifdef __GLIBC__
	return strverscmp(gnu_get_libc_version(), "2.35") >= 0;
#else
	return false;
#endif
}

static void faults_are_met_where_they_come_from(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	cpu_set_t all;
	int cpus[2], nr = 0;

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	for (int cpu = 0; cpu < CPU_SETSIZE && nr < 2; cpu++)
		if (CPU_ISSET(cpu, &all))
			cpus[nr++] = cpu;
	if (nr < 2 || !libc_tells_cpus() || masked("thread-id")) {
		munmap(p, NR * page);
		print_message("          not here: needs two CPUs, glibc 2.35, thread-id\n");
		skip();
	}
	for (int i = 0; i < 4; i++) {
		run_on(cpus[i & 1]);
		while (met_near(w, p, cpus[i & 1]) < NR * 3 / 4)
			;
	}
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(a_fault_wakes_few_of_many_handlers),
		world_test(as_many_faults_are_served_at_once_as_there_are_handlers),
		world_test(drivers_are_told_whether_a_handler_is_free),
		world_test(faults_are_met_where_they_come_from),
	};

	need_mm();
	return cmocka_run_group_tests_name("handlers", tests, begin, world_end);
}
