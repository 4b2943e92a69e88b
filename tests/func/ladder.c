/* SPDX-License-Identifier: MIT */
/*
 * Which way each operation takes, told by the counters:
 *
 *			MOVE			DONTUNMAP	none
 *	to a device	UFFDIO_MOVE		mremap		refused, `kernel`
 *	home, in bulk	UFFDIO_MOVE		copy		-
 *	home, a page	copy			copy		-
 *	read-only	mremap and MOVE,	mremap		refused, `kernel`
 *			in a STRICT mm alone
 *	exclusive	UFFDIO_MOVE, copy	mremap, copy	-EOPNOTSUPP
 *
 * Which column it is to be UHMM_TEST_LADDER says, and else what UHMM_CAPS masks.
 */
#define _GNU_SOURCE
#include "prog.h"
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RUN	512u
#define RW	(PROT_READ | PROT_WRITE)

static enum rung { MOVE, DONTUNMAP, NONE } rung;

static enum rung expected(void)
{
	static const char *const names[] = { "MOVE", "DONTUNMAP", "none" };
	const char *name = getenv("UHMM_TEST_LADDER");

	for (unsigned int i = 0; name && i < ARRAY_LEN(names); i++)
		if (!strcmp(name, names[i]))
			return (enum rung)i;
	if (name)
		skip_program("UHMM_TEST_LADDER is not MOVE, DONTUNMAP or none");
	return !masked("uffdio-move") ? MOVE : masked("dontunmap") ? NONE : DONTUNMAP;
}

/* Runs taken since the last mark, by the way that it should be and by the other. */
static void assert_taken(struct world *w)
{
	assert_int_equal(moved(w, moved_runs) > 0, rung == MOVE);
	assert_int_equal(moved(w, remapped_runs) > 0, rung == DONTUNMAP);
	assert_int_equal(moved(w, copied_pages), 0);
}

/* All of @nr pages stay, for that one reason. */
static void assert_none_taken(struct world *w, void *p, size_t nr)
{
	assert_refused(w, p, nr, HMM_REASON_KERNEL);
	assert_at(w, p, nr, HMM_PLACE_SYSTEM);
}

static void take(struct world *w, void *p, size_t nr)
{
	if (rung == NONE) {
		assert_none_taken(w, p, nr);
		assert_int_equal(moved(w, moved_runs) + moved(w, remapped_runs), 0);
		return;
	}
	to_device(w, w->dev, p, nr);
	assert_taken(w);
}

/* A run goes by the rung's own way, and none is copied. */
static void a_run_is_taken(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(RUN, 1);

	take(w, p, RUN);
	assert_holds(p, RUN, 1, 0);
	munmap(p, RUN * page);
}

/* So does one page. */
static void a_page_is_taken(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(3, 2);

	take(w, p + page, 1);
	assert_holds(p, 3, 2, 0);
	munmap(p, 3 * page);
}

/* What was moved out is moved back, what was remapped is copied. */
static void a_run_comes_home(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(RUN, 3);

	take(w, p, RUN);
	stats_mark(w);
	assert_int_equal(evict(w, p, RUN), rung == NONE ? 0 : RUN);
	assert_int_equal(moved(w, moved_runs) > 0, rung == MOVE);
	/* What reaches into the next block by a page or two does not pay for a move. */
	if (rung == MOVE)
		assert_in_range(moved(w, copied_pages), 0, 14);
	else
		assert_int_equal(moved(w, copied_pages), rung == DONTUNMAP ? RUN : 0);
	assert_int_equal(moved(w, remapped_runs), 0);
	assert_holds(p, RUN, 3, 0);
	munmap(p, RUN * page);
}

/* A page that is touched comes by copy: that costs the program's other threads nothing. */
static void a_touched_page_is_copied(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(RUN, 4);

	take(w, p, RUN);
	stats_mark(w);
	assert_holds(p, 1, 4, 0);
	assert_int_equal(moved(w, copied_pages), rung == NONE ? 0 : 1);
	assert_int_equal(moved(w, moved_runs), 0);
	assert_int_equal(moved(w, cpu_faults), rung == NONE ? 0 : 1);
	assert_holds(p, RUN, 4, 0);
	munmap(p, RUN * page);
}

/* Of a mapping that cannot be written to: MOVE refuses it, so it goes by way of limbo. */
static void a_read_only_run_is_taken_where_it_is_safe(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(RUN, 5);

	assert_int_equal(mprotect(p, RUN * page, PROT_READ), 0);
	if (rung == NONE || (rung == MOVE && !strict())) {
		assert_none_taken(w, p, RUN);
	} else {
		to_device(w, w->dev, p, RUN);
		assert_true(moved(w, remapped_runs) > 0);
		assert_int_equal(moved(w, copied_pages), 0);
	}
	assert_holds(p, RUN, 5, 0);
	munmap(p, RUN * page);
}

/* A device's sole access takes the page, and the CPU's touch has it copied back. */
static void an_exclusive_page_is_taken_and_copied_back(void **state)
{
	struct world *w = *state;
	uint64_t *p = map_filled(1, 6);
	void *content = NULL;
	int64_t got = hmm_exclusive_begin(w->mm, (uintptr_t)p, (uintptr_t)p + page,
					  world_owner_a, &content);

	assert_int_equal(got, rung == NONE ? -EOPNOTSUPP : 1);
	if (rung == NONE) {
		assert_null(content);
	} else {
		assert_taken(w);
		*(uint64_t *)content = 66;
		assert_int_equal(p[0], 66);
		assert_int_equal(moved(w, copied_pages), 1);
	}
	assert_int_equal(p[1], pattern(6, 0, 1));
	munmap(p, page);
}

/* Another process's memory goes the same way, and comes home by copy: there is no other. */
static void another_process_goes_the_same_way(void **state)
{
	struct world theirs = { 0 };
	struct prog *program = prog_start(NULL);
	uintptr_t p = prog_map(program, RUN, 7);
	uint64_t reasons[HMM_REASONS] = { 0 };
	int64_t went;

	(void)state;
	theirs.mm = program->mm;
	theirs.dev = testdev_new(program->mm, RUN, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
	stats_mark(&theirs);
	went = try_device(&theirs, theirs.dev, (void *)p, RUN, reasons);
	assert_int_equal(went, rung == NONE ? 0 : RUN);
	assert_int_equal(reasons[HMM_REASON_KERNEL], rung == NONE ? RUN : 0);
	if (rung != NONE)
		assert_taken(&theirs);
	stats_mark(&theirs);
	assert_prog_holds(program, p, RUN, 7, 0);
	assert_int_equal(moved(&theirs, copied_pages), rung == NONE ? 0 : RUN);
	assert_int_equal(testdev_remove(theirs.dev), 0);
	assert_int_equal(prog_end(program), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(a_run_is_taken),
		world_test(a_page_is_taken),
		world_test(a_run_comes_home),
		world_test(a_touched_page_is_copied),
		world_test(a_read_only_run_is_taken_where_it_is_safe),
		world_test(an_exclusive_page_is_taken_and_copied_back),
	};
	/* Before there is an mm of this process, which would have to do with its forks. */
	static const struct CMUnitTest remote_tests[] = {
		cmocka_unit_test(another_process_goes_the_same_way),
	};
	int failed;

	rung = expected();
	need_mm();
	progs_begin();
	failed = cmocka_run_group_tests_name("ladder, remote", remote_tests, NULL, NULL);
	return failed + cmocka_run_group_tests_name("ladder", tests, world_begin, world_end);
}
