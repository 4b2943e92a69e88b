/* SPDX-License-Identifier: MIT */
/*
 * Who of the handlers is woken. The crew are threads that wait as handlers do, and stay at
 * work until they are let go; the userfaultfd is an eventfd. How many CPUs there are, and
 * who is pinned where, is the story's (--wrap, see meson.build).
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/roster.h"

#define TICKET		77u
#define CREW_MAX	4u
#define TEST_SECONDS	60

int __real_sys_epoll_add_exclusive(int epoll, int fd, uint64_t data);

int __wrap_sys_epoll_add_exclusive(int epoll, int fd, uint64_t data);
unsigned int __wrap_sys_cpus(unsigned int *cpus, unsigned int max);
int __wrap_sys_pin_to_cpu(uint32_t tid, unsigned int cpu);

static unsigned int machine_cpus;
static uint32_t pinned[64];		/* by CPU: the last thread that was; 0: none */
static int refused;			/* the epoll that has no room, or none */

unsigned int __wrap_sys_cpus(unsigned int *cpus, unsigned int max)
{
	unsigned int nr = machine_cpus < max ? machine_cpus : max;

	for (unsigned int i = 0; i < nr; i++)
		cpus[i] = i;
	return nr;
}

int __wrap_sys_epoll_add_exclusive(int epoll, int fd, uint64_t data)
{
	return refused == epoll ? -ENOSPC : __real_sys_epoll_add_exclusive(epoll, fd, data);
}

int __wrap_sys_pin_to_cpu(uint32_t tid, unsigned int cpu)
{
	pinned[cpu] = tid;
	return 0;
}

static struct roster roster;
static struct watched watched;
static int fault_fd;
static _Atomic bool ending;

#define RUNG	0x10000u

static struct member {
	struct watcher *watcher;
	pthread_t thread;
	sem_t go;
	_Atomic uint32_t seen;	/* faults, and from RUNG up how often it was rung */
	_Atomic bool waits;
} crew[CREW_MAX];

static void *member_main(void *arg)
{
	struct member *m = arg;

	roster_begin(&roster, m->watcher);
	for (;;) {
		uint64_t tickets[4];
		uint32_t seen = 0;
		bool more;
		int nr;

		atomic_store(&m->waits, true);
		nr = roster_wait(&roster, m->watcher, tickets, 4, &more);
		atomic_store(&m->waits, false);
		if (atomic_load(&ending)) {
			roster_ring(&roster);
			return NULL;
		}
		for (int i = 0; i < nr; i++)
			seen += tickets[i] == TICKET ? 1 : RUNG;
		seen += more ? RUNG : 0;
		atomic_fetch_add(&m->seen, seen);
		if (seen)
			sem_wait(&m->go);
	}
}

/* In the kernel, where only an event wakes it. */
static bool sleeps(const struct member *m)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%u/stat", m->watcher->tid);
	f = atomic_load(&m->waits) ? fopen(path, "r") : NULL;
	if (!f)
		return false;
	if (fscanf(f, "%*d %*s %c", &state) != 1)
		state = 0;
	fclose(f);
	return state == 'S' && atomic_load(&m->waits);
}

static void all_wait(void)
{
	for (uint32_t i = 0; i < roster.nr; i++)
		while (!sleeps(&crew[i]))
			sched_yield();
}

static void crew_begin(uint32_t nr, unsigned int cpus, bool blind)
{
	machine_cpus = cpus;
	atomic_store(&ending, false);
	for (unsigned int i = 0; i < 64; i++)
		pinned[i] = 0;
	assert_int_equal(roster_init(&roster, nr, blind), 0);
	fault_fd = eventfd(0, EFD_NONBLOCK);
	roster_watched_init(&watched, 2);
	assert_int_equal(roster_add(&roster, &watched, fault_fd, TICKET), 0);
	for (uint32_t i = 0; i < nr; i++) {
		crew[i] = (struct member){ .watcher = &roster.watchers[i] };
		sem_init(&crew[i].go, 0, 0);
		assert_int_equal(pthread_create(&crew[i].thread, NULL, member_main, &crew[i]), 0);
	}
	all_wait();
}

static void crew_end(void)
{
	uint32_t nr = roster.nr;

	all_wait();
	atomic_store(&ending, true);
	roster_ring(&roster);
	for (uint32_t i = 0; i < nr; i++)
		pthread_join(crew[i].thread, NULL);
	roster_remove(&roster, &watched);
	roster_destroy(&roster);
	close(fault_fd);
}

/* One bit for each who met something; waits until @nr have. */
static uint32_t who_met(uint32_t nr)
{
	uint32_t who = 0, seen = 0;

	while (seen < nr) {
		sched_yield();
		who = seen = 0;
		for (uint32_t i = 0; i < roster.nr; i++)
			if (atomic_load(&crew[i].seen)) {
				who |= 1u << i;
				seen++;
			}
	}
	return who;
}

static void fault(void)
{
	assert_int_equal(eventfd_write(fault_fd, 1), 0);
}

/* The work of those who met something is done, until all wait. */
static void done(void)
{
	eventfd_t unused;

	(void)eventfd_read(fault_fd, &unused);
	for (uint32_t i = 0; i < roster.nr; i++)
		do {
			if (atomic_exchange(&crew[i].seen, 0))
				sem_post(&crew[i].go);
			sched_yield();
		} while (!sleeps(&crew[i]));
}

/* A fault is met by one, the first; while that works the next is met by another. */
static void one_is_woken_and_then_the_next(void **state)
{
	(void)state;
	crew_begin(3, 3, false);
	for (int round = 0; round < 20; round++) {
		fault();
		assert_int_equal(who_met(1), 1);
		fault();
		assert_int_equal(who_met(2), 3);
		done();
	}
	crew_end();
}

/* Whoever runs where the faults come from is the first, and the others come after it. */
static void who_is_near_is_woken(void **state)
{
	(void)state;
	crew_begin(3, 3, false);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(pinned[i], roster.watchers[i].tid);
	for (int round = 0; round < 20; round++) {
		uint32_t cpu = (uint32_t)round * 2 % 3;

		roster_seen(&roster, &watched, cpu);
		fault();
		assert_int_equal(who_met(1), 1u << cpu);
		fault();
		who_met(2);
		done();
	}
	/* One that is nobody's: all stays as it is. */
	roster_seen(&roster, &watched, 1);
	roster_seen(&roster, &watched, 9);
	fault();
	assert_int_equal(who_met(1), 2);
	done();
	crew_end();
}

/* Where there are more CPUs than handlers, whoever was wanted last of all moves. */
static void few_are_placed_where_they_are_wanted(void **state)
{
	static const struct { uint32_t cpu, who; } looks[] = {
		{ 5, 0 }, { 6, 1 }, { 5, 0 }, { 7, 2 }, { 8, 1 }, { 5, 0 }, { 6, 2 }, { 8, 1 },
	};

	(void)state;
	crew_begin(3, 40, false);
	for (unsigned int cpu = 0; cpu < 40; cpu++)
		assert_int_equal(pinned[cpu], 0);
	for (size_t i = 0; i < sizeof(looks) / sizeof(looks[0]); i++) {
		roster_seen(&roster, &watched, looks[i].cpu);
		assert_int_equal(pinned[looks[i].cpu], roster.watchers[looks[i].who].tid);
		fault();
		assert_int_equal(who_met(1), 1u << looks[i].who);
		done();
	}
	crew_end();
}

/* Where nobody can tell where a thread runs, two are woken: one of them may be near. */
static void the_blind_wake_two(void **state)
{
	(void)state;
	crew_begin(4, 4, true);
	for (int round = 0; round < 20; round++) {
		fault();
		assert_int_equal(who_met(2), 3);
		assert_false(roster_met(&roster, &watched, 100));
		done();
	}
	crew_end();
}

/* A look is due at every second fault, as this story's userfaultfd was added. */
static void looks_are_due_now_and_then(void **state)
{
	(void)state;
	crew_begin(2, 2, false);
	assert_false(roster_met(&roster, &watched, 1));
	assert_true(roster_met(&roster, &watched, 1));
	assert_false(roster_met(&roster, &watched, 1));
	assert_true(roster_met(&roster, &watched, 5));
	assert_false(roster_met(&roster, &watched, 1));
	crew_end();
}

/* What is removed is met by nobody, and nobody joins its queue any more. */
static void what_is_removed_stays_away(void **state)
{
	(void)state;
	crew_begin(2, 2, false);
	roster_remove(&roster, &watched);
	roster_seen(&roster, &watched, 1);
	fault();
	roster_ring(&roster);
	who_met(1);
	assert_int_equal(crew[0].seen + crew[1].seen, RUNG);
	done();
	crew_end();
}

/*
 * Faults that were read and not begun with are somebody's: one that sleeps is rung for, one
 * that is about to wait finds it.
 */
static void what_was_read_is_begun_with(void **state)
{
	uint64_t tickets[4];
	bool more = false;

	(void)state;
	crew_begin(2, 2, false);
	fault();
	assert_int_equal(who_met(1), 1);
	roster_work(&roster);
	roster_more(&roster);
	assert_int_equal(who_met(2), 3);
	assert_int_equal(crew[1].seen / RUNG, 1);
	roster_done(&roster);
	done();
	/* Nobody waits: nobody is rung for, but who comes to wait is told. */
	fault();
	who_met(1);
	fault();
	who_met(2);
	roster_more(&roster);
	assert_int_equal(roster_wait(&roster, &roster.watchers[1], tickets, 4, &more), 1);
	assert_int_equal(tickets[0], TICKET);
	assert_true(more);
	done();
	crew_end();
}

/* Who seemed to be on the way to do what is left begins with something else: another does. */
static void who_begins_with_other_work_leaves_it_to_others(void **state)
{
	(void)state;
	crew_begin(3, 3, false);
	fault();
	who_met(1);
	fault();
	who_met(2);
	/* Of two that were woken one is at work, and the other might be coming. */
	roster_work(&roster);
	roster_more(&roster);
	assert_int_equal(crew[2].seen / RUNG, 0);
	roster_work(&roster);
	assert_int_equal(who_met(3), 7);
	assert_int_equal(crew[2].seen / RUNG, 1);
	roster_done(&roster);
	roster_done(&roster);
	done();
	crew_end();
}

/* Whoever finds no room in the queue is out of it; somebody stays, and it is told. */
static void who_cannot_join_again_is_missed(void **state)
{
	(void)state;
	crew_begin(2, 2, false);
	refused = roster.watchers[0].wait_fd;
	assert_false(roster_seen(&roster, &watched, 1));
	fault();
	assert_int_equal(who_met(1), 2);
	done();
	/* It cannot be the first either. */
	assert_true(roster_seen(&roster, &watched, 0));
	refused = roster.watchers[1].wait_fd;
	fault();
	assert_int_equal(who_met(1), 2);
	done();
	/* There is room for it again, and the other has none. */
	assert_false(roster_seen(&roster, &watched, 0));
	fault();
	assert_int_equal(who_met(1), 1);
	refused = 0;
	done();
	crew_end();
}

/* Nothing to add to: what was added is taken back. */
static void a_queue_without_room_is_none(void **state)
{
	struct watched other;
	int fd = eventfd(1, EFD_NONBLOCK);

	(void)state;
	crew_begin(2, 2, false);
	refused = roster.watchers[1].wait_fd;
	roster_watched_init(&other, 2);
	roster_remove(&roster, &other);
	assert_int_equal(roster_add(&roster, &other, fd, TICKET), -ENOMEM);
	refused = 0;
	assert_int_equal(other.fd, -1);
	who_met(0);
	done();
	close(fd);
	fault();
	who_met(1);
	done();
	crew_end();
}

/* Of many handlers the queue is turned for who comes from there again and again. */
static void a_long_queue_takes_more_to_turn(void **state)
{
	(void)state;
	crew_begin(CREW_MAX, CREW_MAX, false);
	roster.nr = 16;		/* as long as nobody turns it */
	assert_true(roster_seen(&roster, &watched, 1));
	assert_true(roster_seen(&roster, &watched, 2));
	assert_true(roster_seen(&roster, &watched, 1));
	roster_near(&watched);
	assert_true(roster_seen(&roster, &watched, 1));
	assert_true(roster_seen(&roster, &watched, 1));
	assert_int_equal(roster_where(&roster, &watched), 0);
	roster.nr = CREW_MAX;
	assert_true(roster_seen(&roster, &watched, 1));
	assert_int_equal(roster_where(&roster, &watched), 1);
	crew_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_is_woken_and_then_the_next),
		cmocka_unit_test(who_is_near_is_woken),
		cmocka_unit_test(few_are_placed_where_they_are_wanted),
		cmocka_unit_test(the_blind_wake_two),
		cmocka_unit_test(looks_are_due_now_and_then),
		cmocka_unit_test(what_is_removed_stays_away),
		cmocka_unit_test(what_was_read_is_begun_with),
		cmocka_unit_test(who_begins_with_other_work_leaves_it_to_others),
		cmocka_unit_test(who_cannot_join_again_is_missed),
		cmocka_unit_test(a_queue_without_room_is_none),
		cmocka_unit_test(a_long_queue_takes_more_to_turn),
	};

	alarm(TEST_SECONDS);
	if (!process_get())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
