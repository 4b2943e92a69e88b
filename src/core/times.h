/* SPDX-License-Identifier: MIT */
/*
 * Times on a logarithmic scale, see struct hmm_times. Whose they are owns the lock.
 */
#ifndef UHMM_CORE_TIMES_H
#define UHMM_CORE_TIMES_H

#include <uhmm/uhmm.h>

void times_record(struct hmm_times *times, uint64_t ns);

/* The bucket of a time, and the first time that is in a later one. */
uint32_t times_bucket(uint64_t ns);
uint64_t times_bucket_end(uint32_t bucket);

#endif
