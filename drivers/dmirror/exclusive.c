/* SPDX-License-Identifier: MIT */
/*
 * Exclusive access: while the core takes the pages it tells us of each, and of each
 * that is lost again, by invalidate(), which records it in the request's watch; what is
 * not lost when the core is done goes into the page table.
 */
#include <errno.h>
#include <string.h>

#include "dmirror.h"

/* The core takes no more at once. */
#define EXCLUSIVE_PAGES	FRAMES_BLOCK

static void watch_begin(struct dmirror *m, struct exclusive_watch *w, uintptr_t start,
			uintptr_t end)
{
	*w = (struct exclusive_watch){ .start = start, .end = end };
	pthread_mutex_lock(&m->lock);
	w->next = m->watches;
	m->watches = w;
	pthread_mutex_unlock(&m->lock);
}

/* Ends the watch; what was had and not lost again is the device's. */
static void watch_end(struct dmirror *m, struct exclusive_watch *w, void **contents)
{
	size_t page = m->process->page_size, nr = (w->end - w->start) / page;
	struct exclusive_watch **link = &m->watches;

	pthread_mutex_lock(&m->lock);
	while (*link != w)
		link = &(*link)->next;
	*link = w->next;
	for (size_t i = 0; i < nr; i++) {
		uint64_t *entry = table_find(&m->table, w->start + i * page);

		if (contents[i] && !(w->lost[i / 64] >> (i % 64) & 1))
			*entry = PTE_VALID | PTE_WRITE | PTE_ATOMIC | (uintptr_t)contents[i];
	}
	pthread_mutex_unlock(&m->lock);
}

/* Copies of a file's pages, which can be had once they are anonymous memory. */
static bool adopt(struct dmirror *m, uintptr_t start, uintptr_t end)
{
	size_t page = m->process->page_size;
	uint64_t pfn, seq;

	for (uintptr_t va = start; va < end; va += page)
		if (mirror_look(m, va, va + page, HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE, &pfn,
				&seq))
			return false;
	return hmm_adopt(m->process->mm, start, end) > 0;
}

/*
 * Pages from @start on that were had without one missing between, or why the first was
 * not: the kernel's driver goes page by page, so what was had behind one that was not is
 * given back.
 */
static int64_t take(struct dmirror *m, uintptr_t start, uintptr_t end)
{
	size_t page = m->process->page_size, nr = (end - start) / page, n = 0;
	void *contents[EXCLUSIVE_PAGES] = { NULL };
	struct exclusive_watch w;
	int64_t had = table_reserve(&m->table, &m->lock, start, end);

	if (had)
		return had;
	watch_begin(m, &w, start, end);
	had = hmm_exclusive_begin(m->process->mm, start, end, &w, contents);
	watch_end(m, &w, contents);
	if (had < 0)
		return had;
	while (n < nr && contents[n])
		n++;
	if (n == nr)
		return (int64_t)n;
	had = hmm_exclusive_end(m->process->mm, start + n * page, end);
	if (n || had < 0)
		return n ? (int64_t)n : had;
	return nr > 1 ? take(m, start, start + page) : -EBUSY;
}

/*
 * What is asked of the core at once: pages that are in RAM and writable now, or one page.
 * So what stands behind a page that cannot be had stays as it was, as in the kernel, whose
 * driver goes page by page.
 */
static uintptr_t batch_end(struct dmirror *m, uintptr_t va, uintptr_t end)
{
	const uint64_t wanted = HMM_PFN_VALID | HMM_PFN_WRITE;
	size_t page = m->process->page_size, i = 0;
	uint64_t pfns[EXCLUSIVE_PAGES], seq;

	end = min_addr(va + EXCLUSIVE_PAGES * page, end);
	if (mirror_look(m, va, end, 0, pfns, &seq))
		return va + page;
	while (va + i * page < end && (pfns[i] & (wanted | HMM_PFN_DEVICE)) == wanted)
		i++;
	return va + (i ? i : 1) * page;
}

int request_exclusive(struct request *r)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size;
	bool adopted = false;

	for (uintptr_t va = r->start; va < r->end; ) {
		int64_t n = take(m, va, batch_end(m, va, r->end));

		if (n == -EOPNOTSUPP && !adopted && adopt(m, va, va + page)) {
			adopted = true;
			continue;
		}
		/* Beyond user space no page can be had; in the kernel no forbidden one either. */
		if (n < 0)
			return n == -EINVAL || n == -EPERM ? -EFAULT : (int)n;
		adopted = false;
		va += (uintptr_t)n * page;
	}
	return request_return(r);
}

int request_check_exclusive(struct request *r)
{
	struct dmirror *m = r->mirror;
	bool any;

	pthread_mutex_lock(&m->lock);
	any = table_any(&m->table, r->start, r->end, PTE_ATOMIC);
	pthread_mutex_unlock(&m->lock);
	return any ? -EPERM : 0;
}
