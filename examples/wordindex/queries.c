/* SPDX-License-Identifier: MIT */
#include "queries.h"

#include <string.h>

#define QUERY(k, t)	{ .kind = k, .len = sizeof(t) - 1, .text = t }

const struct query query_table[] = {
	QUERY(QUERY_WORD, "int"),
	QUERY(QUERY_WORD, "size_t"),
	QUERY(QUERY_WORD, "the"),
	QUERY(QUERY_WORD, "errno"),
	QUERY(QUERY_WORD, "return"),
	QUERY(QUERY_WORD, "userfaultfd"),
	QUERY(QUERY_WORD, "no_such_word_here"),
	QUERY(QUERY_PREFIX, "pthread_"),
	QUERY(QUERY_PREFIX, "str"),
	QUERY(QUERY_PREFIX, "E"),
	QUERY(QUERY_PREFIX, "__"),
	QUERY(QUERY_PREFIX, "uhmm_was_never_here"),
};
const unsigned int query_count = sizeof(query_table) / sizeof(query_table[0]);

static void answer_word(struct answer *answer, const struct word *word)
{
	answer->nr_words++;
	answer->nr_places += word->nr_places;
	answer->sum = answer_step(answer->sum, word->hash);
	for (const struct block *block = word->places; block; block = block->next)
		for (uint32_t i = 0; i < block->nr; i++)
			answer->sum = answer_step(answer->sum, block->place[i]);
}

static void answer_exact(struct index *index, const struct query *query,
			 struct answer *answer)
{
	uint64_t hash = word_hash(query->text, query->len);
	struct stripe *stripe = &index->stripe[hash_stripe(hash)];
	const struct word *word;

	index_read_lock(&stripe->lock);
	word = stripe_find(stripe, query->text, query->len, hash);
	if (word)
		answer_word(answer, word);
	index_read_unlock(&stripe->lock);
}

static void answer_prefix(struct index *index, const struct word *root,
			  const struct query *query, struct answer *answer)
{
	int order;

	if (!root)
		return;
	order = strncmp(root->text, query->text, query->len);
	if (order >= 0)
		answer_prefix(index, root->left, query, answer);
	if (!order) {
		index_lock *lock = &index->stripe[hash_stripe(root->hash)].lock;

		index_read_lock(lock);
		answer_word(answer, root);
		index_read_unlock(lock);
	}
	if (order <= 0)
		answer_prefix(index, root->right, query, answer);
}

static void answer_stripe(struct stripe *stripe, struct answers *answers)
{
	struct answer *all = &answers->everything;

	index_read_lock(&stripe->lock);
	for (uint32_t i = 0; i < stripe->nr_buckets; i++) {
		for (struct word *word = stripe->bucket[i]; word; word = word->next) {
			all->nr_words++;
			all->nr_places += word->nr_places;
			for (struct block *b = word->places; b; b = b->next)
				for (uint32_t p = 0; p < b->nr; p++)
					all->sum += place_sum(word->hash, b->place[p]);
			rank_insert(answers->top,
				    (struct rank){ word, word->nr_places, word->hash });
		}
	}
	index_read_unlock(&stripe->lock);
}

void cpu_answer(struct index *index, struct answers *answers)
{
	memset(answers, 0, answers_size());
	for (unsigned int i = 0; i < query_count; i++) {
		const struct query *query = &query_table[i];

		if (query->kind == QUERY_WORD) {
			answer_exact(index, query, &answers->query[i]);
			continue;
		}
		index_read_lock(&index->tree_lock);
		answer_prefix(index, index->root, query, &answers->query[i]);
		index_read_unlock(&index->tree_lock);
	}
	for (unsigned int i = 0; i < INDEX_STRIPES; i++)
		answer_stripe(&index->stripe[i], answers);
}
