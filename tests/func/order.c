/* SPDX-License-Identifier: MIT */
/*
 * Orders of steps that two threads take once in a million, made to happen: a step of
 * the program's is made inside a chosen call of the library's to the kernel.
 *
 * Not for a strict mm, where a change of the program's waits for the library's lock, and
 * so cannot come in between.
 */
#define _GNU_SOURCE
#include "world.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NR	8
#define BLOCK	512	/* pages that the library handles together */
#define RW	(PROT_READ | PROT_WRITE)

static unsigned char *place;
/* Around registering, and before unregistering, what @place is in. */
static void (*before)(void), (*after)(void), (*before_end)(void);

/* @range: what both calls begin with. */
static bool covers(const struct uffdio_range *range, uintptr_t addr)
{
	return range->start <= addr && addr - range->start < range->len;
}

/* As libc declares it: with an int in musl. */
#ifdef __GLIBC__
typedef unsigned long request_t;
#else
typedef int request_t;
#endif

/* The library's: the program's symbols come first. */
__attribute__((visibility("default")))
int ioctl(int fd, request_t request, ...)
{
	bool registers, unregisters;
	va_list args;
	void *arg;
	int ret;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	registers = (unsigned int)request == UFFDIO_REGISTER && covers(arg, (uintptr_t)place);
	unregisters = (unsigned int)request == UFFDIO_UNREGISTER && covers(arg, (uintptr_t)place);
	if (registers && before)
		before();
	if (unregisters && before_end)
		before_end();
	ret = (int)syscall(SYS_ioctl, fd, request, arg);
	if (registers && after)
		after();
	return ret;
}

static void unmap_place(void)
{
	before = NULL;
	munmap(place, NR * page);
}

static void map_place(void)
{
	after = NULL;
	mmap(place, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void map_and_fill_place(void)
{
	map_place();
	fill(place, NR, 2);
}

/*
 * One thread migrates what another unmaps, before it is registered, which the kernel
 * tells nobody; and maps anew when it has been, with the neighbours.
 */
static void in_between(struct world *w, void (*then)(void))
{
	unsigned char *around = map_filled(3 * NR, 1);

	/* Mappings of their own, or there would be nothing left to register. */
	assert_int_equal(mprotect(around, page, PROT_READ), 0);
	place = around + NR * page;
	before = unmap_place;
	after = then;
	IGNORE(try_device(w, w->dev, place, NR, NULL));
	assert_null(before);
	assert_null(after);
}

/* What is written to a mapping that came in between is there when it is read. */
static void what_is_mapped_anew_keeps_what_is_written(void **state)
{
	struct world *w = *state;

	in_between(w, map_and_fill_place);
	assert_holds(place, NR, 2, 0);
	to_device(w, w->dev, place, NR);
	assert_holds(place, NR, 2, 0);
	munmap(place - NR * page, 3 * NR * page);
}

/* Of one that is still empty nothing is believed to be on the device. */
static void what_is_mapped_anew_is_not_taken_for_a_hole(void **state)
{
	struct world *w = *state;

	in_between(w, map_place);
	assert_at(w, place, NR, HMM_PLACE_HOLE);
	fill(place, NR, 3);
	to_device(w, w->dev, place - (NR - 1) * page, 3 * NR - 1);
	assert_holds(place, NR, 3, 0);
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(place - NR * page, 3 * NR * page);
}

/* NR pages with nothing else in their block of the directory, which are let go with it. */
static unsigned char *alone(uint32_t seed)
{
	unsigned char *p = map_pages(2 * BLOCK, RW, 0);
	unsigned char *at = p + (BLOCK - ((uintptr_t)p / page) % BLOCK) * page;

	munmap(p, (size_t)(at - p));
	munmap(at + NR * page, (2 * BLOCK - NR) * page - (size_t)(at - p));
	fill(at, NR, seed);
	return at;
}

static void map_over_place(void)
{
	before = NULL;
	mmap(place - NR * page, 3 * NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	fill(place - NR * page, 3 * NR, 4);
}

/*
 * A mapping that comes over what is about to be trapped is one mapping: mremap, which
 * takes no part of two to another size, finds it so.
 */
static void what_is_mapped_over_stays_one_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *to = map_pages(2 * NR, RW, 0);
	/* Between shared memory, which is trapped with nobody's. */
	unsigned char *around = map_pages(3 * NR, PROT_NONE, MAP_SHARED);

	place = around + NR * page;
	assert_ptr_equal(mmap(place, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 place);
	fill(place, NR, 1);
	before = map_over_place;
	IGNORE(try_device(w, w->dev, place, NR, NULL));
	assert_null(before);
	assert_ptr_equal(mremap(place - NR * page, 3 * NR * page, 2 * NR * page,
				MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_holds(to, 2 * NR, 4, 0);
	munmap(to, 2 * NR * page);
}

static unsigned char *moving;
static pthread_t mover;

static void *move_run(void *unused)
{
	(void)unused;
	return mremap(moving, NR / 2 * page, NR / 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED,
		      place + NR / 4 * page);
}

/* mremap() has been made, and waits until its event is read. */
static void move_into_place(void)
{
	before_end = NULL;
	assert_int_equal(pthread_create(&mover, NULL, move_run, NULL), 0);
	assert_true(eventually(msync(moving, page, MS_ASYNC)));
}

/*
 * What one thread moves, pages away and all, into a mapping that is just being let go,
 * since the last page of its own came home, keeps its bytes.
 */
static void what_moves_into_a_mapping_being_let_go(void **state)
{
	struct world *w = *state;
	void *moved_to;

	place = alone(4);
	moving = alone(5);
	to_device(w, w->dev, place, NR);
	to_device(w, w->dev, moving, NR);
	before_end = move_into_place;
	/* Those of its own, and what has come in. */
	assert_in_range(evict(w, place, NR), NR, NR + NR / 2);
	assert_null(before_end);
	pthread_join(mover, &moved_to);
	assert_ptr_equal(moved_to, place + NR / 4 * page);
	assert_holds(moved_to, NR / 2, 5, 0);
	assert_holds(place, NR / 4, 4, 0);
	assert_holds(moving + NR / 2 * page, NR / 2, 5, NR / 2);
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(moving, NR * page);
	munmap(place, NR * page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(what_is_mapped_anew_keeps_what_is_written),
		world_test(what_is_mapped_anew_is_not_taken_for_a_hole),
		world_test(what_is_mapped_over_stays_one_mapping),
		world_test(what_moves_into_a_mapping_being_let_go),
	};

	if (strict())
		skip_program("skipped: a strict mm hears of a change before it is made");
	if (masked("uffdio-move"))
		skip_program("skipped: what mremap takes is the mapping of that moment");
	need_mm();
	return cmocka_run_group_tests_name("order", tests, world_begin, world_end);
}
