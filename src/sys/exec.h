/* SPDX-License-Identifier: MIT */
/*
 * Which program an announced execve() or execveat() will start.
 */
#ifndef UHMM_SYS_EXEC_H
#define UHMM_SYS_EXEC_H

#include <stdbool.h>

#include <sys/types.h>

#include "sys/seccomp.h"

/*
 * Will it, as far as can be told now, be one that no dynamic linker starts (sys/image.h)
 * and that gives its user no other rights? Reads the caller's memory, which may wait for
 * a fault to be served.
 */
bool sys_exec_is_static(const struct sys_notif *notif);

/* Is @pid such a program now? */
bool sys_process_is_static(pid_t pid);

#endif
