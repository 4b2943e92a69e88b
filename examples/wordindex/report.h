/* SPDX-License-Identifier: MIT */
/* What the reader of the demonstration sees: one table, and maps of the addresses. */
#ifndef WORDINDEX_REPORT_H
#define WORDINDEX_REPORT_H

#include <stdbool.h>
#include <time.h>

#include <uhmm/soft.h>

#include "ranges.h"

struct report {
	struct hmm_mm *mm;
	struct hmm_soft *soft;		/* NULL once it is closed */
	const struct ranges *ranges;
	bool quiet;
	bool colour;
	bool all_same;			/* no step has differed */
	struct timespec began;		/* the step */
	struct hmm_stats mm_before;	/* the counters when it began */
	struct hmm_soft_stats soft_before;
};

/* A step that is over: what it did to the counters, and where the pages were then. */
struct step {
	const char *name;
	double ms;
	uint64_t system_pages, device_pages;
	uint64_t device_faults, cpu_faults, pages_in, pages_out;
};

void report_init(struct report *report, struct hmm_mm *mm, struct hmm_soft *soft,
		 const struct ranges *ranges, bool quiet);

/* One character for each chunk of the index's ranges. */
void report_map(const struct report *report, const char *title);

void report_head(const struct report *report);
void report_begin(struct report *report);
struct step report_end(struct report *report, const char *name);
void report_print(struct report *report, const struct step *step, bool same);

#endif
