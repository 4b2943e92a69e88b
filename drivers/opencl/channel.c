/* SPDX-License-Identifier: MIT */
#include "channel.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How often a wait looks whether the engine still lives. */
#define LOOK_NS	100000000L

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	const struct timespec look = { .tv_nsec = LOOK_NS };

	syscall(SYS_futex, word, FUTEX_WAIT, value, &look, NULL, 0);
}

int ocl_channel_open(struct ocl_channel *channel, char *why, size_t why_bytes)
{
	int ret = ocl_spawn(&channel->process, why, why_bytes);

	if (ret)
		return ret;
	pthread_mutex_init(&channel->lock, NULL);
	pthread_cond_init(&channel->put, NULL);
	return 0;
}

void ocl_channel_close(struct ocl_channel *channel)
{
	if (!channel->process.wire)
		return;
	ocl_channel_post(channel, OCL_WORKER_SLOT, OCL_EXIT);
	ocl_spawn_end(&channel->process);
	pthread_cond_destroy(&channel->put);
	pthread_mutex_destroy(&channel->lock);
}

/* Lock held. */
static bool take(struct ocl_channel *channel, unsigned int *slot)
{
	for (unsigned int i = OCL_WORKER_SLOT + 1; i < OCL_SLOTS; i++) {
		if (channel->taken[i])
			continue;
		channel->taken[i] = true;
		*slot = i;
		return true;
	}
	return false;
}

unsigned int ocl_channel_get(struct ocl_channel *channel)
{
	unsigned int slot;

	pthread_mutex_lock(&channel->lock);
	while (!take(channel, &slot))
		pthread_cond_wait(&channel->put, &channel->lock);
	pthread_mutex_unlock(&channel->lock);
	return slot;
}

bool ocl_channel_try(struct ocl_channel *channel, unsigned int *slot)
{
	bool got;

	pthread_mutex_lock(&channel->lock);
	got = take(channel, slot);
	pthread_mutex_unlock(&channel->lock);
	return got;
}

void ocl_channel_put(struct ocl_channel *channel, unsigned int slot)
{
	pthread_mutex_lock(&channel->lock);
	channel->taken[slot] = false;
	pthread_cond_signal(&channel->put);
	pthread_mutex_unlock(&channel->lock);
}

void ocl_channel_post(struct ocl_channel *channel, unsigned int slot, enum ocl_op op)
{
	struct ocl_wire *wire = channel->process.wire;
	uint32_t posted;

	wire->slot[slot].op = op;
	atomic_store_explicit(&wire->slot[slot].done, 0, memory_order_relaxed);
	pthread_mutex_lock(&channel->lock);
	posted = atomic_load_explicit(&wire->posted, memory_order_relaxed);
	wire->queue[posted % OCL_QUEUE] = slot;
	/* release: pairs with the engine's; publishes the request and its staging */
	atomic_store_explicit(&wire->posted, posted + 1, memory_order_release);
	pthread_mutex_unlock(&channel->lock);
	syscall(SYS_futex, &wire->posted, FUTEX_WAKE, 1, NULL, NULL, 0);
}

bool ocl_channel_lost(struct ocl_channel *channel)
{
	if (!atomic_load_explicit(&channel->lost, memory_order_relaxed) &&
	    ocl_spawn_gone(&channel->process))
		atomic_store_explicit(&channel->lost, true, memory_order_relaxed);
	return atomic_load_explicit(&channel->lost, memory_order_relaxed);
}

int ocl_channel_wait(struct ocl_channel *channel, unsigned int slot)
{
	static const char ended[] = "the engine has ended";
	struct ocl_request *request = ocl_request(channel, slot);

	while (!ocl_channel_answered(channel, slot)) {
		if (atomic_load_explicit(&channel->lost, memory_order_relaxed))
			return -EIO;
		futex_wait(&request->done, 0);
		if (!ocl_channel_answered(channel, slot) && ocl_channel_lost(channel)) {
			memcpy(request->text, ended, sizeof(ended));
			return -EIO;
		}
	}
	return request->result;
}
