/* SPDX-License-Identifier: MIT */
/*
 * The injector: gives programs an agent that no dynamic linker would load one for.
 *
 *	static program		stopped at its first instruction
 *	its forked children	stopped at theirs: no handler of libc's runs in them
 *
 * Each is done by a thread of its own, which traces it for about a millisecond: the
 * agent's library is written into it, made to join as any other does, and all is put
 * back as it was. Where it cannot be traced (a debugger does, or the system forbids it)
 * it runs plain. Dynamic programs are never stopped.
 */
#ifndef UHMM_MONITOR_INJECTOR_H
#define UHMM_MONITOR_INJECTOR_H

#include <stdbool.h>

#include "monitor/protocol.h"
#include "sys/image.h"
#include "sys/seccomp.h"

/* Immutable once opened, and never freed: its threads may outlive whoever started them. */
struct injector {
	struct sys_image image;
	const char *path;		/* of the monitor's socket, once that is there */
	const struct agent_config *config;	/* what agents are told */
	int listener;			/* set before the first call */
};

/* @preload: the agent's library, @path: the monitor's socket. 0, or a negative errno. */
int injector_open(struct injector *injector, const char *preload, const char *path,
		  const struct agent_config *config);

/*
 * An announced execve or execveat. True: it starts a program that is to get an agent,
 * and is let go on from here. Any thread; may wait for a fault of the caller's to be
 * served.
 */
bool injector_exec(const struct injector *injector, const struct sys_notif *notif);

/*
 * An announced fork, in a program whose children do not come by themselves; its
 * userfaultfd has number @uffd there. True: the fork is let go on from here. Any thread.
 */
bool injector_fork(const struct injector *injector, const struct sys_notif *notif, int uffd);

#endif
