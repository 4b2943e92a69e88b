/* SPDX-License-Identifier: MIT */
#include "core/thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include "core/arena.h"

struct thread {
	pthread_t id;
	void *stack;		/* a chunk; its lowest page is the guard */
};

/* All signals stay blocked in what @fn starts, and as they were in the caller. */
static int start_blocked(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(id, attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

/*
 * glibc links the control blocks of threads with stacks of their own in a list, and in
 * a forked child takes the caller out of it by writing to its neighbours: there our
 * stacks must be something, if only zeros.
 */
static int stack_inherit(void *stack)
{
	int ret = sys_madvise(stack, arena_chunk_bytes(), MADV_DOFORK);

	return ret ? ret : sys_madvise(stack, arena_chunk_bytes(), MADV_WIPEONFORK);
}

static void stack_disinherit(void *stack)
{
	sys_madvise(stack, arena_chunk_bytes(), MADV_DONTNEED);
	sys_madvise(stack, arena_chunk_bytes(), MADV_KEEPONFORK);
	sys_madvise(stack, arena_chunk_bytes(), MADV_DONTFORK);
	sys_mprotect(stack, arena_chunk_bytes(), PROT_NONE);
}

int thread_start(void *(*fn)(void *), void *arg, struct thread **out)
{
	const size_t page = sys_page_size(), bytes = arena_chunk_bytes();
	struct thread *t = arena_alloc(sizeof(*t));
	pthread_attr_t attr;
	int ret = -ENOMEM;

	if (!t)
		return ret;
	if (arena_chunks_get(1, &t->stack))
		goto err_free;
	ret = sys_mprotect((char *)t->stack + page, bytes - page, PROT_READ | PROT_WRITE);
	if (!ret)
		ret = stack_inherit(t->stack);
	if (ret)
		goto err_chunk;
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, (char *)t->stack + page, bytes - page);
	ret = start_blocked(&t->id, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	if (ret)
		goto err_chunk;
	*out = t;
	return 0;

err_chunk:
	stack_disinherit(t->stack);
	arena_chunks_put(t->stack, 1);
err_free:
	arena_free(t, sizeof(*t));
	return ret;
}

void thread_join(struct thread *t)
{
	if (!t)
		return;
	pthread_join(t->id, NULL);
	stack_disinherit(t->stack);
	arena_chunks_put(t->stack, 1);
	arena_free(t, sizeof(*t));
}
