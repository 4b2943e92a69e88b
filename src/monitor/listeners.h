/* SPDX-License-Identifier: MIT */
/*
 * The threads that hear of each call of the tree that changes a mapping, makes a
 * process or becomes another program, before it is made, and let it go on.
 */
#ifndef UHMM_MONITOR_LISTENERS_H
#define UHMM_MONITOR_LISTENERS_H

#include <pthread.h>
#include <stdint.h>

#include "monitor/tree.h"

/* A call may wait for others; one more is always there to hear of them. */
#define LISTENERS	3

struct listeners {
	int fd;				/* of the filter; immutable */
	int exec_fd;			/* an eventfd: somebody asks to become another program */
	struct tree *tree;
	_Atomic uint64_t nr_calls;
};

/*
 * Takes @fd. They end when the last process of the tree has ended; kernels before 6.11
 * do not tell them, so nobody waits for that, and @listeners is never freed.
 */
int listeners_start(struct listeners *listeners, int fd, int exec_fd, struct tree *tree);

#endif
