/* SPDX-License-Identifier: MIT */
#include "core/roster.h"

#include <errno.h>
#include <string.h>

#include "core/arena.h"

#define CPUS_MAX	65u	/* one more than there may be handlers */

static uint32_t where(const struct watcher *watcher)
{
	return atomic_load_explicit(&watcher->cpu, memory_order_relaxed);
}

/* How many an epoll may hold in all is the user's limit, which is no more than memory. */
static int add(int wait_fd, int fd, uint64_t ticket, bool exclusive)
{
	int ret = exclusive ? sys_epoll_add_exclusive(wait_fd, fd, ticket) :
			      sys_epoll_add(wait_fd, fd, ticket);

	return ret == -ENOSPC ? -ENOMEM : ret;
}

/* Where there is one for each CPU, it stays there. */
static void place_all(struct roster *roster)
{
	unsigned int cpus[CPUS_MAX];
	unsigned int nr_cpus = sys_cpus(cpus, CPUS_MAX);

	roster->all = nr_cpus && nr_cpus <= roster->nr;
	for (uint32_t i = 0; roster->all && i < nr_cpus; i++)
		atomic_init(&roster->watchers[i].cpu, cpus[i]);
}

int roster_init(struct roster *roster, uint32_t nr, bool blind)
{
	int ret;

	memset(roster, 0, sizeof(*roster));
	roster->watchers = arena_alloc(nr * sizeof(*roster->watchers));
	if (!roster->watchers)
		return -ENOMEM;
	lock_init(&roster->lock, RANK_ROSTER);
	roster->nr = nr;
	roster->blind = blind;
	for (uint32_t i = 0; i < nr; i++)
		roster->watchers[i] = (struct watcher){ .wait_fd = -1, .cpu = ROSTER_ANYWHERE };
	roster->bell_fd = sys_eventfd();
	ret = roster->bell_fd < 0 ? roster->bell_fd : 0;
	for (uint32_t i = 0; i < nr && !ret; i++) {
		int fd = sys_epoll_open();

		roster->watchers[i].wait_fd = fd;
		ret = fd < 0 ? fd : add(fd, roster->bell_fd, ROSTER_BELL, true);
	}
	if (ret) {
		roster_destroy(roster);
		return ret;
	}
	place_all(roster);
	return 0;
}

void roster_destroy(struct roster *roster)
{
	for (uint32_t i = 0; i < roster->nr; i++)
		sys_close(roster->watchers[i].wait_fd);
	if (roster->watchers)
		sys_close(roster->bell_fd);
	arena_free(roster->watchers, roster->nr * sizeof(*roster->watchers));
	roster->watchers = NULL;
	roster->nr = 0;
}

/* Behind those that are there; or before them all, and not in one's stead. Lock held. */
static int join(const struct roster *roster, const struct watched *watched, uint32_t i)
{
	return add(roster->watchers[i].wait_fd, watched->fd, watched->ticket,
		   !roster->blind || i > 0);
}

void roster_watched_init(struct watched *watched, uint32_t look_every)
{
	memset(watched, 0, sizeof(*watched));
	watched->look_every = look_every;
	watched->fd = -1;
}

int roster_add(struct roster *roster, struct watched *watched, int fd, uint64_t ticket)
{
	int ret = 0;

	lock_acquire(&roster->lock);
	watched->fd = fd;
	watched->ticket = ticket;
	for (uint32_t i = 0; i < roster->nr && !ret; i++)
		ret = join(roster, watched, i);
	lock_release(&roster->lock);
	if (ret)
		roster_remove(roster, watched);
	return ret;
}

void roster_remove(struct roster *roster, struct watched *watched)
{
	lock_acquire(&roster->lock);
	for (uint32_t i = 0; i < roster->nr && watched->fd >= 0; i++)
		sys_epoll_remove(roster->watchers[i].wait_fd, watched->fd);
	watched->fd = -1;
	lock_release(&roster->lock);
}

void roster_begin(struct roster *roster, struct watcher *watcher)
{
	lock_acquire(&roster->lock);
	watcher->tid = sys_gettid();
	/* One that is not ours to run on: anywhere is good enough. */
	if (where(watcher) != ROSTER_ANYWHERE && sys_pin_to_cpu(watcher->tid, where(watcher)))
		atomic_store_explicit(&watcher->cpu, ROSTER_ANYWHERE, memory_order_relaxed);
	lock_release(&roster->lock);
}

int roster_wait(struct roster *roster, struct watcher *watcher, uint64_t *tickets, int max,
		bool *more)
{
	int nr;

	atomic_fetch_add(&roster->polling, 1);
	*more = atomic_load(&roster->more) && atomic_exchange(&roster->more, false);
	nr = sys_epoll_wait(watcher->wait_fd, tickets, max, *more ? 0 : -1);
	atomic_fetch_sub(&roster->polling, 1);
	for (int i = 0; i < nr; i++)
		if (tickets[i] == ROSTER_BELL)
			sys_eventfd_clear(roster->bell_fd);
	return nr;
}

bool roster_has_spare(const struct roster *roster)
{
	return atomic_load_explicit(&roster->polling, memory_order_relaxed) > 0;
}

void roster_ring(struct roster *roster)
{
	sys_eventfd_signal(roster->bell_fd);
}

void roster_work(struct roster *roster)
{
	atomic_fetch_add(&roster->busy, 1);
	/* Who has more may have taken us for one that comes to do it. */
	if (atomic_load(&roster->more))
		roster_more(roster);
}

void roster_done(struct roster *roster)
{
	atomic_fetch_sub(&roster->busy, 1);
}

void roster_more(struct roster *roster)
{
	uint32_t busy, polling;

	atomic_store(&roster->more, true);
	busy = atomic_load(&roster->busy);
	polling = atomic_load(&roster->polling);
	/* Else somebody is on the way to wait, or to work, and finds it. */
	if (polling && busy + polling >= roster->nr)
		roster_ring(roster);
}

uint32_t roster_where(const struct roster *roster, const struct watched *watched)
{
	return where(&roster->watchers[atomic_load_explicit(&watched->first, memory_order_relaxed)]);
}

bool roster_met(const struct roster *roster, struct watched *watched, uint32_t nr)
{
	uint32_t served;

	if (roster->nr == 1 || roster->blind)
		return false;
	served = atomic_fetch_add_explicit(&watched->served, nr, memory_order_relaxed) + nr;
	if (served < watched->look_every)
		return false;
	atomic_store_explicit(&watched->served, 0, memory_order_relaxed);
	return true;
}

/* Who runs on @cpu: where not all have their places, whoever was wanted last of all. Lock held. */
static struct watcher *watcher_at(struct roster *roster, uint32_t cpu)
{
	struct watcher *last = &roster->watchers[0];

	for (uint32_t i = 0; i < roster->nr; i++) {
		struct watcher *watcher = &roster->watchers[i];

		if (where(watcher) == cpu)
			return watcher;
		if (watcher->met < last->met)
			last = watcher;
	}
	if (roster->all || !last->tid || sys_pin_to_cpu(last->tid, cpu))
		return NULL;
	atomic_store_explicit(&last->cpu, cpu, memory_order_relaxed);
	return last;
}

/*
 * The others leave the queue and join it behind @first. Whoever cannot, for want of the kernel's
 * memory, meets no more of these faults; and may have been woken for one that it does not
 * find any more: false. Lock held.
 */
static bool put_first(const struct roster *roster, struct watched *watched, uint32_t first)
{
	int ret = join(roster, watched, first);
	bool all = true;

	if (ret && ret != -EEXIST)
		return true;	/* as it was */
	for (uint32_t i = 0; i < roster->nr; i++) {
		if (i == first)
			continue;
		sys_epoll_remove(roster->watchers[i].wait_fd, watched->fd);
		all &= !join(roster, watched, i);
	}
	atomic_store_explicit(&watched->first, first, memory_order_relaxed);
	return all;
}

void roster_near(struct watched *watched)
{
	if (atomic_load_explicit(&watched->doubts, memory_order_relaxed))
		atomic_store_explicit(&watched->doubts, 0, memory_order_relaxed);
}

/*
 * Where it takes long to turn the queue, since many are in it, it has to be worth it: threads that
 * fault at once, here and there, would have it turned all the time. Lock held.
 */
static bool doubted_enough(const struct roster *roster, struct watched *watched, uint32_t cpu)
{
	uint32_t doubts = atomic_load_explicit(&watched->doubts, memory_order_relaxed);

	doubts = watched->better == cpu ? doubts + 1 : 1;
	watched->better = cpu;
	if (doubts > roster->nr / 8)
		doubts = 0;
	atomic_store_explicit(&watched->doubts, doubts, memory_order_relaxed);
	return !doubts;
}

bool roster_seen(struct roster *roster, struct watched *watched, uint32_t cpu)
{
	struct watcher *watcher = NULL;
	bool all = true;

	lock_acquire(&roster->lock);
	if (watched->fd >= 0 && roster_where(roster, watched) == cpu)
		roster_near(watched);
	else if (watched->fd >= 0 && doubted_enough(roster, watched, cpu))
		watcher = watcher_at(roster, cpu);
	if (watcher) {
		watcher->met = ++roster->looks;
		all = put_first(roster, watched, (uint32_t)(watcher - roster->watchers));
	}
	lock_release(&roster->lock);
	return all;
}
