// SPDX-License-Identifier: MIT
/*
 * A program whose dynamic linker has loaded this: it joins before main(), and again in
 * each child of a fork.
 */
#include <stdbool.h>
#include <stddef.h>

#include "join.h"

/* libc's, where it has them: nothing here needs a particular libc, or one at all. */
extern char **environ __attribute__((weak));
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
			     void *dso) __attribute__((weak));
extern int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
	__attribute__((weak));

/* What compilers put into every other library: names it to __register_atfork(). */
__attribute__((visibility("hidden"))) void *__dso_handle = &__dso_handle;

static char path[AGENT_PATH];	/* of the socket; the program may change its environment */

static void forked(void)
{
	join_leave_parent();
	join(path, NULL);
}

static bool find_monitor(void)
{
	static const char name[] = AGENT_SOCKET_ENV "=";
	unsigned long i;

	if (!&environ || !environ)
		return false;
	for (char **env = environ; *env; env++) {
		for (i = 0; name[i] && (*env)[i] == name[i]; i++)
			;
		if (name[i])
			continue;
		for (unsigned long j = 0; j + 1 < sizeof(path) && (*env)[i + j]; j++)
			path[j] = (*env)[i + j];
		return true;
	}
	return false;
}

__attribute__((constructor)) static void start(void)
{
	if (!find_monitor() || !(join(path, NULL) & JOIN_FORKS))
		return;
	if (__register_atfork)
		__register_atfork(NULL, NULL, forked, &__dso_handle);
	else if (pthread_atfork)
		pthread_atfork(NULL, NULL, forked);
}
