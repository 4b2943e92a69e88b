/* SPDX-License-Identifier: MIT */
#include <uhmm/driver.h>

#include "sys/sys.h"

#define FIRST_PAGES	16u
#define STRAYS_MAX	4u		/* FIRST_PAGES halved so often is one */
#define GROWTH		4u

/* The stream that was expected to go on at @addr, or the one that did not for longest. */
static uint32_t find(const struct hmm_streams *streams, uintptr_t addr)
{
	uint32_t oldest = 0;

	for (uint32_t i = 0; i < HMM_STREAMS; i++) {
		if (streams->stream[i].next == addr)
			return i;
		if (streams->faults - streams->stream[i].used >
		    streams->faults - streams->stream[oldest].used)
			oldest = i;
	}
	return oldest;
}

uint32_t hmm_streams_pages(struct hmm_streams *streams, uintptr_t addr, uint32_t least,
			   uint32_t most)
{
	uint32_t i = find(streams, addr), pages = streams->stream[i].pages;
	uintptr_t window;

	if (streams->stream[i].next == addr) {
		pages = pages < most / GROWTH ? pages * GROWTH : most;
		streams->strays = 0;
	} else {
		pages = FIRST_PAGES >> streams->strays;
		streams->strays += streams->strays < STRAYS_MAX;
	}
	if (pages < least)
		pages = least;
	if (pages > most)
		pages = most;
	window = pages * sys_page_size();
	streams->stream[i].next = (addr & ~(window - 1)) + window;
	streams->stream[i].pages = pages;
	streams->stream[i].used = ++streams->faults;
	return pages;
}
