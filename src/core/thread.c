/* SPDX-License-Identifier: MIT */
#include "core/thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

#include "core/arena.h"
#include "core/mm.h"

#define SAFE_STACK	((size_t)256 << 10)
#define SAFE_STACK_MIN	((size_t)128 << 10)

struct start {
	void *(*fn)(void *);
	void *arg;
	_Atomic uint32_t begun;		/* futex: 1 once the thread runs our code */
};

/* On a stack whose lowest page is the guard: glibc puts none on one that it is given. */
struct thread {
	struct start start;
	pthread_t id;
	void *stack;
	size_t chunks;		/* of the arena's that the stack is */
};

struct hmm_safe_thread {
	struct start start;
	pthread_t id;
	void *stack;		/* a mapping of safe memory's own */
	size_t bytes;
};

/* musl has the control block elsewhere when it is too large for a part of the stack. */
static void *begin(void *arg)
{
	struct start *start = arg;

	thread_tell();
	/* release: pairs with await_begin() */
	atomic_store_explicit(&start->begun, 1, memory_order_release);
	sys_futex_wake(&start->begun, 1);
	return start->fn(start->arg);
}

/*
 * Between pthread_create() and begin() a thread runs what others have put there (a
 * sanitizer's part maps memory, and touches some that its creator mapped), and that memory
 * may be beside what the program has taken the next moment, and be trapped with it:
 *
 *	program				handler
 *	-------				-------
 *	hmm_mm_create
 *	migrate [A, B)			.
 *	touch A: waits for a handler	touch B, the first time: waits for one as well
 */
static void await_begin(struct start *start)
{
	/* acquire: what was done there before is done */
	while (!atomic_load_explicit(&start->begun, memory_order_acquire))
		sys_futex_wait(&start->begun, 0, NULL);
}

/*
 * In the new thread all signals are blocked, and no protection key keeps it from the
 * program's memory: it works for devices, which know none. Both as they were in the caller.
 */
static int start_on(void *stack, size_t bytes, struct start *start, pthread_t *id)
{
	const size_t guard = sys_page_size();
	pthread_attr_t attr;
	sigset_t all, old;
	uint32_t rights;
	int ret;

	ret = -pthread_attr_init(&attr);
	if (ret)
		return ret;
	ret = -pthread_attr_setstack(&attr, (char *)stack + guard, bytes - guard);
	if (!ret) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		rights = sys_keys_open();
		ret = -pthread_create(id, &attr, begin, start);
		sys_keys_restore(rights);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	pthread_attr_destroy(&attr);
	if (!ret)
		await_begin(start);
	return ret;
}

/*
 * glibc links the control blocks of threads with stacks of their own in a list, and in
 * a forked child takes the caller out of it by writing to its neighbours: there our
 * stacks must be something, if only zeros. musl walks all of its list, from block to
 * block: there they must be what they are.
 */
static int stack_inherit(void *stack, size_t bytes)
{
	int ret = sys_madvise(stack, bytes, MADV_DOFORK);

#ifdef __GLIBC__
	if (!ret)
		ret = sys_madvise(stack, bytes, MADV_WIPEONFORK);
#endif
	return ret;
}

/* What is on a stack beside what its thread may use. */
static size_t stack_extra(void)
{
	return sys_page_size() + sys_tls_bytes();
}

static void thread_free(struct thread *t)
{
	const size_t bytes = t->chunks * arena_chunk_bytes();

	sys_madvise(t->stack, bytes, MADV_DONTNEED);
	sys_madvise(t->stack, bytes, MADV_KEEPONFORK);
	sys_madvise(t->stack, bytes, MADV_DONTFORK);
	sys_mprotect(t->stack, bytes, PROT_NONE);
	arena_chunks_put(t->stack, t->chunks);
	arena_free(t, sizeof(*t));
}

int thread_start(void *(*fn)(void *), void *arg, struct thread **out)
{
	const size_t page = sys_page_size(), chunk = arena_chunk_bytes();
	struct thread *t = arena_alloc(sizeof(*t));
	size_t bytes;
	int ret;

	if (!t)
		return -ENOMEM;
	t->start = (struct start){ .fn = fn, .arg = arg };
	t->chunks = (SAFE_STACK + stack_extra() + chunk - 1) / chunk;
	bytes = t->chunks * chunk;
	if (arena_chunks_get(t->chunks, &t->stack)) {
		arena_free(t, sizeof(*t));
		return -ENOMEM;
	}
	ret = sys_mprotect((char *)t->stack + page, bytes - page, PROT_READ | PROT_WRITE);
	if (!ret)
		ret = stack_inherit(t->stack, bytes);
	if (!ret)
		ret = start_on(t->stack, bytes, &t->start, &t->id);
	if (ret)
		thread_free(t);
	else
		*out = t;
	return ret;
}

void thread_join(struct thread *t)
{
	if (!t)
		return;
	pthread_join(t->id, NULL);
	thread_free(t);
}

int hmm_safe_thread_start(void *(*fn)(void *), void *arg, size_t stack_bytes,
			  struct hmm_safe_thread **out)
{
	const size_t guard = sys_page_size(), extra = stack_extra();
	struct hmm_safe_thread *t;

	if (!stack_bytes)
		stack_bytes = SAFE_STACK;
	if (!fn || !out || stack_bytes < SAFE_STACK_MIN || stack_bytes & (guard - 1))
		return -EINVAL;
	t = stack_bytes <= SIZE_MAX - extra ? hmm_safe_alloc(sizeof(*t)) : NULL;
	if (!t)
		return -ENOMEM;
	t->start = (struct start){ .fn = fn, .arg = arg };
	t->bytes = stack_bytes + extra;
	t->stack = hmm_safe_alloc(t->bytes);
	if (!t->stack)
		goto err_free;
	if (sys_mprotect(t->stack, guard, PROT_NONE) ||
	    stack_inherit(t->stack, t->bytes) ||
	    start_on(t->stack, t->bytes, &t->start, &t->id))
		goto err_stack;
	*out = t;
	return 0;

err_stack:
	hmm_safe_free(t->stack, t->bytes);
err_free:
	hmm_safe_free(t, sizeof(*t));
	return -ENOMEM;
}

void hmm_safe_thread_join(struct hmm_safe_thread *t)
{
	if (!t)
		return;
	pthread_join(t->id, NULL);
	hmm_safe_free(t->stack, t->bytes);
	hmm_safe_free(t, sizeof(*t));
}
