/* SPDX-License-Identifier: MIT */
#include "pages.h"

#include <errno.h>

#include <uhmm/driver.h>

static bool bit_test(const uint64_t *map, uint64_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static bool dirty_test(const struct nbd_pages *p, uint64_t i)
{
	return atomic_load_explicit(&p->dirty[i / 64], memory_order_relaxed) >> (i % 64) & 1;
}

static uint64_t nr_groups(const struct nbd_pages *p)
{
	return (p->nr + PAGES_GROUP - 1) / PAGES_GROUP;
}

static uint64_t group_end(const struct nbd_pages *p, uint64_t group)
{
	uint64_t end = (group + 1) * PAGES_GROUP;

	return end < p->nr ? end : p->nr;
}

int nbd_pages_init(struct nbd_pages *p, uint64_t nr)
{
	p->nr = nr;
	p->words = (nr + 63) / 64;
	pthread_mutex_init(&p->lock, NULL);
	p->sum = hmm_safe_alloc(nr * sizeof(*p->sum));
	p->dirty = hmm_safe_alloc(p->words * sizeof(*p->dirty));
	p->used = hmm_safe_alloc(p->words * sizeof(*p->used));
	p->lost = hmm_safe_alloc(p->words * sizeof(*p->lost));
	p->group_used = hmm_safe_alloc(nr_groups(p) * sizeof(*p->group_used));
	if (p->sum && p->dirty && p->used && p->lost && p->group_used)
		return 0;
	nbd_pages_destroy(p);
	return -ENOMEM;
}

void nbd_pages_destroy(struct nbd_pages *p)
{
	hmm_safe_free(p->group_used, nr_groups(p) * sizeof(*p->group_used));
	hmm_safe_free(p->lost, p->words * sizeof(*p->lost));
	hmm_safe_free(p->used, p->words * sizeof(*p->used));
	hmm_safe_free((void *)p->dirty, p->words * sizeof(*p->dirty));
	hmm_safe_free(p->sum, p->nr * sizeof(*p->sum));
	pthread_mutex_destroy(&p->lock);
}

static void set_used(struct nbd_pages *p, uint64_t i)
{
	p->used[i / 64] |= 1ULL << (i % 64);
	p->group_used[i / PAGES_GROUP]++;
	p->nr_trimmable -= dirty_test(p, i);
}

static void clear_used(struct nbd_pages *p, uint64_t i)
{
	p->used[i / 64] &= ~(1ULL << (i % 64));
	p->group_used[i / PAGES_GROUP]--;
	p->nr_trimmable += dirty_test(p, i);
}

/* Where to begin in a group with free pages: at 64 free ones for who wants many. */
static uint64_t first_free(const struct nbd_pages *p, uint64_t group, bool many)
{
	uint64_t word = group * PAGES_GROUP_WORDS, end = word + PAGES_GROUP_WORDS;

	end = end < p->words ? end : p->words;
	for (uint64_t i = word; many && i < end; i++)
		if (!p->used[i])
			return i * 64;
	while (word < end && !~p->used[word])
		word++;
	return word < end ? word * 64 + (uint64_t)__builtin_ctzll(~p->used[word]) : p->nr;
}

uint64_t nbd_pages_alloc(struct nbd_pages *p, uint64_t nr, uint64_t *first)
{
	uint64_t groups = nr_groups(p), n = 0, at = p->nr, end = 0;

	pthread_mutex_lock(&p->lock);
	for (uint64_t i = 0; i < groups; i++, p->cursor = (p->cursor + 1) % groups) {
		end = group_end(p, p->cursor);
		if (p->group_used[p->cursor] == end - p->cursor * PAGES_GROUP)
			continue;
		at = first_free(p, p->cursor, nr >= 64);
		break;
	}
	while (n < nr && at + n < end && !bit_test(p->used, at + n))
		set_used(p, at + n++);
	pthread_mutex_unlock(&p->lock);
	*first = at;
	return n;
}

void nbd_pages_free(struct nbd_pages *p, uint64_t first, uint64_t nr)
{
	for (uint64_t i = first; i < first + nr; i++) {
		p->lost[i / 64] &= ~(1ULL << (i % 64));
		clear_used(p, i);
	}
}

void nbd_pages_lose(struct nbd_pages *p, uint64_t index)
{
	p->lost[index / 64] |= 1ULL << (index % 64);
}

bool nbd_pages_any_lost(struct nbd_pages *p, uint64_t first, uint64_t nr)
{
	bool lost = false;

	pthread_mutex_lock(&p->lock);
	for (uint64_t i = first; i < first + nr && !lost; i++)
		lost = bit_test(p->lost, i);
	pthread_mutex_unlock(&p->lock);
	return lost;
}

void nbd_pages_written(struct nbd_pages *p, uint64_t first, uint64_t nr)
{
	for (uint64_t i = first; i < first + nr; i++)
		atomic_fetch_or_explicit(&p->dirty[i / 64], 1ULL << (i % 64),
					 memory_order_relaxed);
}

uint64_t nbd_pages_trim_begin(struct nbd_pages *p, uint32_t chunk_pages, uint64_t *first)
{
	uint64_t n = 0;

	pthread_mutex_lock(&p->lock);
	for (uint64_t i = 0; p->nr_trimmable && i < p->words; i++) {
		uint64_t dirty = atomic_load_explicit(&p->dirty[p->trim_cursor],
						      memory_order_relaxed);
		uint64_t word = dirty & ~p->used[p->trim_cursor];

		if (!word) {
			p->trim_cursor = (p->trim_cursor + 1) % p->words;
			continue;
		}
		*first = p->trim_cursor * 64 + (uint64_t)__builtin_ctzll(word);
		do
			set_used(p, *first + n++);
		while ((*first + n) % 64 && (*first + n) % chunk_pages &&
		       word >> ((*first + n) % 64) & 1);
		break;
	}
	pthread_mutex_unlock(&p->lock);
	return n;
}

void nbd_pages_trim_done(struct nbd_pages *p, uint64_t first, uint64_t nr)
{
	pthread_mutex_lock(&p->lock);
	for (uint64_t i = first; i < first + nr; i++) {
		atomic_fetch_and_explicit(&p->dirty[i / 64], ~(1ULL << (i % 64)),
					  memory_order_relaxed);
		clear_used(p, i);
	}
	pthread_mutex_unlock(&p->lock);
}
