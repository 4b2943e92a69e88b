/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "pools.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "device.h"

#define BULK_BYTES	(1UL << 20)
#define SIGNALS_NS	100000000L

static int make(struct hmm_opencl *ocl, bool in_place)
{
	ocl_request(&ocl->channel, OCL_WORKER_SLOT)->a[0] = in_place;
	return ocl_channel_ask(&ocl->channel, OCL_WORKER_SLOT, OCL_MAKE);
}

/*
 * Not populated, whatever mlockall(MCL_FUTURE) wants of new mappings: that would be all of the
 * device's memory.
 */
static char *map(int fd, size_t bytes)
{
	char *base = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, fd, 0);

	if (base == MAP_FAILED)
		return NULL;
	if (munlock(base, bytes) || madvise(base, bytes, MADV_DONTFORK) ||
	    madvise(base, bytes, MADV_DONTDUMP) ||
	    mprotect(base, bytes, PROT_READ | PROT_WRITE)) {
		munmap(base, bytes);
		return NULL;
	}
	return base;
}

/* Waiting launches first: the copies of a busy program would keep them out for good. */
static void lock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
}

int ocl_pools_open(struct hmm_opencl *ocl, uint64_t slots, bool staged)
{
	struct ocl_pools *pools = &ocl->pools;
	int ret = make(ocl, !staged);

	lock_init(&pools->lock);
	if (!ret && ocl_request(&ocl->channel, OCL_WORKER_SLOT)->a[0]) {
		pools->bytes = slots << HMM_BLOCK_SHIFT;
		pools->backed = hmm_safe_alloc(slots * sizeof(*pools->backed));
		if (pools->backed)
			pools->base = map(ocl->channel.process.pools, pools->bytes);
		if (!pools->base)
			ret = make(ocl, false);
	}
	ocl_spawn_forget_pools(&ocl->channel.process);
	return ret;
}

void ocl_pools_close(struct hmm_opencl *ocl)
{
	struct ocl_pools *pools = &ocl->pools;

	if (pools->base)
		munmap(pools->base, pools->bytes);
	hmm_safe_free((void *)pools->backed,
		      (pools->bytes >> HMM_BLOCK_SHIFT) * sizeof(*pools->backed));
	pthread_rwlock_destroy(&pools->lock);
}

int ocl_pools_ask(struct hmm_opencl *ocl, enum ocl_op op)
{
	struct ocl_pools *pools = &ocl->pools;
	int ret;

	if (!pools->base)
		return ocl_channel_ask(&ocl->channel, OCL_WORKER_SLOT, op);
	/* Of one that has ended before nothing is in hand. */
	if (ocl_channel_lost(&ocl->channel))
		return -EIO;
	pthread_rwlock_wrlock(&pools->lock);
	ret = ocl_channel_ask(&ocl->channel, OCL_WORKER_SLOT, op);
	if (!ocl_channel_answered(&ocl->channel, OCL_WORKER_SLOT))
		pools->lost = true;
	pthread_rwlock_unlock(&pools->lock);
	return ret;
}

/* By a request in @slot, of which only what is a request's result changes. */
static int back_slot(struct hmm_opencl *ocl, uint64_t s, unsigned int slot)
{
	int ret;

	ocl_request(&ocl->channel, slot)->a[0] = s;
	ret = ocl_channel_ask(&ocl->channel, slot, OCL_BACK);
	if (!ret)
		atomic_store_explicit(&ocl->pools.backed[s], true, memory_order_relaxed);
	return ret;
}

/* Memory for the device's slots of a run, or an error. @held: a slot of the caller's, or none. */
static int back(struct hmm_opencl *ocl, uint64_t index, uint64_t nr, unsigned int held)
{
	int ret = 0;

	for (uint64_t s = index / ocl->memory.block_pages;
	     s <= (index + nr - 1) / ocl->memory.block_pages && !ret; s++) {
		unsigned int slot = held;

		if (atomic_load_explicit(&ocl->pools.backed[s], memory_order_relaxed))
			continue;
		if (held == OCL_SLOTS)
			slot = ocl_channel_get(&ocl->channel);
		ret = back_slot(ocl, s, slot);
		if (held == OCL_SLOTS)
			ocl_channel_put(&ocl->channel, slot);
	}
	return ret;
}

/*
 * A signal handler that waits for a page would keep the lock from a launch, behind which
 * whoever brings the page has to wait. While it is a launch that is waited for, signals come now
 * and then.
 */
static int begin(struct ocl_pools *pools, sigset_t *old)
{
	struct timespec until;
	sigset_t all;
	int ret;

	sigfillset(&all);
	do {
		pthread_sigmask(SIG_SETMASK, &all, old);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += SIGNALS_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		ret = pthread_rwlock_timedrdlock(&pools->lock, &until);
		if (ret)
			pthread_sigmask(SIG_SETMASK, old, NULL);
	} while (ret);
	return pools->lost ? -EIO : 0;
}

static void end(struct ocl_pools *pools, const sigset_t *old)
{
	pthread_rwlock_unlock(&pools->lock);
	pthread_sigmask(SIG_SETMASK, old, NULL);
}

/* What does not fit into a cache goes past it. */
static void copy(void *to, const void *from, size_t bytes)
{
	if (bytes > BULK_BYTES)
		hmm_bulk_copy(to, from, bytes);
	else
		memcpy(to, from, bytes);
}

/* @cpu NULL, towards the device only: zeros. */
static void copy_pages(const struct hmm_opencl *ocl, void *cpu, uint64_t index, uint64_t nr,
		       bool in)
{
	char *at = ocl->pools.base + index * ocl->page_size;
	size_t bytes = nr * ocl->page_size;

	if (!in)
		copy(cpu, at, bytes);
	else if (cpu)
		copy(at, cpu, bytes);
	else
		memset(at, 0, bytes);
}

static void copy_run(const struct hmm_opencl *ocl, enum ocl_op op, const struct ocl_run *run,
		     char *staging)
{
	const size_t page = ocl->page_size;
	char *base = ocl->pools.base;

	if (op == OCL_COPY_WITHIN)
		memmove(base + run->index * page, base + run->at * page, run->nr * page);
	else
		copy_pages(ocl, run->at == OCL_ZERO ? NULL : staging + run->at * page, run->index,
			   run->nr, op == OCL_COPY_IN);
}

int ocl_pools_copy(struct hmm_opencl *ocl, unsigned int slot, enum ocl_op op)
{
	const struct ocl_request *request = ocl_request(&ocl->channel, slot);
	bool to_device = op != OCL_COPY_OUT;
	sigset_t old;
	int ret = 0;

	if (to_device && ocl_channel_lost(&ocl->channel))
		return -EIO;
	for (uint32_t i = 0; i < request->nr_runs && to_device && !ret; i++)
		ret = back(ocl, request->runs[i].index, request->runs[i].nr, slot);
	if (ret)
		return ret;
	ret = begin(&ocl->pools, &old);
	for (uint32_t i = 0; i < request->nr_runs && !ret; i++)
		copy_run(ocl, op, &request->runs[i], ocl_channel_staging(&ocl->channel, slot));
	end(&ocl->pools, &old);
	return ret;
}

int ocl_pools_transfer(struct hmm_opencl *ocl, const struct hmm_copy_run *runs, size_t nr_runs,
		       bool in)
{
	uint64_t pages = 0;
	sigset_t old;
	int ret = 0;

	/* Nothing goes to a device that is no more. */
	if (in && ocl_channel_lost(&ocl->channel))
		return -EIO;
	for (size_t i = 0; i < nr_runs && in && !ret; i++)
		ret = back(ocl, runs[i].index, runs[i].nr_pages, OCL_SLOTS);
	if (ret)
		return ret;
	ret = begin(&ocl->pools, &old);
	for (size_t i = 0; i < nr_runs && !ret; i++) {
		copy_pages(ocl, runs[i].cpu, runs[i].index, runs[i].nr_pages, in);
		pages += runs[i].nr_pages;
	}
	end(&ocl->pools, &old);
	if (!ret) {
		ocl_count(&ocl->count.transfers, 1);
		ocl_count(&ocl->count.transfer_bytes, pages * ocl->page_size);
	}
	return ret;
}
