/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "dmirror.h"

static void watch_exclusive(struct dmirror *m, const struct hmm_event *event)
{
	size_t page = m->process->page_size;

	for (struct exclusive_watch *w = m->watches; w; w = w->next) {
		uintptr_t va = event->start > w->start ? event->start : w->start;
		uintptr_t end = min_addr(event->end, w->end);
		bool own = event->type == HMM_EVENT_EXCLUSIVE && event->owner == w;

		for (; va < end; va += page) {
			size_t i = (va - w->start) / page;

			if (own)
				w->lost[i / 64] &= ~(1ULL << (i % 64));
			else
				w->lost[i / 64] |= 1ULL << (i % 64);
		}
	}
}

static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event, uint64_t seq,
		       void *ctx)
{
	struct dmirror *m = ctx;

	(void)notifier;
	(void)seq;
	pthread_mutex_lock(&m->lock);
	/*
	 * Of the device's own migration the table hears from who asked for it. Until then an
	 * entry is of a page that is reached by its address, which waits for the migration.
	 */
	if (event->type != HMM_EVENT_MIGRATE || event->owner != m->device)
		m->erased += table_erase(&m->table, event->start, event->end);
	watch_exclusive(m, event);
	pthread_mutex_unlock(&m->lock);
}

int mirror_create(struct dmirror_process *process, struct dmirror_device *device,
		  struct dmirror **out)
{
	HMM_OPTS(hmm_notifier_ops, ops, .invalidate = invalidate);
	struct dmirror *m = hmm_safe_alloc(sizeof(*m));
	int ret;

	if (!m)
		return -ENOMEM;
	m->process = process;
	m->device = device;
	pthread_mutex_init(&m->lock, NULL);
	ret = table_init(&m->table);
	if (!ret)
		ret = hmm_notifier_insert(process->mm, 0, hmm_user_end(), &ops, m, &m->notifier);
	if (ret) {
		table_destroy(&m->table);
		pthread_mutex_destroy(&m->lock);
		hmm_safe_free(m, sizeof(*m));
		return ret;
	}
	*out = m;
	return 0;
}

void mirror_destroy(struct dmirror *m)
{
	/* It fails only in a callback or a forked child, and we are in neither. */
	if (hmm_notifier_remove(m->notifier))
		return;
	table_destroy(&m->table);
	pthread_mutex_destroy(&m->lock);
	hmm_safe_free(m, sizeof(*m));
}

enum device_kind pfn_kind(const struct dmirror *m, uint64_t pfn)
{
	uint64_t id = (pfn & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT;

	if (!(pfn & HMM_PFN_DEVICE))
		return KIND_NONE;
	return (enum device_kind)atomic_load(&m->process->kind[id]);
}

bool pfn_is_local(const struct dmirror *m, uint64_t pfn)
{
	return pfn & HMM_PFN_DEVICE &&
	       (pfn & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT == m->device->id;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Another device's private memory, which this one cannot reach. */
static bool is_remote(const struct dmirror *m, uint64_t pfn)
{
	return pfn_kind(m, pfn) == KIND_PRIVATE && !pfn_is_local(m, pfn);
}

/* Bring home what other devices have of the range. Pages; 0: nothing. */
static int64_t evict_remote(struct dmirror *m, uintptr_t start, uintptr_t end,
			    const uint64_t *pfns)
{
	size_t page = m->process->page_size, nr = (end - start) / page, n;
	int64_t pages = 0, ret;

	for (size_t i = 0; i < nr; i += n) {
		n = 1;
		if (!is_remote(m, pfns[i]))
			continue;
		while (i + n < nr && is_remote(m, pfns[i + n]))
			n++;
		ret = hmm_evict(m->process->mm, start + i * page, start + (i + n) * page);
		if (ret < 0)
			return ret;
		pages += (int64_t)n;
	}
	return pages;
}

static int look(struct dmirror *m, uintptr_t start, uintptr_t end, uint64_t want, uint64_t *pfns,
		uint64_t *seq)
{
	HMM_OPTS(hmm_range, range, .start = start, .end = end, .notifier = m->notifier,
		 .pfns = pfns, .default_flags = want, .owner = dmirror_owner);
	uint64_t deadline = now_ms() + PATIENCE_MS;
	int64_t evicted;
	int ret;

	do {
		ret = hmm_range_fault_wait(m->process->mm, &range, PATIENCE_MS);
		if (ret == -ETIMEDOUT)
			return -EBUSY;
		if (ret)	/* beyond user space there is no mapping either */
			return ret == -EINVAL ? -EFAULT : ret;
		*seq = range.seq;
		evicted = want ? evict_remote(m, start, end, pfns) : 0;
		if (evicted < 0)
			return -EFAULT;
	} while (evicted && now_ms() < deadline);
	return evicted ? -EBUSY : 0;
}

int mirror_look(struct dmirror *m, uintptr_t start, uintptr_t end, uint64_t want, uint64_t *pfns,
		uint64_t *seq)
{
	size_t page = m->process->page_size;
	int ret = look(m, start, end, want, pfns, seq);

	if (!want || (ret != -EFAULT && ret != -EPERM))
		return ret;
	/* What stands before the page that cannot be had is had, from other devices too. */
	for (uintptr_t va = start; va < end && !look(m, va, va + page, want, pfns, seq); )
		va += page;
	return ret;
}

static uint64_t pte_of(const struct dmirror *m, uint64_t pfn)
{
	uint64_t pte = PTE_VALID | (pfn & HMM_PFN_WRITE ? PTE_WRITE : 0);

	if (!(pfn & HMM_PFN_VALID) || is_remote(m, pfn))
		return 0;
	switch (pfn_kind(m, pfn)) {
	case KIND_PRIVATE:
		return pte | PTE_PRIVATE | (pfn & HMM_PFN_INDEX_MASK) << 12;
	case KIND_COHERENT:
		return pte | PTE_COHERENT;
	default:
		return pte;
	}
}

bool mirror_fill(struct dmirror *m, uintptr_t start, uintptr_t end, const uint64_t *pfns,
		 uint64_t seq)
{
	size_t page = m->process->page_size;
	uint64_t *entry = NULL;
	bool good;

	pthread_mutex_lock(&m->lock);
	good = !hmm_notifier_read_retry(m->notifier, seq);
	for (uintptr_t va = start; good && va < end; va += page, pfns++) {
		uint64_t pte = pte_of(m, *pfns);

		entry = table_next(&m->table, entry, va);
		if (pte)
			*entry = pte;
	}
	pthread_mutex_unlock(&m->lock);
	return good;
}

void mirror_erase(struct dmirror *m, uintptr_t start, uintptr_t end)
{
	pthread_mutex_lock(&m->lock);
	m->erased += table_erase(&m->table, start, end);
	pthread_mutex_unlock(&m->lock);
}
