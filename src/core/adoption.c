/* SPDX-License-Identifier: MIT */
#include "core/adoption.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "core/devmem.h"

#define STATE_STEP	512u		/* pages looked at once */
#define FILL_SPINS	100u		/* while whoever was told to go on does */

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

/* ---------------------------------------------------------------- holes */

/* @states of [addr, addr + nr pages): 0 where there is a hole that nobody has elsewhere. */
static void find_holes(struct hmm_mm *mm, uintptr_t addr, size_t nr, uint8_t *states)
{
	/* Where they cannot be told: what is there is not copied over. */
	if (sys_page_states(mm->pagemap_fd, addr, nr, states))
		memset(states, 0, nr);
	for (size_t i = 0; i < nr; i++)
		if (entry_state(directory_get(&mm->dir, addr + i * mm->page)) != PAGE_SYSTEM)
			states[i] = SYS_PAGE_PRESENT;
}

/* The first of @nr holes, and as many of the others as can be at one go. *done: pages. */
static int fill_run(struct hmm_mm *mm, const struct adoption *a, uintptr_t addr, size_t nr,
		    size_t *done)
{
	size_t bytes = 0;
	int ret = sys_uffd_copy(mm->uffd, addr, (void *)(a->file + (addr - a->start)),
				nr * mm->page, 0, &bytes);

	*done = mm_pages(mm, bytes);
	return *done ? 0 : ret;
}

void adopt_each_hole(struct hmm_mm *mm, void (*fn)(uintptr_t addr, const void *bytes, void *ctx),
		     void *ctx)
{
	const struct adoptions *all = mm->adoptions;
	uint8_t states[STATE_STEP];
	size_t nr;

	for (uint32_t i = 0; all && i < all->nr; i++) {
		const struct adoption *a = &all->adoption[i];

		for (uintptr_t addr = a->start; addr < a->end; addr += nr * mm->page) {
			nr = mm_pages(mm, a->end - addr);
			nr = nr < STATE_STEP ? nr : STATE_STEP;
			find_holes(mm, addr, nr, states);
			for (size_t j = 0; j < nr; j++)
				if (!states[j])
					fn(addr + j * mm->page,
					   (void *)(a->file + (addr - a->start) + j * mm->page), ctx);
		}
	}
}

static void fill_at_once(uintptr_t addr, const void *bytes, void *ctx)
{
	struct hmm_mm *mm = ctx;
	size_t done;

	(void)sys_uffd_copy(mm->uffd, addr, bytes, mm->page, 0, &done);
}

/* Amid a change, whose caller has the list in hand: as far as it goes at once. */
static void fill_listed(struct hmm_mm *mm)
{
	adopt_each_hole(mm, fill_at_once, mm);
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
				fill_listed(mm);	/* plain memory from now on */
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
		all->moves++;
		if (!adoption_add(all, &new))
			fill_listed(mm);
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

/* One call of adopt_fill_all(). */
struct filling {
	struct hmm_mm *mm;
	uint32_t waits;			/* for memory, since there last was some */
};

/* Before it is tried again. false: that has been done often enough. */
static bool filling_wait(struct filling *f, int ret)
{
	struct hmm_mm *mm = f->mm;

	if (ret != -EAGAIN)
		return isolation_wait_memory(mm, &f->waits);
	mm_drain(mm);
	return true;
}

/*
 * As fill_run(). Nothing is filled while a change is under way, and whoever makes one after
 * the other leaves microseconds in between, right after the drain: those are waited for. On
 * one processor we see them if it is taken from him there: so we stay ready to run.
 */
static int fill_between(struct filling *f, const struct adoption *a, uintptr_t addr, size_t nr,
			size_t *done)
{
	int ret = -EAGAIN;

	for (uint32_t i = 0; i < FILL_SPINS && ret == -EAGAIN; i++) {
		ret = fill_run(f->mm, a, addr, nr, done);
		if (ret == -EAGAIN)
			sys_yield();
	}
	return ret;
}

/* SIGBUS rather than zeros. -EAGAIN: not yet. */
static int lose_page(struct filling *f, uintptr_t addr)
{
	struct hmm_mm *mm = f->mm;
	int ret = mm->can_poison ? sys_uffd_poison(mm->uffd, addr, mm->page) : -EOPNOTSUPP;

	if (ret == -EAGAIN)
		return ret;
	if (ret == -EEXIST || ret == -ENOENT)	/* filled meanwhile, or unmapped */
		return 0;
	mm_lost(mm, addr, !ret);
	return 0;
}

/*
 * From @addr on, inside @a. Returns how far it came: short of the end once it has waited,
 * for what is adopted may be something else by then.
 */
static uintptr_t fill_part(struct filling *f, const struct adoption *a, uintptr_t addr)
{
	struct hmm_mm *mm = f->mm;
	size_t nr = mm_pages(mm, a->end - addr), n, done;
	uint8_t states[STATE_STEP];
	int ret;

	nr = nr < STATE_STEP ? nr : STATE_STEP;
	find_holes(mm, addr, nr, states);
	for (size_t i = 0; i < nr; i += n, addr += n * mm->page) {
		for (n = 1; !states[i] && i + n < nr && !states[i + n]; n++)
			;
		if (states[i])
			continue;
		ret = fill_between(f, a, addr, n, &done);
		n = done ? done : 1;
		if (!ret)
			f->waits = 0;
		if (ret != -EAGAIN && ret != -ENOMEM)
			continue;	/* done; there already; or beyond the end of the file */
		if (filling_wait(f, ret))
			return addr;
		if (lose_page(f, addr) == -EAGAIN) {
			filling_wait(f, -EAGAIN);
			return addr;
		}
	}
	return addr;
}

/*
 * By address: a thread that discards over and over cannot keep it from coming to an end,
 * and what it discards behind us it might as well a moment later. Only what moves there
 * has to be looked at again.
 */
void adopt_fill_all(struct hmm_mm *mm)
{
	struct filling f = { mm, 0 };
	const uintptr_t end = sys_task_size();
	uintptr_t addr = 0;
	uint32_t moves;

	lock_assert_held(&mm->lock);
	while ((addr = adopt_next(mm, addr, end)) < end) {
		moves = mm->adoptions->moves;
		addr = fill_part(&f, adoption_at(mm, addr), addr);
		if (mm->adoptions->moves != moves)
			addr = 0;
	}
}
