/* SPDX-License-Identifier: MIT */
/*
 * The warden: a process between the monitor and the program.
 *
 *	uhmm run (monitor) --- warden --- program --- its children
 *	                          \------ agents, orphans
 *
 * It is the parent of the program and of all that the program's processes leave
 * behind, and keeps nothing but a copy of the filter's listener. So when the monitor
 * is gone, nobody gets ENOSYS from a call that nobody answers any more; nobody can
 * fork either; and the warden ends everything below it, and removes the files. When
 * the warden is gone the monitor inherits its children and ends them. Each agent
 * watches the warden, too.
 */
#ifndef UHMM_MONITOR_WARDEN_H
#define UHMM_MONITOR_WARDEN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum warden_event {
	WARDEN_GO,		/* from the monitor, once: its files are there */
	WARDEN_FILTER,		/* value: 0 and a descriptor, the listener; or why there is none */
	WARDEN_STARTED,		/* value: the program's pid; it has become the program */
	WARDEN_FAILED,		/* value: negative errno, why it could not */
	WARDEN_ENDED,		/* value: the program's wait status */
	WARDEN_EMPTY,		/* nobody is left; the warden ends */
};

struct warden_message {
	int32_t event;
	int32_t value;
};

struct launch {
	char *const *argv;
	bool filter;		/* false: plain, as if uhmm were not there */
	bool new_memory;	/* announce mmap of memory where nothing was */
	const char *preload;	/* path of a link to the agent's library, in the monitor's directory */
	const char *socket;	/* of the monitor's socket, there too */
	const char *window;	/* of the one where others look in */
	const char *dir;
	const struct sys_signals *signals;	/* the program's */
};

struct warden {
	pid_t pid;
	int sock;
};

/*
 * Start it; told to go, it starts the program. From the start it removes the files that
 * are named, whether or not they are there yet, when the monitor is gone. Called while
 * the process has one thread. Inherited descriptors are the program's and are closed
 * here; standard input and output too.
 */
int warden_start(const struct launch *launch, struct warden *out);
int warden_go(const struct warden *warden);

/* The next of its messages; *@fd is -1 or the listener. -EPIPE: the warden is gone. */
int warden_receive(const struct warden *warden, struct warden_message *msg, int *fd);

#endif
