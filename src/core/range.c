/* SPDX-License-Identifier: MIT */
/*
 * hmm_range_fault(): look at every page under the mm lock; what is wanted and not
 * there is faulted in without it, and then looked at again.
 */
#include "core/devmem.h"

#include "core/opts.h"
#include "core/remote.h"

#define RANGE_BATCH	(4 * BLOCK_PAGES)	/* pages looked at under one hold of the lock */
#define STATES		32u	/* of a page, as sys_page_states() says */
#define CHANGE_REST_US	50u		/* between two looks at what a call under way may change */
#define RANGE_ROUNDS	64u		/* faults of one page before it counts as a collision */

/* What a look at one page found. */
enum look {
	LOOK_DONE,	/* its entry is right */
	LOOK_FAULT,	/* to be populated */
	LOOK_EVICT,	/* in the memory of another's device */
	LOOK_WAIT,	/* in flight */
	LOOK_EXCLUSIVE,	/* some device's alone */
};

struct looker {
	struct hmm_mm *mm;
	struct hmm_range *range;
	struct sys_vma vma;		/* the mapping of addr, or the next above it */
	bool have_vma;
	bool asked;
	uintptr_t ours;			/* no other userfaultfd holds a mapping from vma to here */
	size_t written;			/* entries below may hold results */
	uintptr_t from;			/* of the pages looked at together, and their states */
	size_t nr;
	bool files;			/* do these tell which are a file's? */
	uint8_t *states;		/* RANGE_BATCH */
};

/* An entry with a result keeps its request here, for the case that the call fails. */
#define KEPT_SHIFT	(62 - 41)
#define KEPT_MASK	((HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE) >> KEPT_SHIFT)

static uint64_t wants(const struct hmm_range *r, size_t i)
{
	return ((r->pfns[i] & r->pfn_flags_mask) | r->default_flags) &
	       (HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
}

/*
 * May the mapping be touched directly until the next invalidation? A truncation is none.
 * Which mappings a protection key is for is not told, and who touches them has rights of
 * its own: copies by the kernel know no keys, as its own HMM does not.
 */
static bool direct(struct looker *l)
{
	if (l->mm->remote || !(l->mm->flags & HMM_MM_STRICT) || l->mm->keyed ||
	    (l->vma.flags & SYS_VMA_SHRINKS))
		return false;
	if (!l->asked && l->ours < l->vma.end)
		l->ours = mm_vma_ours_until(l->mm, &l->vma, l->from + l->nr * l->mm->page);
	l->asked = true;
	return l->ours >= l->vma.end;
}

/* A private mapping of a file has pages of its own, and the file's. */
static bool has_both(const struct sys_vma *vma)
{
	return (vma->flags & (SYS_VMA_FILE | SYS_VMA_SHARED)) == SYS_VMA_FILE;
}

/*
 * The states of @nr pages, and no mapping known yet: what the last one was only tells what
 * to ask for. Lock held.
 */
static int look_states(struct looker *l, uintptr_t from, size_t nr)
{
	l->from = from;
	l->nr = nr;
	l->files = l->have_vma && from < l->vma.end && has_both(&l->vma);
	l->have_vma = false;
	l->ours = 0;
	return (l->files ? sys_page_states_of_files : sys_page_states)
		(l->mm->pagemap_fd, from, nr, l->states);
}

static void tell_files(struct looker *l)
{
	if (l->files || !has_both(&l->vma))
		return;
	l->files = true;
	if (sys_page_states_of_files(l->mm->pagemap_fd, l->from, l->nr, l->states))
		for (size_t i = 0; i < l->nr; i++)
			l->states[i] |= SYS_PAGE_FILE;
}

/* The mapping of @addr, whose states are right from here on. Lock held. */
static bool find_vma(struct looker *l, uintptr_t addr)
{
	if (!l->have_vma || addr >= l->vma.end) {
		l->have_vma = true;
		l->asked = false;
		if (mm_vma(l->mm, addr, &l->vma))
			l->vma = (struct sys_vma){ .start = UINTPTR_MAX, .end = UINTPTR_MAX };
		else
			tell_files(l);
	}
	return addr >= l->vma.start;
}

static uint64_t device_pfn(uint64_t e, bool write)
{
	return HMM_PFN_VALID | HMM_PFN_DEVICE | (write ? HMM_PFN_WRITE : 0) |
	       (uint64_t)entry_devmem(e) << HMM_PFN_DEVMEM_SHIFT | entry_index(e);
}

static enum look look_device(struct looker *l, uint64_t e, uint64_t want, uint64_t *pfn)
{
	struct hmm_devmem *d = devmem_find(l->mm, entry_devmem(e));
	/* What a fork has shared is for reading: who writes gets a copy, by way of home. */
	bool shared = devmem_shared(d, entry_index(e));

	*pfn = 0;
	if (d->owner == l->range->owner && !(shared && (want & HMM_PFN_REQ_WRITE))) {
		*pfn = device_pfn(e, (l->vma.flags & SYS_VMA_WRITE) && !shared);
		return LOOK_DONE;
	}
	return want ? LOOK_EVICT : LOOK_DONE;
}

static enum look look_system(struct looker *l, uint8_t state, uint64_t want, uint64_t *pfn)
{
	/* A private mapping has the zero page, and a file's own pages, to read. */
	bool lent = (state & SYS_PAGE_ZERO) ||
		    ((state & SYS_PAGE_FILE) && !(l->vma.flags & SYS_VMA_SHARED));
	bool writable = (l->vma.flags & SYS_VMA_WRITE) && !lent;

	*pfn = 0;
	if (!(state & SYS_PAGE_PRESENT))
		return want ? LOOK_FAULT : LOOK_DONE;
	if ((want & HMM_PFN_REQ_WRITE) && !writable)
		return LOOK_FAULT;
	*pfn = HMM_PFN_VALID;
	if (writable)
		*pfn |= HMM_PFN_WRITE;
	if (state & SYS_PAGE_ZERO)
		*pfn |= HMM_PFN_ZERO;
	if (state & SYS_PAGE_HUGE)
		*pfn |= (uint64_t)__builtin_ctz(BLOCK_PAGES) << HMM_PFN_ORDER_SHIFT;
	if (!direct(l))
		*pfn |= HMM_PFN_GUARDED;
	return LOOK_DONE;
}

/* One page. Negative: the call fails with it. */
static int look_page(struct looker *l, uintptr_t addr, uint64_t want, uint64_t *pfn)
{
	uint64_t e;

	if (!find_vma(l, addr) || !(l->vma.flags & SYS_VMA_READ)) {
		*pfn = HMM_PFN_ERROR;
		return want ? -EFAULT : LOOK_DONE;
	}
	if ((want & HMM_PFN_REQ_WRITE) && !(l->vma.flags & SYS_VMA_WRITE))
		return -EPERM;
	e = directory_get(&l->mm->dir, addr);
	switch (entry_state(e)) {
	case PAGE_DEVICE:
	case PAGE_COHERENT:
		return (int)look_device(l, e, want, pfn);
	case PAGE_ISOLATED:
		*pfn = 0;
		return want ? LOOK_WAIT : LOOK_DONE;
	case PAGE_EXCLUSIVE:
		*pfn = 0;
		return want ? LOOK_EXCLUSIVE : LOOK_DONE;
	case PAGE_LOST:
		*pfn = HMM_PFN_ERROR;
		return want ? -EFAULT : LOOK_DONE;
	default:
		return (int)look_system(l, l->states[mm_pages(l->mm, addr - l->from)], want, pfn);
	}
}

/* An entry with its result, and what was asked of it. */
static uint64_t with_request(uint64_t pfn, uint64_t before)
{
	return pfn | (before & (HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)) >> KEPT_SHIFT;
}

/*
 * Of page @i on: as many as the same is wanted of, and is there, in one readable mapping,
 * none of them tracked. Their entries follow from the page table alone. Returns the next page.
 */
static size_t look_untracked(struct looker *l, size_t i, size_t end)
{
	struct hmm_range *r = l->range;
	uintptr_t addr = r->start + i * l->mm->page, stop = r->start + end * l->mm->page;
	uint64_t entries[STATES], want = wants(r, i);
	uint32_t known = 0;		/* states that entries[] has */
	const uint8_t *states;
	size_t last;

	if (r->pfn_flags_mask || !find_vma(l, addr) || !(l->vma.flags & SYS_VMA_READ) ||
	    ((want & HMM_PFN_REQ_WRITE) && !(l->vma.flags & SYS_VMA_WRITE)))
		return i;
	stop = stop < l->vma.end ? stop : l->vma.end;
	stop = directory_next(&l->mm->dir, addr, stop);
	states = &l->states[mm_pages(l->mm, addr - l->from)];
	last = i + mm_pages(l->mm, stop - addr);
	while (i < last) {
		const uint8_t state = *states % STATES;
		uint64_t *pfns = r->pfns;

		if (!(known & BIT(state)) &&
		    look_system(l, state, want, &entries[state]) != LOOK_DONE)
			break;
		known |= (uint32_t)BIT(state);
		for (; i < last && *states % STATES == state; i++, states++)
			pfns[i] = with_request(entries[state], pfns[i]);
	}
	l->written = i;
	return i;
}

/*
 * Pages [first, end) of the range. Returns LOOK_DONE, or what the page at *@at needs,
 * with *@until the end of the run that needs the same; or an error. Lock held.
 */
static int look(struct looker *l, size_t first, size_t end, size_t *at, size_t *until)
{
	struct hmm_range *r = l->range;
	int need = LOOK_DONE;

	if (look_states(l, r->start + first * l->mm->page, end - first))
		return -ENOMEM;
	for (size_t i = first; i < end; i++) {
		uint64_t want, pfn = 0;
		int ret;

		if (need == LOOK_DONE)
			i = look_untracked(l, i, end);
		if (i == end)
			break;
		want = wants(r, i);
		ret = look_page(l, r->start + i * l->mm->page, want, &pfn);
		if (ret < 0)
			return need == LOOK_DONE ? ret : need;
		if (need == LOOK_DONE && ret != LOOK_DONE) {
			*at = i;
			need = ret;
		} else if (need != LOOK_DONE && ret != need) {
			return need;
		}
		if (need != LOOK_DONE) {
			*until = i + 1;
			continue;
		}
		r->pfns[i] = with_request(pfn, r->pfns[i]);
		l->written = i + 1;
	}
	return need;
}

/* Make pages [at, until) what is wanted of the first of them. No lock held. */
static int satisfy(struct looker *l, int need, size_t at, size_t until)
{
	struct hmm_mm *mm = l->mm;
	uintptr_t start = l->range->start + at * mm->page;
	uintptr_t end = l->range->start + until * mm->page;
	int64_t ret = 0;

	switch (need) {
	case LOOK_FAULT:
		return mm->ops->populate(mm, start, end - start,
					 wants(l->range, at) & HMM_PFN_REQ_WRITE);
	case LOOK_EVICT:
		ret = mm_evict(mm, start, end, NULL, true);
		return ret < 0 ? -EFAULT : 0;
	case LOOK_EXCLUSIVE:
	case LOOK_WAIT:
		lock_acquire(&mm->lock);
		if (need == LOOK_EXCLUSIVE)
			exclusive_restore(mm, start, end, NULL);
		else if (entry_state(directory_get(&mm->dir, start)) == PAGE_ISOLATED)
			isolation_wait(mm);
		lock_release(&mm->lock);
	}
	return 0;
}

/* The requests of a run of like pages end where the request changes. */
static size_t same_request(const struct hmm_range *r, size_t at, size_t until)
{
	size_t i = at + 1;

	while (i < until && wants(r, i) == wants(r, at))
		i++;
	return i;
}

/* Is a change of it under way that no notifier will be told of? Lock held. */
static bool changing(const struct looker *l, size_t first, size_t end)
{
	const uintptr_t start = l->range->start;
	const size_t page = l->mm->page;

	return l->mm->remote && passes_hide(l->mm, start + first * page, start + end * page);
}

static int fault_pages(struct looker *l, size_t nr)
{
	struct hmm_range *r = l->range;
	size_t first = 0;
	uint32_t rounds = 0;

	while (first < nr) {
		size_t end = nr - first < RANGE_BATCH ? nr : first + RANGE_BATCH;
		size_t at = first, until = first;
		int ret;

		lock_acquire(&l->mm->lock);
		ret = changing(l, first, end) ? -EBUSY : look(l, first, end, &at, &until);
		lock_release(&l->mm->lock);
		if (ret < 0)
			return ret;
		if (r->notifier && hmm_notifier_read_retry(r->notifier, r->seq))
			return -EBUSY;
		if (ret == LOOK_DONE) {
			first = end;
			rounds = 0;
			continue;
		}
		if (at == first && ++rounds > RANGE_ROUNDS)
			return -EBUSY;
		first = at;
		ret = satisfy(l, ret, at, same_request(r, at, until));
		if (ret)
			return ret;
	}
	return 0;
}

static int check_range(const struct hmm_mm *mm, const struct hmm_range *r)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!r)
		return -EINVAL;
	ret = opts_check(r, r->size, sizeof(*r), sizeof(*r));
	if (ret)
		return ret;
	if ((r->default_flags | r->pfn_flags_mask) & ~(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE))
		return -EINVAL;
	return r->pfns && mm_range_ok(r->start, r->end) ? 0 : -EINVAL;
}

int hmm_range_fault(struct hmm_mm *mm, struct hmm_range *range)
{
	uint8_t states[RANGE_BATCH];
	struct looker l = { .mm = mm, .range = range, .states = states };
	int ret = check_range(mm, range);

	if (ret)
		return ret;
	ret = fault_pages(&l, (range->end - range->start) / mm->page);
	for (size_t i = 0; i < l.written; i++) {
		uint64_t kept = range->pfns[i] & KEPT_MASK;

		range->pfns[i] = ret ? kept << KEPT_SHIFT : range->pfns[i] & ~KEPT_MASK;
	}
	return ret;
}

int hmm_range_fault_wait(struct hmm_mm *mm, struct hmm_range *range, uint32_t timeout_ms)
{
	uint64_t deadline = sys_now_ns() + timeout_ms * 1000000ULL;
	int ret;

	ret = check_range(mm, range);
	if (ret)
		return ret;
	do {
		if (range->notifier)
			range->seq = hmm_notifier_read_begin(range->notifier);
		ret = hmm_range_fault(mm, range);
		if (ret == -EBUSY && timeout_ms && sys_now_ns() > deadline)
			ret = -ETIMEDOUT;
		if (ret == -EBUSY && mm->remote)
			sys_rest(CHANGE_REST_US);
	} while (ret == -EBUSY);
	return ret;
}

/* ---------------------------------------------------------------- residency */

static uint8_t place_of(uint64_t e, uint8_t state)
{
	switch (entry_state(e)) {
	case PAGE_ISOLATED:
		return HMM_PLACE_FLIGHT;
	case PAGE_DEVICE:
	case PAGE_COHERENT:
		return HMM_PLACE_DEVICE;
	case PAGE_EXCLUSIVE:
		return HMM_PLACE_EXCLUSIVE;
	default:
		return state & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED) ? HMM_PLACE_SYSTEM :
								       HMM_PLACE_HOLE;
	}
}

int hmm_residency(struct hmm_mm *mm, uintptr_t start, uintptr_t end, uint8_t *places)
{
	struct looker l = { .mm = mm, .files = true };	/* which are a file's nobody asks */
	size_t i = 0;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!places || !mm_range_ok(start, end))
		return -EINVAL;
	for (uintptr_t a = start; a < end; ) {
		size_t nr = (end - a) / mm->page;
		uint8_t states[RANGE_BATCH];

		nr = nr < RANGE_BATCH ? nr : RANGE_BATCH;
		lock_acquire(&mm->lock);
		l.have_vma = false;
		ret = sys_page_states(mm->pagemap_fd, a, nr, states);
		for (size_t j = 0; j < nr && !ret; j++, a += mm->page)
			places[i++] = find_vma(&l, a) ?
				      place_of(directory_get(&mm->dir, a), states[j]) :
				      HMM_PLACE_GAP;
		lock_release(&mm->lock);
		if (ret)
			return ret;
	}
	return 0;
}
