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
	ocl_borrow_forget(&ocl->borrow, va);
	ocl_table_unlock(&ocl->table);
	return true;
}

/* One that is used already cannot come. */
static uint64_t give_page(struct hmm_opencl *ocl, uint32_t slot, uintptr_t va, uint64_t src)
{
	uint32_t at = ocl_page_in_block(ocl, va);
	uint64_t index = ocl_slot_page(&ocl->memory, slot) + at;

	if (!(src & HMM_SRC_MIGRATE) || slot == OCL_NO_SLOT)
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

/* A part of one block; from == to: nothing. */
struct part {
	uintptr_t from, to;
};

/* What stayed of one block, and the part of it whose pages are elsewhere on a device. */
static struct part count_refused(struct hmm_opencl *ocl, const uint64_t *src, uintptr_t start,
				 uintptr_t end)
{
	struct part elsewhere = { 0 };

	for (uintptr_t va = start; va < end; va += ocl->page_size, src++) {
		if (*src & HMM_SRC_MIGRATE)
			continue;
		if (hmm_src_reason(*src) != HMM_REASON_DEVICE) {
			ocl->mover.reasons[hmm_src_reason(*src) % HMM_REASONS]++;
			continue;
		}
		/* In its place, if it is mapped. */
		ocl_table_lock(&ocl->table);
		if (!ocl_table_get(&ocl->table, va).there) {
			elsewhere.from = elsewhere.to ? elsewhere.from : va;
			elsewhere.to = va + ocl->page_size;
		}
		ocl_table_unlock(&ocl->table);
	}
	return elsewhere;
}

static int map_blocks(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end)
{
	int ret = 0;

	for (uintptr_t block = ocl_block_of(start); block < end && !ret; block += HMM_BLOCK)
		ret = ocl_block_map(ocl, block);
	return ret;
}

static uintptr_t block_end(uintptr_t va, uintptr_t end)
{
	uintptr_t stop = ocl_block_of(va) + HMM_BLOCK;

	return stop < end ? stop : end;
}

/* Where, behind the first block, there was no staging any more; or @end. */
static uintptr_t staged_end(const struct hmm_opencl *ocl, uintptr_t start, uintptr_t end)
{
	uintptr_t va = block_end(start, end);

	while (va < end &&
	       ocl->mover.src[(va - start) / ocl->page_size] != (uint64_t)HMM_REASON_NOMEM)
		va = block_end(va, end);
	return va;
}

/*
 * Blocks that are held: their copies overlap. *end: how far it came, at least the first,
 * since the rest of the program needs staging too. Pages moved, or an error.
 */
static int64_t move_blocks(struct hmm_opencl *ocl, uintptr_t start, uintptr_t *end)
{
	struct part elsewhere[OCL_HELD];
	unsigned int nr = 0;
	int64_t moved, more;
	uintptr_t va, stop;
	int ret;

	moved = pass(ocl, start, *end, HMM_MIGRATE_SYSTEM);
	if (moved < 0)
		return moved;
	*end = staged_end(ocl, start, *end);
	ret = map_blocks(ocl, start, *end);
	for (va = start; va < *end; va = stop) {
		stop = block_end(va, *end);
		elsewhere[nr++] = count_refused(ocl, ocl->mover.src + (va - start) / ocl->page_size,
						va, stop);
	}
	while (nr-- && !ret) {
		if (!elsewhere[nr].to)
			continue;
		more = pass(ocl, elsewhere[nr].from, elsewhere[nr].to, HMM_MIGRATE_DEVICE);
		moved += more > 0 ? more : 0;
		ret = map_blocks(ocl, elsewhere[nr].from, elsewhere[nr].to);
	}
	ocl_count(&ocl->count.migrated_in, (uint64_t)moved);
	return ret ? ret : moved;
}

int64_t ocl_block_move(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end)
{
	if (end > ocl->user_end)
		end = ocl->user_end;
	return start < end ? move_blocks(ocl, start, &end) : 0;
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
 * Hold @va's block, and those after it, @most in all, for which nothing has to leave.
 * Where that ends, or an error.
 */
static int64_t bind_blocks(struct hmm_opencl *ocl, uintptr_t va, uintptr_t end, int most)
{
	int64_t slot = ocl_block_bind(ocl, ocl_block_of(va), UINT64_MAX);

	if (slot < 0)
		return slot;
	va = block_end(va, end);
	for (int i = 1; i < most && va < end; i++) {
		slot = bind_free(ocl, va);
		if (slot < 0 || slot == OCL_NO_SLOT)
			break;
		va = block_end(va, end);
	}
	return (int64_t)va;
}

int64_t ocl_move_job(struct hmm_opencl *ocl, void *arg)
{
	struct ocl_move *move = arg;
	uintptr_t va = move->start, end, bound;
	int64_t moved = 0, n = 0;
	int most = OCL_HELD;

	memset(ocl->mover.reasons, 0, sizeof(ocl->mover.reasons));
	while (va < move->end && n >= 0) {
		n = bind_blocks(ocl, va, move->end, most);
		if (n < 0)
			break;
		end = bound = (uintptr_t)n;
		n = move_blocks(ocl, va, &end);
		if (end < bound)
			most = 1;
		moved += n > 0 ? n : 0;
		va = end;
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
