/* SPDX-License-Identifier: MIT */
/*
 * The monitor: what `uhmm run` is. It starts the program, hears of each change of a
 * mapping in its tree of processes, and has an agent in each of their address spaces.
 *
 *	main thread	watches processes, agents at the door, signals, the clock
 *	listeners	answer the calls that the filter announces
 *	policy		has pages migrate
 *	handlers	the core's: serve the faults of all of the tree
 *
 * A call that it cannot answer any more never goes on by itself: see warden.h for what
 * happens when it dies.
 */
#ifndef UHMM_MONITOR_MONITOR_H
#define UHMM_MONITOR_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include <uhmm/uhmm.h>

#include "monitor/policy.h"

/* Totals over the tree. */
struct monitor_stats {
	double elapsed_s;
	uint64_t processes;
	uint64_t plain_processes;	/* ... of them without an agent */
	uint64_t changes;		/* calls that were announced */
	uint64_t resident_bytes;	/* private anonymous memory in RAM, sampled */
	uint64_t resident_peak;
	uint64_t device_bytes, device_peak;
	struct hmm_stats pages;		/* sums */
	struct hmm_times faults;	/* of pages that were away */
	const char *device;		/* name, or NULL: none was opened */
};

struct monitor_opts {
	char *const *argv;		/* the program, NULL-terminated */
	const char *preload;		/* absolute path of the agent's library */
	struct policy *policy;		/* opened; what migrates */
	const char *device;		/* "NAME:key=value,..." */
	int keep_fd;			/* an inherited descriptor to leave open, or -1 */
	int trace_fd;			/* where the trace goes, inherited too, or -1 */
	bool sample;			/* look at the memory in use now and then */
	void (*progress)(void *ctx, const struct monitor_stats *now);	/* or NULL; every 200 ms */
	void *ctx;
};

struct monitor_result {
	bool bad_device;		/* monitor_run() failed: no machine has that opts->device */
	int exec_error;			/* negative: the program could not be started */
	int status;			/* else its wait status */
	struct monitor_stats stats;
};

/*
 * Run it to the end of its last process. 0, or a negative errno: uhmm itself failed
 * (-ECANCELED: and has said why).
 * Once in a process, which is left with its signals blocked and its standard input and
 * output closed: those are the program's.
 */
int monitor_run(const struct monitor_opts *opts, struct monitor_result *result);

#endif
