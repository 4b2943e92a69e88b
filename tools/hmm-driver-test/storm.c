/* SPDX-License-Identifier: MIT */
/*
 * Everything at once: CPUs, the device, migrations both ways and changes of mappings
 * on the same pages. Each page has a word that only its CPU thread writes and a word
 * that only the device thread writes; each writer knows what it wrote last.
 */
#include "kit.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CPUS		2
#define PAGES		48
#define SECONDS		1

struct storm {
	struct kit *kit;
	unsigned char *p;
	size_t nr;
	_Atomic bool stop;
	uint64_t last[CPUS][PAGES];	/* what each CPU thread wrote to its word */
	uint64_t device_last[PAGES];
	_Atomic uint64_t accesses, moves;
};

struct sailor {
	struct storm *storm;
	unsigned int cpu, seed;
};

static uint64_t *word_of(struct storm *s, size_t page, size_t word)
{
	return (uint64_t *)(void *)(s->p + page * s->kit->page) + word * 9;
}

static void *cpu_main(void *arg)
{
	struct sailor *me = arg;
	struct storm *s = me->storm;

	while (!atomic_load(&s->stop)) {
		size_t i = (size_t)rand_r(&me->seed) % s->nr;
		volatile uint64_t *word = word_of(s, i, me->cpu);

		if (*word != s->last[me->cpu][i])
			broke(D_BYTES, "everything at once: a word that a CPU wrote as %llu"
			      " reads %llu", (unsigned long long)s->last[me->cpu][i],
			      (unsigned long long)*word);
		*word = ++s->last[me->cpu][i];
		atomic_fetch_add(&s->accesses, 1);
	}
	return NULL;
}

static void *device_main(void *arg)
{
	struct sailor *me = arg;
	struct storm *s = me->storm;
	uint64_t seen, next;

	while (!atomic_load(&s->stop)) {
		size_t i = (size_t)rand_r(&me->seed) % s->nr;

		if (dev_read(s->kit, word_of(s, i, CPUS), &seen, sizeof(seen)))
			broke(D_SEES, "everything at once: the device cannot read");
		if (seen != s->device_last[i])
			broke(D_SEES, "everything at once: a word that the device wrote as %llu"
			      " reads %llu", (unsigned long long)s->device_last[i],
			      (unsigned long long)seen);
		next = seen + 1;
		if (dev_write(s->kit, word_of(s, i, CPUS), &next, sizeof(next)))
			broke(D_SEES, "everything at once: the device cannot write");
		s->device_last[i] = next;
		atomic_fetch_add(&s->accesses, 1);
	}
	return NULL;
}

static void *mover_main(void *arg)
{
	struct sailor *me = arg;
	struct storm *s = me->storm;
	size_t room = s->kit->pages < s->nr ? s->kit->pages : s->nr;

	while (!atomic_load(&s->stop)) {
		size_t i = (size_t)rand_r(&me->seed) % s->nr;
		size_t n = 1 + (size_t)rand_r(&me->seed) % room;
		int64_t ret;

		n = n < s->nr - i ? n : s->nr - i;
		if (rand_r(&me->seed) % 3)
			ret = try_device(s->kit, &s->kit->device, s->p + i * s->kit->page, n);
		else
			ret = hmm_devmem_evict(s->kit->device.devmem,
					       (uint64_t)rand_r(&me->seed) % s->kit->pages, 1);
		(void)ret;	/* what goes, goes; the words tell */
		atomic_fetch_add(&s->moves, 1);
		sched_yield();	/* movers alone would show nothing */
	}
	return NULL;
}

static void settle(struct storm *s)
{
	for (size_t i = 0; i < s->nr; i++) {
		for (unsigned int cpu = 0; cpu < CPUS; cpu++)
			if (*word_of(s, i, cpu) != s->last[cpu][i])
				broke(D_BYTES, "everything at once: at the end a CPU's word is"
				      " another");
		if (*word_of(s, i, CPUS) != s->device_last[i])
			broke(D_SEES, "everything at once: at the end the device wrote %llu and"
			      " the CPU reads %llu", (unsigned long long)s->device_last[i],
			      (unsigned long long)*word_of(s, i, CPUS));
	}
}

void everything_at_once(struct kit *kit)
{
	bool view = kit->plugin->read && kit->plugin->write;
	void *(*const mains[])(void *) = {
		cpu_main, cpu_main, mover_main, mover_main, device_main,
	};
	size_t nr_threads = ARRAY_LEN(mains) - !view;
	struct storm *storm = calloc(1, sizeof(*storm));
	struct sailor sailors[ARRAY_LEN(mains)];
	pthread_t threads[ARRAY_LEN(mains)];
	struct timespec length = { .tv_sec = SECONDS };

	if (!storm)
		cannot("no memory");
	storm->kit = kit;
	storm->nr = PAGES;
	storm->p = map_pages(kit, PAGES);
	doing("everything at once");
	for (size_t i = 0; i < nr_threads; i++) {
		sailors[i] = (struct sailor){ storm, (unsigned int)i, kit->seed + (unsigned int)i };
		if (pthread_create(&threads[i], NULL, mains[i], &sailors[i]))
			cannot("no thread");
	}
	nanosleep(&length, NULL);
	atomic_store(&storm->stop, true);
	for (size_t i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	settle(storm);
	note("%llu accesses, %llu migrations", (unsigned long long)atomic_load(&storm->accesses),
	     (unsigned long long)atomic_load(&storm->moves));
	unmap_pages(kit, storm->p, PAGES);
	free(storm);
}
