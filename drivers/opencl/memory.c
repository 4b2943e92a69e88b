/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <errno.h>

#include <uhmm/driver.h>

static bool bit_test(const uint64_t *map, uint32_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *map, uint32_t i)
{
	map[i / 64] |= 1ULL << (i % 64);
}

static void bit_clear(uint64_t *map, uint32_t i)
{
	map[i / 64] &= ~(1ULL << (i % 64));
}

static bool is_free(const struct ocl_slot *slot)
{
	return !slot->nr_used && !slot->block;
}

/* Lock held. */
static void page_use(struct ocl_memory *mem, struct ocl_slot *slot, uint32_t i)
{
	if (is_free(slot))
		mem->nr_free--;
	bit_set(slot->used, i);
	slot->nr_used++;
}

/* Lock held. */
static void page_release(struct ocl_memory *mem, struct ocl_slot *slot, uint32_t i)
{
	if (!bit_test(slot->used, i))
		return;
	bit_clear(slot->used, i);
	slot->nr_used--;
	if (is_free(slot))
		mem->nr_free++;
}

int ocl_memory_init(struct ocl_memory *mem, uint32_t nr_slots, uint32_t block_pages)
{
	mem->nr_slots = nr_slots;
	mem->block_pages = block_pages;
	mem->nr_pages = (uint64_t)nr_slots * block_pages;
	mem->nr_free = nr_slots;
	pthread_mutex_init(&mem->lock, NULL);
	mem->slots = hmm_safe_alloc(nr_slots * sizeof(*mem->slots));
	return mem->slots ? 0 : -ENOMEM;
}

void ocl_memory_destroy(struct ocl_memory *mem)
{
	hmm_safe_free(mem->slots, mem->nr_slots * sizeof(*mem->slots));
	pthread_mutex_destroy(&mem->lock);
}

/* A loose slot with room, or a free one. Lock held. */
static struct ocl_slot *loose_choose(struct ocl_memory *mem, uint64_t nr)
{
	struct ocl_slot *free_slot = NULL;

	for (uint32_t n = 0; n < mem->nr_slots; n++) {
		struct ocl_slot *slot = &mem->slots[(mem->next + n) % mem->nr_slots];

		if (slot->block || slot->nr_used == mem->block_pages)
			continue;
		/* Whole blocks for whole requests, the holes of used ones for the others. */
		if (slot->nr_used && nr < mem->block_pages)
			return slot;
		if (!slot->nr_used && !free_slot)
			free_slot = slot;
		if (free_slot && nr >= mem->block_pages)
			break;
	}
	return free_slot;
}

uint64_t ocl_memory_take(struct ocl_memory *mem, uint64_t nr, uint64_t *first)
{
	struct ocl_slot *slot;
	uint64_t got = 0;
	uint32_t i = 0;

	pthread_mutex_lock(&mem->lock);
	slot = loose_choose(mem, nr);
	if (slot) {
		while (bit_test(slot->used, i))
			i++;
		*first = ocl_slot_page(mem, (uint32_t)(slot - mem->slots)) + i;
		for (; got < nr && i < mem->block_pages && !bit_test(slot->used, i); i++, got++)
			page_use(mem, slot, i);
		slot->stamp = ++mem->clock;
	}
	pthread_mutex_unlock(&mem->lock);
	return got;
}

void ocl_memory_free(struct ocl_memory *mem, uint64_t first, uint64_t nr)
{
	pthread_mutex_lock(&mem->lock);
	for (; nr; first++, nr--)
		page_release(mem, &mem->slots[first / mem->block_pages],
			     (uint32_t)(first % mem->block_pages));
	pthread_mutex_unlock(&mem->lock);
}

bool ocl_memory_reserve(struct ocl_memory *mem, uint32_t nr, uint32_t i, bool borrow)
{
	struct ocl_slot *slot = &mem->slots[nr];
	bool got;

	pthread_mutex_lock(&mem->lock);
	got = !bit_test(slot->used, i);
	if (got) {
		page_use(mem, slot, i);
		if (borrow)
			bit_set(slot->borrowed, i);
	}
	pthread_mutex_unlock(&mem->lock);
	return got;
}

bool ocl_memory_adopt(struct ocl_memory *mem, uint32_t nr, uint32_t i)
{
	struct ocl_slot *slot = &mem->slots[nr];
	bool was;

	pthread_mutex_lock(&mem->lock);
	was = bit_test(slot->borrowed, i);
	bit_clear(slot->borrowed, i);
	pthread_mutex_unlock(&mem->lock);
	return was;
}

void ocl_memory_return(struct ocl_memory *mem, uint32_t nr)
{
	struct ocl_slot *slot = &mem->slots[nr];

	pthread_mutex_lock(&mem->lock);
	for (uint32_t w = 0; w < OCL_BLOCK_WORDS; w++) {
		for (; slot->borrowed[w]; slot->borrowed[w] &= slot->borrowed[w] - 1)
			page_release(mem, slot,
				     w * 64 + (uint32_t)__builtin_ctzll(slot->borrowed[w]));
	}
	pthread_mutex_unlock(&mem->lock);
}

void ocl_memory_hold(struct ocl_memory *mem, uint32_t nr)
{
	pthread_mutex_lock(&mem->lock);
	mem->held[mem->nr_held++] = nr;
	pthread_mutex_unlock(&mem->lock);
}

void ocl_memory_let_go(struct ocl_memory *mem)
{
	pthread_mutex_lock(&mem->lock);
	mem->nr_held = 0;
	pthread_mutex_unlock(&mem->lock);
}

/* Lock held. */
static bool is_held(const struct ocl_memory *mem, uint32_t nr)
{
	for (uint32_t i = 0; i < mem->nr_held; i++)
		if (mem->held[i] == nr)
			return true;
	return false;
}

uint32_t ocl_memory_bind(struct ocl_memory *mem, uintptr_t block, uint32_t wish)
{
	uint32_t nr = OCL_NO_SLOT;

	pthread_mutex_lock(&mem->lock);
	if (wish < mem->nr_slots && is_free(&mem->slots[wish]))
		nr = wish;
	for (uint32_t n = 0; n < mem->nr_slots && mem->nr_free && nr == OCL_NO_SLOT; n++)
		if (is_free(&mem->slots[(mem->next + n) % mem->nr_slots]))
			nr = (mem->next + n) % mem->nr_slots;
	if (nr != OCL_NO_SLOT) {
		mem->slots[nr].block = block;
		mem->slots[nr].stamp = ++mem->clock;
		mem->slots[nr].moves = 0;
		mem->held[mem->nr_held++] = nr;
		mem->nr_free--;
		mem->next = (nr + 1) % mem->nr_slots;
	}
	pthread_mutex_unlock(&mem->lock);
	return nr;
}

uint32_t ocl_memory_idle(struct ocl_memory *mem, uint64_t before)
{
	uint32_t nr;

	pthread_mutex_lock(&mem->lock);
	for (nr = 0; nr < mem->nr_slots; nr++)
		if (mem->slots[nr].block && !mem->slots[nr].nr_used && !is_held(mem, nr) &&
		    mem->slots[nr].stamp < before)
			break;
	pthread_mutex_unlock(&mem->lock);
	return nr < mem->nr_slots ? nr : OCL_NO_SLOT;
}

void ocl_memory_unbind(struct ocl_memory *mem, uint32_t nr)
{
	pthread_mutex_lock(&mem->lock);
	mem->slots[nr].block = 0;
	mem->slots[nr].pinned = false;
	mem->nr_free++;
	pthread_mutex_unlock(&mem->lock);
}

uint32_t ocl_memory_oldest(struct ocl_memory *mem, uint64_t before)
{
	uint32_t oldest = OCL_NO_SLOT;

	pthread_mutex_lock(&mem->lock);
	for (uint32_t nr = 0; nr < mem->nr_slots; nr++) {
		struct ocl_slot *slot = &mem->slots[nr];

		if (!slot->nr_used || slot->pinned || is_held(mem, nr) || slot->stamp >= before)
			continue;
		if (oldest == OCL_NO_SLOT || slot->stamp < mem->slots[oldest].stamp)
			oldest = nr;
	}
	if (oldest != OCL_NO_SLOT)
		mem->slots[oldest].stamp = mem->clock;
	pthread_mutex_unlock(&mem->lock);
	return oldest;
}

void ocl_memory_serve(struct ocl_memory *mem, uint32_t nr, bool pin)
{
	pthread_mutex_lock(&mem->lock);
	mem->slots[nr].stamp = ++mem->clock;
	mem->slots[nr].pinned |= pin;
	pthread_mutex_unlock(&mem->lock);
}

void ocl_memory_unpin_all(struct ocl_memory *mem)
{
	pthread_mutex_lock(&mem->lock);
	for (uint32_t nr = 0; nr < mem->nr_slots; nr++)
		mem->slots[nr].pinned = false;
	pthread_mutex_unlock(&mem->lock);
}

uint64_t ocl_memory_now(struct ocl_memory *mem)
{
	uint64_t now;

	pthread_mutex_lock(&mem->lock);
	now = ++mem->clock;
	pthread_mutex_unlock(&mem->lock);
	return now;
}

uint64_t ocl_memory_bytes_used(struct ocl_memory *mem)
{
	uint64_t used;

	pthread_mutex_lock(&mem->lock);
	used = (uint64_t)(mem->nr_slots - mem->nr_free) << HMM_BLOCK_SHIFT;
	pthread_mutex_unlock(&mem->lock);
	return used;
}
