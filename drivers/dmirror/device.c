/* SPDX-License-Identifier: MIT */
/*
 * A device as the core knows it: memory, copies, and what to bring home on a CPU fault.
 *
 * Everything here may run on the thread that serves CPU faults and touches only memory
 * of hmm_safe_alloc().
 */
#include <errno.h>
#include <string.h>

#include "dmirror.h"

/* The kernel's driver finds 256 MiB more whenever it is full; we reserve at open. */
#define MEMORY_BYTES	(4ULL << 30)

const char dmirror_owner[] = "dmirror";

/* Of a small request the bytes are wanted again at once. */
void device_copy(struct dmirror_device *d, void *to, const void *from, size_t len)
{
	if (atomic_load_explicit(&d->large_requests, memory_order_relaxed))
		hmm_bulk_copy(to, from, len);
	else
		memcpy(to, from, len);
}

static int copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			  const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct dmirror_device *d = hmm_devmem_ctx(devmem);
	size_t page = d->frames.page_size;

	(void)copy;
	for (size_t i = 0; i < nr_runs; i++) {
		if (runs[i].cpu)
			device_copy(d, frames_at(&d->frames, runs[i].index), runs[i].cpu,
				    runs[i].nr_pages * page);
		else
			memset(frames_at(&d->frames, runs[i].index), 0, runs[i].nr_pages * page);
	}
	return 0;
}

static int copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			    const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct dmirror_device *d = hmm_devmem_ctx(devmem);
	size_t page = d->frames.page_size;

	(void)copy;
	for (size_t i = 0; i < nr_runs; i++)
		device_copy(d, runs[i].cpu, frames_at(&d->frames, runs[i].index),
			    runs[i].nr_pages * page);
	return 0;
}

static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages)
{
	struct dmirror_device *d = hmm_devmem_ctx(devmem);

	frames_free(&d->frames, index, nr_pages);
}

/* A large page comes home whole; of small ones the core brings the one touched. */
static int migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct dmirror_device *d = hmm_devmem_ctx(devmem);
	uintptr_t bytes = FRAMES_BLOCK * d->frames.page_size;
	uintptr_t start = fault->addr & ~(bytes - 1);
	int64_t ret;

	if (!frames_is_large(&d->frames, fault->index))
		return 0;
	ret = hmm_evict(fault->mm, start, start + bytes);
	return ret < 0 ? (int)ret : 0;
}

int device_open(struct dmirror_process *process, unsigned int unit, struct dmirror_device **out)
{
	HMM_OPTS(hmm_devmem_ops, ops, .copy_to_device = copy_to_device,
		 .copy_from_device = copy_from_device, .page_free = page_free,
		 .migrate_to_ram = migrate_to_ram);
	HMM_OPTS(hmm_devmem_opts, opts, .flags = HMM_DEVMEM_FAULT_SAFE, .owner = dmirror_owner,
		 .ops = &ops);
	struct dmirror_device *d = hmm_safe_alloc(sizeof(*d));
	int ret;

	if (!d)
		return -ENOMEM;
	d->process = process;
	d->coherent = unit >= DMIRROR_FIRST_COHERENT;
	ret = frames_init(&d->frames, MEMORY_BYTES);
	if (ret)
		goto err_free;
	if (d->coherent)
		opts.flags |= HMM_DEVMEM_COHERENT;
	opts.nr_pages = d->frames.nr_pages;
	opts.ctx = d;
	ret = hmm_devmem_add(process->mm, &opts, &d->devmem);
	if (ret)
		goto err_frames;
	d->id = hmm_devmem_id(d->devmem);
	atomic_store(&process->kind[d->id], d->coherent ? KIND_COHERENT : KIND_PRIVATE);
	*out = d;
	return 0;

err_frames:
	frames_destroy(&d->frames);
err_free:
	hmm_safe_free(d, sizeof(*d));
	return ret;
}

void device_evict(struct dmirror_device *d)
{
	uint64_t high = frames_high(&d->frames);

	/* Lost pages, which it could tell of, this memory has none. */
	if (high && hmm_devmem_evict(d->devmem, 0, high) < 0)
		return;
}

void device_close(struct dmirror_device *d)
{
	int ret;

	/* EAGAIN: pages in a migration of another thread, which ends. */
	do {
		ret = hmm_devmem_remove(d->devmem);
	} while (ret == -EAGAIN);
	atomic_store(&d->process->kind[d->id], KIND_NONE);
	frames_destroy(&d->frames);
	hmm_safe_free(d, sizeof(*d));
}
