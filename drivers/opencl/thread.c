/* SPDX-License-Identifier: MIT */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

static int thread_create(struct ocl_thread *thread, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	pthread_attr_t attr;
	size_t page = hmm_page_size();
	int ret;

	ret = pthread_attr_init(&attr);
	if (ret)
		return -ENOMEM;
	/* Above the guard page: glibc puts none on a stack that it is given. */
	ret = pthread_attr_setstack(&attr, (char *)thread->stack + page,
				    thread->stack_bytes - page);
	if (!ret) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		ret = pthread_create(&thread->id, &attr, fn, arg);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	pthread_attr_destroy(&attr);
	return ret ? -ENOMEM : 0;
}

int ocl_thread_start(struct ocl_thread *thread, size_t stack_bytes, void *(*fn)(void *), void *arg)
{
	int ret;

	thread->stack = hmm_safe_alloc(stack_bytes);
	if (!thread->stack)
		return -ENOMEM;
	thread->stack_bytes = stack_bytes;
	/*
	 * glibc links the control blocks of threads on stacks of their own, and fork()
	 * writes to the neighbours of the one that goes on in the child: so there the stack
	 * must be zeros rather than not there.
	 */
	(void)madvise(thread->stack, stack_bytes, MADV_DOFORK);
	(void)madvise(thread->stack, stack_bytes, MADV_WIPEONFORK);
	/* Without a guard page an overflow is only harder to find. */
	(void)mprotect(thread->stack, hmm_page_size(), PROT_NONE);
	ret = thread_create(thread, fn, arg);
	thread->started = !ret;
	if (ret) {
		(void)mprotect(thread->stack, hmm_page_size(), PROT_READ | PROT_WRITE);
		hmm_safe_free(thread->stack, stack_bytes);
	}
	return ret;
}

void ocl_thread_join(struct ocl_thread *thread)
{
	if (!thread->started)
		return;
	pthread_join(thread->id, NULL);
	thread->started = false;
	(void)mprotect(thread->stack, hmm_page_size(), PROT_READ | PROT_WRITE);
	hmm_safe_free(thread->stack, thread->stack_bytes);
}
