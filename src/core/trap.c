/* SPDX-License-Identifier: MIT */
/*
 * Which mappings the mm's userfaultfd holds: those that have a page away, with their
 * neighbours, and those whose first touches are to be seen. The others are let go, and
 * cost the program nothing.
 */
#include "core/adoption.h"
#include "core/mm.h"
#include "core/remote.h"

/* Neighbours to each side that are trapped with a mapping. */
#define RUN_NEIGHBOURS	8
#define MENDS_MAX	4

/* Neighbours of that size together are worth trapping for their first touches alone. */
#define WATCHED_BYTES	(1u << 20)

/* Has the library a page of [start, end) somewhere else, or the file's data for it? */
static bool holds(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	return directory_next(&mm->dir, start, end) != end || adopt_next(mm, start, end) != end;
}

static bool gated(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	return mm->fork_gate || (mm->remote && remote_gated(mm, start, end));
}

bool mm_held(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	return gated(mm, start, end) || (mm->remote && passes_hold(mm, start, end));
}

/*
 * Are the first touches of the run to be ours? Where as much is mapped as the tree may
 * have without.
 */
static bool watched(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	return end - start >= WATCHED_BYTES && !family_may_map(mm->family) &&
	       !gated(mm, start, end);
}

static bool leaving(const struct hmm_mm *mm, const struct sys_vma *vma)
{
	return mm->remote && remote_leaving(mm, vma->start, vma->end);
}

/* Could the mapping become one with a private anonymous neighbour? */
static bool mappings_merge(const struct hmm_mm *mm, const struct sys_vma *vma)
{
	return mm_vma_anonymous(mm, vma) && !(vma->flags & SYS_VMA_STACK) && !leaving(mm, vma);
}

/*
 * The mapping and the private anonymous ones that touch it (some: a program may have
 * thousands in a row). They are trapped together
 * and let go together, because the kernel merges neighbours only if the same
 * userfaultfd holds both: were one part of what the program sees as one mapping let
 * go after an mprotect had split it, an mprotect back would not merge it again, and
 * mremap over the whole would fail in a program that is right.
 */
static void mapping_run(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t *start,
			uintptr_t *end)
{
	struct sys_vma next;

	*start = vma->start;
	*end = vma->end;
	for (int i = 0; i < RUN_NEIGHBOURS && !mm_vma(mm, *end, &next) && next.start == *end &&
			mappings_merge(mm, &next); i++)
		*end = next.end;
	for (int i = 0; i < RUN_NEIGHBOURS && *start && !mm_vma(mm, *start - mm->page, &next) &&
			next.end == *start && mappings_merge(mm, &next); i++)
		*start = next.start;
}

/*
 * Before a mapping is let go: what the program has just moved to it, or beside it, is in
 * the directory only once the event has been read.
 *
 *	handler				program
 *	-------				-------
 *	the last page of A: home
 *	.				mremap(B) to beside A, pages away and all
 *	nothing of [A, B) is away:
 *	  unregister [A, B)
 *	read REMAP: B's pages are there		B reads as zeros
 */
static void events_settle(struct hmm_mm *mm)
{
	while (!(mm->flags & HMM_MM_STRICT) && sys_uffd_changing(mm->uffd)) {
		mm_drain(mm);
		if (sys_uffd_changing(mm->uffd))
			sys_rest(20);
	}
}

/* Each by itself, so that one that cannot be trapped, or is another's, costs no other. */
static void settle_each(struct hmm_mm *mm, uintptr_t start, uintptr_t end, bool trapped)
{
	struct sys_vma vma;

	for (uintptr_t a = start; !sys_vma_find(mm->maps_fd, a, &vma) && vma.start < end;
	     a = vma.end) {
		uintptr_t low = vma.start > start ? vma.start : start;
		uintptr_t high = vma.end < end ? vma.end : end;

		if (!mm_vma_anonymous(mm, &vma))
			continue;
		if (trapped)
			(void)sys_uffd_register(mm->uffd, low, high - low, SYS_UFFD_MISSING);
		else
			(void)sys_uffd_unregister(mm->uffd, low, high - low);
	}
}

/*
 * Has a change come between events_settle() and the end of our unregistering
 * [start, end)? Its event has not been read, so who made it is still in the call: what it
 * brought there is trapped again before it returns.
 */
static bool overtaken(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	if ((mm->flags & HMM_MM_STRICT) || !sys_uffd_changing(mm->uffd))
		return false;
	settle_each(mm, start, end, true);
	return true;
}

/*
 * Is any of it away, or about to be (@trapped), or watched? Then trap it, else let it go,
 * but for what has come to it by a change that we have not heard of. Together with a
 * neighbour that refuses (another userfaultfd's, MAP_DROPPABLE) neither would be done.
 */
static void run_settle(struct hmm_mm *mm, uintptr_t start, uintptr_t end, bool trapped)
{
	if (trapped || watched(mm, start, end) || holds(mm, start, end)) {
		if (sys_uffd_register(mm->uffd, start, end - start, SYS_UFFD_MISSING))
			settle_each(mm, start, end, true);
		return;
	}
	if (sys_uffd_unregister(mm->uffd, start, end - start))
		settle_each(mm, start, end, false);
	(void)overtaken(mm, start, end);
}

/*
 * [start, end), of the mapping at @addr, has just been trapped or let go. Without STRICT
 * the program may have mapped anew, or merged, what was looked at before: then that call
 * was one of a part of a mapping, and has split it.
 *
 *	us				program
 *	--				-------
 *	the run is [B, C)
 *	.				munmap [B, C), mmap [A, D) over it
 *	register [B, C): three mappings
 *	the run is [A, D): all of it	mremap [A, D) would fail until then
 */
static void mend_split(struct hmm_mm *mm, uintptr_t addr, uintptr_t start, uintptr_t end,
		       bool trapped)
{
	struct sys_vma vma;
	uintptr_t from, to;

	for (int i = 0; i < MENDS_MAX && !(mm->flags & HMM_MM_STRICT); i++) {
		if (mm_vma(mm, addr, &vma) || vma.start > addr || !mappings_merge(mm, &vma))
			return;
		mapping_run(mm, &vma, &from, &to);
		if (from == start && to == end)
			return;
		start = from;
		end = to;
		run_settle(mm, start, end, trapped);
	}
}

enum hmm_reason mm_vma_register(struct hmm_mm *mm, const struct sys_vma *vma)
{
	uintptr_t start, end;
	int ret;

	if (leaving(mm, vma))
		return HMM_REASON_BUSY;
	mapping_run(mm, vma, &start, &end);
	ret = sys_uffd_register(mm->uffd, start, end - start, SYS_UFFD_MISSING);
	if (ret)	/* a neighbour may be another userfaultfd's */
		ret = sys_uffd_register(mm->uffd, vma->start, vma->end - vma->start,
					SYS_UFFD_MISSING);
	else
		mend_split(mm, vma->start, start, end, true);
	switch (ret) {
	case 0:
		return HMM_REASON_NONE;
	case -EBUSY:
		return HMM_REASON_FOREIGN;
	case -ENOMEM:
		return HMM_REASON_NOMEM;
	default:
		return HMM_REASON_BUSY;	/* changed since we looked, or cannot be trapped */
	}
}

void mm_vma_join(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct sys_vma vma;
	uintptr_t from, to;

	mm_vma_begin(mm);
	for (uintptr_t a = start; a < end && !mm_vma(mm, a, &vma) && vma.start < end; a = to) {
		to = vma.end;
		if (!mappings_merge(mm, &vma))
			continue;
		mapping_run(mm, &vma, &from, &to);
		run_settle(mm, from, to, false);
	}
}

void mm_vma_release(struct hmm_mm *mm, uintptr_t addr)
{
	struct sys_vma vma;
	uintptr_t start, end;

	/*
	 * What is let go while the program moves pages to it is trapped again before they
	 * are missed, if the change is seen to be under way (overtaken()). Where the kernel
	 * forgets that too early nothing is let go.
	 */
	if (!(mm->flags & HMM_MM_STRICT) && !sys_cap(CAP_UFFD_PENDING))
		return;
	do {
		events_settle(mm);
		mm_vma_begin(mm);
		if (mm_vma(mm, addr, &vma) || vma.start > addr || !mm_vma_anonymous(mm, &vma))
			return;
		mapping_run(mm, &vma, &start, &end);
		if (watched(mm, start, end) || holds(mm, start, end))
			return;
		if (sys_uffd_unregister(mm->uffd, start, end - start))
			settle_each(mm, start, end, false);
		else
			mend_split(mm, addr, start, end, false);
	} while (overtaken(mm, start, end));
}

struct release {
	struct hmm_mm *mm;
	bool lost_too;
	/* Of the mapping before, if it was let go: it may have grown since it was told. */
	uintptr_t end;
};

/* -EBUSY: it is to stay, or some of it. */
static int release_vma(const struct release *r, const struct sys_vma *vma)
{
	if (!mm_vma_anonymous(r->mm, vma) || (!r->lost_too && holds(r->mm, vma->start, vma->end)))
		return -EBUSY;
	return sys_uffd_unregister(r->mm->uffd, vma->start, vma->end - vma->start);
}

static bool release_one(void *arg, const struct sys_vma *vma)
{
	struct release *r = arg;
	struct sys_vma now, part = { .start = r->end ? r->end : vma->start };
	int ret = 0;

	part.end = mm_vma_anonymous(r->mm, vma) ? vma->end : vma->start;
	r->end = vma->end;
	if (part.start >= part.end || !release_vma(r, &part))
		return true;
	/* A gap, or one that stays, or it is another since it was told, or several. */
	for (uintptr_t a = part.start; !sys_vma_find(r->mm->maps_fd, a, &now) &&
				       now.start < part.end; a = now.end)
		ret = release_vma(r, &now);
	r->end = ret ? 0 : vma->end;
	return true;
}

void mm_release_all(struct hmm_mm *mm, bool lost_too)
{
	struct release r = { mm, lost_too, 0 };

	lock_assert_held(&mm->lock);
	events_settle(mm);
	sys_vma_each(mm->maps_fd, 0, release_one, &r);
}

uintptr_t mm_vma_ours_until(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t limit)
{
	uintptr_t start = vma->start, end = vma->end, until;
	struct sys_vma last;
	int ret;

	if (holds(mm, vma->start, vma->end))
		return vma->end;	/* trapped by us */
	if (mappings_merge(mm, vma))
		mapping_run(mm, vma, &start, &end);
	until = end;
	/* Nobody has asked for what follows: it is not to be trapped for a moment. */
	if (limit < end)
		until = limit > vma->end && !mm_vma(mm, limit - mm->page, &last) ? last.end : vma->end;
	ret = sys_uffd_register(mm->uffd, vma->start, until - vma->start, SYS_UFFD_MISSING);
	if (ret && until != vma->end) {		/* a neighbour may be another's */
		until = vma->end;
		ret = sys_uffd_register(mm->uffd, vma->start, until - vma->start,
					SYS_UFFD_MISSING);
	}
	if (ret)
		return ret == -EBUSY ? vma->start : vma->end;
	run_settle(mm, start, end, false);
	return until;
}
