/* SPDX-License-Identifier: MIT */
/*
 * What is seen through the window: the parts of a struct window_view. Main thread.
 */
#ifndef UHMM_MONITOR_VIEW_H
#define UHMM_MONITOR_VIEW_H

#include "monitor/monitor.h"
#include "monitor/policy.h"
#include "monitor/tree.h"
#include "monitor/window.h"

void view_policy(struct window_view *view, const struct policy *policy);
void view_totals(struct window_view *view, const struct monitor_stats *stats);

/* The one device, that has @bytes. */
void view_device(struct window_view *view, const struct monitor_stats *stats, uint64_t bytes);

/* The largest processes first, as many as there is room for. */
void view_processes(struct window_view *view, struct tree *tree);

#endif
