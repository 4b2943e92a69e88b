/* SPDX-License-Identifier: MIT */
/*
 * Requests: which servers a read or write goes to, and what follows when one fails.
 *
 * A write that no server took fails at once: its bytes are still in RAM, and threads
 * wait for the page. A read is worth waiting for, since the server may have the only
 * copy: it is tried again until its time, or its servers', is up.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

#define TRIES		10u
#define RETRY_MS	10u	/* doubled with each try up to ... */
#define RETRY_MAX_MS	1000u
#define LOOK_AGAIN_MS	20u	/* for a server that is away */

static void slot_done(struct worker *w, uint32_t slot, int error, uint32_t served)
{
	struct link_memory *mem = w->volume->mem;
	struct link_slot *s = &mem->slot[slot];

	s->error = error;
	s->served = served;
	/* release: pairs with the driver's look at the state; the bytes are there. seq_cst
	 * against `waiters`, of which either side sees the other's store */
	atomic_store_explicit(&s->state, LINK_DONE, memory_order_seq_cst);
	if (slot < LINK_SINGLE) {
		atomic_fetch_add_explicit(&mem->completions, 1, memory_order_seq_cst);
		link_futex_wake(&mem->completions);
	}
	if (atomic_load_explicit(&s->waiters, memory_order_seq_cst))
		link_futex_wake(&s->state);
}

static void op_forget_write(struct worker *w, struct op *op)
{
	struct op **link = &w->writes;

	while (*link != op)
		link = &(*link)->next;
	*link = op->next;
}

/*
 * Who has not taken a write has it copied to it, now or when it is there. A refill that began
 * earlier may have ended: it looks at present pages alone.
 */
static void write_catch_up(struct worker *w, const struct op *op)
{
	const struct volume *v = w->volume;

	for (uint32_t r = 0; r < v->cfg.mirror; r++) {
		uint32_t s = volume_server(v, op->chunk, r);

		if (op->good >> s & 1)
			continue;
		if (view_live(w, s))
			refill_server(w, s);
		else
			w->view[s].lost = true;
	}
}

static void op_done(struct worker *w, struct op *op)
{
	struct volume *v = w->volume;

	if (op->kind == LINK_WRITE) {
		op_forget_write(w, op);
		if (op->good) {
			v->present[op->chunk] |= mask_of(op->first, op->nr);
			op->error = 0;
			write_catch_up(w, op);
		} else if (!op->error) {
			op->error = -EIO;
		}
	} else if (op->kind == LINK_TRIM) {
		op->error = 0;
	}
	slot_done(w, op->slot, op->error, op->served);
}

static void op_put(struct worker *w, struct op *op, int error)
{
	if (error && !op->error)
		op->error = error;
	if (--op->pending == 0)
		op_done(w, op);
}

/* ---------------------------------------------------------------- read */

static bool holds(const struct volume *v, uint32_t server, uint64_t chunk, uint32_t page)
{
	return !(v->stale[server][chunk] >> page & 1);
}

/* May @server be asked for the first page of @c? */
static bool candidate(const struct worker *w, const struct command *c, uint32_t server)
{
	return !(c->op->avoid >> server & 1) && holds(w->volume, server, c->op->chunk, c->first);
}

/* When to give @c up: its own time, or when all who could answer were away for too long. */
static uint64_t read_deadline(const struct worker *w, const struct command *c)
{
	const struct volume *v = w->volume;
	uint64_t own = c->op->start_ms + v->timeout_ms, servers = 0;

	for (uint32_t r = 0; r < v->cfg.mirror; r++) {
		uint32_t s = volume_server(v, c->op->chunk, r);
		uint64_t sick = w->view[s].sick_ms;

		if (!candidate(w, c, s))
			continue;
		if (!sick)
			return own;
		if (sick + v->timeout_ms > servers)
			servers = sick + v->timeout_ms;
	}
	return servers < own ? servers : own;
}

/*
 * The server to ask: the group's members take turns by chunk, but for those that failed
 * not long ago. -1: none can be asked now; @any: there is one with the page.
 */
static int read_choose(const struct worker *w, const struct command *c, bool *any)
{
	const struct volume *v = w->volume;
	int chosen = -1;

	*any = false;
	for (uint32_t r = 0; r < v->cfg.mirror; r++) {
		uint32_t turn = link_turn_of(c->op->chunk, v->nr_groups, v->cfg.mirror, r);
		uint32_t s = volume_server(v, c->op->chunk, turn);

		if (!candidate(w, c, s))
			continue;
		*any = true;
		if (!view_live(w, s) || c->tried >> s & 1)
			continue;
		if (chosen < 0 || (w->now_ms < w->view[chosen].shun_ms &&
				   w->now_ms >= w->view[s].shun_ms))
			chosen = (int)s;
	}
	return chosen;
}

/* Cut @c where @server's good copy ends; the rest is a command of its own, parked. */
static void read_cut(struct worker *w, struct command *c, uint32_t server)
{
	struct command *rest;
	uint32_t n = 1;

	while (n < c->nr && holds(w->volume, server, c->op->chunk, c->first + n))
		n++;
	if (n == c->nr)
		return;
	rest = command_new(w);
	rest->op = c->op;
	rest->kind = LINK_READ;
	rest->first = c->first + n;
	rest->nr = c->nr - n;
	c->op->pending++;
	c->nr = n;
	command_park(w, rest, 0);
}

static void read_failed(struct worker *w, struct command *c, int error)
{
	struct op *op = c->op;

	command_free(w, c);
	op_put(w, op, error);
}

void op_read_route(struct worker *w, struct command *c)
{
	uint32_t wait_ms = LOOK_AGAIN_MS;
	bool any;
	int s;

	/* Also where there is a server that takes it again and again. */
	if (w->now_ms >= c->op->start_ms + w->volume->timeout_ms) {
		read_failed(w, c, -ETIMEDOUT);
		return;
	}
	for (;;) {
		s = read_choose(w, c, &any);
		if (s < 0)
			break;
		read_cut(w, c, (uint32_t)s);
		c->server = (uint32_t)s;
		if (command_send(w, c))
			return;
		c->tried |= 1u << s;
	}
	if (!any || c->tries >= TRIES) {
		read_failed(w, c, -EIO);
		return;
	}
	if (w->now_ms >= read_deadline(w, c)) {
		read_failed(w, c, -ETIMEDOUT);
		return;
	}
	if (c->tried) {
		wait_ms = RETRY_MS << c->tries;
		wait_ms = wait_ms < RETRY_MAX_MS ? wait_ms : RETRY_MAX_MS;
		c->tried = 0;
	}
	command_park(w, c, wait_ms);
}

/* Pages that were encrypted: are they what was written? */
static bool read_opens(struct worker *w, const struct command *c)
{
	struct volume *v = w->volume;
	uint32_t skip = c->first - c->op->first;

	for (uint32_t i = 0; v->seal.entry && i < c->nr; i++)
		if (!seal_open(&v->seal, w->seal, c->op->index + skip + i,
			       c->op->bytes + (skip + i) * v->page))
			return false;
	return true;
}

static void read_ended(struct worker *w, struct command *c)
{
	struct op *op = c->op;

	if (!c->error && read_opens(w, c)) {
		op->served = c->server;
		command_free(w, c);
		op_put(w, op, 0);
		return;
	}
	/* A connection that broke says nothing about the others, nor about the server. */
	if (c->error != -ENOTCONN) {
		c->tried |= 1u << c->server;
		c->tries++;
	}
	op_read_route(w, c);
}

/* ---------------------------------------------------------------- write, trim */

static void write_ended(struct worker *w, struct command *c)
{
	struct op *op = c->op;
	uint64_t mask = mask_of(op->first, op->nr);
	uint64_t *stale = &w->volume->stale[c->server][op->chunk];
	int error = c->error;

	if (error) {
		*stale |= mask;
		refill_pause(w, c->server);
	} else {
		*stale = (*stale & ~mask) | (op->unsure & mask);
		op->good |= (uint32_t)!op->unsure << c->server;
	}
	command_free(w, c);
	op_put(w, op, error);
}

/* To every server of the group; one that is away has a stale page from now on. */
static void send_to_all(struct worker *w, struct op *op)
{
	struct volume *v = w->volume;
	uint64_t mask = mask_of(op->first, op->nr);

	for (uint32_t r = 0; r < v->cfg.mirror; r++) {
		uint32_t s = volume_server(v, op->chunk, r);
		bool able = op->kind == LINK_WRITE || v->server[s].can_trim || v->server[s].can_zero;
		struct command *c;

		if (able && view_live(w, s)) {
			c = command_new(w);
			c->op = op;
			c->kind = op->kind;
			c->server = s;
			c->first = op->first;
			c->nr = op->nr;
			op->pending++;
			if (command_send(w, c))
				continue;
			op->pending--;
			command_free(w, c);
		}
		if (op->kind == LINK_WRITE)
			v->stale[s][op->chunk] |= mask;
	}
}

static int write_seal(struct worker *w, struct op *op)
{
	struct volume *v = w->volume;
	int ret = 0;

	for (uint32_t i = 0; v->seal.entry && i < op->nr && !ret; i++)
		ret = seal_close(&v->seal, w->seal, op->index + i, op->bytes + i * v->page);
	return ret;
}

static void write_start(struct worker *w, struct op *op)
{
	int ret = write_seal(w, op);

	op->unsure = refill_disturb(w, op->chunk, mask_of(op->first, op->nr));
	op->next = w->writes;
	w->writes = op;
	op->pending = 1;
	if (!ret)
		send_to_all(w, op);
	op_put(w, op, ret ? ret : op->pending == 1 ? -ENOTCONN : 0);
}

static void trim_start(struct worker *w, struct op *op)
{
	w->volume->present[op->chunk] &= ~mask_of(op->first, op->nr);
	refill_disturb(w, op->chunk, mask_of(op->first, op->nr));
	op->pending = 1;
	send_to_all(w, op);
	op_put(w, op, 0);
}

static void read_start(struct worker *w, struct op *op)
{
	struct command *c = command_new(w);

	/* Who asks to avoid a server has had wrong bytes of it; to shun it, no answer. */
	for (uint32_t s = 0; s < w->volume->nr_servers; s++)
		if ((op->avoid | op->shun) >> s & 1)
			view_shun(w, s);
	c->op = op;
	c->kind = LINK_READ;
	c->first = op->first;
	c->nr = op->nr;
	op->pending = 1;
	op_read_route(w, c);
}

void op_command_ended(struct worker *w, struct command *c)
{
	if (c->kind == LINK_READ) {
		read_ended(w, c);
	} else if (c->kind == LINK_WRITE) {
		write_ended(w, c);
	} else {
		struct op *op = c->op;

		command_free(w, c);
		op_put(w, op, 0);
	}
}

/* Is it a request that we may serve? */
static bool request_ok(const struct worker *w, uint32_t slot, const struct op *op)
{
	const struct volume *v = w->volume;
	uint32_t room = op->kind == LINK_TRIM ? v->chunk_pages : link_room(slot, v->page);

	return op->kind <= LINK_TRIM && op->nr && op->nr <= room &&
	       op->index < v->nr_pages && op->nr <= v->nr_pages - op->index &&
	       op->first + op->nr <= v->chunk_pages &&
	       link_worker_of(op->chunk, v->nr_groups, v->nr_workers) == w->nr;
}

void op_start(struct worker *w, uint32_t slot)
{
	struct volume *v = w->volume;
	struct link_slot *s = &v->mem->slot[slot];
	struct op *op = &w->op[slot];

	*op = (struct op){
		.slot = slot, .kind = s->op, .index = s->index, .nr = s->nr, .avoid = s->avoid, .shun = s->shun,
		.bytes = link_buffer(v->mem, slot, v->page), .start_ms = w->now_ms - s->waited_ms,
	};
	op->chunk = op->index / v->chunk_pages;
	op->first = (uint32_t)(op->index % v->chunk_pages);
	if (!request_ok(w, slot, op))
		slot_done(w, slot, -EINVAL, 0);
	else if (op->kind == LINK_READ)
		read_start(w, op);
	else if (op->kind == LINK_WRITE)
		write_start(w, op);
	else
		trim_start(w, op);
}
