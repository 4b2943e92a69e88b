/* SPDX-License-Identifier: MIT */
/*
 * What the link keeps of the whole device, and where each page of it lies.
 *
 * Chunks of 256 KiB go round the groups of servers, a group being one server or, with
 * mirror=2, two that hold the same. For each chunk one worker alone reads and writes its
 * words of the bitmaps, so that they need no lock:
 *
 *	present[chunk]		pages that were written and not trimmed since
 *	stale[server][chunk]	pages of which this server has no good copy
 *
 *	a read is sent only to a server whose stale bit of each page is clear
 *	a bit of stale is cleared only by a write to that server which was acknowledged, and
 *	which overlapped no other write of the page
 */
#ifndef LINK_VOLUME_H
#define LINK_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../link.h"
#include "seal.h"
#include "server.h"

struct worker;

struct volume {
	struct link_memory *mem;
	struct link_config cfg;		/* a copy: the program cannot change it under us */
	size_t page;
	uint32_t chunk_pages;
	uint32_t nr_servers, nr_groups, nr_workers;
	uint32_t conns;			/* of one worker to one server */
	uint32_t lanes;			/* to one server, besides */
	uint64_t nr_chunks, nr_pages;
	uint32_t timeout_ms, stall_ms;
	uint64_t *present;
	uint64_t *stale[LINK_SERVERS];
	struct seal seal;
	struct server server[LINK_SERVERS];
	struct worker *worker[LINK_WORKERS];
};

/* Size and bitmaps, once every server has been reached. 0, or a negative errno and *why. */
int volume_lay_out(struct volume *v, const char **why);

/* Offset in a server's export of a page of a chunk. */
static inline uint64_t volume_offset(const struct volume *v, uint64_t chunk, uint32_t within)
{
	return link_offset_of(chunk, v->nr_groups, within, v->page);
}

static inline uint32_t volume_server(const struct volume *v, uint64_t chunk, uint32_t replica)
{
	return link_server_of(chunk, v->nr_groups, v->cfg.mirror, replica);
}

static inline uint64_t mask_of(uint32_t first, uint32_t nr)
{
	return (nr == 64 ? ~0ULL : (1ULL << nr) - 1) << first;
}

uint64_t now_ms(void);

/* One line for people, on standard error. */
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory that is only there where it was touched; NULL. */
void *map_zeroed(size_t bytes);

#endif
