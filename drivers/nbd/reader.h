/* SPDX-License-Identifier: MIT */
/*
 * Pages alone, read over lanes. Whoever serves the fault sends the request. Where that is the
 * only one, other handlers are free and answers come soon it also waits for the page, awake, and
 * ends the fault: it runs where the program waits, on a CPU that nobody else wants, and whoever
 * sleeps comes late, by 50 us where idle CPUs halt (docs/design/0022). What nobody waits for one
 * thread takes in. Many are under way at once.
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
	pthread_mutex_t receiving;	/* of who takes in answers: */
	char *bytes;
	size_t have;		/* what has come of the next */

	pthread_mutex_t lock;	/* a leaf: */
	int fd;			/* -1: there is none; goes with both locks held */
	bool watched;		/* by the thread */
	bool broken;		/* the thread is to drop it */
	int32_t keen;		/* negative: not to be waited for here, that many times */
	int32_t rest;		/* how many times, the next time */
	uint64_t asked;
	uint64_t moved_ms;	/* when an answer last came, or the first was asked for */
	uint32_t nr;		/* requests so far */
	uint32_t nr_of[LINK_SINGLE];	/* of each slot's */
};

struct nbd_reader {
	struct hmm_safe_thread *thread;
	int wake_fd;
	_Atomic bool stopping;
	size_t room;		/* of each bytes[] */
	struct nbd_asking asking[LINK_SERVERS];
};

int nbd_reader_start(struct nbd_device *dev);
void nbd_reader_stop(struct nbd_device *dev);

/* @server's lane from now on; false: it has one. */
bool nbd_reader_add(struct nbd_device *dev, uint32_t server, int fd);

/* Ask for a slot's page; @wait: until it is home, if that is soon. false: by no lane. */
bool nbd_reader_ask(struct nbd_device *dev, uint32_t slot, uint64_t index, bool wait);

#endif
