/* SPDX-License-Identifier: MIT */
/*
 * Joining: the program gets an agent, and the monitor what it needs of the program.
 */
#ifndef UHMM_PRELOAD_JOIN_H
#define UHMM_PRELOAD_JOIN_H

#include "monitor/protocol.h"

#define JOIN_AGENT	1	/* there is an agent */
#define JOIN_FORKS	2	/* children made by fork are to join too */

/*
 * Join the monitor that listens at @path; returns when it manages the program. @entry:
 * how this code came into the program, or NULL: it was loaded by its linker. A set of
 * JOIN_*.
 */
int join(const char *path, const struct agent_entry *entry);

/* In a child of a fork: the parent's userfaultfd is nothing to it. */
void join_leave_parent(void);

/*
 * The library's ELF entry point, for a program into which the monitor has written it.
 * Raises SIGTRAP when it is done.
 */
void enter(struct agent_entry *entry) __attribute__((noreturn));

#endif
