/* SPDX-License-Identifier: MIT */
/*
 * Device memory of one device.
 *
 * An index names one page of it. It is the driver's, or bound to one page of an mm:
 * then the directory's entry (or the slot of an isolation) names the index, and
 * place[index] names the page, so that eviction needs no search:
 *
 *	place[i] != 0  <=>  i is bound			nr_bound == bound indices, while
 *							no mm's lock is held
 *
 * 4 bytes per device page; with the directory's 8, 0.29 % of what is tracked. A place
 * is written under the lock of the mm that it names, so it needs no other lock.
 *
 * After a fork an index is bound to a page of each of several mms, none of whose
 * devices may write to it (see device_pfn() in range.c): PLACE_SHARED is set, refs[]
 * counts the pages, both under the devmem's lock, and the place names one of them, or
 * one that has left: who looks for a holder by index looks at the directories too.
 * refs[] is a mapping of its own, of which only what is shared is ever touched.
 *
 *	mm A (its lock held)		mm B (its lock held)
 *	--------------------		--------------------
 *	fork: refs = 2, shared		.
 *	.				fault: copies it out, unbinds: refs = 1
 *	unmapped: refs = 0, place = 0
 *	  page_free()
 */
#ifndef UHMM_CORE_DEVMEM_H
#define UHMM_CORE_DEVMEM_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/mm.h"

#define DEVMEM_QUEUE	256u	/* faults waiting for the devmem's own thread */

struct hmm_devmem {
	uint64_t alive;			/* MM_ALIVE; 0 in a forked child */
	struct family *family;		/* immutable, as all up to place */
	struct hmm_devmem_ops ops;
	uint64_t flags, nr_pages;
	const void *owner;
	void *ctx;
	uint32_t id;
	struct thread *thread;		/* serves faults where the driver is not fault safe */

	_Atomic uint32_t *place;	/* [nr_pages]; see above */
	_Atomic uint64_t nr_bound;
	_Atomic bool dying;		/* seen under any mm's lock after a family_barrier() */
	_Atomic uint32_t users;		/* threads in its operations without a bound page */

	struct hmm_lock lock;		/* RANK_DEVMEM: */
	uint16_t *refs;			/* [nr_pages], of shared pages; NULL: none ever was */
	struct devmem_fault {
		struct hmm_mm *mm;	/* in use (mm_get()) */
		struct fault fault;
	} queue[DEVMEM_QUEUE];
	uint32_t head, tail;
	bool stopping;
	_Atomic uint32_t wakeups;	/* futex of the thread */
};

struct hmm_copy {
	_Atomic uint32_t done;		/* futex; release publishes error and the bytes */
	int error;
};

/* Of the devmem, bound and not in its nr_bound yet. */
struct bound {
	struct hmm_devmem *devmem;
	uint64_t nr;
};

/* Pages to hand to page_free together. */
struct free_run {
	struct hmm_devmem *devmem;
	uint64_t index, nr;
	bool bound;			/* the devmem's nr_bound has them still */
};

static inline struct hmm_devmem *devmem_find(const struct hmm_mm *mm, uint32_t id)
{
	return atomic_load_explicit(&mm->family->devmems[id & (DEVMEMS - 1)],
				    memory_order_acquire);
}

#define PLACE_SHARED	(1u << 31)

/* Keep it from being removed; NULL: there is none, or it is going. */
struct hmm_devmem *devmem_use(struct family *family, uint32_t id);
void devmem_unuse(struct hmm_devmem *d);

/*
 * The page at @addr holds @index from now on, which was the driver's (false: it was
 * not, or is out of bounds); has moved to @addr; holds it no more. The mm's lock held;
 * before it is let go @bound and @run are to be flushed.
 */
bool devmem_bind(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t addr,
		 struct bound *bound);
void bound_flush(struct bound *bound);
void devmem_rebind(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t addr);
void devmem_unbind(struct hmm_devmem *d, uint64_t index, struct free_run *run);
void free_run_flush(struct free_run *run);

/*
 * One more page, of another mm, holds each of the indices. -ENOMEM: no table for it.
 * The lock of an mm that holds them held.
 */
int devmem_share(struct hmm_devmem *d, uint64_t index, uint64_t nr);

/* Does another page hold it too? Stays so while the lock of an mm that holds it is held. */
bool devmem_shared(struct hmm_devmem *d, uint64_t index);

/* Run a copy to its end. No lock held. */
int devmem_copy_to(struct hmm_devmem *d, const struct hmm_copy_run *runs, size_t nr);
int devmem_copy_from(struct hmm_devmem *d, const struct hmm_copy_run *runs, size_t nr);
int devmem_copy_peer(struct hmm_devmem *d, struct hmm_devmem *from,
		     const struct hmm_peer_run *runs, size_t nr);

/* A CPU touched a page of it: called on a handler, lock held, dropped meanwhile. */
void devmem_fault(struct hmm_mm *mm, struct hmm_devmem *d, const struct fault *f);

uint64_t devmem_bytes(const struct hmm_devmem *d, int pagemap_fd);

#endif
