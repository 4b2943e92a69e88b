/* SPDX-License-Identifier: MIT */
/*
 * Trials of open and close.
 */
#include "kit.h"

#include <pthread.h>
#include <string.h>

/* Opened and closed again and again, each time with pages on it. */
void open_and_close(struct kit *kit)
{
	size_t nr = kit->pages < 64 ? kit->pages : 64;
	unsigned char *p = map_pages(kit, 64);

	fill(kit, p, 64, 11);
	for (int round = 0; round < 4; round++) {
		doing("closing and opening, round %d", round + 1);
		if (nr && watch_has_alloc(kit->watched))
			to_device(kit, p, nr);
		device_close(&kit->device);
		if (watch_devmems() || watch_notifiers())
			broke(D_CLOSES, "close() left %u device memories and %u notifiers",
			      watch_devmems(), watch_notifiers());
		must_hold(kit, D_CLOSES, p, 64, 11, 0, "after close()");
		device_open(kit, &kit->device);
		kit->watched = kit->device.devmem ? watch_of(kit->device.devmem) : NULL;
	}
	unmap_pages(kit, p, 64);
}

/* Two devices of one driver share an mm: closing one leaves the other's pages alone. */
void two_at_a_time(struct kit *kit)
{
	size_t nr = (kit->pages < 128 ? kit->pages : 128) / 2;
	unsigned char *p, *q;
	struct hmm_device second;

	if (!nr)
		not_offered("the device has too few pages");
	doing("opening a second device");
	if (hmm_device_open(kit->mm, kit->plugin, kit->options, &second))
		not_offered("no second device of this driver");
	p = map_pages(kit, nr);
	q = map_pages(kit, nr);
	fill(kit, p, nr, 12);
	fill(kit, q, nr, 13);
	doing("two devices are used by turns");
	to_device(kit, p, nr);
	if (try_device(kit, &second, q, nr) < 0)
		broke(D_ARRIVES, "%s: nothing goes to the second", verdict->doing);
	device_close(&second);
	if (count_at(kit, p, nr, HMM_PLACE_DEVICE) != nr)
		broke(D_CLOSES, "closing one device moved the other's pages");
	must_hold(kit, D_BYTES, q, nr, 13, 0, "after close() of the second device");
	must_hold(kit, D_BYTES, p, nr, 12, 0, "after close() of the second device");
	unmap_pages(kit, p, nr);
	unmap_pages(kit, q, nr);
}

struct user {
	struct kit *kit;
	unsigned char *p;
	size_t nr;
	unsigned int seed;
	_Atomic bool *stop;
};

/* Its own pages: each holds the number of times it was touched. */
static void *use(void *arg)
{
	struct user *u = arg;
	uint32_t times[64] = { 0 };

	while (!atomic_load(u->stop)) {
		size_t i = (size_t)__builtin_popcountll(u->seed * 0x9e3779b97f4a7c15ULL) % u->nr;
		volatile uint32_t *word = (volatile uint32_t *)(void *)(u->p + i * u->kit->page);

		u->seed = u->seed * 1103515245 + 12345;
		if (*word != times[i])
			broke(D_CLOSES, "while the device is closed a page has %u instead of %u",
			      *word, times[i]);
		*word = ++times[i];
	}
	return NULL;
}

/* The device goes while threads use the pages on it. */
void closed_while_in_use(struct kit *kit)
{
	enum { THREADS = 3 };
	size_t nr = kit->pages / THREADS < 64 ? kit->pages / THREADS : 64;
	struct user users[THREADS];
	pthread_t threads[THREADS];
	_Atomic bool stop = false;
	int64_t ret;

	if (!nr)
		not_offered("the device has too few pages");
	for (int i = 0; i < THREADS; i++) {
		users[i] = (struct user){ kit, map_pages(kit, nr), nr, kit->seed + (unsigned int)i,
					  &stop };
		if (pthread_create(&threads[i], NULL, use, &users[i]))
			cannot("no thread");
	}
	for (int round = 0; round < 8; round++) {
		doing("closing the device while threads touch its pages, round %d", round + 1);
		for (int i = 0; i < THREADS; i++) {
			ret = try_device(kit, &kit->device, users[i].p, nr);
			if (ret < 0)
				broke(D_ARRIVES, "%s: nothing goes to the device: %s",
				      verdict->doing, strerror((int)-ret));
		}
		device_close(&kit->device);
		device_open(kit, &kit->device);
		kit->watched = watch_of(kit->device.devmem);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		unmap_pages(kit, users[i].p, nr);
	}
}
