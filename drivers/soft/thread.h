/* SPDX-License-Identifier: MIT */
/*
 * The device's own threads: lanes, DMA queues, the keeper, the read-ahead.
 *
 * They run while pages are away, some of them for a CPU fault that waits, so their
 * stacks (and with them their thread control blocks) are safe memory, and every
 * signal is blocked: a handler of the program's would run on that stack.
 */
#ifndef SOFT_THREAD_H
#define SOFT_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct soft_thread {
	pthread_t id;
	void *stack;
	size_t stack_bytes;
	bool started;
};

/* 0, -ENOMEM. @stack_bytes is a multiple of 64 KiB. */
int soft_thread_start(struct soft_thread *thread, size_t stack_bytes, void *(*fn)(void *),
		      void *arg);

/* Wait for its end; a thread that was not started is fine. */
void soft_thread_join(struct soft_thread *thread);

static inline uint64_t soft_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* Sleep, then spin for what a timer is too coarse for. */
void soft_wait_until(uint64_t ns);

static inline void soft_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
