/* SPDX-License-Identifier: MIT */
/*
 * Copies of more than the caches hold: the bytes go past them, which saves reading what
 * is about to be overwritten. memcpy() does so by itself only from many MiB on, and a
 * migration comes in pieces of 2.
 */
#ifndef DMIRROR_BULK_H
#define DMIRROR_BULK_H

#include <stddef.h>

/* Past the caches what lies in whole 32 KiB, if both are aligned to a line of 64 bytes. */
void bulk_copy(void *to, const void *from, size_t len);

#endif
