/* SPDX-License-Identifier: MIT */
/*
 * Which of a family's handlers meets a fault.
 *
 * Whoever waits in poll on a userfaultfd is woken by each fault, and the faulter pays for
 * each wake-up: most for one on another CPU, and there for nothing. So each handler waits
 * in an epoll of its own, which has the userfaultfd exclusively: the kernel wakes the
 * first of them, in the order in which they came, that is waiting and not at work
 *
 *	fault -> [ first | one more | ... ]
 *
 * and the first is to be the one that runs where the faults come from: a thread that
 * wakes one on its own CPU goes on soonest (docs/design/0019). So now and then it is looked
 * where they came from, and who shall be first has the others leave the queue and join it
 * again behind it. Each mm has an order of its own.
 */
#ifndef UHMM_CORE_ROSTER_H
#define UHMM_CORE_ROSTER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/lock.h"

#define ROSTER_ANYWHERE	UINT32_MAX
#define ROSTER_BELL	UINT64_MAX	/* the ticket of roster_ring() */

/* A handler, as the roster has it. */
struct watcher {
	int wait_fd;			/* immutable: an epoll */
	uint32_t tid;			/* 0: it has not begun */
	_Atomic uint32_t cpu;		/* where it runs, or ROSTER_ANYWHERE; roster's lock */
	uint64_t met;			/* when it was wanted there last; likewise */
};

/* A userfaultfd that they wait for. */
struct watched {
	uint32_t look_every;		/* faults; immutable */
	_Atomic uint32_t served;	/* since the last look */
	_Atomic uint32_t first;		/* of the watchers; written under the roster's lock */
	_Atomic uint32_t doubts;	/* how often in a row it was seen to be better ... */
	/* under the roster's lock */
	uint32_t better;		/* ... that who is on this CPU were first */
	int fd;				/* negative: not yet, or no more */
	uint64_t ticket;
};

struct roster {
	bool all;			/* immutable: one for each CPU, which stays there */
	bool blind;			/* immutable: nobody can tell where a thread runs */
	int bell_fd;			/* an eventfd that they wait for, exclusively as well */

	/*
	 * How many work, and how many wait or are about to. Of each two sides one writes
	 * first and then reads what the other has written (seq_cst), so that one of them
	 * sees it:
	 *
	 *	waits		polling++	reads more	there is work already
	 *	begins to work	busy++		reads more	it will not do that other
	 *	has more	more = true	reads both	who could do it sleeps
	 */
	_Atomic uint32_t busy, polling;
	_Atomic bool more;		/* faults were read that nobody has begun with */

	struct hmm_lock lock;		/* RANK_ROSTER: all that follows */
	struct watcher *watchers;	/* [nr] */
	uint32_t nr;
	uint64_t looks;
};

/*
 * Of @nr handlers, 64 at most, whose threads start later. @blind: it cannot be told where
 * a thread runs, and each fault wakes two. -ENOMEM, -EMFILE, -ENFILE.
 */
int roster_init(struct roster *roster, uint32_t nr, bool blind);
void roster_destroy(struct roster *roster);

/* Of an mm that can be found, but is not yet added. */
void roster_watched_init(struct watched *watched, uint32_t look_every);

/* Faults of @fd are met from now on, and told by @ticket; and no more. -ENOMEM. */
int roster_add(struct roster *roster, struct watched *watched, int fd, uint64_t ticket);
void roster_remove(struct roster *roster, struct watched *watched);

/* By its thread, once. */
void roster_begin(struct roster *roster, struct watcher *watcher);

/* The tickets of what there is to do, @max at most, among them ROSTER_BELL. Blocks. */
int roster_wait(struct roster *roster, struct watcher *watcher, uint64_t *tickets, int max,
		bool *more);

/* Does somebody wait, or is about to? */
bool roster_has_spare(const struct roster *roster);

/* One of them is woken, or finds it when it waits next. */
void roster_ring(struct roster *roster);

/* Around work that may block. Any lock but the roster's may be held. */
void roster_work(struct roster *roster);
void roster_done(struct roster *roster);

/* Who works has read more than it begins with. */
void roster_more(struct roster *roster);

/* The CPU of who is first; ROSTER_ANYWHERE. */
uint32_t roster_where(const struct roster *roster, const struct watched *watched);

/*
 * @nr faults were met. True at every look_every-th: tell where they came from, roster_near()
 * that it was where the first is. False of roster_seen(): somebody may have missed a fault.
 */
bool roster_met(const struct roster *roster, struct watched *watched, uint32_t nr);
void roster_near(struct watched *watched);
bool roster_seen(struct roster *roster, struct watched *watched, uint32_t cpu);

#endif
