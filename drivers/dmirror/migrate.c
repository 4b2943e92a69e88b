/* SPDX-License-Identifier: MIT */
/*
 * MIGRATE_TO_DEV and MIGRATE_TO_SYS, in pieces of at most 2 MiB, so that a large page
 * moves whole.
 *
 * Of its own migration the device keeps the page table: what moved is entered again when
 * that is known, what did not move stays as it was. So a page counts as here when it
 * moved or was in the table before; one that is here and not in the table (it was moved
 * by mremap, say) is not found, as in the kernel.
 */
#include <errno.h>
#include <string.h>

#include "caller.h"
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

/*
 * The kernel goes mapping by mapping and comes no further than the first that is not
 * there or not readable: the piece ends there. Is it one large page? What is not known to
 * be one comes in small pages.
 */
static int measure(struct move *mv, uintptr_t start, uintptr_t *end)
{
	struct dmirror *m = mv->request->mirror;
	size_t page = m->process->page_size, nr = (*end - start) / page;
	uint64_t *pfns = mv->src, seq;
	int ret = mirror_look(m, start, *end, 0, pfns, &seq);

	if (ret)
		return ret == -EFAULT ? -EINVAL : ret;
	mv->huge = nr == FRAMES_BLOCK && !(start & (piece_bytes(m) - 1)) &&
		   (pfns[0] & HMM_PFN_ORDER_MASK) >> HMM_PFN_ORDER_SHIFT ==
		   (uint64_t)__builtin_ctz(FRAMES_BLOCK);
	mv->nr = 0;
	while (mv->nr < nr && !(pfns[mv->nr] & HMM_PFN_ERROR))
		mv->nr++;
	mv->error = mv->nr < nr ? -EINVAL : 0;
	*end = start + mv->nr * page;
	return mv->nr ? 0 : -EINVAL;
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

/* Of a page that has moved; the program wrote it through no hole before. */
static uint64_t pte_of_moved(const struct move *mv, size_t i)
{
	uint64_t pte = PTE_VALID;

	if ((mv->src[i] & (HMM_SRC_WRITE | HMM_SRC_HOLE)) == HMM_SRC_WRITE)
		pte |= PTE_WRITE;
	return mv->request->mirror->device->coherent ? pte | PTE_COHERENT :
						       pte | PTE_PRIVATE | mv->given[i] << 12;
}

static bool is_moved(const struct move *mv, size_t i)
{
	return mv->src[i] & HMM_SRC_MIGRATE;
}

/* Before anybody can touch what moved. false: other changes came between, look again. */
static bool enter_moved(struct move *mv)
{
	struct dmirror *m = mv->request->mirror;
	size_t page = m->process->page_size;
	uint64_t *entry = NULL;
	bool good;

	pthread_mutex_lock(&m->lock);
	good = !hmm_notifier_read_retry(m->notifier, mv->m.seq);
	for (size_t i = 0; i < mv->nr; i++) {
		entry = table_next(&m->table, entry, mv->m.start + i * page);
		if (is_moved(mv, i))
			*entry = good ? pte_of_moved(mv, i) : 0;
	}
	pthread_mutex_unlock(&m->lock);
	return good;
}

/* What has moved and is still here. */
static int enter_late(struct move *mv)
{
	struct dmirror *m = mv->request->mirror;
	uint64_t *pfns = mv->dst, seq;
	int ret;

	do {
		ret = mirror_look(m, mv->m.start, mv->m.end, 0, pfns, &seq);
		if (ret)
			return ret;
		for (size_t i = 0; i < mv->nr; i++)
			if (!is_moved(mv, i) || !pfn_is_local(m, pfns[i]))
				pfns[i] = 0;
	} while (!mirror_fill(m, mv->m.start, mv->m.end, pfns, seq));
	return 0;
}

static int move_piece(struct move *mv, uintptr_t start, uintptr_t end)
{
	struct dmirror *m = mv->request->mirror;
	struct hmm_mm *mm = m->process->mm;
	int ret = measure(mv, start, &end);
	bool entered;

	mv->adopt = false;
	mv->m = (struct hmm_migrate){
		.size = sizeof(mv->m), .flags = HMM_MIGRATE_SYSTEM, .start = start, .end = end,
		.src = mv->src, .dst = mv->dst, .owner = m->device, .notifier = m->notifier,
	};
	if (!ret)
		ret = table_reserve(&m->table, &m->lock, start, end);
	if (!ret)
		ret = hmm_migrate_setup(mm, &mv->m);
	if (ret)
		return ret;
	give_frames(mv);
	/* What it says of a copy that failed stands in src[] for each page as well. */
	(void)hmm_migrate_copy(mm, &mv->m);
	hmm_migrate_pages(mm, &mv->m);
	entered = enter_moved(mv);
	hmm_migrate_finalize(mm, &mv->m);
	take_back_frames(mv);
	ret = entered ? 0 : enter_late(mv);
	return ret ? ret : mv->error;
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
 * The frames of [start, end), for who reads them under a hold. false: a page is not in
 * the table, or not in private memory.
 */
static bool find_frames(struct request *r, uint32_t *frames)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size;
	uintptr_t bytes = piece_bytes(m), stop;
	bool found = true;

	for (uintptr_t va = r->start; va < r->end && found; va = stop) {
		uint64_t *entry = NULL;

		stop = min_addr(va + bytes, r->end);
		pthread_mutex_lock(&m->lock);
		for (uintptr_t at = va; at < stop && found; at += page) {
			entry = table_next(&m->table, entry, at);
			found = entry && (*entry & PTE_PRIVATE);
			if (found)
				*frames++ = (uint32_t)pte_frame(*entry);
		}
		pthread_mutex_unlock(&m->lock);
	}
	return found;
}

static int return_frames(struct request *r, const uint32_t *frames)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size, nr = request_bytes(r) / page, n;

	for (size_t i = 0; i < nr; i += n) {
		void *bytes = frames_at(&m->device->frames, frames[i]);

		for (n = 1; i + n < nr && frames[i + n] == frames[i] + n; n++)
			;
		if (caller_put(m, r->cmd.ptr + i * page, bytes, n * page))
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
	bool found;
	int ret = 0;

	if (!frames)
		return -ENOMEM;
	frames_hold(&m->device->frames);
	found = find_frames(r, frames);
	if (found)
		ret = return_frames(r, frames);
	frames_release(&m->device->frames);
	bounce_put(&m->process->bounce, frames);
	if (!found)
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
	if (!ret)
		ret = return_data(r);
	large_end(r);
	return ret;
}

/* ---------------------------------------------------------------- back */

/*
 * The other devices hear of it whatever there is to move, as they do of the kernel's:
 * a migration that takes nothing.
 */
static int announce(struct request *r, uintptr_t start, uintptr_t end)
{
	static const char nobody[1];
	struct dmirror *m = r->mirror;
	struct hmm_mm *mm = m->process->mm;
	uint64_t src[FRAMES_BLOCK], dst[FRAMES_BLOCK] = { 0 };
	struct hmm_migrate move = {
		.size = sizeof(move), .flags = HMM_MIGRATE_DEVICE, .start = start, .end = end,
		.src = src, .dst = dst, .owner = m->device, .from_owner = nobody,
	};
	int ret = hmm_migrate_setup(mm, &move);

	if (ret)
		return ret;
	hmm_migrate_pages(mm, &move);
	hmm_migrate_finalize(mm, &move);
	return 0;
}

/* The pages from @i on that are alike: all in this device's memory, or none. */
static size_t alike(const struct dmirror *m, const uint64_t *pfns, size_t i, size_t nr)
{
	bool local = pfn_is_local(m, pfns[i]);
	size_t n = 1;

	while (i + n < nr && pfn_is_local(m, pfns[i + n]) == local)
		n++;
	return n;
}

/*
 * Up to the first page that is not mapped or not readable; *end is set there. Pages of
 * other devices stay. A piece that comes home whole is announced by that.
 */
static int64_t evict_piece(struct request *r, uintptr_t start, uintptr_t *end)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size, nr = (*end - start) / page, n;
	uint64_t pfns[FRAMES_BLOCK], seq;
	int64_t pages = 0, ret;

	ret = mirror_look(m, start, *end, 0, pfns, &seq);
	if (ret)
		return ret;
	for (n = 0; n < nr && !(pfns[n] & HMM_PFN_ERROR); n++)
		;
	nr = n;
	*end = start + nr * page;
	if (nr && (!pfn_is_local(m, pfns[0]) || alike(m, pfns, 0, nr) < nr))
		ret = announce(r, start, *end);
	for (size_t i = 0; !ret && i < nr; i += n) {
		uintptr_t va = start + i * page;

		n = alike(m, pfns, i, nr);
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
