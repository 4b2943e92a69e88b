/* SPDX-License-Identifier: MIT */
#include "keeper.h"

#include "device.h"

#define KEEPER_STACK	(1UL << 20)

static void poison_lost(struct hmm_soft *soft)
{
	uint64_t from = 0, first, nr;

	while ((nr = soft_memory_next_lost(&soft->memory, from, &first))) {
		if (hmm_devmem_poison(soft->devmem, first, nr) < 0)
			return;
		from = first + nr;
	}
}

static void *keeper_main(void *arg)
{
	struct hmm_soft *soft = arg;
	struct soft_keeper *keeper = &soft->keeper;
	bool reset;

	pthread_mutex_lock(&keeper->lock);
	while (!keeper->exiting) {
		if (keeper->paused || !(keeper->reset || keeper->scrub)) {
			pthread_cond_wait(&keeper->wake, &keeper->lock);
			continue;
		}
		reset = keeper->reset;
		keeper->reset = false;
		keeper->scrub = false;
		keeper->busy = true;
		pthread_mutex_unlock(&keeper->lock);

		if (reset)
			poison_lost(soft);
		soft_memory_scrub(&soft->memory);

		pthread_mutex_lock(&keeper->lock);
		keeper->busy = false;
		pthread_cond_broadcast(&keeper->idle);
	}
	pthread_mutex_unlock(&keeper->lock);
	return NULL;
}

int soft_keeper_start(struct hmm_soft *soft)
{
	struct soft_keeper *keeper = &soft->keeper;

	pthread_mutex_init(&keeper->lock, NULL);
	pthread_cond_init(&keeper->wake, NULL);
	pthread_cond_init(&keeper->idle, NULL);
	return hmm_safe_thread_start(keeper_main, soft, KEEPER_STACK, &keeper->thread);
}

void soft_keeper_stop(struct soft_keeper *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	keeper->exiting = true;
	pthread_cond_broadcast(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
	hmm_safe_thread_join(keeper->thread);
	pthread_cond_destroy(&keeper->idle);
	pthread_cond_destroy(&keeper->wake);
	pthread_mutex_destroy(&keeper->lock);
}

void soft_keeper_pause(struct soft_keeper *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	keeper->paused = true;
	while (keeper->busy)
		pthread_cond_wait(&keeper->idle, &keeper->lock);
	pthread_mutex_unlock(&keeper->lock);
}

void soft_keeper_resume(struct soft_keeper *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	keeper->paused = false;
	pthread_cond_broadcast(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
}

void soft_keeper_wake(struct soft_keeper *keeper, bool reset)
{
	pthread_mutex_lock(&keeper->lock);
	keeper->reset |= reset;
	keeper->scrub = true;
	pthread_cond_signal(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
}
