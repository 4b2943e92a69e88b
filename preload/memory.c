// SPDX-License-Identifier: MIT
/*
 * What a compiler may call for an assignment or a loop, whatever it is told of libraries:
 * a static program that the agent is put into has none that it could be linked with.
 */
#include <stddef.h>

void *memset(void *dst, int byte, size_t len);
void *memcpy(void *dst, const void *src, size_t len);
void *memmove(void *dst, const void *src, size_t len);
int memcmp(const void *a, const void *b, size_t len);

void *memset(void *dst, int byte, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((unsigned char *)dst)[i] = (unsigned char)byte;
	return dst;
}

void *memcpy(void *dst, const void *src, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((unsigned char *)dst)[i] = ((const unsigned char *)src)[i];
	return dst;
}

void *memmove(void *dst, const void *src, size_t len)
{
	if (dst <= src)
		return memcpy(dst, src, len);
	while (len--)
		((unsigned char *)dst)[len] = ((const unsigned char *)src)[len];
	return dst;
}

int memcmp(const void *a, const void *b, size_t len)
{
	const unsigned char *left = a, *right = b;

	for (size_t i = 0; i < len; i++)
		if (left[i] != right[i])
			return left[i] - right[i];
	return 0;
}
