/* SPDX-License-Identifier: MIT */
#include "core/roster.h"

#include <errno.h>

#include "core/arena.h"

#define LOOK_EVERY	32u	/* faults: a look costs about what a fault costs */
#define LIFE		16u
#define IDLE_ROUNDS	8u

static uint32_t nr_idle(const struct roster *roster)
{
	uint32_t busy = atomic_load(&roster->busy), awake = atomic_load(&roster->awake);

	return awake > busy ? awake - busy : 0;
}

/* How many are to be awake when nothing is going on. Lock held. */
static uint32_t wanted(const struct roster *roster)
{
	uint32_t nr = 1;

	for (uint32_t i = 0; i < ROSTER_PLACES; i++)
		nr += roster->places[i].by != NULL;
	return nr < 2 ? 2 : nr;
}

/* Lock held. */
static void rouse(struct roster *roster, struct watcher *watcher)
{
	atomic_store_explicit(&watcher->awake, 1, memory_order_relaxed);
	atomic_fetch_add(&roster->awake, 1);
	sys_futex_wake(&watcher->awake, 1);
}

/* Some watcher that has no place: one that rests, else @any. NULL: none. Lock held. */
static struct watcher *unplaced(struct roster *roster, bool any)
{
	struct watcher *found = NULL;

	for (uint32_t i = 0; i < roster->nr; i++) {
		struct watcher *watcher = &roster->watchers[i];

		if (!atomic_load_explicit(&watcher->awake, memory_order_relaxed))
			return watcher;
		if (atomic_load_explicit(&watcher->cpu, memory_order_relaxed) == ROSTER_ANYWHERE)
			found = watcher;
	}
	return any ? found : NULL;
}

/* Where there is one for each CPU, it stays there. */
static void place_all(struct roster *roster)
{
	unsigned int cpus[ROSTER_PLACES + 1];
	unsigned int nr_cpus = sys_cpus(cpus, ROSTER_PLACES + 1);

	if (roster->all && nr_cpus <= roster->nr)
		for (uint32_t i = 0; i < nr_cpus; i++)
			atomic_init(&roster->watchers[i].cpu, cpus[i]);
}

int roster_init(struct roster *roster, uint32_t nr)
{
	/* Where that is not told nobody is moved back to anywhere. */
	(void)sys_run_where(&roster->home);
	roster->watchers = arena_alloc(nr * sizeof(*roster->watchers));
	if (!roster->watchers)
		return -ENOMEM;
	lock_init(&roster->lock, RANK_ROSTER);
	roster->nr = nr;
	roster->all = nr <= ROSTER_PLACES + 1;
	roster->ending = false;
	for (uint32_t i = 0; i < nr; i++) {
		struct watcher *watcher = &roster->watchers[i];

		atomic_init(&watcher->awake, roster->all || i < 2);
		atomic_init(&watcher->cpu, ROSTER_ANYWHERE);
		watcher->at = ROSTER_ANYWHERE;
		watcher->served = LOOK_EVERY;	/* look at the first fault */
	}
	atomic_init(&roster->busy, 0);
	atomic_init(&roster->polling, 0);
	atomic_init(&roster->more, false);
	atomic_init(&roster->awake, roster->all ? nr : 2);
	place_all(roster);
	return 0;
}

void roster_destroy(struct roster *roster)
{
	arena_free(roster->watchers, roster->nr * sizeof(*roster->watchers));
	roster->watchers = NULL;
	roster->nr = 0;
}

/* It met nothing for a while: has it any reason to stay? */
static void rest(struct roster *roster, struct watcher *watcher)
{
	lock_acquire(&roster->lock);
	if (!roster->ending &&
	    atomic_load_explicit(&watcher->cpu, memory_order_relaxed) == ROSTER_ANYWHERE &&
	    atomic_load(&roster->awake) > wanted(roster)) {
		atomic_fetch_sub(&roster->awake, 1);
		if (nr_idle(roster))
			atomic_store_explicit(&watcher->awake, 0, memory_order_relaxed);
		else
			atomic_fetch_add(&roster->awake, 1);
	}
	lock_release(&roster->lock);
	watcher->idle = 0;
}

static void take_place(const struct roster *roster, struct watcher *watcher)
{
	uint32_t cpu = atomic_load_explicit(&watcher->cpu, memory_order_relaxed);

	if (cpu == watcher->at)
		return;
	/* One that is not ours to run on: anywhere is good enough. */
	if (cpu == ROSTER_ANYWHERE || sys_pin_to_cpu(cpu))
		sys_run_on(&roster->home);
	watcher->at = cpu;
}

bool roster_enter(struct roster *roster, struct watcher *watcher)
{
	if (!roster->all && ++watcher->idle > IDLE_ROUNDS)
		rest(roster, watcher);
	take_place(roster, watcher);
	while (!atomic_load_explicit(&watcher->awake, memory_order_relaxed)) {
		sys_futex_wait(&watcher->awake, 0, NULL);
		take_place(roster, watcher);
	}
	atomic_fetch_add(&roster->polling, 1);
	return atomic_load(&roster->more) && atomic_exchange(&roster->more, false);
}

void roster_leave(struct roster *roster)
{
	atomic_fetch_sub(&roster->polling, 1);
}

static void rouse_one(struct roster *roster)
{
	struct watcher *watcher;

	lock_acquire(&roster->lock);
	watcher = nr_idle(roster) ? NULL : unplaced(roster, false);
	if (watcher)
		rouse(roster, watcher);
	lock_release(&roster->lock);
}

void roster_begin(struct roster *roster)
{
	atomic_fetch_add(&roster->busy, 1);
	if (!roster->all && !nr_idle(roster))
		rouse_one(roster);
}

void roster_end(struct roster *roster)
{
	atomic_fetch_sub(&roster->busy, 1);
}

bool roster_more(struct roster *roster)
{
	uint32_t idle;

	atomic_store(&roster->more, true);
	if (!roster->all && !nr_idle(roster))
		rouse_one(roster);
	idle = nr_idle(roster);
	return idle && atomic_load(&roster->polling) >= idle;
}

bool roster_met(const struct roster *roster, struct watcher *watcher, uint32_t nr)
{
	if (roster->all)
		return false;
	watcher->idle = 0;
	watcher->served += nr;
	if (watcher->served < LOOK_EVERY)
		return false;
	watcher->served = 0;
	return true;
}

/* Lock held. */
static void give_up(struct roster_place *place)
{
	atomic_store_explicit(&place->by->cpu, ROSTER_ANYWHERE, memory_order_relaxed);
	place->by = NULL;
}

/* One that is free, or was not seen for longest. Lock held. */
static struct roster_place *place_for(struct roster *roster)
{
	struct roster_place *found = &roster->places[0];

	for (uint32_t i = 0; i < ROSTER_PLACES && found->by; i++)
		if (!roster->places[i].by || roster->places[i].life < found->life)
			found = &roster->places[i];
	if (found->by)
		give_up(found);
	return found;
}

/* Whose time is over goes; is @cpu among those that stay? Lock held. */
static bool age(struct roster *roster, uint32_t cpu)
{
	bool known = false;

	for (uint32_t i = 0; i < ROSTER_PLACES; i++) {
		struct roster_place *place = &roster->places[i];

		if (!place->by)
			continue;
		if (place->cpu == cpu) {
			place->life = LIFE;
			known = true;
		} else if (!--place->life) {
			give_up(place);
		}
	}
	return known;
}

void roster_seen(struct roster *roster, uint32_t cpu)
{
	struct watcher *watcher;

	lock_acquire(&roster->lock);
	if (!age(roster, cpu)) {
		struct roster_place *place = place_for(roster);

		watcher = unplaced(roster, true);
		if (watcher) {
			*place = (struct roster_place){ .by = watcher, .cpu = cpu, .life = LIFE };
			atomic_store_explicit(&watcher->cpu, cpu, memory_order_relaxed);
			if (!atomic_load_explicit(&watcher->awake, memory_order_relaxed))
				rouse(roster, watcher);
		}
	}
	lock_release(&roster->lock);
}

void roster_end_rest(struct roster *roster)
{
	lock_acquire(&roster->lock);
	roster->ending = true;
	for (uint32_t i = 0; i < roster->nr; i++)
		if (!atomic_load_explicit(&roster->watchers[i].awake, memory_order_relaxed))
			rouse(roster, &roster->watchers[i]);
	lock_release(&roster->lock);
}
