/* SPDX-License-Identifier: MIT */
/*
 * The keeper: a thread that cleans up after lost memory.
 *
 * A reset is noticed by a copy, which may not call the core back. The keeper then has
 * every lost page poisoned, and afterwards makes the frames of lost pages usable again:
 * from the loss until then they hold nothing, so that a poison on its way can never
 * meet a page of the frame's next life.
 */
#ifndef SOFT_KEEPER_H
#define SOFT_KEEPER_H

#include <pthread.h>
#include <stdbool.h>

struct hmm_soft;

struct soft_keeper {
	pthread_mutex_t lock;
	pthread_cond_t wake, idle;
	/* under lock */
	bool reset, scrub;		/* to do */
	bool busy, paused, exiting;
	struct hmm_safe_thread *thread;
};

int soft_keeper_start(struct hmm_soft *soft);
void soft_keeper_stop(struct soft_keeper *keeper);

/* Wait until it calls the core no more, for the devmem is about to go; or go on. */
void soft_keeper_pause(struct soft_keeper *keeper);
void soft_keeper_resume(struct soft_keeper *keeper);

/* From a callback: there is something to do. */
void soft_keeper_wake(struct soft_keeper *keeper, bool reset);

#endif
