/* SPDX-License-Identifier: MIT */
/*
 * Where agents come in: a Unix socket in a directory of the user's alone. Served by the
 * monitor's main thread. Whoever connects must be of the user and of the warden's tree;
 * what it sends is checked against what the kernel says of it.
 */
#ifndef UHMM_MONITOR_DOOR_H
#define UHMM_MONITOR_DOOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "monitor/pool.h"
#include "monitor/tree.h"
#include "monitor/watch.h"

struct guest;

struct door {
	struct watch watch;
	struct tree *tree;
	struct pool *pool;
	pid_t warden;			/* 0: not yet known, nobody comes in */
	int warden_pidfd;
	struct agent_config config;	/* what agents are told */
	bool answered;			/* one has come, or said why there is none */
	int error;			/* negative: an agent came, and could not be served */
	struct guest *guests;		/* those at the door */
	int spare;			/* a descriptor to turn people away with when there is no other */
	char dir[96];
	char path[108];			/* of the socket */
	char preload[128];		/* of a link to the agent's library: LD_PRELOAD can name it */
};

/* What its files will be called. */
int door_name(struct door *door);

/* Those files: a directory, and in it a socket and a link to @preload. */
int door_open(struct door *door, const char *preload);

/* From now on agents may come in. */
int door_serve(struct door *door, struct tree *tree, struct pool *pool, pid_t warden);

/* The files go; guests who are still there are sent away. */
void door_close(struct door *door);

#endif
