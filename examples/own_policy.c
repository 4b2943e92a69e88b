/* SPDX-License-Identifier: MIT */
/*
 * A policy of one's own: a thread that keeps a buffer under a limit of RAM. The library
 * has none; it says where pages are, and moves those that it is asked to.
 */
#include <uhmm/plugin.h>

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define NR	8192		/* pages of the buffer */
#define LIMIT	1024		/* of them in RAM */

struct keeper {
	struct hmm_device device;
	uintptr_t base;
	size_t page, hand;	/* the hand: the next to look at */
	_Atomic int stop;
	_Atomic size_t in_ram;	/* pages, when the thread last looked */
	uint8_t places[NR];	/* the thread's; static data is never away */
};

static struct keeper keeper;

static size_t look(void)
{
	size_t nr = 0;

	if (hmm_residency(keeper.device.mm, keeper.base, keeper.base + NR * keeper.page,
			  keeper.places))
		return 0;
	for (size_t i = 0; i < NR; i++)
		nr += keeper.places[i] == HMM_PLACE_SYSTEM;
	atomic_store(&keeper.in_ram, nr);
	return nr;
}

/* From the hand on, round and round, until little enough is left: first in, first out. */
static void send_away(size_t too_many)
{
	for (size_t seen = 0; seen < NR && too_many; seen++, keeper.hand = (keeper.hand + 1) % NR) {
		const uintptr_t addr = keeper.base + keeper.hand * keeper.page;

		if (keeper.places[keeper.hand] == HMM_PLACE_SYSTEM &&
		    hmm_migrate_to_device(keeper.device.mm, keeper.device.devmem, addr,
					  addr + keeper.page, HMM_MIGRATE_SYSTEM, NULL) == 1)
			too_many--;
	}
}

static void *keep(void *arg)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	while (!atomic_load(&keeper.stop)) {
		size_t nr = look();

		if (nr > LIMIT)
			send_away(nr - LIMIT);
		nanosleep(&pause, NULL);
	}
	return arg;
}

static int run(uint64_t *sum)
{
	volatile uint64_t *words = (uint64_t *)keeper.base;
	const size_t step = keeper.page / sizeof(*words);
	pthread_t thread;

	if (pthread_create(&thread, NULL, keep, NULL))
		return -1;
	for (size_t i = 0; i < NR; i++)
		words[i * step] = i;
	/* All of it was touched, so the next look that finds little has sent the rest away. */
	for (atomic_store(&keeper.in_ram, NR); atomic_load(&keeper.in_ram) > LIMIT; )
		sched_yield();
	for (size_t i = 0; i < NR; i++)
		*sum += words[i * step];
	atomic_store(&keeper.stop, 1);
	return pthread_join(thread, NULL);
}

int main(void)
{
	const struct hmm_plugin *soft;
	char why[128] = "";
	uint64_t sum = 0;
	struct hmm_mm *mm;
	int ret;

	keeper.page = hmm_page_size();
	keeper.base = (uintptr_t)mmap(NULL, NR * keeper.page, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ret = hmm_mm_create(NULL, &mm);
	if (!ret)
		ret = hmm_plugin_load("soft", &soft, why, sizeof(why));
	if (!ret)
		ret = hmm_device_open(mm, soft, "mem=64M", &keeper.device);
	if (!ret && run(&sum))
		ret = -1;
	if (ret) {
		fprintf(stderr, "own_policy: %s; `uhmm doctor` says more\n", why[0] ? why : strerror(-ret));
		return 1;
	}
	printf("%d pages, kept to %d in RAM, sum %" PRIu64 "\n", NR, LIMIT, sum);
	if (sum != (uint64_t)NR * (NR - 1) / 2)
		return 1;
	return hmm_device_close(&keeper.device) || hmm_mm_destroy(mm);
}
