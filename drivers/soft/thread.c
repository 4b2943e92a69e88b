/* SPDX-License-Identifier: MIT */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

/* What a timer of the kernel may be late by; the rest of a wait is spun. */
#define TIMER_SLACK_NS	80000ULL

static int thread_create(struct soft_thread *thread, void *(*fn)(void *), void *arg)
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

/*
 * glibc links the control blocks of threads on stacks of their own with that of the main
 * thread, and fork() takes the main thread out of that list in the child: it writes to
 * the neighbours, so there the stack must be zeros rather than not there.
 */
static void stack_prepare(struct soft_thread *thread)
{
	(void)madvise(thread->stack, thread->stack_bytes, MADV_DOFORK);
	(void)madvise(thread->stack, thread->stack_bytes, MADV_WIPEONFORK);
	/* Without a guard page an overflow is only harder to find. */
	(void)mprotect(thread->stack, hmm_page_size(), PROT_NONE);
}

static void stack_free(struct soft_thread *thread)
{
	(void)mprotect(thread->stack, hmm_page_size(), PROT_READ | PROT_WRITE);
	hmm_safe_free(thread->stack, thread->stack_bytes);
	thread->stack = NULL;
}

void soft_wait_until(uint64_t ns)
{
	uint64_t now = soft_now_ns();

	while (now < ns) {
		if (ns - now > 2 * TIMER_SLACK_NS) {
			uint64_t left = ns - now - TIMER_SLACK_NS;
			struct timespec ts = {
				.tv_sec = (time_t)(left / 1000000000ULL),
				.tv_nsec = (long)(left % 1000000000ULL),
			};

			clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
		} else {
			soft_relax();
		}
		now = soft_now_ns();
	}
}

int soft_thread_start(struct soft_thread *thread, size_t stack_bytes, void *(*fn)(void *),
		      void *arg)
{
	int ret;

	thread->stack_bytes = stack_bytes;
	thread->stack = hmm_safe_alloc(stack_bytes);
	if (!thread->stack)
		return -ENOMEM;
	stack_prepare(thread);
	ret = thread_create(thread, fn, arg);
	if (ret) {
		stack_free(thread);
		return ret;
	}
	thread->started = true;
	return 0;
}

void soft_thread_join(struct soft_thread *thread)
{
	if (!thread->started)
		return;
	pthread_join(thread->id, NULL);
	thread->started = false;
	stack_free(thread);
}
