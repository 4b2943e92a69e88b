/* SPDX-License-Identifier: MIT */
/*
 * Bringing device pages home, run by run: isolate, copy out of the device into
 * staging, give. One page or a few go by copy out of a bounce buffer.
 */
#include "core/devmem.h"
#include "core/trace.h"

#define LOST_LINES	8u

/* Is this a page we are to bring home? */
static bool wanted(struct hmm_mm *mm, uint64_t e, const struct hmm_devmem *only)
{
	const struct hmm_devmem *d;

	if (entry_state(e) != PAGE_DEVICE)
		return false;
	d = devmem_find(mm, entry_devmem(e));
	if (only && d != only)
		return false;
	/* A handler may not wait for a driver that may wait for a handler. */
	return !thread_state.on_handler || (d->flags & HMM_DEVMEM_FAULT_SAFE);
}

/* End of the run of wanted pages that starts at @addr, inside its block. */
static uintptr_t run_end(struct hmm_mm *mm, uintptr_t addr, uintptr_t end,
			 const struct hmm_devmem *only)
{
	const uint64_t first = directory_get(&mm->dir, addr);
	uintptr_t stop = block_base(addr) + arena_chunk_bytes();
	uint64_t e;

	if (end > stop)
		end = stop;
	do {
		addr += mm->page;
		e = addr < end ? directory_get(&mm->dir, addr) : PAGE_SYSTEM;
	} while (entry_is_like(e, first) || wanted(mm, e, only));
	return addr;
}

/*
 * The first run of wanted pages in [*start, *end), after taking back what is coherent
 * on the way. false: there is none; *flight then tells of pages in flight.
 */
static bool find_run(struct hmm_mm *mm, uintptr_t *start, uintptr_t *end,
		     const struct hmm_devmem *only, bool *flight)
{
	uintptr_t a;

	for (a = directory_next(&mm->dir, *start, *end); a < *end;
	     a = directory_next(&mm->dir, a + mm->page, *end)) {
		uint64_t e = directory_get(&mm->dir, a);

		if (entry_state(e) == PAGE_ISOLATED)
			*flight = true;
		if (!wanted(mm, e, only))
			continue;
		*start = a;
		*end = run_end(mm, a, *end, only);
		return true;
	}
	return false;
}

static uint64_t take_back_coherent(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
				   const struct hmm_devmem *only)
{
	struct free_run run = { 0 };
	uint64_t pages = 0;

	if (!mm->dir.count[PAGE_COHERENT])
		return 0;
	for (uintptr_t a = directory_next(&mm->dir, start, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end)) {
		uint64_t e = directory_get(&mm->dir, a);
		struct hmm_devmem *d = devmem_find(mm, entry_devmem(e));

		if (entry_state(e) != PAGE_COHERENT || (only && d != only))
			continue;
		mm_invalidate(mm, HMM_EVENT_MIGRATE, a, a + mm->page, NULL);
		devmem_unbind(d, entry_index(e), &run);
		directory_set(&mm->dir, a, PAGE_SYSTEM);
		pages++;
	}
	free_run_flush(&run);
	mm->stats.pages_to_system += pages;
	if (pages)
		trace_moment(mm, HMM_TRACE_HOME, 0, start, end, (int64_t)pages);
	return pages;
}

void mm_take_back(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	take_back_coherent(mm, start, end, NULL);
}

/* Bytes that the device cannot read back. Lock held. */
static void lose_pages(struct hmm_mm *mm, struct isolation *iso)
{
	struct free_run run = { 0 };

	for (uint32_t i = iso->low; i < iso->high; i++)
		if (iso->kind[i] == SLOT_DEVICE)
			isolation_lose(mm, iso, i, &run);
	free_run_flush(&run);
}

/* What is on a device of [start, end), by now. */
static void take_pages(struct hmm_mm *mm, struct isolation *iso, uintptr_t start, uintptr_t end)
{
	for (uintptr_t a = start, b; a < end; a = b + mm->page) {
		for (b = a; b < end && entry_state(directory_get(&mm->dir, b)) == PAGE_DEVICE; )
			b += mm->page;
		if (b > a)
			isolation_take_device(mm, iso, a, (uint32_t)mm_pages(mm, b - a));
	}
}

/*
 * One run, from its scan to its end. Lock held, dropped for the copy. @chunk, if any,
 * can be written from the run's first slot to its last. Returns pages; *lost counts.
 */
static uint64_t evict_run(struct hmm_mm *mm, uintptr_t start, uintptr_t end, struct chunk *chunk,
			  uint32_t *lost)
{
	struct hmm_trace_event event = {
		.type = HMM_TRACE_HOME, .begin_ns = trace_begin(mm), .start = start, .end = end,
		.device = entry_devmem(directory_get(&mm->dir, start)),
	};
	struct isolation *iso;
	uint32_t begun, failed, first = (uint32_t)mm_pages(mm, start - block_base(start));
	uint64_t pages;

	iso = isolation_get(mm, start, true);
	/* Nothing else holds isolations for long, but the wait may have dropped the lock. */
	mm_invalidate(mm, HMM_EVENT_MIGRATE, start, end, NULL);
	take_pages(mm, iso, start, end);
	begun = iso->nr;
	family_bring(mm->family, begun);
	iso->chunk = chunk;
	iso->buffer = chunk ? chunk->addr : (uintptr_t)iso->bounce - first * mm->page;
	iso->huge = chunk && chunk->huge;
	lock_release(&mm->lock);
	failed = isolation_fill(mm, iso);
	lock_acquire(&mm->lock);
	if (failed)
		lose_pages(mm, iso);
	*lost += failed;
	if (end - start < arena_chunk_bytes())
		directory_block_set_huge(&mm->dir, start, false);
	isolation_give(mm, iso);
	/* Not by the mm's counter: giving may have dropped the lock, and others gave too. */
	pages = iso->home;
	family_brought(mm->family, begun, pages);
	isolation_put(mm, iso);
	event.pages = (int64_t)pages;
	if (tracing(mm) && pages)
		trace_event(mm, &event);
	return pages;
}

/* A chunk for the run, or a shorter run that needs none. Drops the lock to get it. */
static struct chunk *chunk_for(struct hmm_mm *mm, uintptr_t start, uintptr_t *end)
{
	uint32_t first = (uint32_t)mm_pages(mm, start - block_base(start));
	uint32_t nr = (uint32_t)mm_pages(mm, *end - start);
	bool huge = nr == BLOCK_PAGES && directory_block_huge(&mm->dir, start);
	struct chunk *chunk = NULL;

	if (nr > BOUNCE_PAGES) {
		lock_release(&mm->lock);
		chunk = staging_get_writable(&mm->family->staging, first, nr, huge);
		lock_acquire(&mm->lock);
		if (!chunk)
			*end = start + BOUNCE_PAGES * mm->page;
	}
	return chunk;
}

/*
 * A device that is gone costs thousands of pages, of which nobody reads thousands of
 * lines: each of the first, and then one whenever their number has doubled.
 */
static bool worth_a_line(uint32_t nth)
{
	return nth <= LOST_LINES || !(nth & (nth - 1));
}

int64_t mm_evict(struct hmm_mm *mm, uintptr_t start, uintptr_t end, struct hmm_devmem *devmem,
		 bool wait)
{
	uint64_t pages, all_lost;
	uint32_t lost = 0, nth;

	lock_acquire(&mm->lock);
	pages = take_back_coherent(mm, start, end, devmem);
	for (;;) {
		uintptr_t a = start, b = end;
		struct chunk *chunk;
		bool flight = false;

		if (!find_run(mm, &a, &b, devmem, &flight)) {
			if (!flight || !wait)
				break;
			isolation_wait(mm);
			continue;
		}
		chunk = chunk_for(mm, a, &b);
		/* Isolation finds out what of [a, b) is still there. */
		pages += evict_run(mm, a, b, chunk, &lost);
		if (chunk) {
			lock_release(&mm->lock);
			staging_put(&mm->family->staging, chunk);
			lock_acquire(&mm->lock);
		}
	}
	mm->losses += lost != 0;
	nth = mm->losses;
	all_lost = mm->stats.lost_pages;
	lock_release(&mm->lock);
	if (lost && worth_a_line(nth))
		core_log(mm, HMM_LOG_ERROR,
			 "HMM-107 [%x, %x): %u pages could not be read back from the device; "
			 "their readers get SIGBUS (%l pages so far)", (uint64_t)start,
			 (uint64_t)end, lost, all_lost);
	return lost ? -EIO : (int64_t)pages;
}

int64_t hmm_evict(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!mm_range_ok(start, end))
		return -EINVAL;
	return mm_evict(mm, start, end, NULL, !thread_state.on_handler);
}
