/* SPDX-License-Identifier: MIT */
/*
 * One NBD server: its export, and the thread that makes connections to it.
 *
 * The thread alone resolves names, connects and shakes hands, with a deadline, so that a
 * server that does none of it holds up nobody else. A connection that is ready goes to
 * the worker that lacks one, or as a lane to the driver.
 *
 * In the page after the last that is used stands an identity, written when the device
 * was opened. A server that comes back without it has lost its memory: its generation
 * goes up, and what it had is stale.
 */
#ifndef LINK_SERVER_H
#define LINK_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../link.h"

struct nbd_handle;
struct volume;

struct connection {
	struct nbd_handle *nbd;
	uint32_t generation;
};

struct server {
	struct volume *volume;
	uint32_t nr;
	const char *uri;
	uint64_t nr_chunks;		/* whole ones in the export, but for the identity's page */
	bool can_trim, can_zero, multi_conn, tls;
	uint8_t identity[16];
	_Atomic uint32_t live;		/* connections that workers have */
	_Atomic uint64_t told_ms;	/* when its loss was last reported */
	_Atomic bool told;		/* and its return was not */

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work;
	/* under lock */
	uint32_t generation;
	bool lost;			/* connections, since the thread last looked */
	uint32_t wanted[LINK_WORKERS];
	uint32_t lanes, lanes_wanted;	/* all that there may be, and those that are missing */
	uint32_t nr_ready[LINK_WORKERS];
	struct connection ready[LINK_WORKERS][LINK_CONNECTIONS];
};

void server_init(struct server *server, struct volume *volume, uint32_t nr);

/*
 * The first connection, which also learns what the export can do and gives it its
 * identity. It is ready for worker 0 then. 0, or a negative errno and the reason.
 */
int server_open(struct server *server, char *why, size_t why_bytes);

/* Start the thread. @wanted: connections for each worker, the first one counted. */
int server_start(struct server *server, uint32_t nr_workers, uint32_t wanted, uint32_t lanes);

/* The driver has closed @nr lanes. */
void server_lanes_lost(struct server *server, uint32_t nr);

/* A worker's: take what is ready for it; false: nothing is. */
bool server_take(struct server *server, uint32_t worker, struct connection *out);

/* A worker has lost a connection; or taken one, after some time without any. */
void server_lost(struct server *server, uint32_t worker, uint64_t now_ms);
void server_back(struct server *server, bool was_lost);

/* Are all the connections there that were asked for? */
bool server_complete(struct server *server);

#endif
