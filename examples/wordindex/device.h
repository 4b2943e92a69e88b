/* SPDX-License-Identifier: MIT */
/* The device's side: kernels that walk the program's index where it lies. */
#ifndef WORDINDEX_DEVICE_H
#define WORDINDEX_DEVICE_H

#include <uhmm/soft.h>

#include "queries.h"

/* What one look at a changing index found; every field is added to. */
struct check {
	uint64_t nr_stripes, nr_words, nr_wrong;
};

/*
 * What the kernels are given. It is malloc'ed like everything else, may itself be
 * in the device's memory, and so is only ever read through lane accesses there.
 */
struct job {
	struct index *index;
	const struct query *query;	/* a malloc'ed copy of query_table */
	struct answers *answers;
	struct rank (*best)[TOP_N];	/* one per stripe */
	struct check *check;
};

struct job *job_create(struct index *index);
void job_destroy(struct job *job);

/* The device answers everything into job->answers. 0 or what hmm_soft_run() says. */
int device_answer(struct hmm_soft *soft, struct job *job, struct hmm_soft_fault *fault);

/*
 * Items 0 .. INDEX_STRIPES - 1 walk a stripe under its lock and compare it with its
 * totals, item INDEX_STRIPES walks the tree and looks at its order.
 */
void kernel_check(struct hmm_lane *lane, uint64_t item, void *arg);

#endif
