/* SPDX-License-Identifier: MIT */
/*
 * A migration by hand, in the three steps of driver.h.
 */
#ifndef UHMM_TEST_JOB_H
#define UHMM_TEST_JOB_H

#include "world.h"

#define BATCH	64

/* Static: its arrays are never in the range, and never away. */
struct job {
	struct hmm_migrate m;
	uint64_t src[BATCH], dst[BATCH];
};

void job_init(struct job *job, void *start, size_t nr, uint64_t flags, const void *from);
void job_setup(struct world *w, struct job *job, void *start, size_t nr, uint64_t flags);

/* Gives every taken page a destination on @dev. */
void job_aim(struct job *job, struct testdev *dev, size_t nr);

/* How many of the first @nr pages are migrating. */
size_t job_migrating(const struct job *job, size_t nr);

/* hmm_migrate_pages() and hmm_migrate_finalize(). */
void job_finish(struct world *w, struct job *job);

/* After finalize the frames of what did not go are the driver's again. */
void job_release_refused(struct job *job, struct testdev *dev, size_t nr, const uint64_t *dst);

#endif
