/* SPDX-License-Identifier: MIT */
/*
 * Where the memory of one process is, mapping by mapping: a struct window_map. Main thread.
 */
#ifndef UHMM_MONITOR_MAP_H
#define UHMM_MONITOR_MAP_H

#include "monitor/tree.h"
#include "monitor/window.h"

/* Takes some 0.1 us a page, of 4 million pages at most. */
void map_process(struct window_map *map, struct tree *tree, pid_t pid);

#endif
