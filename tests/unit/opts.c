/* SPDX-License-Identifier: MIT */
/* Options that grow: what is too old, too new, or newer with a zero tail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/opts.h"

static unsigned char bytes[2 * OPTS_SIZE_MAX];

/* The size must be at least that of the first release. */
static void too_small_is_einval(void **state)
{
	(void)state;
	memset(bytes, 0, sizeof(bytes));
	for (uint64_t size = 0; size < 24; size++)
		assert_int_equal(opts_check(bytes, size, 40, 24), -EINVAL);
	assert_int_equal(opts_check(bytes, 24, 40, 24), 0);
	assert_int_equal(opts_check(bytes, 32, 40, 24), 0);
	assert_int_equal(opts_check(bytes, 40, 40, 24), 0);
}

/* Longer is fine as long as all of the tail is zero, to its last byte. */
static void tail_must_be_zero(void **state)
{
	(void)state;
	memset(bytes, 0, sizeof(bytes));
	memset(bytes, 0xff, 40);
	assert_int_equal(opts_check(bytes, 64, 40, 24), 0);
	for (size_t i = 40; i < 64; i++) {
		bytes[i] = 1;
		assert_int_equal(opts_check(bytes, 64, 40, 24), -E2BIG);
		bytes[i] = 0;
	}
	bytes[64] = 1;	/* behind the caller's struct */
	assert_int_equal(opts_check(bytes, 64, 40, 24), 0);
}

/* A stray size never makes the library read far. */
static void stray_size_is_e2big(void **state)
{
	(void)state;
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(opts_check(bytes, OPTS_SIZE_MAX, 40, 24), 0);
	assert_int_equal(opts_check(bytes, OPTS_SIZE_MAX + 1, 40, 24), -E2BIG);
	assert_int_equal(opts_check(bytes, UINT64_MAX, 40, 24), -E2BIG);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(too_small_is_einval),
		cmocka_unit_test(tail_must_be_zero),
		cmocka_unit_test(stray_size_is_e2big),
	};

	return cmocka_run_group_tests_name("opts", tests, NULL, NULL);
}
