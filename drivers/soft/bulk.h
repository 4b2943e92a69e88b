/* SPDX-License-Identifier: MIT */
/*
 * Copies of whole pages past the caches, as a DMA engine's are.
 *
 * A cached store reads the line that it is about to overwrite, and leaves it dirty in
 * the cache of the CPU that copied, from where another CPU gets it slower than from
 * memory. Streaming stores do neither: of a 2 MiB run they take two thirds of the time
 * of memcpy(). What fits into the cache, and may be read from there, is better left to it:
 * 1 MiB there and back at once took 1375 ns a page past the caches, and 835 in them.
 */
#ifndef SOFT_BULK_H
#define SOFT_BULK_H

#include <stddef.h>

/* @page bytes each, aligned to 16. What was written is visible to whoever is told next. */
void soft_bulk_copy(void *dst, const void *src, size_t nr_pages, size_t page);

#endif
