/* SPDX-License-Identifier: MIT */
/* The device's thread, and how others have something done on it. */
#ifndef OPENCL_WORKER_H
#define OPENCL_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct hmm_opencl;

typedef int64_t (*ocl_job)(struct hmm_opencl *ocl, void *arg);

struct ocl_worker {
	struct hmm_safe_thread *thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	ocl_job job;		/* to do, or being done */
	void *arg;
	bool busy, done, exiting;
	int64_t result;
};

int ocl_worker_start(struct hmm_opencl *ocl);
void ocl_worker_stop(struct ocl_worker *worker);

/*
 * Run @job on the worker and wait; one at a time. It reads and writes @arg as any thread
 * would, but not with the table lock held: that memory may be away.
 */
int64_t ocl_call(struct hmm_opencl *ocl, ocl_job job, void *arg);

#endif
