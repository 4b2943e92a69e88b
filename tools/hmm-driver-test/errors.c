/* SPDX-License-Identifier: MIT */
/*
 * Trials of what fails. The watch fails calls in the device's name, so that a driver
 * needs no code for it; what is tried is what the driver and the core make of it.
 */
#include "kit.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

/* Copies fail at every place of a migration: pages stay where they are, whole. */
void copies_fail(struct kit *kit)
{
	size_t nr = kit->pages < 200 ? kit->pages : 200;
	unsigned char *p = map_pages(kit, nr);
	int64_t ret;

	for (uint64_t nth = 1; nth <= 3; nth++) {
		doing("copy %llu to the device fails", (unsigned long long)nth);
		fill(kit, p, nr, 8);
		watch_inject(FAIL_TO, nth, -EIO);
		ret = try_device(kit, &kit->device, p, nr / 2);
		ret = ret < 0 ? ret : try_device(kit, &kit->device, p, nr);
		(void)ret;
		watch_inject(FAIL_TO, 0, 0);
		must_hold(kit, D_ERRORS, p, nr, 8, 0, verdict->doing);
		to_device(kit, p, nr);

		doing("copy %llu home fails once", (unsigned long long)nth);
		watch_inject(FAIL_FROM, nth, -EIO);
		for (size_t i = 0; i < nr; i += 50)
			must_hold(kit, D_ERRORS, p + i * kit->page, 1, 8, i, verdict->doing);
		to_ram(kit, p, nr);
		watch_inject(FAIL_FROM, 0, 0);
		must_hold(kit, D_ERRORS, p, nr, 8, 0, verdict->doing);
	}
	unmap_pages(kit, p, nr);
}

/* page_alloc refuses: what did not go stays, and the next attempt works. */
void room_runs_out(struct kit *kit)
{
	size_t nr = kit->pages < 200 ? kit->pages : 200;
	unsigned char *p = map_pages(kit, nr);
	int64_t ret;

	for (uint64_t nth = 1; nth <= 3; nth++) {
		doing("page_alloc says -ENOSPC at call %llu", (unsigned long long)nth);
		fill(kit, p, nr, 9);
		watch_inject(FAIL_ALLOC, nth, -ENOSPC);
		ret = try_device(kit, &kit->device, p, nr);
		if (ret < 0 && ret != -ENOSPC)
			broke(D_ERRORS, "%s: the migration answers %s", verdict->doing,
			      strerror((int)-ret));
		watch_inject(FAIL_ALLOC, 0, 0);
		to_device(kit, p, nr);
		must_hold(kit, D_ERRORS, p, nr, 9, 0, verdict->doing);
	}
	unmap_pages(kit, p, nr);
}

static sigjmp_buf jump;

static void on_signal(int sig)
{
	siglongjmp(jump, sig);
}

/* The signal that reading the byte raises, or 0. */
static int touch(const volatile unsigned char *p)
{
	struct sigaction sa = { .sa_handler = on_signal }, old;
	int sig;

	sigaction(SIGBUS, &sa, &old);
	sig = sigsetjmp(jump, 1);
	if (!sig)
		(void)*p;
	sigaction(SIGBUS, &old, NULL);
	return sig;
}

/* One page cannot be read: its reader gets SIGBUS and no made-up bytes, its neighbours live. */
void pages_are_lost(struct kit *kit)
{
	size_t nr = kit->pages < 64 ? kit->pages : 64, bad = nr / 2;
	unsigned char *p = map_pages(kit, nr);
	uint64_t index;

	kit->lossy = true;
	fill(kit, p, nr, 10);
	doing("one page of the device cannot be read");
	to_device(kit, p, nr);
	index = watch_index_of(kit, p + bad * kit->page);
	if (index == UINT64_MAX)
		cannot("no device page holds the address");
	watch_lose(index);
	if (touch(p + bad * kit->page) != SIGBUS)
		broke(D_ERRORS, "%s: its reader gets %#x instead of SIGBUS", verdict->doing,
		      p[bad * kit->page]);
	must_hold(kit, D_ERRORS, p, bad, 10, 0, "before a page that cannot be read");
	must_hold(kit, D_ERRORS, p + (bad + 1) * kit->page, nr - bad - 1, 10, bad + 1,
		  "behind a page that cannot be read");
	watch_lose(UINT64_MAX);
	unmap_pages(kit, p, nr);
}
