/* SPDX-License-Identifier: MIT */
#include "borrow.h"

#include <errno.h>
#include <string.h>

#include "device.h"
#include "dma.h"

#define AROUND_BYTES	(64UL << 10)	/* copied with the page that was asked for */
#define TIMEOUT_MS	1000
#define UNMAPPED	UINTPTR_MAX	/* in written[]: the page is gone since */

int ocl_borrow_init(struct ocl_borrow *borrow, uint64_t page_size)
{
	borrow->pfns = hmm_safe_alloc(OCL_BLOCK_PAGES * sizeof(*borrow->pfns));
	borrow->written = hmm_safe_alloc(OCL_BORROW_WRITTEN * sizeof(*borrow->written));
	borrow->bytes = hmm_safe_alloc(OCL_BORROW_WRITTEN * sizeof(*borrow->bytes));
	borrow->page = hmm_safe_alloc(page_size);
	return borrow->pfns && borrow->written && borrow->bytes && borrow->page ? 0 : -ENOMEM;
}

void ocl_borrow_destroy(struct ocl_borrow *borrow, uint64_t page_size)
{
	for (uint32_t i = 0; borrow->bytes && i < OCL_BORROW_WRITTEN; i++)
		hmm_safe_free(borrow->bytes[i], page_size);
	hmm_safe_free(borrow->page, page_size);
	hmm_safe_free((void *)borrow->bytes, OCL_BORROW_WRITTEN * sizeof(*borrow->bytes));
	hmm_safe_free(borrow->written, OCL_BORROW_WRITTEN * sizeof(*borrow->written));
	hmm_safe_free(borrow->pfns, OCL_BLOCK_PAGES * sizeof(*borrow->pfns));
}

/* The mapping's say on [start, end), with @page wanted; the neighbours as they are. */
static int look(struct hmm_opencl *ocl, uintptr_t page, bool write, struct hmm_range *range)
{
	uint64_t *pfns = ocl->borrow.pfns;
	size_t nr = (range->end - range->start) / ocl->page_size;

	memset(pfns, 0, nr * sizeof(*pfns));
	pfns[(page - range->start) / ocl->page_size] =
		HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0);
	range->pfns = pfns;
	range->pfn_flags_mask = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
	range->notifier = ocl->notifier;
	range->owner = ocl;
	return hmm_range_fault_wait(ocl->mm, range, TIMEOUT_MS);
}

/* A page of the slot for a copy of @va's; false: the core has it. */
static bool page_get(struct hmm_opencl *ocl, uintptr_t va)
{
	struct ocl_pte pte;
	uint32_t slot, i = ocl_page_in_block(ocl, va);
	bool ours;

	ocl_table_lock(&ocl->table);
	slot = ocl_table_slot(&ocl->table, va);
	pte = ocl_table_get(&ocl->table, va);
	ocl_table_unlock(&ocl->table);
	if (pte.there && !pte.copy)
		return false;
	ours = ocl->memory.slots[slot].borrowed[i / 64] >> (i % 64) & 1;
	if (!ours && ocl_memory_reserve(&ocl->memory, slot, i, true))
		ours = true;
	return ours;
}

/* Where written[] has @page, or would: OCL_BORROW_WRITTEN if it is full. Table lock held. */
static uint32_t place_of(const struct ocl_borrow *borrow, uintptr_t page)
{
	uint32_t place = borrow->nr_written;

	for (uint32_t i = 0; i < borrow->nr_written; i++) {
		if (borrow->written[i] == page)
			return i;
		if (borrow->written[i] == UNMAPPED)
			place = i;
	}
	return place;
}

/* Keep the bytes that the page has now, for the comparison to come. */
static int keep(struct hmm_opencl *ocl, uintptr_t page, const char *bytes)
{
	struct ocl_borrow *borrow = &ocl->borrow;
	uint32_t i;

	ocl_table_lock(&ocl->table);
	i = place_of(borrow, page);
	ocl_table_unlock(&ocl->table);
	if (i == OCL_BORROW_WRITTEN)
		return -ENOMEM;
	if (!borrow->bytes[i])
		borrow->bytes[i] = hmm_safe_alloc(ocl->page_size);
	if (!borrow->bytes[i])
		return -ENOMEM;
	memcpy(borrow->bytes[i], bytes, ocl->page_size);
	ocl_table_lock(&ocl->table);
	borrow->written[i] = page;
	if (i == borrow->nr_written)
		borrow->nr_written++;
	ocl_table_unlock(&ocl->table);
	return 0;
}

static void forget(struct hmm_opencl *ocl, uintptr_t page)
{
	ocl_table_lock(&ocl->table);
	ocl_borrow_forget(&ocl->borrow, page);
	ocl_table_unlock(&ocl->table);
}

/* Pages of [start, end) that are to be copied, in `take`; counts in the request. */
static int fetch(struct hmm_opencl *ocl, const struct hmm_range *range, uintptr_t page, bool write,
		 uint64_t *take)
{
	unsigned int slot = ocl_channel_get(&ocl->channel);
	struct ocl_request *request = ocl_request(&ocl->channel, slot);
	char *staging = ocl_channel_staging(&ocl->channel, slot);
	uint64_t base;
	int ret = 0;

	ocl_table_lock(&ocl->table);
	base = ocl_slot_page(&ocl->memory, ocl_table_slot(&ocl->table, page));
	ocl_table_unlock(&ocl->table);
	request->nr_runs = 0;
	for (size_t i = 0; i < (range->end - range->start) / ocl->page_size && !ret; i++) {
		uintptr_t va = range->start + i * ocl->page_size;
		char *to = staging + request->nr_runs * ocl->page_size;

		if (!(*take >> i & 1))
			continue;
		if (hmm_copy_from_user(ocl->mm, to, va, ocl->page_size) != (int64_t)ocl->page_size) {
			*take &= ~(1ULL << i);
			ret = va == page ? -EAGAIN : 0;
			continue;
		}
		/* What was kept of a copy before this one is no measure for it. */
		if (va == page && write)
			ret = keep(ocl, va, to);
		else
			forget(ocl, va);
		request->runs[request->nr_runs] = (struct ocl_run){
			.index = base + ocl_page_in_block(ocl, va), .at = request->nr_runs, .nr = 1,
		};
		request->nr_runs++;
	}
	if (!ret && request->nr_runs)
		ret = ocl_dma_ask(ocl, slot, OCL_COPY_IN);
	ocl_channel_put(&ocl->channel, slot);
	return ret;
}

static int install(struct hmm_opencl *ocl, const struct hmm_range *range, uintptr_t page,
		   bool write, uint64_t take)
{
	int ret = 0;

	ocl_table_lock(&ocl->table);
	if (hmm_notifier_read_retry(ocl->notifier, range->seq))
		ret = -EAGAIN;
	for (size_t i = 0; take >> i && !ret; i++) {
		uintptr_t va = range->start + i * ocl->page_size;

		if (take >> i & 1)
			ocl_table_set(&ocl->table, va,
				      (struct ocl_pte){ .there = true, .copy = true,
							.write = write && va == page });
	}
	ocl_table_unlock(&ocl->table);
	if (!ret)
		ocl_count(&ocl->count.borrowed, (uint64_t)__builtin_popcountll(take));
	return ret;
}

/* Which pages are valid, not the device's, and not there yet but for @page. */
static uint64_t choose(struct hmm_opencl *ocl, const struct hmm_range *range, uintptr_t page)
{
	uint64_t take = 0;

	for (size_t i = 0; i < (range->end - range->start) / ocl->page_size && i < 64; i++) {
		uintptr_t va = range->start + i * ocl->page_size;
		uint64_t pfn = range->pfns[i];
		bool there;

		if (!(pfn & HMM_PFN_VALID) || pfn & (HMM_PFN_ERROR | HMM_PFN_DEVICE))
			continue;
		ocl_table_lock(&ocl->table);
		there = ocl_table_get(&ocl->table, va).there;
		ocl_table_unlock(&ocl->table);
		if ((!there || va == page) && page_get(ocl, va))
			take |= 1ULL << i;
	}
	return take;
}

int ocl_borrow_page(struct hmm_opencl *ocl, uintptr_t va, bool write)
{
	uintptr_t page = ocl_page_of(ocl, va);
	HMM_OPTS(hmm_range, range, .start = va & ~(AROUND_BYTES - 1));
	uint64_t pfn, take;
	int ret;

	range.end = range.start + AROUND_BYTES;
	if (range.end > ocl->user_end)
		range.end = ocl->user_end;
	ret = look(ocl, page, write, &range);
	if (ret)
		return ret == -ETIMEDOUT ? -EAGAIN : ret;
	pfn = range.pfns[(page - range.start) / ocl->page_size];
	if (pfn & HMM_PFN_ERROR || !(pfn & HMM_PFN_VALID))
		return -EFAULT;
	if (pfn & HMM_PFN_DEVICE) {
		/* In its place it is mapped now; elsewhere it comes home and moves anew. */
		ret = ocl_block_map(ocl, ocl_block_of(page));
		return ret ? ret : -EAGAIN;
	}
	/* What was stored to the copy so far has been written back after its slice. */
	take = choose(ocl, &range, page);
	if (!(take >> ((page - range.start) / ocl->page_size) & 1))
		return -EAGAIN;
	ret = fetch(ocl, &range, page, write, &take);
	return ret ? ret : install(ocl, &range, page, write, take);
}

/* The page of an entry, or UNMAPPED. */
static uintptr_t written(struct hmm_opencl *ocl, uint32_t i)
{
	uintptr_t page;

	ocl_table_lock(&ocl->table);
	page = ocl->borrow.written[i];
	ocl_table_unlock(&ocl->table);
	return page;
}

/*
 * Runs of bytes that differ go to the program. Were the table locked for a store, it could
 * wait for a fault that waits for an invalidation: so one that has begun when the page is
 * unmapped may come after it, and no more than that one.
 */
static void give_back(struct hmm_opencl *ocl, uint32_t i, uintptr_t page)
{
	char *had = ocl->borrow.bytes[i];
	const char *has = ocl->borrow.page;
	size_t at = 0, end;

	while (at < ocl->page_size) {
		if (had[at] == has[at]) {
			at++;
			continue;
		}
		for (end = at; end < ocl->page_size && had[end] != has[end]; end++)
			;
		/* What is unmapped or read-only by now is as if it had been so before. */
		if (written(ocl, i) != page ||
		    hmm_copy_to_user(ocl->mm, page + at, has + at, end - at) < 0)
			return;
		at = end;
	}
	memcpy(had, has, ocl->page_size);
}

/* What the device has of @page, in borrow.page. */
static int copy_out(struct hmm_opencl *ocl, uintptr_t page)
{
	unsigned int slot = ocl_channel_get(&ocl->channel);
	struct ocl_request *request = ocl_request(&ocl->channel, slot);
	uint32_t from;
	int ret;

	ocl_table_lock(&ocl->table);
	from = ocl_table_slot(&ocl->table, page);
	ocl_table_unlock(&ocl->table);
	request->runs[0] = (struct ocl_run){
		.index = ocl_slot_page(&ocl->memory, from) + ocl_page_in_block(ocl, page),
		.nr = 1,
	};
	request->nr_runs = 1;
	ret = ocl_dma_ask(ocl, slot, OCL_COPY_OUT);
	if (!ret)
		memcpy(ocl->borrow.page, ocl_channel_staging(&ocl->channel, slot), ocl->page_size);
	ocl_channel_put(&ocl->channel, slot);
	return ret;
}

int ocl_borrow_write_back(struct hmm_opencl *ocl)
{
	int ret = 0;

	for (uint32_t i = 0; i < ocl->borrow.nr_written && !ret; i++) {
		uintptr_t page = written(ocl, i);

		if (page == UNMAPPED)
			continue;
		ret = copy_out(ocl, page);
		if (!ret)
			give_back(ocl, i, page);
	}
	return ret;
}

void ocl_borrow_unmapped(struct ocl_borrow *borrow, uintptr_t start, uintptr_t end)
{
	for (uint32_t i = 0; i < borrow->nr_written; i++)
		if (borrow->written[i] >= start && borrow->written[i] < end)
			borrow->written[i] = UNMAPPED;
}

void ocl_borrow_forget(struct ocl_borrow *borrow, uintptr_t page)
{
	for (uint32_t i = 0; i < borrow->nr_written; i++) {
		char *bytes = borrow->bytes[i];

		if (borrow->written[i] != page)
			continue;
		borrow->nr_written--;
		borrow->written[i] = borrow->written[borrow->nr_written];
		borrow->bytes[i] = borrow->bytes[borrow->nr_written];
		borrow->bytes[borrow->nr_written] = bytes;
	}
}

/* Table lock held: a page that is free may become anything. */
static void drop_copies(struct hmm_opencl *ocl, uint32_t nr)
{
	struct ocl_slot *slot = &ocl->memory.slots[nr];

	for (uint32_t w = 0; w < OCL_BLOCK_WORDS; w++)
		for (uint64_t left = slot->borrowed[w]; left; left &= left - 1) {
			uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(left);
			uintptr_t va = slot->block + i * ocl->page_size;

			ocl_table_set(&ocl->table, va, (struct ocl_pte){ 0 });
			ocl_borrow_forget(&ocl->borrow, va);
		}
	ocl_memory_return(&ocl->memory, nr);
}

void ocl_borrow_drop(struct hmm_opencl *ocl, uint32_t slot)
{
	ocl_table_lock(&ocl->table);
	if (ocl->memory.slots[slot].block)
		drop_copies(ocl, slot);
	ocl_table_unlock(&ocl->table);
}

void ocl_borrow_return(struct hmm_opencl *ocl)
{
	ocl_table_lock(&ocl->table);
	for (uint32_t slot = 0; slot < ocl->memory.nr_slots; slot++) {
		if (ocl->memory.slots[slot].block)
			drop_copies(ocl, slot);
		ocl->memory.slots[slot].moves = 0;
	}
	/* Those left are UNMAPPED. */
	ocl->borrow.nr_written = 0;
	ocl_table_unlock(&ocl->table);
}
