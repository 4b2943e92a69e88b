/* SPDX-License-Identifier: MIT */
/*
 * The operations of an mm that is this process's own: pages are moved into staging,
 * which lies in the same address space, and calls are made here and now.
 */
#include <string.h>
#include <sys/mman.h>

#include "core/devmem.h"
#include "core/limbo.h"
#include "sys/seccomp.h"

#define MOVE_STUCK	64u	/* moves refused for an event that its sender has yet to raise */

/* ---------------------------------------------------------------- taking */

static struct chunk *local_chunk_get(struct hmm_mm *mm, uint32_t first, uint32_t nr, bool whole)
{
	return staging_get_empty(&mm->family->staging, first, nr, whole);
}

static void local_chunk_put(struct hmm_mm *mm, struct chunk *chunk)
{
	staging_put(&mm->family->staging, chunk);
}

/* Are the slots' pages still where they were, and so what we think they are? */
static bool in_place(const struct hmm_mm *mm, const struct isolation *iso, uint32_t first,
		     uint32_t end)
{
	for (uint32_t i = first; i < end; i++) {
		uintptr_t addr = iso->base + i * mm->page;

		if (isolation_passes(iso, i) ?
		    entry_state(directory_get(&mm->dir, addr)) != PAGE_DEVICE :
		    iso->where[i] != addr)
			return false;
	}
	return true;
}

/*
 * A page is where this one was to go. It is the page itself where the kernel has moved
 * more than it said; but the program's mlockall() fills our chunks too, with zeros.
 */
static enum tried tried_existing(struct hmm_mm *mm, uintptr_t from)
{
	uint8_t state = 0;

	return sys_page_states(mm->pagemap_fd, from, 1, &state) || state ? TRIED_OCCUPIED :
									  TRIED_PASSED;
}

/* Of one that is there without having passed: under the lock nobody could fill its place again. */
static bool is_foreign(struct hmm_mm *mm, const struct isolation *iso, const struct taking *t,
		       uint32_t i)
{
	if (!t->landed[i] || t->tried[i] == TRIED_PASSED)
		return false;
	return t->tried[i] == TRIED_OCCUPIED ||
	       tried_existing(mm, iso->base + i * mm->page) == TRIED_OCCUPIED;
}

static void chunk_landed(struct chunk *c, uint32_t i, uint32_t end, const uint8_t *landed)
{
	const uint8_t there = SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED;

	for (uint32_t first; i < end; i++) {
		for (first = i; i < end && (landed[i] & there); i++)
			;
		if (i > first)
			chunk_set(c, first, i - first, true);
	}
}

/* What the chunk really holds now. */
static void look_landed(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr,
			struct taking *t)
{
	struct chunk *c = iso->chunk;

	if (sys_page_states(mm->pagemap_fd, c->addr + first * mm->page, nr, t->landed + first))
		memset(t->landed + first, SYS_PAGE_PRESENT, nr);
	if (nr == BLOCK_PAGES && (t->landed[0] & SYS_PAGE_HUGE))
		iso->huge = c->huge = true;
	else
		c->has_table = true;
	chunk_landed(c, first, first + nr, t->landed);
	for (uint32_t i = first; i < first + nr; i++)
		if (is_foreign(mm, iso, t, i))
			t->landed[i] = 0;
}

/*
 * Could a move of the slots put something on a device page? The program's mlockall() fills
 * our chunks too.
 */
static bool would_fill(struct hmm_mm *mm, const struct isolation *iso, uint32_t first, uint32_t nr)
{
	uint8_t states[BLOCK_PAGES];
	bool passes = false, full = false;

	for (uint32_t i = first; i < first + nr && !passes; i++)
		passes = isolation_passes(iso, i);
	if (!passes)
		return false;
	if (sys_page_states(mm->pagemap_fd, iso->chunk->addr + first * mm->page, nr, states))
		return true;
	for (uint32_t i = 0; i < nr && !full; i++)
		full = states[i];
	return full;
}

/*
 * Is the mapping that the slots are in ours now? What is mapped anew after we registered
 * raises no event, and the kernel moves from any mapping:
 *
 *	program				migrator
 *	-------				--------
 *					look up: A, not registered
 *	munmap A: no event
 *					register A and its neighbours: a gap is no error
 *	mmap at A, write
 *					MOVE from A
 *	read zeros, untrapped
 *
 * A move the other way, of empty slots, tells without doing anything: its target must be
 * one mapping, and registered. From then on any change of that raises an event, which
 * makes the move that counts fail with EAGAIN. Holes are let pass, so that it goes up to
 * the first page that is there: were they not, the first slot would be refused with the
 * ENOENT that an address without a mapping is refused with.
 */
static int check_watched(struct hmm_mm *mm, const struct isolation *iso, uint32_t first,
			 uint32_t nr)
{
	uintptr_t start = iso->base + first * mm->page;
	uint32_t stuck = 0;
	size_t done;
	int ret;

	if (would_fill(mm, iso, first, nr))
		return -EBUSY;
	for (;;) {
		ret = sys_uffd_move(mm->uffd, start, iso->chunk->addr + first * mm->page,
				    nr * mm->page, SYS_UFFD_HOLES | SYS_UFFD_DONTWAKE, &done);
		if (ret != -EAGAIN || done || ++stuck > MOVE_STUCK)
			return done || ret == -EEXIST ? 0 : ret;
		mm_drain(mm);
		if (!in_place(mm, iso, first, first + nr))
			return ret;
	}
}

/*
 * From the block at @from: the program's, or limbo. Events read on the way may tell that
 * what is at an address now is something else.
 */
static int move_slots(struct hmm_mm *mm, const struct isolation *iso, uintptr_t from,
		      uint32_t first, uint32_t nr, uint8_t *tried)
{
	uintptr_t to = iso->chunk->addr;
	uint32_t i = first, end = first + nr, stuck = 0;

	while (i < end) {
		size_t done = 0;
		int ret = sys_uffd_move(mm->uffd, to + i * mm->page, from + i * mm->page,
					(end - i) * mm->page, SYS_UFFD_HOLES | SYS_UFFD_DONTWAKE,
					&done);

		memset(tried + i, TRIED_PASSED, done / mm->page);
		i += (uint32_t)(done / mm->page);
		if (!ret)
			break;
		if (ret == -EAGAIN) {
			if (!done && ++stuck > MOVE_STUCK)
				return ret;
			mm_drain(mm);
			if (!in_place(mm, iso, i, end))
				return ret;
		} else if (ret == -EBUSY || ret == -EEXIST) {
			tried[i] = ret == -EBUSY ? TRIED_BUSY :
						   tried_existing(mm, from + i * mm->page);
			i++;
		} else {
			return ret;
		}
	}
	return 0;
}

/* MOVE wants the same protection on both sides; a JIT's memory can be executed. */
static int local_move(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
		      uint32_t first, uint32_t nr, struct taking *t)
{
	void *to = (void *)(iso->chunk->addr + first * mm->page);
	bool exec = vma->flags & SYS_VMA_EXEC;
	int ret = 0;

	if (exec)
		ret = sys_mprotect(to, nr * mm->page, PROT_READ | PROT_WRITE | PROT_EXEC);
	if (!ret && !(mm->flags & HMM_MM_STRICT))
		ret = check_watched(mm, iso, first, nr);
	if (!ret)
		ret = move_slots(mm, iso, iso->base, first, nr, t->tried);
	if (exec)
		(void)sys_mprotect(to, nr * mm->page, PROT_READ | PROT_WRITE);
	mm->stats.moved_runs += !ret;
	look_landed(mm, iso, first, nr, t);
	return ret;
}

/*
 * Atomic, but knows nothing of pins. Without STRICT its events are our own to read, so
 * the lock is dropped around it; the entries hold the place.
 *
 * A mapping emptied in one call loses its anon_vma and would never merge with its
 * neighbours again: the first page goes by itself.
 */
static void local_remap(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			uint32_t first, uint32_t nr, struct taking *t)
{
	uintptr_t from = iso->base + first * mm->page, to = iso->chunk->addr + first * mm->page;
	size_t len = nr * mm->page, head = 0;
	bool strict = mm->flags & HMM_MM_STRICT;
	int ret = 0;

	if (nr > 1 && vma->start == from && vma->end == from + len)
		head = mm->page;
	iso->chunk->remapped = true;
	mm->lock_drops += !strict;
	if (!strict)
		lock_release(&mm->lock);
	if (head)
		ret = sys_mremap_dontunmap(from, head, to);
	if (!ret)
		ret = sys_mremap_dontunmap(from + head, len - head, to + head);
	/* What came has the protection that the program gave it, by now perhaps none. */
	if (!ret)
		ret = sys_mprotect((void *)to, len, PROT_READ | PROT_WRITE);
	if (!strict)
		lock_acquire(&mm->lock);
	mm->stats.remapped_runs++;
	if (!ret)
		memset(t->tried + first, TRIED_PASSED, nr);
	look_landed(mm, iso, first, nr, t);
}

/* Slots from @i on, below @end, that all have been taken, or all not. */
static uint32_t tried_run(const uint8_t *tried, uint32_t i, uint32_t end)
{
	uint32_t n = 1;

	while (i + n < end && (tried[i + n] == TRIED_PASSED) == (tried[i] == TRIED_PASSED))
		n++;
	return n;
}

/* Slots [i, i + n) are pinned, or cannot go for another reason: back from limbo. */
static void leave_limbo(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			uint32_t i, uint32_t n)
{
	uintptr_t addr = iso->base + i * mm->page;
	size_t done = 0;

	if (!limbo_return(mm, vma, addr, n * mm->page))
		return;
	/* No mapping to be had for it: the bytes at least; what DMA may still bring is lost. */
	mm->stats.lost_pages += n;
	(void)sys_uffd_copy(mm->uffd, iso->chunk->addr + i * mm->page,
			    (void *)limbo_of(mm, addr), n * mm->page, SYS_UFFD_DONTWAKE, &done);
}

/*
 * Advice that does nothing to pages in use is refused only for mlocked ones. Given for a
 * part of a 2 MiB page it would split that: hence for all that is to be taken.
 */
static bool local_locked(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	(void)mm;
	return sys_madvise((void *)addr, len, MADV_COLD) == -EINVAL;
}

/* The same advice again, for just that. */
static void local_cut_out(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	(void)mm;
	(void)sys_madvise((void *)addr, len, MADV_COLD);
}

/*
 * A second try for what the first move out of limbo has left: a write fault unshares it,
 * which is ours and no handler's to serve. What is busy after that is pinned.
 */
static void local_take_readonly(struct hmm_mm *mm, struct isolation *iso,
				const struct sys_vma *vma, uint32_t first, uint32_t nr,
				struct taking *t)
{
	uintptr_t start = iso->base + first * mm->page;
	uint32_t end = first + (uint32_t)(limbo_take(mm, vma, start, nr * mm->page) / mm->page);
	uintptr_t limbo = limbo_of(mm, iso->base);

	if (end > first)
		(void)move_slots(mm, iso, limbo, first, end - first, t->tried);
	for (uint32_t i = first, n; i < end; i += n) {
		n = tried_run(t->tried, i, end);
		if (t->tried[i] == TRIED_PASSED)
			continue;
		(void)sys_populate(limbo + i * mm->page, n * mm->page, true);
		local_cut_out(mm, limbo + i * mm->page, n * mm->page);
		(void)move_slots(mm, iso, limbo, i, n, t->tried);
	}
	for (uint32_t i = first, n; i < end; i += n) {
		n = tried_run(t->tried, i, end);
		if (t->tried[i] != TRIED_PASSED)
			leave_limbo(mm, iso, vma, i, n);
	}
	if (end > first)
		limbo_clear(mm);
	look_landed(mm, iso, first, nr, t);
}

/* ---------------------------------------------------------------- the rest */

static int local_populate(struct hmm_mm *mm, uintptr_t start, size_t len, bool write)
{
	(void)mm;
	return sys_populate(start, len, write);
}

static ssize_t local_copy_from(struct hmm_mm *mm, void *dst, uintptr_t addr, size_t len)
{
	(void)mm;
	return sys_copy_from(dst, addr, len);
}

static ssize_t local_copy_to(struct hmm_mm *mm, uintptr_t addr, const void *src, size_t len)
{
	(void)mm;
	return sys_copy_to(addr, src, len);
}

static int64_t local_perform(struct hmm_mm *mm, const struct sys_notif *call)
{
	(void)mm;
	return sys_seccomp_perform(call);
}

static int local_for_each_tcb(struct hmm_mm *mm, void (*fn)(uintptr_t addr, bool main, void *ctx),
			      void *ctx)
{
	return sys_for_each_tcb(mm->tasks_fd, fn, ctx);
}

static uint64_t local_threads_mark(struct hmm_mm *mm, uint32_t *nr)
{
	return sys_threads_mark(mm->tasks_fd, nr);
}

static void local_for_each_static(struct hmm_mm *mm,
				  void (*fn)(uintptr_t start, uintptr_t end, void *ctx), void *ctx)
{
	(void)mm;
	sys_for_each_static(fn, ctx);
}

static bool local_owns(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	(void)mm;
	return arena_owns(start, end);
}

static void local_kill(struct hmm_mm *mm, uint32_t tid, int sig, uintptr_t addr)
{
	(void)mm;
	sys_kill_thread(tid, sig, addr);
}

const struct mm_ops local_ops = {
	.chunk_get = local_chunk_get,
	.chunk_put = local_chunk_put,
	.move = local_move,
	.remap = local_remap,
	.take_readonly = local_take_readonly,
	.locked = local_locked,
	.cut_out = local_cut_out,
	.populate = local_populate,
	.copy_from = local_copy_from,
	.copy_to = local_copy_to,
	.perform = local_perform,
	.for_each_tcb = local_for_each_tcb,
	.threads_mark = local_threads_mark,
	.for_each_static = local_for_each_static,
	.owns = local_owns,
	.kill = local_kill,
};
