/* SPDX-License-Identifier: MIT */
/*
 * The read-ahead: a thread that brings home what a stream of CPU faults wants next,
 * while the CPU still works on what the last fault brought.
 *
 *	CPU				handler			read-ahead
 *	---				-------			----------
 *	touches window n's first page	brings what of n
 *	  (all that is left of it)	is not there,
 *					posts n + 1 ---------->	brings n + 1 but for
 *	works on window n					its first page
 *	touches n + 1's first page	...
 *
 * The page that is left behind is how the stream is seen to go on: of pages that are
 * home nothing is heard. A CPU that comes before the bytes waits for them as for any
 * page in flight.
 *
 * Posts that find the ring full are dropped: they are hints.
 */
#ifndef SOFT_READAHEAD_H
#define SOFT_READAHEAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define SOFT_READAHEAD_RING	8	/* as many as there are streams */

struct hmm_soft;

struct soft_readahead {
	pthread_mutex_t lock;		/* a leaf */
	pthread_cond_t wake;
	/* under lock */
	struct {
		uintptr_t start, end;
	} ring[SOFT_READAHEAD_RING];
	unsigned int head, tail;
	bool exiting;
	struct hmm_safe_thread *thread;
};

int soft_readahead_start(struct hmm_soft *soft);
void soft_readahead_stop(struct soft_readahead *ahead);

/* Bring the pages of [start, end) home, but for the first, soon. Any thread. */
void soft_readahead_post(struct soft_readahead *ahead, uintptr_t start, uintptr_t end);

#endif
