/* SPDX-License-Identifier: MIT */
/*
 * The engine: the process that has OpenCL. It knows pages of the device by number and
 * nothing of the program's memory; see ../wire.h for how it is asked.
 *
 * One thread handles the requests; another ends the process when the program is gone.
 */
#ifndef OPENCL_ENGINE_H
#define OPENCL_ENGINE_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <stdbool.h>
#include <stddef.h>

#include "../wire.h"

#define ENGINE_QUEUES	2

/* Sources of kernels that come with the engine; embed.py makes them of files. */
extern const char source_device_clh[], source_scatter_cl[];

struct engine {
	struct ocl_wire *wire;
	cl_device_id device;
	cl_context context;
	cl_command_queue queue[ENGINE_QUEUES];

	uint32_t page_bytes, pool_slots, pools;
	uint64_t slot_pages;
	cl_mem pool[OCL_POOLS];
	char *in_place;		/* the first pool in OCL_FD_POOLS; NULL: the device has them */
	cl_mem table, pages, state, list[2];
	uint64_t list_items;
	unsigned int list_left;		/* of list[]: what the last launch left */

	cl_mem staging[OCL_SLOTS];	/* the wire's, so that the runtime may pin it */
	cl_mem scratch[ENGINE_QUEUES], scatter_index[ENGINE_QUEUES];
	cl_kernel clear, gather, scatter;
	cl_program scatter_program;
};

struct saved;

/* device.c */
uint64_t device_bytes(cl_device_id id);
bool device_shares_memory(cl_device_id id);
cl_int device_list(cl_device_id *ids, unsigned int max, unsigned int *nr);
int engine_describe(struct ocl_request *request, char *staging);
int engine_open(struct engine *e, struct ocl_request *request, char *staging);

/* Turn what OpenCL said of @what into an errno, with a line in the request's text. */
int engine_error(struct ocl_request *request, const char *what, cl_int err);
int engine_say(struct ocl_request *request, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The pool of a device page and the byte of it there. */
cl_mem engine_pool(const struct engine *e, uint64_t page, size_t *byte);

/* pools.c */
int engine_pools(struct engine *e, struct ocl_request *request);
int engine_back(struct engine *e, struct ocl_request *request);
/* Pools in place are the host's but between these two; the second waits for the device. */
cl_int engine_pools_give(struct engine *e);
cl_int engine_pools_take(struct engine *e);

/* copy.c: enqueued on queue @q and not waited for. */
int engine_copy(struct engine *e, struct ocl_request *request, char *staging, unsigned int q);
int engine_copy_within(struct engine *e, struct ocl_request *request);
int engine_table(struct engine *e, struct ocl_request *request, char *staging);
int engine_grow(struct engine *e, struct ocl_request *request);

/* program.c */
int engine_build_own(struct engine *e, struct ocl_request *request);
int engine_build(struct engine *e, struct ocl_request *request, char *staging);
int engine_free(struct ocl_request *request);
int engine_kernel(struct ocl_request *request, char *staging);
int engine_kernel_free(struct ocl_request *request);
int engine_arg(struct ocl_request *request, char *staging);
cl_kernel engine_kernel_of(uint64_t id);

/* launch.c */
int engine_run(struct engine *e, struct ocl_request *request, char *staging);
int engine_mail(struct engine *e, struct ocl_request *request, char *staging);

/* compare.c */
int engine_save(struct engine *e, struct ocl_request *request, char *staging);
int engine_swap(struct engine *e, struct ocl_request *request);
int engine_compare(struct engine *e, struct ocl_request *request);

#endif
