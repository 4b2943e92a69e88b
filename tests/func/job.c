/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "job.h"

#include <string.h>

void job_init(struct job *job, void *start, size_t nr, uint64_t flags, const void *from)
{
	memset(job, 0, sizeof(*job));
	job->m = (struct hmm_migrate) {
		.size = sizeof(job->m),
		.flags = flags,
		.start = (uintptr_t)start,
		.end = (uintptr_t)start + nr * page,
		.src = job->src,
		.dst = job->dst,
		.owner = world_owner_a,
		.from_owner = from,
	};
}

void job_setup(struct world *w, struct job *job, void *start, size_t nr, uint64_t flags)
{
	job_init(job, start, nr, flags, NULL);
	assert_int_equal(hmm_migrate_setup(w->mm, &job->m), 0);
}

void job_aim(struct job *job, struct testdev *dev, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (job->src[i] & HMM_SRC_MIGRATE)
			job->dst[i] = hmm_dst(dev->id, testdev_reserve(dev, 1));
}

size_t job_migrating(const struct job *job, size_t nr)
{
	size_t n = 0;

	for (size_t i = 0; i < nr; i++)
		n += !!(job->src[i] & HMM_SRC_MIGRATE);
	return n;
}

void job_release_refused(struct job *job, struct testdev *dev, size_t nr, const uint64_t *dst)
{
	for (size_t i = 0; i < nr; i++)
		if (dst[i] && !(job->src[i] & HMM_SRC_MIGRATE))
			testdev_release(dev, (dst[i] & HMM_SRC_ADDR_MASK) >> 12, 1);
}

void job_finish(struct world *w, struct job *job)
{
	hmm_migrate_pages(w->mm, &job->m);
	hmm_migrate_finalize(w->mm, &job->m);
}
