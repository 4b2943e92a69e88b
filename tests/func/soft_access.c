/* SPDX-License-Identifier: MIT */
/*
 * Kernels on the soft device: every access of the program's memory with the program's
 * own pointers, wherever the page is, and refusals as fault records.
 */
#define _GNU_SOURCE
#include "softdev.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uhmm/soft.h>

#define NR	64
#define RW	(PROT_READ | PROT_WRITE)

/* The device under test; opened by each test with the policy it wants. */
static struct hmm_soft *soft;

static void soft_begin(struct world *w, enum hmm_soft_migrate migrate)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 4096 * page, .lanes = 2, .migrate = migrate);

	assert_int_equal(hmm_soft_open(w->mm, &opts, &soft), 0);
}

static void soft_end(void)
{
	assert_int_equal(hmm_soft_close(soft), 0);
	soft = NULL;
}

static struct hmm_soft_stats soft_stats(void)
{
	struct hmm_soft_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_soft_stats(soft, &s), 0);
	return s;
}

/* Arguments of kernels. Static: never migrated here. */
static struct {
	unsigned char *p;
	_Atomic uint64_t sum, bad;
	uint32_t seed;
} job;

static void run(hmm_soft_kernel kernel, uint64_t items)
{
	struct hmm_soft_fault fault = { 0 };
	int ret = hmm_soft_run(soft, kernel, items, &job, &fault);

	if (ret)
		fail_msg("%d: access %d of item %llu to %lx: reason %d", ret, (int)fault.access,
			 (unsigned long long)fault.item, (unsigned long)fault.addr,
			 (int)fault.reason);
}

/* Item i checks page i, word for word. */
static void kernel_check(struct hmm_lane *lane, uint64_t item, void *arg)
{
	uint64_t bad = 0;

	(void)arg;
	for (size_t j = 0; j < page / 8; j++)
		bad += hmm_lane_load(lane, job.p + item * page + j * 8, 8) !=
		       pattern(job.seed, item, j);
	atomic_fetch_add(&job.bad, bad);
}

static void kernel_fill(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)arg;
	for (size_t j = 0; j < page / 8; j++)
		hmm_lane_store(lane, job.p + item * page + j * 8, pattern(job.seed, item, j), 8);
}

static void device_checks(unsigned char *p, size_t nr, uint32_t seed)
{
	job.p = p;
	job.seed = seed;
	atomic_store(&job.bad, 0);
	run(kernel_check, nr);
	assert_int_equal(job.bad, 0);
}

static void device_fills(unsigned char *p, size_t nr, uint32_t seed)
{
	job.p = p;
	job.seed = seed;
	run(kernel_fill, nr);
}

static void both_ways(struct world *w, enum hmm_soft_migrate migrate)
{
	unsigned char *p;

	soft_begin(w, migrate);
	p = map_blocks(NR, 1);
	device_checks(p, NR, 1);
	device_fills(p, NR, 2);
	assert_holds(p, NR, 2, 0);
	fill(p, NR, 3);
	device_checks(p, NR, 3);
	device_fills(p, NR / 2, 4);
	assert_holds(p, NR / 2, 4, 0);
	assert_holds(p + NR / 2 * page, NR / 2, 3, NR / 2);
	soft_end();
	assert_holds(p, NR / 2, 4, 0);
	assert_holds(p + NR / 2 * page, NR / 2, 3, NR / 2);
	munmap(p, NR * page);
}

/* Mirroring only: device and CPU see each other's writes, and nothing moves. */
static void mirroring_moves_nothing(void **state)
{
	struct world *w = *state;

	both_ways(w, HMM_SOFT_MIGRATE_NEVER);
	assert_int_equal(moved(w, pages_to_device), 0);
	assert_int_equal(moved(w, cpu_faults), 0);
}

/* Migrating at the first fault: the same answers, and pages travel. */
static void migrating_gives_the_same_answers(void **state)
{
	struct world *w = *state;

	both_ways(w, HMM_SOFT_MIGRATE_FIRST);
	assert_true(moved(w, pages_to_device) >= NR);
	assert_true(moved(w, pages_to_system) >= NR);
}

/* Migrating at the nth fault: the same. */
static void migrating_at_the_nth_fault(void **state)
{
	both_ways(*state, HMM_SOFT_MIGRATE_NTH);
}

static void kernel_sizes(struct hmm_lane *lane, uint64_t item, void *arg)
{
	static const unsigned int sizes[] = { 1, 2, 4, 8 };
	unsigned char *p = job.p + item * page;
	uint64_t bad = 0;

	(void)arg;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		unsigned int size = sizes[i];
		uint64_t mask = size == 8 ? ~0ULL : (1ULL << size * 8) - 1;
		uint64_t value = 0x8877665544332211ULL;
		unsigned char *at = p + 64 * (i + 1);

		hmm_lane_store(lane, at, ~0ULL, 8);
		hmm_lane_store(lane, at, value, size);
		bad += hmm_lane_load(lane, at, size) != (value & mask);
		bad += hmm_lane_load(lane, at, 8) != ((value & mask) | ~mask);
		bad += hmm_lane_add(lane, at, 1, size) != (value & mask);
		bad += hmm_lane_exchange(lane, at, 5, size) != ((value + 1) & mask);
		bad += hmm_lane_cas(lane, at, 6, 7, size) != 5;
		bad += hmm_lane_cas(lane, at, 5, 9, size) != 5;
		bad += hmm_lane_load(lane, at, 8) != ((9 & mask) | ~mask);
		/* An addition that overflows its size stays in it. */
		hmm_lane_store(lane, at, mask, size);
		hmm_lane_add(lane, at, 1, size);
		bad += hmm_lane_load(lane, at, 8) != ~mask;
	}
	atomic_fetch_add(&job.bad, bad);
}

/* Loads, stores and atomics of 1, 2, 4 and 8 bytes touch just their bytes. */
static void accesses_of_every_size(void **state)
{
	struct world *w = *state;

	for (int migrate = HMM_SOFT_MIGRATE_FIRST; migrate <= HMM_SOFT_MIGRATE_NEVER; migrate++) {
		soft_begin(w, (enum hmm_soft_migrate)migrate);
		job.p = map_apart(8);
		atomic_store(&job.bad, 0);
		run(kernel_sizes, 8);
		assert_int_equal(job.bad, 0);
		soft_end();
		munmap(job.p, 8 * page);
	}
}

static unsigned char buffer[3 * PAGE_MAX];

static void kernel_bulk(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_read(lane, buffer, job.p + 100, 2 * page + 37);
	hmm_lane_write(lane, job.p + 4 * page + 5, buffer, 2 * page + 37);
}

/* Bulk copies of any alignment and length, across pages that are here and there. */
static void bulk_copies_cross_pages(void **state)
{
	struct world *w = *state;
	uint64_t word;

	for (int i = 0; i < 2; i++) {
		soft_begin(w, i ? HMM_SOFT_MIGRATE_NEVER : HMM_SOFT_MIGRATE_FIRST);
		job.p = map_blocks(8, 5);
		assert_true(hmm_soft_migrate_in(soft, (uintptr_t)job.p + page,
						(uintptr_t)job.p + 2 * page, NULL) == 1);
		run(kernel_bulk, 1);
		assert_memory_equal(job.p + 4 * page + 5, job.p + 100, 2 * page + 37);
		word = pattern(5, 4, 0);
		assert_memory_equal(job.p + 4 * page, &word, 5);
		assert_holds(job.p + 7 * page, 1, 5, 7);
		soft_end();
		munmap(job.p, 8 * page);
	}
}

static void add_piece(void *piece, size_t len, void *ctx)
{
	for (size_t i = 0; i < len; i++)
		*(uint64_t *)ctx += ((unsigned char *)piece)[i];
}

static void add_one(void *piece, size_t len, void *ctx)
{
	(void)ctx;
	for (size_t i = 0; i < len; i++)
		((unsigned char *)piece)[i]++;
}

static void kernel_span(struct hmm_lane *lane, uint64_t item, void *arg)
{
	uint64_t sum = 0;

	(void)item;
	(void)arg;
	hmm_lane_span(lane, job.p + 10, 5 * page, HMM_SOFT_READ, add_piece, &sum);
	hmm_lane_span(lane, job.p + 10, 5 * page, HMM_SOFT_RW, add_one, NULL);
	atomic_store(&job.sum, sum);
}

/* Spans give all of the bytes, in order, and take what is written to them. */
static void spans_cover_their_bytes(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 2; i++) {
		uint64_t sum = 0;

		soft_begin(w, i ? HMM_SOFT_MIGRATE_NEVER : HMM_SOFT_MIGRATE_FIRST);
		job.p = map_apart(8);
		for (size_t j = 0; j < 8 * page; j++)
			job.p[j] = (unsigned char)(j * 7);
		for (size_t j = 10; j < 10 + 5 * page; j++)
			sum += (unsigned char)(j * 7);
		run(kernel_span, 1);
		assert_int_equal(job.sum, sum);
		for (size_t j = 0; j < 8 * page; j++)
			assert_int_equal(job.p[j], (unsigned char)(j * 7 +
					 (j >= 10 && j < 10 + 5 * page)));
		soft_end();
		munmap(job.p, 8 * page);
	}
}

static void kernel_load_one(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)arg;
	if (item == 3)
		hmm_lane_load(lane, job.p, 8);
}

static void kernel_store_one(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)arg;
	if (item == 3)
		hmm_lane_store(lane, job.p, 1, 8);
}

static void refused(hmm_soft_kernel kernel, void *addr, enum hmm_soft_access access,
		    enum hmm_soft_fault_reason reason)
{
	struct hmm_soft_fault fault = { 0 };

	job.p = addr;
	assert_int_equal(hmm_soft_run(soft, kernel, 8, &job, &fault), -EFAULT);
	assert_int_equal(fault.reason, reason);
	assert_int_equal(fault.access & access, access);
	assert_int_equal(fault.item, 3);
	assert_in_range((uintptr_t)addr, fault.addr & ~(page - 1), fault.addr + page);
}

/* What the CPU's mapping refuses ends the kernel with a record, not the program. */
static void refused_accesses_leave_a_record(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_blocks(8, 6);

	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	assert_int_equal(mprotect(p, page, PROT_READ), 0);
	assert_int_equal(mprotect(p + page, page, PROT_NONE), 0);
	assert_int_equal(munmap(p + 2 * page, page), 0);
	refused(kernel_store_one, p, HMM_SOFT_WRITE, HMM_SOFT_FAULT_READONLY);
	refused(kernel_load_one, p + page, HMM_SOFT_READ, HMM_SOFT_FAULT_UNMAPPED);
	refused(kernel_load_one, p + 2 * page, HMM_SOFT_READ, HMM_SOFT_FAULT_UNMAPPED);
	refused(kernel_store_one, p + 2 * page, HMM_SOFT_WRITE, HMM_SOFT_FAULT_UNMAPPED);
	refused(kernel_load_one, NULL, HMM_SOFT_READ, HMM_SOFT_FAULT_UNMAPPED);
	refused(kernel_load_one, (void *)0xffff888000000000, HMM_SOFT_READ,
		HMM_SOFT_FAULT_UNMAPPED);
	refused(kernel_load_one, p + 3 * page + 3, HMM_SOFT_READ, HMM_SOFT_FAULT_MISALIGNED);
	/* The device goes on working. */
	job.p = p + 4 * page;
	run(kernel_store_one, 8);
	assert_int_equal(*(uint64_t *)(void *)(p + 4 * page), 1);
	soft_end();
	munmap(p, 8 * page);
}

/* Read-only memory that migrated stays read-only for the device. */
static void readonly_memory_on_the_device(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_blocks(8, 7);

	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	device_checks(p, 8, 7);
	assert_int_equal(mprotect(p, 8 * page, PROT_READ), 0);
	/* Without STRICT the device learns of mprotect at its next fault, not before. */
	if (strict())
		refused(kernel_store_one, p, HMM_SOFT_WRITE, HMM_SOFT_FAULT_READONLY);
	device_checks(p, 8, 7);
	assert_holds(p, 8, 7, 0);
	soft_end();
	munmap(p, 8 * page);
}

/* munmap and DONTNEED reach the device: it never reads what is gone. */
static void changes_reach_the_device(void **state)
{
	struct world *w = *state;
	unsigned char *p;

	for (int i = 0; i < 2; i++) {
		/* Without STRICT changes of pages that are at home are not announced. */
		if (i && !strict())
			break;
		soft_begin(w, i ? HMM_SOFT_MIGRATE_NEVER : HMM_SOFT_MIGRATE_FIRST);
		p = map_blocks(8, 8);
		device_checks(p, 8, 8);
		assert_int_equal(madvise(p, 2 * page, MADV_DONTNEED), 0);
		assert_true(all_zero(p, page));
		assert_int_equal(munmap(p + 4 * page, 4 * page), 0);
		/* STRICT: before munmap returned. Else the kernel tells us after the change. */
		if (!strict())
			assert_true(eventually(!hmm_soft_pte(soft, (uintptr_t)p + 5 * page)));
		refused(kernel_load_one, p + 5 * page, HMM_SOFT_READ, HMM_SOFT_FAULT_UNMAPPED);
		fill(p, 4, 9);
		device_checks(p, 4, 9);
		soft_end();
		munmap(p, 8 * page);
	}
}

static void kernel_add(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_add(lane, job.p, 1, 8);
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

static void increments(struct world *w, enum hmm_soft_migrate migrate)
{
	pthread_t thread;
	void *mine;

	soft_begin(w, migrate);
	job.p = map_apart(1);
	atomic_store(&adding, 1);
	assert_int_equal(pthread_create(&thread, NULL, adder_run, job.p), 0);
	for (int i = 0; i < 5; i++)
		run(kernel_add, 400);
	atomic_store(&adding, 0);
	pthread_join(thread, &mine);
	assert_int_equal(*(uint64_t *)(void *)job.p, 2000 + (uintptr_t)mine);
	soft_end();
	munmap(job.p, page);
}

/* Atomics of CPU and device on one counter, mirrored: no increment is lost. */
static void atomics_while_mirroring(void **state)
{
	increments(*state, HMM_SOFT_MIGRATE_NEVER);
}

/* The same while the page goes to and fro. */
static void atomics_while_migrating(void **state)
{
	increments(*state, HMM_SOFT_MIGRATE_FIRST);
}

/* Exclusive access for lane atomics, ended by the CPU's touch. */
static void atomics_with_exclusive_access(void **state)
{
	struct world *w = *state;

	soft_begin(w, HMM_SOFT_MIGRATE_NEVER);
	job.p = map_apart(1);
	for (int i = 1; i <= 10; i++) {
		assert_int_equal(hmm_soft_exclusive(soft, (uintptr_t)job.p,
						    (uintptr_t)job.p + page), 1);
		assert_true(hmm_soft_pte(soft, (uintptr_t)job.p) & HMM_SOFT_PTE_EXCLUSIVE);
		run(kernel_add, 100);
		assert_int_equal(*(uint64_t *)(void *)job.p, i * 100);
		assert_false(hmm_soft_pte(soft, (uintptr_t)job.p) & HMM_SOFT_PTE_EXCLUSIVE);
	}
	assert_int_equal(soft_stats().exclusive_pages, 10);
	soft_end();
	munmap(job.p, page);
}

/* Closing gives back what is exclusive, with what the lanes have added. */
static void close_ends_exclusive_access(void **state)
{
	struct world *w = *state;

	soft_begin(w, HMM_SOFT_MIGRATE_NEVER);
	job.p = map_apart(1);
	assert_int_equal(hmm_soft_exclusive(soft, (uintptr_t)job.p, (uintptr_t)job.p + page), 1);
	run(kernel_add, 100);
	assert_int_equal(stats_now(w).exclusive_pages, 1);
	soft_end();
	assert_int_equal(stats_now(w).exclusive_pages, 0);
	assert_int_equal(*(uint64_t *)(void *)job.p, 100);
	munmap(job.p, page);
}

/*
 * Shared memory is reached in place. What the device fetches around a page is in its
 * block: all of that is shared here, so that nothing of it may move.
 */
static void shared_memory_in_place(void **state)
{
	const size_t block = 512 * page;
	struct world *w = *state;
	unsigned char *area = map_pages(2 * 512, RW, MAP_SHARED);
	unsigned char *p = (void *)(((uintptr_t)area + block - 1) & ~(block - 1));

	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	fill(p, 8, 10);
	device_checks(p, 8, 10);
	device_fills(p, 8, 11);
	assert_holds(p, 8, 11, 0);
	assert_int_equal(moved(w, pages_to_device), 0);
	soft_end();
	munmap(area, 2 * block);
}

/* A memfd, or a file on disk, of @nr pages of the pattern, mapped shared. */
static unsigned char *map_file(bool disk, size_t nr, int *fd)
{
	char path[] = "/tmp/uhmm-soft-XXXXXX";
	unsigned char *p;

	*fd = disk ? mkstemp(path) : memfd_create("soft", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	if (disk)
		unlink(path);
	assert_int_equal(ftruncate(*fd, (off_t)(nr * page)), 0);
	p = mmap(NULL, nr * page, RW, MAP_SHARED, *fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	fill(p, nr, 16);
	return p;
}

/* What the device reads and writes of a file or a memfd is the file's. */
static void files_and_memfds_in_place(void **state)
{
	struct world *w = *state;
	static unsigned char buf[PAGE_MAX];
	int fd;

	for (int disk = 0; disk < 2; disk++) {
		unsigned char *p = map_file(disk, 8, &fd);

		soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
		device_checks(p, 8, 16);
		device_fills(p, 8, 17);
		assert_int_equal(pread(fd, buf, page, 0), page);
		assert_holds(buf, 1, 17, 0);
		assert_holds(p, 8, 17, 0);
		soft_end();
		munmap(p, 8 * page);
		close(fd);
	}
}

#ifdef __GLIBC__	/* others have no keys */
/*
 * A protection key is for the threads of the CPU: the device obeys the mapping, as in
 * the kernel, whatever its lanes' own rights would say.
 */
static void protection_keys_do_not_bind_the_device(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_blocks(1, 7);
	int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);

	if (key < 0) {
		print_message("          not here: no protection keys\n");
		unmap_blocks(p, 1);
		return;
	}
	soft_begin(w, HMM_SOFT_MIGRATE_NEVER);
	device_checks(p, 1, 7);		/* with entries from before there was a key */
	assert_int_equal(pkey_mprotect(p, page, PROT_READ | PROT_WRITE, key), 0);
	device_checks(p, 1, 7);
	device_fills(p, 1, 8);
	soft_end();
	assert_int_equal(pkey_set(key, 0), 0);
	assert_holds(p, 1, 8, 0);
	unmap_blocks(p, 1);
	pkey_free(key);
}
#endif

/*
 * A file that shrinks under its mapping, which nothing announces: where the CPU would
 * get SIGBUS the device has a fault, with a translation from before or without.
 */
static void truncated_file_ends_the_kernel(void **state)
{
	struct world *w = *state;
	int fd;

	for (int disk = 0; disk < 2; disk++) {
		unsigned char *p = map_file(disk, 8, &fd);

		soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
		device_checks(p, 8, 16);
		assert_int_equal(ftruncate(fd, (off_t)(4 * page)), 0);
		refused(kernel_load_one, p + 5 * page, HMM_SOFT_READ, HMM_SOFT_FAULT_UNMAPPED);
		refused(kernel_store_one, p + 6 * page, HMM_SOFT_WRITE, HMM_SOFT_FAULT_UNMAPPED);
		device_checks(p, 4, 16);
		soft_end();
		munmap(p, 8 * page);
		close(fd);
	}
}

/* The same memory, mapped once more: what the CPU does to it meanwhile. */
static unsigned char *alias;

static void write_beside(void *piece, size_t len, void *ctx)
{
	(void)len;
	(void)ctx;
	((unsigned char *)piece)[100] = 1;
	alias[99] = 2;
	alias[101] = 3;
}

static void kernel_write_beside(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_span(lane, job.p, page, HMM_SOFT_RW, write_beside, NULL);
}

/* A span of guarded memory writes back what its function has changed, and no byte beside. */
static void span_leaves_what_others_write(void **state)
{
	struct world *w = *state;
	int fd;

	job.p = map_file(false, 1, &fd);
	alias = mmap(NULL, page, RW, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(alias, MAP_FAILED);
	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	run(kernel_write_beside, 1);
	assert_int_equal(job.p[99], 2);
	assert_int_equal(job.p[100], 1);
	assert_int_equal(job.p[101], 3);
	assert_int_equal(soft_stats().guarded_accesses, 2);
	soft_end();
	munmap(alias, page);
	munmap(job.p, page);
	close(fd);
}

static struct {
	_Atomic bool inside, home;
	uint64_t shootdowns;
} meeting;

/*
 * Inside an access, until an invalidation has come for it, and then for as long as an
 * eviction takes that does not wait.
 */
static void stay_inside(void *piece, size_t len, void *ctx)
{
	struct hmm_soft_stats s = { .size = sizeof(s) };

	(void)len;
	(void)ctx;
	atomic_store(&meeting.inside, true);
	do
		sched_yield();
	while (!hmm_soft_stats(soft, &s) && s.shootdowns == meeting.shootdowns);
	for (int i = 0; i < 5000 && !atomic_load(&meeting.home); i++)
		sched_yield();
	*(uint64_t *)piece = 77;
}

static void kernel_stay_inside(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_span(lane, job.p, 8, HMM_SOFT_RW, stay_inside, NULL);
}

/* What a lane writes before its translation is taken away is in the page that comes home. */
static void eviction_waits_for_the_access(void **state)
{
	struct world *w = *state;
	int64_t ticket;

	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	job.p = map_blocks(1, 18);
	device_checks(job.p, 1, 18);
	meeting.shootdowns = soft_stats().shootdowns;
	atomic_store(&meeting.inside, false);
	atomic_store(&meeting.home, false);
	ticket = hmm_soft_submit(soft, kernel_stay_inside, 1, &job);
	assert_true(ticket > 0);
	assert_true(eventually(atomic_load(&meeting.inside)));
	assert_int_equal(evict(w, job.p, 1), 1);
	atomic_store(&meeting.home, true);
	assert_int_equal(hmm_soft_wait(soft, ticket, NULL), 0);
	assert_int_equal(*(uint64_t *)(void *)job.p, 77);
	assert_int_equal(soft_stats().shootdowns, meeting.shootdowns + 1);
	soft_end();
	munmap(job.p, page);
}

struct node {
	struct node *next;
	uint64_t value;
};

static void kernel_walk(struct hmm_lane *lane, uint64_t item, void *arg)
{
	uint64_t sum = 0;

	(void)item;
	for (uintptr_t n = (uintptr_t)arg; n;
	     n = hmm_lane_load(lane, &((struct node *)n)->next, 8))
		sum += hmm_lane_load(lane, &((struct node *)n)->value, 8);
	atomic_fetch_add(&job.sum, sum);
}

/* A list of plain malloc()ed nodes is walked in place, here and there. */
static void a_list_is_walked_in_place(void **state)
{
	struct world *w = *state;
	struct node *head = NULL;
	uint64_t sum = 0;

	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	for (uint64_t i = 0; i < 5000; i++) {
		struct node *n = malloc(sizeof(*n) + i % 300);

		n->next = head;
		n->value = i * i;
		sum += n->value;
		head = n;
	}
	for (int round = 0; round < 3; round++) {
		atomic_store(&job.sum, 0);
		assert_int_equal(hmm_soft_run(soft, kernel_walk, 4, head, NULL), 0);
		assert_int_equal(job.sum, 4 * sum);
		head->value++;
		sum++;
	}
	while (head) {
		struct node *next = head->next;

		free(head);
		head = next;
	}
	soft_end();
}

/* The device's page table says what was read and what was written. */
static void accessed_and_dirty_bits(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_blocks(4, 12);
	uint32_t pte;

	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	assert_int_equal(hmm_soft_pte(soft, (uintptr_t)p), 0);
	device_checks(p, 1, 12);
	pte = hmm_soft_pte(soft, (uintptr_t)p);
	assert_true(pte & HMM_SOFT_PTE_VALID);
	assert_true(pte & HMM_SOFT_PTE_LOCAL);
	assert_true(pte & HMM_SOFT_PTE_ACCESSED);
	assert_false(pte & HMM_SOFT_PTE_DIRTY);
	device_fills(p, 1, 13);
	assert_true(hmm_soft_pte(soft, (uintptr_t)p) & HMM_SOFT_PTE_DIRTY);
	assert_holds(p, 1, 13, 0);
	assert_false(hmm_soft_pte(soft, (uintptr_t)p) & HMM_SOFT_PTE_VALID);
	soft_end();
	munmap(p, 4 * page);
}

static void kernel_read_then_write(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)arg;
	hmm_lane_load(lane, job.p + item * page, 8);
	hmm_lane_store(lane, job.p + item * page, item, 8);
}

/* That a lane has read a page gives it no right to write it, nor hides that it does. */
static void reading_is_not_writing(void **state)
{
	struct world *w = *state;
	struct hmm_soft_fault fault;
	unsigned char *p = map_blocks(2, 19);

	assert_int_equal(mprotect(p + page, page, PROT_READ), 0);
	soft_begin(w, HMM_SOFT_MIGRATE_FIRST);
	job.p = p;
	run(kernel_read_then_write, 1);
	assert_true(hmm_soft_pte(soft, (uintptr_t)p) & HMM_SOFT_PTE_DIRTY);
	assert_int_equal(hmm_soft_run(soft, kernel_read_then_write, 2, &job, &fault), -EFAULT);
	assert_int_equal(fault.reason, HMM_SOFT_FAULT_READONLY);
	assert_int_equal(fault.item, 1);
	assert_holds(p + page, 1, 19, 1);
	soft_end();
	munmap(p, 2 * page);
}

/* A page is looked up once, 4 KiB of it: what follows on the same lane hits its TLB. */
static void second_access_hits_the_tlb(void **state)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 256 * page, .lanes = 1);
	struct world *w = *state;
	const uint64_t looked_up = 2 * page / 4096;
	unsigned char *p = map_blocks(2, 20);

	assert_int_equal(hmm_soft_open(w->mm, &opts, &soft), 0);
	device_checks(p, 2, 20);
	assert_int_equal(soft_stats().tlb_misses, looked_up);
	device_checks(p, 2, 20);
	assert_int_equal(soft_stats().tlb_misses, looked_up);
	assert_int_equal(evict(w, p, 1), 1);
	device_checks(p, 2, 20);
	assert_true(soft_stats().tlb_misses > looked_up);
	soft_end();
	munmap(p, 2 * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(mirroring_moves_nothing),
		world_test(migrating_gives_the_same_answers),
		world_test(migrating_at_the_nth_fault),
		world_test(accesses_of_every_size),
		world_test(bulk_copies_cross_pages),
		world_test(spans_cover_their_bytes),
		world_test(refused_accesses_leave_a_record),
		world_test(readonly_memory_on_the_device),
		world_test(changes_reach_the_device),
		world_test(atomics_while_mirroring),
		world_test(atomics_while_migrating),
		world_test(atomics_with_exclusive_access),
		world_test(close_ends_exclusive_access),
		world_test(shared_memory_in_place),
		world_test(files_and_memfds_in_place),
#ifdef __GLIBC__
		world_test(protection_keys_do_not_bind_the_device),
#endif
		world_test(truncated_file_ends_the_kernel),
		world_test(span_leaves_what_others_write),
		world_test(eviction_waits_for_the_access),
		world_test(a_list_is_walked_in_place),
		world_test(accessed_and_dirty_bits),
		world_test(reading_is_not_writing),
		world_test(second_access_hits_the_tlb),
	};

	need_mm();
	return cmocka_run_group_tests_name("soft_access", tests, world_begin, world_end);
}
