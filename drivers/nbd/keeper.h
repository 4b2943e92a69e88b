/* SPDX-License-Identifier: MIT */
/*
 * A thread for what nobody waits for: pages that were freed and are on a server still are
 * trimmed in runs, a moment after the last was freed; lanes are taken in; and if the link
 * ends by itself, whoever waits for it is told.
 */
#ifndef NBD_KEEPER_H
#define NBD_KEEPER_H

#include <stdatomic.h>
#include <stdbool.h>

struct nbd_device;

struct nbd_keeper {
	struct hmm_safe_thread *thread;
	int wake_fd;
	_Atomic bool woken;		/* wake_fd has been signalled and not yet heard */
	_Atomic bool stopping;
};

int nbd_keeper_start(struct nbd_device *dev);
void nbd_keeper_stop(struct nbd_device *dev);

/* There is something to trim. Any thread, any lock held. */
void nbd_keeper_wake(struct nbd_device *dev);

#endif
