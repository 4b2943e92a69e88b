/* SPDX-License-Identifier: MIT */
/*
 * For hmm_opencl_check(): the bytes of some slots, before and after a run.
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>

static struct saved {
	uint64_t slot;
	char *before, *after;
} *saved;
static uint64_t nr_saved;

static void drop_all(void)
{
	for (uint64_t i = 0; i < nr_saved; i++) {
		free(saved[i].before);
		free(saved[i].after);
	}
	free(saved);
	saved = NULL;
	nr_saved = 0;
}

static cl_int transfer(struct engine *e, uint64_t slot, char *host, bool in)
{
	size_t byte;
	cl_mem pool = engine_pool(e, slot * e->slot_pages, &byte);

	if (in)
		return clEnqueueWriteBuffer(e->queue[0], pool, CL_TRUE, byte, HMM_BLOCK, host, 0,
					    NULL, NULL);
	return clEnqueueReadBuffer(e->queue[0], pool, CL_TRUE, byte, HMM_BLOCK, host, 0, NULL,
				   NULL);
}

/* a[0] 0: begin a new list, with none: forget the last. The slots lie in the staging. */
int engine_save(struct engine *e, struct ocl_request *request, char *staging)
{
	const uint64_t *slots = (void *)staging;
	struct saved *more;
	cl_int err = CL_SUCCESS;

	if (!request->a[0])
		drop_all();
	if (request->a[1] > OCL_STAGING / 8)
		return -EINVAL;
	if (!request->a[1])
		return 0;
	more = realloc(saved, (nr_saved + request->a[1]) * sizeof(*saved));
	if (!more)
		return -ENOMEM;
	saved = more;
	for (uint64_t i = 0; i < request->a[1] && !err; i++) {
		struct saved *s = &saved[nr_saved];

		if (slots[i] >= (uint64_t)e->pool_slots * e->pools)
			return -EINVAL;
		*s = (struct saved){ .slot = slots[i], .before = malloc(HMM_BLOCK),
				     .after = malloc(HMM_BLOCK) };
		nr_saved++;
		if (!s->before || !s->after)
			return -ENOMEM;
		err = transfer(e, s->slot, s->before, false);
	}
	return err ? engine_error(request, "saving device memory", err) : 0;
}

int engine_swap(struct engine *e, struct ocl_request *request)
{
	cl_int err = CL_SUCCESS;

	for (uint64_t i = 0; i < nr_saved && !err; i++) {
		err = transfer(e, saved[i].slot, saved[i].after, false);
		if (!err)
			err = transfer(e, saved[i].slot, saved[i].before, true);
	}
	return err ? engine_error(request, "restoring device memory", err) : 0;
}

int engine_compare(struct engine *e, struct ocl_request *request)
{
	cl_int err = CL_SUCCESS;

	request->a[0] = 0;
	for (uint64_t i = 0; i < nr_saved && !err && !request->a[0]; i++) {
		const struct saved *s = &saved[i];

		/* `before` has been put back and is not needed any more. */
		err = transfer(e, s->slot, s->before, false);
		for (size_t byte = 0; byte < HMM_BLOCK && !err && !request->a[0]; byte++) {
			if (s->before[byte] == s->after[byte])
				continue;
			request->a[0] = 1;
			request->a[1] = s->slot;
			request->a[2] = byte;
		}
	}
	drop_all();
	return err ? engine_error(request, "comparing device memory", err) : 0;
}
