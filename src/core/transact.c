/* SPDX-License-Identifier: MIT */
/*
 * A change of mappings that was announced before it is made, as one transaction with
 * the tables:
 *
 *	program				who heard of it
 *	-------				---------------
 *	munmap(A)			lock mm
 *	  (stopped by the filter)	  invalidate [A): devices let go
 *	  .				  munmap(A), with the cookie
 *	  .				  drop [A) from the directory
 *	  .				unlock
 *	returns what it returned
 *
 * Start and end are both known and nothing is in between. In another process the call
 * is made by its agent, and what that says it returned is a hint: nothing here may go
 * wrong for anybody but that process when it lies.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/trace.h"
#include "sys/seccomp.h"

/* For pages in flight before a mapping is moved onto another. */
#define FLIGHT_PATIENCE_NS	(200 * 1000000ULL)

static uintptr_t page_up(const struct hmm_mm *mm, uintptr_t a)
{
	return (a + mm->page - 1) & ~(mm->page - 1);
}

void mm_span(const struct hmm_mm *mm, uint64_t addr, uint64_t len, uintptr_t *start,
	     uintptr_t *end)
{
	*start = (uintptr_t)addr & ~(mm->page - 1);
	*end = page_up(mm, (uintptr_t)(addr + len));
	if (addr + len < addr || *end > sys_task_size() || *end < *start)
		*start = *end = 0;
}

bool mm_discards(uint64_t advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
	       advice == UHMM_MADV_DONTNEED_LOCKED || advice == UHMM_MADV_GUARD_INSTALL;
}

/* MAP_FIXED_NOREPLACE wins over MAP_FIXED where both are given. */
bool mm_maps_over(const struct sys_notif *n)
{
	return (n->args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED;
}

void mm_drop_gaps(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	uintptr_t a = directory_next(&mm->dir, start, end);

	while (a < end) {
		struct sys_vma vma;
		int ret = mm_vma(mm, a, &vma);
		uintptr_t stop = ret || vma.start > end ? end : vma.start;

		if (ret && ret != -ENOENT)
			return;		/* nobody can tell what is mapped */
		if (ret || vma.start > a)
			mm_drop(mm, a, stop);
		else
			stop = vma.end;
		a = directory_next(&mm->dir, stop, end);
	}
}

static bool writable(uint64_t prot)
{
	return prot & PROT_WRITE;
}

/* So much more can be touched. Before the run is settled; lock held. */
static void mapped(struct hmm_mm *mm, uint64_t bytes)
{
	family_mapped(mm->family, bytes / mm->page);
}

static int64_t do_unmap(struct hmm_mm *mm, const struct sys_notif *n, uintptr_t start,
			uintptr_t end)
{
	int64_t ret;

	mm_invalidate(mm, HMM_EVENT_UNMAP, start, end, NULL);
	ret = mm->ops->perform(mm, n);
	if (ret < 0 && ret > -4096) {
		mm_drop_gaps(mm, start, end);
		return ret;
	}
	mm_drop(mm, start, end);
	adopt_forget(mm, start, end);
	if (n->nr == SYS_mmap) {
		mapped(mm, writable(n->args[2]) ? end - start : 0);
		mm_vma_join(mm, start, end);
	}
	return ret;
}

/*
 * Where nothing was. It was announced for its first touches alone, which are not to be
 * the kernel's, so none are made in advance; and counted then (hmm_remote_change()).
 */
static int64_t do_map(struct hmm_mm *mm, const struct sys_notif *n)
{
	struct sys_notif bare = *n;
	int64_t ret;

	bare.args[3] &= ~(uint64_t)MAP_POPULATE;
	ret = mm->ops->perform(mm, &bare);
	if (ret >= 0 || ret <= -4096)
		mm_vma_join(mm, (uintptr_t)ret, (uintptr_t)ret + 1);
	return ret;
}

static int64_t do_munmap(struct hmm_mm *mm, const struct sys_notif *n)
{
	uintptr_t start, end;

	mm_span(mm, n->args[0], n->args[1], &start, &end);
	return do_unmap(mm, n, start, end);
}

/*
 * A mapping that is mlocked is faulted in where it grows, by the call itself: it would
 * wait for a handler that waits for our lock. Such a mapping has everything at home, so
 * one that has is not trapped while it grows.
 */
static void let_grow(struct hmm_mm *mm, uintptr_t addr)
{
	struct sys_vma vma;

	if (!sys_vma_find(mm->maps_fd, addr, &vma) && vma.start <= addr &&
	    mm_vma_anonymous(mm, &vma) &&
	    directory_next(&mm->dir, vma.start, vma.end) == vma.end)
		(void)sys_uffd_unregister(mm->uffd, vma.start, vma.end - vma.start);
}

static int64_t do_brk(struct hmm_mm *mm, const struct sys_notif *n)
{
	struct sys_notif query = { .nr = SYS_brk };
	uintptr_t start = page_up(mm, n->args[0]), old, now, at;
	int64_t ret = mm->ops->perform(mm, &query);

	/* The kernel refuses by telling where the break is: an error is that none was asked. */
	if (ret < 0)
		return ret;
	old = page_up(mm, (uintptr_t)ret);
	if (start < old && n->args[0])
		mm_invalidate(mm, HMM_EVENT_UNMAP, start, old, NULL);
	else if (start > old)
		let_grow(mm, old - mm->page);
	ret = mm->ops->perform(mm, n);
	if (ret < 0)
		return ret;
	now = page_up(mm, (uintptr_t)ret);
	at = now > old ? old : old - mm->page;
	if (now < old)
		mm_drop(mm, now, old);
	mapped(mm, now > old ? now - old : 0);
	if (now >= old && start > old)
		mm_vma_join(mm, at, at + 1);
	return ret;
}

static int64_t do_protect(struct hmm_mm *mm, const struct sys_notif *n)
{
	uintptr_t start, end;
	int64_t ret;

	if (n->nr == SYS_pkey_mprotect && (int)n->args[3] > 0)
		mm->keyed = true;
	mm_span(mm, n->args[0], n->args[1], &start, &end);
	mm_invalidate(mm, HMM_EVENT_PROTECT, start, end, NULL);
	ret = mm->ops->perform(mm, n);
	if (ret || !writable(n->args[2]))
		return ret;
	mapped(mm, end - start);
	if (!family_may_map(mm->family))
		mm_vma_join(mm, start, end);
	return 0;
}

/*
 * What may go at any later moment goes now: it would go unannounced under a device that
 * has been told that it may touch the page, whose fault would wait for who announces to it.
 */
static int64_t zap_part(struct hmm_mm *mm, struct sys_notif *part)
{
	int64_t ret = mm->ops->perform(mm, part);

	if (ret || mm->remote || part->args[2] != MADV_FREE)
		return ret;
	part->args[2] = MADV_DONTNEED;
	ret = mm->ops->perform(mm, part);
	part->args[2] = MADV_FREE;
	return ret;
}

/*
 * Mapping by mapping, because what the kernel did before it failed is done: it zaps
 * what is mapped and then says ENOMEM for a gap, or stops at a mapping it refuses.
 */
static int64_t do_zap_range(struct hmm_mm *mm, uintptr_t start, uintptr_t end, uint64_t advice)
{
	struct sys_notif part = { .nr = SYS_madvise, .args = { 0, 0, advice } };
	int64_t result = 0;

	mm_invalidate(mm, HMM_EVENT_CLEAR, start, end, NULL);
	while (start < end) {
		struct sys_vma vma;
		uintptr_t stop;
		int64_t ret;

		if (mm_vma(mm, start, &vma) || vma.start >= end)
			return -ENOMEM;
		if (vma.start > start) {
			result = -ENOMEM;
			start = vma.start;
		}
		stop = vma.end < end ? vma.end : end;
		part.args[0] = start;
		part.args[1] = stop - start;
		ret = zap_part(mm, &part);
		if (ret)
			return ret;
		mm_drop(mm, start, stop);
		start = stop;
	}
	return result;
}

static int64_t do_madvise(struct hmm_mm *mm, const struct sys_notif *n)
{
	uintptr_t start, end;

	mm_span(mm, n->args[0], n->args[1], &start, &end);
	/* Nothing to do, or nothing that makes sense: the kernel has the right error. */
	if (start == end || n->args[0] != start)
		return mm->ops->perform(mm, n);
	return do_zap_range(mm, start, end, n->args[2]);
}

static bool sane(const struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	return !(addr & (mm->page - 1)) && addr < sys_task_size() && len <= sys_task_size() - addr;
}

/* What mremap left where it was, or put elsewhere. */
static void remapped(struct hmm_mm *mm, const struct sys_notif *n, uintptr_t to)
{
	uintptr_t from = (uintptr_t)n->args[0];
	size_t old_len = page_up(mm, n->args[1]), new_len = page_up(mm, n->args[2]);
	size_t kept = old_len < new_len ? old_len : new_len;

	if (!sane(mm, from, old_len) || !sane(mm, to, new_len))
		return;		/* no kernel has done that */
	mapped(mm, new_len > old_len ? new_len - old_len : 0);
	if (n->args[3] & UHMM_MREMAP_DONTUNMAP)
		kept = old_len;
	mm_drop(mm, from + kept, from + old_len);
	adopt_forget(mm, from + kept, from + old_len);
	if (to == from)
		return;
	mm_drop(mm, to, to + new_len);
	adopt_forget(mm, to, to + new_len);
	mm_rekey(mm, from, to, kept);
	adopt_follow(mm, from, to, kept, n->args[3] & UHMM_MREMAP_DONTUNMAP);
	mm_vma_join(mm, to, to + new_len);
}

/*
 * mremap works inside one mapping. Where the range is in parts because only some are
 * trapped, the kernel merges them as soon as all are.
 */
static void heal(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct sys_vma vma;

	if (!mm_vma(mm, start, &vma) && vma.start <= start && vma.end < end &&
	    mm_vma_anonymous(mm, &vma))
		(void)mm_vma_register(mm, &vma);
}

/*
 * Is [start, end) several private anonymous mappings of one protection, end to end?
 * Then without us the kernel might have made them one: it merges only neighbours that
 * were trapped alike when they were first touched.
 */
static bool in_like_parts(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	const uint32_t rights = SYS_VMA_READ | SYS_VMA_WRITE | SYS_VMA_EXEC;
	struct sys_vma vma, next;

	if (start >= end || sys_vma_find(mm->maps_fd, start, &vma) || vma.start > start)
		return false;
	for (uintptr_t a = start; a < end; a = next.end)
		if (sys_vma_find(mm->maps_fd, a, &next) || next.start > a ||
		    !mm_vma_anonymous(mm, &next) || ((next.flags ^ vma.flags) & rights))
			return false;
	return vma.end < end;
}

static int64_t move_part(struct hmm_mm *mm, uintptr_t from, size_t len, size_t new_len,
			 uintptr_t to, uint64_t flags)
{
	const struct sys_notif part = { .nr = SYS_mremap, .args = { from, len, new_len, flags, to } };

	return mm->ops->perform(mm, &part);
}

/* In as many parts as it has come to be in. */
static void move_back(struct hmm_mm *mm, uintptr_t start, uintptr_t end, uintptr_t to)
{
	struct sys_vma vma;
	uintptr_t stop;

	for (uintptr_t a = start; a < end && !sys_vma_find(mm->maps_fd, a, &vma); a = stop) {
		stop = vma.end < end ? vma.end : end;
		(void)move_part(mm, a, stop - a, stop - a, to + (a - start),
				MREMAP_MAYMOVE | MREMAP_FIXED);
	}
}

/*
 * Parts [start, end) to @to, the last growing by @grow. Undone if one cannot go. The
 * first page is a part by itself: a mapping that DONTUNMAP empties in one call could
 * never be merged with its neighbours again.
 */
static int64_t move_parts(struct hmm_mm *mm, uintptr_t start, uintptr_t end, uintptr_t to,
			  size_t grow, uint64_t flags)
{
	uintptr_t a = start, stop;
	int64_t ret = 0;

	for (; a < end; a = stop) {
		struct sys_vma vma;

		ret = sys_vma_find(mm->maps_fd, a, &vma) ? -EFAULT : 0;
		if (ret)
			break;
		stop = vma.end < end ? vma.end : end;
		if (a == start && stop - a > mm->page)
			stop = a + mm->page;
		ret = move_part(mm, a, stop - a, stop - a + (stop == end ? grow : 0),
				to + (a - start), flags);
		if (ret < 0 && ret > -4096)
			break;
	}
	if (a < end)
		move_back(mm, to, to + (a - start), start);
	return a < end ? ret : (int64_t)to;
}

static void unmap(struct hmm_mm *mm, uintptr_t start, size_t len)
{
	const struct sys_notif call = { .nr = SYS_munmap, .args = { start, len } };

	(void)mm->ops->perform(mm, &call);
}

/* What mremap would do if the parts were one mapping. */
static int64_t move_in_parts(struct hmm_mm *mm, const struct sys_notif *n, uintptr_t start,
			     uintptr_t end)
{
	size_t old_len = end - start, new_len = page_up(mm, n->args[2]);
	const struct sys_notif room = { .nr = SYS_mmap, .args = { 0, new_len, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1, 0 } };
	int64_t to = (int64_t)n->args[4], ret;

	if (!(n->args[3] & MREMAP_MAYMOVE) || !new_len)
		return -EFAULT;
	if (!(n->args[3] & MREMAP_FIXED)) {
		to = mm->ops->perform(mm, &room);
		if (to < 0 && to > -4096)
			return to;
	}
	ret = move_parts(mm, start, start + (old_len < new_len ? old_len : new_len), (uintptr_t)to,
			 new_len > old_len ? new_len - old_len : 0,
			 n->args[3] | MREMAP_FIXED | MREMAP_MAYMOVE);
	if (ret == to && new_len < old_len)
		unmap(mm, start + new_len, old_len - new_len);
	if (ret != to && !(n->args[3] & MREMAP_FIXED))
		unmap(mm, (uintptr_t)to, new_len);
	return ret;
}

/* Of [start, end), of several parts alike, the last one grows, as all of it would. */
static int64_t grow_last(struct hmm_mm *mm, uintptr_t start, uintptr_t end, size_t grow)
{
	struct sys_vma vma;
	int64_t ret;

	for (; !sys_vma_find(mm->maps_fd, start, &vma) && vma.end < end; start = vma.end)
		;
	let_grow(mm, start);
	ret = move_part(mm, start, end - start, end - start + grow, 0, 0);
	mm_vma_join(mm, start, start + 1);
	return ret;
}

/* In place, as the kernel would try first. -ENOMEM: it has to move. */
static int64_t resize_in_place(struct hmm_mm *mm, const struct sys_notif *n)
{
	const bool grows = n->args[2] > n->args[1];
	struct sys_notif in_place = *n;
	uintptr_t start, end;
	int64_t ret;

	mm_span(mm, n->args[0], n->args[1], &start, &end);
	in_place.args[3] &= ~(uint64_t)MREMAP_MAYMOVE;
	if (grows)
		let_grow(mm, (uintptr_t)n->args[0]);
	ret = mm->ops->perform(mm, &in_place);
	if (ret == -EFAULT && grows && in_like_parts(mm, start, end)) {
		ret = grow_last(mm, start, end, page_up(mm, n->args[2]) - (end - start));
		ret = ret < 0 ? ret : (int64_t)start;
	}
	if (ret == (int64_t)n->args[0])
		remapped(mm, n, (uintptr_t)ret);
	if (grows)
		mm_vma_join(mm, start, start + 1);
	return ret;
}

/*
 * A mapping that moves loses its registration, and so does, with it, a registered
 * neighbour of the new place that the kernel merges it with, whose pages may be away.
 * So it is let go before, alone, and taken up again at its new place. Who touches it
 * in between races with its move; with MREMAP_FIXED that may be meant (the new place
 * is replaced in one step), so then all of it is home (before_change()).
 */
static int64_t do_mremap(struct hmm_mm *mm, const struct sys_notif *n)
{
	const uint64_t elsewhere = MREMAP_FIXED | UHMM_MREMAP_DONTUNMAP;
	uintptr_t start, end, fixed = 0, fixed_end = 0;
	int64_t ret;

	mm_span(mm, n->args[0], n->args[1], &start, &end);
	heal(mm, start, end);
	if (n->args[3] & MREMAP_FIXED)
		mm_span(mm, n->args[4], n->args[2], &fixed, &fixed_end);
	mm_invalidate(mm, HMM_EVENT_UNMAP, start, end, NULL);
	if (fixed != fixed_end)
		mm_invalidate(mm, HMM_EVENT_UNMAP, fixed, fixed_end, NULL);
	if (!(n->args[3] & elsewhere)) {
		ret = resize_in_place(mm, n);
		if ((ret != -ENOMEM && ret != -EFAULT) || !(n->args[3] & MREMAP_MAYMOVE))
			return ret;
	}
	if (start < end)
		(void)sys_uffd_unregister(mm->uffd, start, end - start);
	if ((n->args[3] & UHMM_MREMAP_DONTUNMAP) && end - start == page_up(mm, n->args[2]) &&
	    end - start > mm->page)
		ret = move_in_parts(mm, n, start, end);
	else
		ret = mm->ops->perform(mm, n);
	if (ret == -EFAULT && in_like_parts(mm, start, end))
		ret = move_in_parts(mm, n, start, end);
	if (ret >= 0 || ret <= -4096) {
		remapped(mm, n, (uintptr_t)ret);
		mm_vma_join(mm, start, end);
		return ret;
	}
	mm_drop_gaps(mm, fixed, fixed_end);
	mm_vma_join(mm, start, end);
	return ret;
}

/* Of shared memory only the address is given: what is mapped there, to its end. */
static int64_t do_shmdt(struct hmm_mm *mm, const struct sys_notif *n)
{
	uintptr_t addr = (uintptr_t)n->args[0];
	struct sys_vma vma;

	if (mm_vma(mm, addr, &vma) || vma.start > addr)
		return mm->ops->perform(mm, n);
	return do_unmap(mm, n, vma.start, vma.end);
}

/* With SHM_REMAP. How far the segment reaches is known when it is there. */
static int64_t do_shmat(struct hmm_mm *mm, const struct sys_notif *n)
{
	uintptr_t start = (uintptr_t)n->args[1] & ~(mm->page - 1);
	struct sys_vma vma;
	int64_t ret;

	if (start >= sys_task_size())
		return mm->ops->perform(mm, n);
	mm_invalidate(mm, HMM_EVENT_UNMAP, start, sys_task_size(), NULL);
	ret = mm->ops->perform(mm, n);
	if (sane(mm, (uintptr_t)ret, 0) && !sys_vma_find(mm->maps_fd, (uintptr_t)ret, &vma))
		mm_drop(mm, (uintptr_t)ret, vma.end);
	return ret;
}

/*
 * Whose ranges these are is in the descriptor: with everything at home (before_change())
 * it need not be known, but for what is in flight still. A kernel that discards by this
 * call does it to the caller's own memory alone, so what it discarded is ours, and goes
 * out of the flights too.
 */
static int64_t discard_ranges(struct hmm_mm *mm, const struct sys_notif *n,
			      const struct iovec *ranges, size_t nr)
{
	struct sys_notif part = *n;
	int64_t done = 0, ret = 0;

	mm_release_all(mm, false);
	mm_invalidate(mm, HMM_EVENT_CLEAR, 0, sys_task_size(), NULL);
	part.args[2] = 1;
	for (size_t i = 0; i < nr; i++) {
		uintptr_t start = (uintptr_t)ranges[i].iov_base;

		part.args[1] = (uintptr_t)&ranges[i];
		ret = mm->ops->perform(mm, &part);
		if (ret < 0)
			break;
		mm_drop(mm, start, start + (uintptr_t)ret);
		done += ret;
		if ((uint64_t)ret < ranges[i].iov_len)
			break;
	}
	return ret < 0 && !done ? ret : done;
}

/* Changes that are made here, under the lock. */
static int64_t transact(struct hmm_mm *mm, const struct sys_notif *n)
{
	mm->stats.changes++;
	mm_vma_forget(mm);
	switch (n->nr) {
	case SYS_munmap:
		return do_munmap(mm, n);
	case SYS_mmap:
		return mm_maps_over(n) ? do_munmap(mm, n) : do_map(mm, n);
	case SYS_brk:
		return do_brk(mm, n);
	case SYS_mremap:
		return do_mremap(mm, n);
	case SYS_madvise:
		return do_madvise(mm, n);
	case SYS_shmat:
		return do_shmat(mm, n);
	case SYS_shmdt:
		return do_shmdt(mm, n);
	default:
		return do_protect(mm, n);
	}
}

/* Device and exclusive pages of the range, and flights that will end. Lock held. */
static bool some_away(struct hmm_mm *mm, uintptr_t start, uintptr_t end, bool flights)
{
	for (uintptr_t a = directory_next(&mm->dir, start, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end)) {
		enum page_state state = entry_state(directory_get(&mm->dir, a));

		if (state != PAGE_LOST && (flights || state != PAGE_ISOLATED))
			return true;
	}
	return false;
}

/* What has to be home for the change. */
static void wanted_home(const struct hmm_mm *mm, const struct sys_notif *n, uintptr_t *start,
			uintptr_t *end)
{
	*start = *end = 0;
	if (n->nr == SYS_process_madvise)
		*end = sys_task_size();
	else if (n->nr == SYS_mremap && (n->args[3] & (MREMAP_FIXED | UHMM_MREMAP_DONTUNMAP)))
		mm_span(mm, n->args[0], n->args[1], start, end);
}

/*
 * Takes the mm lock for the change, with what has to be home for it at home. A flight
 * may be the caller's own and wait for this very change: it is waited for only so long.
 */
static void before_change(struct hmm_mm *mm, const struct sys_notif *n)
{
	uint64_t deadline = sys_now_ns() + FLIGHT_PATIENCE_NS;
	uintptr_t start, end;

	lock_acquire(&mm->lock);
	wanted_home(mm, n, &start, &end);
	while (some_away(mm, start, end, sys_now_ns() < deadline)) {
		exclusive_restore(mm, start, end, NULL);
		lock_release(&mm->lock);
		mm_evict(mm, start, end, NULL, false);
		lock_acquire(&mm->lock);
		if (some_away(mm, start, end, true))
			isolation_wait(mm);
	}
}

/* What of the address space the call names. */
static void named_span(const struct hmm_mm *mm, const struct sys_notif *n, uintptr_t *start,
		       uintptr_t *end)
{
	*start = *end = 0;
	switch (n->nr) {
	case SYS_brk:
	case SYS_shmdt:
		*start = *end = n->args[0];
		break;
	case SYS_shmat:
		*start = *end = n->args[1];
		break;
	case SYS_process_madvise:
	case SYS_mlockall:
		break;
	default:
		mm_span(mm, n->args[0], n->args[1], start, end);
	}
}

void mm_trace_change(struct hmm_mm *mm, const struct sys_notif *n, uint64_t begin_ns,
		     int64_t result)
{
	struct hmm_trace_event event = {
		.type = HMM_TRACE_CHANGE, .what = (uint32_t)n->nr, .begin_ns = begin_ns,
		.thread = n->tid, .result = result,
	};
	uintptr_t start, end;

	if (!tracing(mm))
		return;
	named_span(mm, n, &start, &end);
	event.start = start;
	event.end = end;
	trace_event(mm, &event);
}

/*
 * The ranges are in the caller's memory, which may be trapped: they are read before the
 * lock is taken, and the kernel is given what was read. It has the right answer to none,
 * and to too many.
 */
static int64_t transact_ranges(struct hmm_mm *mm, const struct sys_notif *n)
{
	size_t nr = (size_t)n->args[2], size = nr * sizeof(struct iovec);
	const uint64_t begin_ns = trace_begin(mm);
	struct iovec *ranges;
	int64_t ret;

	if (!nr || nr > UIO_MAXIOV)
		return mm->ops->perform(mm, n);
	ranges = arena_alloc(size);
	if (!ranges)
		return -ENOMEM;
	if (sys_copy_from(ranges, (uintptr_t)n->args[1], size) != (ssize_t)size) {
		arena_free(ranges, size);
		return -EFAULT;
	}
	before_change(mm, n);
	mm->stats.changes++;
	mm_vma_forget(mm);
	ret = discard_ranges(mm, n, ranges, nr);
	mm_trace_change(mm, n, begin_ns, ret);
	lock_release(&mm->lock);
	arena_free(ranges, size);
	return ret;
}

int64_t mm_transact(struct hmm_mm *mm, const struct sys_notif *n)
{
	const uint64_t begin_ns = trace_begin(mm);
	int64_t ret;

	if (n->nr == SYS_process_madvise)
		return transact_ranges(mm, n);
	before_change(mm, n);
	ret = transact(mm, n);
	mm_trace_change(mm, n, begin_ns, ret);
	lock_release(&mm->lock);
	return ret;
}
