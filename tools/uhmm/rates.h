/* SPDX-License-Identifier: MIT */
/*
 * What happened per second between two looks at a monitor; at the first one, since the
 * program was started.
 */
#ifndef UHMM_RATES_H
#define UHMM_RATES_H

#include "monitors.h"

struct rates {
	double faults, zero_fills;	/* per second ... */
	double away, home;		/* ... pages */
	struct hmm_times times;		/* of faults, in that time */
};

double rates_interval_s(const struct monitor_seen *seen);

/* Of the whole tree, and of one process of seen->now. */
void rates_of_tree(const struct monitor_seen *seen, struct rates *out);
void rates_of_process(const struct monitor_seen *seen, const struct window_process *process,
		      struct rates *out);

#endif
