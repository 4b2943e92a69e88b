/* SPDX-License-Identifier: MIT */
#include "core/times.h"

#define STEP_BITS	3u			/* eight steps to each power of two */
#define STEPS		(1u << STEP_BITS)

uint32_t times_bucket(uint64_t ns)
{
	uint32_t power, bucket;

	if (ns < STEPS)
		return (uint32_t)ns;
	power = 63 - (uint32_t)__builtin_clzll(ns);
	bucket = (power - STEP_BITS + 1) * STEPS + (uint32_t)(ns >> (power - STEP_BITS) & (STEPS - 1));
	return bucket < HMM_TIMES_BUCKETS ? bucket : HMM_TIMES_BUCKETS - 1;
}

uint64_t times_bucket_end(uint32_t bucket)
{
	const uint32_t next = bucket + 1;

	if (next == HMM_TIMES_BUCKETS)
		return UINT64_MAX;
	if (next < STEPS)
		return next;
	return (uint64_t)(STEPS + next % STEPS) << (next / STEPS - 1);
}

void times_record(struct hmm_times *times, uint64_t ns)
{
	times->nr++;
	times->sum_ns += ns;
	if (ns > times->max_ns)
		times->max_ns = ns;
	times->bucket[times_bucket(ns)]++;
}

void hmm_times_add(struct hmm_times *sum, const struct hmm_times *one)
{
	sum->nr += one->nr;
	sum->sum_ns += one->sum_ns;
	if (one->max_ns > sum->max_ns)
		sum->max_ns = one->max_ns;
	for (uint32_t i = 0; i < HMM_TIMES_BUCKETS; i++)
		sum->bucket[i] += one->bucket[i];
}

uint64_t hmm_times_ns(const struct hmm_times *times, uint32_t permille)
{
	uint64_t seen = 0, end;

	if (permille >= 1000)
		return times->max_ns;
	for (uint32_t i = 0; i < HMM_TIMES_BUCKETS; i++) {
		seen += times->bucket[i];
		if (!seen || seen * 1000 < times->nr * permille)
			continue;
		end = times_bucket_end(i) - 1;
		return end < times->max_ns ? end : times->max_ns;
	}
	return times->max_ns;
}
