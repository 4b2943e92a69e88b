/* SPDX-License-Identifier: MIT */
/*
 * The pool: the device memory of the tree and the address spaces that share it.
 *
 *	space		one address space: its mm, and its agent once that has come
 *	pool		all of them, and the devices
 *
 * A space begins when an agent joins, or when a process that has one forks: then its
 * process is not known yet, and it is pending until somebody turns out to have that
 * memory (pool_claim()). It ends when the process ends or becomes another program.
 * Reference-counted: a call that is under way when it ends comes back, having found
 * nothing.
 *
 * The core's family needs one member that outlives its devices: the first one's mm is
 * kept, empty, until the pool is closed.
 */
#ifndef UHMM_MONITOR_POOL_H
#define UHMM_MONITOR_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <uhmm/plugin.h>
#include <uhmm/uhmm.h>

#include "monitor/link.h"
#include "sys/process.h"

struct pool;

struct space {
	_Atomic uint32_t refs;
	struct pool *pool;		/* immutable, as mm */
	struct hmm_mm *mm;		/* NULL: the pool manages nothing */
	uint64_t id;			/* no other ever has it; above 0 */

	/* pool lock */
	struct space *next;
	struct link *link;		/* set once; NULL: no agent has come */
	pid_t pid;			/* 0: pending */
	int maps_fd;			/* of the address space; -1 until there is a link */
	unsigned int overlooked;	/* pending: sweeps that found no process for it */
	bool ended;
	bool said_lost;			/* that those who have it are ended */
	bool abandoned;			/* left by the process whose it was, and in use */
};

#define POOL_FORKS	16u		/* under way at once */

struct pool {
	bool manages;			/* immutable: false, spaces have no mm */
	_Atomic unsigned int nr_spaces;	/* whose descriptors are not all closed */
	const char *device_options;	/* immutable; NULL: the driver's own defaults */
	const struct hmm_plugin *plugin;
	struct trace *trace;		/* immutable; NULL: nobody wants one */
	/* Immutable; called when the device is open, before the first program goes on. */
	void (*begun)(void *ctx, struct hmm_mm *mm);	/* or NULL */
	void *begun_ctx;

	/* Main thread. */
	struct hmm_mm *first;
	struct hmm_device device;
	bool device_open;
	uint64_t device_pages;		/* that it has */

	pthread_mutex_t lock;		/* all that follows */
	pthread_cond_t fork_done;
	struct space *spaces;
	uint64_t forks[POOL_FORKS];	/* under way: their number; 0: none */
	uint64_t last_fork;
	uint64_t last_id;
	struct hmm_stats past;		/* of spaces that are no more */
	struct hmm_times past_faults;
	uint64_t device_pages_peak;
};

/*
 * @device: "NAME" or "NAME:key=value,..."; NULL: manage nothing. 0, or a negative errno
 * that has been said; -EINVAL: it can be no device, on any machine.
 */
int pool_open(struct pool *pool, const char *device);

/* Nobody is left: every space ends. */
void pool_end(struct pool *pool);

/* After pool_end(). -EIO: pages were lost. */
int pool_close(struct pool *pool);

/*
 * An agent has come to process @pid. @forked: the space that it was claimed for, or
 * NULL. Takes the reference to @link. Main thread. 0, or a negative errno.
 */
int pool_join(struct pool *pool, struct link *link, pid_t pid, struct space *forked,
	      struct space **out);

struct space *space_get(struct space *space);
void space_put(struct space *space);		/* NULL is fine */

/* The address space is no more. Any thread, not under the pool's or the tree's lock. */
void space_end(struct space *space);

/* Has anybody its memory besides its agent? Asks the agent, if there is one. */
bool space_is_shared(struct space *space);

/* Has anybody its memory, the agent or not? */
bool space_in_use(struct space *space);

/* It is process @pid's from now on, which shares it. 0, or a negative errno. */
int space_inherit(struct space *space, pid_t pid);

/*
 * Is its agent gone, though nobody ended it? Then no call of those who have it is
 * answered: they are ended.
 */
bool space_lost(struct space *space);
bool space_losing(struct space *space);		/* or will be in a moment */

/* They are; true: nobody has said so yet. */
bool space_say_lost(struct space *space);

/* It is no known process's, and ends when nobody has its memory any more. */
void space_abandon(struct space *space);
unsigned int pool_abandoned(struct pool *pool, struct space **out, unsigned int max);	/* references */

/* Has its agent come? */
bool space_joined(struct space *space);

/*
 * The number that its userfaultfd has in its process, if a forked child of that does not
 * come to the door by itself; else -1.
 */
int space_forks_quietly(struct space *space);

/* Of one that has an agent: its memory, without what the agent has reserved there. */
void space_memory(const struct space *space, struct sys_memory *out);
pid_t space_agent(const struct space *space);	/* whose memory it is too */
pid_t space_pid(struct space *space);

/* Is task @tid in it? */
bool space_has(struct space *space, pid_t tid);

/* The same where its agent may be lost, at more cost; below SPACE_OTHER: it cannot be told. */
enum { SPACE_OTHER, SPACE_SAME, SPACE_LOSING };
int space_relation(struct space *space, pid_t tid);

/* Is any of @pid's threads in it, though its agent be lost? */
bool space_has_process(struct space *space, pid_t pid);

/* A thread of @space is about to copy it: what the kernel announces as @nr. */
void pool_fork(struct pool *pool, struct space *space, uint32_t tid, int nr,
	       void (*let_go)(void *ctx), void *ctx);

/*
 * The pending space that process @pid has, with a reference, or NULL. Waits for forks
 * under way: one of them may be its birth.
 */
struct space *pool_claim(struct pool *pool, pid_t pid);

/*
 * Which of the spaces that are newer than number *@after task @tid is in, with a reference;
 * or NULL: then it is certainly in none up to the new *@after. *losing: that has lost its
 * agent, or will have in a moment.
 */
struct space *pool_find(struct pool *pool, pid_t tid, uint64_t *after, bool *losing);

/* Is there a space without an agent? */
bool pool_has_bare(struct pool *pool);

/* References to at most @max spaces that have an agent. */
unsigned int pool_spaces(struct pool *pool, struct space **out, unsigned int max);

/* Sums over all spaces that are and were. */
void pool_stats(struct pool *pool, struct hmm_stats *stats);
void pool_fault_times(struct pool *pool, struct hmm_times *times);

/* Device pages that nobody uses; a driver might make room, by sending others home. */
uint64_t pool_room(struct pool *pool);

/*
 * Every process has been looked at by pool_claim(): what is pending still, for the
 * second time, has lost its process without a word.
 */
bool pool_has_pending(struct pool *pool);
void pool_forget_pending(struct pool *pool);

#endif
