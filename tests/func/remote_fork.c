/* SPDX-License-Identifier: MIT */
/*
 * Another process forks: its child shares what is in device memory, nothing comes home
 * for it, and neither side ever sees zeros or the other's writes.
 */
#define _GNU_SOURCE
#include "prog.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Nothing is mapped there. */
#define AWAY	((uintptr_t)0x300000000000)

static struct prog *prog;
static struct testdev *dev;

static bool lazy(void)
{
	return hmm_remote_features() & (1 << 1);	/* UFFD_FEATURE_EVENT_FORK */
}

static int begin(void **state)
{
	(void)state;
	prog_and_device(&prog, &dev);
	return 0;
}

static int end(void **state)
{
	(void)state;
	assert_int_equal(prog_stats(prog).lost_pages, prog_stats(prog).poisoned_pages);
	prog_and_device_end(prog, dev);
	return 0;
}

#define fork_test(f)	cmocka_unit_test_setup_teardown(f, begin, end)

static int64_t refill(uint64_t addr, uint64_t nr, uint64_t seed)
{
	fill((void *)(uintptr_t)addr, nr, (uint32_t)seed);
	return 0;
}

static int64_t zeros(uint64_t addr, uint64_t nr, uint64_t unused)
{
	(void)unused;
	return all_zero((void *)(uintptr_t)addr, nr * page);
}

/* ---------------------------------------------------------------- sharing */

static void nothing_comes_home_for_a_child(void **state)
{
	uintptr_t a = prog_map(prog, 3000, 1);
	struct prog *child;
	uint64_t before;

	(void)state;
	prog_to_dev(prog, dev, a, 3000);
	before = atomic_load(&dev->pages_from);
	child = prog_fork(prog, false);
	assert_non_null(child->mm);
	assert_used(dev, 3000);
	assert_int_equal(atomic_load(&dev->pages_from), before);
	assert_int_equal(prog_stats(prog).device_pages, 3000);
	assert_int_equal(prog_stats(child).device_pages, 3000);
	assert_int_equal(prog_stats(prog).forks, 1);
	assert_int_equal(prog_end(child), 0);
	assert_used(dev, 3000);
	assert_prog_holds(prog, a, 3000, 1, 0);
}

/* Before it has an agent, and after. */
static void both_sides_have_their_own_bytes(void **state)
{
	uintptr_t a = prog_map(prog, 300, 2);
	struct prog *child;

	(void)state;
	for (int attach = 0; attach < 2; attach++) {
		assert_int_equal(prog_run(prog, refill, a, 300, 2), 0);
		prog_to_dev(prog, dev, a, 300);
		child = prog_fork(prog, attach);
		assert_int_equal(prog_run(prog, refill, a, 100, 3), 0);
		assert_int_equal(prog_run(child, refill, a + 100 * page, 100, 4), 0);
		assert_prog_holds(child, a, 100, 2, 0);
		assert_prog_holds(child, a + 100 * page, 100, 4, 0);
		assert_prog_holds(child, a + 200 * page, 100, 2, 200);
		assert_prog_holds(prog, a, 100, 3, 0);
		assert_prog_holds(prog, a + 100 * page, 200, 2, 100);
		assert_used(dev, 0);
		assert_int_equal(prog_end(child), 0);
	}
}

static void a_page_is_freed_at_its_last_holder(void **state)
{
	uintptr_t a = prog_map(prog, 64, 5);
	struct prog *child, *grandchild;

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	child = prog_fork(prog, true);
	grandchild = prog_fork(child, true);
	assert_prog_holds(prog, a, 64, 5, 0);
	assert_used(dev, 64);
	assert_int_equal(prog_change(grandchild, SYS_munmap, a, 64 * page, 0, 0, 0), 0);
	assert_used(dev, 64);
	assert_prog_holds(child, a, 32, 5, 0);
	assert_used(dev, 32);
	prog_kill(child);
	hmm_remote_gone(child->mm);
	assert_used(dev, 0);
	assert_int_equal(prog_end(child), 0);
	assert_int_equal(prog_end(grandchild), 0);
}

static void a_child_outlives_its_parent(void **state)
{
	struct prog *parent = prog_start(prog), *child;
	uintptr_t a = prog_map(parent, 200, 6);

	(void)state;
	prog_to_dev(parent, dev, a, 200);
	child = prog_fork(parent, true);
	prog_change(parent, SYS_munmap, a, 100 * page, 0, 0, 0);
	assert_int_equal(hmm_mm_destroy(parent->mm), 0);
	parent->mm = NULL;
	assert_used(dev, 200);
	assert_prog_holds(child, a, 200, 6, 0);
	assert_used(dev, 0);
	assert_int_equal(prog_end(child), 0);
	assert_int_equal(prog_end(parent), 0);
}

static void a_child_migrates_once_it_has_an_agent(void **state)
{
	uintptr_t a = prog_map(prog, 600, 7);
	uint64_t reasons[HMM_REASONS] = { 0 };
	struct prog *child = prog_fork(prog, false);

	(void)state;
	assert_int_equal(hmm_migrate_to_device(child->mm, dev->devmem, a, a + 600 * page,
					       HMM_MIGRATE_SYSTEM, reasons), -ENOMEM);
	assert_int_equal(prog_end(child), 0);
	child = prog_fork(prog, true);
	/* Every page is shared by copy-on-write with the parent's. */
	prog_to_dev(child, dev, a, 600);
	prog_to_dev(prog, dev, a, 600);
	assert_used(dev, 1200);
	assert_prog_holds(child, a, 600, 7, 0);
	assert_prog_holds(prog, a, 600, 7, 0);
	assert_int_equal(prog_end(child), 0);
}

static void what_a_child_inherits_can_move(void **state)
{
	uintptr_t a = prog_map(prog, 64, 8), to;
	struct prog *child;

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	child = prog_fork(prog, true);
	to = (uintptr_t)prog_change(child, SYS_mremap, a, 64 * page, 4000 * page, MREMAP_MAYMOVE, 0);
	assert_used(dev, 64);
	/* The holders are at different addresses now. */
	assert_int_equal(hmm_devmem_evict(dev->devmem, 0, 64), 128);
	assert_used(dev, 0);
	assert_prog_holds(child, to, 64, 8, 0);
	assert_prog_holds(prog, a, 64, 8, 0);
	assert_int_equal(prog_end(child), 0);
}

static void a_device_loses_a_shared_page_for_all(void **state)
{
	uintptr_t a = prog_map(prog, 4, 9), addr;
	struct prog *child;
	uint64_t index = 0;

	(void)state;
	prog_to_dev(prog, dev, a, 4);
	child = prog_fork(prog, true);
	while (hmm_devmem_lookup(dev->devmem, index, &addr) || addr != a + page)
		index++;
	assert_int_equal(hmm_devmem_poison(dev->devmem, index, 1), 2);
	assert_prog_holds(child, a + 2 * page, 2, 9, 2);
	assert_prog_holds(prog, a + 2 * page, 2, 9, 2);
	assert_int_equal(prog_change(prog, SYS_munmap, a, 4 * page, 0, 0, 0), 0);
	assert_int_equal(prog_change(child, SYS_munmap, a, 4 * page, 0, 0, 0), 0);
	assert_used(dev, 0);
	assert_int_equal(prog_end(child), 0);
}

/* A device writes to a page of its own only; what a fork shares it may read. */
static void a_device_does_not_write_to_what_is_shared(void **state)
{
	uintptr_t a = prog_map(prog, 4, 10);
	uint64_t pfns[4] = { 0 };
	HMM_OPTS(hmm_range, r, .start = a, .end = a + 4 * page, .pfns = pfns,
		 .owner = world_owner_a);
	struct prog *child;

	(void)state;
	prog_to_dev(prog, dev, a, 4);
	assert_int_equal(hmm_range_fault(prog->mm, &r), 0);
	assert_true((pfns[0] & HMM_PFN_DEVICE) && (pfns[0] & HMM_PFN_WRITE));
	child = prog_fork(prog, true);
	memset(pfns, 0, sizeof(pfns));
	assert_int_equal(hmm_range_fault(prog->mm, &r), 0);
	assert_true((pfns[0] & HMM_PFN_DEVICE) && !(pfns[0] & HMM_PFN_WRITE));
	memset(pfns, 0, sizeof(pfns));
	r.end = a + 2 * page;
	r.default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
	assert_int_equal(hmm_range_fault(prog->mm, &r), 0);
	assert_true(!(pfns[0] & HMM_PFN_DEVICE) && (pfns[0] & HMM_PFN_WRITE));
	assert_int_equal(prog_end(child), 0);
	/* The only holder may write again. */
	r.start = a + 2 * page;
	r.end = a + 4 * page;
	memset(pfns, 0, sizeof(pfns));
	assert_int_equal(hmm_range_fault(prog->mm, &r), 0);
	assert_true((pfns[0] & HMM_PFN_DEVICE) && (pfns[0] & HMM_PFN_WRITE));
}

/* ---------------------------------------------------------------- before it has an agent */

static void changes_without_an_agent(void **state)
{
	uintptr_t a = prog_map(prog, 400, 11);
	struct prog *child;

	(void)state;
	prog_to_dev(prog, dev, a, 400);
	child = prog_fork(prog, false);
	assert_int_equal(prog_change(child, SYS_munmap, a, 100 * page, 0, 0, 0), 0);
	assert_int_equal(prog_change(child, SYS_madvise, a + 100 * page, 50 * page, MADV_DONTNEED,
				     0, 0), 0);
	assert_int_equal(prog_change(child, SYS_mprotect, a + 150 * page, 50 * page, PROT_READ,
				     0, 0), 0);
	assert_int_equal(prog_run(child, zeros, a + 100 * page, 50, 0), 1);
	assert_prog_holds(child, a + 150 * page, 100, 11, 150);
	assert_true(prog_change(child, SYS_mremap, a + 250 * page, 150 * page, 4000 * page,
				MREMAP_MAYMOVE, 0) > 0);
	prog_attach(child);
	assert_prog_holds(child, a + 150 * page, 100, 11, 150);
	prog_to_dev(child, dev, a + 150 * page, 100);
	assert_prog_holds(child, a + 150 * page, 100, 11, 150);
	assert_prog_holds(prog, a, 400, 11, 0);
	assert_int_equal(prog_end(child), 0);
}

static void a_child_is_known_by_its_memory(void **state)
{
	struct prog *one = prog_fork(prog, false), *two = prog_fork(prog, false);

	(void)state;
	assert_int_equal(hmm_remote_matches(one->mm, two->pid), 0);
	assert_int_equal(hmm_remote_matches(one->mm, one->pid), 1);
	assert_int_equal(hmm_remote_matches(one->mm, prog->pid), 0);
	assert_int_equal(hmm_remote_matches(two->mm, two->pid), 1);
	assert_int_equal(hmm_remote_matches(two->mm, one->pid), 0);
	assert_int_equal(prog_end(one), 0);
	one = prog_fork(prog, true);
	assert_int_equal(hmm_remote_matches(one->mm, one->pid), 1);
	prog_end(one);
	assert_int_equal(prog_end(two), 0);
}

/* Until its last task has ended, with an agent or without. */
static void a_memory_is_in_use(void **state)
{
	struct prog *bare = prog_fork(prog, false), *attached = prog_fork(prog, true);

	(void)state;
	assert_int_equal(hmm_remote_in_use(prog->mm), 1);
	assert_int_equal(hmm_remote_in_use(bare->mm), 1);
	assert_int_equal(hmm_remote_in_use(bare->mm), 1);
	prog_kill(bare);
	assert_int_equal(hmm_remote_in_use(bare->mm), 0);
	prog_end(bare);
	assert_int_equal(hmm_remote_in_use(attached->mm), 1);
	prog_kill(attached);
	assert_int_equal(hmm_remote_in_use(attached->mm), 0);
	prog_end(attached);
	assert_int_equal(hmm_remote_in_use(prog->mm), 1);
}

/* ---------------------------------------------------------------- forks and the rest */

static void a_fork_that_fails_changes_nothing(void **state)
{
	uintptr_t a = prog_map(prog, 64, 12);
	uint32_t tid = (uint32_t)prog->pid;
	struct hmm_mm *child = (struct hmm_mm *)&tid;

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(hmm_remote_fork_begin(prog->mm, tid), 0);
	assert_int_equal(hmm_remote_fork_end(prog->mm, tid, SYS_clone, &child), 0);
	assert_null(child);
	assert_int_equal(testdev_used(dev), lazy() ? 64 : 0);
	assert_prog_holds(prog, a, 64, 12, 0);
	prog_to_dev(prog, dev, a, 64);
	assert_prog_holds(prog, a, 64, 12, 0);
}

/* As the end of a fork whose thread seems to be in its call for ever. */
static void *end_fork(void *arg)
{
	struct hmm_mm *child;

	assert_int_equal(hmm_remote_fork_end(prog->mm, *(uint32_t *)arg, SYS_futex, &child), 0);
	assert_null(child);
	return NULL;
}

/* Twenty times the patience with a thread that cannot be told from one in fork. */
static void who_forks_again_has_ended_its_first(void **state)
{
	uint64_t until = deadline();
	uint32_t tid = (uint32_t)prog->pid;
	pthread_t thread;

	(void)state;
	for (int round = 0; round < 20; round++) {
		assert_int_equal(hmm_remote_fork_begin(prog->mm, tid), 0);
		assert_int_equal(pthread_create(&thread, NULL, end_fork, &tid), 0);
		assert_int_equal(hmm_remote_fork_begin(prog->mm, tid), 0);
		pthread_join(thread, NULL);
		assert_int_equal(pthread_create(&thread, NULL, end_fork, &tid), 0);
		/* So has one that changes its memory. */
		assert_int_equal(prog_change(prog, SYS_munmap, AWAY, page, 0, 0, 0), 0);
		pthread_join(thread, NULL);
		assert_false(past(until));
	}
}

static _Atomic bool stop;

/* Evicts and migrates, and never mind what of it succeeds. */
static void *disturb(void *arg)
{
	uintptr_t a = (uintptr_t)arg;

	while (!atomic_load(&stop)) {
		IGNORE(hmm_migrate_to_device(prog->mm, dev->devmem, a, a + 200 * page,
					     HMM_MIGRATE_SYSTEM, NULL));
		IGNORE(hmm_evict(prog->mm, a + 50 * page, a + 100 * page));
	}
	return NULL;
}

static void forks_while_pages_fly(void **state)
{
	uintptr_t a = prog_map(prog, 200, 13);
	pthread_t thread;

	(void)state;
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&thread, NULL, disturb, (void *)a), 0);
	for (uint32_t round = rounds(40); round > 0; round--) {
		struct prog *child = prog_fork(prog, true);

		assert_prog_holds(child, a, 200, 13, 0);
		assert_prog_holds(prog, a, 200, 13, 0);
		assert_int_equal(prog_end(child), 0);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
}

/* Many in a row, each the child of the last. */
static void a_line_of_forks(void **state)
{
	uintptr_t a = prog_map(prog, 100, 14);
	struct prog *line[8] = { prog };

	(void)state;
	for (int i = 1; i < 8; i++) {
		prog_to_dev(line[i - 1], dev, a + (uintptr_t)(i - 1) * 10 * page, 10);
		line[i] = prog_fork(line[i - 1], true);
	}
	assert_used(dev, 70);
	for (int i = 7; i >= 0; i--) {
		assert_prog_holds(line[i], a, 100, 14, 0);
		assert_int_equal(prog_run(line[i], refill, a, 100, 100 + (uint64_t)i), 0);
	}
	for (int i = 7; i >= 1; i--) {
		assert_prog_holds(line[i], a, 100, 100 + (uint32_t)i, 0);
		assert_int_equal(prog_end(line[i]), 0);
	}
	assert_prog_holds(prog, a, 100, 100, 0);
	assert_used(dev, 0);
}

static void death_around_a_fork(void **state)
{
	(void)state;
	for (int step = 0; step < 4; step++) {
		struct prog *parent = prog_start(prog), *child;
		uintptr_t a = prog_map(parent, 64, 15);
		struct hmm_mm *mm = NULL;
		uint32_t tid = (uint32_t)parent->pid;

		prog_to_dev(parent, dev, a, 64);
		if (step == 0)
			prog_kill(parent);
		assert_int_equal(hmm_remote_fork_begin(parent->mm, tid), 0);
		if (step == 1)
			prog_kill(parent);
		assert_int_equal(hmm_remote_fork_end(parent->mm, tid, SYS_clone, &mm), 0);
		assert_null(mm);
		if (step > 1) {
			child = prog_fork(parent, step == 3);
			prog_kill(parent);
			hmm_remote_gone(parent->mm);
			prog_kill(child);
			IGNORE(hmm_evict(child->mm, a, a + 8 * page));
			assert_int_equal(prog_end(child), 0);
		}
		assert_int_equal(prog_end(parent), 0);
		assert_used(dev, 0);
	}
}

static void holes_and_discards_in_a_child(void **state)
{
	uintptr_t a = prog_map(prog, 64, 16);
	struct prog *child;

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	child = prog_fork(prog, true);
	assert_int_equal(prog_change(child, SYS_madvise, a, 16 * page, MADV_DONTNEED, 0, 0), 0);
	assert_int_equal(prog_run(child, zeros, a, 16, 0), 1);
	assert_prog_holds(child, a + 16 * page, 48, 16, 16);
	assert_prog_holds(prog, a, 64, 16, 0);
	assert_int_equal(prog_end(child), 0);
}

/* Where the kernel does not hand over the child everything comes home before. */
static void without_the_event_all_is_home_before(void **state)
{
	uintptr_t a = prog_map(prog, 200, 17);
	struct prog *child;

	(void)state;
	prog_to_dev(prog, dev, a, 200);
	child = prog_fork(prog, true);
	assert_null(child->mm);
	assert_used(dev, 0);
	assert_prog_holds(child, a, 200, 17, 0);
	assert_int_equal(prog_run(child, refill, a, 200, 18), 0);
	assert_prog_holds(prog, a, 200, 17, 0);
	prog_to_dev(prog, dev, a, 200);
	assert_prog_holds(prog, a, 200, 17, 0);
	assert_int_equal(prog_end(child), 0);
}

/* Before anybody can look up its mappings: pages of two that come home at one go. */
static void a_run_over_two_mappings_comes_home(void **state)
{
	uintptr_t a = prog_map(prog, 16, 77);
	struct prog *child;

	(void)state;
	assert_int_equal(prog_change(prog, SYS_mprotect, a + 8 * page, 8 * page, PROT_READ, 0, 0), 0);
	prog_to_dev(prog, dev, a, 16);
	child = prog_fork(prog, false);
	if (child->mm) {
		assert_int_equal(hmm_evict(child->mm, a, a + 16 * page), 16);
		assert_prog_holds(child, a, 16, 77, 0);
	}
	prog_end(child);
	assert_prog_holds(prog, a, 16, 77, 0);
}

int main(void)
{
	const struct CMUnitTest lazily[] = {
		fork_test(nothing_comes_home_for_a_child),
		fork_test(both_sides_have_their_own_bytes),
		fork_test(a_page_is_freed_at_its_last_holder),
		fork_test(a_child_outlives_its_parent),
		fork_test(a_child_migrates_once_it_has_an_agent),
		fork_test(what_a_child_inherits_can_move),
		fork_test(a_device_loses_a_shared_page_for_all),
		fork_test(a_device_does_not_write_to_what_is_shared),
		fork_test(changes_without_an_agent),
		fork_test(a_child_is_known_by_its_memory),
		fork_test(a_memory_is_in_use),
		fork_test(a_fork_that_fails_changes_nothing),
		fork_test(who_forks_again_has_ended_its_first),
		fork_test(a_run_over_two_mappings_comes_home),
		fork_test(forks_while_pages_fly),
		fork_test(a_line_of_forks),
		fork_test(death_around_a_fork),
		fork_test(holes_and_discards_in_a_child),
	};
	const struct CMUnitTest before[] = {
		fork_test(without_the_event_all_is_home_before),
		fork_test(a_fork_that_fails_changes_nothing),
		fork_test(who_forks_again_has_ended_its_first),
		fork_test(a_run_over_two_mappings_comes_home),
	};

	need_mm();
	progs_begin();
	return lazy() ? cmocka_run_group_tests(lazily, NULL, NULL) :
			cmocka_run_group_tests(before, NULL, NULL);
}
