/* SPDX-License-Identifier: MIT */
/*
 * The threads that hear of each call of the tree that changes a mapping, makes a
 * process or becomes another program, before it is made.
 *
 *	managed memory		the core makes the change as one transaction, and its result
 *				is the answer; or it wants the thread to go on by itself,
 *				and to hear when the thread is out of the call
 *	fork			the thread goes on, and is waited for
 *	anything else		the thread goes on
 */
#ifndef UHMM_MONITOR_LISTENERS_H
#define UHMM_MONITOR_LISTENERS_H

#include <pthread.h>
#include <stdint.h>

#include "monitor/injector.h"
#include "monitor/pool.h"
#include "monitor/tree.h"

/* One more than can wait for each other is always there to hear. */
#define LISTENERS	8

/* A thread that was told to go on, until it is seen out of the call. */
struct going {
	struct going *next;
	struct space *space;
	uint32_t tid;
	int nr;
	uint64_t since_ns;
};

struct listeners {
	int fd;				/* of the filter; immutable, as all up to lock */
	int exec_fd;			/* an eventfd: somebody asks to become another program */
	struct tree *tree;
	struct pool *pool;
	struct injector *injector;
	_Atomic uint64_t nr_calls;
	_Atomic unsigned int hearing;	/* calls that are being dealt with */

	/*
	 * Who holds it waits for the next call. The kernel wakes all that do, at every call,
	 * and on the caller's CPU: the caller would wait for each of them.
	 */
	pthread_mutex_t receiving;

	pthread_mutex_t lock;
	pthread_cond_t some_go;
	struct going *going;
};

/*
 * Takes @fd. They end when the last process of the tree has ended; kernels before 6.11
 * do not tell them, so nobody waits for that, and @listeners is never freed.
 */
int listeners_start(struct listeners *listeners, int fd, int exec_fd, struct tree *tree,
		    struct pool *pool, struct injector *injector);

/* The tree is empty: nobody goes any more, and soon nobody is heard any more. */
void listeners_forget(struct listeners *listeners);

#endif
