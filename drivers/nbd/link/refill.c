/* SPDX-License-Identifier: MIT */
/*
 * A server that was away and is back has stale pages; they are copied to it from the
 * other server of its group, a few at a time, while everything else goes on.
 *
 * A page that the program writes or trims meanwhile is disturbed: whose bytes came last
 * cannot be told from the order of the answers, so it stays stale and has another turn.
 * A page with a write in flight is not begun.
 */
#include <errno.h>
#include <inttypes.h>

#include "worker.h"

#define LOOK_CHUNKS	4096u	/* most looked at in a step */
#define PAUSE_MS	200u	/* the other server is away, too */
#define FAILED_MS	1000u

/* Chunks are dealt out in this order; @turn counts those of this worker and group. */
static uint64_t chunk_of(const struct worker *w, uint32_t group, uint64_t turn)
{
	return (turn * w->volume->nr_workers + w->nr) * w->volume->nr_groups + group;
}

void refill_server(struct worker *w, uint32_t server)
{
	struct view *view = &w->view[server];

	if (w->volume->cfg.mirror == 1)
		return;
	view->refilling = true;
	view->quiet = 0;
}

/* A write failed: give the server a moment. */
void refill_pause(struct worker *w, uint32_t server)
{
	w->view[server].refill_ms = w->now_ms + FAILED_MS;
}

uint64_t refill_disturb(struct worker *w, uint64_t chunk, uint64_t mask)
{
	uint64_t met = 0;

	for (uint32_t i = 0; i < WORKER_REFILLS; i++) {
		struct refill *r = &w->refill[i];

		if (!r->busy || r->chunk != chunk)
			continue;
		r->disturbed |= mask & mask_of(r->first, r->nr);
		met |= mask & mask_of(r->first, r->nr);
	}
	return met;
}

/* Pages of the chunk that may not be begun now. */
static uint64_t occupied(const struct worker *w, uint64_t chunk)
{
	uint64_t mask = 0;

	for (const struct op *op = w->writes; op; op = op->next)
		if (op->chunk == chunk)
			mask |= mask_of(op->first, op->nr);
	for (uint32_t i = 0; i < WORKER_REFILLS; i++)
		if (w->refill[i].busy && w->refill[i].chunk == chunk)
			mask |= mask_of(w->refill[i].first, w->refill[i].nr);
	return mask;
}

static struct refill *refill_idle(struct worker *w)
{
	for (uint32_t i = 0; i < WORKER_REFILLS; i++)
		if (!w->refill[i].busy)
			return &w->refill[i];
	return NULL;
}

static bool refill_send(struct worker *w, struct refill *r, enum link_op kind, uint32_t server)
{
	struct command *c = command_new(w);

	c->refill = r;
	c->kind = kind;
	c->server = server;
	c->first = r->first;
	c->nr = r->nr;
	if (command_send(w, c))
		return true;
	command_free(w, c);
	return false;
}

static void refill_end(struct worker *w, struct refill *r, bool good)
{
	uint64_t mask = mask_of(r->first, r->nr);
	uint64_t *stale = &w->volume->stale[r->to][r->chunk];

	if (good) {
		*stale = (*stale & ~mask) | (r->disturbed & mask);
		w->view[r->to].refilled += r->nr;
	} else {
		*stale |= r->disturbed & mask;
		refill_pause(w, r->to);
	}
	r->busy = false;
}

/* Begin with the first run of @mask. */
static void refill_begin(struct worker *w, struct refill *r, uint64_t chunk, uint64_t mask,
			 uint32_t from, uint32_t to)
{
	r->chunk = chunk;
	r->first = (uint32_t)__builtin_ctzll(mask);
	mask >>= r->first;
	r->nr = ~mask ? (uint32_t)__builtin_ctzll(~mask) : 64;
	r->to = to;
	r->disturbed = 0;
	r->writing = false;
	r->busy = refill_send(w, r, LINK_READ, from);
}

void refill_command_ended(struct worker *w, struct command *c)
{
	struct refill *r = c->refill;
	int error = c->error;

	command_free(w, c);
	if (error || r->writing) {
		refill_end(w, r, !error);
		return;
	}
	r->writing = true;
	if (!refill_send(w, r, LINK_WRITE, r->to))
		refill_end(w, r, false);
}

static void refill_report(struct worker *w, uint32_t server)
{
	struct view *view = &w->view[server];

	view->refilling = false;
	/* None is news, too: from now on the other server may go. */
	report("%s: refilled %" PRIu64 " pages", w->volume->cfg.uri[server], view->refilled);
	view->refilled = 0;
}

/* Look for work for one server. */
static void refill_look(struct worker *w, uint32_t to)
{
	struct volume *v = w->volume;
	struct view *view = &w->view[to];
	uint32_t from = to ^ 1, group = to / v->cfg.mirror;

	if (!view_live(w, from)) {
		view->refill_ms = w->now_ms + PAUSE_MS;
		return;
	}
	for (uint32_t i = 0; i < LOOK_CHUNKS; i++) {
		uint64_t chunk = chunk_of(w, group, view->cursor), lacks, mask;
		struct refill *r = refill_idle(w);

		if (!r)
			return;
		if (chunk >= v->nr_chunks) {
			view->cursor = 0;
			/* A whole round, from the first chunk on, in which nothing was stale. */
			if (view->quiet++) {
				refill_report(w, to);
				return;
			}
			continue;
		}
		/* What neither has is lost. */
		lacks = v->stale[to][chunk] & v->present[chunk] & ~v->stale[from][chunk];
		if (lacks)
			view->quiet = 0;
		mask = lacks & ~occupied(w, chunk);
		if (!mask) {
			view->cursor++;
			continue;
		}
		refill_begin(w, r, chunk, mask, from, to);
		if (!r->busy)
			return;
	}
}

void refill_step(struct worker *w)
{
	for (uint32_t s = 0; s < w->volume->nr_servers; s++)
		if (w->view[s].refilling && view_live(w, s) && w->now_ms >= w->view[s].refill_ms)
			refill_look(w, s);
}
