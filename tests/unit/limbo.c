/* SPDX-License-Identifier: MIT */
/*
 * Limbo (core/limbo.h) when the way back is refused: a page of a read-only mapping that
 * is pinned goes back from limbo as it was; where there is no mapping to be had for that,
 * its bytes at least come home, and it is told that DMA to it is lost.
 *
 * The linker puts the refusal in (--wrap, see meson.build).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/soft.h>

#include "core/limbo.h"
#include "sys/sys.h"

#include "../func/uring.h"

#define EXIT_SKIP	77
#define TEST_SECONDS	60
#define NR		16
#define PINNED		5

int __real_limbo_return(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t addr, size_t len);
int __wrap_limbo_return(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t addr, size_t len);

static struct hmm_mm *mm;
static struct hmm_soft *soft;
static size_t page;
static int refused = -1;	/* -1: none is to be; else how many were */

int __wrap_limbo_return(struct hmm_mm *of, const struct sys_vma *vma, uintptr_t addr, size_t len)
{
	if (refused < 0)
		return __real_limbo_return(of, vma, addr, len);
	refused++;
	return -ENOMEM;
}

/* Page i is full of i + 1. */
static bool holds(const unsigned char *p)
{
	for (size_t i = 0; i < NR * page; i++)
		if (p[i] != i / page + 1)
			return false;
	return true;
}

/* Read-only, one page of it pinned by io_uring. */
static unsigned char *map_pinned(struct uring *ring)
{
	unsigned char *p = mmap(NULL, NR * page, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	for (size_t i = 0; i < NR; i++)
		memset(p + i * page, (int)i + 1, page);
	assert_int_equal(uring_open(ring), 0);
	assert_int_equal(uring_register(ring, p + PINNED * page, page), 0);
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	return p;
}

static void unmap_pinned(unsigned char *p, struct uring *ring)
{
	uring_close(ring);
	assert_int_equal(munmap(p, NR * page), 0);
}

static uint64_t lost(void)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_mm_stats(mm, &s), 0);
	return s.lost_pages;
}

/* As it is meant: the pinned page stays, is told so, and nothing is lost. */
static void pinned_page_goes_back(void **state)
{
	uint64_t reasons[HMM_REASONS] = { 0 }, before = lost();
	struct uring ring;
	unsigned char *p = map_pinned(&ring);

	(void)state;
	assert_int_equal(hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + NR * page,
					     reasons), NR - 1);
	assert_int_equal(reasons[HMM_REASON_PINNED], 1);
	assert_true(holds(p));
	assert_int_equal(lost(), before);
	unmap_pinned(p, &ring);
}

/* Its way back is refused: every byte is there nevertheless, and the page is counted. */
static void bytes_come_home_without_a_mapping(void **state)
{
	uint64_t before = lost();
	struct uring ring;
	unsigned char *p = map_pinned(&ring);

	(void)state;
	refused = 0;
	assert_int_equal(hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + NR * page, NULL), NR);
	assert_int_equal(refused, 1);
	refused = -1;
	assert_int_equal(lost(), before + 1);
	assert_true(holds(p));
	unmap_pinned(p, &ring);
}

static bool can_pin(void)
{
	static char buffer[4096] __attribute__((aligned(4096)));
	struct uring ring;
	bool can = !uring_open(&ring);

	if (can) {
		can = !uring_register(&ring, buffer, sizeof(buffer));
		uring_close(&ring);
	}
	return can;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pinned_page_goes_back),
		cmocka_unit_test(bytes_come_home_without_a_mapping),
	};
	HMM_OPTS(hmm_mm_opts, opts, .flags = HMM_MM_STRICT);
	HMM_OPTS(hmm_soft_opts, device, .mem_bytes = 256 * hmm_page_size(), .lanes = 1);
	int ret;

	alarm(TEST_SECONDS);
	page = hmm_page_size();
	if (!can_pin()) {
		printf("skipped: no io_uring that registers buffers\n");
		return EXIT_SKIP;
	}
	if (!sys_cap(CAP_MOVE)) {
		printf("skipped: no UFFDIO_MOVE, so no way by limbo\n");
		return EXIT_SKIP;
	}
	ret = hmm_mm_create(&opts, &mm);
	if (ret == -EPERM || ret == -EOPNOTSUPP || ret == -EBUSY) {
		printf("skipped: no strict mm: %s\n", strerror(-ret));
		return EXIT_SKIP;
	}
	if (ret || hmm_soft_open(mm, &device, &soft))
		return EXIT_FAILURE;
	ret = cmocka_run_group_tests_name("limbo", tests, NULL, NULL);
	return hmm_soft_close(soft) || hmm_mm_destroy(mm) ? EXIT_FAILURE : ret;
}
