/* SPDX-License-Identifier: MIT */
#include "clock.h"

/* What a timer of the kernel may be late by; the rest of a wait is spun. */
#define TIMER_SLACK_NS	80000ULL

void soft_wait_until(uint64_t ns)
{
	uint64_t now = soft_now_ns();

	while (now < ns) {
		if (ns - now > 2 * TIMER_SLACK_NS) {
			uint64_t left = ns - now - TIMER_SLACK_NS;
			struct timespec ts = {
				.tv_sec = (time_t)(left / 1000000000ULL),
				.tv_nsec = (long)(left % 1000000000ULL),
			};

			clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
		} else {
			soft_relax();
		}
		now = soft_now_ns();
	}
}
