/* SPDX-License-Identifier: MIT */
/*
 * The driver's own thread. It runs while pages are away and while the table lock is
 * held, which invalidations wait for: so its stack, and with it its thread control
 * block, is safe memory, and every signal is blocked.
 */
#ifndef OPENCL_THREAD_H
#define OPENCL_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct ocl_thread {
	pthread_t id;
	void *stack;
	size_t stack_bytes;
	bool started;
};

/* 0, -ENOMEM. @stack_bytes is a multiple of 64 KiB. */
int ocl_thread_start(struct ocl_thread *thread, size_t stack_bytes, void *(*fn)(void *),
		     void *arg);

/* Wait for its end; a thread that was not started is fine. */
void ocl_thread_join(struct ocl_thread *thread);

static inline uint64_t ocl_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

#endif
