/* SPDX-License-Identifier: MIT */
#include "mover.h"

#include <errno.h>
#include <string.h>

#include "device.h"

/* Blocks tried for room before the memory counts as full of what cannot leave. */
#define ROOM_TRIES	64

/* One pass over a range by the three steps. */
struct pass {
	struct hmm_soft *soft;
	struct soft_mover *mover;
	struct hmm_migrate m;
	size_t nr;
	uint64_t taken, reserved;	/* of mover->frames */
};

/* Evict the block used least recently; false: nothing could leave. */
static bool make_room(struct hmm_soft *soft)
{
	uint64_t first, nr;
	int64_t n;

	for (int i = 0; i < ROOM_TRIES; i++) {
		if (!soft_memory_oldest(&soft->memory, &first, &nr))
			return false;
		n = hmm_devmem_evict(soft->devmem, first, nr);
		if (n > 0) {
			soft_count(&soft->count.evicted, (uint64_t)n);
			return true;
		}
	}
	return false;
}

/* Fill mover->frames; no more than half the memory, which leaves it something to evict. */
static int64_t reserve(struct hmm_soft *soft, struct soft_mover *mover, uint64_t want)
{
	uint64_t most = (soft->memory.nr_pages + 1) / 2;
	uint64_t got = 0, first, n;

	if (soft_inject_hits(&soft->dma.inject.alloc, 1, &n))
		return -ENOSPC;
	if (want > most)
		want = most;
	while (got < want) {
		n = soft_memory_alloc(&soft->memory, want - got, &first);
		if (!n && !make_room(soft))
			break;
		while (n--)
			mover->frames[got++] = first++;
	}
	return got ? (int64_t)got : -ENOSPC;
}

static void release(struct hmm_soft *soft, const uint64_t *frames, uint64_t nr)
{
	uint64_t i = 0, n;

	while (i < nr) {
		for (n = 1; i + n < nr && frames[i + n] == frames[i] + n; n++)
			;
		if (soft_memory_free(&soft->memory, frames[i], n))
			soft_keeper_wake(&soft->keeper, false);
		i += n;
	}
}

/* A frame for every page that was taken and is not ours already. */
static void give_frames(struct pass *pass)
{
	struct soft_mover *mover = pass->mover;
	uint32_t id = pass->soft->devmem_id;

	for (size_t i = 0; i < pass->nr; i++) {
		uint64_t src = mover->src[i];

		mover->given[i] = SOFT_NO_FRAME;
		mover->dst[i] = 0;
		if (!(src & HMM_SRC_MIGRATE) || pass->taken == pass->reserved)
			continue;
		if (src & HMM_SRC_DEVICE && hmm_src_devmem(src) == id)
			continue;
		mover->given[i] = mover->frames[pass->taken++];
		mover->dst[i] = hmm_dst(id, mover->given[i]);
	}
}

/* A reset between copy and commit: such a page stays at home. */
static void drop_lost(struct pass *pass)
{
	struct soft_mover *mover = pass->mover;

	for (size_t i = 0; i < pass->nr; i++)
		if (mover->given[i] != SOFT_NO_FRAME &&
		    soft_memory_is_lost(&pass->soft->memory, mover->given[i], 1))
			mover->dst[i] = 0;
}

/* The page's entry in the device's table; 0: it did not go. */
static uint64_t pte_of(const struct pass *pass, size_t i)
{
	uint64_t src = pass->mover->src[i], frame = pass->mover->given[i];

	if (!(src & HMM_SRC_MIGRATE) || frame == SOFT_NO_FRAME)
		return 0;
	return HMM_SOFT_PTE_VALID | HMM_SOFT_PTE_LOCAL |
	       (src & HMM_SRC_WRITE ? HMM_SOFT_PTE_WRITE : 0) |
	       (uintptr_t)soft_memory_at(&pass->soft->memory, frame);
}

/* Not while an invalidation has come between; the next fault maps the pages then. */
static void map_pages(struct pass *pass)
{
	struct hmm_soft *soft = pass->soft;
	uintptr_t va = pass->m.start;

	soft_table_lock(&soft->table);
	if (hmm_notifier_read_retry(soft->notifier, pass->m.seq))
		goto unlock;
	for (size_t i = 0, first; i < pass->nr; ) {
		uint64_t pte = pte_of(pass, i);

		first = i++;
		if (!pte)
			continue;
		while (i < pass->nr && pte_of(pass, i) == pte + (i - first) * soft->page_size)
			i++;
		for (size_t j = first; j < i; j++)
			atomic_store_explicit(&soft->memory.va[pass->mover->given[j]],
					      va + j * soft->page_size, memory_order_relaxed);
		soft_table_set_run(&soft->table, va + first * soft->page_size, i - first, pte);
	}
unlock:
	soft_table_unlock(&soft->table);
}

/* Take back the frames of pages that stayed; how many went. */
static int64_t settle(struct pass *pass)
{
	struct soft_mover *mover = pass->mover;
	int64_t moved = 0;

	for (size_t i = 0; i < pass->nr; i++) {
		if (mover->given[i] == SOFT_NO_FRAME)
			continue;
		if (mover->src[i] & HMM_SRC_MIGRATE)
			moved++;
		else
			release(pass->soft, &mover->given[i], 1);
	}
	return moved;
}

static int64_t pass_run(struct pass *pass, uintptr_t start, uintptr_t end, uint64_t flags)
{
	struct hmm_soft *soft = pass->soft;
	int ret;

	pass->nr = (end - start) / soft->page_size;
	pass->m = (struct hmm_migrate){
		.size = sizeof(pass->m), .flags = flags, .start = start, .end = end,
		.src = pass->mover->src, .dst = pass->mover->dst, .owner = soft->owner,
		.notifier = soft->notifier,
	};
	/* Nodes now: while pages are out of the CPU's reach is no time to map memory. */
	ret = soft_table_lock_for(&soft->table, pass->nr);
	if (ret)
		return ret;
	soft_table_unlock(&soft->table);

	ret = hmm_migrate_setup(soft->mm, &pass->m);
	if (ret)
		return ret;
	give_frames(pass);
	hmm_migrate_copy(soft->mm, &pass->m);
	drop_lost(pass);
	hmm_migrate_pages(soft->mm, &pass->m);
	map_pages(pass);
	hmm_migrate_finalize(soft->mm, &pass->m);
	return settle(pass);
}

/* Count what stayed; find the part of the range where other devices have pages. */
static void count_refused(struct pass *pass, uintptr_t *start, uintptr_t *end)
{
	struct hmm_soft *soft = pass->soft;
	uintptr_t va = pass->m.start;

	*start = *end = 0;
	for (size_t i = 0; i < pass->nr; i++, va += soft->page_size) {
		uint64_t src = pass->mover->src[i];

		if (src & HMM_SRC_MIGRATE)
			continue;
		if (hmm_src_reason(src) != HMM_REASON_DEVICE) {
			pass->mover->reasons[hmm_src_reason(src) % HMM_REASONS]++;
			continue;
		}
		soft_table_lock(&soft->table);
		if (!(soft_table_get(&soft->table, va) & HMM_SOFT_PTE_LOCAL)) {
			*start = *end ? *start : va;
			*end = va + soft->page_size;
		}
		soft_table_unlock(&soft->table);
	}
}

/* The second pass counts only pages that it gave a frame. */
static void count_refused_again(struct pass *pass)
{
	for (size_t i = 0; i < pass->nr; i++) {
		uint64_t src = pass->mover->src[i];

		if (!(src & HMM_SRC_MIGRATE) && pass->mover->given[i] != SOFT_NO_FRAME)
			pass->mover->reasons[hmm_src_reason(src) % HMM_REASONS]++;
	}
}

/* The first page of [start, end) that the device does not have. */
static uintptr_t skip_local(struct hmm_soft *soft, uintptr_t start, uintptr_t end)
{
	soft_table_lock(&soft->table);
	while (start < end && soft_table_get(&soft->table, start) & HMM_SOFT_PTE_LOCAL)
		start += soft->page_size;
	soft_table_unlock(&soft->table);
	return start;
}

int soft_mover_init(struct soft_mover *mover, uint32_t max_pages)
{
	uint64_t *arrays = hmm_safe_alloc(4UL * max_pages * sizeof(*arrays));

	pthread_mutex_init(&mover->lock, NULL);
	mover->max_pages = max_pages;
	if (!arrays)
		return -ENOMEM;
	mover->src = arrays;
	mover->dst = arrays + max_pages;
	mover->frames = arrays + 2UL * max_pages;
	mover->given = arrays + 3UL * max_pages;
	return 0;
}

void soft_mover_destroy(struct soft_mover *mover)
{
	hmm_safe_free(mover->src, 4UL * mover->max_pages * sizeof(*mover->src));
	pthread_mutex_destroy(&mover->lock);
}

int64_t soft_mover_move(struct hmm_soft *soft, struct soft_mover *mover, uintptr_t start,
			uintptr_t end, uintptr_t *next)
{
	struct pass pass = { .soft = soft, .mover = mover };
	uint64_t nr = (end - start) / soft->page_size;
	uintptr_t other, other_end;
	int64_t moved, more;

	moved = reserve(soft, mover, nr < mover->max_pages ? nr : mover->max_pages);
	if (moved < 0)
		return moved;
	pass.reserved = (uint64_t)moved;
	end = start + pass.reserved * soft->page_size;

	moved = pass_run(&pass, start, end, HMM_MIGRATE_SYSTEM);
	if (moved >= 0) {
		count_refused(&pass, &other, &other_end);
		if (other_end) {
			more = pass_run(&pass, other, other_end, HMM_MIGRATE_DEVICE);
			if (more >= 0)
				count_refused_again(&pass);
			moved += more > 0 ? more : 0;
		}
		soft_count(&soft->count.migrated_in, (uint64_t)moved);
		*next = end;
	}
	release(soft, mover->frames + pass.taken, pass.reserved - pass.taken);
	return moved;
}

int soft_exclusive_init(struct soft_exclusive *exclusive)
{
	pthread_mutex_init(&exclusive->lock, NULL);
	exclusive->contents = hmm_safe_alloc(SOFT_BLOCK_PAGES * sizeof(*exclusive->contents));
	return exclusive->contents ? 0 : -ENOMEM;
}

void soft_exclusive_destroy(struct soft_exclusive *exclusive)
{
	hmm_safe_free(exclusive->contents, SOFT_BLOCK_PAGES * sizeof(*exclusive->contents));
	pthread_mutex_destroy(&exclusive->lock);
}

/* Map the pages that were had and not hit since; how many. Table lock held. */
static int64_t exclusive_map(struct hmm_soft *soft, uintptr_t start, size_t nr)
{
	struct soft_exclusive *exclusive = &soft->exclusive;
	int64_t mapped = 0;

	for (size_t i = 0; i < nr; i++) {
		if (!exclusive->contents[i] || exclusive->hit[i / 64] >> (i % 64) & 1)
			continue;
		mapped += soft_table_set(&soft->table, start + i * soft->page_size,
					 HMM_SOFT_PTE_VALID | HMM_SOFT_PTE_WRITE |
					 HMM_SOFT_PTE_EXCLUSIVE |
					 (uintptr_t)exclusive->contents[i]);
	}
	return mapped;
}

/* Begin and map, with exclusive->lock held and the range checked. */
static int64_t exclusive_begin(struct hmm_soft *soft, uintptr_t start, uintptr_t end)
{
	struct soft_exclusive *exclusive = &soft->exclusive;
	size_t nr = (end - start) / soft->page_size;
	int64_t had;

	had = soft_table_lock_for(&soft->table, nr);
	if (had)
		return had;
	exclusive->start = start;
	exclusive->end = end;
	memset(exclusive->hit, 0, sizeof(exclusive->hit));
	soft_table_unlock(&soft->table);

	had = hmm_exclusive_begin(soft->mm, start, end, soft, exclusive->contents);

	soft_table_lock(&soft->table);
	if (had > 0)
		had = exclusive_map(soft, start, nr);
	exclusive->start = exclusive->end = 0;
	soft_table_unlock(&soft->table);
	return had ? had : -EBUSY;
}

int64_t soft_exclusive_take(struct hmm_soft *soft, uintptr_t start, uintptr_t end)
{
	int64_t had;

	pthread_mutex_lock(&soft->exclusive.lock);
	had = exclusive_begin(soft, start, end);
	pthread_mutex_unlock(&soft->exclusive.lock);
	if (had > 0)
		soft_count(&soft->count.exclusive_pages, (uint64_t)had);
	return had;
}

void soft_exclusive_watch(struct hmm_soft *soft, uintptr_t start, uintptr_t end, bool own)
{
	struct soft_exclusive *exclusive = &soft->exclusive;

	if (start < exclusive->start)
		start = exclusive->start;
	if (end > exclusive->end)
		end = exclusive->end;
	for (; start < end; start += soft->page_size) {
		size_t i = (start - exclusive->start) / soft->page_size;

		if (own)
			exclusive->hit[i / 64] &= ~(1ULL << (i % 64));
		else
			exclusive->hit[i / 64] |= 1ULL << (i % 64);
	}
}

void soft_exclusive_end_all(struct hmm_soft *soft)
{
	uintptr_t va = 0;

	for (;;) {
		soft_table_lock(&soft->table);
		va = soft_table_find(&soft->table, va, soft->user_end, HMM_SOFT_PTE_EXCLUSIVE);
		soft_table_unlock(&soft->table);
		if (va == UINTPTR_MAX)
			return;
		if (hmm_exclusive_end(soft->mm, va, va + soft->page_size) < 0)
			return;
		va += soft->page_size;
	}
}

int64_t soft_page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct hmm_soft *soft = hmm_devmem_ctx(devmem);
	uint64_t n;

	if (soft_inject_hits(&soft->dma.inject.alloc, 1, &n))
		return -ENOSPC;
	do
		n = soft_memory_alloc(&soft->memory, nr, index);
	while (!n && make_room(soft));
	return n ? (int64_t)n : -ENOSPC;
}

int64_t hmm_soft_migrate_in(struct hmm_soft *soft, uintptr_t start, uintptr_t end,
			    uint64_t *reasons)
{
	uint64_t refused[HMM_REASONS] = { 0 };
	int64_t moved = 0, n = soft_check(soft);

	if (n)
		return n;
	if (start >= end || (start | end) & (soft->page_size - 1) || end > soft->user_end)
		return -EINVAL;

	while ((start = skip_local(soft, start, end)) < end) {
		pthread_mutex_lock(&soft->mover.lock);
		memset(soft->mover.reasons, 0, sizeof(soft->mover.reasons));
		n = soft_mover_move(soft, &soft->mover, start, end, &start);
		for (int i = 0; i < HMM_REASONS; i++)
			refused[i] += soft->mover.reasons[i];
		pthread_mutex_unlock(&soft->mover.lock);
		if (n < 0)
			break;
		moved += n;
	}
	/* The program's memory, which may be away: touched with no lock held. */
	for (int i = 0; i < HMM_REASONS && reasons; i++)
		if (refused[i])
			reasons[i] += refused[i];
	return moved || n > 0 ? moved : n;
}

int64_t hmm_soft_exclusive(struct hmm_soft *soft, uintptr_t start, uintptr_t end)
{
	int64_t ret = soft_check(soft);

	if (ret)
		return ret;
	if (start >= end || (start | end) & (soft->page_size - 1) ||
	    (end - start) / soft->page_size > SOFT_BLOCK_PAGES)
		return -EINVAL;
	return soft_exclusive_take(soft, start, end);
}
