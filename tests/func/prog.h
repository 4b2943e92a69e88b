/* SPDX-License-Identifier: MIT */
/*
 * A program whose address space the test manages from outside: a forked child with an
 * agent, which here is a thread of it, and a main thread that runs functions of the
 * test's when asked. Its memory is touched only there; what it returns is a number.
 *
 * The test plays the monitor: it announces the program's changes (prog_change()) and
 * forks (prog_fork()) to the library as a seccomp listener would.
 */
#ifndef UHMM_TEST_PROG_H
#define UHMM_TEST_PROG_H

#include "world.h"

#include <uhmm/remote.h>

#define PROGS		24u	/* in the life of a test program at one time */

struct prog_area;

struct prog {
	pid_t pid;
	int pidfd;
	struct hmm_mm *mm;
	struct prog_area *area;		/* shared with it */
	bool dead;			/* killed and reaped */
	uint64_t agent_calls_left;	/* then its agent is as if killed, and nobody is answered */
};

/* A function in the program: may touch its memory, may not use the library. */
typedef int64_t (*prog_fn)(uint64_t a, uint64_t b, uint64_t c);

/* Memory that all programs share with the test. Before the first; once. */
void progs_begin(void);

/* Start one, in the family of @sibling's mm, or (NULL) of a new one. */
struct prog *prog_start(struct prog *sibling);

/* Unless it is gone, destroys the mm; kills and reaps. Returns what destroy said. */
int prog_end(struct prog *p);

/* Dies at once, as by SIGKILL; reaped. The library is not told. */
void prog_kill(struct prog *p);

/* Run it and wait; -ECHILD: the program is dead. Or start it, and wait later. */
int64_t prog_run(struct prog *p, prog_fn fn, uint64_t a, uint64_t b, uint64_t c);
void prog_go(struct prog *p, prog_fn fn, uint64_t a, uint64_t b, uint64_t c);
int64_t prog_wait(struct prog *p);
bool prog_idle(struct prog *p);

/* A system call of the program's main thread. */
int64_t prog_call(struct prog *p, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d);

/* The same, announced. */
int64_t prog_change(struct prog *p, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
		    uint64_t e);

/* Announced fork; child->mm is NULL where it got none. @attach: with its agent. */
struct prog *prog_fork(struct prog *p, bool attach);
void prog_attach(struct prog *child);

/* Called in the monitor before each batch of calls of an agent; NULL: nothing. */
extern void (*prog_before_call)(struct prog *p, struct hmm_agent_call *calls, size_t nr);

/* Calls of agents so far: batches. */
extern _Atomic uint64_t prog_batches;

/* In the program: its heap grows by pages with a pattern, whose address is returned. */
int64_t prog_grow_heap(uint64_t nr, uint64_t seed, uint64_t unused);
/* In the program: 1, or -1 where the first word of page i is not @value + i. */
int64_t prog_loads(uint64_t addr, uint64_t nr, uint64_t value);
/* In the program: makes them that. */
int64_t prog_stores(uint64_t addr, uint64_t nr, uint64_t value);

struct hmm_stats prog_stats(struct prog *p);
int64_t prog_migrate(struct prog *p, struct testdev *dev, uintptr_t addr, size_t nr);
/* The same, and all of it has to go. */
void prog_to_dev(struct prog *p, struct testdev *dev, uintptr_t addr, size_t nr);
/* Asserts that each page is there. */
void prog_places(struct prog *p, uintptr_t addr, size_t nr, enum hmm_place place);

/* A fixture's: a program of a family of its own and its device; all is freed in the end. */
void prog_and_device(struct prog **p, struct testdev **dev);
void prog_and_device_end(struct prog *p, struct testdev *dev);

/* Memory of the program's with a pattern, as map_filled() and holds(). */
uintptr_t prog_map(struct prog *p, size_t nr, uint32_t seed);
uintptr_t prog_map_empty(struct prog *p, size_t nr, int prot);
int64_t prog_holds(struct prog *p, uintptr_t addr, size_t nr, uint32_t seed, uint64_t first);
#define assert_prog_holds(p, addr, nr, seed, first) \
	assert_int_equal(prog_holds(p, addr, nr, seed, first), 1)

#endif
