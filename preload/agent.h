/* SPDX-License-Identifier: MIT */
/*
 * The agent: a task that shares the program's memory and nothing else, and makes the
 * system calls that the monitor asks for. It is no thread of the program, which stays
 * single-threaded if it was; and no child that its wait() could see. Whoever adopts the
 * program's orphans adopts the agent: the warden, or another between the two.
 *
 * All of preload/ works without libc: any program's libc will do, and errno and the
 * rest of the thread's own memory, which the agent shares with the thread that made
 * it, are left alone.
 */
#ifndef UHMM_PRELOAD_AGENT_H
#define UHMM_PRELOAD_AGENT_H

#include "monitor/protocol.h"

/* At the lower end of its stack: see protocol.h. */
struct agent {
	int sock;		/* the program's; the agent closes its copy */
	int uffd;
	int pidfd;		/* of the program */
	int warden_pidfd;
	int warden;		/* as agent_config has it */
	int parent;		/* who adopted the agent */
	int starter;		/* pid of the first child */
	struct agent_shm *shm;
	struct agent_ready ready;	/* to be sent by the agent, when it is ready */
};

/* Start it: it sends agent->ready by itself. 0 or a negative errno. */
int agent_start(struct agent *agent);

#endif
