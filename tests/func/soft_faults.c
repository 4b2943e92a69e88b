/* SPDX-License-Identifier: MIT */
/*
 * What goes wrong on the soft device: injected faults of its memory and its DMA, which
 * cost what they say and no more, and accesses refused, whose record says why.
 */
#define _GNU_SOURCE
#include "softdev.h"

#include "../sanitized.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define NR	64
#define RW	(PROT_READ | PROT_WRITE)

static struct hmm_soft *soft_small(struct world *w)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .lanes = 1, .fault_around = 1);

	return soft_new(w, &opts);
}

static void inject(struct hmm_soft *soft, struct hmm_soft_inject faults)
{
	faults.size = sizeof(faults);
	assert_int_equal(hmm_soft_inject(soft, &faults), 0);
}

#define INJECT(soft, ...)	inject(soft, (struct hmm_soft_inject){ __VA_ARGS__ })

/* ---------------------------------------------------------------- injected */

/* The nth allocation fails, that one alone: the migration is refused, the pages stay. */
static void nth_allocation_fails(void **state)
{
	struct world *w = *state;
	struct hmm_soft *soft = soft_small(w);
	unsigned char *p = map_filled(3 * NR, 1);

	INJECT(soft, .alloc_fail = 2);
	assert_int_equal(soft_move_in(soft, p, NR, NULL), NR);
	assert_int_equal(soft_move_in(soft, p + NR * page, NR, NULL), -ENOSPC);
	assert_at(w, p + NR * page, NR, HMM_PLACE_SYSTEM);
	assert_int_equal(soft_move_in(soft, p + 2 * NR * page, NR, NULL), NR);
	soft_checks(soft, p, 3 * NR, 1);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, 3 * NR, 1, 0);
	munmap(p, 3 * NR * page);
}

/* A lane whose page finds no room on the device has it in system memory. */
static void fault_without_room_is_mirrored(void **state)
{
	struct world *w = *state;
	struct hmm_soft *soft = soft_small(w);
	unsigned char *p = map_filled(1, 2);

	INJECT(soft, .alloc_fail = 1);
	assert_int_equal(soft_load(soft, p), pattern(2, 0, 0));
	assert_at(w, p, 1, HMM_PLACE_SYSTEM);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, page);
}

/* One DMA error, at whichever transfer it strikes: counted once, and nothing is lost. */
static void one_dma_error_loses_nothing(void **state)
{
	struct world *w = *state;

	for (uint64_t n = 1; n <= 4; n++) {
		struct hmm_soft *soft = soft_small(w);
		unsigned char *p = map_filled(NR, 3);

		INJECT(soft, .dma_error = n);
		for (int round = 0; round < 2; round++) {
			IGNORE(soft_move_in(soft, p, NR, NULL));
			assert_true(evict(w, p, NR) >= 0);
		}
		assert_int_equal(soft_stats_of(soft).dma_errors, 1);
		assert_holds(p, NR, 3, 0);
		assert_int_equal(hmm_soft_close(soft), 0);
		munmap(p, NR * page);
	}
	assert_int_equal(moved(w, lost_pages), 0);
}

/* Page @lost says that it is lost, each other one of them has its bytes. */
static void assert_lost(unsigned char *p, size_t nr, uint32_t seed, size_t lost)
{
	for (size_t i = 0; i < nr; i++) {
		assert_int_equal(touch_read(p + i * page), i == lost ? SIGBUS : 0);
		if (i != lost)
			assert_holds(p + i * page, 1, seed, i);
	}
}

/*
 * An ECC error strikes the nth page that is read from the device, whether they are read
 * singly or in one transfer. It alone says so: SIGBUS, never zeros or other bytes.
 */
static void ecc_error_costs_its_page(void **state)
{
	struct world *w = *state;

	for (int bulk = 0; bulk < 2; bulk++) {
		struct hmm_soft *soft = soft_small(w);
		unsigned char *p = map_filled(NR, 4);

		w->may_lose = true;
		stats_mark(w);
		assert_int_equal(soft_move_in(soft, p, NR, NULL), NR);
		INJECT(soft, .ecc_error = 6);
		if (bulk)
			IGNORE(evict(w, p, NR));
		assert_lost(p, NR, 4, 5);
		assert_int_equal(moved(w, lost_pages), 1);
		assert_int_equal(moved(w, poisoned_pages), 1);
		assert_int_equal(hmm_soft_close(soft), 0);
		munmap(p, NR * page);
	}
}

/* The lanes lose the page too, although they had it in their TLB: the record says lost. */
static void ecc_error_reaches_the_lanes(void **state)
{
	struct world *w = *state;
	struct hmm_soft *soft = soft_small(w);
	unsigned char *p = map_blocks(2, 5);
	struct hmm_soft_fault fault;

	w->may_lose = true;
	soft_checks(soft, p, 2, 5);
	assert_at(w, p, 2, HMM_PLACE_DEVICE);
	INJECT(soft, .ecc_error = 1);
	assert_int_equal(touch_read(p), SIGBUS);
	fault = soft_load_refused(soft, p);
	assert_int_equal(fault.reason, HMM_SOFT_FAULT_LOST);
	assert_ptr_equal(fault.addr, p);
	assert_int_equal(soft_load(soft, p + page), pattern(5, 1, 0));
	assert_int_equal(hmm_soft_close(soft), 0);
	unmap_blocks(p, 2);
}

/*
 * A reset loses all that was on the device. Each page says so, without anybody touching
 * it first; the others live; and the device works again, with all of its memory.
 */
static void reset_is_told_page_by_page(void **state)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = NR * page, .lanes = 1);
	struct world *w = *state;
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks(2 * NR, 6);
	size_t there = NR / 2;

	w->may_lose = true;
	assert_int_equal(soft_move_in(soft, p, there, NULL), there);
	soft_checks(soft, p, there, 6);
	INJECT(soft, .reset = 1);
	IGNORE(evict(w, p, 1));
	assert_true(eventually(moved(w, poisoned_pages) == there));
	for (size_t i = 0; i < there; i++) {
		assert_int_equal(soft_load_refused(soft, p + i * page).reason,
				 HMM_SOFT_FAULT_LOST);
		assert_int_equal(touch_read(p + i * page), SIGBUS);
	}
	assert_int_equal(moved(w, lost_pages), there);
	assert_holds(p + there * page, 2 * NR - there, 6, there);

	assert_true(eventually(soft_stats_of(soft).mem_used == 0));
	fill(p + NR * page, NR, 7);
	for (size_t i = 0; i < NR; i += NR / 2)
		assert_int_equal(soft_move_in(soft, p + (NR + i) * page, NR / 2, NULL), NR / 2);
	assert_at(w, p + NR * page, NR, HMM_PLACE_DEVICE);
	soft_checks(soft, p + NR * page, NR, 7);
	assert_holds(p + NR * page, NR, 7, 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	unmap_blocks(p, 2 * NR);
}

/*
 * A reset in the middle of a migration costs nothing: what was copied before it is still
 * at home, and stays there. Every other page is a hole, so that it takes many transfers.
 */
static void reset_during_a_migration_loses_nothing(void **state)
{
	enum { PAGES = 4 * NR };
	struct world *w = *state;
	struct hmm_soft *soft = soft_small(w);
	unsigned char *p = map_pages(PAGES, RW, 0);
	uint64_t refused[HMM_REASONS] = { 0 };

	for (size_t i = 0; i < PAGES; i += 2)
		fill(p + i * page, 1, (uint32_t)i);
	INJECT(soft, .reset = 2);
	assert_int_equal(soft_move_in(soft, p, PAGES, refused), 0);
	assert_int_equal(refused[HMM_REASON_COPY], PAGES);
	assert_int_equal(soft_stats_of(soft).dma_errors, 1);
	assert_true(eventually(soft_move_in(soft, p, PAGES, NULL) == PAGES));
	for (size_t i = 0; i < PAGES; i += 2) {
		assert_holds(p + i * page, 1, (uint32_t)i, 0);
		assert_true(all_zero(p + (i + 1) * page, page));
	}
	assert_int_equal(moved(w, lost_pages), 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, PAGES * page);
}

/* An ECC error in a peer's memory: the page does not come, and is lost where it is. */
static void ecc_error_of_a_peer(void **state)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .peer_group = "group");
	struct world *w = *state;
	struct hmm_soft *a = soft_new(w, &opts), *b = soft_new(w, &opts);
	unsigned char *p = map_blocks(NR, 8);

	w->may_lose = true;
	assert_int_equal(soft_move_in(a, p, NR, NULL), NR);
	INJECT(a, .ecc_error = 3);
	assert_int_equal(soft_move_in(b, p, NR, NULL), NR - 1);
	assert_int_equal(soft_load_refused(a, p + 2 * page).reason, HMM_SOFT_FAULT_LOST);
	assert_lost(p, NR, 8, 2);
	assert_int_equal(moved(w, lost_pages), 1);
	assert_int_equal(hmm_soft_close(a), 0);
	assert_int_equal(hmm_soft_close(b), 0);
	unmap_blocks(p, NR);
}

/* ---------------------------------------------------------------- refused */

static void assert_record(struct hmm_soft_fault fault, const void *addr,
			  enum hmm_soft_access access, enum hmm_soft_fault_reason reason)
{
	assert_ptr_equal(fault.addr, addr);
	assert_int_equal(fault.access, access);
	assert_int_equal(fault.reason, reason);
	assert_int_equal(fault.item, 0);
}

/* The record has the address, the access and the reason, exactly. */
static void record_says_what_was_refused(void **state)
{
	struct world *w = *state;
	struct hmm_soft *soft = soft_small(w);
	unsigned char *p = map_filled(4, 9);

	assert_int_equal(mprotect(p + page, page, PROT_READ), 0);
	assert_int_equal(munmap(p + 2 * page, page), 0);
	assert_record(soft_store_refused(soft, p + page + 8), p + page + 8, HMM_SOFT_WRITE,
		      HMM_SOFT_FAULT_READONLY);
	assert_record(soft_add_refused(soft, p + page + 16), p + page + 16, HMM_SOFT_RW,
		      HMM_SOFT_FAULT_READONLY);
	assert_record(soft_load_refused(soft, p + 2 * page + 24), p + 2 * page + 24, HMM_SOFT_READ,
		      HMM_SOFT_FAULT_UNMAPPED);
	assert_record(soft_add_refused(soft, p + 2 * page), p + 2 * page, HMM_SOFT_RW,
		      HMM_SOFT_FAULT_UNMAPPED);
	assert_record(soft_store_refused(soft, p + 4), p + 4, HMM_SOFT_WRITE,
		      HMM_SOFT_FAULT_MISALIGNED);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, 4 * page);
}

/* Nobody has atomics on a file's pages; loads and stores work. */
static void atomic_on_a_memfd_is_refused(void **state)
{
	struct world *w = *state;
	struct hmm_soft *soft = soft_small(w);
	int fd = memfd_create("soft", MFD_CLOEXEC);
	unsigned char *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)page), 0);
	p = mmap(NULL, page, RW, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	soft_store(soft, p, 7);
	assert_record(soft_add_refused(soft, p), p, HMM_SOFT_RW, HMM_SOFT_FAULT_ATOMIC);
	assert_int_equal(soft_load(soft, p), 7);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, page);
	close(fd);
}

/*
 * The device maps the program's pages in a table of its own. When there is no memory for
 * it the kernel ends and says so; with some again the access is had.
 */
static void no_memory_for_the_page_table(void **state)
{
	enum { BLOCKS = 400, BLOCK = 512 };
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2048 * page, .lanes = 1,
		 .migrate = HMM_SOFT_MIGRATE_NEVER);
	struct world *w = *state;
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_pages(BLOCKS * BLOCK, RW, MAP_NORESERVE);
	struct hmm_soft_fault fault = { 0 };
	struct rlimit old, none;
	size_t i = 0;
	int ret;

	if (SANITIZED) {
		print_message("          not here: a sanitizer needs address space itself\n");
		assert_int_equal(hmm_soft_close(soft), 0);
		munmap(p, BLOCKS * BLOCK * page);
		skip();
	}
	assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
	do
		ret = soft_try_load(soft, p + i++ * BLOCK * page, &fault);
	while (!ret && i < BLOCKS);
	assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);

	assert_int_equal(ret, -EFAULT);
	assert_record(fault, p + (i - 1) * BLOCK * page, HMM_SOFT_READ, HMM_SOFT_FAULT_NOMEM);
	assert_int_equal(soft_load(soft, p + (i - 1) * BLOCK * page), 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, BLOCKS * BLOCK * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(nth_allocation_fails),
		world_test(fault_without_room_is_mirrored),
		world_test(one_dma_error_loses_nothing),
		world_test(ecc_error_costs_its_page),
		world_test(ecc_error_reaches_the_lanes),
		world_test(reset_is_told_page_by_page),
		world_test(reset_during_a_migration_loses_nothing),
		world_test(ecc_error_of_a_peer),
		world_test(record_says_what_was_refused),
		world_test(atomic_on_a_memfd_is_refused),
		world_test(no_memory_for_the_page_table),
	};

	need_mm();
	return cmocka_run_group_tests_name("soft_faults", tests, world_begin, world_end);
}
