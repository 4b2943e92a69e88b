/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <errno.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

static bool bit_test(const uint64_t *map, uint32_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *map, uint32_t i)
{
	map[i / 64] |= 1ULL << (i % 64);
}

static uint64_t block_index(const struct soft_memory *mem, const struct soft_block *block)
{
	return (uint64_t)(block - mem->blocks);
}

/* The last block may be cut short by the end of the memory. */
static uint32_t block_capacity(const struct soft_memory *mem, const struct soft_block *block)
{
	uint64_t left = mem->nr_pages - block_index(mem, block) * mem->block_pages;

	return left < mem->block_pages ? (uint32_t)left : mem->block_pages;
}

static struct soft_block *block_of(const struct soft_memory *mem, uint64_t frame)
{
	return &mem->blocks[frame / mem->block_pages];
}

/* An unused block, out of every list; NULL: none. */
static struct soft_block *empty_take(struct soft_memory *mem)
{
	struct soft_link *link = soft_list_pop(&mem->empty);
	struct soft_block *block;

	if (link)
		return soft_entry(link, struct soft_block, list);
	if (mem->nr_fresh == mem->nr_blocks)
		return NULL;
	block = &mem->blocks[mem->nr_fresh++];
	soft_list_init(&block->lru);
	soft_list_init(&block->list);
	return block;
}

/* Whole blocks for whole requests, the holes of used blocks for the others. */
static struct soft_block *block_choose(struct soft_memory *mem, uint64_t nr)
{
	bool whole = nr >= mem->block_pages;
	struct soft_block *block = NULL;

	if (whole)
		block = empty_take(mem);
	if (!block && !soft_list_empty(&mem->partial))
		block = soft_entry(mem->partial.next, struct soft_block, list);
	if (!block && !whole)
		block = empty_take(mem);
	return block;
}

static uint32_t first_free(const struct soft_block *block, uint32_t capacity)
{
	for (uint32_t word = 0; word < SOFT_BLOCK_WORDS; word++)
		if (~block->used[word])
			return word * 64 + (uint32_t)__builtin_ctzll(~block->used[word]);
	return capacity;
}

static void block_relist(struct soft_memory *mem, struct soft_block *block)
{
	soft_list_remove(&block->list);
	if (!block->nr_used) {
		soft_list_remove(&block->lru);
		soft_list_prepend(&mem->empty, &block->list);	/* while it is in a cache */
	} else if (block->nr_used < block_capacity(mem, block)) {
		soft_list_append(&mem->partial, &block->list);
	}
}

static void block_enqueue(struct soft_memory *mem, struct soft_block *block, uint64_t stamp)
{
	soft_list_remove(&block->lru);
	block->stamp = stamp;
	soft_list_append(&mem->lru, &block->lru);
}

/* The frames of @bits of a word of the block's are nobody's. */
static void word_release(struct soft_memory *mem, struct soft_block *block, uint32_t word,
			 uint64_t bits)
{
	uint32_t nr = (uint32_t)__builtin_popcountll(bits);

	block->used[word] &= ~bits;
	block->nr_used -= nr;
	atomic_fetch_sub_explicit(&mem->nr_used, nr, memory_order_relaxed);
}

/* True when some were lost and have to be scrubbed first. */
static bool word_free(struct soft_memory *mem, struct soft_block *block, uint32_t word,
		      uint64_t bits)
{
	uint64_t lost = block->lost[word] & bits;
	uint32_t nr = (uint32_t)__builtin_popcountll(lost);

	word_release(mem, block, word, bits & ~lost);
	if (!lost)
		return false;
	block->lost[word] &= ~lost;
	block->retired[word] |= lost;
	atomic_fetch_sub_explicit(&mem->nr_lost, nr, memory_order_relaxed);
	mem->nr_retired += nr;
	return true;
}

static void frame_lose(struct soft_memory *mem, struct soft_block *block, uint32_t i)
{
	if (!bit_test(block->used, i) || bit_test(block->lost, i) || bit_test(block->retired, i))
		return;
	bit_set(block->lost, i);
	atomic_fetch_add_explicit(&mem->nr_lost, 1, memory_order_release);
}

int soft_memory_init(struct soft_memory *mem, uint64_t bytes)
{
	size_t page = hmm_page_size();

	mem->page_shift = (unsigned int)__builtin_ctzll(page);
	mem->block_pages = page < SOFT_BLOCK_BYTES ? (uint32_t)(SOFT_BLOCK_BYTES / page) : 1;
	mem->bytes = bytes;
	mem->nr_pages = bytes >> mem->page_shift;
	mem->nr_blocks = (mem->nr_pages + mem->block_pages - 1) / mem->block_pages;
	soft_list_init(&mem->lru);
	soft_list_init(&mem->partial);
	soft_list_init(&mem->empty);
	pthread_mutex_init(&mem->lock, NULL);

	mem->base = hmm_safe_alloc(bytes);
	mem->blocks = hmm_safe_alloc(mem->nr_blocks * sizeof(*mem->blocks));
	mem->va = hmm_safe_alloc(mem->nr_pages * sizeof(*mem->va));
	if (!mem->base || !mem->blocks || !mem->va) {
		soft_memory_destroy(mem);
		return -ENOMEM;
	}
	/* Without huge pages every first arrival pays a fault per page, seven times the copy. */
	(void)madvise(mem->base, bytes, MADV_HUGEPAGE);
	return 0;
}

void soft_memory_destroy(struct soft_memory *mem)
{
	hmm_safe_free((void *)mem->va, mem->nr_pages * sizeof(*mem->va));
	hmm_safe_free(mem->blocks, mem->nr_blocks * sizeof(*mem->blocks));
	hmm_safe_free(mem->base, mem->bytes);
	pthread_mutex_destroy(&mem->lock);
}

uint64_t soft_memory_alloc(struct soft_memory *mem, uint64_t nr, uint64_t *first)
{
	struct soft_block *block;
	uint32_t i, capacity;
	uint64_t n = 0;

	pthread_mutex_lock(&mem->lock);
	block = block_choose(mem, nr);
	if (block) {
		capacity = block_capacity(mem, block);
		i = first_free(block, capacity);
		while (n < nr && i + n < capacity && !bit_test(block->used, (uint32_t)(i + n)))
			bit_set(block->used, (uint32_t)(i + n++));
		*first = block_index(mem, block) * mem->block_pages + i;
		block->nr_used += (uint32_t)n;
		atomic_fetch_add_explicit(&mem->nr_used, n, memory_order_relaxed);
		block_enqueue(mem, block, atomic_fetch_add_explicit(&mem->tick, 1,
								    memory_order_relaxed) + 1);
		block_relist(mem, block);
	}
	pthread_mutex_unlock(&mem->lock);
	return n;
}

bool soft_memory_free(struct soft_memory *mem, uint64_t first, uint64_t nr)
{
	bool retired = false;

	pthread_mutex_lock(&mem->lock);
	while (nr) {
		struct soft_block *block = block_of(mem, first);
		uint32_t i = (uint32_t)(first % mem->block_pages), end = mem->block_pages, n;

		end = nr < end - i ? i + (uint32_t)nr : end;
		for (; i < end; i += n, first += n, nr -= n) {
			n = 64 - i % 64 < end - i ? 64 - i % 64 : end - i;
			retired |= word_free(mem, block, i / 64, ~0ULL >> (64 - n) << i % 64);
		}
		block_relist(mem, block);
	}
	pthread_mutex_unlock(&mem->lock);
	return retired;
}

/*
 * A touch only notes the tick in the block; the list is put right here. A block
 * that was touched since it got its place moves to the end with the new stamp, so
 * that each round either finds a victim or uses up a touch.
 */
bool soft_memory_oldest(struct soft_memory *mem, uint64_t *first, uint64_t *nr)
{
	struct soft_block *block = NULL;
	uint64_t touch;

	pthread_mutex_lock(&mem->lock);
	for (uint64_t round = 0; !soft_list_empty(&mem->lru); round++) {
		block = soft_entry(mem->lru.next, struct soft_block, lru);
		touch = atomic_load_explicit(&block->touch, memory_order_relaxed);
		if (touch <= block->stamp || round == mem->nr_fresh)
			break;
		block_enqueue(mem, block, touch);
	}
	if (block) {
		*first = block_index(mem, block) * mem->block_pages;
		*nr = block_capacity(mem, block);
		block_enqueue(mem, block, atomic_load_explicit(&mem->tick, memory_order_relaxed));
	}
	pthread_mutex_unlock(&mem->lock);
	return block;
}

void soft_memory_lose(struct soft_memory *mem, uint64_t frame)
{
	pthread_mutex_lock(&mem->lock);
	frame_lose(mem, block_of(mem, frame), (uint32_t)(frame % mem->block_pages));
	pthread_mutex_unlock(&mem->lock);
}

void soft_memory_lose_all(struct soft_memory *mem)
{
	struct soft_block *block;

	pthread_mutex_lock(&mem->lock);
	for (struct soft_link *link = mem->lru.next; link != &mem->lru; link = link->next) {
		block = soft_entry(link, struct soft_block, lru);
		for (uint32_t i = 0; i < mem->block_pages; i++)
			frame_lose(mem, block, i);
	}
	pthread_mutex_unlock(&mem->lock);
}

bool soft_memory_is_lost(struct soft_memory *mem, uint64_t first, uint64_t nr)
{
	bool lost = false;

	if (!atomic_load_explicit(&mem->nr_lost, memory_order_acquire))
		return false;
	pthread_mutex_lock(&mem->lock);
	for (; nr && !lost; first++, nr--)
		lost = bit_test(block_of(mem, first)->lost, (uint32_t)(first % mem->block_pages));
	pthread_mutex_unlock(&mem->lock);
	return lost;
}

uint64_t soft_memory_next_lost(struct soft_memory *mem, uint64_t from, uint64_t *first)
{
	uint64_t n = 0, end;

	pthread_mutex_lock(&mem->lock);
	end = mem->nr_fresh * mem->block_pages;
	if (end > mem->nr_pages)
		end = mem->nr_pages;
	for (; from < end; from++) {
		bool lost = bit_test(block_of(mem, from)->lost,
				     (uint32_t)(from % mem->block_pages));

		if (n && (!lost || from % mem->block_pages == 0))
			break;
		if (!lost)
			continue;
		if (!n)
			*first = from;
		n++;
	}
	pthread_mutex_unlock(&mem->lock);
	return n;
}

void soft_memory_scrub(struct soft_memory *mem)
{
	pthread_mutex_lock(&mem->lock);
	for (uint64_t b = 0; b < mem->nr_fresh && mem->nr_retired; b++) {
		struct soft_block *block = &mem->blocks[b];
		bool some = false;

		for (uint32_t word = 0; word < SOFT_BLOCK_WORDS; word++) {
			uint64_t retired = block->retired[word];

			block->retired[word] = 0;
			word_release(mem, block, word, retired);
			mem->nr_retired -= (uint32_t)__builtin_popcountll(retired);
			some |= retired != 0;
		}
		if (some)
			block_relist(mem, block);
	}
	pthread_mutex_unlock(&mem->lock);
}
