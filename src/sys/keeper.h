/* SPDX-License-Identifier: MIT */
/*
 * The keeper: a process that answers for this one once it is gone.
 *
 * The filter outlives its listener: a child that inherited it would get ENOSYS from
 * every notified call. So a process of its own holds the listener too, sleeps while
 * the program lives, and then lets every call through until nobody has the filter.
 *
 * It is started before the filter is installed, for the kernel tells it that nobody
 * is left only if it is not filtered itself, and gets its descriptors afterwards. It
 * is an image of its own of a few hundred bytes and not a fork, which would keep a
 * copy of the program's memory and make every page of it shared (see caps.c); only
 * where executing a memfd is forbidden is it a fork.
 */
#ifndef UHMM_SYS_KEEPER_H
#define UHMM_SYS_KEEPER_H

#include <stdint.h>

/* Start it. Returns the socket that it listens to; closing that ends it. */
int keeper_start(void);

enum keeper_fd {
	KEEPER_LISTENER,
	KEEPER_PIDFD,		/* of the process whose end it waits for */
	KEEPER_LAST,		/* a file whose first 8 bytes are the last id received */
	KEEPER_FDS
};

/* Hand over what it needs, by @sock, which is closed. */
int keeper_hand_over(int sock, const int fds[KEEPER_FDS]);

#endif
