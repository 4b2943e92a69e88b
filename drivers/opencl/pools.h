/* SPDX-License-Identifier: MIT */
/*
 * The device's memory where it is the CPU's: the pools lie in one memfd that engine and driver
 * have mapped, so that a copy is one memcpy and no request.
 *
 * OpenCL lets the host touch a buffer's memory while it is mapped. The engine keeps the pools
 * mapped but for the requests in which the device works on them. `lock` is held for those as
 * writer, for copies as reader, and over no other wait.
 *
 * What an engine that ends leaves here comes home, unless it ended in such a request: each is
 * given all pools, so that all pages count as lost then.
 */
#ifndef OPENCL_POOLS_H
#define OPENCL_POOLS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>

#include "wire.h"

struct hmm_opencl;

struct ocl_pools {
	char *base;		/* of page 0; NULL: the device makes the copies */
	size_t bytes;
	/* By slot: it has memory. To touch it before that could raise SIGBUS. */
	_Atomic bool *backed;
	pthread_rwlock_t lock;
	bool lost;		/* under lock */
};

/*
 * Have the engine make the pools, of @slots slots; in memory that both see if it can and not
 * @staged. 0; -ENOMEM, -EIO: the worker's request says why.
 */
int ocl_pools_open(struct hmm_opencl *ocl, uint64_t slots, bool staged);
void ocl_pools_close(struct hmm_opencl *ocl);

/* One request of the worker's in which the device works on the pools. */
int ocl_pools_ask(struct hmm_opencl *ocl, enum ocl_op op);

/* What @op asks for with @slot's runs and staging, a copy; in place. */
int ocl_pools_copy(struct hmm_opencl *ocl, unsigned int slot, enum ocl_op op);

/* Runs of the core's, to the device or from it; in place. */
int ocl_pools_transfer(struct hmm_opencl *ocl, const struct hmm_copy_run *runs, size_t nr_runs,
		       bool in);

#endif
