/* SPDX-License-Identifier: MIT */
/*
 * The three steps of the kernel's migrate_vma, over one isolation per block.
 *
 *	setup		invalidate, take; src[] says what was taken
 *	(driver)	reserve, copy, fill dst[]
 *	pages		decide: MIGRATE stays in src[] where it will be so
 *	(driver)	program the device's page table
 *	finalize	commit, give back the rest, wake
 *
 * Entries stay ISOLATED until finalize, so that a CPU fault cannot bring a page home
 * between the driver's learning of success and its page table saying so.
 */
#include "core/devmem.h"

#include <string.h>

#include "core/opts.h"
#include "core/trace.h"

#define MIGRATE_WHAT	(HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE)
#define MIGRATE_FLAGS	(MIGRATE_WHAT | HMM_MIGRATE_KEEP_HOLES)
#define MIGRATE_BLOCKS	(HMM_MIGRATE_MAX_PAGES / BLOCK_PAGES + 1)
#define COPY_RUNS	64

/* From setup to finalize, the thread's own. */
struct migration {
	struct isolation *iso[MIGRATE_BLOCKS];
	struct chunk *chunk[MIGRATE_BLOCKS];
	uint32_t nr;
	uint64_t begin_ns;		/* traced: when setup began */
};

static size_t nr_pages(const struct hmm_mm *mm, const struct hmm_migrate *m)
{
	return mm_pages(mm, m->end - m->start);
}

/* src[] and dst[] index of an isolation's slot. */
static size_t entry_of(const struct hmm_mm *mm, const struct hmm_migrate *m,
		       const struct isolation *iso, uint32_t slot)
{
	return mm_pages(mm, isolation_addr(iso, slot) - m->start);
}

/* ---------------------------------------------------------------- setup */

static void refuse(struct hmm_mm *mm, struct hmm_migrate *m, uintptr_t start, uintptr_t end,
		   enum hmm_reason reason)
{
	for (size_t i = mm_pages(mm, start - m->start); i < mm_pages(mm, end - m->start); i++)
		m->src[i] = reason;
}

/* Of a page that is not PAGE_SYSTEM. */
static enum hmm_reason tracked_reason(const struct hmm_mm *mm, const struct hmm_migrate *m, uint64_t e)
{
	enum page_state state = entry_state(e);

	if (state != PAGE_DEVICE && state != PAGE_COHERENT)
		return HMM_REASON_BUSY;
	if (!(m->flags & HMM_MIGRATE_DEVICE) ||
	    (m->from_owner && devmem_find(mm, entry_devmem(e))->owner != m->from_owner))
		return HMM_REASON_DEVICE;
	return HMM_REASON_NONE;
}

/*
 * The pages from @start on that are not PAGE_SYSTEM: what becomes of them. One of
 * coherent memory is where the CPU has it, so it is taken like a system page, which may
 * drop the lock; its entry is kept as origin. Returns the first page not dealt with.
 */
static uintptr_t take_tracked(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso,
			      const struct sys_vma *vma, uintptr_t start, uintptr_t end)
{
	for (uintptr_t a = start; a < end; a += mm->page) {
		uint64_t e = directory_get(&mm->dir, a), *src = &m->src[mm_pages(mm, a - m->start)];

		if (entry_state(e) == PAGE_SYSTEM)
			return a;
		*src = tracked_reason(mm, m, e);
		if (*src != HMM_REASON_NONE)
			continue;
		if (entry_state(e) == PAGE_COHERENT) {
			isolation_take_system(mm, iso, vma, a, a + mm->page);
			return a + mm->page;
		}
		isolation_take_device(mm, iso, a, 1);
	}
	return end;
}

/*
 * What of [start, end) can be said while @vma is known to be right: up to the first
 * step that may have dropped the lock. Returns how far that is. Lock held.
 */
static uintptr_t take_part(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso,
			   const struct sys_vma *vma, uintptr_t start, uintptr_t end)
{
	enum hmm_reason reason = mm_vma_reason(mm, vma);
	uintptr_t next;

	if (reason != HMM_REASON_NONE) {
		refuse(mm, m, start, end, reason);
		return end;
	}
	next = directory_next(&mm->dir, start, end);
	if (next == start)
		return take_tracked(mm, m, iso, vma, start, end);
	/* Without the flag they are left, for no reason. */
	if (!(m->flags & HMM_MIGRATE_SYSTEM))
		return next;
	if (!(m->flags & HMM_MIGRATE_DEVICE))
		next = isolation_span(mm, vma, next, end);
	isolation_take_system(mm, iso, vma, start, next);
	return next;
}

/* What src[] says of each slot of the block. */
static void report_block(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso,
			 uintptr_t start, uintptr_t end)
{
	uint32_t stop = isolation_slot(iso, end);

	for (uint32_t i = isolation_slot(iso, start); i < stop; i++) {
		uint64_t *src = &m->src[entry_of(mm, m, iso, i)];

		switch (iso->kind[i]) {
		case SLOT_NONE:
			if (!*src)
				*src = iso->reason[i];
			continue;
		case SLOT_HOLE:
		case SLOT_ZERO:
			*src = HMM_SRC_HOLE;
			break;
		case SLOT_DEVICE:
			*src = HMM_SRC_DEVICE | entry_index(iso->origin[i]) << 12 |
			       (uint64_t)entry_devmem(iso->origin[i]) << HMM_SRC_DEVMEM_SHIFT;
			break;
		default:
			*src = (uint64_t)(uintptr_t)isolation_bytes(iso, i);
		}
		*src |= HMM_SRC_MIGRATE | HMM_SRC_WRITE;
		m->nr_pages++;
	}
}

/* Which pages of the block are writable is the mapping's to say. */
static void report_readonly(struct hmm_mm *mm, struct hmm_migrate *m, uintptr_t start,
			    uintptr_t end)
{
	for (size_t i = mm_pages(mm, start - m->start); i < mm_pages(mm, end - m->start); i++)
		m->src[i] &= ~HMM_SRC_WRITE;
}

/* Everything of [start, end), in one block, that can be taken. Lock held. */
static void take_block(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso,
		       uintptr_t start, uintptr_t end)
{
	uint64_t drops = mm->lock_drops - 1;
	uintptr_t a = start;

	memset(iso->kind, SLOT_NONE, sizeof(iso->kind));
	memset(iso->reason, HMM_REASON_NONE, sizeof(iso->reason));
	if (directory_reserve(&mm->dir, start, end)) {
		refuse(mm, m, start, end, HMM_REASON_NOMEM);
		return;
	}
	exclusive_restore(mm, start, end, NULL);
	mm_vma_begin(mm);
	while (a < end) {
		struct sys_vma vma;
		uintptr_t stop;

		/* First, and whenever a mirror may have looked at the rest meanwhile. */
		if (drops != mm->lock_drops) {
			mm_invalidate(mm, HMM_EVENT_MIGRATE, a, end, m->owner);
			drops = mm->lock_drops;
		}

		if (mm_vma(mm, a, &vma))
			vma.start = vma.end = UINTPTR_MAX;
		if (vma.start > a) {
			stop = vma.start < end ? vma.start : end;
			refuse(mm, m, a, stop, HMM_REASON_GAP);
		} else {
			stop = vma.end < end ? vma.end : end;
			stop = take_part(mm, m, iso, &vma, a, stop);
			report_block(mm, m, iso, a, stop);
			if (!(vma.flags & SYS_VMA_WRITE))
				report_readonly(mm, m, a, stop);
		}
		a = stop;
	}
}

/* What was taken and reported, but then could not be fetched. */
static void report_lost(struct hmm_mm *mm, struct hmm_migrate *m, const struct isolation *iso)
{
	for (uint32_t i = iso->low; i < iso->high; i++) {
		uint64_t *src = &m->src[entry_of(mm, m, iso, i)];

		if (iso->kind[i] != SLOT_NONE || !(*src & HMM_SRC_MIGRATE))
			continue;
		*src = iso->reason[i];
		m->nr_pages--;
	}
}

/*
 * Could a page of 2 MiB come? It wants a chunk that has no page table there. Where nothing is
 * yet, one may be touched before we take; one that the kernel makes of small pages in that
 * time is split.
 */
static bool may_be_huge(const struct hmm_mm *mm, uintptr_t start, uint32_t nr)
{
	uint8_t state;

	if (nr < BLOCK_PAGES || mm->remote)
		return false;
	return !sys_cap(CAP_PAGEMAP_SCAN) ||
	       sys_page_states(mm->pagemap_fd, start, 1, &state) ||
	       !(state & SYS_PAGE_PRESENT) || (state & SYS_PAGE_HUGE);
}

/* One block of the range. false: no isolation or staging for it. */
static bool setup_block(struct hmm_mm *mm, struct hmm_migrate *m, struct migration *mig,
			uintptr_t start, uintptr_t end)
{
	uint32_t first = (uint32_t)mm_pages(mm, start - block_base(start));
	uint32_t nr = (uint32_t)mm_pages(mm, end - start);
	struct chunk *chunk = mm->ops->chunk_get(mm, first, nr, may_be_huge(mm, start, nr));
	struct isolation *iso;

	if (!chunk)
		return false;
	lock_acquire(&mm->lock);
	iso = isolation_get(mm, start, mig->nr == 0);
	if (!iso) {
		lock_release(&mm->lock);
		mm->ops->chunk_put(mm, chunk);
		return false;
	}
	iso->owner = m->owner;
	iso->keep_holes = m->flags & HMM_MIGRATE_KEEP_HOLES;
	iso->chunk = chunk;
	iso->buffer = chunk->addr;
	take_block(mm, m, iso, start, end);
	lock_release(&mm->lock);
	if (isolation_fetch(mm, iso))
		report_lost(mm, m, iso);
	mig->iso[mig->nr] = iso;
	mig->chunk[mig->nr++] = chunk;
	return true;
}

static bool flags_ok(uint64_t flags)
{
	return (flags & MIGRATE_WHAT) && !(flags & ~MIGRATE_FLAGS);
}

static int check_migrate(const struct hmm_mm *mm, const struct hmm_migrate *m)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!m)
		return -EINVAL;
	ret = opts_check(m, m->size, sizeof(*m), sizeof(*m));
	if (ret)
		return ret;
	if (!m->src || !m->dst || !flags_ok(m->flags) ||
	    !mm_range_ok(m->start, m->end) || nr_pages(mm, m) > HMM_MIGRATE_MAX_PAGES)
		return -EINVAL;
	return 0;
}

int hmm_migrate_setup(struct hmm_mm *mm, struct hmm_migrate *m)
{
	struct migration *mig;
	int ret = check_migrate(mm, m);

	if (ret)
		return ret;
	mig = arena_alloc(sizeof(*mig));
	if (!mig)
		return -ENOMEM;
	mig->begin_ns = trace_begin(mm);
	m->nr_pages = 0;
	memset(m->src, 0, nr_pages(mm, m) * sizeof(*m->src));
	memset(m->dst, 0, nr_pages(mm, m) * sizeof(*m->dst));
	for (uintptr_t a = m->start; a < m->end; ) {
		uintptr_t stop = block_base(a) + arena_chunk_bytes();

		stop = stop < m->end ? stop : m->end;
		if (!setup_block(mm, m, mig, a, stop)) {
			refuse(mm, m, a, m->end, HMM_REASON_NOMEM);
			break;
		}
		a = stop;
	}
	if (!mig->nr) {
		arena_free(mig, sizeof(*mig));
		return -ENOMEM;
	}
	lock_acquire(&mm->lock);
	for (size_t i = 0; i < nr_pages(mm, m); i++)
		if (m->src[i] && !(m->src[i] & HMM_SRC_MIGRATE))
			mm->stats.refused[hmm_src_reason(m->src[i])]++;
	lock_release(&mm->lock);
	/* Every event of ours is behind; any from now on makes the driver's fill void. */
	m->seq = m->notifier ? hmm_notifier_read_begin(m->notifier) : 0;
	m->internal = mig;
	return 0;
}

/* ---------------------------------------------------------------- copy */

/* A batch of copies towards one devmem. */
struct batch {
	struct hmm_mm *mm;
	struct hmm_migrate *m;
	struct hmm_devmem *devmem, *from;	/* used; from: of peer copies, bound to pages */
	size_t first[COPY_RUNS], nr;		/* entries that run i begins with; runs */
	struct hmm_copy_run runs[COPY_RUNS];
	struct hmm_peer_run peers[COPY_RUNS];
	int error;				/* the first met */
};

/* The pages of a failed copy stay where they are. */
static void batch_failed(struct batch *b, size_t entry, uint64_t nr, int error)
{
	for (uint64_t i = 0; i < nr; i++)
		b->m->dst[entry + i] = 0;
	if (!b->error)
		b->error = error;
}

/* One page of device memory into another's, through RAM. */
static int bounce(struct batch *b, struct hmm_devmem *from, uint64_t index, uint64_t to, void *page)
{
	struct hmm_copy_run run = { page, index, 1 };
	int ret = devmem_copy_from(from, &run, 1);

	run.index = to;
	return ret ? ret : devmem_copy_to(b->devmem, &run, 1);
}

static void bounce_runs(struct batch *b)
{
	void *page = arena_alloc(b->mm->page);

	for (size_t i = 0; i < b->nr; i++) {
		for (uint64_t j = 0; j < b->peers[i].nr_pages; j++) {
			int ret = page ? bounce(b, b->from, b->peers[i].from + j,
						b->peers[i].to + j, page) : -ENOMEM;

			if (ret)
				batch_failed(b, b->first[i] + j, 1, ret);
		}
	}
	arena_free(page, b->mm->page);
}

static void batch_flush(struct batch *b)
{
	int ret;

	if (!b->nr)
		return;
	if (b->from) {
		ret = devmem_copy_peer(b->devmem, b->from, b->peers, b->nr);
		if (ret)	/* the way through RAM finds the pages that cannot be read */
			bounce_runs(b);
	} else {
		ret = devmem_copy_to(b->devmem, b->runs, b->nr);
		for (size_t i = 0; ret && i < b->nr; i++)
			if (b->nr == 1 || devmem_copy_to(b->devmem, &b->runs[i], 1))
				batch_failed(b, b->first[i], b->runs[i].nr_pages, ret);
	}
	b->nr = 0;
}

static void batch_system(struct batch *b, size_t entry, void *cpu, uint64_t index)
{
	struct hmm_copy_run *last = b->nr ? &b->runs[b->nr - 1] : NULL;

	if (last && b->first[b->nr - 1] + last->nr_pages == entry &&
	    index == last->index + last->nr_pages &&
	    (cpu ? last->cpu && (char *)last->cpu + last->nr_pages * b->mm->page == cpu :
		   !last->cpu)) {
		last->nr_pages++;
		return;
	}
	b->first[b->nr] = entry;
	b->runs[b->nr++] = (struct hmm_copy_run){ cpu, index, 1 };
}

static void batch_peer(struct batch *b, size_t entry, uint64_t from, uint64_t to)
{
	struct hmm_peer_run *last = b->nr ? &b->peers[b->nr - 1] : NULL;

	if (last && b->first[b->nr - 1] + last->nr_pages == entry &&
	    from == last->from + last->nr_pages && to == last->to + last->nr_pages) {
		last->nr_pages++;
		return;
	}
	b->first[b->nr] = entry;
	b->peers[b->nr++] = (struct hmm_peer_run){ from, to, 1 };
}

/*
 * Towards coherent memory the page itself will be given back to the CPU: only bytes
 * of a device have to be fetched, into the slot.
 */
static void copy_coherent(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso,
			  uint32_t slot)
{
	struct hmm_copy_run run = { isolation_bytes(iso, slot), entry_index(iso->origin[slot]), 1 };
	struct hmm_devmem *from = devmem_find(mm, entry_devmem(iso->origin[slot]));

	if (iso->kind[slot] != SLOT_DEVICE)
		return;
	/* The slot is absent: our own handler fills it with zeros at the first touch. */
	if (devmem_copy_from(from, &run, 1)) {
		m->dst[entry_of(mm, m, iso, slot)] = 0;
	} else {
		iso->kind[slot] = SLOT_FILLED;
		chunk_set(iso->chunk, slot, 1, true);
	}
}

/* The batch's devmem from now on, which it keeps from being removed. */
static void batch_use(struct batch *b, uint32_t id)
{
	if (b->devmem && b->devmem->id == id)
		return;
	batch_flush(b);
	if (b->devmem)
		devmem_unuse(b->devmem);
	b->devmem = devmem_use(b->mm->family, id);
}

static void copy_slot(struct batch *b, struct isolation *iso, uint32_t slot)
{
	size_t entry = entry_of(b->mm, b->m, iso, slot);
	uint64_t src = b->m->src[entry], dst = b->m->dst[entry];
	struct hmm_devmem *d, *from = NULL;

	if (!(src & HMM_SRC_MIGRATE) || !(dst & HMM_DST_VALID))
		return;
	batch_use(b, hmm_src_devmem(dst));
	d = b->devmem;
	if (!d || hmm_src_index(dst) >= d->nr_pages) {
		batch_failed(b, entry, 1, -EINVAL);
		return;
	}
	if (d->flags & HMM_DEVMEM_COHERENT) {
		copy_coherent(b->mm, b->m, iso, slot);
		return;
	}
	if (src & HMM_SRC_DEVICE)
		from = devmem_find(b->mm, hmm_src_devmem(src));
	if (b->from != from || b->nr == COPY_RUNS) {
		batch_flush(b);
		b->from = from;
	}
	if (from)
		batch_peer(b, entry, hmm_src_index(src), hmm_src_index(dst));
	else
		batch_system(b, entry, src & HMM_SRC_HOLE ? NULL : hmm_src_addr(src),
			     hmm_src_index(dst));
}

int hmm_migrate_copy(struct hmm_mm *mm, struct hmm_migrate *m)
{
	struct batch b = { .mm = mm, .m = m };
	struct migration *mig;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!m || !m->internal)
		return -EINVAL;
	mig = m->internal;
	for (uint32_t n = 0; n < mig->nr; n++)
		for (uint32_t i = mig->iso[n]->low; i < mig->iso[n]->high; i++)
			if (mig->iso[n]->kind[i] != SLOT_NONE)
				copy_slot(&b, mig->iso[n], i);
	batch_flush(&b);
	if (b.devmem)
		devmem_unuse(b.devmem);
	return b.error;
}

/* ---------------------------------------------------------------- pages, finalize */

/* Will the slot's page be at dst? Lock held. */
static bool decide(struct hmm_mm *mm, const struct isolation *iso, uint32_t slot, uint64_t dst,
		   struct bound *bound, enum hmm_reason *reason)
{
	struct hmm_devmem *d = devmem_find(mm, hmm_src_devmem(dst));

	*reason = iso->origin[slot] ? HMM_REASON_DEVICE : HMM_REASON_COPY;
	if (!(dst & HMM_DST_VALID) || !d ||
	    atomic_load_explicit(&d->dying, memory_order_relaxed))
		return false;
	/* Unmapped, or moved: the driver would fill in the wrong address. */
	*reason = HMM_REASON_BUSY;
	if (iso->where[slot] != isolation_addr(iso, slot))
		return false;
	*reason = iso->origin[slot] ? HMM_REASON_DEVICE : HMM_REASON_COPY;
	/* If it can be had the index is taken, and from here on its devmem stays. */
	return devmem_bind(d, hmm_src_index(dst), mm, iso->where[slot], bound);
}

static void pages_of(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso)
{
	struct bound bound = { 0 };

	for (uint32_t i = iso->low; i < iso->high; i++) {
		enum hmm_reason reason;
		size_t entry;

		if (iso->kind[i] == SLOT_NONE)
			continue;
		entry = entry_of(mm, m, iso, i);
		if (decide(mm, iso, i, m->dst[entry], &bound, &reason))
			continue;
		m->src[entry] = (m->src[entry] & ~(HMM_SRC_MIGRATE | HMM_SRC_REASON_MASK)) | reason;
		mm->stats.refused[reason]++;
		m->nr_pages--;
	}
	bound_flush(&bound);
}

void hmm_migrate_pages(struct hmm_mm *mm, struct hmm_migrate *m)
{
	struct migration *mig;

	if (mm_enter(mm) || !m || !m->internal)
		return;
	mig = m->internal;
	lock_acquire(&mm->lock);
	for (uint32_t n = 0; n < mig->nr; n++)
		pages_of(mm, m, mig->iso[n]);
	lock_release(&mm->lock);
}

/* Slots from @i on that go, to device pages that follow each other; 0: it stays. */
static uint32_t going(const struct hmm_mm *mm, const struct hmm_migrate *m,
		      const struct isolation *iso, uint32_t i)
{
	const uint64_t *src = m->src + entry_of(mm, m, iso, i);
	const uint64_t *dst = m->dst + entry_of(mm, m, iso, i);
	uint32_t n = 0;

	while (i + n < iso->high && iso->kind[i + n] != SLOT_NONE && (src[n] & HMM_SRC_MIGRATE) &&
	       (dst[n] & HMM_DST_VALID) && hmm_src_devmem(dst[n]) == hmm_src_devmem(dst[0]) &&
	       hmm_src_index(dst[n]) == hmm_src_index(dst[0]) + n)
		n++;
	return n;
}

/* Pages that went, and did not lose their address on the way. Lock held. */
static uint64_t finalize_block(struct hmm_mm *mm, struct hmm_migrate *m, struct isolation *iso)
{
	bool whole = iso->huge;
	uint64_t went = -(mm->stats.pages_to_device + mm->stats.pages_between);
	uint32_t committed = 0;

	for (uint32_t i = iso->low, n; i < iso->high; i += n ? n : 1) {
		uint64_t dst = m->dst[entry_of(mm, m, iso, i)];

		n = going(mm, m, iso, i);
		if (n)
			isolation_commit(mm, iso, i, n, hmm_src_devmem(dst), hmm_src_index(dst));
		committed += n;
	}
	/* Here and not below: giving back may drop the lock. */
	went += mm->stats.pages_to_device + mm->stats.pages_between;
	if (whole)
		directory_block_set_huge(&mm->dir, iso->base, committed == BLOCK_PAGES);
	isolation_give(mm, iso);
	isolation_put(mm, iso);
	return went;
}

/* The whole of it, with why the first page that stayed did. Lock held. */
static void trace_migration(struct hmm_mm *mm, const struct hmm_migrate *m,
			    const struct migration *mig, uint64_t went)
{
	struct hmm_trace_event event = {
		.type = HMM_TRACE_MIGRATE, .begin_ns = mig->begin_ns, .start = m->start,
		.end = m->end, .pages = (int64_t)went,
	};

	for (size_t i = 0; i < nr_pages(mm, m); i++) {
		if (m->src[i] & HMM_SRC_MIGRATE) {
			event.device = hmm_src_devmem(m->dst[i]);
		} else if (m->src[i]) {
			event.result++;
			if (!event.what)
				event.what = hmm_src_reason(m->src[i]);
		}
	}
	trace_event(mm, &event);
}

void hmm_migrate_finalize(struct hmm_mm *mm, struct hmm_migrate *m)
{
	struct migration *mig;
	uint64_t went = 0;

	if (mm_enter(mm) || !m || !m->internal)
		return;
	mig = m->internal;
	for (uint32_t n = 0; n < mig->nr; n++) {
		lock_acquire(&mm->lock);
		went += finalize_block(mm, m, mig->iso[n]);
		if (tracing(mm) && n == mig->nr - 1)
			trace_migration(mm, m, mig, went);
		lock_release(&mm->lock);
		mm->ops->chunk_put(mm, mig->chunk[n]);
	}
	arena_free(mig, sizeof(*mig));
	m->internal = NULL;
}

/* ---------------------------------------------------------------- the whole of it */

/* Device pages for what setup took. Returns how many; none when the device is full. */
static int64_t reserve_pages(struct hmm_devmem *d, struct hmm_migrate *m, size_t nr)
{
	int64_t got = 0, have = 0, ret = 0;
	uint64_t index = 0;

	for (size_t i = 0; i < nr; i++) {
		if (!(m->src[i] & HMM_SRC_MIGRATE))
			continue;
		if ((m->src[i] & HMM_SRC_DEVICE) && hmm_src_devmem(m->src[i]) == d->id)
			continue;	/* there already */
		if (!have) {
			ret = d->ops.page_alloc(d, m->nr_pages - (uint64_t)got, &index);
			if (ret <= 0)
				break;
			have = ret;
		}
		m->dst[i] = hmm_dst(d->id, index++);
		have--;
		got++;
	}
	if (have)
		d->ops.page_free(d, index, (uint64_t)have);
	return got ? got : ret < 0 ? ret : 0;
}

/* Reserved pages that did not become anybody's go back to the driver. */
static int64_t free_unused(struct hmm_devmem *d, struct hmm_migrate *m, const uint64_t *dst,
			   size_t nr)
{
	struct free_run run = { 0 };
	int64_t migrated = 0;

	for (size_t i = 0; i < nr; i++) {
		uint64_t index = hmm_src_index(dst[i]);

		if (!(dst[i] & HMM_DST_VALID))
			continue;
		if (m->src[i] & HMM_SRC_MIGRATE) {
			migrated++;
		} else if (run.nr && index == run.index + run.nr) {
			run.nr++;
		} else {
			free_run_flush(&run);
			run = (struct free_run){ .devmem = d, .index = index, .nr = 1 };
		}
	}
	free_run_flush(&run);
	return migrated;
}

struct arrays {
	uint64_t src[BLOCK_PAGES], dst[BLOCK_PAGES], reserved[BLOCK_PAGES];
};

static int64_t migrate_block(struct hmm_mm *mm, struct hmm_devmem *d, struct hmm_migrate *m,
			     struct arrays *a, uint64_t *reasons)
{
	size_t nr = nr_pages(mm, m);
	int64_t got, migrated;
	int ret = hmm_migrate_setup(mm, m);

	if (ret)
		return ret;
	got = reserve_pages(d, m, nr);
	memcpy(a->reserved, m->dst, nr * sizeof(*m->dst));
	if (got > 0)
		hmm_migrate_copy(mm, m);
	hmm_migrate_pages(mm, m);
	hmm_migrate_finalize(mm, m);
	for (size_t i = 0; reasons && i < nr; i++)
		if (m->src[i] && !(m->src[i] & HMM_SRC_MIGRATE))
			reasons[hmm_src_reason(m->src[i])]++;
	migrated = free_unused(d, m, a->reserved, nr);
	return migrated || got >= 0 ? migrated : got;
}

int64_t hmm_migrate_to_device(struct hmm_mm *mm, struct hmm_devmem *d, uintptr_t start,
			      uintptr_t end, uint64_t flags, uint64_t *reasons)
{
	struct arrays *arrays;
	int64_t total = 0, n = 0;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!d || !mm_range_ok(start, end) || !flags_ok(flags))
		return -EINVAL;
	if (d->alive != MM_ALIVE)
		return -ECHILD;
	if (!d->ops.page_alloc)
		return -EOPNOTSUPP;
	arrays = arena_alloc(sizeof(*arrays));
	if (!arrays)
		return -ENOMEM;
	for (uintptr_t a = start, stop; a < end && n >= 0; a = stop) {
		struct hmm_migrate m = {
			.size = sizeof(m), .flags = flags, .start = a,
			.src = arrays->src, .dst = arrays->dst, .owner = d->owner,
		};

		stop = block_base(a) + arena_chunk_bytes();
		m.end = stop = stop < end ? stop : end;
		n = migrate_block(mm, d, &m, arrays, reasons);
		total += n > 0 ? n : 0;
	}
	arena_free(arrays, sizeof(*arrays));
	return total ? total : n < 0 ? n : 0;
}
