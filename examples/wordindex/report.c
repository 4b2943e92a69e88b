/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAP_COLUMNS	64
#define MAP_CELLS	(4 * MAP_COLUMNS)

/* Pages by enum hmm_place. */
struct census {
	uint64_t nr[HMM_PLACE_FLIGHT + 1];
};

static void census_add(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
		       struct census *census)
{
	static uint8_t places[4096];
	size_t page_size = hmm_page_size(), nr;

	for (; start < end; start += nr * page_size) {
		nr = (end - start) / page_size;
		if (nr > sizeof(places))
			nr = sizeof(places);
		if (hmm_residency(mm, start, start + nr * page_size, places))
			return;
		for (size_t i = 0; i < nr; i++)
			census->nr[places[i] <= HMM_PLACE_FLIGHT ? places[i] : 0]++;
	}
}

struct look {
	const char *colour;
	char letter;
};

static const struct look look_empty = { "\033[90m", ' ' };
static const struct look look_system = { "\033[30;42m", '.' };
static const struct look look_mixed = { "\033[30;43m", '+' };
static const struct look look_device = { "\033[97;45m", '#' };

/* Mixed is said where both hold more than a sixteenth. */
static const struct look *look_of(const struct census *census)
{
	uint64_t device = census->nr[HMM_PLACE_DEVICE] + census->nr[HMM_PLACE_EXCLUSIVE];
	uint64_t all = device + census->nr[HMM_PLACE_SYSTEM] + census->nr[HMM_PLACE_FLIGHT];

	if (!all)
		return &look_empty;
	if (device * 16 <= all)
		return &look_system;
	return device * 16 >= all * 15 ? &look_device : &look_mixed;
}

static void print_look(const struct report *report, const struct look *look, const char *text)
{
	if (report->colour)
		printf("%s%c\033[0m%s", look->colour, look->letter, text);
	else
		printf("%c%s", look->letter, text);
}

static uint64_t map_chunk(const struct ranges *ranges)
{
	uint64_t chunk = hmm_page_size();

	while (chunk * MAP_CELLS < ranges_bytes(ranges))
		chunk *= 2;
	return chunk;
}

void report_map(const struct report *report, const char *title)
{
	uint64_t chunk = map_chunk(report->ranges);
	unsigned int column;

	if (report->quiet)
		return;
	printf("\n%s (one character is %" PRIu64 " KiB: ", title, chunk >> 10);
	print_look(report, &look_system, " system memory, ");
	print_look(report, &look_device, " device memory, ");
	print_look(report, &look_mixed, " both)\n");
	for (unsigned int i = 0; i < report->ranges->nr; i++) {
		const struct range *range = &report->ranges->range[i];
		uintptr_t at = range->start, end;

		for (column = 0; at < range->end; at = end, column++) {
			struct census census = { 0 };

			if (column % MAP_COLUMNS == 0)
				printf("%s  %14" PRIxPTR " ", column ? "\n" : "", at);
			end = range->end - at < chunk ? range->end : at + chunk;
			census_add(report->mm, at, end, &census);
			print_look(report, look_of(&census), "");
		}
		printf("\n");
	}
	printf("\n");
	fflush(stdout);
}

void report_init(struct report *report, struct hmm_mm *mm, struct hmm_soft *soft,
		 const struct ranges *ranges, bool quiet)
{
	const char *no_color = getenv("NO_COLOR");

	memset(report, 0, sizeof(*report));
	report->mm = mm;
	report->soft = soft;
	report->ranges = ranges;
	report->quiet = quiet;
	report->colour = isatty(STDOUT_FILENO) && !(no_color && *no_color);
	report->all_same = true;
	report->mm_before.size = sizeof(report->mm_before);
	report->soft_before.size = sizeof(report->soft_before);
}

void report_head(const struct report *report)
{
	if (report->quiet)
		return;
	printf("%-40s %13s %13s %15s %8s %6s\n", "", "where, in MiB", "faults by the",
	       "pages moved", "time", "same");
	printf("%-40s %6s %6s %6s %6s %7s %7s %8s %6s\n", "step", "system", "device",
	       "device", "CPU", "to dev.", "home", "ms", "answer");
	fflush(stdout);
}

/* A closed device leaves its last counters standing. */
static void read_counters(const struct report *report, struct hmm_stats *mm,
			  struct hmm_soft_stats *soft)
{
	*mm = report->mm_before;
	*soft = report->soft_before;
	if (hmm_mm_stats(report->mm, mm))
		*mm = report->mm_before;
	if (report->soft && hmm_soft_stats(report->soft, soft))
		*soft = report->soft_before;
}

void report_begin(struct report *report)
{
	struct hmm_stats mm;
	struct hmm_soft_stats soft;

	read_counters(report, &mm, &soft);
	report->mm_before = mm;
	report->soft_before = soft;
	clock_gettime(CLOCK_MONOTONIC, &report->began);
}

struct step report_end(struct report *report, const char *name)
{
	struct census census = { 0 };
	struct hmm_soft_stats soft;
	struct hmm_stats mm;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	read_counters(report, &mm, &soft);
	for (unsigned int i = 0; i < report->ranges->nr; i++)
		census_add(report->mm, report->ranges->range[i].start,
			   report->ranges->range[i].end, &census);
	return (struct step){
		.name = name,
		.ms = (now.tv_sec - report->began.tv_sec) * 1e3 +
		      (now.tv_nsec - report->began.tv_nsec) / 1e6,
		.system_pages = census.nr[HMM_PLACE_SYSTEM],
		.device_pages = census.nr[HMM_PLACE_DEVICE] + census.nr[HMM_PLACE_EXCLUSIVE],
		.device_faults = soft.device_faults - report->soft_before.device_faults,
		.cpu_faults = mm.cpu_faults - report->mm_before.cpu_faults,
		.pages_in = mm.pages_to_device - report->mm_before.pages_to_device,
		.pages_out = mm.pages_to_system - report->mm_before.pages_to_system,
	};
}

void report_print(struct report *report, const struct step *step, bool same)
{
	double mib = hmm_page_size() / 1048576.0;

	report->all_same &= same;
	if (report->quiet && same)
		return;
	printf("%-40s %6.1f %6.1f %6" PRIu64 " %6" PRIu64 " %7" PRIu64 " %7" PRIu64
	       " %8.1f %6s\n", step->name, step->system_pages * mib,
	       step->device_pages * mib, step->device_faults, step->cpu_faults,
	       step->pages_in, step->pages_out, step->ms, same ? "yes" : "NO");
	fflush(stdout);
}
