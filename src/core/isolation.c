/* SPDX-License-Identifier: MIT */
#include "core/isolation.h"

#include <stdlib.h>
#include <string.h>

#include "core/adoption.h"
#include "core/devmem.h"

#define STARVED_MAX	500u	/* waits of 2 ms for memory to give a page in */

static void isolation_destroy(struct hmm_mm *mm, struct isolation *iso)
{
	if (iso)
		arena_free(iso->bounce, BOUNCE_PAGES * mm->page);
	arena_free(iso, sizeof(*iso));
}

void isolations_fini(struct hmm_mm *mm)
{
	for (uint32_t i = 0; i < ISOLATIONS; i++)
		isolation_destroy(mm, mm->isolations[i]);
}

static struct isolation *isolation_make(struct hmm_mm *mm, uint32_t id)
{
	struct isolation *iso = arena_alloc(sizeof(*iso));

	if (!iso)
		return NULL;
	iso->id = id;
	iso->page_shift = mm->dir.page_shift;
	iso->bounce = arena_alloc(BOUNCE_PAGES * mm->page);
	if (!iso->bounce) {
		isolation_destroy(mm, iso);
		return NULL;
	}
	return mm->isolations[id] = iso;
}

/* One is there from the beginning: who waits for one waits for somebody. */
int isolations_init(struct hmm_mm *mm)
{
	mm->isolations_free = ISOLATIONS;
	return isolation_make(mm, 0) ? 0 : -ENOMEM;
}

static struct isolation *isolation_pick(struct hmm_mm *mm)
{
	if (mm->isolations_free <= (thread_state.on_handler ? 0 : ISOLATIONS_RESERVED))
		return NULL;
	for (uint32_t i = 0; i < ISOLATIONS; i++) {
		struct isolation *iso = mm->isolations[i];

		if (!iso)
			iso = isolation_make(mm, i);
		if (iso && !iso->in_use)
			return iso;
	}
	return NULL;
}

void isolation_wait(struct hmm_mm *mm)
{
	const struct timespec tick = { .tv_nsec = 2 * 1000 * 1000 };
	/* The epoch is bumped under the lock we hold: no wake-up can be missed. */
	uint32_t epoch = atomic_load_explicit(&mm->epoch, memory_order_relaxed);

	atomic_fetch_add_explicit(&mm->epoch_waiters, 1, memory_order_relaxed);
	mm->lock_drops++;
	lock_release(&mm->lock);
	sys_futex_wait(&mm->epoch, epoch, &tick);
	lock_acquire(&mm->lock);
	atomic_fetch_sub_explicit(&mm->epoch_waiters, 1, memory_order_relaxed);
}

bool isolation_wait_memory(struct hmm_mm *mm, uint32_t *waits)
{
	if (*waits == STARVED_MAX)
		return false;
	++*waits;
	isolation_wait(mm);
	return true;
}

void isolation_wake(struct hmm_mm *mm)
{
	lock_assert_held(&mm->lock);
	atomic_fetch_add_explicit(&mm->epoch, 1, memory_order_relaxed);
	if (atomic_load_explicit(&mm->epoch_waiters, memory_order_relaxed))
		sys_futex_wake(&mm->epoch, INT32_MAX);
}

struct isolation *isolation_get(struct hmm_mm *mm, uintptr_t addr, bool wait)
{
	struct isolation *iso;

	lock_assert_held(&mm->lock);
	while (!(iso = isolation_pick(mm))) {
		if (!wait)
			return NULL;
		isolation_wait(mm);
	}
	iso->in_use = true;
	iso->base = block_base(addr);
	iso->nr = 0;
	iso->home = 0;
	iso->low = BLOCK_PAGES;
	iso->high = 0;
	iso->chunk = NULL;
	iso->buffer = 0;
	iso->owner = NULL;
	iso->huge = false;
	iso->keep_holes = false;
	iso->met.read_ns = 0;
	iso->doubted = 0;
	iso->starved = 0;
	memset(iso->landed, 0, sizeof(iso->landed));
	memset(iso->passed, 0, sizeof(iso->passed));
	mm->isolations_free--;
	return iso;
}

/* Who met one of the pages waits at the block, or where mremap carried the page. */
static void wake_waiters(struct hmm_mm *mm, struct isolation *iso)
{
	sys_uffd_wake(mm->uffd, iso->base, arena_chunk_bytes());
	for (uint32_t i = iso->low; i < iso->high; i++)
		if (iso->where[i] && block_base(iso->where[i]) != iso->base)
			sys_uffd_wake(mm->uffd, iso->where[i], mm->page);
}

/* Nothing may be left in an isolation that ends: it would be somebody's page. */
static void isolation_check(const struct isolation *iso)
{
	if (iso->nr)
		abort();
	for (uint32_t i = 0; i < BLOCK_PAGES; i++)
		if (iso->kind[i] != SLOT_NONE)
			abort();
}

void isolation_put(struct hmm_mm *mm, struct isolation *iso)
{
	lock_assert_held(&mm->lock);
	if (HMM_DEBUG)
		isolation_check(iso);
	if (iso->met.read_ns) {
		wake_waiters(mm, iso);
		fault_served(mm, &iso->met);
	}
	iso->in_use = false;
	mm->isolations_free++;
	isolation_wake(mm);
}

uint32_t isolation_fetch(struct hmm_mm *mm, struct isolation *iso)
{
	return mm->ops->fetch ? mm->ops->fetch(mm, iso) : 0;
}

void isolation_lose(struct hmm_mm *mm, struct isolation *iso, uint32_t slot, struct free_run *run)
{
	if (iso->origin[slot])
		devmem_unbind(devmem_find(mm, entry_devmem(iso->origin[slot])),
			      entry_index(iso->origin[slot]), run);
	/* Events read on the way may move it, or unmap it. */
	while (iso->where[slot] && !mm_poison(mm, iso->where[slot]))
		;
	iso->kind[slot] = SLOT_NONE;
	iso->reason[slot] = HMM_REASON_BUSY;
	iso->nr--;
}

void isolation_met(struct hmm_mm *mm, uint64_t entry, const struct fault *f)
{
	struct isolation *iso = mm->isolations[entry_isolation(entry)];

	if (!iso->met.read_ns)
		iso->met = *f;
	else
		fault_ended(mm, f, 0);
}

void isolation_forget(struct hmm_mm *mm, uint64_t entry)
{
	mm->isolations[entry_isolation(entry)]->where[entry_slot(entry)] = 0;
}

void isolation_follow(struct hmm_mm *mm, uint64_t entry, uintptr_t to)
{
	mm->isolations[entry_isolation(entry)]->where[entry_slot(entry)] = to;
}

/* Slots [first, end) are in use from now on, as @kind; their pages' entries say so. */
static void slots_enter(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t end,
			enum slot_kind kind)
{
	const uintptr_t addr = isolation_addr(iso, first);
	const uint32_t nr = end - first;

	iso->low = first < iso->low ? first : iso->low;
	iso->high = end > iso->high ? end : iso->high;
	directory_get_run(&mm->dir, addr, nr, iso->origin + first);
	directory_set_run(&mm->dir, addr, nr, entry_isolated(iso->id, first), ENTRY_SLOT_STEP);
	memset(iso->kind + first, kind, nr);
	for (uint32_t i = first; i < end; i++) {
		iso->where[i] = isolation_addr(iso, i);
		iso->reason[i] = HMM_REASON_BUSY;
	}
}

/* Slot i is not, and its page is again what it was. */
static void slot_revert(struct hmm_mm *mm, struct isolation *iso, uint32_t i)
{
	struct free_run run = { 0 };

	if (iso->where[i]) {
		directory_set(&mm->dir, iso->where[i], iso->origin[i]);
	} else if (iso->origin[i]) {
		devmem_unbind(devmem_find(mm, entry_devmem(iso->origin[i])),
			      entry_index(iso->origin[i]), &run);
		free_run_flush(&run);
	}
	iso->kind[i] = SLOT_NONE;
}

void isolation_take_device(struct hmm_mm *mm, struct isolation *iso, uintptr_t addr, uint32_t nr)
{
	uint32_t first = isolation_slot(iso, addr);

	slots_enter(mm, iso, first, first + nr, SLOT_DEVICE);
	iso->nr += nr;
}

/* ---------------------------------------------------------------- taking */

/* From what really landed: which slots were taken, and what they are. */
static void sort_out(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr,
		     const struct taking *t, enum hmm_reason reason)
{
	for (uint32_t i = first; i < first + nr; i++) {
		uint8_t state = t->landed[i];
		bool present = state & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED);
		uint8_t tried_by = t->tried[i];

		if (isolation_passes(iso, i))
			continue;
		if (!iso->where[i])
			tried_by = TRIED_NOT;	/* unmapped meanwhile: nobody's */
		if (present && iso->where[i])
			iso->kind[i] = state & SYS_PAGE_ZERO ? SLOT_ZERO : SLOT_CONTENT;
		else if (tried_by == TRIED_PASSED && !iso->keep_holes &&
			 !adopt_has(mm, iso->where[i]))
			iso->kind[i] = SLOT_HOLE;
		if (iso->kind[i] != SLOT_NONE) {
			iso->nr++;
			continue;
		}
		/* A hole of what is adopted is not zeros but the file's data. */
		iso->reason[i] = tried_by == TRIED_BUSY ? HMM_REASON_PINNED :
				 tried_by != TRIED_PASSED ? reason :
				 adopt_has(mm, iso->where[i]) ? HMM_REASON_FILE : HMM_REASON_NONE;
		slot_revert(mm, iso, i);
	}
}

/* Of the program's memory: the block is one large page no more, until it goes as one. */
static void enter_run(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr)
{
	uint32_t end = first + nr, begin = first;

	directory_block_set_huge(&mm->dir, iso->base, false);
	directory_get_run(&mm->dir, isolation_addr(iso, first), nr, iso->origin + first);
	for (uint32_t i = first; i < end; i++) {
		if (entry_state(iso->origin[i]) != PAGE_DEVICE)
			continue;
		if (begin < i)
			slots_enter(mm, iso, begin, i, SLOT_NONE);
		begin = i + 1;
		iso->passed[i / 64] |= BIT(i % 64);
		iso->reason[i] = HMM_REASON_DEVICE;
	}
	if (begin < end)
		slots_enter(mm, iso, begin, end, SLOT_NONE);
}

/*
 * Whatever is on a device is to the CPU what a hole is, and as long as the lock is held it
 * stays one: a move of all of it is one call, where runs between device pages were many.
 * The kernel is asked whether it is one. @first is the first device page.
 */
uintptr_t isolation_span(const struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t first,
			 uintptr_t end)
{
	uint8_t states[BLOCK_PAGES];
	uintptr_t a = first;

	if (a == end || !mm->can_move || !(vma->flags & SYS_VMA_WRITE) ||
	    sys_page_states(mm->pagemap_fd, first, (end - first) / mm->page, states))
		return first;
	while (a < end && entry_state(directory_get(&mm->dir, a)) == PAGE_DEVICE &&
	       !(states[(a - first) / mm->page] & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED)))
		a = directory_next(&mm->dir, a + mm->page, end);
	return a;
}

/* Why a move of a mapping that looked right was refused. */
static enum hmm_reason refusal(struct hmm_mm *mm, uintptr_t addr, size_t len, int error)
{
	if (error != -EINVAL)
		return HMM_REASON_BUSY;
	return mm->ops->locked(mm, addr, len) ? HMM_REASON_LOCKED : HMM_REASON_KERNEL;
}

static void take_by_move(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			 uint32_t first, uint32_t nr)
{
	struct taking t = { .tried = { 0 } };
	uintptr_t start = iso->base + first * mm->page;
	int ret;

	enter_run(mm, iso, first, nr);
	ret = mm->ops->move(mm, iso, vma, first, nr, &t);
	sort_out(mm, iso, first, nr, &t,
		 ret ? refusal(mm, start, nr * mm->page, ret) : HMM_REASON_BUSY);
	if (iso->huge)
		mm->stats.moved_huge++;
}

static bool called_busy(const struct isolation *iso, uint32_t i)
{
	return iso->kind[i] == SLOT_NONE && iso->reason[i] == HMM_REASON_PINNED;
}

/* After the lock was dropped: in one mapping, which can be taken from, and all of it watched. */
static bool still_system(struct hmm_mm *mm, uintptr_t start, uintptr_t end, struct sys_vma *vma)
{
	return !mm_held(mm, start, end) && !mm_vma(mm, start, vma) && vma->start <= start &&
	       vma->end >= end && !mm_vma_reason(mm, vma) && !mm_vma_register(mm, vma) &&
	       directory_next(&mm->dir, start, end) == end;
}

/*
 * The pages in [first, first + nr) that a move called busy: a write fault gives the
 * program its own copy of what fork, KSM or the like share. Of a 2 MiB page the kernel
 * looks at the first one's mark instead of each one's: part of it that outlived the first
 * is cut out. What is busy after that is pinned. The fault may need our own handlers, so
 * the lock is dropped around it.
 */
static void take_unshared(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr)
{
	uint32_t i = first, end = first + nr, j;

	for (; i < end; i = j) {
		uintptr_t addr = iso->base + i * mm->page, stop;
		struct sys_vma vma;

		j = i + 1;
		if (!called_busy(iso, i))
			continue;
		while (j < end && called_busy(iso, j))
			j++;
		stop = iso->base + j * mm->page;
		mm->lock_drops++;
		lock_release(&mm->lock);
		mm->ops->populate(mm, addr, stop - addr, true);
		lock_acquire(&mm->lock);
		if (!still_system(mm, addr, stop, &vma))
			continue;
		/* A mirror may have looked at the pages meanwhile. */
		mm_invalidate(mm, HMM_EVENT_MIGRATE, addr, stop, iso->owner);
		mm->ops->cut_out(mm, addr, stop - addr);
		take_by_move(mm, iso, &vma, i, j - i);
	}
}

/*
 * The program may have moved pages while the lock was dropped. One that the CPU has at
 * its new place went before we took, so what we took is not its bytes.
 */
static void leave_moved(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr)
{
	for (uint32_t i = first; i < first + nr; i++) {
		uint8_t state = 0;

		if (!iso->where[i] || iso->where[i] == iso->base + i * mm->page ||
		    sys_page_states(mm->pagemap_fd, iso->where[i], 1, &state) ||
		    !(state & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED)))
			continue;
		slot_revert(mm, iso, i);
		iso->where[i] = 0;
		iso->origin[i] = 0;
	}
}

/*
 * Where no move can ask each page: @readonly, from a mapping that nobody can write to
 * while the lock is held; else by mremap, which sees no pins.
 */
static void take_otherwise(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			   uint32_t first, uint32_t nr, bool readonly)
{
	struct taking t = { .tried = { 0 } };
	enum hmm_reason reason = HMM_REASON_BUSY;

	enter_run(mm, iso, first, nr);
	if (mm->ops->locked(mm, iso->base + first * mm->page, nr * mm->page)) {
		reason = HMM_REASON_LOCKED;
	} else if (readonly) {
		mm->ops->take_readonly(mm, iso, vma, first, nr, &t);
	} else {
		mm->ops->remap(mm, iso, vma, first, nr, &t);
		leave_moved(mm, iso, first, nr);
	}
	sort_out(mm, iso, first, nr, &t, reason);
	if (iso->huge)
		mm->stats.moved_huge++;
}

static void refuse_slots(struct isolation *iso, uint32_t first, uint32_t nr,
			 enum hmm_reason reason)
{
	for (uint32_t i = first; i < first + nr; i++)
		iso->reason[i] = (uint16_t)reason;
}

/*
 * What sees a pin takes, where it can be had. A read-only mapping of an mm that is not
 * strict stays: its pages cannot be asked in place (limbo.h), and could not be put
 * back, since another mapping may be at their address by then.
 */
void isolation_take_system(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			   uintptr_t start, uintptr_t end)
{
	uint32_t first = isolation_slot(iso, start), nr = (uint32_t)mm_pages(mm, end - start);
	enum hmm_reason reason = mm_held(mm, start, end) ? HMM_REASON_BUSY :
							   mm_vma_register(mm, vma);

	lock_assert_held(&mm->lock);
	if (reason != HMM_REASON_NONE) {
		refuse_slots(iso, first, nr, reason);
	} else if (mm->can_move && (vma->flags & SYS_VMA_WRITE)) {
		take_by_move(mm, iso, vma, first, nr);
		take_unshared(mm, iso, first, nr);
	} else if (mm->can_remap && (!mm->can_move || (mm->flags & HMM_MM_STRICT))) {
		take_otherwise(mm, iso, vma, first, nr, mm->can_move);
	} else {
		refuse_slots(iso, first, nr, HMM_REASON_KERNEL);
	}
}

/* ---------------------------------------------------------------- committing */

/* One slot, whatever it is and has met. */
static void slot_commit(struct hmm_mm *mm, struct isolation *iso, uint32_t i,
			struct hmm_devmem *d, uint64_t index)
{
	struct hmm_devmem *from = NULL;
	enum page_state was = entry_state(iso->origin[i]);
	struct free_run run = { 0 };

	if (was == PAGE_DEVICE || was == PAGE_COHERENT) {
		from = devmem_find(mm, entry_devmem(iso->origin[i]));
		devmem_unbind(from, entry_index(iso->origin[i]), &run);
		free_run_flush(&run);
	}
	if (!iso->where[i]) {
		devmem_unbind(d, index, &run);
		free_run_flush(&run);
		iso->kind[i] = SLOT_NONE;
		iso->nr--;
		return;
	}
	devmem_rebind(d, index, mm, iso->where[i]);
	mm->stats.pages_between += from != NULL;
	mm->stats.pages_to_device += from == NULL;
	if (d->flags & HMM_DEVMEM_COHERENT) {
		/* The CPU keeps the bytes: isolation_give() puts them back under this entry. */
		iso->origin[i] = entry_device(PAGE_COHERENT, d->id, index);
		if (iso->kind[i] == SLOT_FILLED || iso->kind[i] == SLOT_ZERO)
			iso->kind[i] = SLOT_CONTENT;
		return;
	}
	directory_set(&mm->dir, iso->where[i], entry_device(PAGE_DEVICE, d->id, index));
	iso->kind[i] = SLOT_NONE;
	iso->nr--;
}

/* Was it a page of RAM, and is it where its device page was bound for it? */
static bool is_plain(const struct isolation *iso, uint32_t i)
{
	return !iso->origin[i] && iso->where[i] && iso->where[i] == isolation_addr(iso, i);
}

void isolation_commit(struct hmm_mm *mm, struct isolation *iso, uint32_t first, uint32_t nr,
		      uint32_t id, uint64_t index)
{
	struct hmm_devmem *d = devmem_find(mm, id);
	const bool coherent = d->flags & HMM_DEVMEM_COHERENT;
	uint32_t end = first + nr;

	lock_assert_held(&mm->lock);
	for (uint32_t i = first, n; i < end; i += n, index += n) {
		for (n = 0; !coherent && i + n < end && is_plain(iso, i + n); n++)
			iso->kind[i + n] = SLOT_NONE;
		if (!n) {
			slot_commit(mm, iso, i, d, index);
			n = 1;
			continue;
		}
		directory_set_run(&mm->dir, isolation_addr(iso, i), n,
				  entry_device(PAGE_DEVICE, id, index), ENTRY_INDEX_STEP);
		mm->stats.pages_to_device += n;
		iso->nr -= n;
	}
}

/* ---------------------------------------------------------------- giving */

/* The slot's bytes are where the program has them, or nobody wants them any more. */
static void slot_settle(struct hmm_mm *mm, struct isolation *iso, uint32_t i, struct free_run *run)
{
	bool home = iso->kind[i] == SLOT_FILLED;

	if (iso->where[i])
		directory_set(&mm->dir, iso->where[i], home ? PAGE_SYSTEM : iso->origin[i]);
	if (home || (!iso->where[i] && iso->origin[i]))
		devmem_unbind(devmem_find(mm, entry_devmem(iso->origin[i])),
			      entry_index(iso->origin[i]), run);
	if (home && iso->where[i]) {
		mm->stats.pages_to_system++;
		iso->home++;
	}
	iso->kind[i] = SLOT_NONE;
	iso->nr--;
}

/*
 * Slots [i, end): the program has their bytes. Most often they came from a device, all of
 * them, and are where they were.
 */
static void slots_settle(struct hmm_mm *mm, struct isolation *iso, uint32_t i, uint32_t end,
			 struct free_run *run)
{
	uint32_t n = 0;

	while (i + n < end && iso->kind[i + n] == SLOT_FILLED && iso->where[i + n] &&
	       iso->where[i + n] == isolation_addr(iso, i + n))
		n++;
	directory_set_run(&mm->dir, isolation_addr(iso, i), n, PAGE_SYSTEM, 0);
	mm->stats.pages_to_system += n;
	iso->home += n;
	iso->nr -= n;
	for (; n; n--, i++) {
		devmem_unbind(devmem_find(mm, entry_devmem(iso->origin[i])),
			      entry_index(iso->origin[i]), run);
		iso->kind[i] = SLOT_NONE;
	}
	for (; i < end; i++)
		slot_settle(mm, iso, i, run);
}

/* The CPU has a page where ours should go: what came first can only be the CPU's. */
static void slot_collide(struct hmm_mm *mm, struct isolation *iso, uint32_t i,
			 struct free_run *run)
{
	mm_lost(mm, iso->where[i], false);
	slot_settle(mm, iso, i, run);
}

/* Slots from @first on with bytes to give at consecutive addresses. */
static uint32_t give_run_length(const struct hmm_mm *mm, const struct isolation *iso, uint32_t first)
{
	uint32_t n = 0;

	while (first + n < iso->high) {
		uint8_t kind = iso->kind[first + n];

		if (kind != SLOT_CONTENT && kind != SLOT_ZERO && kind != SLOT_FILLED)
			break;
		if (iso->where[first + n] != iso->where[first] + n * mm->page)
			break;
		n++;
	}
	return n;
}

/*
 * A move home that did not do all it was asked may have done more than it says: Linux 6.18
 * to 7.2 do not count what they move after a retry of their own. Of an absent slot nothing
 * can be copied: it is a hole of our own userfaultfd, where we would wait for the handlers
 * and they for the lock; or it would read as zeros. Nothing but a move empties a slot, so
 * what is absent has gone over, wherever the program has it by now.
 *
 * How many of @nr slots from @i on have; 0: the first *nr have not.
 */
static uint32_t gone_home(struct hmm_mm *mm, struct isolation *iso, uint32_t i, uint32_t *nr,
			  int *error)
{
	uint8_t here[BLOCK_PAGES];
	uint32_t n = 0, asked = iso->doubted - i < *nr ? iso->doubted - i : *nr;
	bool absent;

	/* While that cannot be told the bytes stay: it is asked again after a while. */
	if (sys_page_states(mm->pagemap_fd, (uintptr_t)isolation_bytes(iso, i), asked, here)) {
		*nr = 0;
		*error = -ENOMEM;
		return 0;
	}
	absent = !(here[0] & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED));
	while (n < asked && !(here[n] & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED)) == absent)
		n++;
	if (!absent) {
		*nr = n < asked ? n : *nr;
		return 0;
	}
	chunk_set(iso->chunk, i, n, false);
	iso->chunk->has_table = true;
	sys_uffd_wake(mm->uffd, iso->where[i], n * mm->page);	/* the move woke those it counted */
	*error = 0;
	return n;
}

/*
 * Fill @nr pages of the program from slot @i on, by MOVE where it pays and may, else
 * by COPY. Returns how many are there; *error says why no more.
 */
static uint32_t give_some(struct hmm_mm *mm, struct isolation *iso, uint32_t i, uint32_t nr,
			  int *error)
{
	uintptr_t from = (uintptr_t)isolation_bytes(iso, i);
	size_t done = 0;
	uint32_t gone;

	if (nr >= BOUNCE_PAGES && mm->can_move_home && iso->chunk && !iso->chunk->remapped) {
		*error = sys_uffd_move(mm->uffd, iso->where[i], from, nr * mm->page,
				       SYS_UFFD_HOLES, &done);
		if (done) {
			chunk_set(iso->chunk, i, (uint32_t)(done / mm->page), false);
			iso->chunk->has_table |= done != arena_chunk_bytes();
			mm->stats.moved_runs++;
			mm->stats.moved_huge += iso->huge && done == arena_chunk_bytes();
		}
		if (*error && iso->doubted < i + nr)
			iso->doubted = i + nr;
		if (!*error || done || *error == -EAGAIN)
			return (uint32_t)(done / mm->page);
	}
	if (i < iso->doubted) {
		gone = gone_home(mm, iso, i, &nr, error);
		if (gone || !nr)
			return gone;
	}
	*error = sys_uffd_copy(mm->uffd, iso->where[i], (void *)from, nr * mm->page, 0, &done);
	mm->stats.copied_pages += done / mm->page;
	return (uint32_t)(done / mm->page);
}

/* A move that was counted short: has the page of slot @i gone over after all? */
static bool slot_moved(struct hmm_mm *mm, struct isolation *iso, uint32_t i)
{
	uint8_t here = 0, there = 0;

	if (!mm->can_move_home || !iso->chunk || iso->buffer != iso->chunk->addr ||
	    sys_page_states(mm->pagemap_fd, (uintptr_t)isolation_bytes(iso, i), 1, &here) ||
	    sys_page_states(mm->pagemap_fd, iso->where[i], 1, &there))
		return false;
	if (here || !there)
		return false;
	chunk_set(iso->chunk, i, 1, false);
	return true;
}

/*
 * Slot @i was refused with @error: make it so that going on makes sense. The kernel
 * fills only inside one mapping: *limit gets the pages up to the end of this one.
 */
static void give_refused(struct hmm_mm *mm, struct isolation *iso, uint32_t i, int error,
			 uint32_t *limit, struct free_run *run)
{
	struct sys_vma vma;
	uintptr_t addr = iso->where[i];
	int ret;

	if (error == -EAGAIN) {
		mm_drain(mm);		/* may change where[] */
		return;
	}
	if (error == -EEXIST) {
		if (slot_moved(mm, iso, i))
			slot_settle(mm, iso, i, run);
		else
			slot_collide(mm, iso, i, run);
		return;
	}
	/*
	 * Beyond one mapping; or none, or one that our userfaultfd does not hold, which
	 * is a later one at the address: the page's is gone. Where mappings cannot be looked
	 * up (of a child that nobody has attached yet) it is one page at a time that tells.
	 */
	ret = mm_vma(mm, addr, &vma);
	if (!ret && vma.start <= addr && *limit > (vma.end - addr) / mm->page) {
		*limit = (uint32_t)((vma.end - addr) / mm->page);
		return;
	}
	if (ret && *limit > 1) {
		*limit = 1;
		return;
	}
	if (error == -ENOENT && mm_drain_late(mm))
		return;
	directory_set(&mm->dir, addr, PAGE_SYSTEM);
	iso->where[i] = 0;
	slot_settle(mm, iso, i, run);
}

static bool wait_for_memory(struct hmm_mm *mm, struct isolation *iso, struct free_run *run)
{
	free_run_flush(run);
	return isolation_wait_memory(mm, &iso->starved);
}

/* Everything of one run of slots, however often the kernel stops half-way. */
static void give_slots(struct hmm_mm *mm, struct isolation *iso, uint32_t i, struct free_run *run)
{
	uint32_t stuck = 0, limit = BLOCK_PAGES;

	while (i < iso->high && iso->kind[i] != SLOT_NONE) {
		uint32_t nr, done;
		int error = 0;

		if (!iso->where[i]) {
			slot_settle(mm, iso, i++, run);
			continue;
		}
		nr = give_run_length(mm, iso, i);
		if (!nr)
			return;
		nr = nr < limit ? nr : limit;
		done = give_some(mm, iso, i, nr, &error);
		slots_settle(mm, iso, i, i + done, run);
		i += done;
		if (done)
			limit = BLOCK_PAGES;
		if (!error || done == nr)
			continue;
		if (error == -ENOMEM) {
			if (!done && !wait_for_memory(mm, iso, run))
				isolation_lose(mm, iso, i++, run);
			continue;
		}
		if (!done && error == -EAGAIN && ++stuck > 16) {
			/* An event whose sender has not run yet: let it. */
			free_run_flush(run);
			isolation_wait(mm);
		}
		give_refused(mm, iso, i, error, &limit, run);
	}
}

void isolation_give(struct hmm_mm *mm, struct isolation *iso)
{
	struct free_run run = { 0 };
	uintptr_t last = 0;

	lock_assert_held(&mm->lock);
	for (uint32_t i = iso->low; i < iso->high && iso->nr; i++) {
		if (iso->kind[i] != SLOT_NONE && iso->where[i])
			last = iso->where[i];
		switch (iso->kind[i]) {
		case SLOT_NONE:
			break;
		case SLOT_HOLE:
		case SLOT_DEVICE:
			if (!iso->where[i]) {
				slot_settle(mm, iso, i, &run);
				break;
			}
			slot_revert(mm, iso, i);
			iso->nr--;
			break;
		default:
			give_slots(mm, iso, i, &run);
		}
	}
	free_run_flush(&run);
	if (last && !directory_block_used(&mm->dir, last))
		mm_vma_release(mm, last);
}

/* ---------------------------------------------------------------- filling */

#define FILL_RUNS 64

/* The SLOT_DEVICE slots from *@next on that one call can copy. Returns runs. */
static size_t fill_batch(const struct isolation *iso, uint32_t *next, struct hmm_copy_run *runs,
			 uint32_t *devmem_id)
{
	size_t nr = 0;
	uint32_t i;

	for (i = *next; i < iso->high; i++) {
		struct hmm_copy_run *last = nr ? &runs[nr - 1] : NULL;
		uint64_t index = entry_index(iso->origin[i]);

		if (iso->kind[i] != SLOT_DEVICE)
			continue;
		if (nr && entry_devmem(iso->origin[i]) != *devmem_id)
			break;
		*devmem_id = entry_devmem(iso->origin[i]);
		if (last && iso->kind[i - 1] == SLOT_DEVICE && index == last->index + last->nr_pages) {
			last->nr_pages++;
			continue;
		}
		if (nr == FILL_RUNS)
			break;
		runs[nr++] = (struct hmm_copy_run){ isolation_bytes(iso, i), index, 1 };
	}
	*next = i;
	return nr;
}

/* After a failed batch: which pages is it that cannot be read? */
static uint32_t fill_singly(struct hmm_devmem *d, struct isolation *iso, uint32_t first,
			    uint32_t end)
{
	uint32_t failed = 0;

	for (uint32_t i = first; i < end; i++) {
		struct hmm_copy_run run = { isolation_bytes(iso, i), entry_index(iso->origin[i]), 1 };

		if (iso->kind[i] != SLOT_DEVICE || entry_devmem(iso->origin[i]) != d->id)
			continue;
		if (devmem_copy_from(d, &run, 1) && devmem_copy_from(d, &run, 1))
			failed++;
		else
			iso->kind[i] = SLOT_FILLED;
	}
	return failed;
}

uint32_t isolation_fill(struct hmm_mm *mm, struct isolation *iso)
{
	struct hmm_copy_run runs[FILL_RUNS];
	uint32_t next = iso->low, failed = 0;

	while (next < iso->high) {
		uint32_t first = next, id = 0;
		size_t nr = fill_batch(iso, &next, runs, &id);
		struct hmm_devmem *d = devmem_find(mm, id);

		if (!nr)
			break;
		if (devmem_copy_from(d, runs, nr)) {
			failed += fill_singly(d, iso, first, next);
			continue;
		}
		for (uint32_t i = first; i < next; i++)
			if (iso->kind[i] == SLOT_DEVICE)
				iso->kind[i] = SLOT_FILLED;
	}
	return failed;
}
