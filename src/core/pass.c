/* SPDX-License-Identifier: MIT */
/*
 * Passes: announced changes of another process that the kernel makes by itself, with
 * nobody waiting for their end.
 *
 * A munmap, mprotect or discard of memory that is all at home changes nothing in the
 * tables, and what it needs is that nothing leaves before it is made. It is told to go on,
 * which takes a third of the time that its agent would, and the range stays home meanwhile:
 *
 *	program				monitor			policy
 *	-------				-------			------
 *	munmap(A)			.			.
 *	  (stopped by the filter)	pass for A		.
 *	  .				CONTINUE		take A: BUSY
 *	  made by the kernel		.
 *	its next call			pass is over		take A
 *
 * Nobody has to be told: devices have no page of the program's RAM before one has asked
 * for any, and from then on no pass is given. So nobody looks for the end but who meets
 * the pass, because it wants to take or show of the range, and a pass ends when its
 * thread is seen out of the call. Nothing else tells: whatever the mappings look like,
 * another thread may have made them so. A thread that runs is not told from one in the
 * call, so one that computes keeps its range at home, a small one.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core/remote.h"
#include "sys/seccomp.h"

#define PASS_BYTES	((uintptr_t)256 << 10)

static bool overlaps(const struct pass *p, uintptr_t start, uintptr_t end)
{
	return start < p->end && end > p->start;
}

static void retire(struct remote *r, struct pass *p)
{
	*p = r->pass[--r->nr_passes];
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
		if (!sys_in_syscall(r->pass[i].tid, r->pass[i].nr))
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

/* Threads that have ended, or make no more calls, leave theirs: of all one is looked at. */
static bool make_room(struct remote *r)
{
	struct pass *one = &r->pass[r->pass_looked % PASSES];

	if (r->nr_passes < PASSES)
		return true;
	r->pass_looked++;
	if (sys_in_syscall(one->tid, one->nr))
		return false;
	retire(r, one);
	return true;
}

/* Is there anybody who has to hear of it, or anything that it changes? Lock held. */
static bool is_nobodys(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	const struct remote *r = mm->remote;

	return r->attached && !remote_gone(r) && !r->forking && !r->mirrored &&
	       directory_next(&mm->dir, start, end) == end;
}

/* Small, and no more than such a call: not what the kernel refuses anyway. */
static bool is_plain(const struct hmm_mm *mm, const struct sys_notif *n, uintptr_t *start,
		     uintptr_t *end)
{
	switch (n->nr) {
	case SYS_munmap:
		break;
	case SYS_mprotect:
		if (n->args[2] & ~(uint64_t)(PROT_READ | PROT_WRITE | PROT_EXEC))
			return false;
		break;
	case SYS_madvise:
		if (n->args[2] != MADV_DONTNEED && n->args[2] != MADV_FREE)
			return false;
		break;
	default:
		return false;
	}
	mm_span(mm, n->args[0], n->args[1], start, end);
	return *start < *end && *start == n->args[0] && *end - *start <= PASS_BYTES;
}

bool pass_give(struct hmm_mm *mm, const struct sys_notif *n)
{
	struct remote *r = mm->remote;
	uintptr_t start, end;

	lock_assert_held(&mm->lock);
	pass_return(mm, n->tid);
	if (!is_plain(mm, n, &start, &end) || !is_nobodys(mm, start, end) || !make_room(r))
		return false;
	/* What becomes writable can be touched, by whom is decided where it gets too much. */
	if (n->nr == SYS_mprotect && n->args[2] & PROT_WRITE) {
		if (!family_may_map(mm->family))
			return false;
		family_mapped(mm->family, (end - start) / mm->page);
	}
	mm_vma_forget(mm);
	r->pass[r->nr_passes++] = (struct pass){ n->tid, n->nr, start, end };
	mm->stats.changes++;
	return true;
}
