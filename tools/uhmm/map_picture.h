/* SPDX-License-Identifier: MIT */
/*
 * The map of a process as lines of 79 columns, and as SVG.
 */
#ifndef UHMM_MAP_PICTURE_H
#define UHMM_MAP_PICTURE_H

#include <stdio.h>

#include "monitor/window.h"

void map_text(FILE *to, const struct window_map *map);
void map_svg(FILE *to, const struct window_map *map);

#endif
