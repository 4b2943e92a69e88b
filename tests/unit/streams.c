/* SPDX-License-Identifier: MIT */
/* Windows of faults: they grow where faults follow each other, and shrink where not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <uhmm/driver.h>
#include <uhmm/uhmm.h>

#define BASE	0x7f0000000000UL

static uintptr_t page(uint64_t nr)
{
	return BASE + nr * hmm_page_size();
}

/* 16 pages, then four times as many each time, up to the most. */
static void a_stream_earns_more_and_more(void **state)
{
	struct hmm_streams s = { 0 };
	uint64_t at = 0;

	(void)state;
	for (uint32_t want = 16; want < 512; want *= 4) {
		assert_int_equal(hmm_streams_pages(&s, page(at), 1, 512), want);
		at = (at & ~(uint64_t)(want - 1)) + want;
	}
	for (int i = 0; i < 5; i++) {
		assert_int_equal(hmm_streams_pages(&s, page(at), 1, 512), 512);
		at = (at & ~511UL) + 512;
	}
}

/* Faults here and there: a page each after a few, and no less than the least. */
static void strays_earn_a_page(void **state)
{
	static const uint32_t want[] = { 16, 8, 4, 2, 1, 1, 1 };

	(void)state;
	for (uint32_t least = 1; least <= 4; least *= 4) {
		struct hmm_streams s = { 0 };

		for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
			assert_int_equal(hmm_streams_pages(&s, page(i * 100003 + 1), least, 512),
					 want[i] > least ? want[i] : least);
	}
}

/* A stream that goes on makes strays worth more again; a small most is kept to. */
static void a_stream_among_strays_is_found(void **state)
{
	struct hmm_streams s = { 0 };
	uint64_t at = 1 << 20;

	(void)state;
	for (int i = 0; i < 20; i++)
		hmm_streams_pages(&s, page((uint64_t)i * 100003 + 1), 1, 64);
	assert_int_equal(hmm_streams_pages(&s, page(at), 1, 64), 1);
	for (uint32_t want = 4; want <= 64; want *= 4) {
		at = (at & ~(uint64_t)(want / 4 - 1)) + want / 4;
		for (int i = 0; i < HMM_STREAMS - 1; i++)
			hmm_streams_pages(&s, page((uint64_t)rand() << 22), 1, 64);
		assert_int_equal(hmm_streams_pages(&s, page(at), 1, 64), want);
	}
	assert_int_equal(hmm_streams_pages(&s, page(7), 1, 64), 16);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_earns_more_and_more),
		cmocka_unit_test(strays_earn_a_page),
		cmocka_unit_test(a_stream_among_strays_is_found),
	};

	return cmocka_run_group_tests_name("streams", tests, NULL, NULL);
}
