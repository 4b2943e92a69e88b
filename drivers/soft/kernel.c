/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>

#include "device.h"

/* Items that a lane takes at a time: few enough for all lanes to end together. */
#define CHUNKS_PER_LANE	16
#define CHUNK_MAX	256

/* The device that this thread is a lane of. */
static _Thread_local const struct hmm_soft *lane_of;

/* The slot that holds @ticket, for 0 a free one; NULL: none does. Lock held. */
static struct soft_submission *slot_of(struct soft_kernels *kernels, int64_t ticket)
{
	for (unsigned int i = 0; i < SOFT_SUBMISSIONS; i++)
		if (kernels->slots[i].ticket == ticket)
			return &kernels->slots[i];
	return NULL;
}

static bool has_items(struct soft_submission *sub)
{
	return !atomic_load_explicit(&sub->stop, memory_order_relaxed) &&
	       atomic_load_explicit(&sub->next, memory_order_relaxed) < sub->nr_items;
}

/* The submission to help with, or NULL. Lock held. */
static struct soft_submission *pick(struct soft_kernels *kernels)
{
	struct soft_submission *sub;

	if (kernels->current == kernels->next)
		return NULL;
	sub = slot_of(kernels, kernels->current);
	return has_items(sub) ? sub : NULL;
}

/* The lane's fence against invalidations that saw it outside a kernel (tlb.c). */
static void lane_running(struct hmm_lane *lane, bool running)
{
	struct hmm_soft *soft = lane->soft;

	soft_table_lock(&soft->table);
	atomic_store_explicit(&lane->running, running, memory_order_relaxed);
	if (running)
		soft->nr_running++;
	else
		soft->nr_running--;
	soft_table_unlock(&soft->table);
}

/* What changes between setjmp and longjmp lives in the lane, not in this frame. */
static void run_items(struct hmm_lane *lane)
{
	struct soft_submission *sub = lane->submission;

	if (_setjmp(lane->leave))
		return;
	while (has_items(sub)) {
		uint64_t first = atomic_fetch_add_explicit(&sub->next, sub->chunk,
							   memory_order_relaxed);

		for (uint64_t i = 0; i < sub->chunk && first + i < sub->nr_items; i++) {
			if (atomic_load_explicit(&sub->stop, memory_order_relaxed))
				return;
			lane->item = first + i;
			sub->kernel(lane, lane->item, sub->arg);
		}
	}
}

/* Lock held; comes back with it held. */
static void run_submission(struct hmm_lane *lane, struct soft_submission *sub)
{
	struct soft_kernels *kernels = &lane->soft->kernels;

	sub->nr_lanes++;
	pthread_mutex_unlock(&kernels->lock);
	lane->submission = sub;
	lane_running(lane, true);
	run_items(lane);
	lane_running(lane, false);
	pthread_mutex_lock(&kernels->lock);

	if (--sub->nr_lanes || has_items(sub))
		return;
	sub->done = true;
	kernels->current++;
	pthread_cond_broadcast(&kernels->done);
	if (kernels->current != kernels->next)
		pthread_cond_broadcast(&kernels->work);
}

/* Free the slot. Lock held. */
static int result_take(struct soft_submission *sub, struct hmm_soft_fault *fault)
{
	bool faulted = sub->faulted;

	*fault = sub->fault;
	sub->ticket = 0;
	return faulted ? -EFAULT : 0;
}

void soft_kernels_init(struct soft_kernels *kernels)
{
	pthread_mutex_init(&kernels->lock, NULL);
	pthread_cond_init(&kernels->work, NULL);
	pthread_cond_init(&kernels->done, NULL);
	kernels->current = 1;
	kernels->next = 1;
}

void soft_kernels_destroy(struct soft_kernels *kernels)
{
	pthread_cond_destroy(&kernels->done);
	pthread_cond_destroy(&kernels->work);
	pthread_mutex_destroy(&kernels->lock);
}

void soft_kernels_drain(struct soft_kernels *kernels)
{
	pthread_mutex_lock(&kernels->lock);
	kernels->closing = true;
	while (kernels->current != kernels->next || kernels->nr_waiters)
		pthread_cond_wait(&kernels->done, &kernels->lock);
	pthread_mutex_unlock(&kernels->lock);
}

void soft_kernels_resume(struct soft_kernels *kernels)
{
	pthread_mutex_lock(&kernels->lock);
	kernels->closing = false;
	pthread_mutex_unlock(&kernels->lock);
}

void soft_kernels_exit(struct soft_kernels *kernels)
{
	pthread_mutex_lock(&kernels->lock);
	kernels->exiting = true;
	pthread_cond_broadcast(&kernels->work);
	pthread_mutex_unlock(&kernels->lock);
}

void *soft_lane_main(void *arg)
{
	struct hmm_lane *lane = arg;
	struct soft_kernels *kernels = &lane->soft->kernels;
	struct soft_submission *sub;

	lane_of = lane->soft;
	pthread_mutex_lock(&kernels->lock);
	while (!kernels->exiting) {
		sub = pick(kernels);
		if (sub)
			run_submission(lane, sub);
		else
			pthread_cond_wait(&kernels->work, &kernels->lock);
	}
	pthread_mutex_unlock(&kernels->lock);
	return NULL;
}

bool soft_on_lane(const struct hmm_soft *soft)
{
	return lane_of == soft;
}

/* The other lanes lose their TLBs, so that their next access looks at `stop`. */
void soft_lane_refuse(struct hmm_lane *lane, uintptr_t addr, enum hmm_soft_access access,
		      enum hmm_soft_fault_reason reason)
{
	struct hmm_soft *soft = lane->soft;
	struct soft_submission *sub = lane->submission;

	pthread_mutex_lock(&soft->kernels.lock);
	if (!sub->faulted) {
		sub->faulted = true;
		sub->fault = (struct hmm_soft_fault){
			.addr = addr, .access = access, .reason = reason, .item = lane->item,
		};
	}
	pthread_mutex_unlock(&soft->kernels.lock);
	atomic_store_explicit(&sub->stop, true, memory_order_relaxed);

	soft_table_lock(&soft->table);
	for (unsigned int i = 0; i < soft->nr_lanes; i++)
		soft_tlb_flush(&soft->lanes[i]);
	soft_table_unlock(&soft->table);
	_longjmp(lane->leave, 1);
}

void soft_lane_check(struct hmm_lane *lane)
{
	if (atomic_load_explicit(&lane->submission->stop, memory_order_relaxed))
		_longjmp(lane->leave, 1);
}

int64_t hmm_soft_submit(struct hmm_soft *soft, hmm_soft_kernel kernel, uint64_t nr_items, void *arg)
{
	struct soft_submission *sub;
	struct soft_kernels *kernels;
	int64_t ret = soft_check(soft);

	if (ret)
		return ret;
	if (!kernel || !nr_items)
		return -EINVAL;

	kernels = &soft->kernels;
	pthread_mutex_lock(&kernels->lock);
	sub = slot_of(kernels, 0);
	if (kernels->closing) {
		ret = -ECANCELED;
	} else if (!sub) {
		ret = -ENOMEM;
	} else {
		ret = kernels->next++;
		*sub = (struct soft_submission){
			.ticket = ret, .kernel = kernel, .arg = arg, .nr_items = nr_items,
			.chunk = nr_items / ((uint64_t)soft->nr_lanes * CHUNKS_PER_LANE),
		};
		if (!sub->chunk)
			sub->chunk = 1;
		if (sub->chunk > CHUNK_MAX)
			sub->chunk = CHUNK_MAX;
		for (uint64_t i = 0; i < nr_items && i < soft->nr_lanes; i++)
			pthread_cond_signal(&kernels->work);
	}
	pthread_mutex_unlock(&kernels->lock);
	return ret;
}

int hmm_soft_wait(struct hmm_soft *soft, int64_t ticket, struct hmm_soft_fault *fault)
{
	struct hmm_soft_fault found = { 0 };
	struct soft_kernels *kernels;
	struct soft_submission *sub;
	int ret = soft_check(soft);

	if (ret)
		return ret;
	if (ticket <= 0)
		return -EINVAL;
	if (soft_on_lane(soft))
		return -EDEADLK;

	kernels = &soft->kernels;
	pthread_mutex_lock(&kernels->lock);
	sub = slot_of(kernels, ticket);
	if (!sub || sub->waited) {
		ret = -EINVAL;
	} else {
		sub->waited = true;
		kernels->nr_waiters++;
		while (!sub->done)
			pthread_cond_wait(&kernels->done, &kernels->lock);
		ret = result_take(sub, &found);
		if (!--kernels->nr_waiters && kernels->closing)
			pthread_cond_broadcast(&kernels->done);
	}
	pthread_mutex_unlock(&kernels->lock);

	/* The program's memory, which may be away: touched with no lock held. */
	if (ret == -EFAULT && fault)
		*fault = found;
	return ret;
}

int hmm_soft_run(struct hmm_soft *soft, hmm_soft_kernel kernel, uint64_t nr_items, void *arg,
		 struct hmm_soft_fault *fault)
{
	int64_t ticket = soft_check(soft);

	if (ticket)
		return (int)ticket;
	if (soft_on_lane(soft))
		return -EDEADLK;
	ticket = hmm_soft_submit(soft, kernel, nr_items, arg);
	return ticket < 0 ? (int)ticket : hmm_soft_wait(soft, ticket, fault);
}
