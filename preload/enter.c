// SPDX-License-Identifier: MIT
/*
 * A program without a dynamic linker, into which the monitor has written this library.
 * No libc is there, nor anything else outside of the library, and the thread stands where
 * it stood, with all its signals blocked.
 */
#include <signal.h>
#include <unistd.h>

#include "join.h"
#include "sys/raw.h"

/* The monitor waits for the signal, and puts all back. */
__attribute__((used)) void enter(struct agent_entry *entry)
{
	if (entry->inherited >= 0)
		sys_raw(SYS_close, entry->inherited, 0, 0, 0, 0, 0);
	entry->joined = (join(entry->path, entry) & JOIN_AGENT) != 0;
	entry->done = 1;
	for (;;)
		sys_raw(SYS_tgkill, sys_raw(SYS_getpid, 0, 0, 0, 0, 0, 0),
			sys_raw(SYS_gettid, 0, 0, 0, 0, 0, 0), SIGTRAP, 0, 0, 0);
}
