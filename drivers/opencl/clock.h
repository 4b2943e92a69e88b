/* SPDX-License-Identifier: MIT */
#ifndef OPENCL_CLOCK_H
#define OPENCL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t ocl_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

#endif
