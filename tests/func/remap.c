/* SPDX-License-Identifier: MIT */
/*
 * mremap with pages away: the bytes are where it says that they are, also when they come
 * home while it is under way, and where it fails they have stayed.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NR	32
#define RW	(PROT_READ | PROT_WRITE)
#define ONTO	(MREMAP_MAYMOVE | MREMAP_FIXED)

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/*
 * mremap is told for both places: a device may have mirrored what was at the old one,
 * which stays a mapping with DONTUNMAP, and what the new one has replaced.
 */
static void mremap_is_told_for_both_places(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 38), *to = map_away(w, NR, 39);
	struct heard *old = listen_to(w, p, p + NR * page);
	struct heard *new = listen_to(w, to, to + NR * page);

	assert_ptr_equal(mremap(p, NR * page, NR * page, ONTO | MREMAP_DONTUNMAP, to), to);
	/* STRICT: before mremap returned. Else somebody has read of it by then, no more. */
	if (!strict())
		assert_true(eventually(heard_type(old, HMM_EVENT_UNMAP) &&
				       heard_type(new, HMM_EVENT_UNMAP)));
	assert_true(heard_event(old, HMM_EVENT_UNMAP, NULL, p, p + NR * page));
	assert_true(heard_event(new, HMM_EVENT_UNMAP, NULL, to, to + NR * page));
	listen_end(old);
	listen_end(new);
	assert_holds(to, NR, 38, 0);
	assert_true(all_zero(p, NR * page));
	munmap(p, NR * page);
	munmap(to, NR * page);
}

/* mremap that shrinks frees the tail. */
static void mremap_shrinks(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 8);

	assert_ptr_equal(mremap(p, NR * page, 10 * page, 0), p);
	assert_used(w->dev, 10);
	assert_at(w, p + 10 * page, NR - 10, HMM_PLACE_GAP);
	assert_holds(p, 10, 8, 0);
	munmap(p, 10 * page);
}

/* mremap that grows and moves takes the bytes along; the new tail is zeros. */
static void mremap_grows_and_moves(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 9), *q;

	/* Something right behind keeps it from growing in place. */
	if (mmap(p + NR * page, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		 -1, 0) == MAP_FAILED)
		assert_int_equal(errno, EEXIST);
	q = mremap(p, NR * page, 2 * NR * page, MREMAP_MAYMOVE);
	assert_ptr_not_equal(q, MAP_FAILED);
	assert_ptr_not_equal(q, p);
	assert_at(w, p, NR, HMM_PLACE_GAP);
	assert_holds(q, NR, 9, 0);
	assert_true(all_zero(q + NR * page, NR * page));
	assert_used(w->dev, 0);
	munmap(q, 2 * NR * page);
}

/* mremap that grows in place: old bytes, and zeros behind them. */
static void mremap_grows_in_place(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(2 * NR, RW, 0);

	assert_int_equal(munmap(p + NR * page, NR * page), 0);
	fill(p, NR, 10);
	to_device(w, w->dev, p, NR);
	assert_ptr_equal(mremap(p, NR * page, 2 * NR * page, 0), p);
	assert_true(all_zero(p + NR * page, NR * page));
	assert_holds(p, NR, 10, 0);
	munmap(p, 2 * NR * page);
}

/* mremap of a mapping of which only the middle is away succeeds, as one mapping. */
static void mremap_of_partly_migrated_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 11), *q;

	to_device(w, w->dev, p + 10 * page, 7);
	q = mremap(p, NR * page, 4 * NR * page, MREMAP_MAYMOVE);
	assert_ptr_not_equal(q, MAP_FAILED);
	assert_holds(q, NR, 11, 0);
	assert_true(all_zero(q + NR * page, 3 * NR * page));
	munmap(q, 4 * NR * page);
}

/* The same through realloc(): libc's own call, which no hook sees. */
static void realloc_of_partly_migrated_block(void **state)
{
	struct world *w = *state;
	size_t bytes = 4 << 20, nr = bytes / 4 / page < 64 ? bytes / 4 / page : 64;
	char *block = malloc(bytes), *base;

	assert_non_null(block);
	memset(block, 0x3c, bytes);
	base = (char *)(((uintptr_t)block + (1 << 20)) & ~(page - 1));
	to_device(w, w->dev, base, nr);
	block = realloc(block, 4 * bytes);
	assert_non_null(block);
	for (size_t i = 0; i < bytes; i++)
		if (block[i] != 0x3c)
			fail_msg("byte %zu is %#x", i, block[i]);
	free(block);
	assert_used(w->dev, 0);
}

/* mremap of a part to another address: the rest stays, the part moves. */
static void mremap_moves_a_part(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 12);
	unsigned char *q = map_pages(8, PROT_NONE, 0);

	assert_ptr_equal(mremap(p + 8 * page, 8 * page, 8 * page, ONTO, q), q);
	assert_at(w, p + 8 * page, 8, HMM_PLACE_GAP);
	assert_holds(q, 8, 12, 8);
	assert_holds(p, 8, 12, 0);
	assert_holds(p + 16 * page, 16, 12, 16);
	munmap(p, NR * page);
	munmap(q, 8 * page);
}

/* mremap(MREMAP_FIXED) onto pages that are away themselves frees those. */
static void mremap_fixed_onto_migrated_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 13), *q = map_away(w, NR, 14);

	assert_ptr_equal(mremap(p, 8 * page, 8 * page, ONTO, q + 4 * page), q + 4 * page);
	assert_holds(q, 4, 14, 0);
	assert_holds(q + 4 * page, 8, 13, 0);
	assert_holds(q + 12 * page, NR - 12, 14, 12);
	assert_holds(p + 8 * page, NR - 8, 13, 8);
	assert_used(w->dev, 0);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

/* Pages that moved with mremap can migrate again and be unmapped at the new place. */
static void moved_pages_are_tracked_at_the_new_place(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 15);
	unsigned char *q = map_pages(NR, PROT_NONE, 0);

	assert_ptr_equal(mremap(p, NR * page, NR * page, ONTO, q), q);
	IGNORE(try_device(w, w->dev, q, NR, NULL));
	assert_at(w, q, NR, HMM_PLACE_DEVICE);
	assert_at(w, p, NR, HMM_PLACE_GAP);
	assert_used(w->dev, NR);
	for (uint64_t i = 0; i < DEV_PAGES; i++) {
		uintptr_t addr;

		if (!hmm_devmem_lookup(w->dev->devmem, i, &addr))
			assert_in_range(addr, (uintptr_t)q, (uintptr_t)q + (NR - 1) * page);
	}
	assert_int_equal(munmap(q, NR / 2 * page), 0);
	assert_used(w->dev, NR / 2);
	assert_holds(q + NR / 2 * page, NR / 2, 15, NR / 2);
	munmap(q, NR * page);
}

/*
 * Pages away that move to beside a mapping whose last page has just come home keep their
 * bytes: that one is let go alone.
 */
static void moved_beside_one_let_go(void **state)
{
	struct world *w = *state;

	for (uint32_t i = rounds(300); i > 0; i--) {
		unsigned char *p = map_filled(2 * NR, i);
		unsigned char *to = map_pages(2 * NR, PROT_NONE, 0);

		to_device(w, w->dev, p, 2 * NR);
		assert_ptr_equal(mremap(p + NR * page, NR * page, NR * page, ONTO, to + NR * page),
				 to + NR * page);
		assert_holds(to + NR * page, NR, i, NR);
		assert_ptr_equal(mremap(p, NR * page, NR * page, ONTO, to), to);
		assert_holds(to, NR, i, 0);
		munmap(to, 2 * NR * page);
	}
}

/* MREMAP_DONTUNMAP: the new place has the bytes, the old one is empty but mapped. */
static void mremap_dontunmap_leaves_an_empty_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 16);
	unsigned char *q = mremap(p, NR * page, NR * page, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);

	assert_ptr_not_equal(q, MAP_FAILED);
	assert_true(all_zero(p, NR * page));
	assert_holds(q, NR, 16, 0);
	fill(p, NR, 17);
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR, 17, 0);
	assert_holds(q, NR, 16, 0);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

/* An mremap that fails leaves pages, bytes and addresses as they were. */
static void failed_mremap_changes_nothing(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 18);

	/* More than there are addresses, which some kernels say otherwise. */
	assert_ptr_equal(mremap(p, NR * page, (size_t)1 << 52, MREMAP_MAYMOVE), MAP_FAILED);
	assert_true(errno == ENOMEM || errno == EINVAL);
	assert_ptr_equal(mremap(p + 1, NR * page, NR * page, MREMAP_MAYMOVE), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_holds(p, NR, 18, 0);
	munmap(p, NR * page);
}

#define READ_PAGES	(4 * NR)

struct reader {
	const volatile unsigned char *p;
	_Atomic bool go, stop;
};

static void *read_run(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(&r->stop)) {
		if (!atomic_exchange(&r->go, false)) {
			sched_yield();
			continue;
		}
		for (size_t i = 0; i < READ_PAGES; i++)
			(void)r->p[i * page];
	}
	return NULL;
}

/* The old place stays mapped: what is read there meanwhile takes no page's place. */
static void mremap_dontunmap_under_readers(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(READ_PAGES, 1);
	struct reader r = { .p = p };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, read_run, &r), 0);
	for (uint32_t i = rounds(200); i > 0; i--) {
		unsigned char *q;

		fill(p, READ_PAGES, i);
		IGNORE(try_device(w, w->dev, p, READ_PAGES, NULL));
		atomic_store(&r.go, true);
		q = mremap(p, READ_PAGES * page, READ_PAGES * page,
			   MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
		assert_ptr_not_equal(q, MAP_FAILED);
		assert_holds(q, READ_PAGES, i, 0);
		munmap(q, READ_PAGES * page);
	}
	atomic_store(&r.stop, true);
	pthread_join(thread, NULL);
	munmap(p, READ_PAGES * page);
}

/* Beside memory that the program itself traps, which cannot be trapped together with any. */
static void failed_mremap_beside_a_foreign_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(2 * NR, 60);
	int fd = foreign_userfaultfd();

	assert_true(fd >= 0);
	assert_int_equal(foreign_register(fd, p + NR * page, NR), 0);
	to_device(w, w->dev, p, NR);
	/* No gap is that large. */
	assert_ptr_equal(mremap(p, NR * page, hmm_user_end() - 16 * page, MREMAP_MAYMOVE),
			 MAP_FAILED);
	assert_int_equal(errno, ENOMEM);
	assert_holds(p, NR, 60, 0);
	close(fd);
	munmap(p, 2 * NR * page);
}

/* Over more mappings than are trapped at one go. */
static void failed_mremap_over_many_mappings(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 61);

	for (size_t i = 1; i < NR; i += 2)
		assert_int_equal(mprotect(p + i * page, page, PROT_READ), 0);
	IGNORE(try_device(w, w->dev, p, NR, NULL));
	assert_ptr_equal(mremap(p, NR * page, 2 * NR * page, MREMAP_MAYMOVE), MAP_FAILED);
	assert_int_equal(errno, EFAULT);
	assert_holds(p, NR, 61, 0);
	munmap(p, NR * page);
}

#define MOVER_PAGES	8

struct mover {
	unsigned char *p, *q;
	_Atomic bool moves, ends;
};

/* When it is told to, from p to q and back again, some times. */
static void *move_over_and_over(void *arg)
{
	struct mover *m = arg;
	const size_t len = MOVER_PAGES * page;

	while (!m->ends) {
		for (int i = 0; m->moves && i < 8; i++) {
			mremap(m->p, len, len, ONTO, m->q);
			mremap(m->q, len, len, ONTO, m->p);
		}
		m->moves = false;
		sched_yield();
	}
	return NULL;
}

/* One page after the other, as faults would. */
static void come_home(struct world *w, unsigned char *p)
{
	for (size_t i = 0; i < MOVER_PAGES; i++)
		IGNORE(evict(w, p + i * page, 1));
}

static void go_away(struct world *w, unsigned char *p)
{
	to_device(w, w->dev, p, MOVER_PAGES);
}

static void give_back(struct world *w, unsigned char *p)
{
	IGNORE(hmm_exclusive_end(w->mm, (uintptr_t)p, (uintptr_t)p + MOVER_PAGES * page));
}

static void lend(struct world *w, unsigned char *p)
{
	void *contents[MOVER_PAGES];

	assert_int_equal(hmm_exclusive_begin(w->mm, (uintptr_t)p, (uintptr_t)p +
					     MOVER_PAGES * page, world_owner_a, contents),
			 MOVER_PAGES);
}

/* Another thread moves the mapping to and fro while what was taken is given back. */
static void move_while(struct world *w, void (*take)(struct world *, unsigned char *),
		       void (*give)(struct world *, unsigned char *))
{
	struct mover m = {
		.p = map_filled(MOVER_PAGES, 62), .q = map_pages(MOVER_PAGES, PROT_NONE, 0),
	};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, move_over_and_over, &m), 0);
	for (uint32_t i = rounds(200); i > 0; i--) {
		take(w, m.p);
		m.moves = true;
		while (m.moves) {
			give(w, m.p);
			give(w, m.q);
		}
		assert_holds(m.p, MOVER_PAGES, 62, 0);
	}
	m.ends = true;
	pthread_join(thread, NULL);
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(m.p, MOVER_PAGES * page);
}

/* Pages that come home just when mremap has taken their mapping away go after it. */
static void moved_while_they_come_home(void **state)
{
	move_while(*state, go_away, come_home);
}

/* And so do those that a device had for itself. */
static void moved_while_given_back(void **state)
{
	move_while(*state, lend, give_back);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(mremap_is_told_for_both_places),
		world_test(mremap_shrinks),
		world_test(mremap_grows_and_moves),
		world_test(mremap_grows_in_place),
		world_test(mremap_of_partly_migrated_mapping),
		world_test(realloc_of_partly_migrated_block),
		world_test(mremap_moves_a_part),
		world_test(mremap_fixed_onto_migrated_pages),
		world_test(moved_pages_are_tracked_at_the_new_place),
		world_test(moved_beside_one_let_go),
		world_test(mremap_dontunmap_leaves_an_empty_mapping),
		world_test(mremap_dontunmap_under_readers),
		world_test(failed_mremap_changes_nothing),
		world_test(failed_mremap_beside_a_foreign_mapping),
		world_test(failed_mremap_over_many_mappings),
		world_test(moved_while_they_come_home),
		world_test(moved_while_given_back),
	};

	need_mm();
	return cmocka_run_group_tests_name("remap", tests, world_begin, world_end);
}
