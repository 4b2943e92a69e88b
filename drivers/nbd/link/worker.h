/* SPDX-License-Identifier: MIT */
/*
 * One thread that serves the requests of its chunks over its own connections.
 *
 * A request becomes an op; an op has commands, each for some of its pages and one
 * server. A command is
 *
 *	in flight	in its connection's list; libnbd calls back, or the connection is
 *			closed, which fails it
 *	ended		in `ended`, its result not yet looked at (libnbd allows no call of
 *			its own from the call back)
 *	parked		in `parked`, waiting for a server or for retry_ms
 *
 * and is freed with its result. An op is done when none of its commands is left.
 */
#ifndef LINK_WORKER_H
#define LINK_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "volume.h"

#define WORKER_CONNS		(LINK_SERVERS * LINK_CONNECTIONS)
#define WORKER_REFILLS		4u
#define WORKER_COMMANDS		(LINK_SLOTS * 64 + WORKER_REFILLS)

struct conn;
struct worker;

struct op {
	uint32_t slot;
	enum link_op kind;
	uint32_t first, nr;		/* pages within the chunk */
	uint32_t avoid, shun;
	uint32_t served;
	uint64_t chunk, index;
	char *bytes;
	uint32_t pending;		/* commands */
	uint32_t good;			/* WRITE: servers (bits) that have it */
	int error;
	uint64_t start_ms;
	uint64_t unsure;		/* WRITE: pages that a refill was at, at the same time */
	struct op *next;		/* of the active writes */
};

/* Pages copied from one server of a group to the other, which lacks them. */
struct refill {
	bool busy, writing;
	uint64_t chunk, disturbed;	/* pages that were written meanwhile */
	uint32_t first, nr, to;
	char *bytes;
};

struct command {
	struct worker *worker;
	struct op *op;			/* or */
	struct refill *refill;
	struct conn *conn;		/* NULL: it was dropped */
	struct command *next, **link;	/* of the list that it is in */
	enum link_op kind;
	uint32_t server, first, nr;	/* pages within the chunk */
	uint32_t tried;			/* READ: servers that failed it */
	uint32_t tries;
	uint64_t retry_ms;
	uint64_t sent_ms;		/* by ran_ms */
	bool ended;
	int error;
};

struct conn {
	struct nbd_handle *nbd;		/* NULL: the place is free */
	uint32_t server, generation;
	uint32_t nr_flying;
	uint64_t moved_ms;		/* when something last ended, or the first began */
	struct command *flying;
};

/* A server as this worker sees it. */
struct view {
	uint32_t nr_conns, generation;
	bool lost;			/* it was or is away: pages may be stale */
	uint64_t sick_ms;		/* since when it is away or fails reads; 0: it is well */
	uint64_t shun_ms, shun_for;	/* until when, and how long, to ask others rather */
	bool refilling;
	uint64_t refill_ms;		/* not before */
	uint64_t cursor, quiet;		/* chunks (of ours) to look at; in a row without work */
	uint64_t refilled;
};

struct worker {
	struct volume *volume;
	uint32_t nr;
	pthread_t thread;
	int wake_fd;
	struct seal_thread *seal;
	uint64_t now_ms;
	uint64_t ran_ms;		/* the like, without the time in which we were stopped */
	uint64_t look_ms;		/* by ran_ms: when to look for answers that are kept back */
	struct view view[LINK_SERVERS];
	struct conn conn[WORKER_CONNS];
	struct op op[LINK_SLOTS];
	struct op *writes;		/* active */
	struct command *free, *ended, *parked;
	struct refill refill[WORKER_REFILLS];
	struct command command[WORKER_COMMANDS];
};

int worker_start(struct volume *volume, uint32_t nr, struct worker **out);

/* ---------------------------------------------------------------- among its files */

/* op.c: a request arrives; a command of an op has ended. */
void op_start(struct worker *w, uint32_t slot);
void op_command_ended(struct worker *w, struct command *c);
void op_read_route(struct worker *w, struct command *c);

/* refill.c */
void refill_server(struct worker *w, uint32_t server);
void refill_pause(struct worker *w, uint32_t server);
void refill_step(struct worker *w);
void refill_command_ended(struct worker *w, struct command *c);
/* An op writes or trims: pages of @mask that a refill is at now. */
uint64_t refill_disturb(struct worker *w, uint64_t chunk, uint64_t mask);

/* worker.c */
struct command *command_new(struct worker *w);
void command_free(struct worker *w, struct command *c);
void command_park(struct worker *w, struct command *c, uint32_t ms);
/* Send it to c->server. false: there is no connection. */
bool command_send(struct worker *w, struct command *c);
/* It did not do what it was asked for: others rather, for a while. */
void view_shun(struct worker *w, uint32_t server);

static inline bool view_live(const struct worker *w, uint32_t server)
{
	return w->view[server].nr_conns > 0;
}

#endif
