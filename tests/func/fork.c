/* SPDX-License-Identifier: MIT */
/*
 * fork and its kin with pages away or exclusive: child and parent each see their own
 * memory, copy-on-write keeps, and what shares the address space is not a fork.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR	32
#define RW	(PROT_READ | PROT_WRITE)

extern char **environ;

/* What children check. Static: they inherit it, and it never migrates. */
static struct world *the_world;
static unsigned char *mem;

/* A word each way: the child's checks happen when the parent says so. */
static int pair[2];

static void say(int end)
{
	char c = 'x';

	if (write(pair[end], &c, 1) != 1)
		abort();
}

static void hear(int end)
{
	char c;

	if (read(pair[end], &c, 1) != 1)
		abort();
}

static void prepare(struct world *w, uint32_t seed)
{
	the_world = w;
	mem = map_filled(NR, seed);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

static void cleanup(void)
{
	close(pair[0]);
	close(pair[1]);
	munmap(mem, NR * page);
}

static pid_t fork_child(int (*fn)(void))
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		child_signals();
		_exit(fn());
	}
	return pid;
}

static int child_reads(void)
{
	return !holds(mem, NR, 1, 0);
}

/* A child reads the bytes of pages that were on the device. */
static void fork_read_device_pages(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	assert_int_equal(wait_child(fork_child(child_reads)), 0);
	assert_int_equal(moved(w, forks), 1);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static int child_writes(void)
{
	fill(mem, NR, 2);
	say(1);
	hear(1);
	return !holds(mem, NR, 2, 0);
}

/* A child's writes are its own; the parent keeps its bytes, and the other way round. */
static void fork_write_device_page(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	pid = fork_child(child_writes);
	hear(0);
	assert_holds(mem, NR, 1, 0);
	fill(mem, NR, 3);
	say(0);
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, NR, 3, 0);
	cleanup();
}

static int child_reads_late(void)
{
	say(1);
	hear(1);
	return !holds(mem, NR, 1, 0);
}

/* The parent writes its pages before the child looked: the child sees the old bytes. */
static void parent_writes_before_child_reads(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	pid = fork_child(child_reads_late);
	hear(0);
	fill(mem, NR, 4);
	say(0);
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, NR, 4, 0);
	cleanup();
}

/* The parent unmaps them before the child looked: the same. */
static void parent_unmaps_before_child_reads(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	pid = fork_child(child_reads_late);
	hear(0);
	assert_int_equal(munmap(mem, NR * page), 0);
	say(0);
	assert_int_equal(wait_child(pid), 0);
	assert_true(eventually(testdev_used(w->dev) == 0));
	cleanup();
}

/* The parent's pages migrate on, to and fro, before the child looked: the same. */
static void parent_migrates_before_child_reads(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	pid = fork_child(child_reads_late);
	hear(0);
	for (int round = 0; round < 10; round++) {
		IGNORE(try_device(w, w->other, mem, NR, NULL));
		IGNORE(try_device(w, w->dev, mem, NR, NULL));
		IGNORE(evict(w, mem, NR / 2));
	}
	fill(mem, NR, 5);
	IGNORE(try_device(w, w->dev, mem, NR, NULL));
	say(0);
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, NR, 5, 0);
	cleanup();
}

/* The device is removed before the child looked: the same. */
static void device_removed_before_child_reads(void **state)
{
	struct world *w = *state;
	struct testdev *dev = testdev_new(w->mm, NR, world_owner_a, 0);
	pid_t pid;

	prepare(w, 1);
	to_device(w, dev, mem, NR);
	pid = fork_child(child_reads_late);
	hear(0);
	assert_int_equal(testdev_remove(dev), 0);
	say(0);
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static int child_changes_mappings(void)
{
	unsigned char *q;

	if (munmap(mem, 4 * page) || madvise(mem + 4 * page, 4 * page, MADV_DONTNEED) ||
	    mprotect(mem + 8 * page, 4 * page, PROT_READ))
		return 2;
	if (!all_zero(mem + 4 * page, 4 * page) || !holds(mem + 8 * page, 4, 1, 8))
		return 3;
	q = mremap(mem + 12 * page, (NR - 12) * page, NR * page, MREMAP_MAYMOVE);
	if (q == MAP_FAILED)
		return 4;
	if (!holds(q, NR - 12, 1, 12) || !all_zero(q + (NR - 12) * page, 12 * page))
		return 5;
	return 0;
}

/* A child unmaps, discards, protects and moves its own view; the parent's stays. */
static void child_changes_its_mappings(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	assert_int_equal(wait_child(fork_child(child_changes_mappings)), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static int child_forks(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(!holds(mem, NR, 1, 0));
	fill(mem, 4, 6);
	if (wait_child(pid))
		return 2;
	return !holds(mem, 4, 6, 0) || !holds(mem + 4 * page, NR - 4, 1, 4);
}

/* The child of a child sees the bytes too. */
static void grandchild_reads(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	assert_int_equal(wait_child(fork_child(child_forks)), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* Many forks in a row, pages away each time, a write by either side in between. */
static void many_forks(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	for (int round = 0; round < 20; round++) {
		fill(mem, NR, 1);
		to_device(w, w->dev, mem, NR);
		assert_int_equal(wait_child(fork_child(child_reads)), 0);
	}
	assert_int_equal(moved(w, forks), 20);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* Children alive side by side each keep the state of their own fork. */
static void children_of_different_times(void **state)
{
	struct world *w = *state;
	pid_t pids[4];

	prepare(w, 1);
	for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
		fill(mem, NR, (uint32_t)(10 + i));
		IGNORE(try_device(w, w->dev, mem, NR, NULL));
		fflush(NULL);
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (!pids[i]) {
			child_signals();
			hear(1);
			_exit(!holds(mem, NR, (uint32_t)(10 + i), 0));
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(pids); i++)
		say(0);
	for (size_t i = 0; i < ARRAY_LEN(pids); i++)
		assert_int_equal(wait_child(pids[i]), 0);
	cleanup();
}

static int child_api(void)
{
	struct hmm_mm *mm = the_world->mm;
	struct hmm_stats s = { .size = sizeof(s) };
	uint8_t places[NR];
	uintptr_t start = (uintptr_t)mem, end = start + NR * page;
	uint64_t pfns[NR] = { 0 };
	struct hmm_range range = { .size = sizeof(range), .start = start, .end = end,
				   .pfns = pfns };
	void *contents[NR];
	char byte;

	if (hmm_mm_stats(mm, &s) != -ECHILD)
		return 1;
	if (hmm_copy_from_user(mm, &byte, start, 1) != -ECHILD)
		return 2;
	if (hmm_copy_to_user(mm, start, &byte, 1) != -ECHILD)
		return 3;
	if (hmm_evict(mm, start, end) != -ECHILD)
		return 4;
	if (hmm_residency(mm, start, end, places) != -ECHILD)
		return 5;
	if (hmm_range_fault(mm, &range) != -ECHILD || hmm_range_fault_wait(mm, &range, 1) != -ECHILD)
		return 6;
	if (hmm_exclusive_begin(mm, start, end, world_owner_a, contents) != -ECHILD)
		return 7;
	if (hmm_exclusive_end(mm, start, end) != -ECHILD)
		return 8;
	if (hmm_mm_flags(mm) != 0)
		return 9;
	if (hmm_mm_destroy(mm) != -ECHILD)
		return 10;
	return 0;
}

/* In a child every call on the parent's mm answers -ECHILD, and does nothing. */
static void child_calls_answer_echild(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	assert_int_equal(wait_child(fork_child(child_api)), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static struct hmm_devmem *the_devmem;
static struct hmm_notifier *the_notifier;

static int child_objects(void)
{
	struct hmm_notifier_ops ops = { .size = sizeof(ops) };
	struct hmm_notifier *n;
	uint64_t src[NR], dst[NR] = { 0 };
	struct hmm_migrate m = { .size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM,
				 .start = (uintptr_t)mem, .end = (uintptr_t)mem + NR * page,
				 .src = src, .dst = dst };

	if (hmm_devmem_remove(the_devmem) != -ECHILD)
		return 1;
	if (hmm_devmem_evict(the_devmem, 0, 1) != -ECHILD)
		return 2;
	if (hmm_devmem_poison(the_devmem, 0, 1) != -ECHILD)
		return 3;
	if (hmm_notifier_remove(the_notifier) != -ECHILD)
		return 4;
	if (hmm_migrate_setup(the_world->mm, &m) != -ECHILD)
		return 5;
	if (hmm_migrate_to_device(the_world->mm, the_devmem, m.start, m.end, m.flags, NULL) !=
	    -ECHILD)
		return 6;
	n = the_notifier;
	if (hmm_notifier_insert(the_world->mm, m.start, m.end, &ops, NULL, &n) >= 0 ||
	    n != the_notifier)
		return 7;
	return 0;
}

/* The same for its notifiers, device memory and migrations. */
static void child_objects_answer_echild(void **state)
{
	struct world *w = *state;
	struct heard *h;

	prepare(w, 1);
	h = listen_to(w, mem, mem + NR * page);
	the_devmem = w->dev->devmem;
	the_notifier = h->notifier;
	to_device(w, w->dev, mem, NR);
	assert_int_equal(wait_child(fork_child(child_objects)), 0);
	assert_holds(mem, NR, 1, 0);
	listen_end(h);
	cleanup();
}

static int child_own_mm(void)
{
	struct hmm_mm *mm;
	struct testdev *dev;
	int64_t got;

	if (hmm_mm_create(NULL, &mm))
		return 1;
	dev = testdev_new(mm, NR, world_owner_b, 0);
	got = hmm_migrate_to_device(mm, dev->devmem, (uintptr_t)mem, (uintptr_t)mem + NR * page,
				    HMM_MIGRATE_SYSTEM, NULL);
	/* The parent's userfaultfd may hold some of it still: those stay. */
	if (got < 0)
		return 2;
	if (!holds(mem, NR, 1, 0))
		return 3;
	if (testdev_remove(dev) || hmm_mm_destroy(mm))
		return 4;
	return 0;
}

/* A child may have an mm and devices of its own, while the parent's pages are away. */
static void child_makes_its_own_mm(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	assert_int_equal(wait_child(fork_child(child_own_mm)), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* fork is told to notifiers before it happens: a mirror must stop writing. */
static void fork_is_announced(void **state)
{
	struct world *w = *state;
	struct heard *h;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	h = listen_to(w, mem, mem + NR * page);
	assert_int_equal(wait_child(fork_child(child_reads)), 0);
	assert_true(heard_event(h, HMM_EVENT_FORK, NULL, mem, mem + NR * page));
	listen_end(h);
	cleanup();
}

/* Pages that a device has exclusively: the child sees what the device wrote before. */
static void fork_exclusive_pages(void **state)
{
	struct world *w = *state;
	void *contents[NR] = { NULL };
	pid_t pid;

	prepare(w, 7);
	assert_int_equal(hmm_exclusive_begin(w->mm, (uintptr_t)mem, (uintptr_t)mem + NR * page,
					     world_owner_a, contents), NR);
	for (int i = 0; i < NR; i++) {
		uint64_t *words = contents[i];

		for (size_t j = 0; j < page / 8; j++)
			words[j] = pattern(1, (uint64_t)i, j);
	}
	pid = fork_child(child_writes);
	hear(0);
	assert_holds(mem, NR, 1, 0);
	say(0);
	assert_int_equal(wait_child(pid), 0);
	IGNORE(hmm_exclusive_end(w->mm, (uintptr_t)mem, (uintptr_t)mem + NR * page));
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static _Atomic uint32_t forking;

static void *fork_run(void *arg)
{
	atomic_store(&forking, 1);
	*(int *)arg = wait_child(fork_child(child_reads));
	return NULL;
}

/* Another thread forks while pages are in flight: both sides see them. */
static void fork_pages_in_flight(void **state)
{
	struct world *w = *state;
	static uint64_t src[NR], dst[NR];
	struct hmm_migrate m = { .size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .src = src,
				 .dst = dst, .owner = world_owner_a };
	pthread_t thread;
	int status = -1;

	prepare(w, 1);
	m.start = (uintptr_t)mem;
	m.end = (uintptr_t)mem + NR * page;
	for (int round = 0; round < 10; round++) {
		memset(dst, 0, sizeof(dst));
		assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
		atomic_store(&forking, 0);
		assert_int_equal(pthread_create(&thread, NULL, fork_run, &status), 0);
		assert_true(eventually(atomic_load(&forking)));
		for (int i = 0; i < NR / 2; i++)
			if (src[i] & HMM_SRC_MIGRATE)
				dst[i] = hmm_dst(w->dev->id, testdev_reserve(w->dev, 1));
		IGNORE(hmm_migrate_copy(w->mm, &m));
		hmm_migrate_pages(w->mm, &m);
		hmm_migrate_finalize(w->mm, &m);
		for (int i = 0; i < NR / 2; i++)
			if (dst[i] && !(src[i] & HMM_SRC_MIGRATE))
				testdev_release(w->dev, (dst[i] & HMM_SRC_ADDR_MASK) >> 12, 1);
		pthread_join(thread, NULL);
		assert_int_equal(status, 0);
	}
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* After a fork the parent's pages migrate again, though the child shared them. */
static void parent_migrates_cow_shared_pages(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	pid = fork_child(child_reads_late);
	hear(0);
	to_device(w, w->dev, mem, NR);
	assert_holds(mem, 4, 1, 0);
	fill(mem, 2, 8);
	say(0);
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, 2, 8, 0);
	assert_holds(mem + 2 * page, NR - 2, 1, 2);
	cleanup();
}

/* The same when the child is long gone: what it shared stays marked as shared. */
static void parent_migrates_after_child_exit(void **state)
{
	struct world *w = *state;

	prepare(w, 1);
	assert_int_equal(wait_child(fork_child(child_reads)), 0);
	to_device(w, w->dev, mem, NR);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* MADV_DONTFORK: the child lacks the range, the parent keeps it. */
static void dontfork_range(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	assert_int_equal(madvise(mem, NR * page, MADV_DONTFORK), 0);
	to_device(w, w->dev, mem, NR);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(touch_read(mem) != SIGSEGV);
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* MADV_WIPEONFORK: the child has zeros where pages were away, the parent its bytes. */
static void wipeonfork_range(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	assert_int_equal(madvise(mem, NR * page, MADV_WIPEONFORK), 0);
	to_device(w, w->dev, mem, NR);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		child_signals();
		_exit(!all_zero(mem, NR * page));
	}
	assert_int_equal(wait_child(pid), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* fork by a raw system call, which no library hook sees. */
static void raw_clone_is_a_fork(void **state)
{
	struct world *w = *state;
	long pid;

	/* Without the kernel's word for it, and without STRICT, only libc's fork is seen. */
	if (masked("fork-event") && !strict())
		return;
	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	fflush(NULL);
	pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	assert_true(pid >= 0);
	if (!pid)
		syscall(SYS_exit_group, !holds(mem, NR, 1, 0));
	assert_int_equal(wait_child((pid_t)pid), 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

/* More than is filled before a child has begun to run. */
#define MANY	2048u

/* What a child that a library knows nothing of does at once, and what it should find then. */
struct raw_child {
	void (*changes)(unsigned char *p);
	bool (*is_right)(unsigned char *p);
};

static void discard_some(unsigned char *p)
{
	madvise(p, page, MADV_DONTNEED);
	munmap(p + page, page);
	madvise(p + (MANY - 1) * page, page, MADV_DONTNEED);
}

static bool others_hold(unsigned char *p)
{
	return all_zero(p, page) && holds(p + 2 * page, MANY - 3, 1, 2) &&
	       all_zero(p + (MANY - 1) * page, page);
}

/* The third quarter goes onto the first, and its first page back again. */
static void carry_some(unsigned char *p)
{
	unsigned char *half = p + MANY / 2 * page;

	mremap(half, MANY / 4 * page, MANY / 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, p);
	mremap(p, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, half);
}

static bool are_where_they_went(unsigned char *p)
{
	return holds(p + page, MANY / 4 - 1, 1, MANY / 2 + 1) &&
	       holds(p + MANY / 4 * page, MANY / 4, 1, MANY / 4) &&
	       holds(p + MANY / 2 * page, 1, 1, MANY / 2) &&
	       holds(p + MANY / 4 * 3 * page, MANY / 4, 1, MANY / 4 * 3);
}

/* The third quarter, so often that it will be under way while a page of it is filled. */
static void carry_over_and_over(unsigned char *p)
{
	const size_t len = MANY / 4 * page;
	unsigned char *half = p + MANY / 2 * page;

	for (uint32_t i = rounds(200); i > 0; i--) {
		mremap(half, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, p);
		mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, half);
	}
}

static bool all_but_the_first_quarter_hold(unsigned char *p)
{
	return holds(p + MANY / 4 * page, MANY / 4 * 3, 1, MANY / 4);
}

static void change_over_and_over(unsigned char *p)
{
	for (int i = 0; i < 200; i++)
		madvise(p, page, MADV_DONTNEED);
}

static bool all_but_one_hold(unsigned char *p)
{
	return all_zero(p, page) && holds(p + page, MANY - 1, 1, 1);
}

static void discard_and_fork(unsigned char *p)
{
	pid_t pid;
	int status;

	madvise(p, page, MADV_DONTNEED);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid > 0) {
		while (waitpid(pid, &status, 0) < 0)
			;
		syscall(SYS_exit_group, status != 0 || !all_but_one_hold(p));
	}
}

/* What it changes while it is filled costs no byte of the rest, in it or in its child. */
static void raw_clone_changes_at_once(void **state)
{
	static const struct raw_child children[] = {
		{ discard_some, others_hold }, { carry_some, are_where_they_went },
		{ carry_over_and_over, all_but_the_first_quarter_hold },
		{ change_over_and_over, all_but_one_hold }, { discard_and_fork, all_but_one_hold },
	};
	struct world *w = *state;
	long pid;

	if (masked("fork-event") && !strict())
		return;
	fflush(NULL);
	for (size_t i = 0; i < ARRAY_LEN(children); i++) {
		unsigned char *p = map_filled(MANY, 1);

		to_device(w, w->dev, p, MANY);
		pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		assert_true(pid >= 0);
		if (!pid) {
			children[i].changes(p);
			syscall(SYS_exit_group, !children[i].is_right(p));
		}
		assert_int_equal(wait_child((pid_t)pid), 0);
		assert_holds(p, MANY, 1, 0);
		munmap(p, MANY * page);
	}
}

/* vfork shares the memory: the child's faults are the parent's, and no page is copied. */
static void vfork_shares_the_memory(void **state)
{
	struct world *w = *state;
	volatile bool ok;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	pid = vfork();
	assert_true(pid >= 0);
	if (!pid) {
		*(volatile uint64_t *)(mem + page) = 99;
		_exit(*(volatile uint64_t *)mem != pattern(1, 0, 0));
	}
	assert_int_equal(wait_child(pid), 0);
	assert_int_equal(*(uint64_t *)(mem + page), 99);
	assert_int_equal(moved(w, forks), 0);
	ok = holds(mem + 2 * page, NR - 2, 1, 2);
	assert_true(ok);
	cleanup();
}

/* posix_spawn with its strings in pages that are away. */
static void spawn_with_arguments_away(void **state)
{
	struct world *w = *state;
	char **argv;
	char *strings;
	pid_t pid;

	prepare(w, 1);
	argv = (char **)(void *)mem;
	strings = (char *)mem + page;
	strcpy(strings, "/bin/sh");
	strcpy(strings + page, "-c");
	strcpy(strings + 2 * page, "exit $1");
	strcpy(strings + 3 * page, "name");
	strcpy(strings + 4 * page, "23");
	argv[0] = strings;
	argv[1] = strings + page;
	argv[2] = strings + 2 * page;
	argv[3] = strings + 3 * page;
	argv[4] = strings + 4 * page;
	argv[5] = NULL;
	to_device(w, w->dev, mem, NR);
	assert_int_equal(posix_spawn(&pid, strings, NULL, NULL, argv, environ), 0);
	assert_int_equal(wait_child(pid), 23);
	assert_holds(mem + 6 * page, NR - 6, 1, 6);
	cleanup();
}

/* system() while pages are away: the shell runs, the bytes stay. */
static void system_while_pages_are_away(void **state)
{
	struct world *w = *state;
	int status;

	prepare(w, 1);
	strcpy((char *)mem, "exit 7");
	to_device(w, w->dev, mem, NR);
	status = system((char *)mem);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
	assert_holds(mem + page, NR - 1, 1, 1);
	cleanup();
}

/* fork and exec: the parent's pages are no business of the new program. */
static void fork_and_exec(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		execl("/bin/sh", "sh", "-c", "exit 5", (char *)NULL);
		_exit(99);
	}
	assert_int_equal(wait_child(pid), 5);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static int child_lingers(void)
{
	say(1);
	hear(1);	/* end of file: the parent's end is closed */
	return 0;
}

/* A child that never touches the pages, killed: nothing of the parent is lost or leaked. */
static void child_killed_before_it_looked(void **state)
{
	struct world *w = *state;
	pid_t pid;

	prepare(w, 1);
	to_device(w, w->dev, mem, NR);
	pid = fork_child(child_lingers);
	hear(0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(wait_child(pid), 128 + SIGKILL);
	assert_holds(mem, NR, 1, 0);
	assert_true(eventually(testdev_used(w->dev) == 0));
	cleanup();
}

static _Atomic uint32_t bouncing;

static void *bounce_run(void *arg)
{
	struct world *w = arg;

	while (atomic_load(&bouncing)) {
		IGNORE(try_device(w, w->dev, mem, NR, NULL));
		IGNORE(evict(w, mem, NR));
	}
	return NULL;
}

/* fork while another thread migrates: every child sees every byte. */
static void fork_while_a_thread_migrates(void **state)
{
	struct world *w = *state;
	pthread_t thread;
	int failed = 0;

	prepare(w, 1);
	atomic_store(&bouncing, 1);
	assert_int_equal(pthread_create(&thread, NULL, bounce_run, w), 0);
	for (int round = 0; round < 50; round++)
		failed += wait_child(fork_child(child_reads)) != 0;
	atomic_store(&bouncing, 0);
	pthread_join(thread, NULL);
	assert_int_equal(failed, 0);
	assert_holds(mem, NR, 1, 0);
	cleanup();
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

#define GROWN	200000u

/* A mapping that grows in place for as long as it may. */
struct grower {
	unsigned char *p;
	_Atomic size_t len;
	_Atomic bool go, rests, ends;
};

static void *grow(void *arg)
{
	struct grower *g = arg;
	/* What maps meanwhile comes from above; and a fork is charged for all of it. */
	const size_t most = GROWN / 2 * page < (512 << 20) ? GROWN / 2 * page : 512 << 20;

	while (!g->ends) {
		g->rests = !g->go;
		if (!g->rests && g->len < most &&
		    mremap(g->p, g->len, g->len + page, 0) == g->p)
			g->len += page;
	}
	return NULL;
}

/*
 * What a mapping grows by while a fork lets go of it is let go as well: the kernel has
 * one mapping, and not two that no mremap takes together. Where mappings are text the
 * walk over them knows its length of a moment ago.
 */
static void what_grows_over_a_fork_stays_one_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *area = map_pages(GROWN + 64, PROT_NONE, MAP_NORESERVE);
	static struct grower g;
	uint32_t wrong = 0;
	pthread_t thread;

	for (size_t i = 0; i < 20; i++)		/* below it, in what is read at once */
		assert_int_equal(mprotect(area + 2 * i * page, page, RW), 0);
	g.p = area + 48 * page;
	g.len = 16 * page;
	g.ends = false;
	munmap(g.p, (GROWN + 16) * page);
	assert_ptr_equal(mmap(g.p, 16 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), g.p);
	assert_int_equal(pthread_create(&thread, NULL, grow, &g), 0);
	for (uint32_t round = rounds(50); round > 0; round--) {
		fill(g.p, 4, round);
		to_device(w, w->dev, g.p, 4);
		assert_holds(g.p, 4, round, 0);
		g.go = true;
		wrong += !eventually(!g.rests);
		wrong += in_child(nothing, NULL) != 0;
		g.go = false;
		wrong += !eventually(g.rests);
		wrong += mremap(g.p, g.len, g.len + page, 0) != g.p;
		munmap(g.p + 16 * page, g.len + page - 16 * page);
		g.len = 16 * page;
	}
	g.ends = true;
	pthread_join(thread, NULL);
	assert_int_equal(wrong, 0);
	munmap(area, 48 * page + g.len);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(fork_read_device_pages),
		world_test(fork_write_device_page),
		world_test(parent_writes_before_child_reads),
		world_test(parent_unmaps_before_child_reads),
		world_test(parent_migrates_before_child_reads),
		world_test(device_removed_before_child_reads),
		world_test(child_changes_its_mappings),
		world_test(grandchild_reads),
		world_test(many_forks),
		world_test(children_of_different_times),
		world_test(child_calls_answer_echild),
		world_test(child_objects_answer_echild),
		world_test(child_makes_its_own_mm),
		world_test(fork_is_announced),
		world_test(fork_exclusive_pages),
		world_test(fork_pages_in_flight),
		world_test(parent_migrates_cow_shared_pages),
		world_test(parent_migrates_after_child_exit),
		world_test(dontfork_range),
		world_test(wipeonfork_range),
		world_test(raw_clone_is_a_fork),
		world_test(raw_clone_changes_at_once),
		world_test(vfork_shares_the_memory),
		world_test(spawn_with_arguments_away),
		world_test(system_while_pages_are_away),
		world_test(fork_and_exec),
		world_test(child_killed_before_it_looked),
		world_test(fork_while_a_thread_migrates),
		world_test(what_grows_over_a_fork_stays_one_mapping),
	};

	need_mm();
	return cmocka_run_group_tests_name("fork", tests, world_begin, world_end);
}
