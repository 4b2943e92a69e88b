/* SPDX-License-Identifier: MIT */
/*
 * The soft device as a plug-in: options by name, and accesses by kernels of one item.
 */
#include <uhmm/plugin.h>

#include <errno.h>
#include <stdio.h>

#include "device.h"

#define LINK_US_MAX	1000000

enum {
	MEM, LANES, QUEUES, LINK_US, LINK_MBPS, MEM_MBPS, MIGRATE, NTH, PREFETCH, FAULT_AROUND,
	ALLOC_FAIL, DMA_ERROR, ECC_ERROR, RESET,
};

static const struct hmm_plugin_option options[] = {
	[MEM] = { "mem", HMM_PLUGIN_SIZE, 1ULL << 30, 4096, 1ULL << 40, NULL,
		  "device memory; RAM is used as pages arrive" },
	[LANES] = { "lanes", HMM_PLUGIN_NUMBER, 0, 0, SOFT_LANES, NULL,
		    "threads that run kernels; 0: one per CPU" },
	[QUEUES] = { "queues", HMM_PLUGIN_NUMBER, 1, 1, SOFT_DMA_QUEUES, NULL, "DMA queues" },
	[LINK_US] = { "link_us", HMM_PLUGIN_NUMBER, 0, 0, LINK_US_MAX, NULL,
		      "latency of each DMA transfer, microseconds" },
	[LINK_MBPS] = { "link_mbps", HMM_PLUGIN_NUMBER, 0, 0, 0, NULL,
			"bandwidth of the link in MB/s; 0: as fast as it goes" },
	[MEM_MBPS] = { "mem_mbps", HMM_PLUGIN_NUMBER, 0, 0, 0, NULL,
		       "bandwidth of device memory in MB/s; 0: as fast as it goes" },
	[MIGRATE] = { "migrate", HMM_PLUGIN_WORD, 0, 0, 0, "first|nth|never",
		      "when a page that the device touches moves in" },
	[NTH] = { "nth", HMM_PLUGIN_NUMBER, 3, 1, 1000000, NULL,
		  "migrate=nth: at which fault of a page's 64 KiB" },
	[PREFETCH] = { "prefetch", HMM_PLUGIN_NUMBER, 51, 1, 101, NULL,
		       "percent of a block here from which on all is fetched; 101: never" },
	[FAULT_AROUND] = { "fault_around", HMM_PLUGIN_NUMBER, 0, 0, 512, NULL,
			   "most pages brought home by a CPU fault, a power of two; 0: adaptive" },
	[ALLOC_FAIL] = { "alloc_fail", HMM_PLUGIN_NUMBER, 0, 0, INT64_MAX, NULL,
			 "for tests: the nth allocation of device memory fails" },
	[DMA_ERROR] = { "dma_error", HMM_PLUGIN_NUMBER, 0, 0, INT64_MAX, NULL,
			"for tests: the nth transfer fails, once" },
	[ECC_ERROR] = { "ecc_error", HMM_PLUGIN_NUMBER, 0, 0, INT64_MAX, NULL,
			"for tests: the nth page read from the device is lost" },
	[RESET] = { "reset", HMM_PLUGIN_NUMBER, 0, 0, INT64_MAX, NULL,
		    "for tests: the device loses all its memory at the nth transfer" },
};

/* Devices opened by name copy among themselves. */
static const char peers;

static int plugin_open(struct hmm_device *device, const struct hmm_plugin_value *values)
{
	uint64_t page = hmm_page_size();
	/* mem= may be less than a page, which rounded down would be 0, the default. */
	HMM_OPTS(hmm_soft_opts, opts,
		 .mem_bytes = (values[MEM].number + page - 1) & ~(page - 1),
		 .lanes = (uint32_t)values[LANES].number,
		 .dma_queues = (uint32_t)values[QUEUES].number,
		 .migrate = (enum hmm_soft_migrate)values[MIGRATE].number,
		 .migrate_nth = (uint32_t)values[NTH].number,
		 .prefetch = (uint32_t)values[PREFETCH].number,
		 .fault_around = (uint32_t)values[FAULT_AROUND].number,
		 .link_ns = values[LINK_US].number * 1000,
		 .link_mbps = values[LINK_MBPS].number, .mem_mbps = values[MEM_MBPS].number,
		 .peer_group = &peers);
	HMM_OPTS(hmm_soft_inject, inject,
		 .alloc_fail = values[ALLOC_FAIL].number, .dma_error = values[DMA_ERROR].number,
		 .ecc_error = values[ECC_ERROR].number, .reset = values[RESET].number);
	struct hmm_soft *soft;
	int ret;

	if (opts.fault_around & (opts.fault_around - 1)) {
		snprintf(device->said, sizeof(device->said),
			 "soft: fault_around must be a power of two");
		return -EINVAL;
	}
	ret = hmm_soft_open(device->mm, &opts, &soft);
	if (ret)
		return ret;
	ret = hmm_soft_inject(soft, &inject);
	if (ret) {
		(void)hmm_soft_close(soft);
		return ret;
	}
	device->devmem = soft->devmem;
	device->ctx = soft;
	return 0;
}

static int plugin_close(struct hmm_device *device)
{
	return hmm_soft_close(device->ctx);
}

static int plugin_describe(uint32_t nr, struct hmm_plugin_device *out)
{
	if (nr)
		return -ENOENT;
	*out = (struct hmm_plugin_device){
		.what = "device in software: own memory, page table, lanes, DMA",
	};
	return 0;
}

static int64_t plugin_migrate(struct hmm_device *device, uintptr_t start, uintptr_t end)
{
	return hmm_soft_migrate_in(device->ctx, start, end, NULL);
}

/* An access to be made by a lane. Lies on the stack of the thread that waits for it. */
struct access {
	uintptr_t addr;
	void *in;
	const void *out;
	size_t len;
	uint64_t add;
};

static bool one_word(const struct access *a)
{
	return a->len <= 8 && !(a->len & (a->len - 1)) && !(a->addr & (a->len - 1));
}

static void access_kernel(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct access *a = arg;
	void *addr = (void *)a->addr;
	uint64_t value = 0;

	(void)item;
	if (a->in && one_word(a)) {
		value = hmm_lane_load(lane, addr, (unsigned int)a->len);
		__builtin_memcpy(a->in, &value, a->len);
	} else if (a->in) {
		hmm_lane_read(lane, a->in, addr, a->len);
	} else if (a->out && one_word(a)) {
		__builtin_memcpy(&value, a->out, a->len);
		hmm_lane_store(lane, addr, value, (unsigned int)a->len);
	} else if (a->out) {
		hmm_lane_write(lane, addr, a->out, a->len);
	} else {
		hmm_lane_add(lane, addr, a->add, 8);
	}
}

static int access_run(struct hmm_device *device, struct access *a)
{
	struct hmm_soft_fault fault;
	int ret;

	if (!a->len)
		return 0;
	ret = hmm_soft_run(device->ctx, access_kernel, 1, a, &fault);
	if (ret != -EFAULT)
		return ret;
	switch (fault.reason) {
	case HMM_SOFT_FAULT_READONLY:	return -EPERM;
	case HMM_SOFT_FAULT_LOST:	return -EIO;
	case HMM_SOFT_FAULT_NOMEM:	return -ENOMEM;
	case HMM_SOFT_FAULT_ATOMIC:	return -EOPNOTSUPP;
	case HMM_SOFT_FAULT_MISALIGNED:	return -EINVAL;
	default:			return -EFAULT;
	}
}

static int plugin_read(struct hmm_device *device, uintptr_t addr, void *buf, size_t len)
{
	struct access a = { .addr = addr, .in = buf, .len = len };

	return access_run(device, &a);
}

static int plugin_write(struct hmm_device *device, uintptr_t addr, const void *buf, size_t len)
{
	struct access a = { .addr = addr, .out = buf, .len = len };

	return access_run(device, &a);
}

static int plugin_add(struct hmm_device *device, uintptr_t addr, uint64_t value)
{
	struct access a = { .addr = addr, .add = value, .len = 8 };

	return access_run(device, &a);
}

static const struct hmm_plugin plugin = {
	.size = sizeof(plugin),
	.abi = HMM_PLUGIN_ABI,
	.nr_options = sizeof(options) / sizeof(options[0]),
	.options = options,
	.name = "soft",
	.what = "device in software: own memory, page table, lanes, DMA",
	.open = plugin_open,
	.close = plugin_close,
	.describe = plugin_describe,
	.migrate = plugin_migrate,
	.read = plugin_read,
	.write = plugin_write,
	.add = plugin_add,
};

const struct hmm_plugin *hmm_soft_plugin(void)
{
	return &plugin;
}
