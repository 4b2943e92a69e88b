/* SPDX-License-Identifier: MIT */
/*
 * Copies of more than the caches hold: the bytes go past them, which saves reading what
 * is about to be overwritten. memcpy() does so by itself only from many MiB on, and a
 * migration comes in pieces of 2.
 */
#ifndef DMIRROR_BULK_H
#define DMIRROR_BULK_H

#include <stddef.h>

/* Both aligned to 64, and @len a multiple of it. */
void bulk_copy(void *to, const void *from, size_t len);

#endif
