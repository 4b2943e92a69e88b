/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <errno.h>
#include <string.h>

/*
 * More runs than this go as one transfer and a kernel that spreads them: a call of the
 * API costs what tens of KiB do.
 */
#define DIRECT_RUNS	8

static int run_check(const struct engine *e, const struct ocl_run *run, bool staged)
{
	uint64_t pages = (uint64_t)e->pool_slots * e->pools * e->slot_pages;

	if (!run->nr || run->index >= pages || run->nr > pages - run->index)
		return -EINVAL;
	if (staged && run->at != OCL_ZERO &&
	    (run->at >= OCL_STAGING / e->page_bytes ||
	     run->nr > OCL_STAGING / e->page_bytes - run->at))
		return -EINVAL;
	return 0;
}

/* The part of a run that lies in one pool. */
static uint64_t part_of(const struct engine *e, const struct ocl_run *run)
{
	uint64_t pool_pages = e->pool_slots * e->slot_pages;
	uint64_t left = pool_pages - run->index % pool_pages;

	return run->nr < left ? run->nr : left;
}

/*
 * By a kernel of ours: clEnqueueFillBuffer() of NVIDIA's runtime (580.159, H200) writes
 * elsewhere, or faults, 8 GiB and more into a buffer.
 */
static cl_int clear(struct engine *e, cl_mem pool, size_t byte, size_t bytes, unsigned int q)
{
	cl_ulong first = byte / 16;
	size_t items = bytes / 16;
	cl_int err;

	err = clSetKernelArg(e->clear, 0, sizeof(pool), &pool);
	if (!err)
		err = clSetKernelArg(e->clear, 1, sizeof(first), &first);
	if (!err)
		err = clEnqueueNDRangeKernel(e->queue[q], e->clear, 1, NULL, &items, NULL, 0, NULL,
					     NULL);
	return err;
}

static cl_int direct(struct engine *e, struct ocl_run run, char *staging, bool in, unsigned int q)
{
	cl_int err = CL_SUCCESS;

	while (run.nr && !err) {
		uint64_t nr = part_of(e, &run);
		size_t byte, bytes = nr * e->page_bytes;
		cl_mem pool = engine_pool(e, run.index, &byte);
		char *at = staging + run.at * e->page_bytes;

		if (run.at == OCL_ZERO)
			err = clear(e, pool, byte, bytes, q);
		else if (in)
			err = clEnqueueWriteBuffer(e->queue[q], pool, CL_FALSE, byte, bytes, at, 0,
						   NULL, NULL);
		else
			err = clEnqueueReadBuffer(e->queue[q], pool, CL_FALSE, byte, bytes, at, 0,
						  NULL, NULL);
		run.index += nr;
		run.nr -= nr;
		if (run.at != OCL_ZERO)
			run.at += nr;
	}
	return err;
}

/* Where in @pool each page of the staging belongs; the others' pages are ~0. */
static uint64_t index_pages(const struct engine *e, const struct ocl_request *request,
			    uint32_t pool, cl_ulong *index)
{
	uint64_t pool_pages = e->pool_slots * e->slot_pages, here = 0;

	memset(index, 0xff, OCL_RUNS * sizeof(*index));
	for (uint32_t i = 0; i < request->nr_runs; i++) {
		const struct ocl_run *run = &request->runs[i];

		if (run->at == OCL_ZERO)
			continue;
		for (uint64_t p = 0; p < run->nr; p++) {
			if ((run->index + p) / pool_pages != pool)
				continue;
			index[run->at + p] = (run->index + p) % pool_pages;
			here++;
		}
	}
	return here;
}

/*
 * Arguments of a kernel are taken when it is enqueued, so one kernel serves both queues;
 * the index is copied by the blocking write.
 */
static cl_int spread_pool(struct engine *e, cl_kernel kernel, uint32_t pool, uint64_t pages,
			  const cl_ulong *index, unsigned int q)
{
	size_t items = pages * (e->page_bytes / 16);
	cl_int err;

	err = clEnqueueWriteBuffer(e->queue[q], e->scatter_index[q], CL_TRUE, 0,
				   pages * sizeof(*index), index, 0, NULL, NULL);
	if (!err)
		err = clSetKernelArg(kernel, 0, sizeof(cl_mem), &e->pool[pool]);
	if (!err)
		err = clSetKernelArg(kernel, 1, sizeof(cl_mem), &e->scratch[q]);
	if (!err)
		err = clSetKernelArg(kernel, 2, sizeof(cl_mem), &e->scatter_index[q]);
	if (!err)
		err = clEnqueueNDRangeKernel(e->queue[q], kernel, 1, NULL, &items, NULL, 0, NULL,
					     NULL);
	return err;
}

static cl_int spread(struct engine *e, const struct ocl_request *request, char *staging, bool in,
		     unsigned int q)
{
	cl_ulong index[OCL_RUNS];
	uint64_t pages = 0;
	cl_int err = CL_SUCCESS;

	for (uint32_t i = 0; i < request->nr_runs; i++)
		if (request->runs[i].at != OCL_ZERO &&
		    request->runs[i].at + request->runs[i].nr > pages)
			pages = request->runs[i].at + request->runs[i].nr;
	if (in)
		err = clEnqueueWriteBuffer(e->queue[q], e->scratch[q], CL_FALSE, 0,
					   pages * e->page_bytes, staging, 0, NULL, NULL);
	for (uint32_t pool = 0; pool < e->pools && !err; pool++)
		if (index_pages(e, request, pool, index))
			err = spread_pool(e, in ? e->scatter : e->gather, pool, pages, index, q);
	if (!in && !err)
		err = clEnqueueReadBuffer(e->queue[q], e->scratch[q], CL_FALSE, 0,
					  pages * e->page_bytes, staging, 0, NULL, NULL);
	return err;
}

int engine_copy(struct engine *e, struct ocl_request *request, char *staging, unsigned int q)
{
	bool in = request->op == OCL_COPY_IN;
	uint32_t staged = 0;
	cl_int err = CL_SUCCESS;
	bool spreads;

	if (request->nr_runs > OCL_RUNS)
		return -EINVAL;
	for (uint32_t i = 0; i < request->nr_runs; i++) {
		if (run_check(e, &request->runs[i], true))
			return -EINVAL;
		staged += request->runs[i].at != OCL_ZERO;
	}
	spreads = staged > DIRECT_RUNS;
	if (spreads)
		err = spread(e, request, staging, in, q);
	for (uint32_t i = 0; i < request->nr_runs && !err; i++)
		if (!spreads || request->runs[i].at == OCL_ZERO)
			err = direct(e, request->runs[i], staging, in, q);
	return err ? engine_error(request, in ? "a copy to the device" : "a copy from the device",
				  err) : 0;
}

int engine_copy_within(struct engine *e, struct ocl_request *request)
{
	cl_int err = CL_SUCCESS;

	if (request->nr_runs > OCL_RUNS)
		return -EINVAL;
	for (uint32_t i = 0; i < request->nr_runs && !err; i++) {
		struct ocl_run to = request->runs[i], from = to;

		from.index = to.at;
		if (run_check(e, &to, false) || run_check(e, &from, false))
			return -EINVAL;
		while (to.nr && !err) {
			uint64_t nr = part_of(e, &to), nr_from = part_of(e, &from);
			size_t byte, byte_from;
			cl_mem pool = engine_pool(e, to.index, &byte);
			cl_mem pool_from = engine_pool(e, from.index, &byte_from);

			nr = nr < nr_from ? nr : nr_from;
			err = clEnqueueCopyBuffer(e->queue[0], pool_from, pool, byte_from, byte,
						  nr * e->page_bytes, 0, NULL, NULL);
			to.index += nr;
			from.index += nr;
			to.nr -= nr;
			from.nr -= nr;
		}
	}
	if (!err)
		err = clFinish(e->queue[0]);
	return err ? engine_error(request, "a copy inside of the device", err) : 0;
}

int engine_table(struct engine *e, struct ocl_request *request, char *staging)
{
	cl_mem table = request->a[0] == OCL_TABLE_ENTRIES ? e->table : e->pages;
	cl_int err = CL_SUCCESS;

	if (request->nr_runs > OCL_RUNS)
		return -EINVAL;
	for (uint32_t i = 0; i < request->nr_runs && !err; i++) {
		const struct ocl_run *run = &request->runs[i];

		if (run->at > OCL_STAGING / 8 || run->nr > OCL_STAGING / 8 - run->at)
			return -EINVAL;
		err = clEnqueueWriteBuffer(e->queue[0], table, CL_FALSE, run->index * 8,
					   run->nr * 8, staging + run->at * 8, 0, NULL, NULL);
	}
	/* The staging is the driver's again when this is answered. */
	if (!err)
		err = clFinish(e->queue[0]);
	return err ? engine_error(request, "the page table", err) : 0;
}

int engine_grow(struct engine *e, struct ocl_request *request)
{
	cl_int err;
	cl_mem table = clCreateBuffer(e->context, CL_MEM_READ_ONLY, request->a[0] * 8, NULL, &err);

	if (err)
		return engine_error(request, "a larger page table", err);
	clReleaseMemObject(e->table);
	e->table = table;
	return 0;
}
