/* SPDX-License-Identifier: MIT */
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dma.h"

#define OPTS_SIZE_MAX	4096
#define FAULT_AROUND_MAX	512
#define SLICE_US	20000
#define SLICE_US_MAX	1000000

/*
 * All events alike, but that copies of what cannot move stay through our own migrations:
 * two pages of one block would take each other away for ever. And what a slice stored to
 * copies is not lost by any but an unmap.
 */
static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event, uint64_t seq,
		       void *ctx)
{
	struct hmm_opencl *ocl = ctx;
	bool own = event->type == HMM_EVENT_MIGRATE && event->owner == ocl;
	uint64_t erased;

	(void)notifier;
	(void)seq;
	ocl_table_lock(&ocl->table);
	erased = ocl_table_erase(&ocl->table, event->start, event->end, !own);
	if (event->type == HMM_EVENT_UNMAP)
		ocl_borrow_unmapped(&ocl->borrow, event->start, event->end);
	ocl_table_unlock(&ocl->table);
	if (erased)
		ocl_count(&ocl->count.invalidations, 1);
}

static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages)
{
	struct hmm_opencl *ocl = hmm_devmem_ctx(devmem);

	ocl_memory_free(&ocl->memory, index, nr_pages);
}

static uintptr_t window_bytes(struct hmm_opencl *ocl, const struct hmm_fault *fault)
{
	uint32_t pages = ocl->fault_around;

	if (!pages) {
		pthread_mutex_lock(&ocl->streams_lock);
		pages = hmm_streams_pages(&ocl->streams, fault->addr, 1,
					  hmm_fault_pages(fault, FAULT_AROUND_MAX));
		pthread_mutex_unlock(&ocl->streams_lock);
	}
	return hmm_fault_pages(fault, pages) * ocl->page_size;
}

static int migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct hmm_opencl *ocl = hmm_devmem_ctx(devmem);
	uintptr_t bytes = window_bytes(ocl, fault), start = fault->addr & ~(bytes - 1);
	uintptr_t end = start + bytes < ocl->user_end ? start + bytes : ocl->user_end;
	int64_t ret;

	ocl_count(&ocl->count.cpu_faults, 1);
	/* One page is what the core brings without being asked, at less cost. */
	if (bytes == ocl->page_size)
		return 0;
	ret = hmm_evict(fault->mm, start, end);
	return ret < 0 ? (int)ret : 0;
}

/* A size, and a tail that must be zero. */
static int size_check(const void *opts, uint64_t size, size_t known)
{
	const unsigned char *p = opts;

	if (size < known)
		return -EINVAL;
	if (size > OPTS_SIZE_MAX)
		return -E2BIG;
	for (size_t i = known; i < size; i++)
		if (p[i])
			return -E2BIG;
	return 0;
}

/* A copy of @opts with the defaults filled in. */
static int opts_take(const struct hmm_opencl_opts *opts, struct hmm_opencl_opts *out)
{
	int ret;

	memset(out, 0, sizeof(*out));
	if (opts) {
		ret = size_check(opts, opts->size, sizeof(*opts));
		if (ret)
			return ret;
		*out = *opts;
	}
	if (!out->slice_us)
		out->slice_us = SLICE_US;
	if (out->flags & ~HMM_OPENCL_STAGED || out->fault_around > FAULT_AROUND_MAX ||
	    out->fault_around & (out->fault_around - 1) || out->slice_us > SLICE_US_MAX ||
	    (out->pool_bytes && out->pool_bytes < HMM_BLOCK) ||
	    (out->device && strlen(out->device) >= sizeof(((struct ocl_open *)0)->device)))
		return -EINVAL;
	return 0;
}

static void explain(const struct hmm_opencl_opts *opts, const char *line)
{
	if (opts->why && opts->why_bytes)
		snprintf(opts->why, opts->why_bytes, "%s", line);
}

/* Have the engine open the device: before there is a worker, so through its slot. */
static int engine_open(struct hmm_opencl *ocl, const struct hmm_opencl_opts *opts,
		       struct ocl_opened *opened)
{
	struct ocl_channel *channel = &ocl->channel;
	struct ocl_request *request = ocl_request(channel, OCL_WORKER_SLOT);
	struct ocl_open *open = (void *)ocl_channel_staging(channel, OCL_WORKER_SLOT);
	int ret;

	*open = (struct ocl_open){
		.mem_bytes = opts->mem_bytes, .headroom_bytes = opts->headroom_bytes,
		.pool_bytes = opts->pool_bytes, .page_bytes = (uint32_t)ocl->page_size,
		.table_words = ocl_table_words(OCL_TABLE_LEAVES),
	};
	if (opts->device)
		memcpy(open->device, opts->device, strlen(opts->device) + 1);
	ret = ocl_channel_ask(channel, OCL_WORKER_SLOT, OCL_OPEN);
	if (ret) {
		explain(opts, request->text);
		return ret;
	}
	memcpy(opened, ocl_channel_staging(channel, OCL_WORKER_SLOT), sizeof(*opened));
	ret = ocl_pools_open(ocl, (uint64_t)opened->pools * opened->pool_slots,
			     opts->flags & HMM_OPENCL_STAGED);
	if (ret) {
		explain(opts, request->text);
		ocl_pools_close(ocl);
	}
	return ret;
}

static int parts_init(struct hmm_opencl *ocl, const struct ocl_opened *opened)
{
	uint32_t block_pages = (uint32_t)(HMM_BLOCK / ocl->page_size);
	int ret;

	ocl->has_atomic64 = opened->has_atomic64;
	ret = ocl_memory_init(&ocl->memory, (uint32_t)opened->nr_slots, block_pages);
	if (ret)
		return ret;
	ret = ocl_table_init(&ocl->table, &ocl->memory,
			     (uint32_t)__builtin_ctzl(ocl->page_size), opened->pool_slots);
	if (ret)
		goto err_memory;
	ret = ocl_mover_init(&ocl->mover);
	if (ret)
		goto err_table;
	ret = ocl_borrow_init(&ocl->borrow, ocl->page_size);
	if (ret)
		goto err_borrow;
	ocl_programs_init(&ocl->programs);
	ocl_port_init(&ocl->port);
	return 0;

err_borrow:
	ocl_borrow_destroy(&ocl->borrow, ocl->page_size);
	ocl_mover_destroy(&ocl->mover);
err_table:
	ocl_table_destroy(&ocl->table);
err_memory:
	ocl_memory_destroy(&ocl->memory);
	return ret;
}

static void parts_destroy(struct hmm_opencl *ocl)
{
	ocl_port_destroy(&ocl->port);
	ocl_programs_destroy(&ocl->programs);
	ocl_borrow_destroy(&ocl->borrow, ocl->page_size);
	ocl_mover_destroy(&ocl->mover);
	ocl_table_destroy(&ocl->table);
	ocl_memory_destroy(&ocl->memory);
}

/* Meet the core: from here on callbacks come. */
static int attach(struct hmm_opencl *ocl)
{
	HMM_OPTS(hmm_notifier_ops, watch, .invalidate = invalidate);
	HMM_OPTS(hmm_devmem_ops, ops,
		 .copy_to_device = ocl_copy_to_device, .copy_from_device = ocl_copy_from_device,
		 .page_free = page_free, .migrate_to_ram = migrate_to_ram,
		 .page_alloc = ocl_page_alloc, .copy_peer = ocl_copy_peer);
	HMM_OPTS(hmm_devmem_opts, opts, .flags = HMM_DEVMEM_FAULT_SAFE,
		 .nr_pages = ocl->memory.nr_pages, .owner = ocl, .ops = &ops, .ctx = ocl);
	int ret;

	ret = hmm_notifier_insert(ocl->mm, 0, ocl->user_end, &watch, ocl, &ocl->notifier);
	if (ret)
		return ret;
	ret = hmm_devmem_add(ocl->mm, &opts, &ocl->devmem);
	if (ret) {
		hmm_notifier_remove(ocl->notifier);
		return ret;
	}
	ocl->devmem_id = hmm_devmem_id(ocl->devmem);
	return 0;
}

int ocl_check(const struct hmm_opencl *ocl)
{
	if (!ocl)
		return -EINVAL;
	return atomic_load_explicit(&ocl->magic, memory_order_relaxed) == OCL_MAGIC ? 0 : -ECHILD;
}

static int start(struct hmm_opencl *ocl, const struct hmm_opencl_opts *opts)
{
	struct ocl_opened opened;
	char why[OCL_TEXT] = "";
	int ret;

	ret = ocl_channel_open(&ocl->channel, why, sizeof(why));
	if (ret) {
		explain(opts, why);
		return ret;
	}
	ret = engine_open(ocl, opts, &opened);
	if (ret)
		goto err_channel;
	ret = parts_init(ocl, &opened);
	if (ret)
		goto err_pools;
	ret = ocl_worker_start(ocl);
	if (ret)
		goto err_parts;
	ret = attach(ocl);
	if (ret)
		goto err_worker;
	return 0;

err_worker:
	ocl_worker_stop(&ocl->worker);
err_parts:
	parts_destroy(ocl);
err_pools:
	ocl_pools_close(ocl);
err_channel:
	ocl_channel_close(&ocl->channel);
	return ret;
}

int hmm_opencl_open(struct hmm_mm *mm, const struct hmm_opencl_opts *opts, struct hmm_opencl **out)
{
	HMM_OPTS(hmm_stats, stats);
	struct hmm_opencl_opts given;
	struct hmm_opencl *ocl;
	int ret;

	_Static_assert(sizeof(*ocl) <= 64 * 1024, "a forked child must read zeros here");
	if (!mm || !out)
		return -EINVAL;
	ret = opts_take(opts, &given);
	if (ret)
		return ret;
	/* Before anything is allocated: a forked child may not even have an arena. */
	ret = hmm_mm_stats(mm, &stats);
	if (ret)
		return ret;
	explain(&given, "");
	ocl = hmm_safe_alloc(sizeof(*ocl));
	if (!ocl)
		return -ENOMEM;
	ocl->mm = mm;
	ocl->page_size = hmm_page_size();
	ocl->user_end = hmm_user_end();
	ocl->fault_around = given.fault_around;
	pthread_mutex_init(&ocl->streams_lock, NULL);
	ocl->slice_ns = given.slice_us * 1000ULL;
	ret = start(ocl, &given);
	if (ret) {
		pthread_mutex_destroy(&ocl->streams_lock);
		hmm_safe_free(ocl, sizeof(*ocl));
		return ret;
	}
	atomic_store_explicit(&ocl->magic, OCL_MAGIC, memory_order_relaxed);
	*out = ocl;
	return 0;
}

int hmm_opencl_close(struct hmm_opencl *ocl)
{
	int ret = ocl ? ocl_check(ocl) : 0;

	if (!ocl || ret)
		return ret;
	ret = hmm_devmem_remove(ocl->devmem);
	if (ret && ret != -EIO)
		return ret;
	atomic_store_explicit(&ocl->magic, 0, memory_order_relaxed);
	hmm_notifier_remove(ocl->notifier);
	ocl_worker_stop(&ocl->worker);
	parts_destroy(ocl);
	ocl_pools_close(ocl);
	ocl_channel_close(&ocl->channel);
	pthread_mutex_destroy(&ocl->streams_lock);
	hmm_safe_free(ocl, sizeof(*ocl));
	return ret;
}

int hmm_opencl_describe(uint32_t nr, struct hmm_opencl_device *out, char *why, size_t why_bytes)
{
	struct ocl_channel channel = { .lost = false };
	struct ocl_described described;
	char line[OCL_TEXT] = "";
	int ret;

	if (!out)
		return -EINVAL;
	ret = ocl_channel_open(&channel, line, sizeof(line));
	if (!ret) {
		ocl_request(&channel, OCL_WORKER_SLOT)->a[0] = nr;
		ret = ocl_channel_ask(&channel, OCL_WORKER_SLOT, OCL_DESCRIBE);
		memcpy(line, ocl_request(&channel, OCL_WORKER_SLOT)->text, sizeof(line));
		memcpy(&described, ocl_channel_staging(&channel, OCL_WORKER_SLOT),
		       sizeof(described));
		ocl_channel_close(&channel);
	}
	if (why && why_bytes)
		snprintf(why, why_bytes, "%s", line);
	if (ret)
		return ret;
	memcpy(out->name, described.name, sizeof(out->name));
	memcpy(out->platform, described.platform, sizeof(out->platform));
	memcpy(out->type, described.type, sizeof(out->type));
	out->mem_bytes = described.mem_bytes;
	out->max_alloc_bytes = described.max_alloc_bytes;
	out->usable = described.usable;
	out->shared = described.shared;
	return 0;
}

int64_t hmm_opencl_migrate_in(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end,
			      uint64_t *reasons)
{
	struct ocl_move move = { .start = start, .end = end };
	int64_t ret = ocl_check(ocl);

	if (ret)
		return ret;
	if ((start | end) & (ocl->page_size - 1) || end <= start || end > ocl->user_end)
		return -EINVAL;
	ret = ocl_call(ocl, ocl_move_job, &move);
	for (int i = 0; reasons && i < HMM_REASONS; i++)
		reasons[i] += move.reasons[i];
	return ret;
}

int hmm_opencl_stats(struct hmm_opencl *ocl, struct hmm_opencl_stats *stats)
{
	int ret = ocl_check(ocl);

	if (ret)
		return ret;
	if (!stats || stats->size < sizeof(*stats))
		return -EINVAL;
	*stats = (struct hmm_opencl_stats){
		.size = stats->size,
		.runs = ocl->count.runs,
		.launches = ocl->count.launches,
		.rounds = ocl->count.rounds,
		.restarts = ocl->count.restarts,
		.faults = ocl->count.faults,
		.migrated_in = ocl->count.migrated_in,
		.migrated_out = ocl->count.migrated_out,
		.evicted = ocl->count.evicted,
		.borrowed = ocl->count.borrowed,
		.invalidations = ocl->count.invalidations,
		.transfers = ocl->count.transfers,
		.transfer_bytes = ocl->count.transfer_bytes,
		.mem_bytes = ocl->memory.nr_pages * ocl->page_size,
		.mem_used = ocl_memory_bytes_used(&ocl->memory),
		.cpu_faults = ocl->count.cpu_faults,
		.lost = ocl_channel_lost(&ocl->channel),
		.engine_pid = ocl->channel.process.pid,
		.in_place = ocl->pools.base != NULL,
	};
	return 0;
}

struct hmm_devmem *hmm_opencl_devmem(const struct hmm_opencl *ocl)
{
	return ocl_check(ocl) ? NULL : ocl->devmem;
}
