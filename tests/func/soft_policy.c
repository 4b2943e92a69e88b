/* SPDX-License-Identifier: MIT */
/*
 * The soft device's own policy: when a page that the lanes touch moves in, how much
 * comes with it, what is held back because it bounces, and whose turn it is to go.
 */
#define _GNU_SOURCE
#include "softdev.h"

#include <errno.h>
#include <sys/mman.h>

#define CHUNK		16	/* pages of 4 KiB in 64 KiB */
#define BLOCK		512	/* ... and in 2 MiB */
#define NO_PREFETCH	101

static size_t there(struct world *w, unsigned char *p, size_t nr)
{
	return count_at(w, p, nr, HMM_PLACE_DEVICE);
}

/*
 * With NTH the 64 KiB around a page stay until n of its pages have faulted, each for
 * itself, and all of it moves then. What has not been counted to n stays.
 */
static void nth_fault_moves_its_chunk(void **state)
{
	static const struct { uint32_t given, means; } nth[] = { { 0, 3 }, { 1, 1 }, { 5, 5 } };
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_LEN(nth); i++) {
		HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .lanes = 1,
			 .migrate = HMM_SOFT_MIGRATE_NTH, .migrate_nth = nth[i].given,
			 .prefetch = NO_PREFETCH);
		struct hmm_soft *soft = soft_new(w, &opts);
		unsigned char *p = map_blocks(BLOCK, 1);

		for (uint32_t n = 1; n <= nth[i].means; n++) {
			assert_int_equal(there(w, p, BLOCK), 0);
			assert_int_equal(soft_load(soft, p + n * page), pattern(1, n, 0));
			/* Mirrored by now, or moved: it faults no more. */
			assert_int_equal(soft_load(soft, p + n * page), pattern(1, n, 0));
			assert_int_equal(soft_stats_of(soft).device_faults, n);
		}
		assert_int_equal(there(w, p, BLOCK), CHUNK);
		assert_int_equal(there(w, p, CHUNK), CHUNK);
		if (nth[i].means > 1) {
			assert_int_equal(soft_load(soft, p + CHUNK * page), pattern(1, CHUNK, 0));
			assert_int_equal(there(w, p, BLOCK), CHUNK);
		}
		assert_int_equal(hmm_soft_close(soft), 0);
		assert_holds(p, BLOCK, 1, 0);
		unmap_blocks(p, BLOCK);
	}
}

/* Faults, each in a chunk of its own, until all of the block is on the device. */
static size_t faults_until_whole(struct world *w, struct hmm_soft *soft, unsigned char *p)
{
	size_t n = 0;

	while (n < BLOCK / CHUNK) {
		size_t at = n * CHUNK + n % CHUNK;

		assert_int_equal(there(w, p, BLOCK), n * CHUNK);
		assert_int_equal(soft_load(soft, p + at * page), pattern(2, at, 0));
		n++;
		if (there(w, p, BLOCK) == BLOCK)
			break;
	}
	return n;
}

/*
 * A fault fetches its 64 KiB, until with them the asked percentage of the 2 MiB would
 * be on the device: then all of it comes. The block beside it does not.
 */
static void dense_block_is_fetched_whole(void **state)
{
	static const struct { uint32_t percent; size_t fault; } prefetch[] = {
		{ 25, 8 }, { 0, 17 }, { 100, 32 }, { NO_PREFETCH, 32 }, { 1, 1 },
	};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_LEN(prefetch); i++) {
		HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .lanes = 1,
			 .prefetch = prefetch[i].percent);
		struct hmm_soft *soft = soft_new(w, &opts);
		unsigned char *p = map_blocks(2 * BLOCK, 2);

		assert_int_equal(faults_until_whole(w, soft, p), prefetch[i].fault);
		assert_int_equal(there(w, p + BLOCK * page, BLOCK), 0);
		assert_int_equal(soft_stats_of(soft).device_faults, prefetch[i].fault);
		assert_int_equal(soft_stats_of(soft).migrated_in, BLOCK);
		assert_int_equal(soft_stats_of(soft).prefetched, BLOCK - prefetch[i].fault);
		soft_checks(soft, p, BLOCK, 2);
		assert_int_equal(hmm_soft_close(soft), 0);
		assert_holds(p, 2 * BLOCK, 2, 0);
		unmap_blocks(p, 2 * BLOCK);
	}
}

/* The lanes fault on the page anew, wherever it is. */
static void fault_anew(struct world *w, struct hmm_soft *soft, unsigned char *p)
{
	to_device(w, w->dev, p, 1);
	assert_int_equal(evict(w, p, 1), 1);
	assert_int_equal(soft_load(soft, p), pattern(3, 0, 0));
}

/*
 * What came three times again after it had gone home is left in system memory for a
 * while, mirrored, and counted; later it may come again.
 */
static void bouncing_block_is_held_back(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .lanes = 1, .prefetch = NO_PREFETCH);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks(BLOCK, 3);
	uint64_t came = 0;

	/* However slow the machine, a block is never held before it has bounced. */
	assert_true(eventually(({
		fault_anew(w, soft, p);
		came += there(w, p, 1);
		soft_stats_of(soft).thrash_held > 0;
	})));
	assert_true(came >= 4);
	assert_int_equal(there(w, p, BLOCK), CHUNK - 1);	/* its neighbours came before */
	assert_true(hmm_soft_pte(soft, (uintptr_t)p) & HMM_SOFT_PTE_VALID);
	assert_true(eventually(({ fault_anew(w, soft, p); there(w, p, 1) == 1; })));
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, BLOCK, 3, 0);
	unmap_blocks(p, BLOCK);
}

/* The policy can be changed while the device is open; a bad one changes nothing. */
static void policy_changes_on_the_way(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .lanes = 1, .prefetch = NO_PREFETCH);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks(BLOCK, 4);

	opts.migrate = HMM_SOFT_MIGRATE_NEVER;
	assert_int_equal(hmm_soft_set_policy(soft, &opts), 0);
	assert_int_equal(soft_load(soft, p), pattern(4, 0, 0));
	assert_int_equal(there(w, p, BLOCK), 0);

	opts.migrate = HMM_SOFT_MIGRATE_FIRST;
	opts.prefetch = 102;
	assert_int_equal(hmm_soft_set_policy(soft, &opts), -EINVAL);
	assert_int_equal(soft_load(soft, p + CHUNK * page), pattern(4, CHUNK, 0));
	assert_int_equal(there(w, p, BLOCK), 0);

	opts.prefetch = 1;
	opts.fault_around = 1;
	assert_int_equal(hmm_soft_set_policy(soft, &opts), 0);
	/* Where nothing is mirrored yet. */
	assert_int_equal(soft_load(soft, p + BLOCK / 2 * page), pattern(4, BLOCK / 2, 0));
	assert_int_equal(there(w, p, BLOCK), BLOCK);
	assert_int_equal(touch_read(p), 0);
	assert_int_equal(there(w, p, BLOCK), BLOCK - 1);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, BLOCK, 4, 0);
	unmap_blocks(p, BLOCK);
}

/* A full device gives up the block that its lanes have not touched for longest. */
static void oldest_block_goes_first(void **state)
{
	enum { BLOCKS = 4 };
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = BLOCKS * BLOCK * page, .lanes = 1);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks((BLOCKS + 2) * BLOCK, 5), *at[BLOCKS + 2];

	for (size_t i = 0; i < ARRAY_LEN(at); i++)
		at[i] = p + i * BLOCK * page;
	for (size_t i = 0; i < BLOCKS; i++)
		assert_int_equal(soft_move_in(soft, at[i], BLOCK, NULL), BLOCK);
	/* Without this the first would go, and then the second. */
	assert_int_equal(soft_load(soft, at[0]), pattern(5, 0, 0));
	assert_int_equal(soft_load(soft, at[2]), pattern(5, 2 * BLOCK, 0));
	for (size_t i = BLOCKS; i < ARRAY_LEN(at); i++)
		assert_int_equal(soft_move_in(soft, at[i], BLOCK, NULL), BLOCK);

	assert_int_equal(there(w, at[0], BLOCK), BLOCK);
	assert_int_equal(there(w, at[1], BLOCK), 0);
	assert_int_equal(there(w, at[2], BLOCK), BLOCK);
	assert_int_equal(there(w, at[3], BLOCK), 0);
	assert_int_equal(there(w, at[4], BLOCK), BLOCK);
	assert_int_equal(soft_stats_of(soft).evicted, 2 * BLOCK);
	assert_int_equal(soft_stats_of(soft).mem_used, BLOCKS * BLOCK * page);
	soft_checks(soft, p, (BLOCKS + 2) * BLOCK, 5);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, (BLOCKS + 2) * BLOCK, 5, 0);
	unmap_blocks(p, (BLOCKS + 2) * BLOCK);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(nth_fault_moves_its_chunk),
		world_test(dense_block_is_fetched_whole),
		world_test(bouncing_block_is_held_back),
		world_test(policy_changes_on_the_way),
		world_test(oldest_block_goes_first),
	};

	need_mm();
	if (hmm_page_size() != 4096)
		skip_program("written for pages of 4 KiB");
	return cmocka_run_group_tests_name("soft_policy", tests, world_begin, world_end);
}
