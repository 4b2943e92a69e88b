/* SPDX-License-Identifier: MIT */
/* Copies past the caches: the bytes, all of them and no others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The ways that this machine's CPU would not choose, too. */
#define hmm_bulk_copy	tested_bulk_copy
#include "core/bulk.c"

#define SPACE	(256UL << 10)
#define EDGE	64UL

static unsigned char from[SPACE] __attribute__((aligned(64)));
static unsigned char to[SPACE] __attribute__((aligned(64)));

static void fill(void)
{
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (unsigned char)(i * 31 + (i >> 8) + (i >> 16));
}

static void check_copied(size_t dst, size_t src, size_t len)
{
	assert_memory_equal(to + dst, from + src, len);
	for (size_t i = dst > EDGE ? dst - EDGE : 0; i < dst; i++)
		assert_int_equal(to[i], 0xaa);
	for (size_t i = dst + len; i < dst + len + EDGE; i++)
		assert_int_equal(to[i], 0xaa);
}

static void check(size_t dst, size_t src, size_t len)
{
	memset(to, 0xaa, sizeof(to));
	hmm_bulk_copy(to + dst, from + src, len);
	check_copied(dst, src, len);
}

/* Around each multiple of what is copied at once, and at each alignment. */
static void what_was_to_be_copied_is(void **state)
{
	(void)state;
	fill();
	for (size_t len = 0; len <= 128UL << 10; len += 4096)
		for (size_t more = 0; more < 3; more++)
			check(4096, 8192, len + more * 33);
	for (size_t dst = 0; dst < 64; dst += 8)
		for (size_t src = 0; src < 64; src += 16)
			check(dst, src, 65536);
}

#ifdef __SSE2__
static void pages_check(void (*pages_by)(char *, const char *, size_t), size_t len)
{
	memset(to, 0xaa, sizeof(to));
	pages_by((char *)to + PAGE, (const char *)from + 2 * PAGE, len);
	_mm_sfence();
	check_copied(PAGE, 2 * PAGE, len);
}

static void each_way_copies_the_same(void **state)
{
	(void)state;
	fill();
	for (size_t len = 0; len <= 4 * ABREAST; len += ABREAST) {
		pages_check(pages_sse2, len);
		if (__builtin_cpu_supports("avx2"))
			pages_check(pages_avx2, len);
		if (__builtin_cpu_supports("avx512f"))
			pages_check(pages_avx512, len);
	}
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_to_be_copied_is),
#ifdef __SSE2__
		cmocka_unit_test(each_way_copies_the_same),
#endif
	};

	return cmocka_run_group_tests_name("bulk", tests, NULL, NULL);
}
