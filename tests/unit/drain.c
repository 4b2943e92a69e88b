/* SPDX-License-Identifier: MIT */
/*
 * Whoever empties a userfaultfd in passing tells a handler of the faults that it has read
 * (core/events.c), a handler that meets another's too: the one that the kernel has woken for them
 * may come after that, find nothing, and sleep on.
 *
 * The linker has the handler stop at a gate once it has been woken (--wrap, see meson.build):
 * that is where one is that comes too late.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/soft.h>

#include "core/mm.h"
#include "sys/sys.h"

#define EXIT_SKIP	77
#define TEST_SECONDS	60
#define NR		2

int __real_sys_epoll_wait(int epoll, uint64_t *data, int max, int timeout_ms);
int __wrap_sys_epoll_wait(int epoll, uint64_t *data, int max, int timeout_ms);

static struct hmm_mm *mm;
static struct hmm_soft *soft;
static size_t page;
static _Atomic bool closing, closed;

int __wrap_sys_epoll_wait(int epoll, uint64_t *data, int max, int timeout_ms)
{
	int nr;

	while (atomic_load(&closed))
		sched_yield();
	nr = __real_sys_epoll_wait(epoll, data, max, timeout_ms);
	/* It meets this one, and then stops above. */
	if (atomic_exchange(&closing, false))
		atomic_store(&closed, true);
	return nr;
}

static void *touch(void *arg)
{
	return (void *)(uintptr_t)*(volatile unsigned char *)arg;
}

/* As one does that has come to what is not read yet by another fault. */
static void drain_as_a_handler(void)
{
	thread_state.on_handler = true;
	lock_acquire(&mm->lock);
	mm_drain(mm);
	lock_release(&mm->lock);
	thread_state.on_handler = false;
}

static void faults_read_in_passing_are_told(void **state)
{
	unsigned char *p = mmap(NULL, NR * page, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pollfd unread = { .fd = mm->uffd, .events = POLLIN };
	struct timespec until;
	pthread_t thread;
	void *got;

	(void)state;
	memset(p, 7, NR * page);
	assert_int_equal(hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + NR * page, NULL),
			 NR);
	atomic_store(&closing, true);
	assert_int_equal(p[0], 7);
	while (!atomic_load(&closed))
		sched_yield();
	assert_int_equal(pthread_create(&thread, NULL, touch, p + page), 0);
	while (poll(&unread, 1, -1) != 1)
		;
	drain_as_a_handler();
	assert_int_equal(poll(&unread, 1, 0), 0);
	atomic_store(&closed, false);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += TEST_SECONDS / 2;
	assert_int_equal(pthread_timedjoin_np(thread, &got, &until), 0);
	assert_int_equal((uintptr_t)got, 7);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_read_in_passing_are_told),
	};
	HMM_OPTS(hmm_mm_opts, opts, .nr_handlers = 1);
	HMM_OPTS(hmm_soft_opts, soft_opts, .mem_bytes = 4 << 20, .fault_around = 1);
	int failed;

	page = hmm_page_size();
	if (hmm_mm_create(&opts, &mm)) {
		printf("skipped: this user may not have a userfaultfd\n");
		return EXIT_SKIP;
	}
	if (hmm_soft_open(mm, &soft_opts, &soft)) {
		printf("the soft device does not open\n");
		return EXIT_FAILURE;
	}
	alarm(TEST_SECONDS);
	failed = cmocka_run_group_tests_name("drain", tests, NULL, NULL);
	if (!failed)
		failed = hmm_soft_close(soft) || hmm_mm_destroy(mm);
	return failed;
}
