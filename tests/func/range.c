/* SPDX-License-Identifier: MIT */
/*
 * hmm_range_fault(): what each request gets, what each kind of page is reported as,
 * and every error with its cause. hmm_residency() beside it.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)
#define READ	HMM_PFN_REQ_FAULT
#define WRITE	(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)

static uint64_t pfns[1024];

static struct hmm_range range_of(void *start, size_t nr, uint64_t flags)
{
	memset(pfns, 0, sizeof(pfns));
	return (struct hmm_range) {
		.size = sizeof(struct hmm_range),
		.start = (uintptr_t)start,
		.end = (uintptr_t)start + nr * page,
		.pfns = pfns,
		.default_flags = flags,
		.owner = world_owner_a,
	};
}

static int range_fault(struct world *w, void *start, size_t nr, uint64_t flags)
{
	struct hmm_range range = range_of(start, nr, flags);

	return hmm_range_fault(w->mm, &range);
}

/* A snapshot of present pages: valid, writable, and nothing faulted. */
static void snapshot_of_present_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);

	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (int i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		assert_false(pfns[i] & (HMM_PFN_ERROR | HMM_PFN_DEVICE | HMM_PFN_ZERO));
	}
	assert_int_equal(moved(w, cpu_faults), 0);
	munmap(p, NR * page);
}

/* A snapshot of holes: nothing valid, nothing populated. */
static void snapshot_of_holes(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);

	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (int i = 0; i < NR; i++)
		assert_false(pfns[i] & (HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_ERROR));
	assert_int_equal(cpu_maps_count(p, NR), 0);
	munmap(p, NR * page);
}

/* A snapshot of gaps and unreadable pages: ERROR, but the call succeeds. */
static void snapshot_of_gaps_and_unreadable_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);

	assert_int_equal(munmap(p + 4 * page, 4 * page), 0);
	assert_int_equal(mprotect(p + 8 * page, 4 * page, PROT_NONE), 0);
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (int i = 0; i < NR; i++) {
		bool bad = i >= 4 && i < 12;

		assert_int_equal(!!(pfns[i] & HMM_PFN_ERROR), bad);
		assert_int_equal(!!(pfns[i] & HMM_PFN_VALID), !bad);
	}
	munmap(p, NR * page);
}

/* A read fault of holes makes them valid to read, as zeros. */
static void read_fault_of_holes(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);

	assert_int_equal(range_fault(w, p, NR, READ), 0);
	for (int i = 0; i < NR; i++)
		assert_true(pfns[i] & HMM_PFN_VALID);
	assert_true(all_zero(p, NR * page));
	munmap(p, NR * page);
}

/*
 * A private mapping has a file's own pages to read: a device that may write gets a copy
 * first. A shared one has them to write.
 */
static void file_pages_are_lent(void **state)
{
	struct world *w = *state;
	char path[] = "/tmp/uhmm-range-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *own, *shared;

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(ftruncate(fd, 2 * page), 0);
	own = mmap(NULL, 2 * page, RW, MAP_PRIVATE, fd, 0);
	shared = mmap(NULL, 2 * page, RW, MAP_SHARED, fd, 0);
	assert_int_equal(range_fault(w, own, 2, READ), 0);
	assert_true((pfns[0] & (HMM_PFN_VALID | HMM_PFN_WRITE)) == HMM_PFN_VALID);
	own[0] = 1;
	assert_int_equal(range_fault(w, own, 2, 0), 0);
	assert_true(pfns[0] & HMM_PFN_WRITE);
	assert_false(pfns[1] & HMM_PFN_WRITE);
	assert_int_equal(range_fault(w, own, 2, WRITE), 0);
	assert_true(pfns[1] & HMM_PFN_WRITE);
	assert_int_equal(range_fault(w, shared, 1, WRITE), 0);
	assert_true(pfns[0] & HMM_PFN_WRITE);
	assert_int_equal(shared[0], 0);
	munmap(own, 2 * page);
	munmap(shared, 2 * page);
	close(fd);
}

/* What the zero page backs is told as ZERO, and not as writable. */
static void zero_page_is_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);

	assert_true(all_zero(p, NR * page));
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (int i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		/* Without PAGEMAP_SCAN a zero page looks like any other. */
		if (!masked("pagemap-scan"))
			assert_true((pfns[i] & (HMM_PFN_ZERO | HMM_PFN_WRITE)) == HMM_PFN_ZERO);
	}
	munmap(p, NR * page);
}

/* A write fault makes every page valid and writable, with its bytes. */
static void write_fault_makes_writable(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);

	fill(p, NR / 2, 1);
	assert_int_equal(range_fault(w, p, NR, WRITE), 0);
	for (int i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		assert_true(pfns[i] & HMM_PFN_WRITE);
		assert_false(pfns[i] & HMM_PFN_ZERO);
	}
	assert_int_equal(cpu_maps_count(p, NR), NR);
	assert_holds(p, NR / 2, 1, 0);
	munmap(p, NR * page);
}

/* REQ_WRITE alone means writable as well. */
static void write_request_implies_fault(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(1, RW, 0);

	assert_int_equal(range_fault(w, p, 1, HMM_PFN_REQ_WRITE), 0);
	assert_true((pfns[0] & (HMM_PFN_VALID | HMM_PFN_WRITE)) ==
		    (HMM_PFN_VALID | HMM_PFN_WRITE));
	munmap(p, page);
}

/* pfn_flags_mask lets pages ask for themselves. */
static void per_page_requests(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);
	struct hmm_range range = range_of(p, NR, 0);

	range.pfn_flags_mask = WRITE;
	pfns[3] = READ;
	pfns[7] = WRITE;
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	for (int i = 0; i < NR; i++)
		assert_int_equal(!!(pfns[i] & HMM_PFN_VALID), i == 3 || i == 7);
	assert_true(pfns[7] & HMM_PFN_WRITE);
	assert_false(cpu_maps(p + 4 * page));
	/* Without the mask what the entries ask counts nothing. */
	range = range_of(p, NR, 0);
	pfns[5] = WRITE;
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	assert_false(pfns[5] & HMM_PFN_VALID);
	munmap(p, NR * page);
}

/* A page of which nothing is wanted never makes the call fail. */
static void unwanted_pages_never_fail_the_call(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct hmm_range range;

	assert_int_equal(munmap(p + page, page), 0);
	assert_int_equal(mprotect(p + 2 * page, page, PROT_READ), 0);
	range = range_of(p, 4, 0);
	range.pfn_flags_mask = WRITE;
	pfns[0] = pfns[3] = WRITE;
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	assert_true(pfns[0] & HMM_PFN_WRITE);
	assert_true(pfns[1] & HMM_PFN_ERROR);
	assert_true(pfns[2] & HMM_PFN_VALID);
	assert_false(pfns[2] & HMM_PFN_WRITE);
	assert_true(pfns[3] & HMM_PFN_WRITE);
	munmap(p, NR * page);
}

/* Requests that the mapping refuses, each with its error. */
static void refused_requests(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);

	assert_int_equal(mprotect(p, 4 * page, PROT_READ), 0);
	assert_int_equal(mprotect(p + 4 * page, 4 * page, PROT_NONE), 0);
	assert_int_equal(munmap(p + 8 * page, 4 * page), 0);
	assert_int_equal(range_fault(w, p, 4, READ), 0);
	assert_int_equal(range_fault(w, p, 4, WRITE), -EPERM);
	assert_int_equal(range_fault(w, p + 4 * page, 4, READ), -EFAULT);
	assert_int_equal(range_fault(w, p + 4 * page, 4, WRITE), -EFAULT);
	assert_int_equal(range_fault(w, p + 8 * page, 4, READ), -EFAULT);
	assert_int_equal(range_fault(w, p + 8 * page, 4, WRITE), -EFAULT);
	assert_int_equal(range_fault(w, p + 6 * page, 8, READ), -EFAULT);
	assert_int_equal(range_fault(w, p + 12 * page, 4, WRITE), 0);
	munmap(p, NR * page);
}

/* Read-only mappings, of memory and of files, are valid and not writable. */
static void readonly_mappings(void **state)
{
	struct world *w = *state;
	char path[] = "/tmp/uhmm-range-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *p;

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(pwrite(fd, "file", 4, 0), 4);
	p = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(range_fault(w, p, 1, READ), 0);
	assert_true(pfns[0] & HMM_PFN_VALID);
	assert_false(pfns[0] & HMM_PFN_WRITE);
	assert_int_equal(range_fault(w, p, 1, WRITE), -EPERM);
	munmap(p, page);
	close(fd);
}

/* Beyond the end of a mapped file there is nothing to fault in: -EFAULT, no signal. */
static void file_beyond_its_end(void **state)
{
	struct world *w = *state;
	char path[] = "/tmp/uhmm-range-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *p;
	char byte;

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(pwrite(fd, "file", 4, 0), 4);
	p = mmap(NULL, 4 * page, RW, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(range_fault(w, p + page, 1, READ), -EFAULT);
	assert_int_equal(hmm_copy_from_user(w->mm, &byte, (uintptr_t)p + page, 1), -EFAULT);
	munmap(p, 4 * page);
	close(fd);
}

/* Pages on the owner's device are told with device and index, and stay there. */
static void own_device_pages_are_told(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 2);

	to_device(w, w->dev, p, NR);
	for (int fault = 0; fault < 2; fault++) {
		assert_int_equal(range_fault(w, p, NR, fault ? WRITE : 0), 0);
		for (int i = 0; i < NR; i++) {
			uint64_t index = pfns[i] & HMM_PFN_INDEX_MASK;

			assert_true(pfns[i] & HMM_PFN_VALID);
			assert_true(pfns[i] & HMM_PFN_WRITE);
			assert_true(pfns[i] & HMM_PFN_DEVICE);
			assert_int_equal((pfns[i] & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT,
					 w->dev->id);
			assert_holds(testdev_page(w->dev, index), 1, 2, (uint64_t)i);
		}
	}
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_int_equal(moved(w, pages_to_system), 0);
	munmap(p, NR * page);
}

/* Another's device pages: not valid in a snapshot, brought home by a fault. */
static void others_device_pages_come_home_on_fault(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 3);

	to_device(w, w->other, p, NR);
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (int i = 0; i < NR; i++) {
		assert_false(pfns[i] & HMM_PFN_VALID);
		assert_false(pfns[i] & HMM_PFN_DEVICE);
	}
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_int_equal(range_fault(w, p, NR, READ), 0);
	for (int i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		assert_false(pfns[i] & HMM_PFN_DEVICE);
	}
	assert_at(w, p, NR, HMM_PLACE_SYSTEM);
	assert_int_equal(testdev_used(w->other), 0);
	assert_holds(p, NR, 3, 0);
	munmap(p, NR * page);
}

/* A device page of a read-only mapping is not writable; writing it is -EPERM. */
static void device_pages_obey_the_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 4);

	to_device(w, w->dev, p, NR);
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	assert_int_equal(range_fault(w, p, NR, READ), 0);
	for (int i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		assert_false(pfns[i] & HMM_PFN_WRITE);
	}
	assert_int_equal(range_fault(w, p, NR, WRITE), -EPERM);
	assert_int_equal(mprotect(p, NR * page, PROT_NONE), 0);
	assert_int_equal(range_fault(w, p, NR, READ), -EFAULT);
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	assert_true(pfns[0] & HMM_PFN_ERROR);
	assert_int_equal(mprotect(p, NR * page, RW), 0);
	assert_holds(p, NR, 4, 0);
	munmap(p, NR * page);
}

/* One range over system pages, holes, device pages of both owners and a gap. */
static void mixed_snapshot(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 5);

	assert_int_equal(madvise(p + 4 * page, 2 * page, MADV_DONTNEED), 0);
	to_device(w, w->dev, p + 6 * page, 2);
	to_device(w, w->other, p + 8 * page, 2);
	assert_int_equal(munmap(p + 12 * page, 2 * page), 0);
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (int i = 0; i < NR; i++) {
		bool hole = i == 4 || i == 5, mine = i == 6 || i == 7, others = i == 8 || i == 9;
		bool gap = i == 12 || i == 13;

		assert_int_equal(!!(pfns[i] & HMM_PFN_VALID), !hole && !others && !gap);
		assert_int_equal(!!(pfns[i] & HMM_PFN_DEVICE), mine);
		assert_int_equal(!!(pfns[i] & HMM_PFN_ERROR), gap);
	}
	munmap(p, NR * page);
}

/* GUARDED says whether changes are announced: never in a STRICT mm, always without. */
static void guarded_says_whether_changes_are_announced(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(1, 6);

	assert_int_equal(hmm_mm_flags(w->mm) & HMM_MM_STRICT, strict() ? HMM_MM_STRICT : 0);
	assert_int_equal(range_fault(w, p, 1, READ), 0);
	assert_int_equal(!!(pfns[0] & HMM_PFN_GUARDED), !strict());
	munmap(p, page);
}

/*
 * One that the program traps by itself is GUARDED, those beside it are not. That is found
 * out by trapping them, of which nothing is left.
 */
static void guarded_beside_a_foreign_mapping(void **state)
{
	enum { FOREIGN = NR / 2 };
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 7);
	int fd = foreign_userfaultfd(), other = foreign_userfaultfd();

	assert_true(fd >= 0 && other >= 0);
	for (size_t i = 1; i < NR; i += 2)	/* each page a mapping */
		assert_int_equal(mprotect(p + i * page, page, PROT_READ), 0);
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(!!(pfns[i] & HMM_PFN_GUARDED), !strict());
	assert_int_equal(foreign_register(fd, p + FOREIGN * page, 1), 0);
	assert_int_equal(range_fault(w, p, NR, 0), 0);
	for (size_t i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		assert_int_equal(!!(pfns[i] & HMM_PFN_GUARDED), !strict() || i == FOREIGN);
	}
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(foreign_register(other, p + i * page, 1), i == FOREIGN ? -EBUSY : 0);
	close(other);
	close(fd);
	assert_holds(p, NR, 7, 0);
	munmap(p, NR * page);
}

/* An aligned 2 MiB page that the CPU maps whole has the order of one, inside it. */
static void order_of_a_huge_page(void **state)
{
	struct world *w = *state;
	size_t huge = (size_t)2 << 20;
	unsigned char *base = map_pages(2 * huge / page, RW, 0);
	unsigned char *p = (void *)(((uintptr_t)base + huge - 1) & ~(huge - 1));

	if (masked("pagemap-scan") || madvise(p, huge, MADV_HUGEPAGE))
		goto out;
	memset(p, 1, huge);
	assert_int_equal(range_fault(w, p, 512, 0), 0);
	if (smaps_kb(p, "AnonHugePages:") > 0)
		assert_int_equal((pfns[5] & HMM_PFN_ORDER_MASK) >> HMM_PFN_ORDER_SHIFT, 9);
	assert_int_equal(munmap(p + huge / 2, page), 0);
	assert_int_equal(range_fault(w, p, 16, 0), 0);
	assert_int_equal((pfns[5] & HMM_PFN_ORDER_MASK) >> HMM_PFN_ORDER_SHIFT, 0);
out:
	munmap(base, 2 * huge);
}

/* -EBUSY when the notifier's sequence is not the one of read_begin. */
static void stale_sequence_is_ebusy(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 7);
	struct heard *h = listen_to(w, p, p + NR * page);
	struct hmm_range range = range_of(p, NR, READ);

	range.notifier = h->notifier;
	range.seq = hmm_notifier_read_begin(h->notifier);
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	to_device(w, w->dev, p, NR);
	memset(pfns, 0, sizeof(pfns));
	assert_int_equal(hmm_range_fault(w->mm, &range), -EBUSY);
	range.seq = hmm_notifier_read_begin(h->notifier);
	memset(pfns, 0, sizeof(pfns));
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	listen_end(h);
	munmap(p, NR * page);
}

/* hmm_range_fault_wait() takes the sequence itself, and it is the current one. */
static void wait_sets_the_sequence(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 8);
	struct heard *h = listen_to(w, p, p + NR * page);
	struct hmm_range range = range_of(p, NR, WRITE);

	to_device(w, w->other, p, NR);
	range.notifier = h->notifier;
	range.seq = 12345;
	/* Bringing the other's pages home is an invalidation of its own making. */
	assert_int_equal(hmm_range_fault_wait(w->mm, &range, 10000), 0);
	assert_false(hmm_notifier_read_retry(h->notifier, range.seq));
	assert_true(pfns[0] & HMM_PFN_WRITE);
	listen_end(h);
	munmap(p, NR * page);
}

/* What is in flight is waited for by a fault, then reported. */
static _Atomic uint32_t asking, answered;
static int answer;

static void *ask_run(void *arg)
{
	void **args = arg;
	struct hmm_range range = *(struct hmm_range *)args[1];

	atomic_store(&asking, 1);
	answer = hmm_range_fault_wait(((struct world *)args[0])->mm, &range, 0);
	atomic_store(&answered, 1);
	return NULL;
}

/* A fault on pages in flight gives them valid once the flight has ended. */
static void fault_on_pages_in_flight(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 9);
	static uint64_t src[NR], dst[NR];
	struct hmm_migrate m = {
		.size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = (uintptr_t)p,
		.end = (uintptr_t)p + NR * page, .src = src, .dst = dst, .owner = world_owner_b,
	};
	struct hmm_range range = range_of(p, NR, READ);
	void *args[2] = { w, &range };
	pthread_t thread;

	memset(dst, 0, sizeof(dst));
	atomic_store(&asking, 0);
	atomic_store(&answered, 0);
	assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
	assert_int_equal(pthread_create(&thread, NULL, ask_run, args), 0);
	assert_true(eventually(atomic_load(&asking)));
	for (int i = 0; i < 1000; i++)
		assert_false(atomic_load(&answered));
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	pthread_join(thread, NULL);
	assert_int_equal(answer, 0);
	for (int i = 0; i < NR; i++)
		assert_true(pfns[i] & HMM_PFN_VALID);
	munmap(p, NR * page);
}

/* Exclusive pages: a fault ends the exclusive access, a snapshot does not. */
static void exclusive_pages_in_a_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(1, 10);
	void *contents[1];

	assert_int_equal(hmm_exclusive_begin(w->mm, (uintptr_t)p, (uintptr_t)p + page,
					     world_owner_b, contents), 1);
	assert_int_equal(range_fault(w, p, 1, 0), 0);
	assert_false(pfns[0] & HMM_PFN_VALID);
	assert_at(w, p, 1, HMM_PLACE_EXCLUSIVE);
	assert_int_equal(range_fault(w, p, 1, READ), 0);
	assert_true(pfns[0] & HMM_PFN_VALID);
	assert_at(w, p, 1, HMM_PLACE_SYSTEM);
	assert_holds(p, 1, 10, 0);
	munmap(p, page);
}

/* A large range is one call, too. */
static void large_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(ARRAY_LEN(pfns), 11);

	to_device(w, w->dev, p + 100 * page, 300);
	assert_int_equal(range_fault(w, p, ARRAY_LEN(pfns), WRITE), 0);
	for (size_t i = 0; i < ARRAY_LEN(pfns); i++) {
		assert_true(pfns[i] & HMM_PFN_WRITE);
		assert_int_equal(!!(pfns[i] & HMM_PFN_DEVICE), i >= 100 && i < 400);
	}
	munmap(p, ARRAY_LEN(pfns) * page);
}

/* Residency tells the six places apart. */
static void residency_of_every_place(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(6, 12);
	static uint64_t src[1], dst[1];
	struct hmm_migrate m = {
		.size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = (uintptr_t)p + 5 * page,
		.end = (uintptr_t)p + 6 * page, .src = src, .dst = dst,
	};
	void *contents[1];
	uint8_t places[6];

	dst[0] = 0;
	assert_int_equal(madvise(p + page, page, MADV_DONTNEED), 0);
	to_device(w, w->dev, p + 3 * page, 1);
	assert_int_equal(hmm_exclusive_begin(w->mm, (uintptr_t)p + 4 * page,
					     (uintptr_t)p + 5 * page, world_owner_a, contents), 1);
	assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
	assert_int_equal(munmap(p, page), 0);
	assert_int_equal(hmm_residency(w->mm, (uintptr_t)p, (uintptr_t)p + 6 * page, places), 0);
	assert_int_equal(places[0], HMM_PLACE_GAP);
	assert_int_equal(places[1], HMM_PLACE_HOLE);
	assert_int_equal(places[2], HMM_PLACE_SYSTEM);
	assert_int_equal(places[3], HMM_PLACE_DEVICE);
	assert_int_equal(places[4], HMM_PLACE_EXCLUSIVE);
	assert_int_equal(places[5], HMM_PLACE_FLIGHT);
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	munmap(p, 6 * page);
}

/* Looking changes nothing: neither a page's place nor a counter. */
static void looking_changes_nothing(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 13);
	struct hmm_stats before, after;

	to_device(w, w->dev, p, NR / 2);
	before = stats_now(w);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(count_at(w, p, NR, HMM_PLACE_DEVICE), NR / 2);
		assert_int_equal(range_fault(w, p, NR, 0), 0);
	}
	after = stats_now(w);
	assert_memory_equal(&before, &after, sizeof(before));
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(snapshot_of_present_pages),
		world_test(snapshot_of_holes),
		world_test(snapshot_of_gaps_and_unreadable_pages),
		world_test(read_fault_of_holes),
		world_test(file_pages_are_lent),
		world_test(zero_page_is_told),
		world_test(write_fault_makes_writable),
		world_test(write_request_implies_fault),
		world_test(per_page_requests),
		world_test(unwanted_pages_never_fail_the_call),
		world_test(refused_requests),
		world_test(readonly_mappings),
		world_test(file_beyond_its_end),
		world_test(own_device_pages_are_told),
		world_test(others_device_pages_come_home_on_fault),
		world_test(device_pages_obey_the_mapping),
		world_test(mixed_snapshot),
		world_test(guarded_says_whether_changes_are_announced),
		world_test(guarded_beside_a_foreign_mapping),
		world_test(order_of_a_huge_page),
		world_test(stale_sequence_is_ebusy),
		world_test(wait_sets_the_sequence),
		world_test(fault_on_pages_in_flight),
		world_test(exclusive_pages_in_a_range),
		world_test(large_range),
		world_test(residency_of_every_place),
		world_test(looking_changes_nothing),
	};

	need_mm();
	return cmocka_run_group_tests_name("range", tests, world_begin, world_end);
}
