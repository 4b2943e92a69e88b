/* SPDX-License-Identifier: MIT */
/* Exclusive access: begin, end, the CPU's touch, contention, and changes meanwhile. */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NR	8
#define RW	(PROT_READ | PROT_WRITE)

static int64_t begin(struct world *w, void *p, size_t nr, const void *owner, void **contents)
{
	return hmm_exclusive_begin(w->mm, (uintptr_t)p, (uintptr_t)p + nr * page, owner, contents);
}

static int64_t end(struct world *w, void *p, size_t nr)
{
	return hmm_exclusive_end(w->mm, (uintptr_t)p, (uintptr_t)p + nr * page);
}

/* The device gets the bytes, out of the CPU's reach; its writes are there at the end. */
static void begin_and_end(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	void *contents[NR];

	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR);
	assert_int_equal(moved(w, exclusive_begun), NR);
	assert_int_equal(moved(w, exclusive_pages), NR);
	assert_at(w, p, NR, HMM_PLACE_EXCLUSIVE);
	for (int i = 0; i < NR; i++) {
		assert_non_null(contents[i]);
		assert_holds(contents[i], 1, 1, (uint64_t)i);
		*(uint64_t *)contents[i] = (uint64_t)i + 1000;
	}
	assert_int_equal(end(w, p, NR), NR);
	assert_int_equal(moved(w, exclusive_ended), NR);
	assert_int_equal(stats_now(w).exclusive_pages, 0);
	for (int i = 0; i < NR; i++)
		assert_int_equal(*(uint64_t *)(p + i * page), i + 1000);
	assert_int_equal(moved(w, cpu_faults), 0);
	assert_int_equal(end(w, p, NR), 0);
	munmap(p, NR * page);
}

/* A CPU's touch ends it for that page alone, and sees what the device wrote. */
static void cpu_touch_ends_it(void **state)
{
	struct world *w = *state;
	volatile uint64_t *p = map_filled(NR, 2);
	void *contents[NR];

	assert_int_equal(begin(w, (void *)p, NR, world_owner_a, contents), NR);
	*(uint64_t *)contents[3] = 77;
	assert_int_equal(p[3 * WORDS], 77);
	assert_int_equal(p[3 * WORDS + 1], pattern(2, 3, 1));
	assert_int_equal(moved(w, cpu_faults), 1);
	assert_int_equal(moved(w, exclusive_ended), 1);
	assert_int_equal(count_at(w, (void *)p, NR, HMM_PLACE_EXCLUSIVE), NR - 1);
	assert_int_equal(end(w, (void *)p, NR), NR - 1);
	munmap((void *)p, NR * page);
}

/* Holes, and pages on a device, are brought in for it. */
static void holes_and_device_pages_are_brought_in(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 3);
	void *contents[NR];

	assert_int_equal(madvise(p, 2 * page, MADV_DONTNEED), 0);
	to_device(w, w->dev, p + 2 * page, 2);
	assert_int_equal(begin(w, p, NR, world_owner_b, contents), NR);
	assert_true(all_zero(contents[0], page));
	assert_holds(contents[2], 1, 3, 2);
	assert_int_equal(testdev_used(w->dev), 0);
	assert_int_equal(end(w, p, NR), NR);
	assert_true(all_zero(p, 2 * page));
	assert_holds(p + 2 * page, NR - 2, 3, 2);
	munmap(p, NR * page);
}

/* A page that is exclusive already changes hands: the first owner is told. */
static void it_changes_hands(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(1, 4);
	struct heard *h = listen_to(w, p, p + page);
	void *first[1], *second[1];

	assert_int_equal(begin(w, p, 1, world_owner_a, first), 1);
	*(uint64_t *)first[0] = 5;
	assert_int_equal(begin(w, p, 1, world_owner_b, second), 1);
	assert_int_equal(*(uint64_t *)second[0], 5);
	assert_true(heard_event(h, HMM_EVENT_EXCLUSIVE, world_owner_b, p, p + page));
	assert_int_equal(stats_now(w).exclusive_pages, 1);
	assert_int_equal(end(w, p, 1), 1);
	listen_end(h);
	munmap(p, page);
}

/* Refusals, each with its error. */
static void refusals(void **state)
{
	struct world *w = *state;
	unsigned char *ro = map_filled(1, 5), *none = map_filled(1, 5);
	unsigned char *shared = map_pages(1, RW, MAP_SHARED), *gap = map_pages(1, RW, 0);
	void *contents[NR];

	assert_int_equal(mprotect(ro, page, PROT_READ), 0);
	assert_int_equal(mprotect(none, page, PROT_NONE), 0);
	assert_int_equal(munmap(gap, page), 0);
	assert_int_equal(begin(w, ro, 1, world_owner_a, contents), -EPERM);
	assert_int_equal(begin(w, none, 1, world_owner_a, contents), -EFAULT);
	assert_int_equal(begin(w, gap, 1, world_owner_a, contents), -EFAULT);
	assert_int_equal(begin(w, shared, 1, world_owner_a, contents), -EOPNOTSUPP);
	munmap(ro, page);
	munmap(none, page);
	munmap(shared, page);
}

/* What can be had of a mixed range is had; the rest is NULL. */
static void part_of_a_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 6);
	void *contents[NR];

	assert_int_equal(munmap(p + 4 * page, page), 0);
	assert_int_equal(mprotect(p + 6 * page, page, PROT_READ), 0);
	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR - 2);
	for (int i = 0; i < NR; i++)
		assert_int_equal(!contents[i], i == 4 || i == 6);
	assert_int_equal(end(w, p, NR), NR - 2);
	assert_holds(p, 4, 6, 0);
	assert_holds(p + 5 * page, 3, 6, 5);
	munmap(p, NR * page);
}

/* Unmapped while exclusive: gone, and the device's copy with it. */
static void munmap_while_exclusive(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 7);
	void *contents[NR];

	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR);
	assert_int_equal(munmap(p, 4 * page), 0);
	assert_true(eventually(stats_now(w).exclusive_pages == 4));
	assert_at(w, p, 4, HMM_PLACE_GAP);
	assert_holds(p + 4 * page, 4, 7, 4);
	munmap(p, NR * page);
}

/* DONTNEED while exclusive: zeros. */
static void dontneed_while_exclusive(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 8);
	void *contents[NR];

	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR);
	assert_int_equal(madvise(p, 4 * page, MADV_DONTNEED), 0);
	assert_true(all_zero(p, 4 * page));
	assert_holds(p + 4 * page, 4, 8, 4);
	munmap(p, NR * page);
}

/* mremap while exclusive: what the device wrote is at the new place. */
static void mremap_while_exclusive(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 9), *q = map_pages(NR, PROT_NONE, 0);
	struct heard *h = listen_to(w, p, p + NR * page);
	void *contents[NR];

	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR);
	for (int i = 0; i < NR; i++)
		*(uint64_t *)contents[i] = 9000 + (uint64_t)i;
	assert_ptr_equal(mremap(p, NR * page, NR * page, MREMAP_MAYMOVE | MREMAP_FIXED, q), q);
	assert_true(eventually(heard_event(h, HMM_EVENT_UNMAP, NULL, p, p + NR * page)));
	for (int i = 0; i < NR; i++)
		assert_int_equal(*(uint64_t *)(q + i * page), 9000 + i);
	listen_end(h);
	munmap(q, NR * page);
}

/* Migrating a page that is exclusive takes what the device wrote along. */
static void migrate_while_exclusive(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 10);
	void *contents[NR];

	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR);
	*(uint64_t *)contents[2] = 4711;
	IGNORE(try_device(w, w->dev, p, NR, NULL));
	IGNORE(end(w, p, NR));
	IGNORE(try_device(w, w->dev, p, NR, NULL));
	assert_int_equal(*(uint64_t *)(p + 2 * page), 4711);
	assert_int_equal(stats_now(w).exclusive_pages, 0);
	assert_holds(p, 2, 10, 0);
	munmap(p, NR * page);
}

/* System calls on an exclusive page wait and see what the device wrote. */
static void system_call_on_exclusive_page(void **state)
{
	struct world *w = *state;
	uint64_t *p = map_filled(1, 11), seen = 0;
	void *contents[1];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(begin(w, p, 1, world_owner_a, contents), 1);
	*(uint64_t *)contents[0] = 12;
	assert_int_equal(write(fds[1], p, 8), 8);
	assert_int_equal(read(fds[0], &seen, 8), 8);
	assert_int_equal(seen, 12);
	close(fds[0]);
	close(fds[1]);
	munmap(p, page);
}

/*
 * A device of one thread that increments under the rule: its lock, its table (one
 * entry), invalidate() clears the entry under the lock. The sequence to ask
 * read_retry() about is the one its own EXCLUSIVE event came with: from then on the
 * page is the device's, and whatever ends that moves the sequence again.
 */
static struct atomic_device {
	atomic_flag lock;
	_Atomic uint64_t *content;
	_Atomic uint64_t seq;
	struct world *w;
	unsigned char *p;
	struct hmm_notifier *notifier;
	uint64_t rounds;
} adev;

static void adev_lock(void)
{
	while (atomic_flag_test_and_set_explicit(&adev.lock, memory_order_acquire))
		;
}

static void adev_invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
			    uint64_t seq, void *ctx)
{
	(void)notifier;
	(void)ctx;
	if (event->type == HMM_EVENT_EXCLUSIVE && event->owner == world_owner_a) {
		atomic_store(&adev.seq, seq);
		return;
	}
	adev_lock();
	adev.content = NULL;
	atomic_flag_clear_explicit(&adev.lock, memory_order_release);
}

static void *adev_run(void *arg)
{
	uint64_t done = 0;

	(void)arg;
	while (done < adev.rounds) {
		void *contents[1];

		adev_lock();
		if (adev.content) {
			atomic_fetch_add(adev.content, 1);
			done++;
			atomic_flag_clear_explicit(&adev.lock, memory_order_release);
			continue;
		}
		atomic_flag_clear_explicit(&adev.lock, memory_order_release);
		if (begin(adev.w, adev.p, 1, world_owner_a, contents) != 1)
			continue;
		adev_lock();
		if (!hmm_notifier_read_retry(adev.notifier, atomic_load(&adev.seq)))
			adev.content = contents[0];
		atomic_flag_clear_explicit(&adev.lock, memory_order_release);
	}
	return NULL;
}

/* CPU and device increment one counter, touch for touch: no increment is lost. */
static void contended_increments_are_not_lost(void **state)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops), .invalidate = adev_invalidate,
	};
	struct world *w = *state;
	_Atomic uint64_t *p = map_pages(1, RW, 0);
	uint64_t mine = 300;
	pthread_t thread;

	adev.w = w;
	adev.p = (unsigned char *)p;
	adev.content = NULL;
	adev.rounds = 2000;
	assert_int_equal(hmm_notifier_insert(w->mm, (uintptr_t)p, (uintptr_t)p + page, &ops, NULL,
					     &adev.notifier), 0);
	assert_int_equal(pthread_create(&thread, NULL, adev_run, NULL), 0);
	for (uint64_t i = 0; i < mine; i++) {
		atomic_fetch_add(p, 1);
		sched_yield();
	}
	pthread_join(thread, NULL);
	assert_int_equal(*p, mine + adev.rounds);
	assert_int_equal(hmm_notifier_remove(adev.notifier), 0);
	munmap(p, page);
}

/* hmm_evict() and the removal of devices leave exclusive pages' bytes alone. */
static void evict_of_exclusive_pages_loses_nothing(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 12);
	void *contents[NR];

	assert_int_equal(begin(w, p, NR, world_owner_a, contents), NR);
	*(uint64_t *)contents[1] = 3;
	assert_true(evict(w, p, NR) >= 0);
	assert_int_equal(*(uint64_t *)(p + page), 3);
	assert_holds(p, 1, 12, 0);
	munmap(p, NR * page);
}

/* 512 pages are had at once; 513 are too many. */
static void most_pages_of_one_call(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(513, 13);
	static void *contents[513];

	assert_int_equal(begin(w, p, 512, world_owner_a, contents), 512);
	assert_int_equal(end(w, p, 512), 512);
	assert_int_equal(begin(w, p, 513, world_owner_a, contents), -EINVAL);
	assert_holds(p, 513, 13, 0);
	munmap(p, 513 * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(begin_and_end),
		world_test(cpu_touch_ends_it),
		world_test(holes_and_device_pages_are_brought_in),
		world_test(it_changes_hands),
		world_test(refusals),
		world_test(part_of_a_range),
		world_test(munmap_while_exclusive),
		world_test(dontneed_while_exclusive),
		world_test(mremap_while_exclusive),
		world_test(migrate_while_exclusive),
		world_test(system_call_on_exclusive_page),
		world_test(contended_increments_are_not_lost),
		world_test(evict_of_exclusive_pages_loses_nothing),
		world_test(most_pages_of_one_call),
	};

	need_mm();
	return cmocka_run_group_tests_name("exclusive", tests, world_begin, world_end);
}
