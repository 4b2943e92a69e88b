/* SPDX-License-Identifier: MIT */
/*
 * The history of a run: where memory was and where faults were, by address and time, out
 * of its trace.
 *
 *	space	an address space	those that anything happened to, the busiest first
 *	  row	addresses, one or more blocks that follow each other
 *	    column	an equal part of the run's time
 *
 * A block, 512 pages, is what traces tell places by; one that nothing of was ever away and
 * nobody faulted in has no row.
 */
#ifndef UHMM_HISTORY_H
#define UHMM_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HISTORY_COLUMNS	56u
#define HISTORY_SPACES	16u

struct history_row {
	uint64_t start, end, bytes;		/* of its blocks: gaps are not of it */
	double away[HISTORY_COLUMNS];		/* share of its bytes, mean over the column's time */
	uint64_t faults[HISTORY_COLUMNS];	/* on pages that were away */
};

struct history_space {
	uint64_t id;
	char name[48];			/* program and process id, as the trace has them */
	uint64_t nr_faults;
	size_t nr_rows;
	struct history_row *rows;
};

struct history {
	uint64_t ns;			/* to the last event */
	bool complete;			/* false: the trace has no end, it is still written or cut off */
	uint64_t dropped;		/* events that the trace lacks */
	size_t nr_spaces, nr_left_out;
	struct history_space spaces[HISTORY_SPACES];
};

/*
 * Of the trace in @file, which can be sought in; at most @rows of each space. @out is to be
 * freed on success. -EINVAL: no trace of uhmm's; -EIO; -ENOMEM.
 */
int history_read(FILE *file, size_t rows, struct history *out);
void history_free(struct history *history);

#endif
