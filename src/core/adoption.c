/* SPDX-License-Identifier: MIT */
#include "core/adoption.h"

#include <signal.h>
#include <sys/mman.h>

#include "core/devmem.h"

#define STATE_STEP	512u		/* pages looked at once */

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

/* What of [addr, addr + nr pages) is a hole that nobody has elsewhere. */
static void fill_part(struct hmm_mm *mm, int uffd, const struct adoption *a, uintptr_t addr,
		      size_t nr)
{
	uint8_t states[STATE_STEP];
	size_t done;

	if (sys_page_states(mm->pagemap_fd, addr, nr, states))
		return;
	for (size_t i = 0; i < nr; i++, addr += mm->page)
		if (!states[i] && entry_state(directory_get(&mm->dir, addr)) == PAGE_SYSTEM)
			(void)sys_uffd_copy(uffd, addr, (void *)(a->file + (addr - a->start)),
					    mm->page, 0, &done);
}

void adopt_fill_all(struct hmm_mm *mm, int uffd)
{
	const struct adoptions *all = mm->adoptions;

	lock_assert_held(&mm->lock);
	for (uint32_t i = 0; all && i < all->nr; i++) {
		const struct adoption *a = &all->adoption[i];
		uintptr_t addr = a->start;

		while (addr < a->end) {
			size_t nr = (a->end - addr) / mm->page;

			nr = nr < STATE_STEP ? nr : STATE_STEP;
			fill_part(mm, uffd, a, addr, nr);
			addr += nr * mm->page;
		}
	}
}
