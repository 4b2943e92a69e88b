/* SPDX-License-Identifier: MIT */
/*
 * An NBD server that is honest until it is told to lie. Once the export's first read has
 * been answered (the driver's own), lies concern reads alone; writes are always taken, if not
 * answered.
 */
#ifndef UHMM_TEST_LIAR_H
#define UHMM_TEST_LIAR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "servers.h"

enum lie {
	HONEST,
	NONSENSE,	/* a reply that is no reply */
	WRONG_BYTES,	/* the right length, another content */
	SHORT_DATA,	/* half of what was asked for, then the end */
	ERRORS,		/* EIO */
	SILENCE,	/* no answer at all */
	LATE,		/* the right answer, after late_ms */
	STALE_COOKIE,	/* an answer to something else */
	HALVES,		/* the right answer, and late_ms between its head and the rest */
	LIES,
};

extern const char *const lie_names[LIES];

struct liar {
	_Atomic uint32_t lie, late_ms;
	_Atomic uint64_t lied;		/* answers that were lies */
	_Atomic bool holds;		/* writes are not answered */
	_Atomic uint64_t held;		/* those that were not */
	_Atomic uint32_t most;		/* connections that it takes; 0: all */
};

/* As number @nr of the world's servers; ended by server_kill(). */
struct server *liar_run(struct nbd_world *n, int nr, uint64_t bytes, struct liar **out);

#endif
