/* SPDX-License-Identifier: MIT */
/*
 * One line to whoever listens. Formats by itself: vsnprintf's locale tables can be
 * away on the fault path. Knows %s, %u (uint32_t), %d (int), %x (uint64_t, hex) and
 * %l (uint64_t, decimal). Never under a lock.
 */
#ifndef UHMM_CORE_LOG_H
#define UHMM_CORE_LOG_H

#include <uhmm/uhmm.h>

struct hmm_mm;

void core_log(const struct hmm_mm *mm, enum hmm_log_level level, const char *fmt, ...);

/* "-EIO" and the like, for messages. */
const char *errno_name(int error);

#endif
