/* SPDX-License-Identifier: MIT */
/*
 * What uhmm run tells of a run: at its end, as JSON or a table, and meanwhile in a line.
 */
#ifndef UHMM_REPORT_H
#define UHMM_REPORT_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "monitor/monitor.h"

/* @trace: the file that the trace of this run is in, or NULL. */
void report_json(FILE *to, char *const *program, int status, const char *trace,
		 const struct monitor_stats *stats);
void report_table(FILE *to, int status, const struct monitor_stats *stats);

/*
 * Is @file a report? Then @trace gets the name of the trace beside it, or "": it has none.
 * @file is at its beginning again where it is none.
 */
bool report_trace(FILE *file, char trace[PATH_MAX]);

/* One line on standard error, over the last one. */
void progress_line(void *ctx, const struct monitor_stats *now);
void progress_end(void);

#endif
