/* SPDX-License-Identifier: MIT */
/*
 * The caller's buffer is mirrored like any other memory: where the core says that its
 * pages may be touched until the next invalidation they are written in place, under the
 * lock that an invalidation takes. That is twice as fast as a copy by the kernel, which
 * has each page looked up and pinned.
 */
#include "caller.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "dmirror.h"

/* Below that a look costs more than it saves. */
#define IN_PLACE_BYTES	(64UL << 10)

/* Of a copy, less than a core's own cache holds. */
#define BLOCK_BYTES	(64UL << 10)

/* May all of the pages be written in place, for as long as nobody says otherwise? */
static bool in_place(const uint64_t *pfns, size_t nr)
{
	const uint64_t must = HMM_PFN_VALID | HMM_PFN_WRITE;
	const uint64_t ask = must | HMM_PFN_DEVICE | HMM_PFN_GUARDED | HMM_PFN_ERROR;

	for (size_t i = 0; i < nr; i++)
		if ((pfns[i] & ask) != must)
			return false;
	return true;
}

/*
 * The frames were written from the front just now: the caches have their end. And their
 * front is what they have when the pages come home at once.
 */
static void copy_backwards(struct dmirror_device *d, char *to, const char *from, size_t len)
{
	for (size_t n; len; len -= n) {
		n = len < BLOCK_BYTES ? len : BLOCK_BYTES;
		device_copy(d, to + len - n, from + len - n, n);
	}
}

/*
 * false: not in place, or not for long enough. A handler of the program's that ran in
 * the middle could change mappings, and wait for the lock that its own thread holds.
 */
static bool put_in_place(struct dmirror *m, uintptr_t to, const void *from, size_t len)
{
	size_t page = m->process->page_size;
	uintptr_t start = to & ~(page - 1), end = (to + len + page - 1) & ~(page - 1);
	uint64_t pfns[FRAMES_BLOCK + 1];
	HMM_OPTS(hmm_range, range, .start = start, .end = end, .notifier = m->notifier,
		 .pfns = pfns, .default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
		 .owner = dmirror_owner);
	sigset_t all, old;
	bool good;

	if (hmm_range_fault_wait(m->process->mm, &range, PATIENCE_MS) ||
	    !in_place(pfns, (end - start) / page))
		return false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&m->lock);
	good = !hmm_notifier_read_retry(m->notifier, range.seq);
	if (good)
		copy_backwards(m->device, (char *)to, from, len);
	pthread_mutex_unlock(&m->lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return good;
}

int caller_put(struct dmirror *m, uintptr_t to, const void *from, size_t len)
{
	const size_t piece = FRAMES_BLOCK * m->process->page_size;
	const char *bytes = from;

	for (size_t done = 0, n; done < len; done += n) {
		n = len - done < piece ? len - done : piece;
		if (n >= IN_PLACE_BYTES && put_in_place(m, to + done, bytes + done, n))
			continue;
		if (hmm_copy_to_user(m->process->mm, to + done, bytes + done, n) != (int64_t)n)
			return -EFAULT;
	}
	return 0;
}
