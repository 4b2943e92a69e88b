/* SPDX-License-Identifier: MIT */
#include "rates.h"

#include <string.h>

double rates_interval_s(const struct monitor_seen *seen)
{
	const struct window_view *now = seen->now, *before = seen->before;
	const uint64_t from = before ? before->now_ns : now->start_ns;

	return now->now_ns > from ? (double)(now->now_ns - from) / 1e9 : 1e-9;
}

static double per_second(uint64_t now, uint64_t before, double s)
{
	return now > before ? (double)(now - before) / s : 0;
}

/* Counters of one time less those of an earlier. */
static void subtract(struct hmm_times *times, uint32_t bucket, uint64_t now, uint64_t before)
{
	const uint64_t nr = now > before ? now - before : 0;

	times->bucket[bucket] = nr;
	times->nr += nr;
}

void rates_of_tree(const struct monitor_seen *seen, struct rates *out)
{
	static const struct window_view none;
	const struct window_view *now = seen->now, *was = seen->before ? seen->before : &none;
	const double s = rates_interval_s(seen);

	*out = (struct rates){
		.faults = per_second(now->cpu_faults, was->cpu_faults, s),
		.zero_fills = per_second(now->zero_fills, was->zero_fills, s),
		.away = per_second(now->pages_to_device, was->pages_to_device, s),
		.home = per_second(now->pages_to_system, was->pages_to_system, s),
	};
	for (uint32_t i = 0; i < HMM_TIMES_BUCKETS; i++)
		subtract(&out->times, i, now->faults.bucket[i], was->faults.bucket[i]);
	out->times.max_ns = now->faults.max_ns;
}

/* The same address space at the look before, or one that has done nothing. */
static const struct window_process *earlier(const struct monitor_seen *seen,
					    const struct window_process *process)
{
	static const struct window_process none;
	const struct window_view *before = seen->before;

	for (uint32_t i = 0; before && i < before->nr_processes; i++)
		if (before->process[i].pid == process->pid && before->process[i].id == process->id)
			return &before->process[i];
	return &none;
}

void rates_of_process(const struct monitor_seen *seen, const struct window_process *process,
		      struct rates *out)
{
	const struct window_process *was = earlier(seen, process);
	const double s = rates_interval_s(seen);

	*out = (struct rates){
		.faults = per_second(process->cpu_faults, was->cpu_faults, s),
		.zero_fills = per_second(process->zero_fills, was->zero_fills, s),
		.away = per_second(process->pages_to_device, was->pages_to_device, s),
		.home = per_second(process->pages_to_system, was->pages_to_system, s),
	};
	for (uint32_t i = 0; i < HMM_TIMES_BUCKETS; i++)
		subtract(&out->times, i, process->faults[i], was->faults[i]);
	out->times.max_ns = seen->now->faults.max_ns;
}
