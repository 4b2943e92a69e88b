/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <string.h>

#include <uhmm/driver.h>

#ifdef __SSE2__

#include <emmintrin.h>

#define LINE	64u
#define PAGE	4096u
/* Prefetchers lose a stream where its page ends: eight pages abreast hide it. */
#define WAYS	8u

static inline void line_copy(char *to, const char *from)
{
	const __m128i *src = (const __m128i *)from;
	__m128i *dst = (__m128i *)to;
	__m128i a = _mm_load_si128(src), b = _mm_load_si128(src + 1);
	__m128i c = _mm_load_si128(src + 2), d = _mm_load_si128(src + 3);

	_mm_stream_si128(dst, a);
	_mm_stream_si128(dst + 1, b);
	_mm_stream_si128(dst + 2, c);
	_mm_stream_si128(dst + 3, d);
}

void hmm_bulk_copy(void *to, const void *from, size_t len)
{
	const size_t abreast = WAYS * PAGE;
	const char *src = from;
	char *dst = to;

	if (!(((uintptr_t)to | (uintptr_t)from) % LINE)) {
		for (; len >= abreast; len -= abreast, dst += abreast, src += abreast)
			for (size_t at = 0; at < PAGE; at += LINE)
				for (size_t way = 0; way < abreast; way += PAGE)
					line_copy(dst + way + at, src + way + at);
		/* Who is told that the copy is done finds its bytes. */
		_mm_sfence();
	}
	memcpy(dst, src, len);
}

#else

void hmm_bulk_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

#endif
