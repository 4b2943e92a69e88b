/* SPDX-License-Identifier: MIT */
/*
 * What the files with the hooks share: a hook is a function of libc's that the program's
 * calls, and those of its libraries, come to first.
 */
#ifndef DMIRROR_HOOKS_H
#define DMIRROR_HOOKS_H

#include <fcntl.h>
#include <stdarg.h>

#define HOOK	__attribute__((visibility("default")))

/* The other bit of O_TMPFILE says something by itself. */
#define TMPFILE	(O_TMPFILE & ~O_DIRECTORY)

/* The mode is there only if the flags say so. */
#define MODE(flags, mode)						\
	do {								\
		va_list ap_;						\
									\
		(mode) = 0;						\
		if ((flags) & (O_CREAT | TMPFILE)) {			\
			va_start(ap_, flags);				\
			(mode) = va_arg(ap_, mode_t);			\
			va_end(ap_);					\
		}							\
	} while (0)

#endif
