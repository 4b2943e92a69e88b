/* SPDX-License-Identifier: MIT */
/*
 * What uhmm says while a program runs: whole lines on standard error, nothing unless
 * something is wrong or was asked for.
 */
#ifndef UHMM_MONITOR_LOG_H
#define UHMM_MONITOR_LOG_H

enum say_level {
	SAY_ERROR,
	SAY_WARNING,
	SAY_DETAIL,	/* -v */
};

/* The highest level that is said. Set before any thread is started. */
void say_up_to(enum say_level level);

/* One line, "uhmm run: " before it, in one write. Any thread. */
void say(enum say_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
