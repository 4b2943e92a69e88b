/* SPDX-License-Identifier: MIT */
/* Where in the address space the index's pieces lie. */
#ifndef WORDINDEX_RANGES_H
#define WORDINDEX_RANGES_H

#include "index.h"

/* [start, end), page aligned; [low, high) in it holds pieces of the index. */
struct range {
	uintptr_t start, end;
	uintptr_t low, high;
};

/* Fixed, so that it can lie beside the program's other statics: looking at where the
   pages are must not itself bring one home. */
#define RANGES_MAX	256

struct ranges {
	struct range range[RANGES_MAX];
	unsigned int nr;
};

/*
 * Walk the index and find, for each of the process's private anonymous mappings
 * (the heap among them), the pages from the first to the last of its pieces there.
 * 0, -E2BIG when there are more than RANGES_MAX such mappings, or what reading
 * /proc/self/maps met.
 */
int ranges_find(struct index *index, size_t page_size, struct ranges *ranges);

uint64_t ranges_bytes(const struct ranges *ranges);

#endif
