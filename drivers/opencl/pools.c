/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "pools.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

#define BULK_BYTES	(1UL << 20)

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

/* Waiting launches first: reads of a busy program would keep them out for good. */
static void lock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
#ifdef __GLIBC__
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
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
	pthread_rwlock_wrlock(&pools->lock);
	ret = ocl_channel_ask(&ocl->channel, OCL_WORKER_SLOT, op);
	/* relaxed: nothing but the engine's own words, and it has answered or is gone */
	if (atomic_load_explicit(&ocl->channel.process.wire->at_work, memory_order_relaxed))
		pools->lost = true;
	pthread_rwlock_unlock(&pools->lock);
	return ret;
}

/* Memory for the slots of a run, or an error. Nothing goes to a device that is no more. */
static int back(struct hmm_opencl *ocl, uint64_t index, uint64_t nr)
{
	_Atomic bool *backed = ocl->pools.backed;
	int ret = ocl_channel_lost(&ocl->channel) ? -EIO : 0;

	for (uint64_t s = index / ocl->memory.block_pages;
	     s <= (index + nr - 1) / ocl->memory.block_pages && !ret; s++) {
		unsigned int slot;

		if (atomic_load_explicit(&backed[s], memory_order_relaxed))
			continue;
		slot = ocl_channel_get(&ocl->channel);
		ocl_request(&ocl->channel, slot)->a[0] = s;
		ret = ocl_channel_ask(&ocl->channel, slot, OCL_BACK);
		ocl_channel_put(&ocl->channel, slot);
		if (!ret)
			atomic_store_explicit(&backed[s], true, memory_order_relaxed);
	}
	return ret;
}

static int begin(struct ocl_pools *pools)
{
	pthread_rwlock_rdlock(&pools->lock);
	return pools->lost ? -EIO : 0;
}

static void end(struct ocl_pools *pools)
{
	pthread_rwlock_unlock(&pools->lock);
}

int ocl_pools_copy(struct hmm_opencl *ocl, enum ocl_op op, const struct ocl_run *runs,
		   uint32_t nr_runs, char *staging)
{
	const size_t page = ocl->page_size;
	char *base = ocl->pools.base;
	int ret = 0;

	for (uint32_t i = 0; i < nr_runs && op != OCL_COPY_OUT && !ret; i++)
		ret = back(ocl, runs[i].index, runs[i].nr);
	if (ret)
		return ret;
	ret = begin(&ocl->pools);
	for (uint32_t i = 0; i < nr_runs && !ret; i++) {
		char *at = base + runs[i].index * page;
		size_t bytes = runs[i].nr * page;

		if (op == OCL_COPY_OUT)
			memcpy(staging + runs[i].at * page, at, bytes);
		else if (op == OCL_COPY_WITHIN)
			memmove(at, base + runs[i].at * page, bytes);
		else if (runs[i].at == OCL_ZERO)
			memset(at, 0, bytes);
		else
			memcpy(at, staging + runs[i].at * page, bytes);
	}
	end(&ocl->pools);
	return ret;
}

/* What does not fit into a cache goes past it. */
static void copy(void *to, const void *from, size_t bytes)
{
	if (bytes > BULK_BYTES)
		hmm_bulk_copy(to, from, bytes);
	else
		memcpy(to, from, bytes);
}

int ocl_pools_transfer(struct hmm_opencl *ocl, const struct hmm_copy_run *runs, size_t nr_runs,
		       bool in)
{
	const size_t page = ocl->page_size;
	uint64_t pages = 0;
	int ret = 0;

	for (size_t i = 0; i < nr_runs && in && !ret; i++)
		ret = back(ocl, runs[i].index, runs[i].nr_pages);
	if (ret)
		return ret;
	ret = begin(&ocl->pools);
	for (size_t i = 0; i < nr_runs && !ret; i++) {
		char *at = ocl->pools.base + runs[i].index * page;

		if (!in)
			copy(runs[i].cpu, at, runs[i].nr_pages * page);
		else if (runs[i].cpu)
			copy(at, runs[i].cpu, runs[i].nr_pages * page);
		else
			memset(at, 0, runs[i].nr_pages * page);
		pages += runs[i].nr_pages;
	}
	end(&ocl->pools);
	if (!ret) {
		ocl_count(&ocl->count.transfers, 1);
		ocl_count(&ocl->count.transfer_bytes, pages * page);
	}
	return ret;
}
