/* SPDX-License-Identifier: MIT */
#include "mover.h"

#include <errno.h>
#include <string.h>

#include "device.h"

#define MAP_TIMEOUT_MS	1000

/* Blocks tried for room before the memory counts as full of what cannot leave. */
#define ROOM_TRIES	64

#define MOVER_PAGES	(OCL_HELD * OCL_BLOCK_PAGES)

int ocl_mover_init(struct ocl_mover *mover)
{
	mover->src = hmm_safe_alloc(3 * MOVER_PAGES * sizeof(uint64_t));
	if (!mover->src)
		return -ENOMEM;
	mover->dst = mover->src + MOVER_PAGES;
	mover->pfns = mover->src + 2 * MOVER_PAGES;
	return 0;
}

void ocl_mover_destroy(struct ocl_mover *mover)
{
	hmm_safe_free(mover->src, 3 * MOVER_PAGES * sizeof(uint64_t));
}

/* Let go of bound slots that hold nothing; false: there was none. */
static bool unbind_idle(struct hmm_opencl *ocl, uint64_t since)
{
	bool some = false;
	uint32_t slot;

	ocl_table_lock(&ocl->table);
	while ((slot = ocl_memory_idle(&ocl->memory, since)) != OCL_NO_SLOT) {
		ocl_table_unbind(&ocl->table, ocl->memory.slots[slot].block);
		ocl_memory_unbind(&ocl->memory, slot);
		some = true;
	}
	ocl_table_unlock(&ocl->table);
	return some;
}

/*
 * Send home what was served longest ago. False: nothing could leave. Copies are dropped
 * by the worker alone: others may come while a slice stores to them.
 */
static bool make_room(struct hmm_opencl *ocl, uint64_t since, bool worker)
{
	if (unbind_idle(ocl, since))
		return true;
	for (int i = 0; i < ROOM_TRIES; i++) {
		uint32_t slot = ocl_memory_oldest(&ocl->memory, since);
		int64_t n;

		if (slot == OCL_NO_SLOT)
			return false;
		if (worker)
			ocl_borrow_drop(ocl, slot);
		n = hmm_devmem_evict(ocl->devmem, ocl_slot_page(&ocl->memory, slot),
				     ocl->memory.block_pages);
		if (n > 0)
			ocl_count(&ocl->count.evicted, (uint64_t)n);
		if (unbind_idle(ocl, UINT64_MAX) || n > 0)
			return true;
	}
	return false;
}

/*
 * Beside a neighbour's, so that kernels see one run; where none is there yet, where the
 * address says, so that those to come find their place free. Table lock held.
 */
static uint32_t wish(const struct ocl_table *table, uintptr_t block)
{
	uint32_t slot = ocl_table_slot(table, block - HMM_BLOCK);

	if (slot != OCL_NO_SLOT)
		return slot + 1;
	slot = ocl_table_slot(table, block + HMM_BLOCK);
	if (slot != OCL_NO_SLOT)
		return slot - 1;
	return (uint32_t)((block >> HMM_BLOCK_SHIFT) % table->memory->nr_slots);
}

/* Bind and hold @block, if there is a slot without anything leaving. OCL_NO_SLOT: none. */
static int64_t bind_free(struct hmm_opencl *ocl, uintptr_t block)
{
	int ret = ocl_table_prepare(&ocl->table, &ocl->channel, block);
	uint32_t slot;

	if (ret)
		return ret;
	ocl_table_lock(&ocl->table);
	slot = ocl_table_slot(&ocl->table, block);
	if (slot != OCL_NO_SLOT) {
		ocl_memory_hold(&ocl->memory, slot);
	} else {
		slot = ocl_memory_bind(&ocl->memory, block, wish(&ocl->table, block));
		if (slot != OCL_NO_SLOT)
			ocl_table_bind(&ocl->table, block, slot);
	}
	ocl_table_unlock(&ocl->table);
	if (slot != OCL_NO_SLOT)
		ocl_memory_serve(&ocl->memory, slot, false);
	return slot;
}

int64_t ocl_block_bind(struct hmm_opencl *ocl, uintptr_t block, uint64_t since)
{
	int64_t slot;

	ocl_memory_let_go(&ocl->memory);
	while ((slot = bind_free(ocl, block)) == OCL_NO_SLOT) {
		ocl->mover.made_room = true;
		if (!make_room(ocl, since, true))
			return -ENOSPC;
	}
	return slot;
}

static uint32_t slot_of(struct hmm_opencl *ocl, uintptr_t va)
{
	uint32_t slot;

	ocl_table_lock(&ocl->table);
	slot = ocl_table_slot(&ocl->table, ocl_block_of(va));
	ocl_table_unlock(&ocl->table);
	return slot;
}

/* A page that is borrowed becomes the core's: no copy is there any more. */
static bool adopt(struct hmm_opencl *ocl, uint32_t slot, uintptr_t va)
{
	if (!ocl_memory_adopt(&ocl->memory, slot, ocl_page_in_block(ocl, va)))
		return false;
	ocl_table_lock(&ocl->table);
	ocl_table_set(&ocl->table, va, (struct ocl_pte){ 0 });
	ocl_table_unlock(&ocl->table);
	ocl_borrow_forget(&ocl->borrow, va);
	return true;
}

/* One that is used already cannot come. */
static uint64_t give_page(struct hmm_opencl *ocl, uint32_t slot, uintptr_t va, uint64_t src)
{
	uint32_t at = ocl_page_in_block(ocl, va);
	uint64_t index = ocl_slot_page(&ocl->memory, slot) + at;

	if (!(src & HMM_SRC_MIGRATE))
		return 0;
	if (src & HMM_SRC_DEVICE && hmm_src_devmem(src) == ocl->devmem_id &&
	    hmm_src_index(src) == index)
		return 0;
	if (adopt(ocl, slot, va) || ocl_memory_reserve(&ocl->memory, slot, at, false))
		return hmm_dst(ocl->devmem_id, index);
	return 0;
}

static void give_pages(struct hmm_opencl *ocl, uintptr_t start, size_t nr)
{
	struct ocl_mover *mover = &ocl->mover;
	uint32_t slot = slot_of(ocl, start);

	for (size_t i = 0; i < nr; i++) {
		uintptr_t va = start + i * ocl->page_size;

		if (i && !ocl_page_in_block(ocl, va))
			slot = slot_of(ocl, va);
		mover->dst[i] = give_page(ocl, slot, va, mover->src[i]);
	}
}

/* The pages that stayed are not the core's; how many went. */
static int64_t settle(struct hmm_opencl *ocl, size_t nr)
{
	struct ocl_mover *mover = &ocl->mover;
	int64_t moved = 0;

	for (size_t i = 0; i < nr; i++) {
		uint64_t dst = mover->dst[i];

		if (!dst)
			continue;
		if (mover->src[i] & HMM_SRC_MIGRATE)
			moved++;
		else
			ocl_memory_free(&ocl->memory, hmm_src_index(dst), 1);
	}
	return moved;
}

/*
 * hmm_migrate_copy() clears dst[] where a copy failed: what was reserved for such a page
 * is found by comparing with what was given.
 */
static void free_failed(struct hmm_opencl *ocl, const uint64_t *given, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (given[i] && !ocl->mover.dst[i])
			ocl_memory_free(&ocl->memory, hmm_src_index(given[i]), 1);
}

static int64_t pass(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end, uint64_t flags)
{
	size_t nr = (end - start) / ocl->page_size;
	HMM_OPTS(hmm_migrate, m, .flags = flags, .start = start, .end = end,
		 .src = ocl->mover.src, .dst = ocl->mover.dst, .owner = ocl);
	int ret;

	ret = hmm_migrate_setup(ocl->mm, &m);
	if (ret)
		return ret;
	give_pages(ocl, start, nr);
	memcpy(ocl->mover.pfns, m.dst, nr * sizeof(*m.dst));
	hmm_migrate_copy(ocl->mm, &m);
	free_failed(ocl, ocl->mover.pfns, nr);
	hmm_migrate_pages(ocl->mm, &m);
	hmm_migrate_finalize(ocl->mm, &m);
	return settle(ocl, nr);
}

/* What stayed, and the part of the range whose pages are elsewhere on a device. */
static void count_refused(struct hmm_opencl *ocl, uintptr_t start, size_t nr, uintptr_t *from,
			  uintptr_t *to)
{
	struct ocl_mover *mover = &ocl->mover;

	*from = *to = 0;
	for (size_t i = 0; i < nr; i++, start += ocl->page_size) {
		uint64_t src = mover->src[i];

		if (src & HMM_SRC_MIGRATE)
			continue;
		if (hmm_src_reason(src) != HMM_REASON_DEVICE) {
			mover->reasons[hmm_src_reason(src) % HMM_REASONS]++;
			continue;
		}
		/* In its place, if it is mapped. */
		ocl_table_lock(&ocl->table);
		if (!ocl_table_get(&ocl->table, start).there) {
			*from = *to ? *from : start;
			*to = start + ocl->page_size;
		}
		ocl_table_unlock(&ocl->table);
	}
}

static int map_blocks(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end)
{
	int ret = 0;

	for (uintptr_t block = ocl_block_of(start); block < end && !ret; block += HMM_BLOCK)
		ret = ocl_block_map(ocl, block);
	return ret;
}

int64_t ocl_blocks_move(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end)
{
	uintptr_t from, to;
	int64_t moved, more;
	int ret;

	if (end > ocl->user_end)
		end = ocl->user_end;
	if (start >= end)
		return 0;
	moved = pass(ocl, start, end, HMM_MIGRATE_SYSTEM);
	if (moved < 0)
		return moved;
	ret = map_blocks(ocl, start, end);
	count_refused(ocl, start, (end - start) / ocl->page_size, &from, &to);
	if (!ret && to) {
		more = pass(ocl, from, to, HMM_MIGRATE_DEVICE);
		moved += more > 0 ? more : 0;
		ret = map_blocks(ocl, from, to);
	}
	ocl_count(&ocl->count.migrated_in, (uint64_t)moved);
	return ret ? ret : moved;
}

/* What hmm_range_fault() says of a page that may be the device's own, in its place. */
static void map_page(struct hmm_opencl *ocl, uint32_t slot, uintptr_t va, uint64_t pfn)
{
	uint64_t index = ocl_slot_page(&ocl->memory, slot) + ocl_page_in_block(ocl, va);

	if (!(pfn & HMM_PFN_VALID) || pfn & HMM_PFN_ERROR || !(pfn & HMM_PFN_DEVICE) ||
	    (pfn & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT != ocl->devmem_id ||
	    (pfn & HMM_PFN_INDEX_MASK) != index)
		return;
	ocl_table_set(&ocl->table, va,
		      (struct ocl_pte){ .there = true, .write = pfn & HMM_PFN_WRITE });
}

static int map_once(struct hmm_opencl *ocl, uintptr_t block)
{
	HMM_OPTS(hmm_range, range, .notifier = ocl->notifier, .pfns = ocl->mover.pfns,
		 .start = block, .end = block + HMM_BLOCK, .owner = ocl);
	uint32_t slot;
	int ret;

	if (range.end > ocl->user_end)
		range.end = ocl->user_end;
	memset(range.pfns, 0, OCL_BLOCK_PAGES * sizeof(*range.pfns));
	ret = hmm_range_fault_wait(ocl->mm, &range, MAP_TIMEOUT_MS);
	if (ret)
		return ret == -ETIMEDOUT ? -EAGAIN : ret;
	ocl_table_lock(&ocl->table);
	slot = ocl_table_slot(&ocl->table, block);
	if (slot == OCL_NO_SLOT || hmm_notifier_read_retry(ocl->notifier, range.seq))
		ret = -EAGAIN;
	else
		for (uintptr_t va = range.start; va < range.end; va += ocl->page_size)
			map_page(ocl, slot, va, range.pfns[(va - range.start) / ocl->page_size]);
	ocl_table_unlock(&ocl->table);
	return ret;
}

int ocl_block_map(struct hmm_opencl *ocl, uintptr_t block)
{
	int ret;

	/* Ends: each round that fails is one that an invalidation won. */
	while ((ret = map_once(ocl, block)) == -EAGAIN) {
		ocl_table_lock(&ocl->table);
		ret = ocl_table_slot(&ocl->table, block) == OCL_NO_SLOT ? -ENOSPC : 0;
		ocl_table_unlock(&ocl->table);
		if (ret)
			return ret;
	}
	return ret;
}

/*
 * Hold @va's block, and those after it for which nothing has to leave: the copies of one
 * overlap those of the next. Where that ends, or an error.
 */
static int64_t bind_blocks(struct hmm_opencl *ocl, uintptr_t va, uintptr_t end)
{
	uintptr_t block = ocl_block_of(va);
	int64_t slot = ocl_block_bind(ocl, block, UINT64_MAX);

	if (slot < 0)
		return slot;
	for (int i = 1; i < OCL_HELD; i++) {
		block += HMM_BLOCK;
		if (block >= end)
			break;
		slot = bind_free(ocl, block);
		if (slot < 0 || slot == OCL_NO_SLOT)
			return (int64_t)block;
	}
	block += HMM_BLOCK;
	return (int64_t)(block < end ? block : end);
}

int64_t ocl_move_job(struct hmm_opencl *ocl, void *arg)
{
	struct ocl_move *move = arg;
	uintptr_t va = move->start;
	int64_t moved = 0, n = 0;

	memset(ocl->mover.reasons, 0, sizeof(ocl->mover.reasons));
	while (va < move->end && n >= 0) {
		int64_t stop = bind_blocks(ocl, va, move->end);

		n = stop < 0 ? stop : ocl_blocks_move(ocl, va, (uintptr_t)stop);
		moved += n > 0 ? n : 0;
		va = (uintptr_t)stop;
	}
	ocl_memory_let_go(&ocl->memory);
	unbind_idle(ocl, UINT64_MAX);
	memcpy(move->reasons, ocl->mover.reasons, sizeof(move->reasons));
	return moved || n >= 0 ? moved : n;
}

int64_t ocl_page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct hmm_opencl *ocl = hmm_devmem_ctx(devmem);
	uint64_t got;

	while (!(got = ocl_memory_take(&ocl->memory, nr, index)))
		if (!make_room(ocl, UINT64_MAX, false))
			return -ENOSPC;
	return (int64_t)got;
}
