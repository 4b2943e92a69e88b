// SPDX-License-Identifier: MIT
/*
 * A trace's text has each number as printf would write it.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include <cmocka.h>

#include "monitor/trace_text.h"

static struct trace_text text;

static void restart(uint64_t start_ns)
{
	memset(&text, 0, sizeof(text));
	text.start_ns = start_ns;
}

static void written(const char *want)
{
	text.bytes[text.len] = '\0';
	assert_string_equal(text.bytes, want);
}

static void a_change_is_written(const struct trace_record *r)
{
	const uint64_t ts = r->begin_ns, dur = r->end_ns - r->begin_ns;
	char want[512];

	restart(0);
	trace_text_record(&text, r);
	snprintf(want, sizeof(want),
		 ",\n{\"ph\":\"X\",\"name\":\"munmap\",\"cat\":\"change\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32
		 ",\"ts\":%" PRIu64 ".%03" PRIu64 ",\"dur\":%" PRIu64 ".%03" PRIu64
		 ",\"args\":{\"start\":\"0x%" PRIx64 "\",\"end\":\"0x%" PRIx64 "\",\"result\":\"0x0\"}}",
		 r->mm, r->thread, ts / 1000, ts % 1000, dur / 1000, dur % 1000, r->start, r->end);
	written(want);
}

/* Around each power of ten and of sixteen, where a digit comes or goes. */
static void numbers_are_what_printf_makes_of_them(void **state)
{
	static const uint64_t bases[] = { 10, 16 };
	struct trace_record r = { .kind = HMM_TRACE_CHANGE, .what = SYS_munmap };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		for (uint64_t power = 1; power < UINT64_MAX / 256; power *= bases[i]) {
			for (uint64_t near = power - 1; near <= power + 1; near++) {
				r.mm = (uint32_t)near;
				r.thread = (uint32_t)(near * 7);
				r.begin_ns = near;
				r.end_ns = 2 * near + 1;
				r.start = near;
				r.end = near << 4 | 15;
				a_change_is_written(&r);
			}
		}
	}
}

static void so_are_any_numbers(void **state)
{
	const unsigned int seed = (unsigned int)time(NULL);
	struct trace_record r = { .kind = HMM_TRACE_CHANGE, .what = SYS_munmap };
	unsigned int at = seed;

	(void)state;
	printf("seed %u\n", seed);
	for (int i = 0; i < 20000; i++) {
		r.mm = (uint32_t)rand_r(&at) >> rand_r(&at) % 31;
		r.thread = (uint32_t)rand_r(&at) >> rand_r(&at) % 31;
		r.begin_ns = (uint64_t)rand_r(&at) << rand_r(&at) % 31;
		r.end_ns = r.begin_ns + 1 + ((uint64_t)rand_r(&at) >> rand_r(&at) % 31);
		r.start = (uint64_t)rand_r(&at) << rand_r(&at) % 33;
		r.end = (uint64_t)rand_r(&at) << rand_r(&at) % 33;
		a_change_is_written(&r);
	}
}

static void negative_and_largest_numbers(void **state)
{
	struct trace_record r = {
		.kind = HMM_TRACE_FORK, .mm = UINT32_MAX, .begin_ns = 5, .end_ns = 5, .result = -4095,
	};

	(void)state;
	restart(0);
	trace_text_record(&text, &r);
	written(",\n{\"ph\":\"i\",\"s\":\"t\",\"name\":\"fork\",\"cat\":\"change\",\"pid\":4294967295"
		",\"tid\":0,\"ts\":0.005,\"args\":{\"start\":\"0x0\",\"child\":-4095}}");
	r.result = INT64_MIN;
	restart(0);
	trace_text_record(&text, &r);
	assert_non_null(strstr(text.bytes, "\"child\":-9223372036854775808}"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_what_printf_makes_of_them),
		cmocka_unit_test(so_are_any_numbers),
		cmocka_unit_test(negative_and_largest_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
