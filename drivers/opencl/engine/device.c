/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DEVICES_MAX	64
#define SCRATCH_PAGES	OCL_RUNS

int engine_say(struct ocl_request *request, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(request->text, sizeof(request->text), format, args);
	va_end(args);
	return error;
}

int engine_error(struct ocl_request *request, const char *what, cl_int err)
{
	int error = -EIO;

	switch (err) {
	case CL_MEM_OBJECT_ALLOCATION_FAILURE:
	case CL_OUT_OF_RESOURCES:
	case CL_OUT_OF_HOST_MEMORY:
	case CL_INVALID_BUFFER_SIZE:
		error = -ENOMEM;
		break;
	case CL_DEVICE_NOT_FOUND:
	case CL_DEVICE_NOT_AVAILABLE:
		error = -ENODEV;
		break;
	default:
		break;
	}
	return engine_say(request, error, "%s: OpenCL error %d", what, err);
}

/* Every device of every platform. CL_DEVICE_NOT_FOUND: no platform at all. */
cl_int device_list(cl_device_id *ids, unsigned int max, unsigned int *nr)
{
	cl_platform_id platforms[16];
	cl_uint nr_platforms = 0, found;

	*nr = 0;
	if (clGetPlatformIDs(16, platforms, &nr_platforms) || !nr_platforms)
		return CL_DEVICE_NOT_FOUND;
	for (cl_uint i = 0; i < nr_platforms && i < 16; i++) {
		if (clGetDeviceIDs(platforms[i], CL_DEVICE_TYPE_ALL, max - *nr, ids + *nr, &found))
			continue;
		*nr += found < max - *nr ? found : max - *nr;
	}
	return CL_SUCCESS;
}

static void text_of(cl_device_id id, cl_device_info what, char *out, size_t bytes)
{
	char text[1024] = "";

	if (clGetDeviceInfo(id, what, sizeof(text), text, NULL))
		text[0] = '\0';
	snprintf(out, bytes, "%s", text);
}

static void platform_of(cl_device_id id, char *out, size_t bytes)
{
	cl_platform_id platform = NULL;
	char text[1024] = "";

	if (clGetDeviceInfo(id, CL_DEVICE_PLATFORM, sizeof(platform), &platform, NULL) ||
	    clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof(text), text, NULL))
		text[0] = '\0';
	snprintf(out, bytes, "%s", text);
}

static uint64_t number_of(cl_device_id id, cl_device_info what)
{
	cl_ulong value = 0;

	return clGetDeviceInfo(id, what, sizeof(value), &value, NULL) ? 0 : value;
}

uint64_t device_bytes(cl_device_id id)
{
	return number_of(id, CL_DEVICE_GLOBAL_MEM_SIZE);
}

static bool flag_of(cl_device_id id, cl_device_info what)
{
	cl_bool value = CL_FALSE;

	return !clGetDeviceInfo(id, what, sizeof(value), &value, NULL) && value;
}

static cl_device_type type_of(cl_device_id id)
{
	cl_device_type type = 0;

	return clGetDeviceInfo(id, CL_DEVICE_TYPE, sizeof(type), &type, NULL) ? 0 : type;
}

static const char *why_unusable(cl_device_id id)
{
	char version[128];
	unsigned int major = 0, minor = 0;

	text_of(id, CL_DEVICE_VERSION, version, sizeof(version));
	if (sscanf(version, "OpenCL %u.%u", &major, &minor) != 2 || major * 10 + minor < 12)
		return "older than 1.2";
	if (!flag_of(id, CL_DEVICE_ENDIAN_LITTLE))
		return "big-endian";
	if (!flag_of(id, CL_DEVICE_COMPILER_AVAILABLE))
		return "no compiler";
	if (!flag_of(id, CL_DEVICE_AVAILABLE))
		return "unavailable";
	return NULL;
}

static const char *type_name(cl_device_type type)
{
	if (type & CL_DEVICE_TYPE_GPU)
		return "GPU";
	if (type & CL_DEVICE_TYPE_ACCELERATOR)
		return "accelerator";
	return type & CL_DEVICE_TYPE_CPU ? "CPU" : "other";
}

/* The CPU's own memory, whatever the device says of itself. */
bool device_shares_memory(cl_device_id id)
{
	return type_of(id) & CL_DEVICE_TYPE_CPU || flag_of(id, CL_DEVICE_HOST_UNIFIED_MEMORY);
}

static int no_platform(struct ocl_request *request)
{
	return engine_say(request, -ENODEV,
			  "no OpenCL platform: install one (a GPU's ICD, or pocl-opencl-icd)");
}

int engine_describe(struct ocl_request *request, char *staging)
{
	struct ocl_described *out = (void *)staging;
	cl_device_id ids[DEVICES_MAX];
	const char *why;
	unsigned int nr;

	if (device_list(ids, DEVICES_MAX, &nr) || !nr)
		return no_platform(request);
	if (request->a[0] >= nr)
		return -ENOENT;
	memset(out, 0, sizeof(*out));
	text_of(ids[request->a[0]], CL_DEVICE_NAME, out->name, sizeof(out->name));
	platform_of(ids[request->a[0]], out->platform, sizeof(out->platform));
	why = why_unusable(ids[request->a[0]]);
	snprintf(out->type, sizeof(out->type), "%s", why ? why : type_name(type_of(ids[request->a[0]])));
	out->mem_bytes = device_bytes(ids[request->a[0]]);
	out->max_alloc_bytes = number_of(ids[request->a[0]], CL_DEVICE_MAX_MEM_ALLOC_SIZE);
	out->usable = !why;
	out->shared = device_shares_memory(ids[request->a[0]]);
	return 0;
}

/* How well a device does as the default; 0: not at all. */
static int rank_of(cl_device_id id)
{
	cl_device_type type = type_of(id);

	if (why_unusable(id))
		return 0;
	return type & CL_DEVICE_TYPE_GPU ? 3 : type & CL_DEVICE_TYPE_ACCELERATOR ? 2 : 1;
}

static bool is_named(cl_device_id id, unsigned int nr, const char *want)
{
	char text[512], *end;
	unsigned long number = strtoul(want, &end, 10);

	if (!*end)
		return number == nr;
	text_of(id, CL_DEVICE_NAME, text, sizeof(text));
	if (strcasestr(text, want))
		return true;
	platform_of(id, text, sizeof(text));
	return strcasestr(text, want);
}

static int choose(struct engine *e, struct ocl_request *request, const char *want)
{
	cl_device_id ids[DEVICES_MAX], unusable = NULL;
	unsigned int nr;
	int best = 0;

	if (device_list(ids, DEVICES_MAX, &nr) || !nr)
		return no_platform(request);
	for (unsigned int i = 0; i < nr; i++) {
		if (*want && !is_named(ids[i], i, want))
			continue;
		if (!rank_of(ids[i]))
			unusable = ids[i];
		if (rank_of(ids[i]) <= best)
			continue;
		best = rank_of(ids[i]);
		e->device = ids[i];
	}
	if (best)
		return 0;
	if (unusable)
		return engine_say(request, -EOPNOTSUPP, "the OpenCL device cannot be used: %s",
				  why_unusable(unusable));
	return engine_say(request, -ENODEV, "no OpenCL device is called \"%s\"", want);
}

static uint64_t default_bytes(const struct engine *e, uint64_t headroom)
{
	uint64_t all = device_bytes(e->device);

	if (device_shares_memory(e->device))
		return all / 4;
	if (!headroom)
		headroom = all / 8;
	return headroom < all ? all - headroom : 0;
}

/* Into how many buffers of how many slots, all alike. */
static int lay_out(struct engine *e, struct ocl_request *request, const struct ocl_open *open,
		   uint64_t *nr_slots)
{
	uint64_t most = number_of(e->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE) >> HMM_BLOCK_SHIFT;
	uint64_t slots = open->mem_bytes ? open->mem_bytes : default_bytes(e, open->headroom_bytes);

	slots = (slots + HMM_BLOCK - 1) >> HMM_BLOCK_SHIFT;
	if (open->pool_bytes && open->pool_bytes >> HMM_BLOCK_SHIFT < most)
		most = open->pool_bytes >> HMM_BLOCK_SHIFT;
	if (!slots || !most)
		return engine_say(request, -ENOMEM, "the device has no memory to spare");
	e->pools = (uint32_t)((slots + most - 1) / most);
	if (e->pools > OCL_POOLS)
		return engine_say(request, -EINVAL, "%u buffers are needed, %u are possible",
				  e->pools, OCL_POOLS);
	e->pool_slots = (uint32_t)((slots + e->pools - 1) / e->pools);
	*nr_slots = slots;
	return 0;
}

static cl_mem buffer(struct engine *e, cl_mem_flags flags, size_t bytes, void *host, cl_int *err)
{
	return *err ? NULL : clCreateBuffer(e->context, flags, bytes, host, err);
}

static int make_buffers(struct engine *e, struct ocl_request *request, const struct ocl_open *open)
{
	size_t slots = (size_t)e->pool_slots * e->pools;
	cl_int err = CL_SUCCESS;

	e->table = buffer(e, CL_MEM_READ_ONLY, open->table_words * 8, NULL, &err);
	e->pages = buffer(e, CL_MEM_READ_ONLY, slots * HMM_PAGES_WORDS * 8, NULL, &err);
	e->state = buffer(e, CL_MEM_READ_WRITE, HMM_STATE_WORDS * 4, NULL, &err);
	for (unsigned int i = 0; i < OCL_SLOTS; i++)
		e->staging[i] = buffer(e, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, OCL_STAGING,
				       ocl_staging(e->wire, i), &err);
	for (unsigned int i = 0; i < ENGINE_QUEUES; i++) {
		e->scratch[i] = buffer(e, CL_MEM_READ_WRITE, OCL_STAGING, NULL, &err);
		e->scatter_index[i] = buffer(e, CL_MEM_READ_ONLY, SCRATCH_PAGES * sizeof(cl_ulong),
					     NULL, &err);
	}
	return err ? engine_error(request, "the driver's own buffers", err) : 0;
}

static int make_context(struct engine *e, struct ocl_request *request)
{
	cl_int err;

	e->context = clCreateContext(NULL, 1, &e->device, NULL, NULL, &err);
	for (unsigned int i = 0; i < ENGINE_QUEUES && !err; i++)
		e->queue[i] = clCreateCommandQueue(e->context, e->device, 0, &err);
	return err ? engine_error(request, "opening the device", err) : 0;
}

static bool has_extension(const struct engine *e, const char *name)
{
	char text[8192] = "";

	clGetDeviceInfo(e->device, CL_DEVICE_EXTENSIONS, sizeof(text), text, NULL);
	return strstr(text, name);
}

int engine_open(struct engine *e, struct ocl_request *request, char *staging)
{
	struct ocl_open open = *(struct ocl_open *)(void *)staging;
	struct ocl_opened *out = (void *)staging;
	uint64_t nr_slots = 0;
	int ret;

	open.device[sizeof(open.device) - 1] = '\0';
	e->page_bytes = open.page_bytes;
	e->slot_pages = HMM_BLOCK / open.page_bytes;
	ret = choose(e, request, open.device);
	if (!ret)
		ret = make_context(e, request);
	if (!ret)
		ret = lay_out(e, request, &open, &nr_slots);
	if (!ret)
		ret = make_buffers(e, request, &open);
	if (!ret)
		ret = engine_build_own(e, request);
	if (ret)
		return ret;
	memset(out, 0, sizeof(*out));
	out->nr_slots = nr_slots;
	out->pools = e->pools;
	out->pool_slots = e->pool_slots;
	out->has_atomic64 = has_extension(e, "cl_khr_int64_base_atomics");
	text_of(e->device, CL_DEVICE_NAME, out->name, sizeof(out->name));
	return 0;
}

cl_mem engine_pool(const struct engine *e, uint64_t page, size_t *byte)
{
	uint64_t pool_pages = e->pool_slots * e->slot_pages;

	*byte = (size_t)(page % pool_pages) * e->page_bytes;
	return e->pool[page / pool_pages % e->pools];
}
