/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAMS	256
#define KERNELS		1024
#define OPTIONS_BYTES	4096

/* What HMM_ARGS declares before the pools. */
#define HIDDEN_ARGS	8

struct kernel {
	cl_kernel kernel;
	uint32_t hidden, nr_args;
};

static struct {
	cl_program program;
	uint32_t hidden;		/* arguments that HMM_ARGS stands for */
} programs[PROGRAMS];
static struct kernel kernels[KERNELS];

static void keep_log(struct engine *e, cl_program program, char *out, size_t bytes)
{
	size_t got = 0;

	out[0] = '\0';
	if (clGetProgramBuildInfo(program, e->device, CL_PROGRAM_BUILD_LOG, bytes - 1, out, &got))
		snprintf(out, bytes, "(the compiler's log is too long)");
	else
		out[got < bytes ? got : bytes - 1] = '\0';
}

static cl_program program_of(struct engine *e, const char *source, cl_int *err)
{
	return clCreateProgramWithSource(e->context, 1, &source, NULL, err);
}

/* The next #include of device.clh from @at on, and its line's end; NULL: none. */
static const char *find_include(const char *at, const char **end)
{
	static const char *const forms[] = {
		"#include <uhmm/device.clh>", "#include \"uhmm/device.clh\"",
	};
	const char *found = NULL;

	for (unsigned int i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		const char *p = strstr(at, forms[i]);

		if (p && (!found || p < found)) {
			found = p;
			*end = p + strlen(forms[i]);
		}
	}
	return found;
}

/*
 * The source with device.clh in the place of its #include: as one text, because then
 * runtimes find what they have compiled before in their caches, which they do not for
 * clCompileProgram() and its headers. Lines keep their numbers.
 */
static char *expand(const char *source)
{
	size_t bytes = strlen(source) + strlen(source_device_clh) + 64;
	const char *end = NULL, *include = find_include(source, &end);
	char *out = malloc(bytes);
	unsigned int line = 1;

	if (!out)
		return NULL;
	if (!include) {
		strcpy(out, source);
		return out;
	}
	for (const char *p = source; p < include; p++)
		line += *p == '\n';
	snprintf(out, bytes, "%.*s%s#line %u\n%s", (int)(include - source), source,
		 source_device_clh, line, end);
	return out;
}

static cl_int compile(struct engine *e, const char *source, const char *options, char *log,
		      size_t log_bytes, cl_program *out)
{
	cl_int err;

	*out = program_of(e, source, &err);
	if (err)
		return err;
	err = clBuildProgram(*out, 1, &e->device, options, NULL, NULL);
	keep_log(e, *out, log, log_bytes);
	if (err)
		clReleaseProgram(*out);
	return err;
}

static uint32_t pool_args(const struct engine *e)
{
	return e->pools > 4 ? OCL_POOLS : e->pools;
}

int engine_build_own(struct engine *e, struct ocl_request *request)
{
	char options[64];
	cl_int err;

	snprintf(options, sizeof(options), "-DHMM_PAGE_BYTES=%u", e->page_bytes);
	e->scatter_program = program_of(e, source_scatter_cl, &err);
	if (!err)
		err = clBuildProgram(e->scatter_program, 1, &e->device, options, NULL, NULL);
	if (!err)
		e->scatter = clCreateKernel(e->scatter_program, "scatter", &err);
	if (!err)
		e->gather = clCreateKernel(e->scatter_program, "gather", &err);
	if (!err)
		e->clear = clCreateKernel(e->scatter_program, "clear", &err);
	return err ? engine_error(request, "building the copy kernels", err) : 0;
}

/* The staging has source and options, each with its nul; after it, the log. */
int engine_build(struct engine *e, struct ocl_request *request, char *staging)
{
	char options[OPTIONS_BYTES];
	char *source;
	unsigned int id;
	cl_int err;
	int len;

	for (id = 0; id < PROGRAMS && programs[id].program; id++)
		;
	if (id == PROGRAMS)
		return engine_say(request, -ENOMEM, "too many programs");
	staging[OCL_STAGING - 1] = '\0';
	if (request->a[1] >= OCL_STAGING)
		return -EINVAL;
	len = snprintf(options, sizeof(options),
		       "-DHMM_POOLS=%u -DHMM_POOL_SLOTS=%u -DHMM_PAGE_SHIFT=%d -DHMM_CHECKED=%d %s",
		       e->pools, e->pool_slots, __builtin_ctz(e->page_bytes),
		       request->a[0] & OCL_BUILD_CHECKED ? 1 : 0, staging + request->a[1]);
	if (len < 0 || (size_t)len >= sizeof(options))
		return engine_say(request, -EINVAL, "the compiler's options are too long");
	source = expand(staging);
	if (!source)
		return -ENOMEM;
	err = compile(e, source, options, staging, OCL_STAGING, &programs[id].program);
	free(source);
	if (err) {
		programs[id].program = NULL;
		if (err == CL_COMPILE_PROGRAM_FAILURE || err == CL_LINK_PROGRAM_FAILURE ||
		    err == CL_BUILD_PROGRAM_FAILURE || err == CL_INVALID_COMPILER_OPTIONS)
			return engine_say(request, -EINVAL, "the source does not compile");
		return engine_error(request, "the compiler", err);
	}
	programs[id].hidden = HIDDEN_ARGS + pool_args(e);
	request->a[2] = id;
	return 0;
}

int engine_free(struct ocl_request *request)
{
	if (request->a[0] >= PROGRAMS || !programs[request->a[0]].program)
		return -EINVAL;
	clReleaseProgram(programs[request->a[0]].program);
	programs[request->a[0]].program = NULL;
	return 0;
}

int engine_kernel(struct ocl_request *request, char *staging)
{
	struct kernel *k = NULL;
	cl_uint nr = 0;
	cl_int err;

	if (request->a[0] >= PROGRAMS || !programs[request->a[0]].program)
		return -EINVAL;
	for (unsigned int i = 0; i < KERNELS && !k; i++)
		if (!kernels[i].kernel)
			k = &kernels[i];
	if (!k)
		return engine_say(request, -ENOMEM, "too many kernels");
	staging[OCL_STAGING - 1] = '\0';
	k->hidden = programs[request->a[0]].hidden;
	k->kernel = clCreateKernel(programs[request->a[0]].program, staging, &err);
	if (!err)
		err = clGetKernelInfo(k->kernel, CL_KERNEL_NUM_ARGS, sizeof(nr), &nr, NULL);
	if (err == CL_INVALID_KERNEL_NAME || (!err && nr < k->hidden)) {
		if (!err)
			clReleaseKernel(k->kernel);
		k->kernel = NULL;
		return engine_say(request, -ENOENT, "no such kernel, or one without HMM_ARGS");
	}
	if (err) {
		k->kernel = NULL;
		return engine_error(request, "a kernel", err);
	}
	k->nr_args = nr - k->hidden;
	request->a[1] = (uint64_t)(k - kernels);
	request->a[2] = k->nr_args;
	return 0;
}

int engine_kernel_free(struct ocl_request *request)
{
	cl_kernel kernel = engine_kernel_of(request->a[0]);

	if (!kernel)
		return -EINVAL;
	clReleaseKernel(kernel);
	kernels[request->a[0]].kernel = NULL;
	return 0;
}

int engine_arg(struct ocl_request *request, char *staging)
{
	cl_kernel kernel = engine_kernel_of(request->a[0]);
	cl_int err;

	if (!kernel || request->a[1] >= kernels[request->a[0]].nr_args ||
	    request->a[2] > OCL_ARG_BYTES)
		return -EINVAL;
	err = clSetKernelArg(kernel, kernels[request->a[0]].hidden + (cl_uint)request->a[1],
			     request->a[2], staging);
	if (err == CL_INVALID_ARG_SIZE || err == CL_INVALID_ARG_VALUE ||
	    err == CL_INVALID_ARG_INDEX || err == CL_INVALID_MEM_OBJECT ||
	    err == CL_INVALID_SAMPLER)
		return -EINVAL;
	return err ? engine_error(request, "an argument", err) : 0;
}

cl_kernel engine_kernel_of(uint64_t id)
{
	return id < KERNELS ? kernels[id].kernel : NULL;
}
