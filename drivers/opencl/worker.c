/* SPDX-License-Identifier: MIT */
#include "worker.h"

#include "device.h"

#define WORKER_STACK	(256UL << 10)

static void *worker_main(void *arg)
{
	struct hmm_opencl *ocl = arg;
	struct ocl_worker *worker = &ocl->worker;
	int64_t ret;

	pthread_mutex_lock(&worker->lock);
	while (!worker->exiting) {
		if (!worker->job || worker->done) {
			pthread_cond_wait(&worker->changed, &worker->lock);
			continue;
		}
		pthread_mutex_unlock(&worker->lock);
		ret = worker->job(ocl, worker->arg);
		pthread_mutex_lock(&worker->lock);
		worker->result = ret;
		worker->done = true;
		pthread_cond_broadcast(&worker->changed);
	}
	pthread_mutex_unlock(&worker->lock);
	return NULL;
}

int ocl_worker_start(struct hmm_opencl *ocl)
{
	struct ocl_worker *worker = &ocl->worker;

	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->changed, NULL);
	return hmm_safe_thread_start(worker_main, ocl, WORKER_STACK, &worker->thread);
}

void ocl_worker_stop(struct ocl_worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	worker->exiting = true;
	pthread_cond_broadcast(&worker->changed);
	pthread_mutex_unlock(&worker->lock);
	hmm_safe_thread_join(worker->thread);
	pthread_cond_destroy(&worker->changed);
	pthread_mutex_destroy(&worker->lock);
}

int64_t ocl_call(struct hmm_opencl *ocl, ocl_job job, void *arg)
{
	struct ocl_worker *worker = &ocl->worker;
	int64_t ret;

	pthread_mutex_lock(&worker->lock);
	while (worker->busy)
		pthread_cond_wait(&worker->changed, &worker->lock);
	worker->busy = true;
	worker->done = false;
	worker->arg = arg;
	worker->job = job;
	pthread_cond_broadcast(&worker->changed);
	while (!worker->done)
		pthread_cond_wait(&worker->changed, &worker->lock);
	ret = worker->result;
	worker->job = NULL;
	worker->busy = false;
	pthread_cond_broadcast(&worker->changed);
	pthread_mutex_unlock(&worker->lock);
	return ret;
}
