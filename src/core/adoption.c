/* SPDX-License-Identifier: MIT */
#include "core/adoption.h"

#include <signal.h>
#include <sys/mman.h>

#include "core/devmem.h"

#define STATE_STEP	512u		/* pages looked at once */
#define FILL_TRIES	1000
#define FILL_REST_US	1000u

/* ---------------------------------------------------------------- windows */

void window_unmap(const struct window *w)
{
	size_t len = w->chunks * arena_chunk_bytes();

	if (!sys_map_fixed((void *)w->addr, len, PROT_NONE))
		(void)sys_madvise((void *)w->addr, len, MADV_DONTFORK);
	arena_chunks_put((void *)w->addr, w->chunks);
}

void window_put(struct adoptions *all, uint32_t i)
{
	if (--all->window[i].refs)
		return;
	window_unmap(&all->window[i]);
	all->window[i].chunks = 0;
}

/* ---------------------------------------------------------------- the list */

static struct adoption *adoption_at(const struct hmm_mm *mm, uintptr_t addr)
{
	struct adoptions *all = mm->adoptions;

	for (uint32_t i = 0; all && i < all->nr; i++)
		if (addr >= all->adoption[i].start && addr < all->adoption[i].end)
			return &all->adoption[i];
	return NULL;
}

uintptr_t adopt_next(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	const struct adoptions *all = mm->adoptions;
	uintptr_t next = end;

	for (uint32_t i = 0; all && i < all->nr; i++) {
		const struct adoption *a = &all->adoption[i];

		if (a->end > start && a->start < next)
			next = a->start > start ? a->start : start;
	}
	return next;
}

bool adoption_add(struct adoptions *all, const struct adoption *new)
{
	for (uint32_t i = 0; i < all->nr; i++) {
		struct adoption *a = &all->adoption[i];

		if (a->window == new->window && a->end == new->start &&
		    a->file + (a->end - a->start) == new->file) {
			a->end = new->end;
			return true;
		}
	}
	if (all->nr == ADOPTIONS)
		return false;
	all->adoption[all->nr++] = *new;
	all->window[new->window].refs++;
	return true;
}

static void adoption_remove(struct adoptions *all, uint32_t i)
{
	uint32_t window = all->adoption[i].window;

	all->adoption[i] = all->adoption[--all->nr];
	window_put(all, window);
}

void adopt_forget(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct adoptions *all = mm->adoptions;

	lock_assert_held(&mm->lock);
	for (uint32_t i = 0; all && i < all->nr; ) {
		struct adoption *a = &all->adoption[i], rest = *a;

		if (a->end <= start || a->start >= end) {
			i++;
			continue;
		}
		if (a->start < start)
			a->end = start;
		if (rest.end > end) {
			rest.file += end - rest.start;
			rest.start = end;
			if (a->end != start)
				*a = rest;		/* only its tail is left */
			else if (!adoption_add(all, &rest))
				adopt_fill_all(mm, mm->uffd);	/* plain memory from now on */
		}
		if (a->start >= start && a->end <= end)
			adoption_remove(all, i);
		else
			i++;
	}
}

void adopt_follow(struct hmm_mm *mm, uintptr_t from, uintptr_t to, size_t len, bool kept)
{
	struct adoptions *all = mm->adoptions;
	uint32_t nr = all ? all->nr : 0;

	lock_assert_held(&mm->lock);
	for (uint32_t i = 0; i < nr; i++) {
		struct adoption new = all->adoption[i];
		uintptr_t end = new.end < from + len ? new.end : from + len;

		if (new.end <= from || new.start >= from + len)
			continue;
		if (new.start < from) {
			new.file += from - new.start;
			new.start = from;
		}
		new.end = to + (end - from);
		new.start = to + (new.start - from);
		if (!adoption_add(all, &new))
			adopt_fill_all(mm, mm->uffd);
	}
	if (!kept)
		adopt_forget(mm, from, from + len);
}

void adopt_close(struct hmm_mm *mm)
{
	struct adoptions *all = mm->adoptions;

	while (all && all->nr)
		adoption_remove(all, all->nr - 1);
	arena_free(all, sizeof(*all));
	mm->adoptions = NULL;
}

/* ---------------------------------------------------------------- filling */

/* The file was cut: what the kernel does with a mapping of it. */
static void beyond_end(struct hmm_mm *mm, uintptr_t addr, uint32_t tid)
{
	if (!mm->can_poison || sys_uffd_poison(mm->uffd, addr, mm->page))
		mm->ops->kill(mm, tid, SIGBUS, addr);
	sys_uffd_wake(mm->uffd, addr, mm->page);
}

bool adopt_fill(struct hmm_mm *mm, uintptr_t addr, uint32_t tid)
{
	const struct adoption *a = adoption_at(mm, addr);
	size_t done = 0;
	int ret;

	lock_assert_held(&mm->lock);
	if (!a)
		return false;
	ret = sys_uffd_copy(mm->uffd, addr, (void *)(a->file + (addr - a->start)), mm->page, 0,
			    &done);
	mm->stats.copied_pages += !ret;
	if (ret == -EAGAIN)
		mm_drain(mm);
	if (ret == -EFAULT)
		beyond_end(mm, addr, tid);
	else if (ret)		/* there already, gone, or an event was unread: it will see */
		sys_uffd_wake(mm->uffd, addr, mm->page);
	return true;
}

/* The page at @addr. Memory is waited for: without the page there would be zeros. */
static int fill_one(struct hmm_mm *mm, int uffd, const struct adoption *a, uintptr_t addr)
{
	int ret = -ENOMEM;
	size_t done = 0;

	for (int i = 0; i < FILL_TRIES && ret == -ENOMEM; i++) {
		if (i)
			sys_rest(FILL_REST_US);
		ret = sys_uffd_copy(uffd, addr, (void *)(a->file + (addr - a->start)), mm->page,
				    0, &done);
	}
	return ret;
}

/*
 * What of [addr, addr + nr pages) is a hole that nobody has elsewhere. False: a change
 * was under way, its event has been read, and what is adopted may be something else.
 */
static bool fill_part(struct hmm_mm *mm, int uffd, const struct adoption *a, uintptr_t addr,
		      size_t nr)
{
	uint8_t states[STATE_STEP];

	if (sys_page_states(mm->pagemap_fd, addr, nr, states))
		return true;
	for (size_t i = 0; i < nr; i++, addr += mm->page) {
		if (states[i] || entry_state(directory_get(&mm->dir, addr)) != PAGE_SYSTEM)
			continue;
		if (fill_one(mm, uffd, a, addr) == -EAGAIN && uffd == mm->uffd) {
			mm_drain(mm);
			return false;
		}
	}
	return true;
}

static bool fill_adoption(struct hmm_mm *mm, int uffd, const struct adoption *a)
{
	size_t nr;

	for (uintptr_t addr = a->start; addr < a->end; addr += nr * mm->page) {
		nr = (a->end - addr) / mm->page;
		nr = nr < STATE_STEP ? nr : STATE_STEP;
		if (!fill_part(mm, uffd, a, addr, nr))
			return false;
	}
	return true;
}

void adopt_fill_all(struct hmm_mm *mm, int uffd)
{
	uint32_t i = 0;

	lock_assert_held(&mm->lock);
	while (mm->adoptions && i < mm->adoptions->nr)
		i = fill_adoption(mm, uffd, &mm->adoptions->adoption[i]) ? i + 1 : 0;
}
