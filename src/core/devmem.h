/* SPDX-License-Identifier: MIT */
/*
 * Device memory of one device.
 *
 * An index names one page of it. It is the driver's, or bound to one page of the mm:
 * then the directory's entry (or the slot of an isolation) names the index, and
 * place[index] names the page, so that eviction needs no search:
 *
 *	place[i] != 0  <=>  i is bound			nr_bound == bound indices
 *
 * 4 bytes per device page; with the directory's 8, 0.29 % of what is tracked. Under
 * the mm's lock, but for the queue of faults.
 */
#ifndef UHMM_CORE_DEVMEM_H
#define UHMM_CORE_DEVMEM_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/mm.h"

#define DEVMEM_QUEUE	256u	/* faults waiting for the devmem's own thread */

struct hmm_devmem {
	uint64_t alive;			/* MM_ALIVE; 0 in a forked child */
	struct hmm_mm *mm;		/* immutable, as all up to place */
	struct hmm_devmem_ops ops;
	uint64_t flags, nr_pages;
	const void *owner;
	void *ctx;
	uint32_t id;
	struct thread *thread;		/* serves faults where the driver is not fault safe */

	uint32_t *place;		/* mm lock: [nr_pages] */
	uint64_t nr_bound;
	bool dying;			/* nothing is bound any more */
	uint32_t users;			/* threads in its operations without a bound page */

	struct hmm_lock lock;		/* RANK_DEVMEM: */
	struct fault queue[DEVMEM_QUEUE];
	uint32_t head, tail;
	bool stopping;
	_Atomic uint32_t wakeups;	/* futex of the thread */
};

struct hmm_copy {
	_Atomic uint32_t done;		/* futex; release publishes error and the bytes */
	int error;
};

/* Pages to hand to page_free together. */
struct free_run {
	struct hmm_devmem *devmem;
	uint64_t index, nr;
};

static inline struct hmm_devmem *devmem_find(const struct hmm_mm *mm, uint32_t id)
{
	return mm->process->devmems[id & (DEVMEMS - 1)];
}

/* Keep it from being removed; NULL: there is none, or it is going. No lock held. */
struct hmm_devmem *devmem_use(struct hmm_mm *mm, uint32_t id);
void devmem_unuse(struct hmm_devmem *d);

/* Lock held. */
void devmem_bind(struct hmm_devmem *d, uint64_t index, uintptr_t addr);
void devmem_unbind(struct hmm_devmem *d, uint64_t index, struct free_run *run);
void devmem_rebind(struct hmm_devmem *d, uint64_t index, uintptr_t addr);
void free_run_flush(struct free_run *run);
bool devmem_index_free(const struct hmm_devmem *d, uint64_t index);

/* Run a copy to its end. No lock held. */
int devmem_copy_to(struct hmm_devmem *d, const struct hmm_copy_run *runs, size_t nr);
int devmem_copy_from(struct hmm_devmem *d, const struct hmm_copy_run *runs, size_t nr);
int devmem_copy_peer(struct hmm_devmem *d, struct hmm_devmem *from,
		     const struct hmm_peer_run *runs, size_t nr);

/* A CPU touched a page of it: called on a handler, lock held, dropped meanwhile. */
void devmem_fault(struct hmm_mm *mm, struct hmm_devmem *d, const struct fault *f);

uint64_t devmem_bytes(const struct hmm_devmem *d, int pagemap_fd);

#endif
