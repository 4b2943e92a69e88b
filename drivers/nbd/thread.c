/* SPDX-License-Identifier: MIT */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

#define STACK_BYTES	(256UL << 10)

static int thread_create(struct nbd_thread *thread, void *(*fn)(void *), void *arg)
{
	size_t page = hmm_page_size();
	pthread_attr_t attr;
	sigset_t all, old;
	int ret;

	ret = pthread_attr_init(&attr);
	if (ret)
		return -ENOMEM;
	/* Above the guard page: glibc puts none on a stack that it is given. */
	ret = pthread_attr_setstack(&attr, (char *)thread->stack + page, STACK_BYTES - page);
	if (!ret) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		ret = pthread_create(&thread->id, &attr, fn, arg);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	pthread_attr_destroy(&attr);
	return ret ? -ENOMEM : 0;
}

static void stack_free(struct nbd_thread *thread)
{
	(void)mprotect(thread->stack, hmm_page_size(), PROT_READ | PROT_WRITE);
	hmm_safe_free(thread->stack, STACK_BYTES);
	thread->stack = NULL;
}

int nbd_thread_start(struct nbd_thread *thread, void *(*fn)(void *), void *arg)
{
	int ret;

	thread->stack = hmm_safe_alloc(STACK_BYTES);
	if (!thread->stack)
		return -ENOMEM;
	/*
	 * glibc chains the control blocks of threads on stacks that it was given, and in
	 * a forked child takes the forking one out of the chain: it writes to the
	 * neighbours, so there a stack must be zeros rather than not there.
	 */
	(void)madvise(thread->stack, STACK_BYTES, MADV_DOFORK);
	(void)madvise(thread->stack, STACK_BYTES, MADV_WIPEONFORK);
	/* Without a guard page an overflow is only harder to find. */
	(void)mprotect(thread->stack, hmm_page_size(), PROT_NONE);
	ret = thread_create(thread, fn, arg);
	if (ret) {
		stack_free(thread);
		return ret;
	}
	thread->started = true;
	return 0;
}

void nbd_thread_join(struct nbd_thread *thread)
{
	if (!thread->started)
		return;
	pthread_join(thread->id, NULL);
	thread->started = false;
	stack_free(thread);
}
