/* SPDX-License-Identifier: MIT */
/*
 * The device's memory: buffers of its own, or, where its memory is the CPU's, buffers over
 * memory that the driver sees too.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t pool_bytes(const struct engine *e)
{
	return (size_t)e->pool_slots << HMM_BLOCK_SHIFT;
}

static void release(struct engine *e)
{
	engine_pools_give(e);
	clFinish(e->queue[0]);
	for (uint32_t i = 0; i < e->pools; i++) {
		if (e->pool[i])
			clReleaseMemObject(e->pool[i]);
		e->pool[i] = NULL;
	}
	if (e->in_place)
		munmap(e->in_place, e->pools * pool_bytes(e));
	e->in_place = NULL;
	/* What a runtime has touched of it; where nothing can be done about that, it stays. */
	(void)!ftruncate(OCL_FD_POOLS, 0);
}

/*
 * Many runtimes allocate at the first use: use it now, so that the error comes now. @host: the
 * memory of all pools, or NULL.
 */
static cl_int make(struct engine *e, cl_mem_flags flags, char *host)
{
	cl_int err = CL_SUCCESS;

	for (uint32_t i = 0; i < e->pools && !err; i++)
		e->pool[i] = clCreateBuffer(e->context, CL_MEM_READ_WRITE | flags, pool_bytes(e),
					    host ? host + i * pool_bytes(e) : NULL, &err);
	if (!err)
		err = clEnqueueMigrateMemObjects(e->queue[0], e->pools, e->pool,
						 CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED, 0, NULL,
						 NULL);
	return err ? err : clFinish(e->queue[0]);
}

static cl_int make_own(struct engine *e)
{
	if (device_bytes(e->device) < pool_bytes(e) * e->pools)
		return CL_MEM_OBJECT_ALLOCATION_FAILURE;
	return make(e, 0, NULL);
}

/*
 * A runtime may keep a copy of such memory, and bring the two together whenever it is mapped or
 * unmapped: that would be all of it around each launch. It shows by pages of a part that
 * nobody has touched. @host: of HMM_BLOCK bytes, no pages yet.
 */
static bool is_copied(struct engine *e, char *host)
{
	cl_int err;
	cl_mem probe = clCreateBuffer(e->context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, HMM_BLOCK,
				      host, &err);
	struct stat now;

	/* One that copies may do so from its first use on. */
	if (!err)
		err = clEnqueueMigrateMemObjects(e->queue[0], 1, &probe,
						 CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED, 0, NULL,
						 NULL);
	for (int i = 0; i < 2 && !err; i++) {
		char *at = clEnqueueMapBuffer(e->queue[0], probe, CL_TRUE,
					      CL_MAP_READ | CL_MAP_WRITE, 0, HMM_BLOCK, 0, NULL,
					      NULL, &err);

		if (!err)
			err = clEnqueueUnmapMemObject(e->queue[0], probe, at, 0, NULL, NULL);
		if (!err)
			err = clFinish(e->queue[0]);
	}
	if (probe)
		clReleaseMemObject(probe);
	return err || fstat(OCL_FD_POOLS, &now) || now.st_blocks;
}

/* Its pages come by engine_back(), so that there is an error where there is no memory. */
static bool make_in_place(struct engine *e)
{
	size_t bytes = e->pools * pool_bytes(e);

	if (!device_shares_memory(e->device) || device_bytes(e->device) < bytes ||
	    ftruncate(OCL_FD_POOLS, (off_t)bytes))
		return false;
	e->in_place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, OCL_FD_POOLS, 0);
	if (e->in_place == MAP_FAILED) {
		e->in_place = NULL;
		return false;
	}
	return !is_copied(e, e->in_place) && !make(e, CL_MEM_USE_HOST_PTR, e->in_place) &&
	       !engine_pools_take(e);
}

int engine_pools(struct engine *e, struct ocl_request *request)
{
	bool wanted = request->a[0];
	cl_int err;

	release(e);
	request->a[0] = 0;
	if (wanted && make_in_place(e)) {
		request->a[0] = 1;
		return 0;
	}
	release(e);
	err = make_own(e);
	if (!err)
		return 0;
	return engine_say(request, -ENOMEM, "%zu MiB of device memory cannot be had of %llu MiB "
			  "(OpenCL error %d); ask for less with mem=",
			  pool_bytes(e) * e->pools >> 20,
			  (unsigned long long)device_bytes(e->device) >> 20, err);
}

int engine_back(struct engine *e, struct ocl_request *request)
{
	if (!e->in_place || request->a[0] >= (uint64_t)e->pools * e->pool_slots)
		return -EINVAL;
	while (fallocate(OCL_FD_POOLS, 0, (off_t)(request->a[0] << HMM_BLOCK_SHIFT), HMM_BLOCK))
		if (errno != EINTR)
			return engine_say(request, -ENOMEM, "2 MiB more of device memory: errno %d",
					  errno);
	return 0;
}

/* In order with what is enqueued behind it. */
cl_int engine_pools_give(struct engine *e)
{
	cl_int err = CL_SUCCESS;

	for (uint32_t i = 0; e->in_place && i < e->pools && e->pool[i] && !err; i++)
		err = clEnqueueUnmapMemObject(e->queue[0], e->pool[i],
					      e->in_place + i * pool_bytes(e), 0, NULL, NULL);
	return err;
}

cl_int engine_pools_take(struct engine *e)
{
	cl_int err = CL_SUCCESS;

	if (!e->in_place)
		return err;
	for (uint32_t i = 0; i < e->pools && !err; i++) {
		char *at = clEnqueueMapBuffer(e->queue[0], e->pool[i], CL_FALSE,
					      CL_MAP_READ | CL_MAP_WRITE, 0, pool_bytes(e), 0,
					      NULL, NULL, &err);

		/* OpenCL promises it of memory that the host has given. */
		if (!err && at != e->in_place + i * pool_bytes(e))
			err = CL_MAP_FAILURE;
	}
	return err ? err : clFinish(e->queue[0]);
}
