/* SPDX-License-Identifier: MIT */
#include "pagetable.h"

#include <errno.h>

#include <uhmm/driver.h>

/* Each chunk doubles the pool: mappings of safe memory are a few hundred, not more. */
#define CHUNK_BYTES	(256UL << 10)
#define CHUNK_BYTES_MAX	(64UL << 20)

struct soft_chunk {
	struct soft_chunk *next;
	size_t bytes;
	struct soft_node node[];
};

/* What an erase is about; vpn are page numbers, last inclusive. */
struct erase {
	uint64_t first, last;
	uint64_t must;		/* bits that an entry must have to go */
	bool lost;		/* take entries without VALID too */
	uint64_t erased;
};

static struct soft_node *entry_node(uint64_t entry)
{
	return (struct soft_node *)(uintptr_t)entry;
}

static unsigned int level_index(uint64_t vpn, int level)
{
	return (unsigned int)(vpn >> (level * SOFT_TABLE_BITS)) & (SOFT_TABLE_ENTRIES - 1);
}

static uint64_t table_span(int level)
{
	return 1ULL << (level * SOFT_TABLE_BITS);
}

static struct soft_chunk *chunk_alloc(size_t bytes)
{
	struct soft_chunk *chunk = hmm_safe_alloc(bytes);

	if (chunk)
		chunk->bytes = bytes;
	return chunk;
}

static void chunk_add(struct soft_table *table, struct soft_chunk *chunk)
{
	size_t nr = (chunk->bytes - sizeof(*chunk)) / sizeof(chunk->node[0]);

	chunk->next = table->chunks;
	table->chunks = chunk;
	for (size_t i = 0; i < nr; i++) {
		chunk->node[i].next = table->pool;
		table->pool = &chunk->node[i];
	}
	table->nr_pool += nr;
}

static struct soft_node *node_get(struct soft_table *table)
{
	struct soft_node *node = table->pool;

	if (node) {
		table->pool = node->next;
		table->nr_pool--;
	}
	return node;
}

/* Every entry of @node is 0 already. */
static void node_put(struct soft_table *table, struct soft_node *node)
{
	node->next = table->pool;
	table->pool = node;
	table->nr_pool++;
}

static void erase_entry(struct soft_node *node, unsigned int i, struct erase *erase)
{
	uint64_t pte = node->entry[i];

	if ((pte & erase->must) != erase->must)
		return;
	if (!(pte & HMM_SOFT_PTE_VALID) && !erase->lost)
		return;
	erase->erased |= pte & SOFT_PTE_FLAGS;
	if ((pte & (HMM_SOFT_PTE_VALID | SOFT_PTE_GUARDED)) == HMM_SOFT_PTE_VALID)
		erase->erased |= SOFT_PTE_DIRECT;
	node->entry[i] = 0;
	node->nr--;
}

static void erase_node(struct soft_table *table, struct soft_node *node, int level,
		       uint64_t base, struct erase *erase)
{
	uint64_t span = table_span(level);
	unsigned int i = 0, end = SOFT_TABLE_ENTRIES;

	if (erase->first > base)
		i = (unsigned int)((erase->first - base) / span);
	if (erase->last < base + span * SOFT_TABLE_ENTRIES - 1)
		end = (unsigned int)((erase->last - base) / span) + 1;

	for (; i < end && node->nr; i++) {
		struct soft_node *child = entry_node(node->entry[i]);

		if (!child)
			continue;
		if (level == 0) {
			erase_entry(node, i, erase);
			continue;
		}
		erase_node(table, child, level - 1, base + i * span, erase);
		if (child->nr)
			continue;
		node_put(table, child);
		node->entry[i] = 0;
		node->nr--;
	}
}

/* The first entry of [first, last] with all of @flags, UINT64_MAX: none. */
static uint64_t find_node(const struct soft_node *node, int level, uint64_t base,
			  uint64_t first, uint64_t last, uint64_t flags)
{
	uint64_t span = table_span(level), vpn;
	unsigned int i = first > base ? (unsigned int)((first - base) / span) : 0;

	for (; i < SOFT_TABLE_ENTRIES && base + i * span <= last; i++) {
		if (!node->entry[i])
			continue;
		if (level == 0) {
			if ((node->entry[i] & flags) == flags)
				return base + i;
			continue;
		}
		vpn = find_node(entry_node(node->entry[i]), level - 1, base + i * span, first,
				last, flags);
		if (vpn != UINT64_MAX)
			return vpn;
	}
	return UINT64_MAX;
}

int soft_table_init(struct soft_table *table)
{
	struct soft_chunk *chunk = chunk_alloc(CHUNK_BYTES);

	if (!chunk)
		return -ENOMEM;
	table->page_shift = (unsigned int)__builtin_ctzll(hmm_page_size());
	pthread_mutex_init(&table->lock, NULL);
	chunk_add(table, chunk);
	table->root = node_get(table);
	return 0;
}

void soft_table_destroy(struct soft_table *table)
{
	struct soft_chunk *chunk;

	while ((chunk = table->chunks)) {
		table->chunks = chunk->next;
		hmm_safe_free(chunk, chunk->bytes);
	}
	pthread_mutex_destroy(&table->lock);
}

int soft_table_lock_for(struct soft_table *table, size_t nr_pages)
{
	size_t want = nr_pages / SOFT_TABLE_ENTRIES + 2 + 2 * (SOFT_TABLE_LEVELS - 2);
	struct soft_chunk *chunk;
	size_t bytes;

	soft_table_lock(table);
	while (table->nr_pool < want) {
		bytes = table->chunks->bytes * 2;
		soft_table_unlock(table);
		chunk = chunk_alloc(bytes < CHUNK_BYTES_MAX ? bytes : CHUNK_BYTES_MAX);
		if (!chunk)
			return -ENOMEM;
		soft_table_lock(table);
		chunk_add(table, chunk);
	}
	return 0;
}

uint64_t *soft_table_slot(struct soft_table *table, uintptr_t va)
{
	uint64_t vpn = va >> table->page_shift;
	struct soft_node *node = table->root;

	for (int level = SOFT_TABLE_LEVELS - 1; level > 0; level--) {
		node = entry_node(node->entry[level_index(vpn, level)]);
		if (!node)
			return NULL;
	}
	return &node->entry[level_index(vpn, 0)];
}

uint64_t soft_table_get(struct soft_table *table, uintptr_t va)
{
	uint64_t *slot = soft_table_slot(table, va);

	return slot ? *slot : 0;
}

/* The node with the page's entry, made where there is none; NULL: the pool is empty. */
static struct soft_node *node_for(struct soft_table *table, uint64_t vpn)
{
	struct soft_node *node = table->root, *child;

	for (int level = SOFT_TABLE_LEVELS - 1; level > 0; level--) {
		uint64_t *entry = &node->entry[level_index(vpn, level)];

		if (!*entry) {
			child = node_get(table);
			if (!child)
				return NULL;
			*entry = (uintptr_t)child;
			node->nr++;
		}
		node = entry_node(*entry);
	}
	return node;
}

bool soft_table_set_run(struct soft_table *table, uintptr_t va, size_t nr, uint64_t pte)
{
	const uint64_t page = 1ULL << table->page_shift;
	uint64_t vpn = va >> table->page_shift, end = vpn + nr;

	while (vpn < end) {
		struct soft_node *node = node_for(table, vpn);

		if (!node)
			return false;
		do {
			uint64_t *entry = &node->entry[level_index(vpn, 0)];

			node->nr += !*entry;
			*entry = pte;
			pte += page;
		} while (++vpn < end && level_index(vpn, 0));
	}
	return true;
}

bool soft_table_set(struct soft_table *table, uintptr_t va, uint64_t pte)
{
	return soft_table_set_run(table, va, 1, pte);
}

uint64_t soft_table_erase(struct soft_table *table, uintptr_t start, uintptr_t end, bool lost)
{
	uint64_t limit = table_span(SOFT_TABLE_LEVELS) - 1;
	struct erase erase = {
		.first = start >> table->page_shift,
		.last = (end - 1) >> table->page_shift,
		.lost = lost,
	};

	if (erase.first > limit)
		return 0;
	if (erase.last > limit)
		erase.last = limit;
	erase_node(table, table->root, SOFT_TABLE_LEVELS - 1, 0, &erase);
	return erase.erased;
}

uint64_t soft_table_erase_local(struct soft_table *table)
{
	struct erase erase = {
		.last = table_span(SOFT_TABLE_LEVELS) - 1,
		.must = HMM_SOFT_PTE_LOCAL,
	};

	erase_node(table, table->root, SOFT_TABLE_LEVELS - 1, 0, &erase);
	return erase.erased;
}

size_t soft_table_count_local(struct soft_table *table, uintptr_t start, uintptr_t end)
{
	size_t n = 0;

	while ((start = soft_table_find(table, start, end, HMM_SOFT_PTE_LOCAL)) < end) {
		n++;
		start += 1UL << table->page_shift;
	}
	return n;
}

uintptr_t soft_table_find(struct soft_table *table, uintptr_t start, uintptr_t end, uint64_t flags)
{
	uint64_t limit = table_span(SOFT_TABLE_LEVELS) - 1;
	uint64_t first = start >> table->page_shift, last = (end - 1) >> table->page_shift;

	if (start >= end || first > limit)
		return UINTPTR_MAX;
	if (last > limit)
		last = limit;
	first = find_node(table->root, SOFT_TABLE_LEVELS - 1, 0, first, last, flags);
	return first == UINT64_MAX ? UINTPTR_MAX : (uintptr_t)(first << table->page_shift);
}
