/* SPDX-License-Identifier: MIT */
/*
 * The DMA engine: what moves bytes between the program's pages and the device's.
 *
 * Without a model of the link and with one queue a transfer is a memcpy on the thread
 * that asks. Otherwise it is cut into pieces for the queues' threads, and answers
 * -EINPROGRESS. Pieces and transfers come from pools in safe memory, because nothing
 * may be allocated on the fault path; when the pools are used up the asking thread
 * does the transfer itself.
 *
 * `lock` is a leaf. Faults are injected where a transfer starts.
 */
#ifndef SOFT_DMA_H
#define SOFT_DMA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

#include "list.h"

#define SOFT_DMA_QUEUES		16
#define SOFT_DMA_TRANSFERS	64
#define SOFT_DMA_PIECES		256
#define SOFT_DMA_RUNS		32	/* of a piece */

struct hmm_soft;

enum soft_dma_way {
	SOFT_DMA_TO_DEVICE,
	SOFT_DMA_FROM_DEVICE,
};

struct soft_transfer {
	struct soft_link link;
	struct hmm_copy *copy;
	uint64_t pages;
	enum soft_dma_way way;
	unsigned int left;	/* pieces not done; under the lock */
};

struct soft_piece {
	struct soft_link link;
	struct soft_transfer *transfer;
	size_t nr_runs;
	struct hmm_copy_run runs[SOFT_DMA_RUNS];
};

struct soft_dma_queue {
	struct soft_dma *dma;
	pthread_cond_t work;
	struct soft_link pieces;	/* under the lock */
	struct hmm_safe_thread *thread;
};

/* Faults to come: how many events until one; 0 or less is off. */
struct soft_inject {
	_Atomic int64_t alloc, dma, ecc, reset;
};

struct soft_dma {
	struct hmm_soft *soft;
	uint64_t link_ns, link_mbps;
	uint32_t nr_queues;		/* with threads; 0: synchronous */
	_Atomic uint64_t link_free_ns;	/* when the link has carried all it was given */
	struct soft_inject inject;

	pthread_mutex_t lock;
	/* under lock */
	struct soft_link transfers, pieces;	/* free ones */
	unsigned int next_queue;
	bool exiting;
	struct soft_dma_queue *queues;
	struct soft_transfer *transfer_pool;
	struct soft_piece *piece_pool;
};

int soft_dma_init(struct hmm_soft *soft, const struct hmm_soft_opts *opts);
void soft_dma_destroy(struct soft_dma *dma);

/* True when @n more events reach an armed fault; then @at is its place among them. */
bool soft_inject_hits(_Atomic int64_t *counter, uint64_t n, uint64_t *at);

/* Wait for bytes to pass a medium of @mbps that is free from *@free_ns on. */
void soft_pace(_Atomic uint64_t *free_ns, uint64_t mbps, uint64_t bytes, uint64_t latency_ns);

/* The lanes may not use the bytes of @frame, or of any frame, any more. */
void soft_dma_lose(struct hmm_soft *soft, uint64_t frame);
void soft_dma_reset(struct hmm_soft *soft);

/* The devmem operations. */
int soft_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			const struct hmm_copy_run *runs, size_t nr_runs);
int soft_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			  const struct hmm_copy_run *runs, size_t nr_runs);
int soft_copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from, struct hmm_copy *copy,
		   const struct hmm_peer_run *runs, size_t nr_runs);

#endif
