/* SPDX-License-Identifier: MIT */
/*
 * Kernels of the device. They follow the program's own pointers: LOAD(lane, &p->x)
 * is p->x as a device says it. An address that the program has not mapped ends the
 * kernel with a fault record, so nothing here is checked for it.
 *
 * The locks are the index's own: a reader on the device counts itself in the same
 * words as a reader on the CPU, by atomics that hold against the CPU's.
 */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#define LOAD(lane, p)	((__typeof__(*(p)))(uintptr_t)hmm_lane_load(lane, p, sizeof(*(p))))

/* A treap of n words is some 2 ln(n) high; 200 would be a broken one. */
#define TREE_HEIGHT_MAX	200

static void lane_read_lock(struct hmm_lane *lane, index_lock *lock)
{
	while (hmm_lane_add(lane, lock, 1, sizeof(*lock)) & LOCK_WRITER) {
		hmm_lane_add(lane, lock, (uint32_t)-1, sizeof(*lock));
		while (hmm_lane_load(lane, lock, sizeof(*lock)) & LOCK_WRITER)
			;
	}
}

static void lane_read_unlock(struct hmm_lane *lane, index_lock *lock)
{
	hmm_lane_add(lane, lock, (uint32_t)-1, sizeof(*lock));
}

static index_lock *lock_of(struct index *index, uint64_t hash)
{
	return &index->stripe[hash_stripe(hash)].lock;
}

/* Calls @fn for each place of a word; the caller holds the stripe's lock. */
static void lane_places(struct hmm_lane *lane, const struct word *word,
			void (*fn)(uint64_t hash, uint64_t place, uint64_t *sum),
			uint64_t *sum)
{
	uint64_t hash = LOAD(lane, &word->hash), place[64];
	struct block *block = LOAD(lane, &word->places);

	for (; block; block = LOAD(lane, &block->next)) {
		uint32_t nr = LOAD(lane, &block->nr);

		for (uint32_t at = 0; at < nr; at += 64) {
			uint32_t part = nr - at < 64 ? nr - at : 64;

			hmm_lane_read(lane, place, block->place + at,
				      part * sizeof(place[0]));
			for (uint32_t i = 0; i < part; i++)
				fn(hash, place[i], sum);
		}
	}
}

static void step_ordered(uint64_t hash, uint64_t place, uint64_t *sum)
{
	(void)hash;
	*sum = answer_step(*sum, place);
}

static void step_total(uint64_t hash, uint64_t place, uint64_t *sum)
{
	*sum += place_sum(hash, place);
}

static void lane_answer_word(struct hmm_lane *lane, struct answer *answer,
			     const struct word *word)
{
	answer->nr_words++;
	answer->nr_places += LOAD(lane, &word->nr_places);
	answer->sum = answer_step(answer->sum, LOAD(lane, &word->hash));
	lane_places(lane, word, step_ordered, &answer->sum);
}

/* As strncmp(word->text, text, len); the nul ends the comparison at the latest. */
static int lane_compare(struct hmm_lane *lane, const struct word *word, const char *text,
			uint32_t len)
{
	char there[WORD_MAX + 1];
	uint32_t there_len = LOAD(lane, &word->len) + 1;

	if (there_len > len)
		there_len = len;
	hmm_lane_read(lane, there, word->text, there_len);
	return strncmp(there, text, len);
}

static void lane_exact(struct hmm_lane *lane, struct index *index,
		       const struct query *query, struct answer *answer)
{
	uint64_t hash = word_hash(query->text, query->len);
	struct stripe *stripe = &index->stripe[hash_stripe(hash)];
	struct word **bucket, *word;

	lane_read_lock(lane, &stripe->lock);
	bucket = LOAD(lane, &stripe->bucket);
	word = LOAD(lane, &bucket[hash & (LOAD(lane, &stripe->nr_buckets) - 1)]);
	while (word && (LOAD(lane, &word->hash) != hash ||
			LOAD(lane, &word->len) != query->len ||
			lane_compare(lane, word, query->text, query->len)))
		word = LOAD(lane, &word->next);
	if (word)
		lane_answer_word(lane, answer, word);
	lane_read_unlock(lane, &stripe->lock);
}

/*
 * The words of a prefix in order: down to the first, a stack of those still to
 * come, and out at the first word beyond. A tree that is too high gives a wrong
 * answer, which the comparison will tell.
 */
static void lane_prefix(struct hmm_lane *lane, struct index *index,
			const struct query *query, struct answer *answer)
{
	struct word *stack[TREE_HEIGHT_MAX], *word;
	unsigned int depth = 0;
	int order;

	lane_read_lock(lane, &index->tree_lock);
	word = LOAD(lane, &index->root);
	while (depth < TREE_HEIGHT_MAX && (word || depth)) {
		if (word) {
			order = lane_compare(lane, word, query->text, query->len);
			if (order >= 0)
				stack[depth++] = word;
			word = order >= 0 ? LOAD(lane, &word->left) : LOAD(lane, &word->right);
			continue;
		}
		word = stack[--depth];
		if (lane_compare(lane, word, query->text, query->len))
			break;
		lane_read_lock(lane, lock_of(index, LOAD(lane, &word->hash)));
		lane_answer_word(lane, answer, word);
		lane_read_unlock(lane, lock_of(index, LOAD(lane, &word->hash)));
		word = LOAD(lane, &word->right);
	}
	lane_read_unlock(lane, &index->tree_lock);
}

/* One item is one query. */
static void kernel_query(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct job *job = arg;
	struct index *index = LOAD(lane, &job->index);
	struct answers *answers = LOAD(lane, &job->answers);
	struct answer answer = { 0 };
	struct query query;

	hmm_lane_read(lane, &query, LOAD(lane, &job->query) + item, sizeof(query));
	if (query.kind == QUERY_WORD)
		lane_exact(lane, index, &query, &answer);
	else
		lane_prefix(lane, index, &query, &answer);
	hmm_lane_write(lane, &answers->query[item], &answer, sizeof(answer));
}

/* What is in a stripe, found by walking it; the caller holds its lock. */
static void lane_stripe(struct hmm_lane *lane, struct stripe *stripe,
			struct answer *found, struct rank *top)
{
	struct word **bucket = LOAD(lane, &stripe->bucket);
	uint32_t nr_buckets = LOAD(lane, &stripe->nr_buckets);

	for (uint32_t i = 0; i < nr_buckets; i++) {
		struct word *word = LOAD(lane, &bucket[i]);

		for (; word; word = LOAD(lane, &word->next)) {
			struct rank rank = { word, LOAD(lane, &word->nr_places),
					     LOAD(lane, &word->hash) };

			found->nr_words++;
			found->nr_places += rank.nr_places;
			lane_places(lane, word, step_total, &found->sum);
			rank_insert(top, rank);
		}
	}
}

/* One item is one stripe; its part of the total is added to what others add. */
static void kernel_everything(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct job *job = arg;
	struct stripe *stripe = &LOAD(lane, &job->index)->stripe[item];
	struct answer *all = &LOAD(lane, &job->answers)->everything;
	struct rank top[TOP_N] = { 0 };
	struct answer found = { 0 };

	lane_read_lock(lane, &stripe->lock);
	lane_stripe(lane, stripe, &found, top);
	lane_read_unlock(lane, &stripe->lock);
	hmm_lane_add(lane, &all->nr_words, found.nr_words, 8);
	hmm_lane_add(lane, &all->nr_places, found.nr_places, 8);
	hmm_lane_add(lane, &all->sum, found.sum, 8);
	hmm_lane_write(lane, LOAD(lane, &job->best) + item, top, sizeof(top));
}

/* One item: the best of the stripes' best. */
static void kernel_top(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct job *job = arg;
	struct rank top[TOP_N] = { 0 }, part[TOP_N];

	(void)item;
	for (unsigned int i = 0; i < INDEX_STRIPES; i++) {
		hmm_lane_read(lane, part, LOAD(lane, &job->best) + i, sizeof(part));
		for (unsigned int p = 0; p < TOP_N; p++)
			rank_insert(top, part[p]);
	}
	hmm_lane_write(lane, LOAD(lane, &job->answers)->top, top, sizeof(top));
}

/* The whole tree in order; words seen and neighbours out of order. */
static void lane_tree(struct hmm_lane *lane, struct index *index, struct check *found)
{
	struct word *stack[TREE_HEIGHT_MAX], *word, *last = NULL;
	char text[WORD_MAX + 1];
	unsigned int depth = 0;

	lane_read_lock(lane, &index->tree_lock);
	word = LOAD(lane, &index->root);
	while (depth < TREE_HEIGHT_MAX && (word || depth)) {
		if (word) {
			stack[depth++] = word;
			word = LOAD(lane, &word->left);
			continue;
		}
		word = stack[--depth];
		if (last) {
			hmm_lane_read(lane, text, last->text, LOAD(lane, &last->len) + 1);
			found->nr_wrong += lane_compare(lane, word, text, sizeof(text)) <= 0;
		}
		found->nr_words++;
		last = word;
		word = LOAD(lane, &word->right);
	}
	found->nr_wrong += depth == TREE_HEIGHT_MAX;
	lane_read_unlock(lane, &index->tree_lock);
}

void kernel_check(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct job *job = arg;
	struct index *index = LOAD(lane, &job->index);
	struct check *check = LOAD(lane, &job->check), seen = { 0 };
	struct rank top[TOP_N] = { 0 };
	struct answer found = { 0 };

	if (item < INDEX_STRIPES) {
		struct stripe *stripe = &index->stripe[item];

		lane_read_lock(lane, &stripe->lock);
		lane_stripe(lane, stripe, &found, top);
		seen.nr_stripes = 1;
		seen.nr_wrong = found.nr_words != LOAD(lane, &stripe->nr_words) ||
				found.nr_places != LOAD(lane, &stripe->nr_places) ||
				found.sum != LOAD(lane, &stripe->sum);
		lane_read_unlock(lane, &stripe->lock);
	} else {
		lane_tree(lane, index, &seen);
	}
	hmm_lane_add(lane, &check->nr_stripes, seen.nr_stripes, 8);
	hmm_lane_add(lane, &check->nr_words, seen.nr_words, 8);
	hmm_lane_add(lane, &check->nr_wrong, seen.nr_wrong, 8);
}

int device_answer(struct hmm_soft *soft, struct job *job, struct hmm_soft_fault *fault)
{
	int ret;

	memset(job->answers, 0, answers_size());
	ret = hmm_soft_run(soft, kernel_query, query_count, job, fault);
	if (!ret)
		ret = hmm_soft_run(soft, kernel_everything, INDEX_STRIPES, job, fault);
	if (!ret)
		ret = hmm_soft_run(soft, kernel_top, 1, job, fault);
	return ret;
}

struct job *job_create(struct index *index)
{
	struct job *job = calloc(1, sizeof(*job));
	struct query *query = malloc(query_count * sizeof(*query));

	if (!job || !query) {
		free(job);
		free(query);
		return NULL;
	}
	memcpy(query, query_table, query_count * sizeof(*query));
	job->index = index;
	job->query = query;
	job->answers = malloc(answers_size());
	job->best = calloc(INDEX_STRIPES, sizeof(*job->best));
	job->check = calloc(1, sizeof(*job->check));
	if (job->answers && job->best && job->check)
		return job;
	job_destroy(job);
	return NULL;
}

void job_destroy(struct job *job)
{
	if (!job)
		return;
	free((void *)job->query);
	free(job->answers);
	free(job->best);
	free(job->check);
	free(job);
}
