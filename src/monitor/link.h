/* SPDX-License-Identifier: MIT */
/*
 * A link: one address space with an agent in it.
 *
 * It begins when the agent has said that it is ready and ends with the address space:
 * at exec, exit, or when the agent is lost. Reference-counted, for a call may be under
 * way when it ends: link_call() then says -ESRCH, soon.
 */
#ifndef UHMM_MONITOR_LINK_H
#define UHMM_MONITOR_LINK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "monitor/protocol.h"
#include "sys/sys.h"

struct link {
	_Atomic uint32_t refs;
	_Atomic bool closed;
	pid_t agent;		/* immutable, as all up to lock */
	int agent_pidfd;
	int uffd;		/* -1 once somebody else owns it */
	struct agent_shm *shm;	/* here; hostile: fields are read once */
	uint64_t shm_bytes, limbo_bytes, limbo_block;
	struct agent_ready ready;

	pthread_mutex_t lock;	/* the ring */
	uint32_t submitted;
};

/*
 * Takes @uffd, @agent_pidfd and the mapping @shm, also when it fails, -ENOMEM: then
 * the agent is ended.
 */
int link_create(const struct agent_ready *ready, const struct agent_config *config, pid_t agent,
		int agent_pidfd, int uffd, struct agent_shm *shm, struct link **out);
struct link *link_get(struct link *link);
void link_put(struct link *link);		/* NULL is fine */

/* The address space is gone or given up: end the agent, which may be what keeps it. */
void link_close(struct link *link);

/* An agent that no link was made for: it is to exit. */
void link_dismiss(struct agent_shm *shm);

/* Has the agent ended, though nobody closed the link? */
bool link_lost(const struct link *link);

/* ... or is it about to: a task lets go of its memory before it is seen to have ended. */
bool link_losing(const struct link *link);

/* Is @tid, a thread of any process, in this address space? 1, 0, or why it cannot be told. */
int link_has(const struct link *link, pid_t tid);

/*
 * The same where there is no agent to compare with any more: by what is mapped where the
 * agent had its shm, which no child has got.
 */
int link_had(const struct link *link, pid_t tid);

/*
 * Have the agent make @nr calls, in order, all of them, whatever the results. Blocks;
 * any thread. 0, or -ESRCH: the agent is gone, and how far it came is unknown.
 */
int link_call(struct link *link, struct agent_call *calls, size_t nr);

#endif
