/* SPDX-License-Identifier: MIT */
#include "readahead.h"

#include "device.h"

#define READAHEAD_STACK	(1UL << 20)

static void *readahead_main(void *arg)
{
	struct hmm_soft *soft = arg;
	struct soft_readahead *ahead = &soft->readahead;
	uintptr_t start, end;

	pthread_mutex_lock(&ahead->lock);
	while (!ahead->exiting) {
		if (ahead->head == ahead->tail) {
			pthread_cond_wait(&ahead->wake, &ahead->lock);
			continue;
		}
		start = ahead->ring[ahead->head % SOFT_READAHEAD_RING].start;
		end = ahead->ring[ahead->head % SOFT_READAHEAD_RING].end;
		ahead->head++;
		pthread_mutex_unlock(&ahead->lock);
		/* Nobody waits for an answer; what cannot be read is told to its reader. */
		(void)!hmm_evict(soft->mm, start + soft->page_size, end);
		pthread_mutex_lock(&ahead->lock);
	}
	pthread_mutex_unlock(&ahead->lock);
	return NULL;
}

int soft_readahead_start(struct hmm_soft *soft)
{
	struct soft_readahead *ahead = &soft->readahead;

	pthread_mutex_init(&ahead->lock, NULL);
	pthread_cond_init(&ahead->wake, NULL);
	return hmm_safe_thread_start(readahead_main, soft, READAHEAD_STACK, &ahead->thread);
}

void soft_readahead_stop(struct soft_readahead *ahead)
{
	pthread_mutex_lock(&ahead->lock);
	ahead->exiting = true;
	pthread_cond_signal(&ahead->wake);
	pthread_mutex_unlock(&ahead->lock);
	hmm_safe_thread_join(ahead->thread);
	pthread_cond_destroy(&ahead->wake);
	pthread_mutex_destroy(&ahead->lock);
}

void soft_readahead_post(struct soft_readahead *ahead, uintptr_t start, uintptr_t end)
{
	pthread_mutex_lock(&ahead->lock);
	if (ahead->tail - ahead->head < SOFT_READAHEAD_RING) {
		ahead->ring[ahead->tail % SOFT_READAHEAD_RING].start = start;
		ahead->ring[ahead->tail % SOFT_READAHEAD_RING].end = end;
		ahead->tail++;
		pthread_cond_signal(&ahead->wake);
	}
	pthread_mutex_unlock(&ahead->lock);
}
