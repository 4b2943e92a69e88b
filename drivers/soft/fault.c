/* SPDX-License-Identifier: MIT */
#include "fault.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "device.h"

/* Collisions with one page's invalidations before the server lets others have a turn. */
#define FAULT_TIMEOUT_MS	1000

/* Attempts at exclusive access; a pinned page stays busy for ever. */
#define EXCLUSIVE_TRIES		64

static enum hmm_soft_fault_reason reason_of(int error)
{
	switch (error) {
	case -EPERM:
		return HMM_SOFT_FAULT_READONLY;
	case -ENOMEM:
		return HMM_SOFT_FAULT_NOMEM;
	case -EIO:
		return HMM_SOFT_FAULT_LOST;
	case -EOPNOTSUPP:
	case -EBUSY:
		return HMM_SOFT_FAULT_ATOMIC;
	default:
		return HMM_SOFT_FAULT_UNMAPPED;
	}
}

/* Does the page table allow the access by now? Somebody else's fault may have seen to it. */
static bool allowed(struct hmm_soft *soft, uintptr_t page, enum soft_want want)
{
	uint64_t need = HMM_SOFT_PTE_VALID | (want != SOFT_WANT_READ ? HMM_SOFT_PTE_WRITE : 0);
	uint64_t pte;

	soft_table_lock(&soft->table);
	pte = soft_table_get(&soft->table, page);
	soft_table_unlock(&soft->table);
	return (pte & need) == need && !(want == SOFT_WANT_ATOMIC && pte & SOFT_PTE_GUARDED);
}

static bool is_local(struct hmm_soft *soft, uintptr_t page)
{
	uint64_t pte;

	soft_table_lock(&soft->table);
	pte = soft_table_get(&soft->table, page);
	soft_table_unlock(&soft->table);
	return pte & HMM_SOFT_PTE_LOCAL;
}

static bool was_lost(struct hmm_soft *soft, uintptr_t page)
{
	uint64_t pte;

	soft_table_lock(&soft->table);
	pte = soft_table_get(&soft->table, page);
	soft_table_unlock(&soft->table);
	return pte & SOFT_PTE_LOST;
}

static bool pfn_is_ours(const struct hmm_soft *soft, uint64_t pfn)
{
	return (pfn & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT == soft->devmem_id;
}

/* The entry for what hmm_range_fault() says of @va; 0: not for us to map. */
static uint64_t pte_of(struct hmm_soft *soft, uintptr_t va, uint64_t pfn)
{
	uint64_t pte = HMM_SOFT_PTE_VALID, frame = pfn & HMM_PFN_INDEX_MASK;

	if (!(pfn & HMM_PFN_VALID) || pfn & HMM_PFN_ERROR)
		return 0;
	if (pfn & HMM_PFN_WRITE)
		pte |= HMM_SOFT_PTE_WRITE;
	if (!(pfn & HMM_PFN_DEVICE))
		return pte | va | (pfn & HMM_PFN_GUARDED ? SOFT_PTE_GUARDED : 0);
	if (!pfn_is_ours(soft, pfn) || soft_memory_is_lost(&soft->memory, frame, 1))
		return 0;
	atomic_store_explicit(&soft->memory.va[frame], va, memory_order_relaxed);
	return pte | HMM_SOFT_PTE_LOCAL | (uintptr_t)soft_memory_at(&soft->memory, frame);
}

/*
 * Neighbours only where nothing is mapped: what is, is right until an invalidation,
 * and a snapshot cannot see the device's exclusive pages. Table lock held.
 */
static void install(struct hmm_soft *soft, const struct hmm_range *range, uintptr_t page)
{
	uint64_t pte, old;
	uintptr_t va = range->start;

	for (size_t i = 0; va < range->end; i++, va += soft->page_size) {
		pte = pte_of(soft, va, range->pfns[i]);
		old = soft_table_get(&soft->table, va);
		if (!pte || (va != page && old & HMM_SOFT_PTE_VALID))
			continue;
		if (old & HMM_SOFT_PTE_VALID)
			pte |= old & (HMM_SOFT_PTE_ACCESSED | HMM_SOFT_PTE_DIRTY);
		soft_table_set(&soft->table, va, pte);
	}
}

static enum hmm_soft_fault_reason take_exclusive(struct hmm_soft *soft, uintptr_t page)
{
	int64_t ret = -EBUSY;

	for (int i = 0; i < EXCLUSIVE_TRIES && ret == -EBUSY; i++) {
		if (i)
			sched_yield();
		ret = soft_exclusive_take(soft, page, page + soft->page_size);
	}
	return ret < 0 ? reason_of((int)ret) : HMM_SOFT_FAULT_NONE;
}

/* One look at the page and its neighbours. -EAGAIN: go round. */
static int mirror_once(struct hmm_soft *soft, uintptr_t page, enum soft_want want)
{
	HMM_OPTS(hmm_range, range, .notifier = soft->notifier, .pfns = soft->faults.pfns,
		 .pfn_flags_mask = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE, .owner = soft->owner);
	size_t nr;
	uint64_t *pfn;
	int64_t ret;

	soft_policy_mirror(soft, page, &range.start, &range.end);
	nr = (range.end - range.start) / soft->page_size;
	memset(range.pfns, 0, nr * sizeof(*range.pfns));
	pfn = &range.pfns[(page - range.start) / soft->page_size];
	*pfn = HMM_PFN_REQ_FAULT | (want != SOFT_WANT_READ ? HMM_PFN_REQ_WRITE : 0);

	ret = hmm_range_fault_wait(soft->mm, &range, FAULT_TIMEOUT_MS);
	if (ret)
		return ret == -ETIMEDOUT ? -EAGAIN : (int)ret;
	if (*pfn & HMM_PFN_ERROR || !(*pfn & HMM_PFN_VALID))
		return -EFAULT;
	if (*pfn & HMM_PFN_DEVICE && !pfn_is_ours(soft, *pfn)) {
		/* A peer's, and it did not migrate: meet in system memory. */
		ret = hmm_evict(soft->mm, page, page + soft->page_size);
		return ret < 0 ? (int)ret : -EAGAIN;
	}
	if (*pfn & HMM_PFN_DEVICE &&
	    soft_memory_is_lost(&soft->memory, *pfn & HMM_PFN_INDEX_MASK, 1))
		return -EIO;
	if (want == SOFT_WANT_ATOMIC && *pfn & HMM_PFN_GUARDED)
		return -EXDEV;

	ret = soft_table_lock_for(&soft->table, nr);
	if (ret)
		return (int)ret;
	if (hmm_notifier_read_retry(soft->notifier, range.seq))
		ret = -EAGAIN;
	else
		install(soft, &range, page);
	soft_table_unlock(&soft->table);
	return (int)ret;
}

static enum hmm_soft_fault_reason mirror(struct hmm_soft *soft, uintptr_t page, enum soft_want want)
{
	int ret;

	while ((ret = mirror_once(soft, page, want)) == -EAGAIN)
		soft_count(&soft->count.replays, 1);
	if (!ret)
		return HMM_SOFT_FAULT_NONE;
	if (ret == -EXDEV)
		return take_exclusive(soft, page);
	if (ret == -EFAULT && was_lost(soft, page))
		return HMM_SOFT_FAULT_LOST;
	return reason_of(ret);
}

/* Move the page's surroundings in; when they do not fit, the page alone. */
static void migrate(struct hmm_soft *soft, uintptr_t page)
{
	struct soft_mover *mover = soft->faults.mover;
	uintptr_t start, end, next;
	int64_t n;

	if (!soft_policy_migrate(soft, page, &start, &end))
		return;
	n = soft_mover_move(soft, mover, start, end, &next);
	if (n > 0 && next <= page)
		n = soft_mover_move(soft, mover, page, page + soft->page_size, &next);
	if (n > 0) {
		soft_count(&soft->count.prefetched, (uint64_t)n - 1);
		soft_policy_came(&soft->policy, page, start, end);
	}
	if (n >= 0 && !is_local(soft, page))
		soft_policy_refused(&soft->policy, page);
}

/*
 * A page that is local and faults again wants a right that it was not mapped with,
 * which only the core can grant; else it is offered to the device first.
 */
static enum hmm_soft_fault_reason serve(struct hmm_soft *soft, const struct soft_fault *fault)
{
	if (!fault->force && allowed(soft, fault->page, fault->want))
		return HMM_SOFT_FAULT_NONE;
	soft_count(&soft->count.device_faults, 1);
	if (!is_local(soft, fault->page))
		migrate(soft, fault->page);
	if (!fault->force && allowed(soft, fault->page, fault->want))
		return HMM_SOFT_FAULT_NONE;
	return mirror(soft, fault->page, fault->want);
}

/* A refusal holds for every fault of the batch that wants the same of the same page. */
static void serve_batch(struct hmm_soft *soft, struct soft_fault *batch)
{
	for (struct soft_fault *fault = batch; fault; fault = fault->next) {
		struct soft_fault *twin = batch;

		while (twin != fault && (twin->page != fault->page || twin->want != fault->want ||
					 twin->reason == HMM_SOFT_FAULT_NONE))
			twin = twin->next;
		fault->reason = twin != fault ? twin->reason : serve(soft, fault);
	}
}

/* Lock held; comes back with it held. */
static void serve_all(struct hmm_soft *soft)
{
	struct soft_fault_queue *queue = &soft->faults;
	struct soft_fault *batch = queue->first, *next;

	queue->serving = true;
	queue->first = NULL;
	queue->last = &queue->first;
	pthread_mutex_unlock(&queue->lock);

	serve_batch(soft, batch);

	pthread_mutex_lock(&queue->lock);
	for (; batch; batch = next) {
		next = batch->next;
		batch->done = true;
	}
	queue->serving = false;
	pthread_cond_broadcast(&queue->served);
}

int soft_fault_init(struct hmm_soft *soft)
{
	struct soft_fault_queue *queue = &soft->faults;

	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->served, NULL);
	queue->last = &queue->first;
	queue->mover = &soft->fault_mover;
	queue->pfns = hmm_safe_alloc(SOFT_BLOCK_PAGES * sizeof(*queue->pfns));
	return queue->pfns ? 0 : -ENOMEM;
}

void soft_fault_destroy(struct hmm_soft *soft)
{
	hmm_safe_free(soft->faults.pfns, SOFT_BLOCK_PAGES * sizeof(*soft->faults.pfns));
	pthread_cond_destroy(&soft->faults.served);
	pthread_mutex_destroy(&soft->faults.lock);
}

enum hmm_soft_fault_reason soft_fault_raise(struct hmm_lane *lane, uintptr_t va,
					    enum soft_want want, bool force)
{
	struct soft_fault_queue *queue = &lane->soft->faults;
	struct soft_fault *fault = &lane->fault;

	*fault = (struct soft_fault){
		.page = soft_page_of(lane->soft, va), .want = want, .force = force,
	};
	pthread_mutex_lock(&queue->lock);
	*queue->last = fault;
	queue->last = &fault->next;
	while (!fault->done) {
		if (queue->serving)
			pthread_cond_wait(&queue->served, &queue->lock);
		else
			serve_all(lane->soft);
	}
	pthread_mutex_unlock(&queue->lock);
	return fault->reason;
}
