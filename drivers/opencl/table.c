/* SPDX-License-Identifier: MIT */
#include "table.h"

#include <errno.h>
#include <string.h>

#include <uhmm/driver.h>

#include "channel.h"

#define LEAF_SHIFT	(HMM_BLOCK_SHIFT + HMM_LEAF_BITS)
#define FLAGS		(HMM_ENTRY_BOUND | HMM_ENTRY_FULL | HMM_ENTRY_WRITE)
#define RUN_MAX		4095u

static uint64_t *entry_of(const struct ocl_table *table, uintptr_t va)
{
	uint64_t leaf;

	if (va >> HMM_ADDRESS_BITS)
		return NULL;
	leaf = table->words[va >> LEAF_SHIFT];
	return leaf ? &table->words[leaf + (va >> HMM_BLOCK_SHIFT & (OCL_LEAF_WORDS - 1))] : NULL;
}

static void mark(struct ocl_table *table, const uint64_t *entry)
{
	table->leaf_dirty[((uint64_t)(entry - table->words) - OCL_DIRECTORY_WORDS) /
			  OCL_LEAF_WORDS] = true;
}

static uint64_t *pages_of(const struct ocl_table *table, uint32_t slot)
{
	return table->pages + (uint64_t)slot * HMM_PAGES_WORDS;
}

static uint32_t page_in_block(const struct ocl_table *table, uintptr_t va)
{
	return (uint32_t)((va & (HMM_BLOCK - 1)) >> table->page_shift);
}

int ocl_table_init(struct ocl_table *table, struct ocl_memory *memory, uint32_t page_shift,
		   uint32_t pool_slots)
{
	pthread_mutex_init(&table->lock, NULL);
	table->memory = memory;
	table->page_shift = page_shift;
	table->pool_slots = pool_slots;
	table->max_leaves = OCL_TABLE_LEAVES;
	table->words = hmm_safe_alloc(ocl_table_words(table->max_leaves) * 8);
	table->leaf_dirty = hmm_safe_alloc(table->max_leaves * sizeof(bool));
	table->pages = hmm_safe_alloc((uint64_t)memory->nr_slots * HMM_PAGES_WORDS * 8);
	table->slot_dirty = hmm_safe_alloc(memory->nr_slots * sizeof(bool));
	/* The device's copy begins with anything. */
	table->directory_dirty = true;
	return table->words && table->leaf_dirty && table->pages && table->slot_dirty ? 0 : -ENOMEM;
}

void ocl_table_destroy(struct ocl_table *table)
{
	uint64_t slots = table->memory ? table->memory->nr_slots : 0;

	hmm_safe_free(table->words, ocl_table_words(table->max_leaves) * 8);
	hmm_safe_free(table->leaf_dirty, table->max_leaves * sizeof(bool));
	hmm_safe_free(table->pages, slots * HMM_PAGES_WORDS * 8);
	hmm_safe_free(table->slot_dirty, slots * sizeof(bool));
	pthread_mutex_destroy(&table->lock);
}

/* Twice as many leaves. Only the worker adds leaves, so that none is added meanwhile. */
static int grow(struct ocl_table *table, struct ocl_channel *channel)
{
	uint32_t old = table->max_leaves, max = old * 2;
	uint64_t *words = hmm_safe_alloc(ocl_table_words(max) * 8), *old_words;
	bool *dirty = hmm_safe_alloc(max * sizeof(bool)), *old_dirty;
	int ret = words && dirty ? 0 : -ENOMEM;

	if (!ret) {
		ocl_request(channel, OCL_WORKER_SLOT)->a[0] = ocl_table_words(max);
		ret = ocl_channel_ask(channel, OCL_WORKER_SLOT, OCL_GROW);
	}
	if (ret) {
		hmm_safe_free(words, ocl_table_words(max) * 8);
		hmm_safe_free(dirty, max * sizeof(bool));
		return ret;
	}
	ocl_table_lock(table);
	old_words = table->words;
	old_dirty = table->leaf_dirty;
	memcpy(words, old_words, ocl_table_words(table->nr_leaves) * 8);
	memset(dirty, 1, table->nr_leaves * sizeof(bool));
	table->words = words;
	table->leaf_dirty = dirty;
	table->max_leaves = max;
	table->directory_dirty = true;
	ocl_table_unlock(table);
	hmm_safe_free(old_words, ocl_table_words(old) * 8);
	hmm_safe_free(old_dirty, old * sizeof(bool));
	return 0;
}

int ocl_table_prepare(struct ocl_table *table, struct ocl_channel *channel, uintptr_t block)
{
	int ret = 0;

	ocl_table_lock(table);
	if (table->words[block >> LEAF_SHIFT])
		goto unlock;
	if (table->nr_leaves == table->max_leaves) {
		ocl_table_unlock(table);
		ret = grow(table, channel);
		if (ret)
			return ret;
		ocl_table_lock(table);
	}
	table->words[block >> LEAF_SHIFT] = ocl_table_words(table->nr_leaves);
	table->leaf_dirty[table->nr_leaves++] = true;
	table->directory_dirty = true;
unlock:
	ocl_table_unlock(table);
	return ret;
}

uint32_t ocl_table_slot(const struct ocl_table *table, uintptr_t va)
{
	const uint64_t *entry = entry_of(table, va);

	return entry && *entry & HMM_ENTRY_BOUND ? (uint32_t)(*entry >> HMM_ENTRY_SLOT) :
	       OCL_NO_SLOT;
}

void ocl_table_bind(struct ocl_table *table, uintptr_t block, uint32_t slot)
{
	uint64_t *entry = entry_of(table, block);

	*entry = HMM_ENTRY_BOUND | (uint64_t)slot << HMM_ENTRY_SLOT;
	mark(table, entry);
	memset(pages_of(table, slot), 0, HMM_PAGES_WORDS * 8);
	table->slot_dirty[slot] = true;
	table->stale = true;
}

void ocl_table_unbind(struct ocl_table *table, uintptr_t block)
{
	uint64_t *entry = entry_of(table, block);

	*entry = 0;
	mark(table, entry);
	table->stale = true;
}

struct ocl_pte ocl_table_get(const struct ocl_table *table, uintptr_t va)
{
	uint32_t slot = ocl_table_slot(table, va), i = page_in_block(table, va);
	const uint64_t *words;

	if (slot == OCL_NO_SLOT)
		return (struct ocl_pte){ 0 };
	words = pages_of(table, slot) + i / 64;
	return (struct ocl_pte){
		.there = words[0] >> (i % 64) & 1,
		.write = words[HMM_PAGES_WRITE] >> (i % 64) & 1,
		.copy = words[HMM_PAGES_COPY] >> (i % 64) & 1,
	};
}

static void bit_put(uint64_t *word, uint32_t i, bool set)
{
	*word = (*word & ~(1ULL << i)) | (uint64_t)set << i;
}

void ocl_table_set(struct ocl_table *table, uintptr_t va, struct ocl_pte pte)
{
	uint32_t slot = ocl_table_slot(table, va), i = page_in_block(table, va);
	uint64_t *words = pages_of(table, slot) + i / 64;

	bit_put(&words[0], i % 64, pte.there);
	bit_put(&words[HMM_PAGES_WRITE], i % 64, pte.write);
	bit_put(&words[HMM_PAGES_COPY], i % 64, pte.copy);
	table->slot_dirty[slot] = true;
	table->stale = true;
}

/* The pages [first, last] of a slot. */
static uint64_t slot_erase(struct ocl_table *table, uint32_t slot, uint32_t first, uint32_t last,
			   bool copies)
{
	uint64_t *words = pages_of(table, slot), erased = 0;

	for (uint32_t w = first / 64; w <= last / 64; w++) {
		uint64_t mask = ~0ULL;

		if (w == first / 64)
			mask &= ~0ULL << (first % 64);
		if (w == last / 64)
			mask &= ~0ULL >> (63 - last % 64);
		if (!copies)
			mask &= ~words[HMM_PAGES_COPY + w];
		erased += (uint64_t)__builtin_popcountll(words[w] & mask);
		words[w] &= ~mask;
		words[HMM_PAGES_WRITE + w] &= ~mask;
		words[HMM_PAGES_COPY + w] &= ~mask;
	}
	if (erased) {
		table->slot_dirty[slot] = true;
		table->stale = true;
	}
	return erased;
}

uint64_t ocl_table_erase(struct ocl_table *table, uintptr_t start, uintptr_t end, bool copies)
{
	uintptr_t block = start & ~(HMM_BLOCK - 1), top = 1UL << HMM_ADDRESS_BITS;
	uint64_t erased = 0;

	if (end > top)
		end = top;
	while (block < end) {
		uintptr_t next = block + HMM_BLOCK;
		uint32_t slot;

		if (!table->words[block >> LEAF_SHIFT]) {
			block = ((block >> LEAF_SHIFT) + 1) << LEAF_SHIFT;
			continue;
		}
		slot = ocl_table_slot(table, block);
		if (slot != OCL_NO_SLOT)
			erased += slot_erase(table, slot,
					     page_in_block(table, start > block ? start : block),
					     page_in_block(table, (end < next ? end : next) - 1),
					     copies);
		block = next;
	}
	return erased;
}

/* An entry without its run, by what is there now. */
static uint64_t entry_now(const struct ocl_table *table, uint64_t entry)
{
	uint32_t slot = (uint32_t)(entry >> HMM_ENTRY_SLOT);
	const uint64_t *words = pages_of(table, slot);
	uint32_t pages = table->memory->block_pages;
	uint64_t all = ~0ULL, writable = ~0ULL, copies = 0;

	for (uint32_t w = 0; w < (pages + 63) / 64; w++) {
		uint64_t mask = pages < 64 ? (1ULL << pages) - 1 : ~0ULL;

		all &= words[w] | ~mask;
		writable &= words[HMM_PAGES_WRITE + w] | ~mask;
		copies |= words[HMM_PAGES_COPY + w];
	}
	entry = HMM_ENTRY_BOUND | (uint64_t)slot << HMM_ENTRY_SLOT;
	if (all == ~0ULL && !copies)
		entry |= HMM_ENTRY_FULL | (writable == ~0ULL ? HMM_ENTRY_WRITE : 0);
	return entry;
}

static bool continues(const struct ocl_table *table, uint64_t entry, uint64_t next)
{
	uint64_t slot = next >> HMM_ENTRY_SLOT;

	return entry & HMM_ENTRY_FULL && (entry & FLAGS) == (next & FLAGS) &&
	       slot == (entry >> HMM_ENTRY_SLOT) + 1 && slot % table->pool_slots;
}

/* Find the entries of a leaf anew, run by run. */
static void leaf_refresh(struct ocl_table *table, uint64_t *leaf)
{
	uint32_t first = 0;

	while (first < OCL_LEAF_WORDS) {
		uint64_t entry, last;
		uint32_t nr = 0;

		if (!leaf[first]) {
			first++;
			continue;
		}
		entry = last = entry_now(table, leaf[first]);
		for (;;) {
			uint64_t next;

			nr++;
			if (first + nr == OCL_LEAF_WORDS || !leaf[first + nr] || nr > RUN_MAX)
				break;
			next = entry_now(table, leaf[first + nr]);
			if (!continues(table, last, next))
				break;
			last = next;
		}
		for (uint32_t i = 0; i < nr; i++) {
			uint64_t now = entry + ((uint64_t)i << HMM_ENTRY_SLOT) +
				       ((uint64_t)i << HMM_ENTRY_BEFORE) +
				       ((uint64_t)(nr - 1 - i) << HMM_ENTRY_AFTER);

			if (leaf[first + i] == now)
				continue;
			leaf[first + i] = now;
			mark(table, &leaf[first + i]);
		}
		first += nr;
	}
}

/* Words to send, gathered in the worker's staging until it is full. */
struct parcel {
	struct ocl_channel *channel;
	enum ocl_table_part which;
	uint64_t words;
	uint32_t nr_runs;
};

static int parcel_send(struct parcel *parcel)
{
	struct ocl_request *request = ocl_request(parcel->channel, OCL_WORKER_SLOT);
	int ret;

	if (!parcel->nr_runs)
		return 0;
	request->a[0] = parcel->which;
	request->nr_runs = parcel->nr_runs;
	ret = ocl_channel_ask(parcel->channel, OCL_WORKER_SLOT, OCL_TABLE);
	parcel->words = 0;
	parcel->nr_runs = 0;
	return ret;
}

static int parcel_add(struct parcel *parcel, const uint64_t *words, uint64_t index, uint64_t nr)
{
	struct ocl_request *request = ocl_request(parcel->channel, OCL_WORKER_SLOT);
	struct ocl_run *last = parcel->nr_runs ? &request->runs[parcel->nr_runs - 1] : NULL;
	int ret;

	if (parcel->words + nr > OCL_STAGING / 8 || parcel->nr_runs == OCL_RUNS) {
		ret = parcel_send(parcel);
		if (ret)
			return ret;
		last = NULL;
	}
	memcpy(ocl_channel_staging(parcel->channel, OCL_WORKER_SLOT) + parcel->words * 8, words,
	       nr * 8);
	if (last && last->index + last->nr == index)
		last->nr += nr;
	else
		request->runs[parcel->nr_runs++] = (struct ocl_run){
			.index = index, .at = parcel->words, .nr = nr,
		};
	parcel->words += nr;
	return 0;
}

static int upload_entries(struct ocl_table *table, struct ocl_channel *channel)
{
	struct parcel parcel = { .channel = channel, .which = OCL_TABLE_ENTRIES };
	int ret = 0;

	if (table->directory_dirty)
		ret = parcel_add(&parcel, table->words, 0, OCL_DIRECTORY_WORDS);
	for (uint32_t leaf = 0; leaf < table->nr_leaves && !ret; leaf++)
		if (table->leaf_dirty[leaf])
			ret = parcel_add(&parcel, table->words + ocl_table_words(leaf),
					 ocl_table_words(leaf), OCL_LEAF_WORDS);
	if (!ret)
		ret = parcel_send(&parcel);
	if (ret)
		return ret;
	table->directory_dirty = false;
	memset(table->leaf_dirty, 0, table->nr_leaves * sizeof(bool));
	return 0;
}

static int upload_pages(struct ocl_table *table, struct ocl_channel *channel)
{
	struct parcel parcel = { .channel = channel, .which = OCL_TABLE_PAGES };
	int ret = 0;

	for (uint32_t slot = 0; slot < table->memory->nr_slots && !ret; slot++)
		if (table->slot_dirty[slot])
			ret = parcel_add(&parcel, pages_of(table, slot),
					 (uint64_t)slot * HMM_PAGES_WORDS, HMM_PAGES_WORDS);
	if (!ret)
		ret = parcel_send(&parcel);
	if (!ret)
		memset(table->slot_dirty, 0, table->memory->nr_slots * sizeof(bool));
	return ret;
}

int ocl_table_upload(struct ocl_table *table, struct ocl_channel *channel)
{
	int ret = 0;

	if (table->stale)
		for (uint32_t leaf = 0; leaf < table->nr_leaves; leaf++)
			leaf_refresh(table, table->words + ocl_table_words(leaf));
	if (table->stale)
		ret = upload_pages(table, channel);
	table->stale = ret;
	return ret ? ret : upload_entries(table, channel);
}
