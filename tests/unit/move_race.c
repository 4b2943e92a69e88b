/* SPDX-License-Identifier: MIT */
/*
 * What the program does between two system calls of a migration. It moves a page onto a
 * device page that is about to be gone past: it is none of those that were asked for, and
 * nobody may take it.
 *
 *	migration of [p, p + 16)		program
 *	------------------------		-------
 *	page 5 is on the device: a hole
 *						mremap(q, onto page 5)
 *	UFFDIO_MOVE: EAGAIN, an event		  waits for its event to be read
 *	reads it; UFFDIO_MOVE of what is
 *	  now something else
 *
 * And it unmaps memory that is about to be registered, and maps it anew a moment later:
 * then that is not registered, and no fault would bring back what is taken.
 *
 *	looks up [p, p + 32)
 *						munmap [p, p + 16): no event
 *	UFFDIO_REGISTER [p, p + 32)
 *	is p registered?
 *						mmap [p, p + 16), writes
 *	UFFDIO_MOVE from p
 *
 * And the kernel moves pages home and does not count them (Linux 6.18 to 7.2), so that the
 * slots that are to be copied from are empty.
 *
 * The linker puts all that there (--wrap, see meson.build). What is at q once
 * was page 5, so that the kernel makes one mapping of it and its new neighbours.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

#include "sys/sys.h"

#define EXIT_SKIP	77
#define TEST_SECONDS	30
#define NR		16
#define PASSED		5
#define ROUNDS_MAX	100

int __real_sys_uffd_move(int uffd, uintptr_t dst, uintptr_t src, size_t len, unsigned int flags,
			 size_t *done);
int __wrap_sys_uffd_move(int uffd, uintptr_t dst, uintptr_t src, size_t len, unsigned int flags,
			 size_t *done);

int __real_sys_uffd_register(int uffd, uintptr_t start, size_t len, uint64_t mode);
int __wrap_sys_uffd_register(int uffd, uintptr_t start, size_t len, uint64_t mode);

static struct hmm_mm *mm;
static struct hmm_soft *soft;
static size_t page;
static unsigned char *p, *q;
static bool armed;		/* to move a page onto one that is passed */
static bool to_unmap, to_map;	/* [p, p + NR) */
static size_t uncounted;		/* pages of the next move home that are not; 0: all are */
static pthread_t program;
static _Atomic uint32_t tid;

static void *move_onto(void *unused)
{
	void *to = p + PASSED * page;

	atomic_store(&tid, (uint32_t)syscall(SYS_gettid));
	return mremap(q, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to ? unused : NULL;
}

/* Asleep in the call: a thread that runs is not told from one that is not in it. */
static bool waits_for_its_event(void)
{
	char path[64], state[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%u/syscall", atomic_load(&tid));
	f = fopen(path, "r");
	if (f && !fgets(state, sizeof(state), f))
		state[0] = '\0';
	if (f)
		fclose(f);
	return atoi(state) == SYS_mremap && state[0] != 'r';
}

static unsigned char *map(size_t nr, void *at)
{
	unsigned char *a = mmap(at, nr * page, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	assert_ptr_not_equal(a, MAP_FAILED);
	for (size_t i = 0; i < nr; i++)
		memset(a + i * page, (int)i + 1, page);
	return a;
}

static void map_anew(void)
{
	if (to_map)
		map(NR, p);
	to_map = false;
}

int __wrap_sys_uffd_register(int uffd, uintptr_t start, size_t len, uint64_t mode)
{
	if (to_unmap && start <= (uintptr_t)p && (uintptr_t)p < start + len) {
		to_unmap = false;
		to_map = true;
		assert_int_equal(munmap(p, NR * page), 0);
	}
	return __real_sys_uffd_register(uffd, start, len, mode);
}

int __wrap_sys_uffd_move(int uffd, uintptr_t dst, uintptr_t src, size_t len, unsigned int flags,
			 size_t *done)
{
	int ret;

	/* The one that takes, not the one that asks whether the mapping is watched. */
	if (armed && src == (uintptr_t)p) {
		armed = false;
		pthread_create(&program, NULL, move_onto, p);
		while (!waits_for_its_event())
			;
	}
	/* Before the one that takes, after the one that asks. */
	if (src == (uintptr_t)p)
		map_anew();
	ret = __real_sys_uffd_move(uffd, dst, src, len, flags, done);
	if (dst == (uintptr_t)p)
		map_anew();
	if (uncounted && dst == (uintptr_t)p && *done == NR * page) {
		*done -= uncounted * page;
		uncounted = 0;
		ret = *done ? -EAGAIN : -EEXIST;
	}
	return ret;
}

static void to_device(unsigned char *from, size_t nr)
{
	assert_int_equal(hmm_soft_migrate_in(soft, (uintptr_t)from, (uintptr_t)from + nr * page,
					     NULL), nr);
}

static void a_page_moved_onto_one_that_is_passed_stays(void **state)
{
	void *ret;

	(void)state;
	p = map(NR, NULL);
	q = map(2, NULL);
	assert_ptr_equal(mremap(p + PASSED * page, 2 * page, 2 * page,
				MREMAP_MAYMOVE | MREMAP_FIXED, q), q);
	map(2, p + PASSED * page);
	to_device(p + PASSED * page, 1);
	to_device(q + page, 1);		/* so that q's mapping is watched too */
	armed = true;
	(void)!hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + NR * page, NULL);
	assert_false(armed);
	assert_int_equal(pthread_join(program, &ret), 0);
	assert_ptr_equal(ret, p);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(p[i * page], i == PASSED + 1 ? 2 : i + 1);
}

static void what_is_mapped_after_it_was_registered_stays(void **state)
{
	(void)state;
	p = map(2 * NR, NULL);
	to_unmap = true;
	(void)!hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + NR * page, NULL);
	assert_false(to_unmap || to_map);
	for (size_t i = 0; i < 2 * NR; i++)
		assert_int_equal(p[i * page], i + 1);
}

static uint64_t lost(void)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_mm_stats(mm, &s), 0);
	return s.lost_pages;
}

/* NR pages that are moved at one go: what lies in two blocks is two moves. */
static unsigned char *map_in_a_block(void)
{
	const size_t block = 512 * page;
	uintptr_t room = (uintptr_t)mmap(NULL, 2 * block, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
					 -1, 0);

	assert_true((void *)room != MAP_FAILED);
	return map(NR, (void *)((room + block - 1) & ~(block - 1)));
}

/* Until the kernel has moved all of them at one go, which a page that it holds keeps it from. */
static void until_uncounted(void (*round)(void), size_t nr)
{
	uncounted = nr;
	for (int i = 0; i < ROUNDS_MAX && uncounted; i++)
		round();
	assert_int_equal(uncounted, 0);
}

/* All come home, be it counted or not, and none is copied from where it is no more. */
static void come_home(void)
{
	const uint64_t before = lost();

	p = map_in_a_block();
	to_device(p, NR);
	assert_int_equal(hmm_evict(mm, (uintptr_t)p, (uintptr_t)p + NR * page), NR);
	for (size_t i = 0; i < NR * page; i++)
		assert_int_equal(p[i], i / page + 1);
	assert_int_equal(lost(), before);
	assert_int_equal(munmap(p, NR * page), 0);
}

static void a_move_home_that_is_not_counted(void **state)
{
	(void)state;
	until_uncounted(come_home, NR);
}

/* What is left is too few pages for another move, or enough. */
static void a_move_home_that_is_counted_short(void **state)
{
	(void)state;
	until_uncounted(come_home, 3);
	until_uncounted(come_home, NR - 3);
}

/*
 * Pages that no device gets go back from where they were taken to, which our own userfaultfd
 * holds: a copy from an empty slot there would wait for us.
 */
static void give_back(void)
{
	static uint64_t src[NR], dst[NR];
	struct hmm_migrate m = {
		.size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .src = src, .dst = dst, .owner = &mm,
	};
	const uint64_t before = lost();

	p = map_in_a_block();
	memset(dst, 0, sizeof(dst));
	m.start = (uintptr_t)p;
	m.end = m.start + NR * page;
	assert_int_equal(hmm_migrate_setup(mm, &m), 0);
	assert_int_equal(m.nr_pages, NR);
	hmm_migrate_pages(mm, &m);
	hmm_migrate_finalize(mm, &m);
	for (size_t i = 0; i < NR * page; i++)
		assert_int_equal(p[i], i / page + 1);
	assert_int_equal(lost(), before);
	assert_int_equal(munmap(p, NR * page), 0);
}

static void a_move_back_that_is_not_counted(void **state)
{
	(void)state;
	until_uncounted(give_back, NR);
}

static void a_move_back_that_is_counted_short(void **state)
{
	(void)state;
	until_uncounted(give_back, 3);
	until_uncounted(give_back, NR - 3);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_moved_onto_one_that_is_passed_stays),
		cmocka_unit_test(what_is_mapped_after_it_was_registered_stays),
		cmocka_unit_test(a_move_home_that_is_not_counted),
		cmocka_unit_test(a_move_home_that_is_counted_short),
		cmocka_unit_test(a_move_back_that_is_not_counted),
		cmocka_unit_test(a_move_back_that_is_counted_short),
	};
	HMM_OPTS(hmm_soft_opts, device, .mem_bytes = 256 * hmm_page_size(), .lanes = 1);
	int ret;

	alarm(TEST_SECONDS);
	page = hmm_page_size();
	if (!sys_cap(CAP_MOVE)) {
		printf("skipped: no UFFDIO_MOVE\n");
		return EXIT_SKIP;
	}
	ret = hmm_mm_create(NULL, &mm);
	if (ret == -EPERM || ret == -EOPNOTSUPP) {
		printf("skipped: this user or kernel has no userfaultfd for an mm\n");
		return EXIT_SKIP;
	}
	if (ret || hmm_soft_open(mm, &device, &soft))
		return EXIT_FAILURE;
	ret = cmocka_run_group_tests_name("move_race", tests, NULL, NULL);
	return hmm_soft_close(soft) || hmm_mm_destroy(mm) ? EXIT_FAILURE : ret;
}
