/* SPDX-License-Identifier: MIT */
/*
 * The device's clock, and waiting by it.
 */
#ifndef SOFT_CLOCK_H
#define SOFT_CLOCK_H

#include <stdint.h>
#include <time.h>

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
