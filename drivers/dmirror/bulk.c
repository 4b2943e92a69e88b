/* SPDX-License-Identifier: MIT */
#include "bulk.h"

#include <string.h>

#ifdef __SSE2__

#include <emmintrin.h>

void bulk_copy(void *to, const void *from, size_t len)
{
	const __m128i *src = from;
	__m128i *dst = to;

	for (size_t i = 0; i < len / sizeof(*src); i += 4) {
		__m128i a = _mm_load_si128(src + i), b = _mm_load_si128(src + i + 1);
		__m128i c = _mm_load_si128(src + i + 2), d = _mm_load_si128(src + i + 3);

		_mm_stream_si128(dst + i, a);
		_mm_stream_si128(dst + i + 1, b);
		_mm_stream_si128(dst + i + 2, c);
		_mm_stream_si128(dst + i + 3, d);
	}
	/* Who is told that the copy is done finds its bytes. */
	_mm_sfence();
}

#else

void bulk_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

#endif
