/* SPDX-License-Identifier: MIT */
/*
 * Paging as programs did it before userfaultfd: the area is PROT_NONE, the handler of
 * SIGSEGV opens a page with mprotect() and copies its bytes in. It has no thread to
 * wake, and for that a system call that is given such memory fails, each page is a
 * mapping of its own until its neighbours have come, and another thread sees the page
 * before its bytes are there.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* A signal handler has no context. */
static struct {
	uintptr_t start, len, store;
	struct sigaction old;
} pager;

static void on_fault(int sig, siginfo_t *info, void *ucontext)
{
	uintptr_t page = hmm_page_size(), at = (uintptr_t)info->si_addr & ~(page - 1);

	(void)ucontext;
	if (at - pager.start >= pager.len ||
	    mprotect((void *)at, page, PROT_READ | PROT_WRITE)) {
		sigaction(sig, &pager.old, NULL);	/* not ours: it comes again */
		return;
	}
	memcpy((void *)at, (void *)(pager.store + (at - pager.start)), page);
}

int bench_segv_start(const struct bench_area *area, const struct bench_area *store)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	pager.start = (uintptr_t)area->base;
	pager.len = area->len;
	pager.store = (uintptr_t)store->base;
	return sigaction(SIGSEGV, &action, &pager.old) ? -errno : 0;
}

void bench_segv_stop(void)
{
	sigaction(SIGSEGV, &pager.old, NULL);
	(void)mprotect((void *)pager.start, pager.len, PROT_READ | PROT_WRITE);
}

int bench_segv_reset(void)
{
	if (madvise((void *)pager.start, pager.len, MADV_DONTNEED) ||
	    mprotect((void *)pager.start, pager.len, PROT_NONE))
		return -errno;
	return 0;
}
