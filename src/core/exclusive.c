/* SPDX-License-Identifier: MIT */
/*
 * Exclusive pages: the CPU's access is trapped, the bytes are in a slot of RAM that
 * stays mapped, and a device works on them there.
 *
 *	device				CPU
 *	------				---
 *	begin: page -> slot,
 *	  EXCLUSIVE(owner) told
 *	atomics on the slot		touch: MISSING
 *	.				handler: EXCLUSIVE(no owner) told
 *	invalidate() returns:
 *	  no use of the slot any more
 *	.				slot -> page, thread goes on
 *
 * All under the mm's lock; the slot's bytes are the device's from begin until its
 * invalidate() has returned.
 */
#include <string.h>
#include <sys/mman.h>

#include "core/devmem.h"

#define EXCLUSIVE_PAGES_PER_CALL BLOCK_PAGES

void *exclusive_bytes(const struct hmm_mm *mm, uint32_t slot)
{
	return (char *)mm->exclusive_pages + slot * mm->page;
}

void exclusive_drop(struct hmm_mm *mm, uint32_t slot)
{
	mm->exclusive_used[slot / 64] &= ~BIT(slot % 64);
}

static int slot_get(struct hmm_mm *mm, uint32_t *slot)
{
	for (uint32_t i = 0; i < EXCLUSIVE_MAX / 64; i++) {
		if (mm->exclusive_used[i] == ~0ULL)
			continue;
		*slot = i * 64 + (uint32_t)__builtin_ctzll(~mm->exclusive_used[i]);
		mm->exclusive_used[i] |= BIT(*slot % 64);
		return 0;
	}
	return -ENOMEM;
}

/* The slots' memory, once. No lock held. */
static int area_open(struct hmm_mm *mm)
{
	const size_t chunks = EXCLUSIVE_MAX / BLOCK_PAGES;
	void *p;
	int ret = 0;

	lock_acquire(&mm->lock);
	if (mm->exclusive_pages)
		goto out;
	ret = arena_chunks_get(chunks, &p);
	if (ret)
		goto out;
	ret = sys_mprotect(p, chunks * arena_chunk_bytes(), PROT_READ | PROT_WRITE);
	if (ret)
		arena_chunks_put(p, chunks);
	else
		mm->exclusive_pages = p;
out:
	lock_release(&mm->lock);
	return ret;
}

void exclusive_close(struct hmm_mm *mm)
{
	const size_t chunks = EXCLUSIVE_MAX / BLOCK_PAGES;

	sys_madvise(mm->exclusive_pages, chunks * arena_chunk_bytes(), MADV_DONTNEED);
	sys_mprotect(mm->exclusive_pages, chunks * arena_chunk_bytes(), PROT_NONE);
	arena_chunks_put(mm->exclusive_pages, chunks);
}

/*
 * Fill the page from its slot. The lock stays held; events are read where need be. Who
 * waits there is woken, by the copy or without one. -ENOMEM: the slot still has the bytes.
 */
static int give_back(struct hmm_mm *mm, uintptr_t addr)
{
	for (;;) {
		uint64_t e = directory_get(&mm->dir, addr);
		size_t done = 0;
		int ret;

		if (entry_state(e) != PAGE_EXCLUSIVE) {
			/* An event said that it is gone, or moved. */
			sys_uffd_wake(mm->uffd, addr, mm->page);
			return -ENOENT;
		}
		ret = sys_uffd_copy(mm->uffd, addr, exclusive_bytes(mm, entry_exclusive_slot(e)),
				    mm->page, 0, &done);
		if (ret == -EAGAIN) {
			mm_drain(mm);
			continue;
		}
		if (ret == -ENOENT && mm_drain_late(mm))
			continue;
		if (ret == -ENOMEM)
			return ret;
		if (ret == -EEXIST)
			mm_lost(mm, addr, false);
		mm->stats.copied_pages += !ret;
		exclusive_drop(mm, entry_exclusive_slot(e));
		directory_set(&mm->dir, addr, PAGE_SYSTEM);
		if (ret)
			sys_uffd_wake(mm->uffd, addr, mm->page);
		return 0;
	}
}

/*
 * One exclusive page. Without memory for it the lock is dropped, since who would make room
 * may need it: by migrating, or by a fault on the way. false: its bytes are lost.
 */
static bool end_page(struct hmm_mm *mm, uintptr_t addr, const void *owner, uint32_t *waits)
{
	uint64_t e;

	do {
		/* Each time: it may have changed hands meanwhile. */
		mm_invalidate(mm, HMM_EVENT_EXCLUSIVE, addr, addr + mm->page, owner);
		if (give_back(mm, addr) != -ENOMEM)
			return true;
	} while (isolation_wait_memory(mm, waits));
	/* No event since the copy was refused: false from here on is one read meanwhile. */
	e = directory_get(&mm->dir, addr);
	if (!mm_poison(mm, addr))
		return true;
	exclusive_drop(mm, entry_exclusive_slot(e));
	return false;
}

uint64_t exclusive_restore(struct hmm_mm *mm, uintptr_t start, uintptr_t end, const void *owner)
{
	uint64_t pages = 0, lost = 0;
	uint32_t waits = 0;

	lock_assert_held(&mm->lock);
	if (!mm->dir.count[PAGE_EXCLUSIVE])
		return 0;
	for (uintptr_t a = directory_next(&mm->dir, start, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end)) {
		if (entry_state(directory_get(&mm->dir, a)) != PAGE_EXCLUSIVE)
			continue;
		lost += !end_page(mm, a, owner, &waits);
		if (!directory_block_used(&mm->dir, a))
			mm_vma_release(mm, a);
		pages++;
	}
	mm->stats.exclusive_ended += pages;
	return pages - lost;
}

/* From the isolation to a slot. The page's bytes are in the chunk, or all zero. */
static void *settle_page(struct hmm_mm *mm, struct isolation *iso, uint32_t i)
{
	uint32_t slot;
	void *bytes;

	if (iso->where[i] != iso->base + i * mm->page || slot_get(mm, &slot))
		return NULL;
	bytes = exclusive_bytes(mm, slot);
	if (iso->kind[i] == SLOT_CONTENT)
		memcpy(bytes, isolation_bytes(iso, i), mm->page);
	else
		memset(bytes, 0, mm->page);
	directory_set(&mm->dir, iso->where[i], entry_exclusive(slot));
	iso->kind[i] = SLOT_NONE;
	iso->nr--;
	mm->stats.exclusive_begun++;
	return bytes;
}

/*
 * The part of [start, end) in one block and mapping. Lock held, on a chunk whose slots
 * are absent there.
 */
static int64_t begin_part(struct hmm_mm *mm, struct isolation *iso, struct chunk *chunk,
			  const struct sys_vma *vma, uintptr_t start, uintptr_t end,
			  const void *owner, void **contents)
{
	const uint64_t drops = mm->lock_drops;
	int64_t had = 0;

	exclusive_restore(mm, start, end, NULL);
	/* Once the lock was dropped, @vma need not be what is there. */
	if (drops != mm->lock_drops || mm_held(mm, start, end) ||
	    directory_next(&mm->dir, start, end) != end ||
	    directory_reserve(&mm->dir, start, end))
		return 0;	/* went elsewhere meanwhile */
	mm_invalidate(mm, HMM_EVENT_EXCLUSIVE, start, end, owner);
	iso->owner = owner;
	iso->chunk = chunk;
	iso->buffer = chunk->addr;
	isolation_take_system(mm, iso, vma, start, end);
	lock_release(&mm->lock);
	isolation_fetch(mm, iso);
	lock_acquire(&mm->lock);
	for (uintptr_t a = start; a < end; a += mm->page) {
		uint32_t i = (uint32_t)((a - iso->base) / mm->page);

		if (iso->kind[i] == SLOT_NONE)
			continue;
		contents[(a - start) / mm->page] = settle_page(mm, iso, i);
		had += contents[(a - start) / mm->page] != NULL;
	}
	isolation_give(mm, iso);
	return had;
}

/* Why the page at @addr cannot be had by anybody; 0: it can. */
static int check_vma(struct hmm_mm *mm, uintptr_t addr, struct sys_vma *vma)
{
	if (mm_vma(mm, addr, vma) || vma->start > addr || !(vma->flags & SYS_VMA_READ))
		return -EFAULT;
	if (!(vma->flags & SYS_VMA_WRITE))
		return -EPERM;
	if (!mm->can_move && !mm->can_remap)
		return -EOPNOTSUPP;
	return mm_vma_reason(mm, vma) ? -EOPNOTSUPP : 0;
}

/* One part from *@at on, which moves past it. Pages had, or why the first was not. */
static int64_t begin_some(struct hmm_mm *mm, uintptr_t *at, uintptr_t end, const void *owner,
			  void **contents)
{
	uintptr_t start = *at, stop = block_base(start) + arena_chunk_bytes();
	struct isolation *iso;
	struct sys_vma vma;
	struct chunk *chunk;
	int64_t ret;

	*at = start + mm->page;
	lock_acquire(&mm->lock);
	mm_vma_begin(mm);
	ret = check_vma(mm, start, &vma);
	lock_release(&mm->lock);
	if (ret)
		return ret;
	stop = stop < end ? stop : end;
	stop = stop < vma.end ? stop : vma.end;
	*at = stop;
	mm_evict(mm, start, stop, NULL, true);
	ret = mm->ops->populate(mm, start, stop - start, true);
	if (ret)
		return ret;
	chunk = mm->ops->chunk_get(mm, (uint32_t)((start - block_base(start)) / mm->page),
				   (uint32_t)((stop - start) / mm->page), false);
	if (!chunk)
		return -ENOMEM;
	lock_acquire(&mm->lock);
	iso = isolation_get(mm, start, true);	/* may drop it: what is mapped is looked up then */
	mm_vma_begin(mm);
	ret = check_vma(mm, start, &vma);
	if (!ret && vma.end >= stop)
		ret = begin_part(mm, iso, chunk, &vma, start, stop, owner, contents);
	isolation_put(mm, iso);
	lock_release(&mm->lock);
	mm->ops->chunk_put(mm, chunk);
	return ret;
}

int64_t hmm_exclusive_begin(struct hmm_mm *mm, uintptr_t start, uintptr_t end, const void *owner,
			    void **contents)
{
	int64_t had = 0, first = 0;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!mm_range_ok(start, end) || !owner || !contents ||
	    end - start > EXCLUSIVE_PAGES_PER_CALL * mm->page)
		return -EINVAL;
	ret = area_open(mm);
	if (ret)
		return ret;
	memset(contents, 0, (end - start) / mm->page * sizeof(*contents));
	for (uintptr_t a = start; a < end; ) {
		uintptr_t at = a;
		int64_t n = begin_some(mm, &a, end, owner, contents + (at - start) / mm->page);

		if (at == start && n <= 0)
			first = n ? n : -EBUSY;
		had += n > 0 ? n : 0;
	}
	return had ? had : first ? first : -EBUSY;
}

int64_t hmm_exclusive_end(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	int64_t pages;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!mm_range_ok(start, end))
		return -EINVAL;
	lock_acquire(&mm->lock);
	pages = (int64_t)exclusive_restore(mm, start, end, NULL);
	lock_release(&mm->lock);
	return pages;
}
