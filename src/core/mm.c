/* SPDX-License-Identifier: MIT */
#include "core/mm.h"

#include <string.h>
#include <unistd.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/limbo.h"
#include "core/opts.h"
#include "core/remote.h"
#include "core/trace.h"

#define STAGING_MAX	((uint64_t)1 << 30)
#define MM_FLAGS	(HMM_MM_STRICT | HMM_MM_USER_FAULTS_ONLY)
#define OPTS_OLDEST	offsetof(struct hmm_mm_opts, staging_bytes)

void mm_invalidate(struct hmm_mm *mm, enum hmm_event_type type, uintptr_t start, uintptr_t end,
		   const void *owner)
{
	const struct hmm_event event = { type, start, end, owner };
	const uint64_t begin = trace_begin(mm);
	uint64_t told;

	lock_assert_held(&mm->lock);
	told = notifier_tree_invalidate(&mm->notifiers, &event);
	mm->stats.invalidations += told;
	if (tracing(mm) && told) {
		struct hmm_trace_event e = {
			.type = HMM_TRACE_INVALIDATE, .what = type, .begin_ns = begin,
			.start = start, .end = end, .pages = (int64_t)told,
		};

		trace_event(mm, &e);
	}
}

/* More than the deepest path under the mm lock uses. */
#define STACK_NEEDED	(24u << 10)

__attribute__((noinline)) void stack_prepare(void)
{
	volatile char room[STACK_NEEDED];

	for (size_t i = 0; i < sizeof(room); i += 4096)
		room[i] = 0;
	room[sizeof(room) - 1] = 0;
}

/* ---------------------------------------------------------------- mappings */

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

static void tcb_add(uintptr_t addr, bool main, void *ctx)
{
	struct tcb_list *list = ctx;

	if (list->nr < TCBS_MAX)
		list->tcb[list->nr++] = (struct tcb){ addr, main };
	else
		list->overflow = true;
}

/* Within it the ids of new threads cannot have gone round and be those of old ones. */
#define TCBS_KEPT_NS	1000000000ULL

/*
 * Where the threads' control blocks are, once per operation. What was found stands, and
 * with it what is known of mappings, while the threads are the same ones:
 *
 *	thread X			migration
 *	--------			---------
 *					no block in [a, b): remembered
 *	pthread_create(Y), whose
 *	  stack is [a, b)
 *					other threads: [a, b) is looked at again
 *
 * One that has not yet told the kernel where its block is (it is being born) makes the
 * list one for this operation alone.
 */
static const struct tcb_list *tcbs(struct hmm_mm *mm)
{
	struct tcb_list *list = &mm->tcbs;
	uint64_t mark = 0, now;
	uint32_t nr = 0;

	if (list->valid)
		return list;
	list->valid = true;
	now = sys_now_ns();
	if (mm->ops->threads_mark)
		mark = mm->ops->threads_mark(mm, &nr);
	if (mark && mark == list->mark && now - list->looked_ns < TCBS_KEPT_NS)
		return list;
	memset(&mm->vma_cache, 0, sizeof(mm->vma_cache));
	list->nr = 0;
	list->overflow = mm->ops->for_each_tcb(mm, tcb_add, list) != 0;
	list->mark = list->nr == nr && !list->overflow ? mark : 0;
	list->looked_ns = now;
	return list;
}

static void static_add(uintptr_t start, uintptr_t end, void *ctx)
{
	struct static_list *list = ctx;

	if (list->nr < STATICS_MAX)
		list->span[list->nr++] = (struct static_span){ start, end };
	else
		list->missed++;
}

void mm_statics_look(struct hmm_mm *mm)
{
	struct static_list list = { .nr = 0 };

	if (!mm->ops->for_each_static)
		return;
	mm->ops->for_each_static(mm, static_add, &list);
	sys_tls_around(&thread_state, sizeof(thread_state), &list.tls_below, &list.tls_above);
	lock_acquire(&mm->lock);
	mm->statics = list;
	memset(&mm->vma_cache, 0, sizeof(mm->vma_cache));
	lock_release(&mm->lock);
	if (list.missed)
		core_log(mm, HMM_LOG_WARN,
			 "HMM-011 static data of %u libraries is not kept from migrating: more "
			 "than %u are loaded", list.missed, STATICS_MAX);
}

/*
 * What of a mapping is a thread's. One that is not the main one has its stack below
 * its control block, from where the mapping starts (at the stack's guard); above, the
 * kernel may have merged the program's own memory with it. The main thread's block is
 * where the loader put it, with static TLS next to it, and the program's memory on
 * either side: what is the program's must not be taken for the thread's, since trapped
 * up to there alone the program's mapping is two, which mremap() refuses.
 */
static bool tcb_span(const struct hmm_mm *mm, const struct tcb *t, const struct sys_vma *vma,
		     uintptr_t *low, uintptr_t *high)
{
	if (t->addr < vma->start || t->addr >= vma->end)
		return false;
	if (mm->remote) {
		sys_tcb_around(t->addr, low, high);
		*low -= mm->page;	/* static TLS */
	} else {
		*low = t->addr - mm->statics.tls_below;
		*high = t->addr + mm->statics.tls_above;
	}
	*low = t->main ? *low & ~(mm->page - 1) : vma->start;
	*high = (*high + mm->page - 1) & ~(mm->page - 1);
	if (*low < vma->start)
		*low = vma->start;
	if (*high > vma->end)
		*high = vma->end;
	return true;
}

/* [low, high), clipped to [start, *best_end), if it begins before *best. */
static void nearer(uintptr_t low, uintptr_t high, uintptr_t start, uintptr_t end,
		   uintptr_t *best, uintptr_t *best_end)
{
	low = low > start ? low : start;
	if (low >= high || low >= *best)
		return;
	*best = low;
	*best_end = high < end ? high : end;
}

/*
 * The first part of [*start, *end) of the mapping that is a thread's, or static data.
 * The kernel's own stores to a control block (robust list, the tid cleared at exit,
 * rseq) are dropped in silence when its page is away.
 */
static bool reserved(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t *start,
		     uintptr_t *end)
{
	const struct static_list *statics = &mm->statics;
	const struct tcb_list *list = tcbs(mm);
	uintptr_t low, high, best = *end, best_end = *end;

	if (list->overflow || (mm->remote && remote_is_static(mm, vma)))
		return true;	/* cannot tell, or it is: all of it */
	for (uint32_t i = 0; i < list->nr; i++)
		if (tcb_span(mm, &list->tcb[i], vma, &low, &high))
			nearer(low, high, *start, *end, &best, &best_end);
	for (uint32_t i = 0; i < statics->nr; i++)
		nearer(statics->span[i].start, statics->span[i].end, *start, *end, &best,
		       &best_end);
	if (best == *end)
		return false;
	*start = best;
	*end = best_end;
	return true;
}

/* Mappings without any of it are remembered: looking costs a call per thread. */
static bool known_free(const struct hmm_mm *mm, const struct sys_vma *vma)
{
	for (unsigned int i = 0; i < VMA_CACHE; i++)
		if (mm->vma_cache.start[i] == vma->start && mm->vma_cache.end[i] == vma->end)
			return true;
	return false;
}

static void remember_free(struct hmm_mm *mm, const struct sys_vma *vma)
{
	struct vma_cache *c = &mm->vma_cache;

	c->start[c->next % VMA_CACHE] = vma->start;
	c->end[c->next++ % VMA_CACHE] = vma->end;
}

int mm_vma(struct hmm_mm *mm, uintptr_t addr, struct sys_vma *vma)
{
	int ret = sys_vma_find(mm->maps_fd, addr, vma);
	struct sys_vma whole;
	uintptr_t from, to;

	lock_assert_held(&mm->lock);
	if (ret || (vma->flags & (SYS_VMA_FILE | SYS_VMA_STACK | SYS_VMA_SPECIAL)))
		return ret;
	(void)tcbs(mm);		/* may forget what is known */
	if (known_free(mm, vma))
		return 0;
	whole = *vma;
	from = whole.start;
	to = whole.end;
	if (!reserved(mm, &whole, &from, &to)) {
		remember_free(mm, vma);
		return 0;
	}
	if (addr < whole.start)
		addr = whole.start;
	for (from = whole.start, to = whole.end; reserved(mm, &whole, &from, &to);
	     from = to, to = whole.end) {
		if (addr < from) {
			vma->end = from;
			break;
		}
		if (addr < to) {
			vma->start = from;
			vma->end = to;
			vma->flags |= SYS_VMA_STACK;
			break;
		}
		vma->start = to;
	}
	return 0;
}

enum hmm_reason mm_vma_reason(const struct hmm_mm *mm, const struct sys_vma *vma)
{
	if (vma->flags & SYS_VMA_HUGETLB)
		return HMM_REASON_HUGETLB;
	if (vma->flags & SYS_VMA_SHMEM)
		return HMM_REASON_SHARED;
	if (vma->flags & (SYS_VMA_FILE | SYS_VMA_SHARED))
		return HMM_REASON_FILE;
	if ((vma->flags & (SYS_VMA_STACK | SYS_VMA_SPECIAL)) ||
	    mm->ops->owns(mm, vma->start, vma->end))
		return HMM_REASON_RESERVED;
	if (!(vma->flags & SYS_VMA_READ))
		return HMM_REASON_PROT;
	return HMM_REASON_NONE;
}

/* Never the library's own: a thread that holds the mm lock may not fault on that. */
bool mm_vma_anonymous(const struct hmm_mm *mm, const struct sys_vma *vma)
{
	return !(vma->flags & (SYS_VMA_SHARED | SYS_VMA_FILE | SYS_VMA_SPECIAL)) &&
	       !mm->ops->owns(mm, vma->start, vma->end);
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

/*
 * Has a change come between events_settle() and the end of our unregistering
 * [start, end)? Its event has not been read, so who made it is still in the call: what it
 * brought there is trapped again before it returns.
 */
static bool overtaken(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct sys_vma vma;

	if ((mm->flags & HMM_MM_STRICT) || !sys_uffd_changing(mm->uffd))
		return false;
	for (uintptr_t a = start; !sys_vma_find(mm->maps_fd, a, &vma) && vma.start < end;
	     a = vma.end) {
		uintptr_t low = vma.start > start ? vma.start : start;
		uintptr_t high = vma.end < end ? vma.end : end;

		if (mm_vma_anonymous(mm, &vma))
			(void)sys_uffd_register(mm->uffd, low, high - low, SYS_UFFD_MISSING);
	}
	return true;
}

/*
 * Is any of it away, or about to be (@trapped), or watched? Then trap it, else let it go,
 * but for what has come to it by a change that we have not heard of.
 */
static void run_settle(struct hmm_mm *mm, uintptr_t start, uintptr_t end, bool trapped)
{
	if (trapped || watched(mm, start, end) || holds(mm, start, end)) {
		(void)sys_uffd_register(mm->uffd, start, end - start, SYS_UFFD_MISSING);
		return;
	}
	(void)sys_uffd_unregister(mm->uffd, start, end - start);
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

void mm_vma_join(struct hmm_mm *mm, uintptr_t addr)
{
	struct sys_vma vma;
	uintptr_t start, end;

	mm->tcbs.valid = false;
	if (mm_vma(mm, addr, &vma) || vma.start > addr || !mappings_merge(mm, &vma))
		return;
	mapping_run(mm, &vma, &start, &end);
	run_settle(mm, start, end, false);
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
		mm->tcbs.valid = false;
		if (mm_vma(mm, addr, &vma) || vma.start > addr || !mm_vma_anonymous(mm, &vma))
			return;
		mapping_run(mm, &vma, &start, &end);
		if (watched(mm, start, end) || holds(mm, start, end))
			return;
		if (sys_uffd_unregister(mm->uffd, start, end - start))
			sys_uffd_unregister(mm->uffd, vma.start, vma.end - vma.start);
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

bool mm_vma_foreign(struct hmm_mm *mm, const struct sys_vma *vma)
{
	size_t len = vma->end - vma->start;
	uintptr_t start, end;
	int ret;

	if (leaving(mm, vma))
		return true;
	if (holds(mm, vma->start, vma->end))
		return false;	/* trapped by us */
	ret = sys_uffd_register(mm->uffd, vma->start, len, SYS_UFFD_MISSING);
	if (ret)
		return ret == -EBUSY;
	start = vma->start;
	end = vma->end;
	if (mappings_merge(mm, vma))
		mapping_run(mm, vma, &start, &end);
	run_settle(mm, start, end, false);
	return false;
}

bool mm_poison(struct hmm_mm *mm, uintptr_t addr)
{
	const uint64_t e = directory_get(&mm->dir, addr);

	lock_assert_held(&mm->lock);
	/* The entry stays what it was until the marker is there: no fault finds a hole. */
	while (mm->can_poison && directory_get(&mm->dir, addr) == e) {
		if (sys_uffd_poison(mm->uffd, addr, mm->page) != -EAGAIN)
			break;
		mm_drain(mm);
	}
	if (directory_get(&mm->dir, addr) != e)
		return false;
	mm->stats.lost_pages++;
	mm->stats.poisoned_pages++;
	trace_moment(mm, HMM_TRACE_LOST, 0, addr, addr + mm->page, 1);
	directory_set(&mm->dir, addr, PAGE_LOST);
	sys_uffd_wake(mm->uffd, addr, mm->page);
	return true;
}

/* ---------------------------------------------------------------- life */

static uint64_t uffd_features(uint64_t flags)
{
	uint64_t features = 0;

	if (sys_cap(CAP_THREAD_ID))
		features |= UFFD_FEATURE_THREAD_ID;
	if (flags & HMM_MM_STRICT)
		return features;	/* changes are announced by seccomp, before */
	if (sys_cap(CAP_UFFD_EVENTS))
		features |= UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
			    UFFD_FEATURE_EVENT_UNMAP;
	if (sys_cap(CAP_FORK_EVENT))
		features |= UFFD_FEATURE_EVENT_FORK;
	return features;
}

static int open_uffd(struct hmm_mm *mm)
{
	uint64_t have;
	bool user_only = mm->flags & HMM_MM_USER_FAULTS_ONLY;

	mm->uffd = sys_uffd_open(uffd_features(mm->flags), user_only, &have);
	if (mm->uffd >= 0)
		return 0;
	if (mm->uffd == -EPERM || mm->uffd == -EACCES) {
		core_log(mm, HMM_LOG_WARN,
			 "HMM-042 no userfaultfd that serves faults of system calls for this "
			 "user; `uhmm doctor` says what would help");
		return -EPERM;
	}
	return mm->uffd == -ENOSYS || mm->uffd == -EINVAL ? -EOPNOTSUPP : mm->uffd;
}

static int open_files(struct hmm_mm *mm)
{
	int ret = open_uffd(mm);

	if (ret)
		return ret;
	mm->maps_fd = sys_maps_open();
	if (mm->maps_fd < 0) {
		ret = mm->maps_fd;
		goto err_uffd;
	}
	mm->pagemap_fd = sys_pagemap_open();
	if (mm->pagemap_fd < 0) {
		ret = mm->pagemap_fd;
		goto err_maps;
	}
	mm->tasks_fd = sys_tasks_open();
	if (mm->tasks_fd < 0) {
		ret = mm->tasks_fd;
		goto err_pagemap;
	}
	return 0;

err_pagemap:
	sys_close(mm->pagemap_fd);
err_maps:
	sys_close(mm->maps_fd);
err_uffd:
	sys_close(mm->uffd);
	if (ret == -ENOENT || ret == -EACCES)
		core_log(mm, HMM_LOG_WARN,
			 "HMM-043 /proc/self/maps, pagemap and task cannot be read: is /proc "
			 "mounted?");
	return ret == -ENOENT ? -EOPNOTSUPP : ret;
}

static void close_files(struct hmm_mm *mm)
{
	sys_close(mm->tasks_fd);
	sys_close(mm->pagemap_fd);
	sys_close(mm->maps_fd);
	sys_close(mm->uffd);
}

static int claim_process(struct hmm_mm *mm)
{
	int ret = 0;

	lock_acquire(&mm->process->lock);
	if (mm->process->mm)
		ret = -EBUSY;
	else
		mm->process->mm = mm;
	lock_release(&mm->process->lock);
	return ret;
}

static void leave_process(struct hmm_mm *mm)
{
	lock_acquire(&mm->process->lock);
	mm->process->mm = NULL;
	lock_release(&mm->process->lock);
}

static void fill_in(struct hmm_mm *mm, const struct hmm_mm_opts *opts, struct process *process)
{
	mm->ops = &local_ops;
	mm->process = process;
	mm->flags = opts->flags;
	mm->log = opts->log;
	mm->log_ctx = opts->log_ctx;
	mm->page = sys_page_size();
	mm->can_move = mm->can_move_home = sys_cap(CAP_MOVE);
	mm->can_remap = sys_cap(CAP_DONTUNMAP);
	mm->can_poison = sys_cap(CAP_POISON);
	lock_init(&mm->lock, RANK_MM);
	roster_watched_init(&mm->watched, LOOK_EVERY);
}

int mm_tables_init(struct hmm_mm *mm)
{
	int ret = directory_init(&mm->dir, mm->process, mm);

	if (ret)
		return ret;
	ret = isolations_init(mm);
	if (!ret)
		ret = family_add(mm->family, mm);
	if (ret) {
		isolations_fini(mm);
		directory_fini(&mm->dir);
	}
	return ret;
}

bool mm_tables_fini(struct hmm_mm *mm)
{
	bool last = family_remove(mm->family, mm);

	isolations_fini(mm);
	limbo_close(mm);
	if (mm->exclusive_pages)
		exclusive_close(mm);
	directory_fini(&mm->dir);
	return last;
}

/* Of calls that were made before calls are announced. */
static void look_for_keys(struct hmm_mm *mm)
{
	const bool used = (mm->flags & HMM_MM_STRICT) && sys_keys_used();

	lock_acquire(&mm->lock);
	mm->keyed |= used;
	lock_release(&mm->lock);
}

/* What an mm is made of, in the order it is taken down again. */
static int build(struct hmm_mm *mm, const struct hmm_mm_opts *opts)
{
	int ret = open_files(mm);

	if (ret)
		return ret;
	ret = family_make(mm->process, mm, opts->staging_bytes, opts->nr_handlers,
			  &mm->family);
	if (ret)
		goto err_files;
	ret = mm_tables_init(mm);
	if (ret)
		goto err_family;
	ret = handlers_start(mm->family);
	if (ret)
		goto err_tables;
	mm->alive = MM_ALIVE;
	mm_statics_look(mm);
	if (mm->flags & HMM_MM_STRICT)
		ret = strict_start(mm);
	if (ret)
		goto err_handlers;
	look_for_keys(mm);
	return 0;

err_handlers:
	mm->alive = 0;
	handlers_stop(mm->family);
err_tables:
	mm_tables_fini(mm);
err_family:
	family_free(mm->family);
err_files:
	close_files(mm);
	return ret;
}

static int check_opts(const struct hmm_mm_opts *opts)
{
	int ret = opts_check(opts, opts->size, sizeof(*opts), OPTS_OLDEST);

	if (ret)
		return ret;
	if ((opts->flags & ~MM_FLAGS) || opts->reserved || opts->nr_handlers > 64 ||
	    (opts->size >= offsetof(struct hmm_mm_opts, log) && opts->staging_bytes > STAGING_MAX))
		return -EINVAL;
	return 0;
}

int hmm_mm_create(const struct hmm_mm_opts *user, struct hmm_mm **out)
{
	struct hmm_mm_opts opts = { .size = sizeof(opts) };
	struct process *process;
	struct hmm_mm *mm;
	int ret = user ? check_opts(user) : 0;

	if (!out || ret)
		return ret ? ret : -EINVAL;
	if (user)
		memcpy(&opts, user, user->size < sizeof(opts) ? user->size : sizeof(opts));
	process = process_get();
	mm = process ? arena_alloc(sizeof(*mm)) : NULL;
	if (!mm)
		return -ENOMEM;
	fill_in(mm, &opts, process);
	sys_tell_tcb();		/* again: the kernel knows nothing of a raw clone's child */
	if (sys_caps_unknown())
		core_log(mm, HMM_LOG_WARN, "HMM-010 UHMM_CAPS: no capability is called \"%s\"",
			 sys_caps_unknown());
	ret = fork_watch();
	if (!ret)
		ret = claim_process(mm);
	if (ret)
		goto err_free;
	ret = build(mm, &opts);
	if (ret)
		goto err_leave;
	*out = mm;
	return 0;

err_leave:
	leave_process(mm);
err_free:
	arena_free(mm, sizeof(*mm));
	return ret;
}

/* Nobody may subscribe, migrate or be told any more. */
static void release_notifiers(struct hmm_mm *mm)
{
	lock_acquire(&mm->lock);
	mm_invalidate(mm, HMM_EVENT_RELEASE, 0, sys_task_size(), NULL);
	while (mm->notifiers.root) {
		struct hmm_notifier *n = mm->notifiers.root;

		notifier_tree_remove(&mm->notifiers, n);
		arena_free(n, sizeof(*n));
	}
	exclusive_restore(mm, 0, sys_task_size(), NULL);
	lock_release(&mm->lock);
}

/*
 * Nothing is registered any more, but a fork or an munmap that began before waits for its
 * event to be read. Without handlers it would as long as anybody has the userfaultfd,
 * which any child may.
 */
static void await_changes(const struct hmm_mm *mm)
{
	while (sys_uffd_changing(mm->uffd))
		sys_rest(50);
}

int hmm_mm_destroy(struct hmm_mm *mm)
{
	uint64_t lost;
	int ret;

	if (!mm)
		return 0;
	ret = mm_enter(mm);
	if (ret)
		return ret;
	lock_acquire(&mm->family->lock);
	ret = mm->family->nr_devmems && mm->family->nr_mms == 1 ? -EBUSY : 0;
	lock_release(&mm->family->lock);
	if (ret)
		return ret;
	lost = mm->stats.lost_pages;
	release_notifiers(mm);
	if (mm->remote)
		return remote_destroy(mm);
	leave_process(mm);
	strict_stop(mm);
	/* A handler that ends may unmap memory of its own: nobody would read of that. */
	lock_acquire(&mm->lock);
	adopt_fill_all(mm, mm->uffd);
	mm_release_all(mm, true);
	adopt_close(mm);
	lock_release(&mm->lock);
	await_changes(mm);
	handlers_stop(mm->family);
	mm->alive = 0;
	lost = mm->stats.lost_pages - lost;
	mm_tables_fini(mm);
	family_free(mm->family);
	close_files(mm);
	arena_free(mm, sizeof(*mm));
	return lost ? -EIO : 0;
}

/* ---------------------------------------------------------------- the small calls */

uint64_t hmm_mm_flags(const struct hmm_mm *mm)
{
	return mm && mm->alive == MM_ALIVE ? mm->flags : 0;
}

size_t hmm_page_size(void)
{
	return sys_page_size();
}

uintptr_t hmm_user_end(void)
{
	return sys_task_size();
}

const char *hmm_version(void)
{
	return HMM_VERSION_STRING;
}

const char *hmm_reason_name(enum hmm_reason reason)
{
	static const char *const names[] = {
		[HMM_REASON_NONE] = "none",	    [HMM_REASON_PINNED] = "pinned",
		[HMM_REASON_SHARED] = "shared",	    [HMM_REASON_FILE] = "file",
		[HMM_REASON_LOCKED] = "locked",	    [HMM_REASON_FOREIGN] = "foreign",
		[HMM_REASON_RESERVED] = "reserved", [HMM_REASON_PROT] = "prot",
		[HMM_REASON_GAP] = "gap",	    [HMM_REASON_BUSY] = "busy",
		[HMM_REASON_NOMEM] = "nomem",	    [HMM_REASON_DEVICE] = "device",
		[HMM_REASON_COPY] = "copy",	    [HMM_REASON_KERNEL] = "kernel",
		[HMM_REASON_HUGETLB] = "hugetlb",
	};
	_Static_assert(ARRAY_SIZE(names) == HMM_REASONS, "name every reason");

	return (unsigned int)reason < HMM_REASONS ? names[reason] : "?";
}

static uint64_t metadata_bytes(struct hmm_mm *mm)
{
	const int pagemap_fd = mm->family->pagemap_fd;
	uint64_t bytes = directory_bytes(&mm->dir, pagemap_fd);

	for (uint32_t id = 1; id < DEVMEMS; id++) {
		struct hmm_devmem *d = devmem_use(mm->family, id);

		if (!d)
			continue;
		bytes += devmem_bytes(d, pagemap_fd);
		devmem_unuse(d);
	}
	return bytes;
}

int hmm_mm_stats(struct hmm_mm *mm, struct hmm_stats *stats)
{
	struct hmm_stats s;
	uint64_t size;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!stats || stats->size < sizeof(size) || stats->size > OPTS_SIZE_MAX)
		return -EINVAL;
	lock_acquire(&mm->lock);
	s = mm->stats;
	s.device_pages = mm->dir.count[PAGE_DEVICE] + mm->dir.count[PAGE_COHERENT];
	s.exclusive_pages = mm->dir.count[PAGE_EXCLUSIVE];
	s.metadata_bytes = metadata_bytes(mm);
	lock_release(&mm->lock);
	size = stats->size;
	s.size = size;
	memset(stats, 0, size);
	memcpy(stats, &s, size < sizeof(s) ? size : sizeof(s));
	return 0;
}

int hmm_mm_fault_times(struct hmm_mm *mm, struct hmm_times *times)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!times || times->size != sizeof(*times))
		return -EINVAL;
	lock_acquire(&mm->lock);
	*times = mm->fault_times;
	lock_release(&mm->lock);
	times->size = sizeof(*times);
	return 0;
}

static int copy_args(const struct hmm_mm *mm, const void *p, uintptr_t addr, size_t len)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	return p && len <= PTRDIFF_MAX && addr <= UINTPTR_MAX - len ? 0 : -EINVAL;
}

/*
 * How much of the range there is before a lost page: where the kernel has no marker
 * for one, a copy by it would wait for bytes that never come.
 */
static size_t before_lost(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	uintptr_t a = addr & ~(mm->page - 1), end = addr + len;

	if (mm->can_poison)
		return len;
	if (end > sys_task_size())
		end = sys_task_size();	/* nothing of ours is beyond: it would be looked for for ever */
	lock_acquire(&mm->lock);
	for (a = directory_next(&mm->dir, a, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end))
		if (entry_state(directory_get(&mm->dir, a)) == PAGE_LOST)
			break;
	lock_release(&mm->lock);
	return a >= end ? len : a > addr ? a - addr : 0;
}

int64_t hmm_copy_from_user(struct hmm_mm *mm, void *dst, uintptr_t addr, size_t len)
{
	int ret = copy_args(mm, dst, addr, len);

	if (ret || !len)
		return ret;
	len = before_lost(mm, addr, len);
	return len ? mm->ops->copy_from(mm, dst, addr, len) : -EFAULT;
}

int64_t hmm_copy_to_user(struct hmm_mm *mm, uintptr_t addr, const void *src, size_t len)
{
	int ret = copy_args(mm, src, addr, len);

	if (ret || !len)
		return ret;
	len = before_lost(mm, addr, len);
	return len ? mm->ops->copy_to(mm, addr, src, len) : -EFAULT;
}
