/* SPDX-License-Identifier: MIT */
/*
 * The live view of uhmm top, on a terminal.
 */
#ifndef UHMM_SCREEN_H
#define UHMM_SCREEN_H

#include "../monitors.h"

/* Until q, Ctrl-C or the terminal's end. 0, or an exit status with its reason said. */
int screen_run(struct monitors *monitors, double interval_s);

#endif
