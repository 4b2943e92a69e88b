/* SPDX-License-Identifier: MIT */
/* Threads of the device, on stacks that are never away. */
#ifndef NBD_THREAD_H
#define NBD_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct nbd_thread {
	pthread_t id;
	void *stack;
	bool started;
};

int nbd_thread_start(struct nbd_thread *thread, void *(*fn)(void *), void *arg);
void nbd_thread_join(struct nbd_thread *thread);

#endif
