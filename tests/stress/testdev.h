/* SPDX-License-Identifier: MIT */
/*
 * A device for tests: memory, a page table over one interval, one lock, and no
 * mercy. It checks what a real device would silently suffer from: a page freed, read
 * home or handed out again while its page table still maps it; a page freed twice; an
 * access through a translation that an invalidate() took away.
 *
 * Its copies are synchronous and keep the rules of the fault path.
 */
#ifndef UHMM_TESTS_TESTDEV_H
#define UHMM_TESTS_TESTDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uhmm/driver.h>

#define TESTDEV_THREADED	(1u << 0)	/* callbacks on a thread of the devmem's own */
#define TESTDEV_SHORT_RUNS	(1u << 1)	/* page_alloc hands out few pages at a time */
#define TESTDEV_MAKE_ROOM	(1u << 2)	/* page_alloc evicts when full */
#define TESTDEV_FAULT_AROUND	(1u << 3)	/* migrate_to_ram brings neighbours home */
#define TESTDEV_EARLY_DONE	(1u << 4)	/* copies end before they answer -EINPROGRESS */
#define TESTDEV_FAIL_COPIES	(1u << 5)	/* some copies fail; none of a single page home */
#define TESTDEV_PEER		(1u << 6)	/* copies from other devices by itself */
#define TESTDEV_YIELDS		(1u << 7)	/* lets others run while it copies */

struct testdev;

/*
 * Mirrors [start, end). @owner may be shared by devices; NULL: the device itself.
 * Not available is a failed test.
 */
struct testdev *testdev_open(struct hmm_mm *mm, uint64_t nr_pages, unsigned int flags,
			     uintptr_t start, uintptr_t end, const void *owner);
void testdev_close(struct testdev *dev);

/* Unregister the memory and register it anew; the mirror stays. */
void testdev_remove_memory(struct testdev *dev);
void testdev_add_memory(struct testdev *dev);

/* Fails the test if a callback met what must not be. */
void testdev_check(const struct testdev *dev);

struct hmm_devmem *testdev_devmem(const struct testdev *dev);
const void *testdev_owner(const struct testdev *dev);
uint32_t testdev_id(const struct testdev *dev);

/* Everything, both ways; fails the test on an error that may not be. */
int64_t testdev_migrate(struct testdev *dev, uintptr_t start, uintptr_t end);

/* Reserve and give back pages, for migrations by hand. Returns the number, or -ENOSPC. */
int64_t testdev_alloc(struct testdev *dev, uint64_t nr, uint64_t *index);
void testdev_free(struct testdev *dev, uint64_t index, uint64_t nr);

/* Bytes of one of its pages; only while nothing moves. */
const void *testdev_page(const struct testdev *dev, uint64_t index);

/*
 * Accesses by the device, within the mirrored interval, one page at a time. 0, or
 * -EFAULT (gap, unreadable), -EPERM (not writable).
 */
int testdev_read(struct testdev *dev, uintptr_t addr, void *buf, size_t len);
int testdev_write(struct testdev *dev, uintptr_t addr, const void *buf, size_t len);

/*
 * Atomic against CPU and devices, also where a system page may only be reached by
 * guarded copies: then the page is taken for exclusive access. As above, or -EBUSY
 * where exclusive access cannot be had now.
 */
int testdev_add(struct testdev *dev, uintptr_t addr, uint64_t value);

/* Take a page for exclusive access and store to it there. As testdev_add(). */
int testdev_write_exclusive(struct testdev *dev, uintptr_t addr, const void *buf, size_t len);

/* Forget what the page table says of [start, end), as if announced. */
void testdev_forget(struct testdev *dev, uintptr_t start, uintptr_t end);

struct testdev_stats {
	uint64_t to_device, from_device, peer;	/* pages copied */
	uint64_t to_ram;			/* migrate_to_ram calls */
	uint64_t invalidates;
	uint64_t local, direct, guarded, exclusive;	/* accesses, by what they went through */
	uint64_t refills;			/* collisions seen by read_retry */
};

void testdev_stats(const struct testdev *dev, struct testdev_stats *stats);

#endif
