/* SPDX-License-Identifier: MIT */
/*
 * fork().
 *
 * The child of a local mm must not depend on its parent's life: a parent that dies
 * would take the child's pages with it, as zeros. So everything comes home before the
 * process forks, and nothing leaves until it has: libc's fork by pthread_atfork(), a
 * raw clone in a strict mm by its notification (strict.c). What is left is a raw
 * clone in an mm that is not strict: where we may have EVENT_FORK, child.c fills the
 * child with every page as it was at the fork; the kernel has kept MOVE and COPY from
 * changing one since (see events.c).
 */
#include <pthread.h>
#include <string.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/trace.h"

static pthread_once_t watch_once = PTHREAD_ONCE_INIT;
static int watch_error;

/* Are all bytes where a fork copies them? Lock held. */
static bool all_home(struct hmm_mm *mm)
{
	uint64_t away = 0;

	exclusive_restore(mm, 0, sys_task_size(), NULL);
	for (unsigned int s = PAGE_ISOLATED; s < PAGE_LOST; s++)
		away += mm->dir.count[s];
	return !away;
}

void fork_gate_close(struct hmm_mm *mm)
{
	bool home;

	lock_acquire(&mm->lock);
	mm->fork_gate++;
	lock_release(&mm->lock);
	do {
		mm_evict(mm, 0, sys_task_size(), NULL, true);
		lock_acquire(&mm->lock);
		home = all_home(mm);
		if (!home)
			isolation_wait(mm);
		lock_release(&mm->lock);
	} while (!home);
	lock_acquire(&mm->lock);
	adopt_fill_all(mm);	/* the child's memory is plain */
	mm_release_all(mm, false);	/* or the kernel would tell us of this fork too */
	mm_invalidate(mm, HMM_EVENT_FORK, 0, sys_task_size(), NULL);
	mm->stats.forks++;
	trace_moment(mm, HMM_TRACE_FORK, 0, 0, 0, 0);
	lock_release(&mm->lock);
}

void fork_gate_open(struct hmm_mm *mm)
{
	lock_acquire(&mm->lock);
	mm->fork_gate--;
	lock_release(&mm->lock);
}

/* The mm, which will not go away before mm_unuse(). */
struct hmm_mm *mm_use(void)
{
	struct process *process = process_peek();
	struct hmm_mm *mm;

	if (!process)
		return NULL;
	lock_acquire(&process->lock);
	mm = process->mm && process->mm->alive == MM_ALIVE ? process->mm : NULL;
	if (mm)
		mm->users++;
	lock_release(&process->lock);
	return mm;
}

void mm_unuse(struct hmm_mm *mm)
{
	struct process *process = mm->process;

	lock_acquire(&process->lock);
	mm->users--;
	lock_release(&process->lock);
}

/* The calling thread is, or is not, in libc's fork. */
static void announce(struct hmm_mm *mm, uint32_t from, uint32_t to)
{
	lock_acquire(&mm->lock);
	for (unsigned int i = 0; i < FORKERS_MAX; i++) {
		if (mm->forkers[i] != from)
			continue;
		mm->forkers[i] = to;
		break;
	}
	lock_release(&mm->lock);
}

bool fork_announced(struct hmm_mm *mm, uint32_t tid)
{
	bool found = false;

	lock_acquire(&mm->lock);
	for (unsigned int i = 0; i < FORKERS_MAX; i++)
		found |= mm->forkers[i] == tid;
	lock_release(&mm->lock);
	return found;
}

static void before_fork(void)
{
	struct hmm_mm *mm = mm_use();

	thread_state.forks = mm;
	if (!mm)
		return;
	stack_prepare();
	fork_gate_close(mm);
	announce(mm, 0, sys_gettid());
}

/* The mm can be the process's no more, and then waits for this. */
static void after_fork(void)
{
	struct hmm_mm *mm = thread_state.forks;

	if (!mm)
		return;
	thread_state.forks = NULL;
	announce(mm, sys_gettid(), 0);
	fork_gate_open(mm);
	mm_unuse(mm);
}

static void in_child(void)
{
	thread_state.forks = NULL;
	thread_state.tid = 0;
	thread_state.told = false;	/* the kernel has forgotten it */
}

static void watch(void)
{
	watch_error = -pthread_atfork(before_fork, after_fork, in_child);
}

int fork_watch(void)
{
	pthread_once(&watch_once, watch);
	return watch_error;
}
