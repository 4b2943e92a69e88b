// SPDX-License-Identifier: MIT
#include "monitor/view.h"

#include <stdio.h>
#include <string.h>

#include "sys/process.h"
#include "sys/sys.h"

#define LOOKED_AT	1024u		/* processes; the largest of them are shown */

void view_policy(struct window_view *view, const struct policy *policy)
{
	snprintf(view->policy, sizeof(view->policy), "%s", policy->ops ? policy->ops->name : "none");
	view->dram_bytes = policy->dram_bytes;
}

void view_totals(struct window_view *view, const struct monitor_stats *stats)
{
	view->now_ns = sys_now_ns();
	view->nr_seen = stats->processes;
	view->nr_plain = stats->plain_processes;
	view->changes = stats->changes;
	view->resident_bytes = stats->resident_bytes;
	view->pages_to_device = stats->pages.pages_to_device;
	view->pages_to_system = stats->pages.pages_to_system;
	view->cpu_faults = stats->pages.cpu_faults;
	view->zero_fills = stats->pages.zero_fills;
	view->poisoned_pages = stats->pages.poisoned_pages;
	view->lost_pages = stats->pages.lost_pages;
	view->faults = stats->faults;
}

void view_device(struct window_view *view, const struct monitor_stats *stats, uint64_t bytes)
{
	struct window_device *device = &view->device[view->nr_devices++];

	snprintf(device->name, sizeof(device->name), "%s", stats->device);
	device->bytes = bytes;
	device->used_bytes = stats->device_bytes;
	device->peak_bytes = stats->device_peak;
	device->pages_in = stats->pages.pages_to_device;
	device->pages_out = stats->pages.pages_to_system;
}

static void view_process(struct window_process *out, const struct tree_entry *entry)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	struct hmm_times times = { .size = sizeof(times) };
	struct sys_memory memory;

	(void)sys_memory_of(entry->pid, &memory);
	*out = (struct window_process){
		.pid = entry->pid,
		.resident_bytes = memory.resident,
	};
	memcpy(out->name, entry->name, sizeof(out->name));
	if (!entry->space)
		return;
	out->id = entry->space->id;
	if (!entry->space->mm || hmm_mm_stats(entry->space->mm, &stats) ||
	    hmm_mm_fault_times(entry->space->mm, &times))
		return;
	out->managed = 1;
	out->device_bytes = stats.device_pages * sys_page_size();
	out->pages_to_device = stats.pages_to_device;
	out->pages_to_system = stats.pages_to_system;
	out->cpu_faults = stats.cpu_faults;
	out->zero_fills = stats.zero_fills;
	for (unsigned int i = 0; i < HMM_TIMES_BUCKETS; i++)
		out->faults[i] = (uint32_t)times.bucket[i];
}

static uint64_t size_of(const struct window_process *process)
{
	return process->resident_bytes + process->device_bytes;
}

/* Where it belongs by its size; the last one falls out where there is no room. */
static void insert(struct window_view *view, const struct window_process *process)
{
	unsigned int at = view->nr_processes;

	if (at == WINDOW_PROCESSES && size_of(&view->process[at - 1]) >= size_of(process))
		return;
	if (at < WINDOW_PROCESSES)
		view->nr_processes++;
	else
		at--;
	for (; at && size_of(&view->process[at - 1]) < size_of(process); at--)
		view->process[at] = view->process[at - 1];
	view->process[at] = *process;
}

void view_processes(struct window_view *view, struct tree *tree)
{
	static struct tree_entry entries[LOOKED_AT];
	struct window_process process;

	view->nr_alive = tree_list(tree, entries, LOOKED_AT);
	for (unsigned int i = 0; i < view->nr_alive; i++) {
		view_process(&process, &entries[i]);
		space_put(entries[i].space);
		insert(view, &process);
	}
}
