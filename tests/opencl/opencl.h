/* SPDX-License-Identifier: MIT */
/* An OpenCL device in the world of the functional tests, and kernels of its tests. */
#ifndef UHMM_TEST_OPENCL_H
#define UHMM_TEST_OPENCL_H

#include <uhmm/opencl.h>

#include "../func/world.h"

#define HMM_TEST_BLOCK	(2UL << 20)

/* 77 where no OpenCL device can be opened. */
void need_opencl(void);

/*
 * The handle lives until hmm_opencl_close(); @opts->size is set, why is filled in. Its copies go
 * through staging where UHMM_TEST_STAGED is set.
 */
struct hmm_opencl *opencl_open(struct world *w, struct hmm_opencl_opts *opts);

/*
 * A kernel of opencl.cl with its two ulong arguments set. The program is built once per
 * device and @flags.
 */
struct hmm_opencl_kernel *opencl_kernel(struct hmm_opencl *ocl, const char *name, uint64_t flags,
					uint64_t a, uint64_t b);
int opencl_run(struct hmm_opencl *ocl, const char *name, uint64_t items, uint64_t a, uint64_t b,
	       struct hmm_opencl_fault *fault);

struct hmm_opencl_stats opencl_stats(struct hmm_opencl *ocl);

#endif
