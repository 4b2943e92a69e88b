/* SPDX-License-Identifier: MIT */
#include "pagemap.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dmirror.h"
#include "files.h"

/* More descriptors of pagemap than a program has; those beyond read as the kernel's. */
#define PAGEMAPS	16u
#define STEP		64u

#define PM_SWAPPED	(1ULL << 62)
#define PM_PRESENT	(1ULL << 63)

static _Atomic int opened[PAGEMAPS];	/* descriptor + 1; 0: free */
static _Atomic bool any;		/* has one ever been opened? */

static bool is_own_pid(const char *text, size_t len)
{
	pid_t pid = 0;

	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9' || pid > 100000000)
			return false;
		pid = pid * 10 + (text[i] - '0');
	}
	return pid == getpid();
}

bool pagemap_is(const char *path)
{
	static const char head[] = "/proc/", tail[] = "/pagemap";
	size_t len = path ? strlen(path) : 0, middle;

	if (len < sizeof(head) + sizeof(tail) || strncmp(path, head, sizeof(head) - 1) != 0 ||
	    strcmp(path + len - (sizeof(tail) - 1), tail) != 0)
		return false;
	path += sizeof(head) - 1;
	middle = len - (sizeof(head) - 1) - (sizeof(tail) - 1);
	return (middle == 4 && strncmp(path, "self", 4) == 0) ||
	       (middle == 11 && strncmp(path, "thread-self", 11) == 0) ||
	       is_own_pid(path, middle);
}

static bool pagemap_any(void)
{
	return atomic_load_explicit(&any, memory_order_relaxed);
}

void pagemap_opened(int fd)
{
	atomic_store_explicit(&any, true, memory_order_relaxed);
	for (unsigned int i = 0; i < PAGEMAPS; i++) {
		int free = 0;

		if (atomic_compare_exchange_strong(&opened[i], &free, fd + 1))
			return;
	}
}

void pagemap_closed(int fd)
{
	for (unsigned int i = 0; pagemap_any() && i < PAGEMAPS; i++) {
		int was = fd + 1;

		(void)atomic_compare_exchange_strong(&opened[i], &was, 0);
	}
}

bool pagemap_has(int fd)
{
	for (unsigned int i = 0; pagemap_any() && i < PAGEMAPS; i++)
		if (atomic_load_explicit(&opened[i], memory_order_relaxed) == fd + 1)
			return true;
	return false;
}

/*
 * An empty entry of a page that is on a device reads as swapped. One of a page that has
 * come home since it was read is read again.
 */
static void complete_entry(int fd, uint64_t *entry, uint8_t place, off_t offset)
{
	uint64_t again;

	if (*entry & (PM_PRESENT | PM_SWAPPED))
		return;
	switch (place) {
	case HMM_PLACE_DEVICE:
	case HMM_PLACE_EXCLUSIVE:
	case HMM_PLACE_FLIGHT:
		*entry |= PM_SWAPPED;
		break;
	case HMM_PLACE_SYSTEM:
		if (syscall(SYS_pread64, fd, &again, sizeof(again), offset) == sizeof(again))
			*entry = again;
		break;
	default:
		break;
	}
}

void pagemap_complete(int fd, void *buf, ssize_t len, off_t offset)
{
	size_t nr = len > 0 ? (size_t)len / sizeof(uint64_t) : 0, page = hmm_page_size(), n;
	struct hmm_mm *mm = files_mm_get();
	uintptr_t va = (uintptr_t)offset / sizeof(uint64_t) * page;
	uint8_t places[STEP];
	uint64_t *entry = buf;

	for (; mm && nr; nr -= n, entry += n, va += n * page) {
		n = nr < STEP ? nr : STEP;
		if (hmm_residency(mm, va, va + n * page, places))
			break;
		for (size_t i = 0; i < n; i++)
			complete_entry(fd, &entry[i], places[i],
				       (off_t)((va / page + i) * sizeof(uint64_t)));
	}
	if (mm)
		files_mm_put();
}
