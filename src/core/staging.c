/* SPDX-License-Identifier: MIT */
#include "core/staging.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/mm.h"

#define STAGING_DEFAULT	((uint64_t)64 << 20)

static size_t chunk_bytes(void)
{
	return arena_chunk_bytes();
}

/* The bits of slots [i, end) that are in the word of the first; how many. */
static uint32_t word_bits(uint32_t i, uint32_t end, uint64_t *bits)
{
	uint32_t most = 64 - i % 64, n = end - i < most ? end - i : most;

	*bits = ~0ULL >> (64 - n) << i % 64;
	return n;
}

void chunk_set(struct chunk *c, uint32_t first, uint32_t nr, bool present)
{
	for (uint32_t i = first, n; i < first + nr; i += n) {
		uint64_t *word = &c->present[i / 64], bits;

		n = word_bits(i, first + nr, &bits);
		bits &= present ? ~*word : *word;
		*word ^= bits;
		c->nr_present += (uint32_t)__builtin_popcountll(bits) * (present ? 1 : -1u);
	}
	if (!c->nr_present)
		c->huge = false;
}

/* How many of the slots are present. */
static uint32_t chunk_count(const struct chunk *c, uint32_t first, uint32_t nr)
{
	uint32_t count = 0;

	if (!c->nr_present)
		return 0;
	if (c->nr_present == BLOCK_PAGES)
		return nr;
	for (uint32_t i = first, n; i < first + nr; i += n) {
		uint64_t bits;

		n = word_bits(i, first + nr, &bits);
		count += (uint32_t)__builtin_popcountll(c->present[i / 64] & bits);
	}
	return count;
}

/*
 * Empty, and one mapping, as MOVE wants it. As what it was before it may be two, for good: a
 * stack's guard and the rest of it merge with their neighbours, and no more with each other
 * once these have pages of different ancestry (the kernel's is_mergeable_anon_vma()).
 * After mlockall(MCL_FUTURE) what is mapped is locked, and filled; MOVE wants neither.
 */
static int chunk_map(void *p)
{
	int ret = sys_map_fixed(p, chunk_bytes(), PROT_NONE);

	/* RLIMIT_MEMLOCK: then as it is. */
	if (!ret)
		sys_munlock(p, chunk_bytes());
	ret = sys_mprotect(p, chunk_bytes(), PROT_READ | PROT_WRITE);
	if (!ret)
		ret = sys_madvise(p, chunk_bytes(), MADV_DONTFORK);
	if (!ret)
		sys_madvise(p, chunk_bytes(), MADV_NOHUGEPAGE);
	return ret;
}

static void chunk_unregister(struct staging *s, struct chunk *c)
{
	if (c->registered)
		sys_uffd_unregister(s->mm->uffd, c->addr, chunk_bytes());
	c->registered = false;
}

/*
 * Back to nothing. Unregistered first, or the discard would raise an event at
 * ourselves and wait for it to be read. What mlockall() has locked is not discarded.
 */
static void chunk_clear(struct staging *s, struct chunk *c)
{
	bool used = c->nr_present || c->has_table;

	chunk_unregister(s, c);
	if (c->remapped || (used && sys_madvise((void *)c->addr, chunk_bytes(), MADV_DONTNEED)))
		chunk_map((void *)c->addr);
	memset(c->present, 0, sizeof(c->present));
	c->nr_present = 0;
	c->remapped = c->huge = c->has_table = false;
}

int staging_init(struct staging *s, struct hmm_mm *mm, uint64_t bytes)
{
	memset(s, 0, sizeof(*s));
	lock_init(&s->lock, RANK_STAGING);
	s->mm = mm;
	s->max = (uint32_t)((bytes ? bytes : STAGING_DEFAULT) / chunk_bytes());
	if (s->max < 4)
		s->max = 4;
	if (s->max > STAGING_CHUNKS_MAX)
		s->max = STAGING_CHUNKS_MAX;
	s->chunks = arena_alloc(s->max * sizeof(*s->chunks));
	return s->chunks ? 0 : -ENOMEM;
}

void staging_fini(struct staging *s)
{
	for (uint32_t i = 0; i < s->nr; i++) {
		struct chunk *c = &s->chunks[i];

		chunk_clear(s, c);
		sys_mprotect((void *)c->addr, chunk_bytes(), PROT_NONE);
		arena_chunks_put((void *)c->addr, 1);
	}
	arena_free(s->chunks, s->max * sizeof(*s->chunks));
	s->chunks = NULL;
}

/* One more chunk, in use. Lock held. */
static struct chunk *chunk_make(struct staging *s)
{
	struct chunk *c = &s->chunks[s->nr];
	void *p;

	if (s->nr == s->max || arena_chunks_get(1, &p))
		return NULL;
	if (chunk_map(p)) {
		sys_mprotect(p, chunk_bytes(), PROT_NONE);
		arena_chunks_put(p, 1);
		return NULL;
	}
	memset(c, 0, sizeof(*c));
	c->addr = (uintptr_t)p;
	c->in_use = true;
	s->nr++;
	return c;
}

enum want { WANT_ABSENT, WANT_ABSENT_WHOLE, WANT_PRESENT, WANT_HUGE };

/* Smaller is better; negative: does not fit as it is, but can be cleared. */
static int chunk_rank(const struct chunk *c, uint32_t first, uint32_t nr, enum want want)
{
	uint32_t have = chunk_count(c, first, nr);

	if (c->remapped)
		return -1;
	switch (want) {
	case WANT_ABSENT:
		return have ? -1 : c->registered ? 0 : 1;
	case WANT_ABSENT_WHOLE:
		return have || c->has_table ? -1 : c->registered ? 0 : 1;
	case WANT_PRESENT:
		if (c->huge && nr < BLOCK_PAGES)
			return -1;	/* keep it whole */
		return have == nr ? 0 : have == 0 && !c->huge ? 2 : -1;
	case WANT_HUGE:
		return c->huge ? 0 : -1;
	}
	return -1;
}

/* The best idle chunk, in use from now on; *fits: as it is. */
static struct chunk *chunk_pick(struct staging *s, uint32_t first, uint32_t nr, enum want want,
				bool *fits)
{
	struct chunk *best = NULL, *victim = NULL;
	int best_rank = 0;

	lock_acquire(&s->lock);
	for (uint32_t i = 0; i < s->nr && !(best && best_rank == 0); i++) {
		struct chunk *c = &s->chunks[i];
		int rank;

		if (c->in_use)
			continue;
		rank = chunk_rank(c, first, nr, want);
		if (rank >= 0 && (!best || rank < best_rank)) {
			best = c;
			best_rank = rank;
		} else if (rank < 0 && (!victim || c->nr_present < victim->nr_present)) {
			victim = c;
		}
	}
	/* A fresh page is better than a first touch of a chunk that keeps others. */
	if (!best)
		best = chunk_make(s);
	*fits = best != NULL;
	if (!best)
		best = victim;
	if (best)
		best->in_use = true;
	lock_release(&s->lock);
	return best;
}

struct chunk *staging_get_empty(struct staging *s, uint32_t first, uint32_t nr, bool whole)
{
	bool fits;
	struct chunk *c = chunk_pick(s, first, nr, whole ? WANT_ABSENT_WHOLE : WANT_ABSENT, &fits);

	if (!c)
		return NULL;
	if (!fits)
		chunk_clear(s, c);
	if (!c->registered) {
		if (sys_uffd_register(s->mm->uffd, c->addr, chunk_bytes(), SYS_UFFD_MISSING)) {
			staging_put(s, c);
			return NULL;
		}
		c->registered = true;
	}
	return c;
}

struct chunk *staging_get_writable(struct staging *s, uint32_t first, uint32_t nr, bool huge)
{
	bool fits;
	struct chunk *c = chunk_pick(s, first, nr, huge ? WANT_HUGE : WANT_PRESENT, &fits);

	if (!c)
		return NULL;
	if (!fits || (huge && !c->huge))
		chunk_clear(s, c);
	if (chunk_count(c, first, nr) == nr)
		return c;
	chunk_unregister(s, c);
	if (huge)
		sys_madvise((void *)c->addr, chunk_bytes(), MADV_HUGEPAGE);
	if (sys_populate(c->addr + first * sys_page_size(), nr * sys_page_size(), true)) {
		staging_put(s, c);
		return NULL;
	}
	if (huge)
		sys_madvise((void *)c->addr, chunk_bytes(), MADV_NOHUGEPAGE);
	chunk_set(c, first, nr, true);
	c->huge = huge;
	c->has_table = !huge;
	return c;
}

void staging_put(struct staging *s, struct chunk *c)
{
	if (c->remapped)
		chunk_clear(s, c);
	lock_acquire(&s->lock);
	c->in_use = false;
	lock_release(&s->lock);
}
