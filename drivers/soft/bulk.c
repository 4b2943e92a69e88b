/* SPDX-License-Identifier: MIT */
#include "bulk.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

/*
 * Four pages abreast: the prefetchers of a core follow a stream within a page and lose
 * it at its end, so that one page after the other waits for memory at each.
 */
#define WAYS		4
#define LINE		64
#define AHEAD		(8 * LINE)

static inline void line_copy(char *dst, const char *src)
{
	const __m128i *from = (const __m128i *)src;
	__m128i *to = (__m128i *)dst;
	__m128i a = _mm_load_si128(from), b = _mm_load_si128(from + 1);
	__m128i c = _mm_load_si128(from + 2), d = _mm_load_si128(from + 3);

	_mm_prefetch(src + AHEAD, _MM_HINT_T0);
	_mm_stream_si128(to, a);
	_mm_stream_si128(to + 1, b);
	_mm_stream_si128(to + 2, c);
	_mm_stream_si128(to + 3, d);
}

void soft_bulk_copy(void *dst, const void *src, size_t nr_pages, size_t page)
{
	const char *from = src;
	char *to = dst;

	for (; nr_pages >= WAYS; nr_pages -= WAYS, from += WAYS * page, to += WAYS * page)
		for (size_t at = 0; at < page; at += LINE)
			for (size_t way = 0; way < WAYS; way++)
				line_copy(to + way * page + at, from + way * page + at);
	/* Streaming stores are ordered with nothing but this. */
	_mm_sfence();
	memcpy(to, from, nr_pages * page);
}

#else

void soft_bulk_copy(void *dst, const void *src, size_t nr_pages, size_t page)
{
	memcpy(dst, src, nr_pages * page);
}

#endif
