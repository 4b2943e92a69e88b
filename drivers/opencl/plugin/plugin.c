/* SPDX-License-Identifier: MIT */
/* The device as a plug-in: "opencl:device=NAME,mem=2G". */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <uhmm/opencl.h>
#include <uhmm/plugin.h>

enum { OPT_DEVICE, OPT_MEM, OPT_HEADROOM, OPT_POOL, OPT_FAULT_AROUND, OPT_SLICE_US, OPT_STAGED };

static const struct hmm_plugin_option options[] = {
	[OPT_DEVICE] = { .name = "device", .kind = HMM_PLUGIN_TEXT,
			 .what = "part of its name, or its number; default: the best" },
	[OPT_MEM] = { .name = "mem", .kind = HMM_PLUGIN_SIZE, .max = 1ULL << 42,
		      .what = "device memory for pages; 0: all but headroom" },
	[OPT_HEADROOM] = { .name = "headroom", .kind = HMM_PLUGIN_SIZE, .max = 1ULL << 42,
			   .what = "left to others where mem is 0; 0: an eighth" },
	[OPT_POOL] = { .name = "pool", .kind = HMM_PLUGIN_SIZE, .max = 1ULL << 42,
		       .what = "most bytes of one buffer; 0: what the device allows" },
	[OPT_FAULT_AROUND] = { .name = "fault_around", .kind = HMM_PLUGIN_NUMBER, .max = 512,
			       .what = "pages that a CPU fault brings home, a power of two; 0: by the access pattern" },
	[OPT_SLICE_US] = { .name = "slice_us", .kind = HMM_PLUGIN_NUMBER, .max = 1000000,
			   .what = "longest that a kernel keeps the CPU from its pages" },
	[OPT_STAGED] = { .name = "staged", .kind = HMM_PLUGIN_NUMBER, .max = 1,
			 .what = "1: copies by the device also where its memory is the CPU's" },
};

static int opencl_open(struct hmm_device *device, const struct hmm_plugin_value *values)
{
	HMM_OPTS(hmm_opencl_opts, opts, .device = values[OPT_DEVICE].text,
		 .mem_bytes = values[OPT_MEM].number,
		 .headroom_bytes = values[OPT_HEADROOM].number,
		 .pool_bytes = values[OPT_POOL].number,
		 .fault_around = (uint32_t)values[OPT_FAULT_AROUND].number,
		 .flags = values[OPT_STAGED].number ? HMM_OPENCL_STAGED : 0,
		 .slice_us = (uint32_t)values[OPT_SLICE_US].number,
		 .why = device->said, .why_bytes = sizeof(device->said));
	struct hmm_opencl *ocl;
	int ret = hmm_opencl_open(device->mm, &opts, &ocl);

	if (ret)
		return ret;
	device->ctx = ocl;
	device->devmem = hmm_opencl_devmem(ocl);
	return 0;
}

static int opencl_close(struct hmm_device *device)
{
	return hmm_opencl_close(device->ctx);
}

static int opencl_describe(uint32_t nr, struct hmm_plugin_device *out)
{
	struct hmm_opencl_device device;
	char why[HMM_DEVICE_SAID] = "";
	int ret = hmm_opencl_describe(nr, &device, why, sizeof(why));

	memset(out, 0, sizeof(*out));
	if (ret) {
		snprintf(out->what, sizeof(out->what), "%s", why);
		return nr ? ret : -ENOENT;
	}
	snprintf(out->options, sizeof(out->options), "device=%u", nr);
	snprintf(out->what, sizeof(out->what), "%s: %.90s (%.40s)", device.type, device.name,
		 device.platform);
	out->mem_bytes = device.mem_bytes;
	return 0;
}

static int64_t opencl_migrate(struct hmm_device *device, uintptr_t start, uintptr_t end)
{
	return hmm_opencl_migrate_in(device->ctx, start, end, NULL);
}

static int opencl_read(struct hmm_device *device, uintptr_t addr, void *buf, size_t len)
{
	return hmm_opencl_read(device->ctx, addr, buf, len);
}

static int opencl_write(struct hmm_device *device, uintptr_t addr, const void *buf, size_t len)
{
	return hmm_opencl_write(device->ctx, addr, buf, len);
}

static int opencl_add(struct hmm_device *device, uintptr_t addr, uint64_t value)
{
	return hmm_opencl_add(device->ctx, addr, value);
}

const struct hmm_plugin hmm_plugin = {
	.size = sizeof(hmm_plugin), .abi = HMM_PLUGIN_ABI,
	.nr_options = sizeof(options) / sizeof(options[0]), .options = options,
	.name = "opencl", .what = "the memory of an OpenCL device, and kernels on it",
	.open = opencl_open, .close = opencl_close, .describe = opencl_describe,
	.migrate = opencl_migrate, .read = opencl_read, .write = opencl_write, .add = opencl_add,
};
