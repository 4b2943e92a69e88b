/* SPDX-License-Identifier: MIT */
/*
 * The driver's end of the wire. A slot is got, filled (without any lock), posted,
 * waited for and put back; slot 0 is the worker's and is never waited for, because the
 * worker may hold the table lock.
 *
 * An engine that ends, or says that the device is gone, makes the channel lost: from
 * then on every wait fails with -EIO at once.
 */
#ifndef OPENCL_CHANNEL_H
#define OPENCL_CHANNEL_H

#include <pthread.h>
#include <stdbool.h>

#include "spawn.h"

#define OCL_WORKER_SLOT	0

struct ocl_channel {
	struct ocl_process process;
	_Atomic bool lost;
	pthread_mutex_t lock;		/* a leaf */
	pthread_cond_t put;
	/* under lock */
	bool taken[OCL_SLOTS];
};

int ocl_channel_open(struct ocl_channel *channel, char *why, size_t why_bytes);
void ocl_channel_close(struct ocl_channel *channel);

/* A slot that is not the worker's; waits for one. */
unsigned int ocl_channel_get(struct ocl_channel *channel);
/* The same if there is one. */
bool ocl_channel_try(struct ocl_channel *channel, unsigned int *slot);
void ocl_channel_put(struct ocl_channel *channel, unsigned int slot);

static inline struct ocl_request *ocl_request(struct ocl_channel *channel, unsigned int slot)
{
	return &channel->process.wire->slot[slot];
}

static inline char *ocl_channel_staging(struct ocl_channel *channel, unsigned int slot)
{
	return ocl_staging(channel->process.wire, slot);
}

void ocl_channel_post(struct ocl_channel *channel, unsigned int slot, enum ocl_op op);

/* Has the engine ended? Then that is so from now on. */
bool ocl_channel_lost(struct ocl_channel *channel);

/* The request's result, or -EIO. */
int ocl_channel_wait(struct ocl_channel *channel, unsigned int slot);

/* Has the request that was posted last been answered? */
static inline bool ocl_channel_answered(struct ocl_channel *channel, unsigned int slot)
{
	/* acquire: pairs with the engine's answer */
	return atomic_load_explicit(&ocl_request(channel, slot)->done, memory_order_acquire);
}

static inline int ocl_channel_ask(struct ocl_channel *channel, unsigned int slot, enum ocl_op op)
{
	ocl_channel_post(channel, slot, op);
	return ocl_channel_wait(channel, slot);
}

#endif
