/* SPDX-License-Identifier: MIT */
#include "frames.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

#define SMALLEST	(64ULL << 20)

static void list_add(struct frames *f, uint32_t *head, uint32_t i)
{
	struct frames_block *b = &f->blocks[i];

	b->prev = FRAMES_NONE;
	b->next = *head;
	b->listed = true;
	if (*head != FRAMES_NONE)
		f->blocks[*head].prev = i;
	*head = i;
}

static void list_remove(struct frames *f, uint32_t *head, uint32_t i)
{
	struct frames_block *b = &f->blocks[i];

	if (b->prev == FRAMES_NONE)
		*head = b->next;
	else
		f->blocks[b->prev].next = b->next;
	if (b->next != FRAMES_NONE)
		f->blocks[b->next].prev = b->prev;
	b->listed = false;
}

int frames_init(struct frames *f, uint64_t bytes)
{
	size_t len;

	memset(f, 0, sizeof(*f));
	f->page_size = hmm_page_size();
	while (!(f->base = hmm_safe_alloc(bytes))) {
		bytes /= 4;
		if (bytes < SMALLEST)
			return -ENOMEM;
	}
	/* Without large pages in the kernel the memory is small ones, which is slower. */
	(void)madvise(f->base, bytes, MADV_HUGEPAGE);
	f->nr_blocks = (uint32_t)(bytes / f->page_size / FRAMES_BLOCK);
	f->nr_pages = (uint64_t)f->nr_blocks * FRAMES_BLOCK;
	len = f->nr_blocks * sizeof(*f->blocks);
	f->blocks = hmm_safe_alloc(len);
	if (!f->blocks) {
		hmm_safe_free(f->base, bytes);
		return -ENOMEM;
	}
	pthread_mutex_init(&f->lock, NULL);
	f->empty = f->partial = FRAMES_NONE;
	return 0;
}

void frames_destroy(struct frames *f)
{
	pthread_mutex_destroy(&f->lock);
	hmm_safe_free(f->blocks, f->nr_blocks * sizeof(*f->blocks));
	hmm_safe_free(f->base, f->nr_pages * f->page_size);
}

/* An unused block, in no list; FRAMES_NONE: none. Lock held. */
static uint32_t empty_take(struct frames *f)
{
	uint32_t i = f->empty;

	if (i != FRAMES_NONE)
		list_remove(f, &f->empty, i);
	else if (f->nr_opened < f->nr_blocks)
		i = f->nr_opened++;
	return i;
}

static bool bit_test(const uint64_t *map, uint32_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static uint32_t first_clear(const uint64_t *map)
{
	uint32_t word = 0;

	while (!~map[word])
		word++;
	return word * 64 + (uint32_t)__builtin_ctzll(~map[word]);
}

uint64_t frames_alloc(struct frames *f, uint64_t nr, uint64_t *first)
{
	struct frames_block *b;
	uint32_t block, at, n = 0;

	pthread_mutex_lock(&f->lock);
	block = f->partial;
	if (block == FRAMES_NONE) {
		block = empty_take(f);
		if (block == FRAMES_NONE)
			goto unlock;
		list_add(f, &f->partial, block);
	}
	b = &f->blocks[block];
	at = first_clear(b->used);
	for (; n < nr && at + n < FRAMES_BLOCK && !bit_test(b->used, at + n); n++)
		b->used[(at + n) / 64] |= 1ULL << ((at + n) % 64);
	b->nr_used += n;
	if (b->nr_used == FRAMES_BLOCK)
		list_remove(f, &f->partial, block);
	*first = (uint64_t)block * FRAMES_BLOCK + at;
unlock:
	pthread_mutex_unlock(&f->lock);
	return n;
}

bool frames_alloc_large(struct frames *f, uint64_t *first)
{
	uint32_t block;

	pthread_mutex_lock(&f->lock);
	block = empty_take(f);
	if (block != FRAMES_NONE) {
		struct frames_block *b = &f->blocks[block];

		memset(b->used, 0xff, sizeof(b->used));
		b->nr_used = FRAMES_BLOCK;
		b->large = true;
		*first = (uint64_t)block * FRAMES_BLOCK;
	}
	pthread_mutex_unlock(&f->lock);
	return block != FRAMES_NONE;
}

/* Lock held. */
static void free_one(struct frames *f, uint64_t frame)
{
	uint32_t block = (uint32_t)(frame / FRAMES_BLOCK), i = (uint32_t)(frame % FRAMES_BLOCK);
	struct frames_block *b = &f->blocks[block];

	b->used[i / 64] &= ~(1ULL << (i % 64));
	if (--b->nr_used == 0) {
		if (b->listed)
			list_remove(f, &f->partial, block);
		b->large = false;
		list_add(f, &f->empty, block);
	} else if (!b->large && !b->listed) {
		list_add(f, &f->partial, block);
	}
}

void frames_free(struct frames *f, uint64_t first, uint64_t nr)
{
	pthread_mutex_lock(&f->lock);
	for (uint64_t i = first; i < first + nr; i++) {
		if (!f->holds) {
			free_one(f, i);
			continue;
		}
		f->blocks[i / FRAMES_BLOCK].freed[i % FRAMES_BLOCK / 64] |= 1ULL << (i % 64);
		f->nr_freed++;
	}
	pthread_mutex_unlock(&f->lock);
}

bool frames_is_large(struct frames *f, uint64_t frame)
{
	bool large;

	pthread_mutex_lock(&f->lock);
	large = f->blocks[frame / FRAMES_BLOCK].large;
	pthread_mutex_unlock(&f->lock);
	return large;
}

uint64_t frames_high(struct frames *f)
{
	uint64_t high;

	pthread_mutex_lock(&f->lock);
	high = (uint64_t)f->nr_opened * FRAMES_BLOCK;
	pthread_mutex_unlock(&f->lock);
	return high;
}

void frames_hold(struct frames *f)
{
	pthread_mutex_lock(&f->lock);
	f->holds++;
	pthread_mutex_unlock(&f->lock);
}

/* Every page that was freed under a hold. Lock held. */
static void free_held(struct frames *f)
{
	for (uint32_t block = 0; block < f->nr_opened && f->nr_freed; block++) {
		for (uint32_t i = 0; i < FRAMES_BLOCK; i++) {
			if (!bit_test(f->blocks[block].freed, i))
				continue;
			free_one(f, (uint64_t)block * FRAMES_BLOCK + i);
			f->nr_freed--;
		}
		memset(f->blocks[block].freed, 0, sizeof(f->blocks[block].freed));
	}
}

void frames_release(struct frames *f)
{
	pthread_mutex_lock(&f->lock);
	if (!--f->holds)
		free_held(f);
	pthread_mutex_unlock(&f->lock);
}
