/* SPDX-License-Identifier: MIT */
/*
 * MIGRATE_TO_DEV and MIGRATE_TO_SYS, in pieces of at most 2 MiB, so that a large page
 * moves whole.
 *
 * The page table is not written between the steps of a migration but looked up anew
 * afterwards: that finds the pages that were here before as well, whose entries the
 * migration has cleared.
 */
#include <errno.h>
#include <string.h>

#include "dmirror.h"

#define NO_FRAME	UINT64_MAX

/* One piece under way. */
struct move {
	struct request *request;
	struct hmm_migrate m;
	size_t nr;
	bool huge;			/* one large page, as the CPU has it */
	bool adopt;			/* some pages are mappings of a file */
	int error;			/* what stops the request after this piece */
	uint64_t src[FRAMES_BLOCK], dst[FRAMES_BLOCK];
	uint64_t given[FRAMES_BLOCK];	/* frames, or NO_FRAME */
};

static uintptr_t piece_bytes(const struct dmirror *m)
{
	return FRAMES_BLOCK * m->process->page_size;
}

/* Is the piece one large page? What is not known to be one comes in small pages. */
static bool is_huge(struct dmirror *m, uintptr_t start, uintptr_t end)
{
	uint64_t pfn, seq;

	if (end - start != piece_bytes(m) || start & (piece_bytes(m) - 1) ||
	    mirror_look(m, start, start + m->process->page_size, 0, &pfn, &seq))
		return false;
	return (pfn & HMM_PFN_ORDER_MASK) >> HMM_PFN_ORDER_SHIFT ==
	       (uint64_t)__builtin_ctz(FRAMES_BLOCK);
}

/*
 * The kernel goes mapping by mapping and stops at the first that it cannot migrate:
 * pages behind that one stay, whatever became of those before.
 */
static size_t migratable(struct move *mv)
{
	for (size_t i = 0; i < mv->nr; i++) {
		if (mv->src[i] & HMM_SRC_MIGRATE)
			continue;
		switch (hmm_src_reason(mv->src[i])) {
		case HMM_REASON_GAP:
		case HMM_REASON_PROT:
		case HMM_REASON_HUGETLB:
			mv->error = -EINVAL;
			return i;
		case HMM_REASON_FILE:
		case HMM_REASON_SHARED:
			mv->adopt = true;
			break;
		default:
			break;
		}
	}
	return mv->nr;
}

/* A large frame for a large page, unless there is none: then it is split. */
static bool give_large(struct move *mv)
{
	struct dmirror_device *d = mv->request->mirror->device;
	uint64_t first;

	if (!mv->huge || mv->m.nr_pages != FRAMES_BLOCK)
		return false;
	if (atomic_exchange(&d->fail_large, false) || !frames_alloc_large(&d->frames, &first))
		return false;
	for (size_t i = 0; i < FRAMES_BLOCK; i++)
		mv->given[i] = first + i;
	return true;
}

static void give_small(struct move *mv, size_t end)
{
	struct frames *frames = &mv->request->mirror->device->frames;
	uint64_t next = 0, left = 0;

	for (size_t i = 0; i < end; i++) {
		if (!(mv->src[i] & HMM_SRC_MIGRATE))
			continue;
		if (!left)
			left = frames_alloc(frames, end - i, &next);
		if (!left)
			return;		/* full: the rest stays */
		mv->given[i] = next++;
		left--;
	}
	if (left)
		frames_free(frames, next, left);
}

static void give_frames(struct move *mv)
{
	size_t end = migratable(mv);

	for (size_t i = 0; i < mv->nr; i++)
		mv->given[i] = NO_FRAME;
	if (!give_large(mv))
		give_small(mv, end);
	for (size_t i = 0; i < mv->nr; i++)
		mv->dst[i] = mv->given[i] == NO_FRAME ? 0 :
			     hmm_dst(mv->request->mirror->device->id, mv->given[i]);
}

/* Frames of pages that stayed. */
static void take_back_frames(struct move *mv)
{
	struct frames *frames = &mv->request->mirror->device->frames;

	for (size_t i = 0; i < mv->nr; i++)
		if (mv->given[i] != NO_FRAME && !(mv->src[i] & HMM_SRC_MIGRATE))
			frames_free(frames, mv->given[i], 1);
}

static int move_piece(struct move *mv, uintptr_t start, uintptr_t end)
{
	struct dmirror *m = mv->request->mirror;
	struct hmm_mm *mm = m->process->mm;
	int ret;

	mv->nr = (end - start) / m->process->page_size;
	mv->huge = is_huge(m, start, end);
	mv->adopt = false;
	mv->error = 0;
	mv->m = (struct hmm_migrate){
		.size = sizeof(mv->m), .flags = HMM_MIGRATE_SYSTEM, .start = start, .end = end,
		.src = mv->src, .dst = mv->dst, .owner = dmirror_owner,
	};
	ret = hmm_migrate_setup(mm, &mv->m);
	if (ret)
		return ret;
	give_frames(mv);
	/* What it says of a copy that failed stands in src[] for each page as well. */
	(void)hmm_migrate_copy(mm, &mv->m);
	hmm_migrate_pages(mm, &mv->m);
	hmm_migrate_finalize(mm, &mv->m);
	take_back_frames(mv);
	return mv->error;
}

/*
 * Again where private copies of a file's pages have become anonymous memory. What could
 * not be adopted stays where it is, as in the kernel a page of a file does.
 */
static int move_or_adopt(struct move *mv, uintptr_t start, uintptr_t end)
{
	struct hmm_mm *mm = mv->request->mirror->process->mm;
	int ret = move_piece(mv, start, end);

	if (!mv->adopt || hmm_adopt(mm, start, end) <= 0)
		return ret;
	return move_piece(mv, start, end);
}

static int move_all(struct request *r)
{
	uintptr_t bytes = piece_bytes(r->mirror), stop;
	struct move mv;
	int ret = 0;

	mv.request = r;
	for (uintptr_t va = r->start; va < r->end && !ret; va = stop) {
		stop = min_addr((va & ~(bytes - 1)) + bytes, r->end);
		ret = move_or_adopt(&mv, va, stop);
	}
	return ret;
}

/* ---------------------------------------------------------------- the data that came */

/*
 * All pages of a piece must be on this device. Their frames, for who reads them under a
 * hold; and into the page table.
 */
static int find_piece(struct dmirror *m, uintptr_t start, uintptr_t end, uint32_t *frames)
{
	uint64_t pfns[FRAMES_BLOCK], seq;
	size_t nr = (end - start) / m->process->page_size;
	int ret;

	do {
		ret = mirror_look(m, start, end, 0, pfns, &seq);
		if (!ret)
			ret = table_reserve(&m->table, &m->lock, start, end);
		if (ret)
			return ret;
		for (size_t i = 0; i < nr; i++) {
			if (!pfn_is_local(m, pfns[i]))
				return -ENOENT;
			frames[i] = (uint32_t)(pfns[i] & HMM_PFN_INDEX_MASK);
		}
	} while (!mirror_fill(m, start, end, pfns, seq));
	return 0;
}

static int find_all(struct request *r, uint32_t *frames)
{
	struct dmirror *m = r->mirror;
	uintptr_t bytes = piece_bytes(m), stop;
	int ret = 0;

	for (uintptr_t va = r->start; va < r->end && !ret; va = stop) {
		stop = min_addr(va + bytes, r->end);
		ret = find_piece(m, va, stop, frames + (va - r->start) / m->process->page_size);
	}
	return ret;
}

static int return_frames(struct request *r, const uint32_t *frames)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size, nr = request_bytes(r) / page, n;

	for (size_t i = 0; i < nr; i += n) {
		void *bytes = frames_at(&m->device->frames, frames[i]);

		for (n = 1; i + n < nr && frames[i + n] == frames[i] + n; n++)
			;
		if (hmm_copy_to_user(m->process->mm, r->cmd.ptr + i * page, bytes, n * page) !=
		    (int64_t)(n * page))
			return -EFAULT;
	}
	return 0;
}

/*
 * The device's data, to the caller. Of private memory without another copy between: a
 * page that comes home or is unmapped meanwhile leaves its bytes behind in the frame.
 */
static int return_data(struct request *r)
{
	struct dmirror *m = r->mirror;
	size_t nr = request_bytes(r) / m->process->page_size;
	uint32_t *frames = bounce_get(&m->process->bounce, nr * sizeof(*frames));
	int ret;

	if (!frames)
		return -ENOMEM;
	frames_hold(&m->device->frames);
	ret = find_all(r, frames);
	if (!ret && !m->device->coherent)
		ret = return_frames(r, frames);
	frames_release(&m->device->frames);
	bounce_put(&m->process->bounce, frames);
	if (!ret && m->device->coherent)
		ret = request_return(r);
	r->cmd.cpages = ret ? 0 : nr;
	return ret;
}

static void large_begin(struct request *r)
{
	if (request_bytes(r) >= LARGE_BYTES)
		atomic_fetch_add(&r->mirror->device->large_requests, 1);
}

static void large_end(struct request *r)
{
	if (request_bytes(r) >= LARGE_BYTES)
		atomic_fetch_sub(&r->mirror->device->large_requests, 1);
}

int request_migrate_to_dev(struct request *r)
{
	int ret;

	large_begin(r);
	ret = move_all(r);
	large_end(r);
	return ret ? ret : return_data(r);
}

/* ---------------------------------------------------------------- back */

/*
 * Up to the first page that is not mapped or not readable; *end is set there. Pages of
 * other devices stay.
 */
static int64_t evict_piece(struct request *r, uintptr_t start, uintptr_t *end)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size, nr = (*end - start) / page, n;
	uint64_t pfns[FRAMES_BLOCK], seq;
	int64_t pages = 0, ret;

	ret = mirror_look(m, start, *end, 0, pfns, &seq);
	for (size_t i = 0; !ret && i < nr; i += n) {
		uintptr_t va = start + i * page;

		if (pfns[i] & HMM_PFN_ERROR) {
			*end = va;
			break;
		}
		for (n = 1; i + n < nr && pfn_is_local(m, pfns[i]) == pfn_is_local(m, pfns[i + n]) &&
			    !(pfns[i + n] & HMM_PFN_ERROR); n++)
			;
		if (!pfn_is_local(m, pfns[i]))
			continue;
		ret = hmm_evict(m->process->mm, va, va + n * page);
		if (ret < 0)
			break;
		pages += ret;
		ret = 0;
	}
	return ret ? ret : pages;
}

static int evict_all(struct request *r)
{
	uintptr_t bytes = piece_bytes(r->mirror), stop;

	for (uintptr_t va = r->start; va < r->end; va = stop) {
		uintptr_t end = stop = min_addr((va & ~(bytes - 1)) + bytes, r->end);
		int64_t pages = evict_piece(r, va, &end);

		if (pages < 0)
			return pages == -EFAULT ? -EINVAL : (int)pages;
		r->cmd.cpages += (uint64_t)pages;
		if (end != stop)
			return -EINVAL;
	}
	return 0;
}

int request_migrate_to_sys(struct request *r)
{
	int ret;

	large_begin(r);
	ret = evict_all(r);
	large_end(r);
	return ret;
}
