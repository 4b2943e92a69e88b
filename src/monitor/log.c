// SPDX-License-Identifier: MIT
#include "monitor/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "sys/sys.h"

static enum say_level loudest = SAY_WARNING;

void say_up_to(enum say_level level)
{
	loudest = level;
}

void say(enum say_level level, const char *fmt, ...)
{
	char line[512] = "uhmm run: ";
	va_list args;

	if (level > loudest)
		return;
	va_start(args, fmt);
	vsnprintf(line + 10, sizeof(line) - 10, fmt, args);
	va_end(args);
	sys_write_stderr(line);
}
