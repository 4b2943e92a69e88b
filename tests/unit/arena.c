/* SPDX-License-Identifier: MIT */
/*
 * The library's own memory is known as such for as long as it is there.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <uhmm/driver.h>

#include "core/arena.h"
#include "sys/sys.h"

#define BYTES	(256u << 10)	/* a mapping of its own */

static void *another;
static bool armed;

int __real_sys_munmap(void *p, size_t len);
int __wrap_sys_munmap(void *p, size_t len);

/* Another thread gets the address as soon as it is free. */
int __wrap_sys_munmap(void *p, size_t len)
{
	int ret = __real_sys_munmap(p, len);

	if (armed) {
		armed = false;
		another = hmm_safe_alloc(BYTES);
	}
	return ret;
}

static bool owns(const void *p)
{
	return arena_owns((uintptr_t)p, (uintptr_t)p + BYTES);
}

static void an_address_used_again_is_owned(void **state)
{
	void *p = hmm_safe_alloc(BYTES);

	(void)state;
	assert_non_null(p);
	assert_true(owns(p));
	armed = true;
	hmm_safe_free(p, BYTES);
	assert_non_null(another);
	if (another != p)
		print_message("          the kernel gave another address\n");
	assert_true(owns(another));
	hmm_safe_free(another, BYTES);
	assert_false(owns(another));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_used_again_is_owned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
