/* SPDX-License-Identifier: MIT */
/*
 * Which of a family's handlers wait for faults.
 *
 * Whoever waits is woken by every fault, for those who read a userfaultfd are no
 * exclusive waiters, and each wake-up is the faulter's to pay. With a handler on each of
 * 16 CPUs a fault takes 18 us, with one on the faulter's CPU 7, with one elsewhere 15
 * (docs/design/0019). So, where there are more than three, few wait, and the others rest:
 *
 *	placed	one on each CPU that was seen to fault of late, ROSTER_PLACES at most;
 *		pinned to it
 *	spare	one more, anywhere: it meets the faults that come while those are at work
 *
 * and whoever begins to work, which may block in a driver, and leaves nobody waiting,
 * rouses one that rests: as many faults are served at once as there are handlers.
 */
#ifndef UHMM_CORE_ROSTER_H
#define UHMM_CORE_ROSTER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/lock.h"

#define ROSTER_PLACES	2u
#define ROSTER_ANYWHERE	UINT32_MAX

/* A handler, as the roster has it. */
struct watcher {
	_Atomic uint32_t awake;		/* futex; 0: rests. Written under the roster's lock */
	_Atomic uint32_t cpu;		/* where it belongs, or ROSTER_ANYWHERE; likewise */
	/* its own */
	uint32_t at;			/* where it is, likewise */
	uint32_t served;		/* faults since it looked where they come from */
	uint32_t idle;			/* rounds since it met one */
};

struct roster_place {
	struct watcher *by;		/* NULL: free */
	uint32_t cpu;
	uint32_t life;			/* looks until it is given up */
};

struct roster {
	bool all;			/* immutable: nobody rests, and places are for ever */
	struct sys_cpu_set home;	/* immutable: where threads of ours may run */

	/*
	 * How many do not rest; of these, how many work, and how many wait or are about to.
	 * Of each two sides one writes first and then reads what the other has written
	 * (seq_cst), so that one of them sees it:
	 *
	 *	goes to rest	awake--		reads busy	nobody would be left
	 *	begins to work	busy++		reads awake	likewise
	 *	waits		polling++	reads more	there is work already
	 *	has more	more = true	reads polling	who could do it sleeps
	 *
	 * awake is changed under the lock.
	 */
	_Atomic uint32_t awake, busy, polling;
	_Atomic bool more;		/* faults were read that nobody has begun with */

	struct hmm_lock lock;		/* RANK_ROSTER: all that follows */
	struct roster_place places[ROSTER_PLACES];
	struct watcher *watchers;	/* [nr] */
	uint32_t nr;
	bool ending;
};

/* Of @nr handlers whose threads start later. -ENOMEM. */
int roster_init(struct roster *roster, uint32_t nr);
void roster_destroy(struct roster *roster);

/*
 * Around its thread's waiting for faults: returns when it may, which is perhaps much
 * later. True: there is work, do not wait.
 */
bool roster_enter(struct roster *roster, struct watcher *watcher);
void roster_leave(struct roster *roster);

/* Around work that may block. Any lock but the roster's may be held. */
void roster_begin(struct roster *roster);
void roster_end(struct roster *roster);

/* Who works has read more than it begins with. True: those who wait have to be woken. */
bool roster_more(struct roster *roster);

/* @watcher met @nr faults. True now and then: tell roster_seen() where they came from. */
bool roster_met(const struct roster *roster, struct watcher *watcher, uint32_t nr);
void roster_seen(struct roster *roster, uint32_t cpu);

/* Nobody rests any more. */
void roster_end_rest(struct roster *roster);

#endif
