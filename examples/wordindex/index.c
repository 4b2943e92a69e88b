/* SPDX-License-Identifier: MIT */
/*
 * The index itself: malloc, free and C11 atomics. The words are a hash table for
 * exact look-ups and a treap (ordered by text, a heap by a number drawn from the
 * hash) for ranges. Which memory any of this lies in is nobody's business here.
 */
#include "index.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN	16
#define BLOCK_MIN	2
#define BLOCK_MAX	62	/* with its head 512 bytes */

uint64_t word_hash(const char *text, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3ULL;
	return mix64(hash);
}

/* ------------------------------------------------------------------ locks */

/*
 * A reader announces itself first and looks for a writer after, a writer the other
 * way round; both sequentially consistent, so one of them sees the other.
 */
void index_read_lock(index_lock *lock)
{
	while (atomic_fetch_add(lock, 1) & LOCK_WRITER) {
		atomic_fetch_sub(lock, 1);
		while (atomic_load(lock) & LOCK_WRITER)
			sched_yield();
	}
}

void index_read_unlock(index_lock *lock)
{
	atomic_fetch_sub(lock, 1);
}

static void write_lock(index_lock *lock)
{
	while (atomic_fetch_or(lock, LOCK_WRITER) & LOCK_WRITER)
		sched_yield();
	while (atomic_load(lock) != LOCK_WRITER)
		sched_yield();
}

static void write_unlock(index_lock *lock)
{
	atomic_fetch_and(lock, ~LOCK_WRITER);
}

/* ------------------------------------------------------------------ places */

static struct block *block_create(uint32_t room)
{
	struct block *block = malloc(sizeof(*block) + room * sizeof(block->place[0]));

	if (block) {
		block->next = NULL;
		block->nr = 0;
		block->room = room;
	}
	return block;
}

/* The last block whose first place is not above @place, or the first block. */
static struct block *block_for(struct word *word, uint64_t place)
{
	struct block *block = word->places;

	if (word->last->place[0] <= place)
		return word->last;
	while (block->next && block->next->place[0] <= place)
		block = block->next;
	return block;
}

static uint32_t block_position(const struct block *block, uint64_t place)
{
	uint32_t low = 0, high = block->nr;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (block->place[mid] < place)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/*
 * A new block behind a full one: empty when @at is the end of the list, where most
 * places come (texts are read in order), else with the upper half of the full one.
 */
static struct block *block_split(struct word *word, struct block *block, uint32_t at)
{
	bool append = !block->next && at == block->nr;
	uint32_t room = block->room < BLOCK_MAX / 2 ? block->room * 2 : BLOCK_MAX;
	struct block *upper = block_create(room);

	if (!upper)
		return NULL;
	if (!append) {
		upper->nr = block->nr / 2;
		block->nr -= upper->nr;
		memcpy(upper->place, block->place + block->nr,
		       upper->nr * sizeof(upper->place[0]));
	}
	upper->next = block->next;
	block->next = upper;
	if (word->last == block)
		word->last = upper;
	return upper;
}

static int places_add(struct word *word, uint64_t place)
{
	struct block *block, *upper;
	uint32_t at;

	if (!word->places) {
		word->places = word->last = block_create(BLOCK_MIN);
		if (!word->places)
			return -ENOMEM;
		block = word->places;
		at = 0;
	} else {
		block = block_for(word, place);
		at = block_position(block, place);
		if (at < block->nr && block->place[at] == place)
			return 0;
	}
	if (block->nr == block->room) {
		upper = block_split(word, block, at);
		if (!upper)
			return -ENOMEM;
		if (at > block->nr || !upper->nr) {
			at -= block->nr;
			block = upper;
		}
	}
	memmove(block->place + at + 1, block->place + at,
		(block->nr - at) * sizeof(block->place[0]));
	block->place[at] = place;
	block->nr++;
	word->nr_places++;
	return 1;
}

static void block_unlink(struct word *word, struct block *block)
{
	struct block **link = &word->places, *before = NULL;

	while (*link != block) {
		before = *link;
		link = &before->next;
	}
	*link = block->next;
	if (word->last == block)
		word->last = before;
	free(block);
}

static int places_remove(struct word *word, uint64_t place)
{
	struct block *block = block_for(word, place);
	uint32_t at = block_position(block, place);

	if (at == block->nr || block->place[at] != place)
		return 0;
	block->nr--;
	memmove(block->place + at, block->place + at + 1,
		(block->nr - at) * sizeof(block->place[0]));
	word->nr_places--;
	if (!block->nr)
		block_unlink(word, block);
	return 1;
}

/* ------------------------------------------------------------------ tree */

static int word_compare(const struct word *a, const struct word *b)
{
	return strcmp(a->text, b->text);
}

static uint64_t word_height(const struct word *word)
{
	return mix64(word->hash);
}

static void tree_insert(struct word **root, struct word *word)
{
	struct word **link = root, **left = &word->left, **right = &word->right;
	struct word *below;

	while (*link && word_height(*link) >= word_height(word))
		link = word_compare(word, *link) < 0 ? &(*link)->left : &(*link)->right;
	below = *link;
	*link = word;
	while (below) {
		if (word_compare(below, word) < 0) {
			*left = below;
			left = &below->right;
			below = below->right;
		} else {
			*right = below;
			right = &below->left;
			below = below->left;
		}
	}
	*left = *right = NULL;
}

static void tree_remove(struct word **root, struct word *word)
{
	struct word **link = root;
	struct word *left = word->left, *right = word->right;

	while (*link != word)
		link = word_compare(word, *link) < 0 ? &(*link)->left : &(*link)->right;
	while (left && right) {
		if (word_height(left) >= word_height(right)) {
			*link = left;
			link = &left->right;
			left = left->right;
		} else {
			*link = right;
			link = &right->left;
			right = right->left;
		}
	}
	*link = left ? left : right;
}

/* ------------------------------------------------------------------ stripes */

struct word *stripe_find(const struct stripe *stripe, const char *text, size_t len,
			 uint64_t hash)
{
	struct word *word = stripe->bucket[hash & (stripe->nr_buckets - 1)];

	while (word && (word->hash != hash || word->len != len ||
			memcmp(word->text, text, len)))
		word = word->next;
	return word;
}

/* Growing is a help, not a need: without memory the chains grow longer. */
static void stripe_grow(struct stripe *stripe)
{
	uint32_t nr = stripe->nr_buckets * 2;
	struct word **bucket = calloc(nr, sizeof(*bucket));

	if (!bucket)
		return;
	for (uint32_t i = 0; i < stripe->nr_buckets; i++) {
		struct word *word = stripe->bucket[i], *next;

		for (; word; word = next) {
			next = word->next;
			word->next = bucket[word->hash & (nr - 1)];
			bucket[word->hash & (nr - 1)] = word;
		}
	}
	free(stripe->bucket);
	stripe->bucket = bucket;
	stripe->nr_buckets = nr;
}

static struct word *word_create(const char *text, size_t len, uint64_t hash)
{
	struct word *word = calloc(1, sizeof(*word) + len + 1);

	if (word) {
		word->hash = hash;
		word->len = len;
		memcpy(word->text, text, len);
	}
	return word;
}

static void word_destroy(struct word *word)
{
	struct block *block = word->places, *next;

	for (; block; block = next) {
		next = block->next;
		free(block);
	}
	free(word);
}

static int word_add_place(struct stripe *stripe, struct word *word, uint64_t place)
{
	int ret = places_add(word, place);

	if (ret == 1) {
		stripe->nr_places++;
		stripe->sum += place_sum(word->hash, place);
	}
	return ret;
}

/* Caller holds both locks for writing; the word has no place left in the totals. */
static void word_drop(struct index *index, struct stripe *stripe, struct word *word)
{
	struct word **link = &stripe->bucket[word->hash & (stripe->nr_buckets - 1)];

	while (*link != word)
		link = &(*link)->next;
	*link = word->next;
	stripe->nr_words--;
	tree_remove(&index->root, word);
	word_destroy(word);
}

/* ------------------------------------------------------------------ the index */

/* The word was missing a moment ago; between then and now another may have added it. */
static int add_word(struct index *index, struct stripe *stripe, const char *text,
		    size_t len, uint64_t hash, uint64_t place)
{
	struct word *word, *fresh = word_create(text, len, hash);
	int ret = -ENOMEM;

	if (!fresh)
		return ret;
	write_lock(&index->tree_lock);
	write_lock(&stripe->lock);
	word = stripe_find(stripe, text, len, hash);
	ret = word_add_place(stripe, word ? word : fresh, place);
	if (!word && ret == 1) {
		if (stripe->nr_words >= stripe->nr_buckets)
			stripe_grow(stripe);
		fresh->next = stripe->bucket[hash & (stripe->nr_buckets - 1)];
		stripe->bucket[hash & (stripe->nr_buckets - 1)] = fresh;
		stripe->nr_words++;
		tree_insert(&index->root, fresh);
		fresh = NULL;
	}
	write_unlock(&stripe->lock);
	write_unlock(&index->tree_lock);
	if (fresh)
		word_destroy(fresh);
	return ret;
}

static bool word_check(const struct word *word, uint64_t *sum)
{
	uint64_t nr = 0, previous = 0;

	for (struct block *block = word->places; block; block = block->next) {
		if (!block->nr || block->nr > block->room ||
		    (!block->next && block != word->last))
			return false;
		for (uint32_t i = 0; i < block->nr; i++, nr++) {
			if (nr && block->place[i] <= previous)
				return false;
			previous = block->place[i];
			*sum += place_sum(word->hash, previous);
		}
	}
	return nr && nr == word->nr_places && strlen(word->text) == word->len &&
	       word->hash == word_hash(word->text, word->len);
}

static bool stripe_check(const struct stripe *stripe)
{
	uint64_t nr_words = 0, nr_places = 0, sum = 0;

	for (uint32_t i = 0; i < stripe->nr_buckets; i++) {
		for (struct word *word = stripe->bucket[i]; word; word = word->next) {
			if ((word->hash & (stripe->nr_buckets - 1)) != i ||
			    !word_check(word, &sum))
				return false;
			nr_words++;
			nr_places += word->nr_places;
		}
	}
	return !stripe->lock && nr_words == stripe->nr_words &&
	       nr_places == stripe->nr_places && sum == stripe->sum;
}

/* In order: *@last is the word before, *@nr counts down. */
static bool tree_check(const struct word *root, const struct word **last, uint64_t *nr)
{
	if (!root)
		return true;
	if ((root->left && word_height(root->left) > word_height(root)) ||
	    (root->right && word_height(root->right) > word_height(root)))
		return false;
	if (!tree_check(root->left, last, nr) || (*last && word_compare(*last, root) >= 0))
		return false;
	*last = root;
	return (*nr)-- && tree_check(root->right, last, nr);
}

struct index *index_create(void)
{
	struct index *index = calloc(1, sizeof(*index));

	if (!index)
		return NULL;
	for (unsigned int i = 0; i < INDEX_STRIPES; i++) {
		struct stripe *stripe = &index->stripe[i];

		stripe->nr_buckets = BUCKETS_MIN;
		stripe->bucket = calloc(BUCKETS_MIN, sizeof(*stripe->bucket));
		if (!stripe->bucket) {
			index_destroy(index);
			return NULL;
		}
	}
	return index;
}

void index_destroy(struct index *index)
{
	if (!index)
		return;
	for (unsigned int i = 0; i < INDEX_STRIPES; i++) {
		struct stripe *stripe = &index->stripe[i];

		for (uint32_t b = 0; stripe->bucket && b < stripe->nr_buckets; b++) {
			struct word *word = stripe->bucket[b], *next;

			for (; word; word = next) {
				next = word->next;
				word_destroy(word);
			}
		}
		free(stripe->bucket);
	}
	free(index);
}

int index_add(struct index *index, const char *text, size_t len, uint64_t place)
{
	uint64_t hash = word_hash(text, len);
	struct stripe *stripe = &index->stripe[hash_stripe(hash)];
	struct word *word;
	int ret = 0;

	write_lock(&stripe->lock);
	word = stripe_find(stripe, text, len, hash);
	if (word)
		ret = word_add_place(stripe, word, place);
	write_unlock(&stripe->lock);
	return word ? ret : add_word(index, stripe, text, len, hash, place);
}

int index_remove(struct index *index, const char *text, size_t len, uint64_t place)
{
	uint64_t hash = word_hash(text, len);
	struct stripe *stripe = &index->stripe[hash_stripe(hash)];
	struct word *word;
	int ret = 0;

	write_lock(&index->tree_lock);
	write_lock(&stripe->lock);
	word = stripe_find(stripe, text, len, hash);
	if (word)
		ret = places_remove(word, place);
	if (ret) {
		stripe->nr_places--;
		stripe->sum -= place_sum(hash, place);
		if (!word->nr_places)
			word_drop(index, stripe, word);
	}
	write_unlock(&stripe->lock);
	write_unlock(&index->tree_lock);
	return ret;
}

int index_remove_word(struct index *index, const char *text, size_t len)
{
	uint64_t hash = word_hash(text, len);
	struct stripe *stripe = &index->stripe[hash_stripe(hash)];
	struct word *word;

	write_lock(&index->tree_lock);
	write_lock(&stripe->lock);
	word = stripe_find(stripe, text, len, hash);
	if (word) {
		for (struct block *block = word->places; block; block = block->next)
			for (uint32_t i = 0; i < block->nr; i++)
				stripe->sum -= place_sum(hash, block->place[i]);
		stripe->nr_places -= word->nr_places;
		word_drop(index, stripe, word);
	}
	write_unlock(&stripe->lock);
	write_unlock(&index->tree_lock);
	return word != NULL;
}

bool index_check(const struct index *index)
{
	const struct word *last = NULL;
	uint64_t nr = 0;

	for (unsigned int i = 0; i < INDEX_STRIPES; i++) {
		if (!stripe_check(&index->stripe[i]))
			return false;
		nr += index->stripe[i].nr_words;
	}
	return tree_check(index->root, &last, &nr) && !nr;
}
