/* SPDX-License-Identifier: MIT */
/*
 * Passes: announced changes of another process that the kernel makes by itself, with
 * nobody waiting for their end.
 *
 * A munmap or mprotect of memory that is all at home changes nothing in the tables, and
 * what it needs is that nothing leaves before it is made. It is told to go on, which
 * takes a third of the time that its agent would, and the range stays home meanwhile:
 *
 *	program				monitor			policy
 *	-------				-------			------
 *	munmap(A)			.			.
 *	  (stopped by the filter)	pass for A		.
 *	  .				CONTINUE		take A: BUSY
 *	  made by the kernel					.
 *	its next call			pass is over		take A
 *
 * Nobody has to be told: devices have no page of the program's RAM before one has asked
 * for any, and from then on no pass is given. So nobody looks for the end but who meets
 * the pass, because it wants to take or show of the range. What it finds is certain, or
 * the range stays: the thread is seen elsewhere than in the call, or the mappings are as
 * the call makes them.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core/remote.h"
#include "sys/seccomp.h"

static bool overlaps(const struct pass *p, uintptr_t start, uintptr_t end)
{
	return start < p->end && end > p->start;
}

static void retire(struct remote *r, struct pass *p)
{
	*p = r->pass[--r->nr_passes];
}

static bool has_gap(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct sys_vma vma;

	for (uintptr_t a = start; a < end; a = vma.end)
		if (sys_vma_find(mm->maps_fd, a, &vma) || vma.start > a)
			return true;
	return false;
}

/* Then the call, should it not be made yet, does nothing. Lock held. */
static bool is_protected(struct hmm_mm *mm, const struct pass *p)
{
	const uint32_t rights = SYS_VMA_READ | SYS_VMA_WRITE | SYS_VMA_EXEC;
	const uint32_t wanted = (p->prot & PROT_READ ? SYS_VMA_READ : 0) |
				(p->prot & PROT_WRITE ? SYS_VMA_WRITE : 0) |
				(p->prot & PROT_EXEC ? SYS_VMA_EXEC : 0);
	struct sys_vma vma;

	for (uintptr_t a = p->start; a < p->end; a = vma.end)
		if (sys_vma_find(mm->maps_fd, a, &vma) || vma.start > a ||
		    (vma.flags & rights) != wanted)
			return false;
	return true;
}

static bool is_over(struct hmm_mm *mm, const struct pass *p)
{
	if (!sys_in_syscall(p->tid, p->nr))
		return true;
	if (p->nr == SYS_mprotect)
		return is_protected(mm, p);
	return p->whole && has_gap(mm, p->start, p->end);
}

bool passes_hold(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct remote *r = mm->remote;
	bool held = false;

	lock_assert_held(&mm->lock);
	for (uint32_t i = r->nr_passes; i--; ) {
		if (!overlaps(&r->pass[i], start, end))
			continue;
		held = true;
		if (is_over(mm, &r->pass[i]))
			retire(r, &r->pass[i]);
	}
	return held;
}

bool passes_hide(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	mm->remote->mirrored = true;
	return passes_hold(mm, start, end);
}

void pass_return(struct hmm_mm *mm, uint32_t tid)
{
	struct remote *r = mm->remote;

	lock_assert_held(&mm->lock);
	for (uint32_t i = r->nr_passes; i--; )
		if (r->pass[i].tid == tid)
			retire(r, &r->pass[i]);
}

/* Threads that have ended, or make no more calls, leave theirs: one is looked at. */
static bool make_room(struct remote *r)
{
	struct pass *oldest = &r->pass[r->pass_looked++ % PASSES];

	if (r->nr_passes < PASSES)
		return true;
	if (sys_in_syscall(oldest->tid, oldest->nr))
		return false;
	retire(r, oldest);
	return true;
}

/* Is there anybody who has to hear of it, or anything that it changes? Lock held. */
static bool is_nobodys(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	const struct remote *r = mm->remote;

	return r->attached && !remote_gone(r) && !r->forking && !r->mirrored &&
	       directory_next(&mm->dir, start, end) == end;
}

/* With its protection, or munmap's none. false: another call, or the kernel refuses it. */
static bool is_plain(const struct hmm_mm *mm, const struct sys_notif *n, struct pass *pass)
{
	uintptr_t start, end;

	if (n->nr != SYS_munmap && n->nr != SYS_mprotect)
		return false;
	mm_span(mm, n->args[0], n->args[1], &start, &end);
	*pass = (struct pass){ .tid = n->tid, .nr = n->nr, .start = start, .end = end };
	if (n->nr == SYS_mprotect)
		pass->prot = n->args[2];
	return start < end && start == n->args[0] &&
	       !(pass->prot & ~(uint64_t)(PROT_READ | PROT_WRITE | PROT_EXEC));
}

bool pass_give(struct hmm_mm *mm, const struct sys_notif *n)
{
	struct remote *r = mm->remote;
	struct pass pass;

	lock_assert_held(&mm->lock);
	pass_return(mm, n->tid);
	if (!is_plain(mm, n, &pass) || !is_nobodys(mm, pass.start, pass.end) || !make_room(r))
		return false;
	/* What becomes writable can be touched, by whom is decided where it gets too much. */
	if (pass.prot & PROT_WRITE) {
		if (!family_may_map(mm->family))
			return false;
		family_mapped(mm->family, (pass.end - pass.start) / mm->page);
	}
	pass.whole = pass.nr == SYS_munmap && !has_gap(mm, pass.start, pass.end);
	memset(&mm->vma_cache, 0, sizeof(mm->vma_cache));
	r->pass[r->nr_passes++] = pass;
	mm->stats.changes++;
	return true;
}
