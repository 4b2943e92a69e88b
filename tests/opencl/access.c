/* SPDX-License-Identifier: MIT */
/*
 * Kernels on an OpenCL device: the program's own pointers, restarts, refusals, memory
 * that cannot move, more data than the device has.
 */
#define _GNU_SOURCE
#include "opencl.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR	64
#define RW	(PROT_READ | PROT_WRITE)

static struct hmm_opencl *ocl;

static void ocl_begin(struct world *w, uint64_t mem)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = mem);

	ocl = opencl_open(w, &opts);
}

static void ocl_end(void)
{
	assert_int_equal(hmm_opencl_close(ocl), 0);
	ocl = NULL;
}

static void run(const char *name, uint64_t items, uint64_t a, uint64_t b)
{
	struct hmm_opencl_fault fault = { 0 };

	assert_int_equal(opencl_run(ocl, name, items, a, b, &fault), 0);
}

static uint64_t at(const void *p)
{
	return (uintptr_t)p;
}

/* The device checks what the CPU wrote and the CPU what the device did, to and fro. */
static void both_sides_see_each_others_writes(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	uint64_t *bad = map_pages(1, RW, 0);

	ocl_begin(w, 32 << 20);
	for (uint32_t seed = 1; seed < 5; seed += 2) {
		fill(p, NR, seed);
		run("check", NR, at(p), at(bad));
		assert_true(all_zero(bad, page));
		run("add_one", NR, at(p), page);
		for (size_t i = 0; i < NR * page / 8; i++)
			((uint64_t *)(void *)p)[i]--;
		assert_holds(p, NR, seed, 0);
	}
	assert_true(moved(w, pages_to_device) >= NR);
	assert_true(moved(w, pages_to_system) >= NR);
	run("add_one", NR, at(p), page);
	ocl_end();
	for (size_t i = 0; i < NR * page / 8; i++)
		((uint64_t *)(void *)p)[i]--;
	assert_holds(p, NR, 3, 0);
	munmap(p, NR * page);
	munmap(bad, page);
}

struct node {
	struct node *next;
	uint64_t value;
};

/* A list of plain malloc()ed nodes is walked in place, while pages go home between. */
static void a_list_is_walked_in_place(void **state)
{
	struct world *w = *state;
	struct node *head = NULL;
	uint64_t sum = 0, *out = map_pages(1, RW, 0);

	for (uint64_t i = 0; i < 5000; i++) {
		struct node *n = malloc(sizeof(*n) + i % 300);

		n->next = head;
		n->value = i * i;
		sum += n->value;
		head = n;
	}
	ocl_begin(w, 64 << 20);
	for (int round = 0; round < 3; round++) {
		run("walk", 4, at(head), at(out));
		for (int i = 0; i < 4; i++)
			assert_int_equal(out[i], sum);
		head->value++;
		sum++;
	}
	ocl_end();
	while (head) {
		struct node *next = head->next;

		free(head);
		head = next;
	}
	munmap(out, page);
}

/* Loads, stores and atomics of each size touch just their bytes and see their own stores. */
static void accesses_of_every_size(void **state)
{
	uint64_t *bad = map_pages(1, RW, 0);
	unsigned char *p = map_pages(8, RW, 0);

	ocl_begin(*state, 32 << 20);
	run("sizes", 8, at(p), at(bad));
	assert_true(all_zero(bad, page));
	for (int i = 0; i < 8; i++) {
		uint64_t *words = (uint64_t *)(void *)(p + i * page);

		assert_int_equal(words[0], 0xffffffffffffff11ULL);
		assert_int_equal(words[8], 0xffffffffffff2211ULL);
		assert_int_equal(words[16], 0xffffffff44332211ULL);
		assert_int_equal(words[24], 0x8877665544332211ULL);
		assert_int_equal(words[32], 15);
		assert_int_equal(words[40], 0x0000000300000001ULL);
	}
	ocl_end();
	munmap(p, 8 * page);
	munmap(bad, page);
}

static void refused(const char *kernel, void *addr, bool write, enum hmm_opencl_reason reason)
{
	struct hmm_opencl_fault fault = { 0 };

	assert_int_equal(opencl_run(ocl, kernel, 8, at(addr), 3, &fault), -EFAULT);
	assert_int_equal(fault.reason, reason);
	assert_int_equal(fault.write, write);
	assert_int_equal(fault.item, 3);
	assert_int_equal(fault.addr, at(addr));
}

/* What the CPU's mapping refuses ends the run with a record, not the program. */
static void refused_accesses_leave_a_record(void **state)
{
	unsigned char *p = map_filled(8, 6);

	ocl_begin(*state, 32 << 20);
	assert_int_equal(mprotect(p, page, PROT_READ), 0);
	assert_int_equal(mprotect(p + page, page, PROT_NONE), 0);
	assert_int_equal(munmap(p + 2 * page, page), 0);
	refused("store_one", p, true, HMM_OPENCL_READONLY);
	refused("load_one", p + page, false, HMM_OPENCL_UNMAPPED);
	refused("load_one", p + 2 * page, false, HMM_OPENCL_UNMAPPED);
	refused("store_one", p + 2 * page, true, HMM_OPENCL_UNMAPPED);
	refused("load_one", NULL, false, HMM_OPENCL_UNMAPPED);
	refused("load_one", (void *)0xffff888000000000, false, HMM_OPENCL_UNMAPPED);
	refused("load_one", p + 3 * page + 4, false, HMM_OPENCL_MISALIGNED);
	/* The device goes on working. */
	run("store_one", 8, at(p + 4 * page), 3);
	assert_int_equal(*(uint64_t *)(void *)(p + 4 * page), 1);
	ocl_end();
	munmap(p, 8 * page);
}

/* More stores than the log has, and a load of half an atomic, are errors of the item. */
static void log_errors_are_reported(void **state)
{
	unsigned char *p = map_pages(4, RW, 0);
	struct hmm_opencl_fault fault = { 0 };

	ocl_begin(*state, 32 << 20);
	assert_int_equal(opencl_run(ocl, "many_stores", 1, at(p), 17, &fault), -EFAULT);
	assert_int_equal(fault.reason, HMM_OPENCL_LOG);
	assert_true(all_zero(p, 4 * page));
	run("many_stores", 1, at(p), 16);
	assert_int_equal(opencl_run(ocl, "half_atomic", 1, at(p), 0, &fault), -EFAULT);
	assert_int_equal(fault.reason, HMM_OPENCL_ORDER);
	ocl_end();
	munmap(p, 4 * page);
}

/* munmap and DONTNEED reach the device: it never reads what is gone. */
static void changes_reach_the_device(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(8, 8);
	uint64_t *bad = map_pages(1, RW, 0);

	ocl_begin(w, 32 << 20);
	run("check", 8, at(p), at(bad));
	assert_int_equal(madvise(p, 2 * page, MADV_DONTNEED), 0);
	assert_true(all_zero(p, page));
	assert_int_equal(munmap(p + 4 * page, 4 * page), 0);
	/* Without STRICT the kernel tells us after the change. */
	assert_true(eventually(opencl_run(ocl, "load_one", 8, at(p + 5 * page), 3, NULL) ==
			       -EFAULT));
	refused("load_one", p + 5 * page, false, HMM_OPENCL_UNMAPPED);
	fill(p, 4, 8);
	run("check", 4, at(p), at(bad));
	assert_true(all_zero(bad, page));
	ocl_end();
	munmap(p, 4 * page);
	munmap(bad, page);
}

/* Read-modify-write by items that stop in their middle: every store is made once. */
static void restarted_items_store_once(void **state)
{
	enum { ITEMS = 4096, PLACES = 8 };
	struct world *w = *state;
	size_t bytes = 8 * HMM_TEST_BLOCK;
	uint64_t *p = map_pages(bytes / page, RW, 0);
	struct hmm_opencl_stats stats;

	ocl_begin(w, 32 << 20);
	for (int round = 0; round < 3; round++) {
		run("scattered_add", ITEMS, at(p), bytes);
		/* A sixteenth of the pages go home again. */
		for (size_t i = 0; i < bytes / page; i += 16)
			assert_true(evict(w, (char *)p + i * page, 1) >= 0);
	}
	stats = opencl_stats(ocl);
	assert_true(stats.restarts > 0);
	assert_true(stats.rounds > 0);
	for (size_t i = 0, seen = 0; i < bytes / 8; i++) {
		assert_true(p[i] == 0 || p[i] == 3);
		seen += p[i] == 3;
		if (i == bytes / 8 - 1)
			assert_int_equal(seen, ITEMS * PLACES);
	}
	ocl_end();
	munmap(p, bytes);
}

static _Atomic uint32_t adding;

static void *adder_run(void *arg)
{
	_Atomic uint64_t *counter = arg;
	uint64_t n = 0;

	while (atomic_load(&adding) || n < 200) {
		atomic_fetch_add(counter, 1);
		n++;
		sched_yield();
	}
	return (void *)(uintptr_t)n;
}

/* Atomics of CPU and device on one counter: no increment is lost, of either. */
static void atomics_against_the_cpu(void **state)
{
	uint64_t *counter = map_pages(1, RW, 0);
	pthread_t thread;
	void *mine;

	ocl_begin(*state, 32 << 20);
	atomic_store(&adding, 1);
	assert_int_equal(pthread_create(&thread, NULL, adder_run, counter), 0);
	for (int i = 0; i < 10; i++)
		run("add_to", 1000, at(counter), 0);
	atomic_store(&adding, 0);
	pthread_join(thread, &mine);
	assert_int_equal(*counter, 10000 + (uintptr_t)mine);
	ocl_end();
	munmap(counter, page);
}

static void in_place(unsigned char *p, size_t nr)
{
	uint64_t *bad = map_pages(1, RW, 0);
	struct hmm_opencl_fault fault = { 0 };

	fill(p, nr, 10);
	run("check", nr, at(p), at(bad));
	assert_true(all_zero(bad, page));
	run("add_one", nr, at(p), page);
	for (size_t i = 0; i < nr * page / 8; i++)
		((uint64_t *)(void *)p)[i]--;
	assert_holds(p, nr, 10, 0);
	assert_int_equal(opencl_run(ocl, "add_to", 1, at(p), 0, &fault), -EFAULT);
	assert_int_equal(fault.reason, HMM_OPENCL_ATOMIC);
	munmap(bad, page);
}

/* Shared memory and a file's are read and written where they are; atomics are refused. */
static void memory_that_cannot_move(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(8, RW, MAP_SHARED);
	int fd = memfd_create("test", MFD_CLOEXEC);
	unsigned char *file;

	assert_int_equal(ftruncate(fd, (off_t)(8 * page)), 0);
	file = mmap(NULL, 8 * page, RW, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(file, MAP_FAILED);
	ocl_begin(w, 32 << 20);
	in_place(p, 8);
	in_place(file, 8);
	assert_true(opencl_stats(ocl).borrowed >= 16);
	ocl_end();
	munmap(p, 8 * page);
	munmap(file, 8 * page);
	close(fd);
}

/* What the CPU writes beside a device's stores in one page that cannot move stays. */
static void neighbours_in_shared_memory(void **state)
{
	_Atomic uint64_t *p = map_pages(1, RW, MAP_SHARED);
	pthread_t thread;
	void *mine;

	ocl_begin(*state, 32 << 20);
	atomic_store(&adding, 1);
	assert_int_equal(pthread_create(&thread, NULL, adder_run, (void *)&p[1]), 0);
	for (int i = 0; i < 20; i++)
		run("add_one_word", 1, at((void *)p), 0);
	atomic_store(&adding, 0);
	pthread_join(thread, &mine);
	assert_int_equal(p[0], 20);
	assert_int_equal(p[1], (uintptr_t)mine);
	ocl_end();
	munmap((void *)p, page);
}

#define SHARED	16	/* pages; what is copied with one that was asked for */

/* Counts in the last word of each page; a STRICT mm's devices hear of each mprotect. */
static void *counter_run(void *arg)
{
	_Atomic uint64_t *p = arg;
	uint64_t n = 0;

	for (; atomic_load(&adding); n++) {
		for (int i = 0; i < SHARED; i++)
			atomic_fetch_add(&p[(i + 1) * WORDS - 1], 1);
		IGNORE(mprotect(arg, SHARED * page, RW));
	}
	return (void *)(uintptr_t)n;
}

/* ... also where the device loses its copy and gets a new one with that of a neighbour. */
static void neighbours_of_copies_made_anew(void **state)
{
	enum { TURNS = 3 * SHARED };
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20, .slice_us = 1);
	unsigned char *area = map_pages(2 * SHARED, RW, MAP_SHARED);
	uint64_t *p = (void *)((at(area) + SHARED * page - 1) & ~(SHARED * page - 1));
	pthread_t thread;
	void *mine;

	ocl = opencl_open(*state, &opts);
	atomic_store(&adding, 1);
	assert_int_equal(pthread_create(&thread, NULL, counter_run, p), 0);
	run("page_by_page", TURNS * 4096, at(p), SHARED);
	atomic_store(&adding, 0);
	pthread_join(thread, &mine);
	for (uint64_t i = 0; i < SHARED; i++) {
		assert_int_equal(p[i * WORDS], TURNS - SHARED + 1 + i);
		assert_int_equal(p[i * WORDS + WORDS / 2 - 1], TURNS - SHARED + 1 + i);
		assert_int_equal(p[(i + 1) * WORDS - 1], (uintptr_t)mine);
	}
	assert_true(!strict() || opencl_stats(ocl).invalidations > 0);
	ocl_end();
	munmap(area, 2 * SHARED * page);
}

#define DEALT	512	/* pages */

/* Once the second of two slices runs, which misses nothing, other memory takes the place. */
static void *replace_run(void *arg)
{
	uint64_t launches;

	/* A launch that has left items is counted as a round when it has ended. */
	do
		launches = opencl_stats(ocl).launches;
	while (launches < opencl_stats(ocl).rounds + 2);
	if (munmap(arg, DEALT * page))
		return NULL;
	return mmap(arg, DEALT * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* What a kernel stored to shared memory does not go to what is mapped there after it. */
static void unmapped_shared_memory(void **state)
{
	unsigned char *p = map_pages(DEALT, RW, MAP_SHARED);
	pthread_t thread;
	void *there;
	int stored = 0;

	if (!strict()) {
		print_message("          not here: only a strict mm tells of it before\n");
		munmap(p, DEALT * page);
		return;
	}
	ocl_begin(*state, 32 << 20);
	assert_int_equal(pthread_create(&thread, NULL, replace_run, p), 0);
	run("deal_out", 2 * 4096, at(p), DEALT);
	pthread_join(thread, &there);
	assert_ptr_equal(there, p);
	for (size_t i = 0; i < DEALT; i++)
		stored += !all_zero(p + i * page, page);
	/* A store that is under way when the page goes is not waited for. */
	assert_in_range(stored, 0, 1);
	ocl_end();
	munmap(p, DEALT * page);
}

/* Pages that were put elsewhere on the device move inside of it for a kernel, by its own copies. */
static void pages_placed_elsewhere_are_used(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(2 * NR, 4);
	uint64_t *bad = mmap(NULL, page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ocl_begin(w, 32 << 20);
	assert_int_equal(hmm_migrate_to_device(w->mm, hmm_opencl_devmem(ocl), (uintptr_t)p,
					       (uintptr_t)p + 2 * NR * page, HMM_MIGRATE_SYSTEM,
					       NULL), 2 * NR);
	run("check", 2 * NR, at(p), at(bad));
	assert_int_equal(*bad, 0);
	assert_int_equal(count_at(w, p, 2 * NR, HMM_PLACE_DEVICE), 2 * NR);
	assert_holds(p, 2 * NR, 4, 0);
	ocl_end();
	munmap(p, 2 * NR * page);
	munmap(bad, page);
}

/* Four times the device's memory: blocks make room for each other, in every pool. */
static void more_than_the_device_has(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 4 * HMM_TEST_BLOCK,
		 .pool_bytes = HMM_TEST_BLOCK);
	size_t bytes = 16 * HMM_TEST_BLOCK, nr = bytes / page;
	unsigned char *p = map_filled(nr, 11);
	uint64_t *bad = map_pages(1, RW, 0);

	ocl = opencl_open(w, &opts);
	assert_int_equal(opencl_stats(ocl).mem_bytes, 4 * HMM_TEST_BLOCK);
	for (int round = 0; round < 2; round++) {
		run("check", nr, at(p), at(bad));
		assert_true(all_zero(bad, page));
		run("add_one", nr, at(p), page);
		for (size_t i = 0; i < bytes / 8; i++)
			((uint64_t *)(void *)p)[i]--;
		assert_holds(p, nr, 11, 0);
	}
	assert_true(opencl_stats(ocl).evicted >= nr / 2);
	assert_true(opencl_stats(ocl).mem_used <= 4 * HMM_TEST_BLOCK);
	ocl_end();
	munmap(p, bytes);
	munmap(bad, page);
}

/*
 * A long range goes several blocks at a time: what cannot move in the middle of them stays
 * and is counted, each other page comes once, and the last blocks of it are there at the end.
 */
static void a_long_range_moves_block_by_block(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 6 * HMM_TEST_BLOCK);
	size_t block = HMM_TEST_BLOCK / page, nr = 15 * block + 3, first = 5 * block + 7;
	unsigned char *p = map_filled(nr, 17);
	uintptr_t start = (uintptr_t)p, end = start + nr * page;
	uint64_t reasons[HMM_REASONS] = { 0 }, *bad = map_pages(1, RW, 0);
	int64_t n;

	assert_ptr_equal(mmap(p + first * page, 9 * page, RW,
			      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + first * page);
	fill(p, nr, 17);
	ocl = opencl_open(*state, &opts);
	/* Its first block is there already. */
	run("check", 3, at(p), at(bad));
	n = hmm_opencl_migrate_in(ocl, start, end, reasons);
	assert_true(n <= (int64_t)(nr - 9) && n >= (int64_t)(nr - 9 - block));
	assert_int_equal(reasons[HMM_REASON_SHARED], 9);
	assert_true(opencl_stats(ocl).mem_used > 5 * HMM_TEST_BLOCK);
	n = hmm_opencl_migrate_in(ocl, end - 4 * HMM_TEST_BLOCK, end, NULL);
	assert_int_equal(n, 0);
	assert_holds(p, nr, 17, 0);
	run("check", nr, at(p), at(bad));
	assert_true(all_zero(bad, page));
	ocl_end();
	assert_holds(p, nr, 17, 0);
	munmap(p, nr * page);
	munmap(bad, page);
}

static _Atomic uint32_t touching;

#define TOUCHED	(8 * HMM_TEST_BLOCK)

static void *touch_for_ever(void *arg)
{
	volatile unsigned char *p = arg;

	while (atomic_load(&touching))
		for (size_t i = 0; i < TOUCHED && atomic_load(&touching); i += page)
			p[i]++;
	return NULL;
}

/* ... and not less of it where others need the staging at the same time. */
static void a_long_range_needs_staging_for_one_block(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 * HMM_TEST_BLOCK);
	size_t nr = 16 * HMM_TEST_BLOCK / page;
	unsigned char *mine = map_filled(TOUCHED / page, 3), *p;
	pthread_t thread;

	ocl = opencl_open(*state, &opts);
	for (int round = 0; round < 6; round++) {
		uint64_t reasons[HMM_REASONS] = { 0 };
		int64_t n;

		p = map_filled(nr, 19);
		IGNORE(hmm_opencl_migrate_in(ocl, (uintptr_t)mine, (uintptr_t)mine + TOUCHED, NULL));
		atomic_store(&touching, 1);
		assert_int_equal(pthread_create(&thread, NULL, touch_for_ever, mine), 0);
		n = hmm_opencl_migrate_in(ocl, (uintptr_t)p, (uintptr_t)p + nr * page, reasons);
		atomic_store(&touching, 0);
		pthread_join(thread, NULL);
		assert_int_equal(reasons[HMM_REASON_NOMEM], 0);
		assert_int_equal(n, nr);
		assert_holds(p, nr, 19, 0);
		munmap(p, nr * page);
	}
	ocl_end();
	munmap(mine, TOUCHED);
}

/* One item that needs more blocks at once than there are says so; one that fits, runs. */
static void one_item_needs_all_of_it(void **state)
{
	struct world *w = *state;
	size_t bytes = 8 * HMM_TEST_BLOCK;
	unsigned char *area = map_pages((bytes + HMM_TEST_BLOCK) / page, RW, 0);
	unsigned char *p = (void *)((at(area) + HMM_TEST_BLOCK - 1) & ~(HMM_TEST_BLOCK - 1));
	struct hmm_opencl_fault fault = { 0 };

	ocl_begin(w, 4 * HMM_TEST_BLOCK);
	assert_int_equal(opencl_run(ocl, "touch_blocks", 4, at(p), 8, &fault), -EFAULT);
	assert_int_equal(fault.reason, HMM_OPENCL_NOMEM);
	run("touch_blocks", 4, at(p), 4);
	assert_true(all_zero(p, bytes));
	ocl_end();
	munmap(area, bytes + HMM_TEST_BLOCK);
}

/* hmm_opencl_check() passes what keeps the contract and finds what does not. */
static void check_finds_broken_kernels(void **state)
{
	struct world *w = *state;
	uint64_t *p = map_pages(16, RW, 0);
	struct hmm_opencl_fault fault = { 0 };
	struct hmm_opencl_kernel *kernel;

	ocl_begin(w, 32 << 20);
	for (uint32_t every = 1; every <= 3; every++) {
		kernel = opencl_kernel(ocl, "rmw_good", HMM_OPENCL_CHECKED, at(p), 0);
		assert_int_equal(hmm_opencl_check(kernel, 1000, every, &fault), 0);
		assert_int_equal(p[999], every);
		/* Its miss must come after the store for the harm to show. */
		kernel = opencl_kernel(ocl, "rmw_bad", HMM_OPENCL_CHECKED, at(p + 1024), 0);
		if (every < 3)
			continue;
		assert_int_equal(hmm_opencl_check(kernel, 1000, every, &fault), -EFAULT);
		assert_int_equal(fault.reason, HMM_OPENCL_DIFFERS);
		assert_in_range(fault.addr, at(p + 1024), at(p + 2024));
	}
	kernel = opencl_kernel(ocl, "returns", HMM_OPENCL_CHECKED, at(p), 0);
	assert_int_equal(hmm_opencl_run(kernel, 8, &fault), -EFAULT);
	assert_int_equal(fault.reason, HMM_OPENCL_UNENDED);
	ocl_end();
	munmap(p, 16 * page);
}

/* The device's own loads, stores and additions, for tools. */
static void single_accesses(void **state)
{
	unsigned char *p = map_filled(4, 12);
	static unsigned char buf[3 * 4096];
	uint64_t word = 5;

	ocl_begin(*state, 32 << 20);
	assert_int_equal(hmm_opencl_read(ocl, at(p) + 100, buf, 2 * page + 37), 0);
	assert_memory_equal(buf, p + 100, 2 * page + 37);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(hmm_opencl_write(ocl, at(p) + 5, buf, 2 * page), 0);
	assert_memory_equal(buf, p + 5, 2 * page);
	assert_int_equal(hmm_opencl_write(ocl, at(p), &word, 8), 0);
	assert_int_equal(hmm_opencl_add(ocl, at(p), 37), 0);
	assert_int_equal(*(uint64_t *)(void *)p, 42);
	assert_int_equal(mprotect(p + page, page, PROT_READ), 0);
	/* Without STRICT the device learns of it at its next fault, not before. */
	assert_true(evict(*state, p, 4) >= 0);
	assert_int_equal(hmm_opencl_write(ocl, at(p) + page, &word, 8), -EPERM);
	assert_int_equal(hmm_opencl_read(ocl, 8, &word, 8), -EFAULT);
	ocl_end();
	munmap(p, 4 * page);
}

static int child_of_a_device(void *arg)
{
	HMM_OPTS(hmm_opencl_stats, stats);

	if (!holds(arg, NR, 13, 0))
		return 1;
	if (hmm_opencl_stats(ocl, &stats) != -ECHILD || hmm_opencl_close(ocl) != -ECHILD)
		return 2;
	return hmm_opencl_devmem(ocl) ? 3 : 0;
}

/* A forked child has its own bytes, and no part in the device. */
static void fork_leaves_the_device_alone(void **state)
{
	unsigned char *p = map_filled(NR, 13);
	uint64_t *bad = map_pages(1, RW, 0);

	ocl_begin(*state, 32 << 20);
	run("check", NR, at(p), at(bad));
	assert_int_equal(in_child(child_of_a_device, p), 0);
	run("check", NR, at(p), at(bad));
	assert_true(all_zero(bad, page));
	/* The engine is no child of ours. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), -1);
	ocl_end();
	munmap(p, NR * page);
	munmap(bad, page);
}

static _Atomic uint32_t storming;

/* Maps, writes, unmaps and forgets, as a busy allocator does. */
static void *storm_run(void *arg)
{
	uint64_t n = 0;

	(void)arg;
	while (atomic_load(&storming)) {
		unsigned char *p = mmap(NULL, 32 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		void *q = malloc(300000);

		memset(p, 1, 32 * page);
		memset(q, 2, 300000);
		IGNORE(madvise(p, 8 * page, MADV_DONTNEED));
		munmap(p, 32 * page);
		free(q);
		n++;
	}
	return (void *)(uintptr_t)n;
}

/*
 * The whole heap goes to the device while more threads than there are listeners change
 * mappings and kernels run: nobody waits for ever, and nothing is lost.
 */
static void the_heap_migrates_under_load(void **state)
{
	enum { THREADS = 5, NODES = 20000 };
	struct world *w = *state;
	uint64_t *out = map_pages(1, RW, 0), sum = 0;
	struct node *head = NULL;
	pthread_t threads[THREADS];
	void *n;

	for (uint64_t i = 0; i < NODES; i++) {
		struct node *node = malloc(sizeof(*node));

		*node = (struct node){ head, i };
		sum += i;
		head = node;
	}
	ocl_begin(w, 64 << 20);
	atomic_store(&storming, 1);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, storm_run, NULL), 0);
	for (int round = 0; round < 15; round++) {
		uintptr_t start = at(head) & ~(HMM_TEST_BLOCK - 1);

		IGNORE(hmm_opencl_migrate_in(ocl, start, start + HMM_TEST_BLOCK, NULL));
		run("walk", 64, at(head), at(out));
		for (int i = 0; i < 64; i++)
			assert_int_equal(out[i], sum);
		head->value++;
		sum++;
	}
	atomic_store(&storming, 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &n);
		assert_non_null(n);
	}
	ocl_end();
	while (head) {
		struct node *next = head->next;

		free(head);
		head = next;
	}
	munmap(out, page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(both_sides_see_each_others_writes),
		world_test(a_list_is_walked_in_place),
		world_test(accesses_of_every_size),
		world_test(refused_accesses_leave_a_record),
		world_test(log_errors_are_reported),
		world_test(changes_reach_the_device),
		world_test(restarted_items_store_once),
		world_test(atomics_against_the_cpu),
		world_test(memory_that_cannot_move),
		world_test(neighbours_in_shared_memory),
		world_test(neighbours_of_copies_made_anew),
		world_test(unmapped_shared_memory),
		world_test(pages_placed_elsewhere_are_used),
		world_test(more_than_the_device_has),
		world_test(a_long_range_moves_block_by_block),
		world_test(a_long_range_needs_staging_for_one_block),
		world_test(one_item_needs_all_of_it),
		world_test(check_finds_broken_kernels),
		world_test(single_accesses),
		world_test(fork_leaves_the_device_alone),
		world_test(the_heap_migrates_under_load),
	};

	need_mm();
	need_opencl();
	return cmocka_run_group_tests_name("opencl_access", tests, world_begin, world_end);
}
