/* SPDX-License-Identifier: MIT */
/*
 * Pages alone, read over lanes: whoever serves the fault sends the request, and one
 * thread takes in the answers and ends the faults. Many are under way at once.
 *
 * It runs where was asked from, which is where the program waits. That CPU is idle else, so
 * where answers come soon the thread waits for them awake: one that sleeps comes late, by 50 us
 * where idle CPUs halt (docs/design/0022). Where they do not, or others want the CPU, it sleeps.
 *
 * A single slot whose read is on a lane has its bit in that lane's `asked`, which whoever
 * clears it answers for: with the bytes, or by handing the read to the link.
 */
#ifndef NBD_READER_H
#define NBD_READER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link.h"

struct nbd_device;

struct nbd_asking {
	pthread_mutex_t lock;	/* a leaf: */
	int fd;			/* -1: there is none */
	uint64_t asked;
	uint64_t moved_ms;	/* when an answer last came, or the first was asked for */
	uint32_t nr;		/* requests so far */
	uint32_t nr_of[LINK_SINGLE];	/* of each slot's */

	/* The thread's: what has come of an answer, and how many have come. */
	char *bytes;
	size_t have;
	uint32_t answers;
};

struct nbd_reader {
	struct hmm_safe_thread *thread;
	int wake_fd;
	_Atomic bool stopping;
	_Atomic int tid;	/* the thread's; 0: it has not begun */
	_Atomic int cpu, asker;	/* where it was sent, and where was asked from last; -1: nowhere */
	_Atomic bool sleeps;	/* and is to be woken when something is asked for */
	int32_t keen;		/* the thread's: negative: sleeps, to be woken that often */
	int32_t rest;		/* likewise: how often the next time */
	size_t room;		/* of each bytes[] */
	struct nbd_asking asking[LINK_SERVERS];
};

int nbd_reader_start(struct nbd_device *dev);
void nbd_reader_stop(struct nbd_device *dev);

/* @server's lane from now on; false: it has one. */
bool nbd_reader_add(struct nbd_device *dev, uint32_t server, int fd);

/* Ask for a slot's page; false: by no lane. */
bool nbd_reader_ask(struct nbd_device *dev, uint32_t slot, uint64_t index);

#endif
