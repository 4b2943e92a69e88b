/* SPDX-License-Identifier: MIT */
/*
 * A word index as any program might have one: made of plain malloc'ed pieces, for
 * several threads. It has never heard of devices.
 *
 *   index ── stripe[64] ── bucket[] ── word ── word …      by the word's hash
 *     │                                 │
 *     │                                 block ── block …   its places, ascending
 *     └── root ── left, right …                            the same words, by text
 *
 * A place is a file's number (upper half) and a line (lower half).
 *
 * Locks, in this order: tree_lock (root, left, right), then at most one stripe's
 * (its totals, buckets, next, places). A word's text, len and hash never change; it
 * is freed under both, so that a reader needs one of the two to hold on to it. A
 * stripe's totals are those of what its buckets hold whenever its lock is free:
 *
 *   nr_places == sum of its words' nr_places
 *   sum       == sum of place_sum(word, place) over all of its words' places
 */
#ifndef WORDINDEX_INDEX_H
#define WORDINDEX_INDEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INDEX_STRIPES	64	/* picked by the hash's upper 6 bits */
#define WORD_MAX	255	/* bytes of a word */

struct block {
	struct block *next;
	uint32_t nr, room;		/* nr > 0 */
	uint64_t place[];
};

struct word {
	struct word *next;
	struct word *left, *right;
	struct block *places, *last;
	uint64_t nr_places;		/* > 0 */
	uint64_t hash;
	uint32_t len;
	char text[];			/* len bytes and a nul */
};

/* Readers count in the low bits; a writer sets its bit first, then waits for them. */
typedef _Atomic uint32_t index_lock;
#define LOCK_WRITER	(1u << 31)

struct stripe {
	index_lock lock;
	uint32_t nr_buckets;		/* a power of two */
	struct word **bucket;
	uint64_t nr_words, nr_places, sum;
};

struct index {
	struct stripe stripe[INDEX_STRIPES];
	index_lock tree_lock;
	struct word *root;
};

static inline uint64_t mix64(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static inline uint64_t place_make(uint32_t file, uint32_t line)
{
	return (uint64_t)file << 32 | line;
}

static inline uint64_t place_sum(uint64_t hash, uint64_t place)
{
	return mix64(hash ^ mix64(place));
}

static inline unsigned int hash_stripe(uint64_t hash)
{
	return hash >> 58;
}

uint64_t word_hash(const char *text, size_t len);

void index_read_lock(index_lock *lock);
void index_read_unlock(index_lock *lock);

/* NULL when out of memory. */
struct index *index_create(void);
void index_destroy(struct index *index);

/*
 * Add a place of a word (1 to WORD_MAX bytes), or take it away; a word without
 * places is gone. 1; 0 when it was so already; -ENOMEM.
 */
int index_add(struct index *index, const char *text, size_t len, uint64_t place);
int index_remove(struct index *index, const char *text, size_t len, uint64_t place);

/* Take a word with all its places away. 1, or 0 when there was none. */
int index_remove_word(struct index *index, const char *text, size_t len);

/* The word in a stripe whose lock the caller holds, or NULL. */
struct word *stripe_find(const struct stripe *stripe, const char *text, size_t len,
			 uint64_t hash);

/* Every rule above, looked at; for a quiet index. */
bool index_check(const struct index *index);

#endif
