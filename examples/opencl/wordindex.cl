/* SPDX-License-Identifier: MIT */
/*
 * The questions of examples/wordindex, asked of its index where malloc put it. The offsets
 * of members come as options of the build.
 */
#include <uhmm/device.clh>

#define TREE_HEIGHT_MAX	200

#define WORD(member)	(word + WORD_##member)

ulong mix64(ulong x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9UL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebUL;
	return x ^ (x >> 31);
}

ulong answer_step(ulong sum, ulong value)
{
	return mix64(sum * 3 + value);
}

ulong place_sum(ulong hash, ulong place)
{
	return mix64(hash ^ mix64(place));
}

struct answer {
	ulong nr_words, nr_places, sum;
};

/* Adds a word with its places, in order. */
#define ANSWER_WORD(answer, word) do { \
	ulong block_; \
	(answer).nr_words++; \
	(answer).nr_places += hmm_view_load_ulong(hmm, words, WORD(nr_places)); \
	(answer).sum = answer_step((answer).sum, hmm_view_load_ulong(hmm, words, WORD(hash))); \
	for (block_ = hmm_view_load_ulong(hmm, words, WORD(places)); block_; \
	     block_ = hmm_view_load_ulong(hmm, places, block_ + BLOCK_next)) { \
		uint nr_ = hmm_view_load_uint(hmm, places, block_ + BLOCK_nr); \
		for (uint i_ = 0; i_ < nr_; i_++) \
			(answer).sum = answer_step((answer).sum, \
				hmm_view_load_ulong(hmm, places, block_ + BLOCK_place + 8UL * i_)); \
	} \
} while (0)

/* As strncmp(word->text, query->text, len). */
#define COMPARE(order, word, text, len) do { \
	(order) = 0; \
	for (uint c_ = 0; c_ < (len) && !(order); c_++) { \
		uchar w_ = hmm_view_load_uchar(hmm, words, WORD(text) + c_); \
		(order) = (int)w_ - (int)hmm_load_uchar(hmm, (text) + c_); \
		if (!w_) \
			break; \
	} \
} while (0)

/* Item i answers query i. */
__kernel void query(HMM_ARGS, ulong index, ulong queries, ulong answers)
{
	HMM_BEGIN(hmm);
	HMM_VIEW(words);
	HMM_VIEW(places);
	ulong q = queries + (ulong)hmm_item(hmm) * QUERY_size, text = q + QUERY_text;
	ulong out = answers + (ulong)hmm_item(hmm) * 24, stack[TREE_HEIGHT_MAX], word;
	bool prefix = hmm_load_uint(hmm, q + QUERY_kind);
	uint len = hmm_load_uint(hmm, q + QUERY_len) + !prefix, depth = 0;
	struct answer answer = { 0, 0, 0 };
	int order;

	/* One word is the only one that begins with it and its nul. */
	word = hmm_load_ulong(hmm, index + INDEX_root);
	while (depth < TREE_HEIGHT_MAX && (word || depth)) {
		if (word) {
			COMPARE(order, word, text, len);
			if (order >= 0)
				stack[depth++] = word;
			word = hmm_view_load_ulong(hmm, words,
						   order >= 0 ? WORD(left) : WORD(right));
			continue;
		}
		word = stack[--depth];
		COMPARE(order, word, text, len);
		if (order)
			break;
		ANSWER_WORD(answer, word);
		word = hmm_view_load_ulong(hmm, words, WORD(right));
	}
	hmm_store_ulong(hmm, out, answer.nr_words);
	hmm_store_ulong(hmm, out + 8, answer.nr_places);
	hmm_store_ulong(hmm, out + 16, answer.sum);
	HMM_END(hmm);
}

/* Item i walks stripe i; its part of the total is added to what others add. */
__kernel void everything(HMM_ARGS, ulong index, ulong all)
{
	HMM_BEGIN(hmm);
	HMM_VIEW(words);
	HMM_VIEW(places);
	ulong stripe = index + (ulong)hmm_item(hmm) * STRIPE_size;
	ulong bucket = hmm_load_ulong(hmm, stripe + STRIPE_bucket), word, block, hash;
	uint nr_buckets = hmm_load_uint(hmm, stripe + STRIPE_nr_buckets), nr;
	struct answer found = { 0, 0, 0 };

	for (uint b = 0; b < nr_buckets && !hmm_stopped(hmm); b++) {
		for (word = hmm_load_ulong(hmm, bucket + 8UL * b); word;
		     word = hmm_view_load_ulong(hmm, words, WORD(next))) {
			hash = hmm_view_load_ulong(hmm, words, WORD(hash));
			found.nr_words++;
			found.nr_places += hmm_view_load_ulong(hmm, words, WORD(nr_places));
			for (block = hmm_view_load_ulong(hmm, words, WORD(places)); block;
			     block = hmm_view_load_ulong(hmm, places, block + BLOCK_next)) {
				nr = hmm_view_load_uint(hmm, places, block + BLOCK_nr);
				for (uint i = 0; i < nr; i++)
					found.sum += place_sum(hash, hmm_view_load_ulong(hmm, places,
							block + BLOCK_place + 8UL * i));
			}
		}
	}
	hmm_atomic_add_ulong(hmm, all, found.nr_words);
	hmm_atomic_add_ulong(hmm, all + 8, found.nr_places);
	hmm_atomic_add_ulong(hmm, all + 16, found.sum);
	HMM_END(hmm);
}
