/* SPDX-License-Identifier: MIT */
#include "program.h"

#include <errno.h>
#include <string.h>

#include "device.h"
#include "run.h"

#define SOURCE_MAX	(1UL << 20)
#define OPTIONS_MAX	4000

void ocl_programs_init(struct ocl_programs *programs)
{
	pthread_mutex_init(&programs->lock, NULL);
}

static void kernels_free(struct hmm_opencl_program *program)
{
	struct hmm_opencl_kernel *next;

	for (struct hmm_opencl_kernel *k = program->kernels; k; k = next) {
		next = k->next;
		hmm_safe_free(k, sizeof(*k));
	}
}

void ocl_programs_destroy(struct ocl_programs *programs)
{
	struct hmm_opencl_program *next;

	for (struct hmm_opencl_program *p = programs->all; p; p = next) {
		next = p->next;
		kernels_free(p);
		hmm_safe_free(p, sizeof(*p));
	}
	pthread_mutex_destroy(&programs->lock);
}

static void log_copy(char *log, size_t log_bytes, const char *from)
{
	size_t len = strnlen(from, OCL_STAGING - 1);

	if (!log || !log_bytes)
		return;
	if (len >= log_bytes)
		len = log_bytes - 1;
	memcpy(log, from, len);
	log[len] = '\0';
}

static int build(struct hmm_opencl *ocl, const char *source, const char *options, uint64_t flags,
		 char *log, size_t log_bytes, uint64_t *id)
{
	size_t source_bytes = strlen(source) + 1, options_bytes = strlen(options) + 1;
	unsigned int slot;
	struct ocl_request *request;
	char *staging;
	int ret;

	if (source_bytes > SOURCE_MAX || options_bytes > OPTIONS_MAX)
		return -EINVAL;
	slot = ocl_channel_get(&ocl->channel);
	request = ocl_request(&ocl->channel, slot);
	staging = ocl_channel_staging(&ocl->channel, slot);
	memcpy(staging, source, source_bytes);
	memcpy(staging + source_bytes, options, options_bytes);
	request->a[0] = flags & HMM_OPENCL_CHECKED ? OCL_BUILD_CHECKED : 0;
	request->a[1] = source_bytes;
	ret = ocl_channel_ask(&ocl->channel, slot, OCL_BUILD);
	if (!ocl->channel.lost)
		log_copy(log, log_bytes, staging);
	*id = request->a[2];
	ocl_channel_put(&ocl->channel, slot);
	return ret;
}

int hmm_opencl_build(struct hmm_opencl *ocl, const char *source, const char *options,
		     uint64_t flags, char *log, size_t log_bytes, struct hmm_opencl_program **out)
{
	struct hmm_opencl_program *program;
	int ret = ocl_check(ocl);

	if (ret)
		return ret;
	if (!source || !out || flags & ~HMM_OPENCL_CHECKED)
		return -EINVAL;
	program = hmm_safe_alloc(sizeof(*program));
	if (!program)
		return -ENOMEM;
	pthread_mutex_lock(&ocl->programs.lock);
	ret = build(ocl, source, options ? options : "", flags, log, log_bytes, &program->id);
	if (!ret) {
		program->ocl = ocl;
		program->checked = flags & HMM_OPENCL_CHECKED;
		program->next = ocl->programs.all;
		ocl->programs.all = program;
		*out = program;
	}
	pthread_mutex_unlock(&ocl->programs.lock);
	if (ret)
		hmm_safe_free(program, sizeof(*program));
	return ret;
}

/* A request of numbers alone. */
static int tell(struct hmm_opencl *ocl, enum ocl_op op, uint64_t id)
{
	unsigned int slot = ocl_channel_get(&ocl->channel);
	int ret;

	ocl_request(&ocl->channel, slot)->a[0] = id;
	ret = ocl_channel_ask(&ocl->channel, slot, op);
	ocl_channel_put(&ocl->channel, slot);
	return ret;
}

/* programs.lock held. */
static void kernel_drop(struct hmm_opencl_kernel *kernel)
{
	struct hmm_opencl_kernel **link = &kernel->program->kernels;

	while (*link != kernel)
		link = &(*link)->next;
	*link = kernel->next;
	(void)tell(kernel->ocl, OCL_KERNEL_FREE, kernel->id);
	hmm_safe_free(kernel, sizeof(*kernel));
}

void hmm_opencl_kernel_free(struct hmm_opencl_kernel *kernel)
{
	struct hmm_opencl *ocl = kernel ? kernel->ocl : NULL;

	if (!ocl || ocl_check(ocl))
		return;
	pthread_mutex_lock(&ocl->programs.lock);
	kernel_drop(kernel);
	pthread_mutex_unlock(&ocl->programs.lock);
}

void hmm_opencl_program_free(struct hmm_opencl_program *program)
{
	struct hmm_opencl *ocl = program ? program->ocl : NULL;
	struct hmm_opencl_program **link;

	if (!ocl || ocl_check(ocl))
		return;
	pthread_mutex_lock(&ocl->programs.lock);
	while (program->kernels)
		kernel_drop(program->kernels);
	for (link = &ocl->programs.all; *link != program; link = &(*link)->next)
		;
	*link = program->next;
	(void)tell(ocl, OCL_FREE, program->id);
	hmm_safe_free(program, sizeof(*program));
	pthread_mutex_unlock(&ocl->programs.lock);
}

/*
 * What the caller gave is copied before a slot is taken: it may be away, and the fault
 * needs a slot. (A build may hold one meanwhile, since there is one at a time.)
 */
static int kernel_ask(struct hmm_opencl_program *program, const char *name,
		      struct hmm_opencl_kernel *kernel)
{
	struct ocl_channel *channel = &program->ocl->channel;
	struct ocl_request *request;
	char copy[OCL_TEXT] = "";
	unsigned int slot;
	int ret;

	memcpy(copy, name, strnlen(name, OCL_TEXT - 1));
	slot = ocl_channel_get(channel);
	request = ocl_request(channel, slot);
	request->a[0] = program->id;
	memcpy(ocl_channel_staging(channel, slot), copy, sizeof(copy));
	ret = ocl_channel_ask(channel, slot, OCL_KERNEL);
	kernel->id = request->a[1];
	kernel->nr_args = (uint32_t)request->a[2];
	ocl_channel_put(channel, slot);
	return ret;
}

int hmm_opencl_kernel(struct hmm_opencl_program *program, const char *name,
		      struct hmm_opencl_kernel **out)
{
	struct hmm_opencl *ocl;
	struct hmm_opencl_kernel *kernel;
	int ret;

	if (!program || !name || !out || strlen(name) >= OCL_TEXT)
		return -EINVAL;
	ocl = program->ocl;
	ret = ocl ? ocl_check(ocl) : -ECHILD;
	if (ret)
		return ret;
	kernel = hmm_safe_alloc(sizeof(*kernel));
	if (!kernel)
		return -ENOMEM;
	ret = kernel_ask(program, name, kernel);
	if (ret) {
		hmm_safe_free(kernel, sizeof(*kernel));
		return ret;
	}
	kernel->ocl = ocl;
	kernel->program = program;
	kernel->checked = program->checked;
	pthread_mutex_lock(&ocl->programs.lock);
	kernel->next = program->kernels;
	program->kernels = kernel;
	pthread_mutex_unlock(&ocl->programs.lock);
	*out = kernel;
	return 0;
}

static int kernel_check(const struct hmm_opencl_kernel *kernel)
{
	if (!kernel)
		return -EINVAL;
	return kernel->ocl ? ocl_check(kernel->ocl) : -ECHILD;
}

int hmm_opencl_arg(struct hmm_opencl_kernel *kernel, uint32_t index, const void *value, size_t bytes)
{
	int ret = kernel_check(kernel);
	struct ocl_request *request;
	struct ocl_channel *channel;
	char copy[OCL_ARG_BYTES];
	unsigned int slot;

	if (ret)
		return ret;
	if (!value || !bytes || bytes > OCL_ARG_BYTES || index >= kernel->nr_args)
		return -EINVAL;
	memcpy(copy, value, bytes);
	channel = &kernel->ocl->channel;
	slot = ocl_channel_get(channel);
	request = ocl_request(channel, slot);
	request->a[0] = kernel->id;
	request->a[1] = index;
	request->a[2] = bytes;
	memcpy(ocl_channel_staging(channel, slot), copy, bytes);
	ret = ocl_channel_ask(channel, slot, OCL_ARG);
	ocl_channel_put(channel, slot);
	return ret;
}

static int run(struct hmm_opencl_kernel *kernel, uint64_t nr_items, uint32_t every, ocl_job job,
	       struct hmm_opencl_fault *fault)
{
	struct ocl_run_call call = { .kernel = kernel, .every = every };
	int ret = kernel_check(kernel);

	if (ret)
		return ret;
	if (!nr_items || nr_items > OCL_ITEMS_MAX)
		return -EINVAL;
	call.nr_items = (uint32_t)nr_items;
	ret = (int)ocl_call(kernel->ocl, job, &call);
	if (ret == -EFAULT && fault)
		*fault = call.fault;
	return ret;
}

int hmm_opencl_run(struct hmm_opencl_kernel *kernel, uint64_t nr_items,
		   struct hmm_opencl_fault *fault)
{
	return run(kernel, nr_items, 0, ocl_run_job, fault);
}

int hmm_opencl_check(struct hmm_opencl_kernel *kernel, uint64_t nr_items, uint32_t every,
		     struct hmm_opencl_fault *fault)
{
	int ret = kernel_check(kernel);

	if (ret)
		return ret;
	if (!kernel->checked || !every)
		return -EINVAL;
	return run(kernel, nr_items, every, ocl_check_job, fault);
}
