/* SPDX-License-Identifier: MIT */
#include "core/vma.h"

#include <string.h>

#include "core/mm.h"
#include "core/remote.h"

void mm_vma_begin(struct hmm_mm *mm)
{
	lock_assert_held(&mm->lock);
	mm->tcbs.valid = false;
}

void mm_vma_forget(struct hmm_mm *mm)
{
	memset(&mm->vma_cache, 0, sizeof(mm->vma_cache));
}

static void tcb_add(uintptr_t addr, bool main, void *ctx)
{
	struct tcb_list *list = ctx;

	list->tcb[list->nr++] = (struct tcb){ addr, main };
}

/* How often all threads are asked for, while some end. */
#define TCB_LOOKS	16

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
	int ret = -EAGAIN;

	if (list->valid)
		return list;
	list->valid = true;
	now = sys_now_ns();
	if (mm->ops->threads_mark)
		mark = mm->ops->threads_mark(mm, &nr);
	if (mark && mark == list->mark && now - list->looked_ns < TCBS_KEPT_NS)
		return list;
	mm_vma_forget(mm);
	for (int i = 0; i < TCB_LOOKS && ret == -EAGAIN; i++) {
		list->nr = 0;
		ret = mm->ops->for_each_tcb(mm, tcb_add, list);
	}
	list->overflow = ret != 0;
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
	mm_vma_forget(mm);
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
