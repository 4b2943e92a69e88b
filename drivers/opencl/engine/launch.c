/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <errno.h>
#include <string.h>

#define GROUP_ITEMS	64	/* of a work-group, where the kernel allows it */

/* Two lists of items: the one to do, and the one of what this launch leaves. */
static cl_int lists_for(struct engine *e, uint64_t items)
{
	cl_int err = CL_SUCCESS;

	if (items <= e->list_items)
		return err;
	for (int i = 0; i < 2 && !err; i++) {
		if (e->list[i])
			clReleaseMemObject(e->list[i]);
		e->list[i] = clCreateBuffer(e->context, CL_MEM_READ_WRITE, items * 4, NULL, &err);
		if (err)
			e->list[i] = NULL;
	}
	e->list_items = err ? 0 : items;
	return err;
}

static cl_int state_write(struct engine *e, const struct ocl_launch *launch)
{
	/* Static: the write is not waited for before the launch is. */
	static cl_uint state[HMM_STATE_SEEN + HMM_STATE_SEEN_NR];

	memset(state, 0, sizeof(state));
	state[HMM_STATE_FIRST] = launch->watched;
	state[HMM_STATE_DRY] = launch->dry;
	state[HMM_STATE_MISS] = launch->miss;
	return clEnqueueWriteBuffer(e->queue[0], e->state, CL_FALSE, 0, sizeof(state), state, 0,
				    NULL, NULL);
}

/* In the order of HMM_ARGS. */
static cl_int args_set(struct engine *e, cl_kernel kernel, const struct ocl_launch *launch)
{
	const cl_mem mems[] = {
		e->table, e->pages, e->state, e->list[e->list_left], e->list[!e->list_left],
	};
	const cl_uint numbers[] = { launch->first, launch->count, launch->listed };
	cl_uint at = 0, pools = e->pools > 4 ? OCL_POOLS : e->pools;
	cl_int err = CL_SUCCESS;

	for (unsigned int i = 0; i < sizeof(mems) / sizeof(mems[0]) && !err; i++)
		err = clSetKernelArg(kernel, at++, sizeof(cl_mem), &mems[i]);
	for (unsigned int i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && !err; i++)
		err = clSetKernelArg(kernel, at++, sizeof(cl_uint), &numbers[i]);
	/* A launch of no items, which only has the kernel compiled, does not have the pools. */
	for (cl_uint i = 0; i < pools && !err; i++)
		err = clSetKernelArg(kernel, at++, sizeof(cl_mem),
				     !launch->count ? &e->scratch[0] :
						      &e->pool[i < e->pools ? i : 0]);
	return err;
}

static cl_int enqueue(struct engine *e, cl_kernel kernel, uint64_t items)
{
	size_t most = 1, local = GROUP_ITEMS, global;

	if (clGetKernelWorkGroupInfo(kernel, e->device, CL_KERNEL_WORK_GROUP_SIZE, sizeof(most),
				     &most, NULL))
		most = 1;
	while (local > most)
		local /= 2;
	/* No items: one group, all of which return. */
	global = items ? (items + local - 1) / local * local : local;
	return clEnqueueNDRangeKernel(e->queue[0], kernel, 1, NULL, &global, &local, 0, NULL, NULL);
}

static void record_copy(struct ocl_record *to, const cl_uint *from)
{
	*to = (struct ocl_record){ from[0], from[1], from[2], from[3] };
}

static cl_int state_read(struct engine *e, struct ocl_launched *out)
{
	cl_uint state[HMM_STATE_ZEROS];
	cl_int err;

	err = clEnqueueReadBuffer(e->queue[0], e->state, CL_TRUE, 0, sizeof(state), state, 0, NULL,
				  NULL);
	if (err)
		return err;
	memset(out, 0, sizeof(*out));
	out->left = state[HMM_STATE_LEFT];
	out->nr_faults = state[HMM_STATE_FAULTS];
	out->errors = state[HMM_STATE_ERRORS];
	out->ended = state[HMM_STATE_ENDED];
	out->watched_hit = state[HMM_STATE_FIRST_HIT];
	record_copy(&out->error, &state[HMM_STATE_ERROR]);
	record_copy(&out->watched, &state[HMM_STATE_FIRST_FAULT]);
	if (out->nr_faults > HMM_STATE_FAULT_NR)
		out->nr_faults = HMM_STATE_FAULT_NR;
	if (!out->nr_faults)
		return CL_SUCCESS;
	return clEnqueueReadBuffer(e->queue[0], e->state, CL_TRUE, HMM_STATE_FAULT * 4,
				   out->nr_faults * sizeof(struct ocl_record), out->faults, 0, NULL,
				   NULL);
}

int engine_run(struct engine *e, struct ocl_request *request, char *staging)
{
	struct ocl_launch launch = *(struct ocl_launch *)(void *)staging;
	cl_kernel kernel = engine_kernel_of(request->a[0]);
	cl_int err;

	_Static_assert(sizeof(struct ocl_launched) + HMM_STATE_FAULT_NR * sizeof(struct ocl_record)
		       <= OCL_STAGING, "the faults of a launch fit its answer");
	if (!kernel)
		return -EINVAL;
	err = launch.listed ? CL_SUCCESS : lists_for(e, launch.count ? launch.count : 1);
	if (!err)
		err = state_write(e, &launch);
	if (!err)
		err = args_set(e, kernel, &launch);
	if (!err)
		err = enqueue(e, kernel, launch.count);
	if (!err)
		err = state_read(e, (void *)staging);
	e->list_left = !e->list_left;
	if (err == CL_INVALID_KERNEL_ARGS)
		return engine_say(request, -EINVAL, "an argument of the kernel is not set");
	return err ? engine_error(request, "a launch", err) : 0;
}

int engine_mail(struct engine *e, struct ocl_request *request, char *staging)
{
	cl_int err;

	if (request->a[0] > HMM_STATE_MAIL_BYTES)
		return -EINVAL;
	if (request->a[1])
		err = clEnqueueReadBuffer(e->queue[0], e->state, CL_TRUE, HMM_STATE_MAIL * 4,
					  request->a[0], staging, 0, NULL, NULL);
	else
		err = clEnqueueWriteBuffer(e->queue[0], e->state, CL_TRUE, HMM_STATE_MAIL * 4,
					   request->a[0], staging, 0, NULL, NULL);
	return err ? engine_error(request, "an access", err) : 0;
}
