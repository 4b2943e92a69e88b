/* SPDX-License-Identifier: MIT */
#include "dma.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#include "clock.h"
#include "device.h"

#define QUEUE_STACK	(1UL << 20)
#define PIECE_PAGES_MIN	16	/* below it a hand-over costs more than it saves */
#define BULK_BYTES	(1UL << 20)	/* a longer run goes past the caches, as it does not fit */

static uint64_t runs_pages(const struct hmm_copy_run *runs, size_t nr_runs)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < nr_runs; i++)
		pages += runs[i].nr_pages;
	return pages;
}

static void copy_pages(const struct hmm_soft *soft, void *dst, const void *src, uint64_t nr)
{
	if (nr * soft->page_size > BULK_BYTES)
		hmm_bulk_copy(dst, src, nr * soft->page_size);
	else
		memcpy(dst, src, nr * soft->page_size);
}

static void copy_runs(struct hmm_soft *soft, enum soft_dma_way way,
		      const struct hmm_copy_run *runs, size_t nr_runs)
{
	for (size_t i = 0; i < nr_runs; i++) {
		char *at = soft_memory_at(&soft->memory, runs[i].index);
		uint64_t nr = runs[i].nr_pages;

		if (way == SOFT_DMA_FROM_DEVICE)
			copy_pages(soft, runs[i].cpu, at, nr);
		else if (runs[i].cpu)
			copy_pages(soft, at, runs[i].cpu, nr);
		else
			memset(at, 0, nr * soft->page_size);
	}
}

static void pace_link(struct soft_dma *dma, uint64_t bytes)
{
	if (dma->link_ns || dma->link_mbps)
		soft_pace(&dma->link_free_ns, dma->link_mbps, bytes, dma->link_ns);
}

static void count_done(struct hmm_soft *soft, enum soft_dma_way way, uint64_t pages)
{
	soft_count(&soft->count.dma_bytes, pages * soft->page_size);
	if (way == SOFT_DMA_FROM_DEVICE)
		soft_count(&soft->count.migrated_out, pages);
}

/* The frame of page number @at of a transfer. */
static uint64_t run_frame(const struct hmm_copy_run *runs, uint64_t at)
{
	while (at >= runs->nr_pages)
		at -= runs++->nr_pages;
	return runs->index + at;
}

/* The faults of a transfer, injected ones and those that an earlier one left behind. */
static int transfer_check(struct hmm_soft *soft, enum soft_dma_way way,
			  const struct hmm_copy_run *runs, size_t nr_runs, uint64_t pages)
{
	struct soft_inject *inject = &soft->dma.inject;
	int ret = 0;
	uint64_t at;

	soft_count(&soft->count.dma_transfers, 1);
	if (soft_inject_hits(&inject->dma, 1, &at))
		ret = -EIO;
	if (soft_inject_hits(&inject->reset, 1, &at)) {
		soft_dma_reset(soft);
		ret = -EIO;
	}
	if (way == SOFT_DMA_FROM_DEVICE) {
		if (soft_inject_hits(&inject->ecc, pages, &at))
			soft_dma_lose(soft, run_frame(runs, at));
		for (size_t i = 0; i < nr_runs && !ret; i++)
			if (soft_memory_is_lost(&soft->memory, runs[i].index, runs[i].nr_pages))
				ret = -EIO;
	}
	if (ret)
		soft_count(&soft->count.dma_errors, 1);
	return ret;
}

/* Lock held. */
static void pieces_put(struct soft_dma *dma, struct soft_link *pieces)
{
	struct soft_link *link;

	while ((link = soft_list_pop(pieces)))
		soft_list_append(&dma->pieces, link);
}

/*
 * Cut @runs into pieces of at most @max pages for @transfer. False: the pool ran dry,
 * and nothing is taken of it. Lock held.
 */
static bool pieces_cut(struct soft_dma *dma, struct soft_transfer *transfer, uint64_t max,
		       const struct hmm_copy_run *runs, size_t nr_runs, struct soft_link *pieces)
{
	struct soft_piece *piece = NULL;
	uint64_t room = 0;

	for (size_t i = 0; i < nr_runs; i++) {
		struct hmm_copy_run run = runs[i];

		while (run.nr_pages) {
			struct soft_link *link;
			uint64_t n;

			if (!room || piece->nr_runs == SOFT_DMA_RUNS) {
				link = soft_list_pop(&dma->pieces);
				if (!link) {
					pieces_put(dma, pieces);
					return false;
				}
				piece = soft_entry(link, struct soft_piece, link);
				piece->transfer = transfer;
				piece->nr_runs = 0;
				soft_list_append(pieces, link);
				transfer->left++;
				room = max;
			}
			n = run.nr_pages < room ? run.nr_pages : room;
			piece->runs[piece->nr_runs++] = (struct hmm_copy_run){
				.cpu = run.cpu, .index = run.index, .nr_pages = n,
			};
			if (run.cpu)
				run.cpu = (char *)run.cpu + n * dma->soft->page_size;
			run.index += n;
			run.nr_pages -= n;
			room -= n;
		}
	}
	return true;
}

/* Hand a transfer to the queues; false: the pools are used up. */
static bool transfer_post(struct soft_dma *dma, struct hmm_copy *copy, enum soft_dma_way way,
			  const struct hmm_copy_run *runs, size_t nr_runs, uint64_t pages)
{
	uint64_t max = (pages + dma->nr_queues - 1) / dma->nr_queues;
	struct soft_transfer *transfer = NULL;
	struct soft_link pieces, *link;

	if (max < PIECE_PAGES_MIN)
		max = PIECE_PAGES_MIN;
	soft_list_init(&pieces);
	pthread_mutex_lock(&dma->lock);
	link = soft_list_pop(&dma->transfers);
	if (link) {
		transfer = soft_entry(link, struct soft_transfer, link);
		transfer->copy = copy;
		transfer->pages = pages;
		transfer->way = way;
		transfer->left = 0;
		if (!pieces_cut(dma, transfer, max, runs, nr_runs, &pieces)) {
			soft_list_append(&dma->transfers, link);
			transfer = NULL;
		}
	}
	while ((link = soft_list_pop(&pieces))) {
		struct soft_dma_queue *queue = &dma->queues[dma->next_queue++ % dma->nr_queues];

		soft_list_append(&queue->pieces, link);
		pthread_cond_signal(&queue->work);
	}
	pthread_mutex_unlock(&dma->lock);
	return transfer;
}

/* Lock held; comes back with it held. */
static void piece_run(struct soft_dma *dma, struct soft_piece *piece)
{
	struct soft_transfer *transfer = piece->transfer;
	uint64_t pages = runs_pages(piece->runs, piece->nr_runs);
	struct hmm_copy *copy = NULL;

	pthread_mutex_unlock(&dma->lock);
	copy_runs(dma->soft, transfer->way, piece->runs, piece->nr_runs);
	pace_link(dma, pages * dma->soft->page_size);
	pthread_mutex_lock(&dma->lock);

	soft_list_append(&dma->pieces, &piece->link);
	if (--transfer->left == 0) {
		copy = transfer->copy;
		count_done(dma->soft, transfer->way, transfer->pages);
		soft_list_append(&dma->transfers, &transfer->link);
	}
	if (copy) {
		pthread_mutex_unlock(&dma->lock);
		hmm_copy_done(copy, 0);
		pthread_mutex_lock(&dma->lock);
	}
}

static void *queue_main(void *arg)
{
	struct soft_dma_queue *queue = arg;
	struct soft_dma *dma = queue->dma;
	struct soft_link *link;

	/* The default slack of 50 us would be most of a modelled latency. */
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	pthread_mutex_lock(&dma->lock);
	while (!dma->exiting) {
		link = soft_list_pop(&queue->pieces);
		if (link)
			piece_run(dma, soft_entry(link, struct soft_piece, link));
		else
			pthread_cond_wait(&queue->work, &dma->lock);
	}
	pthread_mutex_unlock(&dma->lock);
	return NULL;
}

static int transfer(struct hmm_soft *soft, enum soft_dma_way way, struct hmm_copy *copy,
		    const struct hmm_copy_run *runs, size_t nr_runs)
{
	uint64_t pages = runs_pages(runs, nr_runs);
	int ret = transfer_check(soft, way, runs, nr_runs, pages);

	if (ret)
		return ret;
	if (soft->dma.nr_queues && transfer_post(&soft->dma, copy, way, runs, nr_runs, pages))
		return -EINPROGRESS;
	copy_runs(soft, way, runs, nr_runs);
	pace_link(&soft->dma, pages * soft->page_size);
	count_done(soft, way, pages);
	return 0;
}

static int queues_start(struct soft_dma *dma)
{
	int ret;

	for (uint32_t i = 0; i < dma->nr_queues; i++) {
		struct soft_dma_queue *queue = &dma->queues[i];

		queue->dma = dma;
		soft_list_init(&queue->pieces);
		pthread_cond_init(&queue->work, NULL);
		ret = hmm_safe_thread_start(queue_main, queue, QUEUE_STACK, &queue->thread);
		if (ret)
			return ret;
	}
	return 0;
}

int soft_dma_init(struct hmm_soft *soft, const struct hmm_soft_opts *opts)
{
	struct soft_dma *dma = &soft->dma;
	bool model = opts->link_ns || opts->link_mbps;

	dma->soft = soft;
	dma->link_ns = opts->link_ns;
	dma->link_mbps = opts->link_mbps;
	pthread_mutex_init(&dma->lock, NULL);
	soft_list_init(&dma->transfers);
	soft_list_init(&dma->pieces);
	if (!model && opts->dma_queues <= 1)
		return 0;

	dma->queues = hmm_safe_alloc(SOFT_DMA_QUEUES * sizeof(*dma->queues));
	dma->transfer_pool = hmm_safe_alloc(SOFT_DMA_TRANSFERS * sizeof(*dma->transfer_pool));
	dma->piece_pool = hmm_safe_alloc(SOFT_DMA_PIECES * sizeof(*dma->piece_pool));
	if (!dma->queues || !dma->transfer_pool || !dma->piece_pool)
		return -ENOMEM;
	for (unsigned int i = 0; i < SOFT_DMA_TRANSFERS; i++)
		soft_list_append(&dma->transfers, &dma->transfer_pool[i].link);
	for (unsigned int i = 0; i < SOFT_DMA_PIECES; i++)
		soft_list_append(&dma->pieces, &dma->piece_pool[i].link);
	dma->nr_queues = opts->dma_queues ? opts->dma_queues : 1;
	return queues_start(dma);
}

void soft_dma_destroy(struct soft_dma *dma)
{
	pthread_mutex_lock(&dma->lock);
	dma->exiting = true;
	for (uint32_t i = 0; i < dma->nr_queues; i++)
		pthread_cond_broadcast(&dma->queues[i].work);
	pthread_mutex_unlock(&dma->lock);
	for (uint32_t i = 0; i < dma->nr_queues; i++)
		hmm_safe_thread_join(dma->queues[i].thread);

	hmm_safe_free(dma->piece_pool, SOFT_DMA_PIECES * sizeof(*dma->piece_pool));
	hmm_safe_free(dma->transfer_pool, SOFT_DMA_TRANSFERS * sizeof(*dma->transfer_pool));
	hmm_safe_free(dma->queues, SOFT_DMA_QUEUES * sizeof(*dma->queues));
	pthread_mutex_destroy(&dma->lock);
}

bool soft_inject_hits(_Atomic int64_t *counter, uint64_t n, uint64_t *at)
{
	int64_t before;

	if (atomic_load_explicit(counter, memory_order_relaxed) <= 0)
		return false;
	before = atomic_fetch_sub_explicit(counter, (int64_t)n, memory_order_relaxed);
	if (before <= 0 || before > (int64_t)n)
		return false;
	*at = (uint64_t)before - 1;
	return true;
}

void soft_pace(_Atomic uint64_t *free_ns, uint64_t mbps, uint64_t bytes, uint64_t latency_ns)
{
	uint64_t takes = mbps ? bytes * 1000 / mbps : 0;
	uint64_t now = soft_now_ns(), from = atomic_load_explicit(free_ns, memory_order_relaxed);
	uint64_t until;

	do
		until = (from > now ? from : now) + takes;
	while (!atomic_compare_exchange_weak_explicit(free_ns, &from, until, memory_order_relaxed,
						      memory_order_relaxed));
	soft_wait_until(until + latency_ns);
}

/*
 * Marks make a lane's fault record say LOST once the core has poisoned the page. They
 * are left here, where each lost page is thought to be, because a frame that the core
 * frees first is lost no more when the keeper comes. Table lock held.
 */
static void mark_lost(struct hmm_soft *soft)
{
	uint64_t frame = 0, nr, end;

	while ((nr = soft_memory_next_lost(&soft->memory, frame, &frame))) {
		for (end = frame + nr; frame < end; frame++) {
			uintptr_t va = atomic_load_explicit(&soft->memory.va[frame],
							    memory_order_relaxed);

			if (va && !soft_table_get(&soft->table, va))
				soft_table_set(&soft->table, va, SOFT_PTE_LOST);
		}
	}
}

void soft_dma_lose(struct hmm_soft *soft, uint64_t frame)
{
	uintptr_t va;

	soft_memory_lose(&soft->memory, frame);
	soft_table_lock(&soft->table);
	va = atomic_load_explicit(&soft->memory.va[frame], memory_order_relaxed);
	if (va) {
		if (soft_table_erase(&soft->table, va, va + soft->page_size, true) &
		    SOFT_PTE_DIRECT)
			soft_tlb_shootdown(soft, va, va + soft->page_size);
		soft_table_set(&soft->table, va, SOFT_PTE_LOST);
	}
	soft_table_unlock(&soft->table);
}

void soft_dma_reset(struct hmm_soft *soft)
{
	soft_memory_lose_all(&soft->memory);
	soft_table_lock(&soft->table);
	if (soft_table_erase_local(&soft->table))
		soft_tlb_shootdown(soft, 0, soft->user_end);
	mark_lost(soft);
	soft_table_unlock(&soft->table);
	soft_keeper_wake(&soft->keeper, true);
}

int soft_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			const struct hmm_copy_run *runs, size_t nr_runs)
{
	return transfer(hmm_devmem_ctx(devmem), SOFT_DMA_TO_DEVICE, copy, runs, nr_runs);
}

int soft_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			  const struct hmm_copy_run *runs, size_t nr_runs)
{
	return transfer(hmm_devmem_ctx(devmem), SOFT_DMA_FROM_DEVICE, copy, runs, nr_runs);
}

/* Between devices of one group: a transfer of the receiver's, read from the other's memory. */
int soft_copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from, struct hmm_copy *copy,
		   const struct hmm_peer_run *runs, size_t nr_runs)
{
	struct hmm_soft *soft = hmm_devmem_ctx(devmem), *peer = soft_of_devmem(from);
	uint64_t pages = 0;

	(void)copy;	/* always done when it returns */
	if (!peer || peer->owner != soft->owner)
		return -EOPNOTSUPP;
	for (size_t i = 0; i < nr_runs; i++) {
		struct hmm_copy_run run = { .index = runs[i].from, .nr_pages = runs[i].nr_pages };
		int ret = transfer_check(peer, SOFT_DMA_FROM_DEVICE, &run, 1, run.nr_pages);

		if (ret)
			return ret;
		copy_pages(soft, soft_memory_at(&soft->memory, runs[i].to),
			   soft_memory_at(&peer->memory, runs[i].from), run.nr_pages);
		pages += run.nr_pages;
	}
	pace_link(&soft->dma, pages * soft->page_size);
	soft_count(&peer->count.dma_bytes, pages * soft->page_size);
	return 0;
}
