/* SPDX-License-Identifier: MIT */
/*
 * Programs and kernels: what the engine has, by number. A build is asked for from the
 * caller's thread, through a slot like any other's, and the engine makes it beside what
 * else it does: CPU faults do not wait for a compiler.
 */
#ifndef OPENCL_PROGRAM_H
#define OPENCL_PROGRAM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct hmm_opencl;

/* Safe memory, small enough that a forked child reads zeros: ocl is NULL there. */
struct hmm_opencl_kernel {
	struct hmm_opencl *ocl;
	struct hmm_opencl_program *program;
	struct hmm_opencl_kernel *next;
	uint64_t id;
	uint32_t nr_args;
	bool checked;
	uint64_t slice_items;	/* what takes a slice's time, as measured; the worker's */
};

struct hmm_opencl_program {
	struct hmm_opencl *ocl;
	struct hmm_opencl_program *next;
	struct hmm_opencl_kernel *kernels;
	uint64_t id;
	bool checked;
};

struct ocl_programs {
	pthread_mutex_t lock;
	struct hmm_opencl_program *all;
};

void ocl_programs_init(struct ocl_programs *programs);
/* The engine need not hear of it: it ends too. */
void ocl_programs_destroy(struct ocl_programs *programs);

#endif
