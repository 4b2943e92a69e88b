/* SPDX-License-Identifier: MIT */
/*
 * The monitors of this user that run now, and what they show of themselves.
 */
#ifndef UHMM_MONITORS_H
#define UHMM_MONITORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "monitor/window.h"

struct monitor_seen {
	char path[108];			/* of its window */
	int sock;
	struct window_view *now, *before;	/* before: NULL at the first look */
	bool asked;			/* and has not answered in time: now is old */
};

struct monitors {
	pid_t only;			/* 0: all; else that monitor, or the one with that process */
	struct monitor_seen *seen;
	size_t nr;
	bool foreign;			/* one speaks another version */
};

void monitors_open(struct monitors *m, pid_t only);

/* The map of process @pid, by whichever monitor has it: to free(). NULL: none has. */
struct window_map *monitors_map(struct monitors *m, pid_t pid);

/* Ask each that is there. Takes half a second at most, for those that do not answer. */
void monitors_look(struct monitors *m);
void monitors_close(struct monitors *m);

#endif
