/* SPDX-License-Identifier: MIT */
/*
 * The questions asked of the index, and the two who answer: the CPU in queries.c
 * with plain loads, the device in device.c with its own. The two share the rules
 * below and no code that touches memory.
 */
#ifndef WORDINDEX_QUERIES_H
#define WORDINDEX_QUERIES_H

#include "index.h"

#define TOP_N	10

enum query_kind {
	QUERY_WORD,		/* one word */
	QUERY_PREFIX,		/* every word that begins so, by the tree */
};

struct query {
	enum query_kind kind;
	uint32_t len;
	char text[24];
};

extern const struct query query_table[];
extern const unsigned int query_count;

/*
 * sum is answer_step() over the words in the order of the tree and, for each, over
 * its places: it differs when a single place or the order does. For everything it
 * is the total of place_sum(), in any order.
 */
struct answer {
	uint64_t nr_words, nr_places, sum;
};

struct rank {
	struct word *word;
	uint64_t nr_places, hash;
};

struct answers {
	struct answer everything;
	struct rank top[TOP_N];		/* most places first, then by hash */
	struct answer query[];		/* query_count */
};

static inline uint64_t answer_step(uint64_t sum, uint64_t value)
{
	return mix64(sum * 3 + value);
}

/* Put @rank where it belongs among the TOP_N best. */
static inline void rank_insert(struct rank *top, struct rank rank)
{
	for (unsigned int i = 0; i < TOP_N && rank.word; i++) {
		if (rank.nr_places > top[i].nr_places ||
		    (rank.nr_places == top[i].nr_places && rank.hash > top[i].hash)) {
			struct rank moved = top[i];

			top[i] = rank;
			rank = moved;
		}
	}
}

static inline size_t answers_size(void)
{
	return sizeof(struct answers) + query_count * sizeof(struct answer);
}

/* The CPU's answers; @answers has answers_size() bytes. */
void cpu_answer(struct index *index, struct answers *answers);

#endif
