/* SPDX-License-Identifier: MIT */
/*
 * The fault queue: lanes that miss put their fault in it and wait, until somebody has
 * served it and they replay the access.
 *
 * Who serves is one of the waiting lanes: the first to find the queue without a server
 * takes all that is in it as a batch, so that the usual single fault costs no wake-up
 * and many at once are served without a lock per page. A batch is served in order;
 * what an earlier one has mapped on the way is found in the page table.
 */
#ifndef SOFT_FAULT_H
#define SOFT_FAULT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/soft.h>

enum soft_want {
	SOFT_WANT_READ,
	SOFT_WANT_WRITE,
	SOFT_WANT_ATOMIC,	/* write, and directly: no guarded copy */
};

struct soft_fault {
	struct soft_fault *next;
	uintptr_t page;
	enum soft_want want;
	bool force;		/* a guarded copy failed: ask the core whatever the table says */
	bool done;
	enum hmm_soft_fault_reason reason;	/* NONE: replay */
};

struct soft_fault_queue {
	pthread_mutex_t lock;
	pthread_cond_t served;
	/* under lock */
	struct soft_fault *first, **last;
	bool serving;
	/* of the server */
	uint64_t *pfns;			/* SOFT_BLOCK_PAGES of them */
	struct soft_mover *mover;
};

struct hmm_lane;
struct hmm_soft;

int soft_fault_init(struct hmm_soft *soft);
void soft_fault_destroy(struct hmm_soft *soft);

/* Raise a fault and wait for its service. Called with nothing held. */
enum hmm_soft_fault_reason soft_fault_raise(struct hmm_lane *lane, uintptr_t va,
					    enum soft_want want, bool force);

#endif
