/* SPDX-License-Identifier: MIT */
/*
 * Something that the monitor's main thread waits for. Embedded in what it belongs to;
 * ready() is called by the main thread, which alone adds and removes.
 */
#ifndef UHMM_MONITOR_WATCH_H
#define UHMM_MONITOR_WATCH_H

struct watch {
	void (*ready)(struct watch *watch);
	int fd;
};

#define watch_owner(watch, type, member) \
	((type *)((char *)(watch) - offsetof(type, member)))

#endif
