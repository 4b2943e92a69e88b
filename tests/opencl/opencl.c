/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "opencl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char source_opencl_cl[];

/* What was built for the device that is open, by its flags. */
static struct {
	struct hmm_opencl *ocl;
	struct hmm_opencl_program *program;
} built[2];

void need_opencl(void)
{
	struct hmm_opencl_device device;
	char why[256];
	int ret = hmm_opencl_describe(0, &device, why, sizeof(why));

	if (ret)
		skip_program(why);
	if (!device.usable)
		skip_program(device.type);
}

struct hmm_opencl *opencl_open(struct world *w, struct hmm_opencl_opts *opts)
{
	static char why[256];
	struct hmm_opencl *ocl;
	int ret;

	opts->why = why;
	opts->why_bytes = sizeof(why);
	if (getenv("UHMM_TEST_STAGED"))
		opts->flags |= HMM_OPENCL_STAGED;
	ret = hmm_opencl_open(w->mm, opts, &ocl);
	if (ret)
		fprintf(stderr, "open: %d %s\n", ret, why);
	assert_int_equal(ret, 0);
	memset(built, 0, sizeof(built));
	return ocl;
}

static struct hmm_opencl_program *program_of(struct hmm_opencl *ocl, uint64_t flags)
{
	static char log[65536];
	int i = flags ? 1 : 0, ret;

	if (built[i].ocl == ocl)
		return built[i].program;
	ret = hmm_opencl_build(ocl, source_opencl_cl, NULL, flags, log, sizeof(log),
			       &built[i].program);
	if (ret)
		fprintf(stderr, "%s\n", log);
	assert_int_equal(ret, 0);
	built[i].ocl = ocl;
	return built[i].program;
}

struct hmm_opencl_kernel *opencl_kernel(struct hmm_opencl *ocl, const char *name, uint64_t flags,
					uint64_t a, uint64_t b)
{
	struct hmm_opencl_kernel *kernel;

	assert_int_equal(hmm_opencl_kernel(program_of(ocl, flags), name, &kernel), 0);
	assert_int_equal(hmm_opencl_arg(kernel, 0, &a, sizeof(a)), 0);
	assert_int_equal(hmm_opencl_arg(kernel, 1, &b, sizeof(b)), 0);
	return kernel;
}

int opencl_run(struct hmm_opencl *ocl, const char *name, uint64_t items, uint64_t a, uint64_t b,
	       struct hmm_opencl_fault *fault)
{
	struct hmm_opencl_kernel *kernel = opencl_kernel(ocl, name, 0, a, b);
	int ret = hmm_opencl_run(kernel, items, fault);

	if (ret == -EFAULT && fault)
		fprintf(stderr, "%s: item %llu refused %#lx, reason %d\n", name,
			(unsigned long long)fault->item, fault->addr, fault->reason);
	hmm_opencl_kernel_free(kernel);
	return ret;
}

struct hmm_opencl_stats opencl_stats(struct hmm_opencl *ocl)
{
	struct hmm_opencl_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_opencl_stats(ocl, &s), 0);
	return s;
}
