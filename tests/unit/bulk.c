/* SPDX-License-Identifier: MIT */
/* Copies past the caches: the bytes, all of them and no others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <uhmm/driver.h>

#define SPACE	(256UL << 10)
#define EDGE	64UL

static unsigned char from[SPACE] __attribute__((aligned(64)));
static unsigned char to[SPACE] __attribute__((aligned(64)));

static void check(size_t dst, size_t src, size_t len)
{
	memset(to, 0xaa, sizeof(to));
	hmm_bulk_copy(to + dst, from + src, len);
	assert_memory_equal(to + dst, from + src, len);
	for (size_t i = dst > EDGE ? dst - EDGE : 0; i < dst; i++)
		assert_int_equal(to[i], 0xaa);
	for (size_t i = dst + len; i < dst + len + EDGE; i++)
		assert_int_equal(to[i], 0xaa);
}

/* Around each multiple of what is copied at once, and at each alignment. */
static void what_was_to_be_copied_is(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (unsigned char)(i * 31 + (i >> 8) + (i >> 16));
	for (size_t len = 0; len <= 128UL << 10; len += 4096)
		for (size_t more = 0; more < 3; more++)
			check(4096, 8192, len + more * 33);
	for (size_t dst = 0; dst < 64; dst += 8)
		for (size_t src = 0; src < 64; src += 16)
			check(dst, src, 65536);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_to_be_copied_is),
	};

	return cmocka_run_group_tests_name("bulk", tests, NULL, NULL);
}
