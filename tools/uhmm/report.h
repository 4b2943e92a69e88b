/* SPDX-License-Identifier: MIT */
/*
 * What uhmm run tells of a run: at its end, as JSON or a table, and meanwhile in a line.
 */
#ifndef UHMM_REPORT_H
#define UHMM_REPORT_H

#include <stdio.h>

#include "monitor/monitor.h"

void report_json(FILE *to, char *const *program, int status, const struct monitor_stats *stats);
void report_table(FILE *to, int status, const struct monitor_stats *stats);

/* One line on standard error, over the last one. */
void progress_line(void *ctx, const struct monitor_stats *now);
void progress_end(void);

#endif
