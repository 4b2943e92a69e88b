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
	bool gone;			/* during a look: cannot be asked any more */
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

/*
 * Ask each that is there. Those that do not answer are waited for up to @patience_ms; not
 * at all when the one that is wanted has.
 */
void monitors_look(struct monitors *m, unsigned int patience_ms);
void monitors_close(struct monitors *m);

#endif
