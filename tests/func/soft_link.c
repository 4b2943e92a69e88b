/* SPDX-License-Identifier: MIT */
/*
 * The soft device's DMA: queues that share a transfer, and the modelled latency and
 * bandwidth of link and memory.
 *
 * A model says how long something takes at least, and that is asserted. That it takes
 * no longer is asked until a quiet moment of the machine shows it.
 */
#define _GNU_SOURCE
#include "softdev.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BLOCK	512
#define MS	1000000ULL

/* How long moving in of @nr pages at @p takes, and their way home. */
static uint64_t time_in(struct hmm_soft *soft, unsigned char *p, size_t nr)
{
	uint64_t start = now_ns();

	assert_int_equal(soft_move_in(soft, p, nr, NULL), nr);
	return now_ns() - start;
}

static uint64_t time_home(struct world *w, unsigned char *p, size_t nr)
{
	uint64_t start = now_ns();

	assert_int_equal(evict(w, p, nr), nr);
	return now_ns() - start;
}

/* Each transfer takes the link's latency, both ways, at a fault of the CPU's too. */
static void link_has_its_latency(void **state)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .link_ns = 15 * MS);
	struct world *w = *state;
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_filled(1, 1);
	uint64_t start;

	assert_true(time_in(soft, p, 1) >= 15 * MS);
	assert_true(time_home(w, p, 1) >= 15 * MS);
	assert_true(time_in(soft, p, 1) >= 15 * MS);
	start = now_ns();
	assert_int_equal(touch_read(p), 0);
	assert_true(now_ns() - start >= 15 * MS);
	assert_int_equal(soft_stats_of(soft).dma_transfers, 4);
	assert_int_equal(soft_stats_of(soft).dma_bytes, 4 * page);
	assert_int_equal(soft_stats_of(soft).migrated_out, 2);
	assert_holds(p, 1, 1, 0);
	assert_int_equal(hmm_soft_close(soft), 0);
	munmap(p, page);
}

/* All queues together have the link's bandwidth, and not each of them. */
static void link_has_its_bandwidth(void **state)
{
	struct world *w = *state;

	for (uint32_t queues = 1; queues <= 8; queues *= 8) {
		HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .dma_queues = queues,
			 .link_mbps = 40);
		struct hmm_soft *soft = soft_new(w, &opts);
		unsigned char *p = map_blocks(BLOCK, 2);
		uint64_t least = BLOCK * page * 1000 / 40;

		assert_true(time_in(soft, p, BLOCK) >= least);
		assert_true(time_home(w, p, BLOCK) >= least);
		assert_holds(p, BLOCK, 2, 0);
		assert_int_equal(hmm_soft_close(soft), 0);
		unmap_blocks(p, BLOCK);
	}
}

struct traveller {
	pthread_t thread;
	struct world *w;
	unsigned char *p;
	size_t nr;
};

static void *goes_home(void *arg)
{
	struct traveller *t = arg;

	return (void *)(uintptr_t)evict(t->w, t->p, t->nr);
}

/* @nr threads bring @each pages home at once; how long it takes all of them. */
static uint64_t together(struct world *w, unsigned char *p, size_t nr, size_t each)
{
	struct traveller t[32];
	uint64_t start = now_ns();
	void *got;

	assert_true(nr <= ARRAY_LEN(t));
	for (size_t i = 0; i < nr; i++) {
		t[i] = (struct traveller){ .w = w, .p = p + i * each * page, .nr = each };
		assert_int_equal(pthread_create(&t[i].thread, NULL, goes_home, &t[i]), 0);
	}
	for (size_t i = 0; i < nr; i++) {
		pthread_join(t[i].thread, &got);
		assert_int_equal((uintptr_t)got, each);
	}
	return now_ns() - start;
}

/* Transfers wait for each other in one queue, and do not in several. */
static void queues_work_side_by_side(void **state)
{
	enum { NR = 4, EACH = 16 };
	struct world *w = *state;

	for (uint32_t queues = 1; queues <= NR; queues += NR - 1) {
		HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .dma_queues = queues,
			 .link_ns = 15 * MS);
		struct hmm_soft *soft = soft_new(w, &opts);
		unsigned char *p = map_blocks(NR * EACH, 3);
		uint64_t apart = NR * 15 * MS;

		assert_int_equal(soft_move_in(soft, p, NR * EACH, NULL), NR * EACH);
		if (queues == 1) {
			assert_true(together(w, p, NR, EACH) >= apart);
		} else {
			assert_true(eventually(({
				IGNORE(soft_move_in(soft, p, NR * EACH, NULL));
				together(w, p, NR, EACH) < apart;
			})));
		}
		assert_holds(p, NR * EACH, 3, 0);
		assert_int_equal(hmm_soft_close(soft), 0);
		unmap_blocks(p, NR * EACH);
	}
}

/*
 * A transfer in pieces arrives whole, however its runs lie: every third page is a hole,
 * and device memory is in pieces too.
 */
static void pieces_make_a_whole(void **state)
{
	enum { NR = 2 * BLOCK };
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .dma_queues = 5);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks(NR, 4);

	assert_int_equal(soft_move_in(soft, p, NR, NULL), NR);
	for (size_t i = 0; i < NR; i += 3)
		assert_int_equal(madvise(p + i * page, page, MADV_DONTNEED), 0);
	for (size_t i = 1; i < NR; i += 7)
		assert_true(evict(w, p + i * page, 1) >= 0);
	for (int round = 0; round < 3; round++) {
		IGNORE(soft_move_in(soft, p, NR, NULL));
		assert_at(w, p, NR, HMM_PLACE_DEVICE);
		assert_true(evict(w, p, NR) >= 0);
		for (size_t i = 0; i < NR; i++) {
			if (i % 3)
				assert_holds(p + i * page, 1, 4, i);
			else
				assert_true(all_zero(p + i * page, page));
		}
	}
	assert_int_equal(hmm_soft_close(soft), 0);
	unmap_blocks(p, NR);
}

/*
 * More transfers at once than the queues have pieces for: those that find none are made
 * by who asks, all arrive, and afterwards the queues work as before.
 */
static void more_transfers_than_pieces(void **state)
{
	enum { NR = 32, EACH = 256 };
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 2 * NR * EACH * page, .dma_queues = 16,
		 .link_ns = MS);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks(NR * EACH, 5);

	for (int round = 0; round < 3; round++) {
		assert_int_equal(soft_move_in(soft, p, NR * EACH, NULL), NR * EACH);
		(void)together(w, p, NR, EACH);
		assert_holds(p, NR * EACH, 5, 0);
	}
	assert_int_equal(hmm_soft_close(soft), 0);
	unmap_blocks(p, NR * EACH);
}

/* The span below, timed by the lane itself: what is around it is not the device's. */
static unsigned char *span;
static size_t span_bytes;
static uint64_t span_took;

static void kernel_span(struct hmm_lane *lane, uint64_t item, void *arg)
{
	static unsigned char buf[BLOCK * 4096];
	uint64_t start = now_ns();

	(void)item;
	(void)arg;
	hmm_lane_read(lane, buf, span, span_bytes);
	span_took = now_ns() - start;
}

static uint64_t time_span(struct hmm_soft *soft)
{
	assert_int_equal(hmm_soft_run(soft, kernel_span, 1, NULL, NULL), 0);
	return span_took;
}

/* Spans of device memory take its bandwidth; spans of system memory do not. */
static void device_memory_has_its_bandwidth(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 8 << 20, .lanes = 1, .mem_mbps = 40,
		 .migrate = HMM_SOFT_MIGRATE_NEVER);
	struct hmm_soft *soft = soft_new(w, &opts);
	unsigned char *p = map_blocks(BLOCK, 6);
	uint64_t least = BLOCK * page * 1000 / 40;

	span = p;
	span_bytes = BLOCK * page;
	assert_true(eventually(time_span(soft) < least));
	assert_int_equal(soft_move_in(soft, p, BLOCK, NULL), BLOCK);
	assert_true(time_span(soft) >= least);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_holds(p, BLOCK, 6, 0);
	unmap_blocks(p, BLOCK);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(link_has_its_latency),
		world_test(link_has_its_bandwidth),
		world_test(queues_work_side_by_side),
		world_test(pieces_make_a_whole),
		world_test(more_transfers_than_pieces),
		world_test(device_memory_has_its_bandwidth),
	};

	need_mm();
	if (hmm_page_size() != 4096)
		skip_program("written for pages of 4 KiB");
	return cmocka_run_group_tests_name("soft_link", tests, world_begin, world_end);
}
