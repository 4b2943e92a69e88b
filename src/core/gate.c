/* SPDX-License-Identifier: MIT */
/*
 * Announced changes of another process. What its agent can make in its place is a
 * transaction (transact.c). The rest the kernel makes itself, some time after it was
 * told to go on; meanwhile what it concerns is held at home:
 *
 *	program				monitor				policy
 *	-------				-------				------
 *	mmap(A, fixed, file)		gate [A)			.
 *	  (stopped by the filter)	bring [A) home			take [A): BUSY
 *	  .				CONTINUE			.
 *	  made by the kernel		(sees the thread out of it)	.
 *	.				drop what is unmapped		.
 *	.				open the gate			.
 *
 * Memory where nothing was concerns nobody, but for who shall serve its first touches:
 * that is decided before it is mapped, and where we shall, it is trapped when it is there.
 */
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "core/devmem.h"
#include "core/remote.h"
#include "core/trace.h"
#include "sys/seccomp.h"

bool remote_gated(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	for (const struct gate *g = mm->remote->gates; g; g = g->next)
		if (start < g->end && end > g->start)
			return true;
	return false;
}

bool remote_leaving(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	for (const struct gate *g = mm->remote->gates; g; g = g->next)
		if (g->leaving && start < g->end && end > g->start)
			return true;
	return false;
}

void gates_free(struct hmm_mm *mm)
{
	struct gate *g, *next;

	for (g = mm->remote->gates; g; g = next) {
		next = g->next;
		arena_free(g, sizeof(*g));
	}
	mm->remote->gates = NULL;
}

/* What is mapped at @addr. Lock held. */
static void span_of_mapping(struct hmm_mm *mm, uintptr_t addr, uintptr_t *start, uintptr_t *end)
{
	struct sys_vma vma;

	*start = *end = 0;
	if (sys_vma_find(mm->maps_fd, addr, &vma) || vma.start > addr)
		return;
	*start = vma.start;
	*end = vma.end;
}

/* From the new end of the heap to the old. Lock held. */
static void span_of_brk(struct hmm_mm *mm, uintptr_t brk, uintptr_t *start, uintptr_t *end)
{
	struct sys_vma vma;

	*start = (brk + mm->page - 1) & ~(mm->page - 1);
	*end = *start;
	if (brk && brk < sys_task_size() && !sys_vma_find(mm->maps_fd, *start, &vma) &&
	    vma.start <= *start)
		*end = vma.end;
}

/* What a call that the kernel makes itself can change; unknown ones: anything. Lock held. */
static void span_of_call(struct hmm_mm *mm, const struct sys_notif *n, uintptr_t *start,
			 uintptr_t *end)
{
	switch (n->nr) {
	case SYS_munmap:
	case SYS_mmap:
	case SYS_madvise:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_mlock:
	case SYS_mlock2:
	case SYS_remap_file_pages:
	case SYS_ioctl:
		mm_span(mm, n->args[0], n->args[1], start, end);
		return;
	case SYS_brk:
		span_of_brk(mm, n->args[0], start, end);
		return;
	case SYS_shmdt:
		span_of_mapping(mm, n->args[0], start, end);
		return;
	case SYS_shmat:
		span_of_mapping(mm, n->args[1], start, end);
		return;
	default:
		*start = 0;
		*end = sys_task_size();
	}
}

static bool by_agent(const struct hmm_mm *mm, const struct sys_notif *n)
{
	if (!mm->remote->attached || remote_gone(mm->remote))
		return false;
	switch (n->nr) {
	case SYS_munmap:
	case SYS_mremap:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_brk:
	case SYS_shmat:
	case SYS_shmdt:
		return true;
	case SYS_madvise:
		/* Anything else touches memory, and could wait for those who wait for it. */
		return mm_discards(n->args[2]);
	case SYS_mmap:
		return (n->args[3] & MAP_ANONYMOUS) &&
		       !(n->args[3] & (MAP_LOCKED | (mm_maps_over(n) ? MAP_POPULATE : 0)));
	default:
		return false;
	}
}

/*
 * A range that the program is going to trap by a userfaultfd of its own: a mapping can be
 * one's alone. What is beside it in its mapping stays as it is. Lock held.
 */
static void leave_to_program(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct sys_vma vma;

	for (uintptr_t a = start; a < end && !sys_vma_find(mm->maps_fd, a, &vma) &&
				  vma.start < end; a = vma.end) {
		uintptr_t low = vma.start > start ? vma.start : start;
		uintptr_t high = vma.end < end ? vma.end : end;

		if (mm_vma_anonymous(mm, &vma))
			(void)sys_uffd_unregister(mm->uffd, low, high - low);
	}
}

/* Lock held, dropped meanwhile. */
static int hold_home(struct hmm_mm *mm, const struct sys_notif *n)
{
	struct gate *g = arena_alloc(sizeof(*g));
	uintptr_t start, end;

	if (!g)
		return -ENOMEM;
	if (mm->maps_fd < 0)	/* nobody has attached it yet: its thread tells where it is */
		(void)remote_open_files(mm, (int)n->tid);
	span_of_call(mm, n, &start, &end);
	*g = (struct gate){ mm->remote->gates, n->tid, start, end, n->nr == SYS_ioctl };
	mm->remote->gates = g;
	mm->stats.changes++;
	mm_vma_forget(mm);
	if (start >= end)
		return 0;
	mm_invalidate(mm, HMM_EVENT_UNMAP, start, end, NULL);
	if (n->nr == SYS_mprotect || n->nr == SYS_pkey_mprotect)
		return 0;	/* the bytes may be anywhere */
	exclusive_restore(mm, start, end, NULL);
	lock_release(&mm->lock);
	mm_evict(mm, start, end, NULL, true);
	lock_acquire(&mm->lock);
	if (n->nr == SYS_ioctl && mm->maps_fd >= 0)
		leave_to_program(mm, start, end);
	return 0;
}

/* The range of ioctl(UFFDIO_REGISTER) is in the caller's memory. No lock held. */
static void read_range(struct sys_notif *n)
{
	struct uffdio_range range = { 0 };

	/* EFAULT is the kernel's to say. */
	if (sys_vm_read((int)n->tid, &range, n->args[2], sizeof(range)) != sizeof(range))
		memset(&range, 0, sizeof(range));
	n->args[0] = range.start;
	n->args[1] = range.len;
}

/*
 * Memory where nothing was is the kernel's to map, unless too much is by now: or could be
 * when all that is under way has been.
 */
static bool is_free_to_map(struct hmm_mm *mm, const struct sys_notif *n)
{
	uintptr_t start, end;

	if (n->nr != SYS_mmap || mm_maps_over(n))
		return false;
	mm_span(mm, 0, n->args[1], &start, &end);
	family_mapped(mm->family, end / mm->page);
	return family_may_map(mm->family) || !by_agent(mm, n);
}

int hmm_remote_pass(struct hmm_mm *mm, uint32_t tid, uint64_t nr, const uint64_t args[6])
{
	struct sys_notif n = { .tid = tid, .nr = (int)nr };
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!mm->remote || !args || !tid)
		return -EINVAL;
	memcpy(n.args, args, sizeof(n.args));
	if (!lock_try(&mm->lock))
		return 0;
	ret = pass_give(mm, &n);
	if (ret)
		mm_trace_change(mm, &n, trace_begin(mm), HMM_CHANGE_IGNORE);
	lock_release(&mm->lock);
	return ret;
}

int hmm_remote_change(struct hmm_mm *mm, uint32_t tid, uint64_t nr, const uint64_t args[6],
		      int64_t *result)
{
	struct sys_notif n = { .tid = tid, .nr = (int)nr };
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!mm->remote || !args || !result)
		return -EINVAL;
	memcpy(n.args, args, sizeof(n.args));
	if (is_free_to_map(mm, &n)) {
		*result = HMM_CHANGE_IGNORE;
		if (lock_try(&mm->lock)) {
			pass_return(mm, tid);
			lock_release(&mm->lock);
		}
		return 0;
	}
	if (n.nr == SYS_ioctl)
		read_range(&n);
	*result = HMM_CHANGE_CONTINUE;
	lock_acquire(&mm->lock);
	pass_return(mm, tid);
	remote_wait_fork(mm, tid);
	mm->remote->changes++;
	if (by_agent(mm, &n)) {
		lock_release(&mm->lock);
		*result = mm_transact(mm, &n);
		lock_acquire(&mm->lock);
	} else if (!remote_gone(mm->remote)) {
		const uint64_t begin_ns = trace_begin(mm);

		ret = hold_home(mm, &n);
		mm_trace_change(mm, &n, begin_ns, HMM_CHANGE_CONTINUE);
	}
	if (!--mm->remote->changes)
		isolation_wake(mm);
	lock_release(&mm->lock);
	return ret;
}

/* The call has been made, or not. Lock held. */
static void settle(struct hmm_mm *mm, const struct gate *g)
{
	if (g->start >= g->end)
		return;
	mm_invalidate(mm, HMM_EVENT_UNMAP, g->start, g->end, NULL);
	mm_vma_forget(mm);
	if (mm->maps_fd < 0)
		return;
	mm_drop_gaps(mm, g->start, g->end);
	if (g->end < sys_task_size())
		mm_vma_join(mm, g->start, g->end);
}

void hmm_remote_change_end(struct hmm_mm *mm, uint32_t tid)
{
	struct gate **at, *g;

	if (mm_enter(mm) || !mm->remote)
		return;
	lock_acquire(&mm->lock);
	for (at = &mm->remote->gates; (g = *at); ) {
		if (g->tid != tid) {
			at = &g->next;
			continue;
		}
		*at = g->next;
		settle(mm, g);
		arena_free(g, sizeof(*g));
	}
	lock_release(&mm->lock);
}
