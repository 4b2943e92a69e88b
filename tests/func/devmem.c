/* SPDX-License-Identifier: MIT */
/*
 * Device memory: registration, ids, lookup, eviction by index, loss of pages, and
 * removal, which brings everything home first. Safe memory.
 */
#define _GNU_SOURCE
#include "world.h"

#include "../sanitized.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR	32
#define RW	(PROT_READ | PROT_WRITE)

static int copy_nothing(struct hmm_devmem *devmem, struct hmm_copy *copy,
			const struct hmm_copy_run *runs, size_t nr)
{
	(void)devmem;
	(void)copy;
	(void)runs;
	(void)nr;
	return -EIO;
}

static void free_nothing(struct hmm_devmem *devmem, uint64_t index, uint64_t nr)
{
	(void)devmem;
	(void)index;
	(void)nr;
}

static struct hmm_devmem_ops good_ops(void)
{
	return (struct hmm_devmem_ops) {
		.size = sizeof(struct hmm_devmem_ops),
		.copy_to_device = copy_nothing,
		.copy_from_device = copy_nothing,
		.page_free = free_nothing,
	};
}

static int add(struct world *w, const struct hmm_devmem_opts *opts)
{
	struct hmm_devmem *d = (void *)1;
	int ret = hmm_devmem_add(w->mm, opts, &d);

	if (ret)
		assert_ptr_equal(d, (void *)1);	/* written on success only */
	else
		assert_int_equal(hmm_devmem_remove(d), 0);
	return ret;
}

/* @good with one field changed. */
#define assert_add(field, value, expected) do {			\
	struct hmm_devmem_opts o_ = good;				\
									\
	o_.field = (value);						\
	assert_int_equal(add(w, &o_), expected);			\
} while (0)

/* Registration refuses what is impossible, and takes what is merely empty. */
static void add_checks_its_options(void **state)
{
	struct world *w = *state;
	struct hmm_devmem_ops ops = good_ops();
	HMM_OPTS(hmm_devmem_opts, good, .nr_pages = 16, .owner = world_owner_a, .ops = &ops);
	struct hmm_devmem *d;

	assert_int_equal(add(w, &good), 0);
	assert_int_equal(hmm_devmem_add(NULL, &good, &d), -EINVAL);
	assert_int_equal(hmm_devmem_add(w->mm, NULL, &d), -EINVAL);
	assert_int_equal(hmm_devmem_add(w->mm, &good, NULL), -EINVAL);
	assert_add(size, 0, -EINVAL);
	assert_add(flags, 1ULL << 63, -EINVAL);
	assert_add(nr_pages, 0, -EINVAL);
	assert_add(nr_pages, (1ULL << 36) + 1, -EINVAL);
	assert_add(nr_pages, UINT64_MAX, -EINVAL);
	assert_add(owner, NULL, -EINVAL);
	assert_add(ops, NULL, -EINVAL);
	ops.size = 0;
	assert_int_equal(add(w, &good), -EINVAL);
	ops = good_ops();
	ops.copy_to_device = NULL;
	assert_int_equal(add(w, &good), -EINVAL);
	ops = good_ops();
	ops.copy_from_device = NULL;
	assert_int_equal(add(w, &good), -EINVAL);
	ops = good_ops();
	ops.page_free = NULL;
	assert_int_equal(add(w, &good), -EINVAL);
}

/* Options longer than ours: fine with a zero tail, -E2BIG with anything in it. */
static void add_takes_newer_options_with_zero_tail(void **state)
{
	struct world *w = *state;
	struct {
		struct hmm_devmem_opts opts;
		uint64_t tail[2];
	} o = { 0 };
	struct {
		struct hmm_devmem_ops ops;
		uint64_t tail[2];
	} ops = { .ops = good_ops() };

	o.opts = (struct hmm_devmem_opts) { .size = sizeof(o), .nr_pages = 16,
					    .owner = world_owner_a, .ops = &ops.ops };
	ops.ops.size = sizeof(ops);
	assert_int_equal(add(w, &o.opts), 0);
	o.tail[1] = 1;
	assert_int_equal(add(w, &o.opts), -E2BIG);
	o.tail[1] = 0;
	ops.tail[0] = 1;
	assert_int_equal(add(w, &o.opts), -E2BIG);
}

/* Ids are 1 to 255 and unique; the 256th device is -ENOSPC; ids are given again. */
static void ids_are_unique_and_end_at_255(void **state)
{
	static struct hmm_devmem *all[256];
	struct world *w = *state;
	struct hmm_devmem_ops ops = good_ops();
	HMM_OPTS(hmm_devmem_opts, opts, .nr_pages = 1, .owner = world_owner_a, .ops = &ops,
		 .ctx = all);
	bool seen[256] = { false };
	size_t nr = 0;
	int ret = 0;

	seen[w->dev->id] = seen[w->other->id] = true;
	while (nr < ARRAY_LEN(all) && !(ret = hmm_devmem_add(w->mm, &opts, &all[nr]))) {
		uint32_t id = hmm_devmem_id(all[nr]);

		assert_in_range(id, 1, 255);
		assert_false(seen[id]);
		seen[id] = true;
		assert_ptr_equal(hmm_devmem_ctx(all[nr]), all);
		nr++;
	}
	assert_int_equal(ret, -ENOSPC);
	assert_int_equal(nr, 253);
	while (nr)
		assert_int_equal(hmm_devmem_remove(all[--nr]), 0);
	assert_int_equal(hmm_devmem_add(w->mm, &opts, &all[0]), 0);
	assert_int_equal(hmm_devmem_remove(all[0]), 0);
}

/* Lookup finds each page's address, and nothing for free pages. */
static void lookup_finds_addresses(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	uint64_t found = 0;
	uintptr_t addr = 1;

	to_device(w, w->dev, p, NR);
	for (uint64_t i = 0; i < DEV_PAGES; i++) {
		if (hmm_devmem_lookup(w->dev->devmem, i, &addr))
			continue;
		assert_in_range(addr, (uintptr_t)p, (uintptr_t)p + (NR - 1) * page);
		assert_holds(testdev_page(w->dev, i), 1, 1, (addr - (uintptr_t)p) / page);
		found++;
	}
	assert_int_equal(found, NR);
	addr = 1;
	assert_int_equal(hmm_devmem_lookup(w->dev->devmem, DEV_PAGES, &addr), -EINVAL);
	assert_int_equal(hmm_devmem_lookup(w->dev->devmem, 0, NULL), -EINVAL);
	assert_int_equal(evict(w, p, NR), NR);
	for (uint64_t i = 0; i < DEV_PAGES; i++)
		assert_int_equal(hmm_devmem_lookup(w->dev->devmem, i, &addr), -ENOENT);
	assert_int_equal(addr, 1);
	munmap(p, NR * page);
}

/* Eviction by index brings just those pages home. */
static void evict_by_index(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 2);
	uintptr_t addr;

	to_device(w, w->dev, p, NR);
	assert_int_equal(hmm_devmem_lookup(w->dev->devmem, 5, &addr), 0);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, 5, 1), 1);
	assert_at(w, (void *)addr, 1, HMM_PLACE_SYSTEM);
	assert_int_equal(count_at(w, p, NR, HMM_PLACE_DEVICE), NR - 1);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, 5, 1), 0);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, 0, DEV_PAGES), NR - 1);
	assert_int_equal(testdev_used(w->dev), 0);
	assert_int_equal(moved(w, cpu_faults), 0);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, DEV_PAGES, 1), -EINVAL);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, DEV_PAGES - 1, 2), -EINVAL);
	assert_int_equal(hmm_devmem_evict(NULL, 0, 1), -EINVAL);
	assert_holds(p, NR, 2, 0);
	munmap(p, NR * page);
}

struct evictor {
	pthread_t thread;
	struct world *w;
	unsigned char *p;
};

static void *evict_own(void *arg)
{
	struct evictor *e = arg;

	return (void *)(uintptr_t)evict(e->w, e->p, NR);
}

/* Threads that bring pages home at once count each its own. */
static void evictions_at_once_count_their_own(void **state)
{
	enum { THREADS = 8 };
	struct world *w = *state;
	unsigned char *p = map_filled(THREADS * NR, 5);
	struct evictor evictors[THREADS];
	void *got;

	for (uint32_t round = rounds(60); round > 0; round--) {
		to_device(w, w->dev, p, THREADS * NR);
		for (size_t i = 0; i < THREADS; i++) {
			evictors[i] = (struct evictor){ .w = w, .p = p + i * NR * page };
			assert_int_equal(pthread_create(&evictors[i].thread, NULL, evict_own,
							&evictors[i]), 0);
		}
		for (size_t i = 0; i < THREADS; i++) {
			pthread_join(evictors[i].thread, &got);
			assert_int_equal((uintptr_t)got, NR);
		}
	}
	assert_holds(p, THREADS * NR, 5, 0);
	munmap(p, THREADS * NR * page);
}

/* Removing a device with pages on it brings everything home first. */
static void remove_brings_everything_home(void **state)
{
	struct world *w = *state;
	struct testdev *dev = testdev_new(w->mm, 1024, world_owner_a, 0);
	unsigned char *p = map_filled(1024, 3);

	to_device(w, dev, p, 1024);
	assert_int_equal(testdev_remove(dev), 0);
	assert_at(w, p, 1024, HMM_PLACE_SYSTEM);
	assert_int_equal(moved(w, cpu_faults), 0);
	assert_int_equal(moved(w, pages_to_system), 1024);
	assert_holds(p, 1024, 3, 0);
	munmap(p, 1024 * page);
}

static _Atomic uint32_t reading;

static void *read_run(void *arg)
{
	bool right = true;

	while (right && atomic_load(&reading))
		right = holds(arg, NR, 4, 0);
	return (void *)right;
}

/* Removing it while threads touch its pages: everyone sees the bytes. */
static void remove_while_threads_touch(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 4);
	pthread_t threads[2];
	void *right;

	atomic_store(&reading, 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_run, p), 0);
	for (int round = 0; round < 30; round++) {
		struct testdev *dev = testdev_new(w->mm, NR, world_owner_a,
						  round & 1 ? HMM_DEVMEM_FAULT_SAFE : 0);

		IGNORE(try_device(w, dev, p, NR, NULL));
		assert_int_equal(testdev_remove(dev), 0);
	}
	atomic_store(&reading, 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &right);
		assert_true(right);
	}
	munmap(p, NR * page);
}

/* A device whose pages cannot be read back: SIGBUS, -EIO, counted; never zeros. */
static void pages_that_cannot_be_read_are_told(void **state)
{
	struct world *w = *state;
	struct testdev *dev = testdev_new(w->mm, NR, world_owner_a, 0);
	unsigned char *p = map_filled(NR, 5);

	w->may_lose = true;
	to_device(w, dev, p, 4);
	atomic_store(&dev->broken, true);
	assert_int_equal(testdev_remove(dev), -EIO);
	for (int i = 0; i < 4; i++)
		assert_int_equal(touch_read(p + (size_t)i * page), SIGBUS);
	assert_int_equal(moved(w, lost_pages), 4);
	assert_int_equal(moved(w, poisoned_pages), 4);
	assert_holds(p + 4 * page, NR - 4, 5, 4);
	munmap(p, NR * page);
}

/* Eviction by address and by index say -EIO of such pages, and bring the others home. */
static void evict_of_unreadable_pages_is_eio(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 5);

	w->may_lose = true;
	to_device(w, w->dev, p, 8);
	atomic_store(&w->dev->broken, true);
	assert_int_equal(hmm_evict(w->mm, (uintptr_t)p, (uintptr_t)p + 4 * page), -EIO);
	assert_int_equal(hmm_devmem_evict(w->dev->devmem, 4, 2), -EIO);
	atomic_store(&w->dev->broken, false);
	assert_int_equal(evict(w, p, NR), 2);
	assert_int_equal(moved(w, lost_pages), 6);
	assert_int_equal(touch_read(p), SIGBUS);
	assert_int_equal(touch_read(p + 5 * page), SIGBUS);
	assert_holds(p + 6 * page, NR - 6, 5, 6);
	munmap(p, NR * page);
}

/* A poisoned device page: SIGBUS to its reader, EFAULT to a system call, freed. */
static void poison_tells_the_reader(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 6);
	uintptr_t addr;
	char byte;
	int fds[2];

	w->may_lose = true;
	to_device(w, w->dev, p, 4);
	assert_int_equal(hmm_devmem_lookup(w->dev->devmem, 2, &addr), 0);
	assert_int_equal(hmm_devmem_poison(w->dev->devmem, 2, 1), 1);
	assert_int_equal(testdev_used(w->dev), 3);
	assert_int_equal(moved(w, poisoned_pages), 1);
	assert_int_equal(touch_read((void *)addr), SIGBUS);
	assert_int_equal(touch_write((void *)addr), SIGBUS);
	assert_int_equal(hmm_copy_from_user(w->mm, &byte, addr, 1), -EFAULT);
	/* Without UFFDIO_POISON a system call on the page waits: driver.h says so. */
	if (!masked("uffdio-poison")) {
		assert_int_equal(pipe(fds), 0);
		assert_int_equal(write(fds[1], (void *)addr, 1), -1);
		assert_int_equal(errno, EFAULT);
		close(fds[0]);
		close(fds[1]);
	}
	for (int i = 0; i < 4; i++)
		if ((uintptr_t)p + (size_t)i * page != addr)
			assert_holds(p + (size_t)i * page, 1, 6, (uint64_t)i);
	munmap(p, 4 * page);
}

/* ---------------------------------------------------------------- lost while it changes */

/* What another thread does to a page as soon as it is told to. */
struct changer {
	pthread_t thread;
	_Atomic int go;			/* 1: once; 2: end */
	unsigned char *at, *there;	/* the page, and where else it may be */
};

static void *unmap_main(void *arg)
{
	struct changer *c = arg;
	int go;

	while ((go = atomic_load(&c->go)) != 2) {
		if (!go) {
			sched_yield();
			continue;
		}
		munmap(c->at, page);
		atomic_store(&c->go, 0);
	}
	return NULL;
}

/*
 * Whoever comes first: the page is unmapped, and its device page freed, or poisoned, and its
 * device page freed; but once.
 */
static void unmapped_while_it_is_poisoned(void **state)
{
	struct world *w = *state;
	struct changer c = { .go = 0 };
	const uint32_t nr = rounds(300);

	w->may_lose = true;
	pthread_create(&c.thread, NULL, unmap_main, &c);
	for (uint32_t i = 0; i < nr; i++) {
		uint8_t place;

		c.at = map_filled(1, 6);
		to_device(w, w->dev, c.at, 1);
		atomic_store(&c.go, 1);
		for (volatile uint32_t k = 0; k < i * (300 / nr) % 200 * 20; k++)
			;
		assert_true(hmm_devmem_poison(w->dev->devmem, 0, DEV_PAGES) <= 1);
		while (atomic_load(&c.go))
			sched_yield();
		/* Whoever has heard of the munmap is done when the lock is ours. */
		assert_int_equal(hmm_residency(w->mm, (uintptr_t)c.at, (uintptr_t)c.at + page, &place),
				 0);
		assert_int_equal(w->dev->bad_frees, 0);
		assert_int_equal(testdev_used(w->dev), 0);
	}
	atomic_store(&c.go, 2);
	pthread_join(c.thread, NULL);
}

/* There and back, and there again. */
static void *move_main(void *arg)
{
	struct changer *c = arg;

	while (!atomic_load(&c->go))
		sched_yield();
	for (int n = 0; n < 6; n++) {
		unsigned char *from = c->at;

		if (mremap(from, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, c->there) == MAP_FAILED)
			abort();
		c->at = c->there;
		c->there = from;
	}
	return NULL;
}

/* What its device cannot give back is lost wherever it has gone meanwhile, and under way no more. */
static void moved_while_it_is_lost(void **state)
{
	struct world *w = *state;
	const uint32_t nr = rounds(300);

	w->may_lose = true;
	for (uint32_t i = 0; i < nr; i++) {
		unsigned char *p = map_filled(1, 6), *q = map_filled(1, 1);
		unsigned char *often = i & 1 ? p : q;
		struct changer c = { .at = p, .there = q };
		uint8_t place;

		to_device(w, w->dev, p, 1);
		pthread_create(&c.thread, NULL, move_main, &c);
		atomic_store(&w->dev->broken, true);
		atomic_store(&c.go, 1);
		for (volatile uint32_t k = 0; k < i * (300 / nr) % 200 * 50; k++)
			;
		IGNORE(hmm_evict(w->mm, (uintptr_t)often, (uintptr_t)often + page));
		pthread_join(c.thread, NULL);
		IGNORE(hmm_evict(w->mm, (uintptr_t)c.at, (uintptr_t)c.at + page));
		atomic_store(&w->dev->broken, false);
		assert_int_equal(hmm_residency(w->mm, (uintptr_t)c.at, (uintptr_t)c.at + page, &place),
				 0);
		assert_true(place != HMM_PLACE_FLIGHT && place != HMM_PLACE_DEVICE);
		assert_int_equal(w->dev->bad_frees, 0);
		assert_int_equal(testdev_used(w->dev), 0);
		munmap(c.at, page);
	}
}

/* A poisoned page is told to a device as ERROR, and a fault on it is -EFAULT. */
static void poison_in_a_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(1, 7);
	uint64_t pfn = 0;
	struct hmm_range range = { .size = sizeof(range), .start = (uintptr_t)p,
				   .end = (uintptr_t)p + page, .pfns = &pfn };

	w->may_lose = true;
	to_device(w, w->dev, p, 1);
	assert_int_equal(hmm_devmem_poison(w->dev->devmem, 0, DEV_PAGES), 1);
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	assert_true(pfn & HMM_PFN_ERROR);
	assert_false(pfn & HMM_PFN_VALID);
	range.default_flags = HMM_PFN_REQ_FAULT;
	assert_int_equal(hmm_range_fault(w->mm, &range), -EFAULT);
	munmap(p, page);
}

/* Poison of free pages poisons nothing; beyond the memory it is -EINVAL. */
static void poison_of_free_pages(void **state)
{
	struct world *w = *state;

	assert_int_equal(hmm_devmem_poison(w->dev->devmem, 0, 100), 0);
	assert_int_equal(hmm_devmem_poison(w->dev->devmem, DEV_PAGES, 1), -EINVAL);
	assert_int_equal(hmm_devmem_poison(w->dev->devmem, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(hmm_devmem_poison(NULL, 0, 1), -EINVAL);
	assert_int_equal(moved(w, poisoned_pages), 0);
}

/* An address that was poisoned is plain again once it is mapped anew. */
static void poisoned_address_mapped_anew(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 8);

	w->may_lose = true;
	to_device(w, w->dev, p, 4);
	assert_int_equal(hmm_devmem_poison(w->dev->devmem, 0, DEV_PAGES), 4);
	assert_ptr_equal(mmap(p, 2 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p);
	assert_int_equal(madvise(p + 2 * page, 2 * page, MADV_DONTNEED), 0);
	assert_true(all_zero(p, 4 * page));
	fill(p, 4, 9);
	to_device(w, w->dev, p, 4);
	assert_holds(p, 4, 9, 0);
	munmap(p, 4 * page);
}

/* Without page_alloc hmm_migrate_to_device() is -EOPNOTSUPP. */
static void migrate_to_device_needs_page_alloc(void **state)
{
	struct world *w = *state;
	struct hmm_devmem_ops ops = good_ops();
	HMM_OPTS(hmm_devmem_opts, opts, .nr_pages = 16, .owner = world_owner_a, .ops = &ops);
	unsigned char *p = map_filled(4, 10);
	struct hmm_devmem *d;

	assert_int_equal(hmm_devmem_add(w->mm, &opts, &d), 0);
	assert_int_equal(hmm_migrate_to_device(w->mm, d, (uintptr_t)p, (uintptr_t)p + 4 * page,
					       HMM_MIGRATE_SYSTEM, NULL), -EOPNOTSUPP);
	assert_int_equal(hmm_devmem_remove(d), 0);
	assert_holds(p, 4, 10, 0);
	munmap(p, 4 * page);
}

/* A coherent devmem: the page belongs to it, stays mapped, and is never copied. */
static void coherent_pages_stay_mapped(void **state)
{
	struct world *w = *state;
	struct testdev *dev = testdev_new(w->mm, NR, world_owner_a, HMM_DEVMEM_COHERENT);
	unsigned char *p = map_filled(NR, 11);

	assert_int_equal(try_device(w, dev, p, NR, NULL), NR);
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_int_equal(cpu_maps_count(p, NR), NR);
	assert_holds(p, NR, 11, 0);
	fill(p, 4, 12);
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_int_equal(moved(w, cpu_faults), 0);
	assert_int_equal(dev->copies_to, 0);
	assert_int_equal(evict(w, p, 8), 8);
	assert_int_equal(testdev_used(dev), NR - 8);
	assert_int_equal(munmap(p + 8 * page, 8 * page), 0);
	assert_true(eventually(testdev_used(dev) == NR - 16));
	assert_int_equal(testdev_remove(dev), 0);
	assert_holds(p, 4, 12, 0);
	assert_holds(p + 16 * page, NR - 16, 11, 16);
	munmap(p, NR * page);
}

/* From a coherent device to a private one and back: the bytes travel. */
static void coherent_to_private_and_back(void **state)
{
	struct world *w = *state;
	struct testdev *dev = testdev_new(w->mm, NR, world_owner_a, HMM_DEVMEM_COHERENT);
	unsigned char *p = map_filled(NR, 13);

	assert_int_equal(try_device(w, dev, p, NR, NULL), NR);
	assert_int_equal(try_device(w, w->other, p, NR, NULL), NR);
	assert_int_equal(testdev_used(dev), 0);
	assert_int_equal(cpu_maps_count(p, NR), 0);
	assert_int_equal(try_device(w, dev, p, NR, NULL), NR);
	assert_int_equal(testdev_used(w->other), 0);
	assert_holds(p, NR, 13, 0);
	assert_int_equal(testdev_remove(dev), 0);
	assert_holds(p, NR, 13, 0);
	munmap(p, NR * page);
}

static struct {
	struct world *w;
	struct testdev *dev;
	uintptr_t start, end;
	int64_t ret[8];
	int nr;
} inside;

static int call_from_copy(struct testdev *dev, bool to, uint64_t index, uint64_t nr)
{
	struct hmm_mm *mm = inside.w->mm;
	uint64_t pfn[NR];
	struct hmm_range range = { .size = sizeof(range), .start = inside.start,
				   .end = inside.end, .pfns = pfn };
	int i = 0;

	(void)dev;
	(void)to;
	(void)index;
	(void)nr;
	if (inside.nr)
		return 0;
	inside.ret[i++] = hmm_range_fault(mm, &range);
	inside.ret[i++] = hmm_devmem_remove(inside.dev->devmem);
	inside.ret[i++] = hmm_migrate_to_device(mm, inside.dev->devmem, inside.start, inside.end,
						HMM_MIGRATE_SYSTEM, NULL);
	inside.ret[i++] = hmm_mm_destroy(mm);
	inside.nr = i;
	return 0;
}

/* From a copy operation the calls that would wait for it answer -EDEADLK. */
static void calls_from_a_copy_answer_edeadlk(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 14);

	memset(&inside, 0, sizeof(inside));
	inside.w = w;
	inside.dev = w->dev;
	inside.start = (uintptr_t)p;
	inside.end = (uintptr_t)p + NR * page;
	w->dev->hook = call_from_copy;
	to_device(w, w->dev, p, NR);
	assert_int_equal(inside.nr, 4);
	for (int i = 0; i < inside.nr; i++)
		if (inside.ret[i] != -EDEADLK)
			fail_msg("call %d from a copy: %lld", i, (long long)inside.ret[i]);
	assert_holds(p, NR, 14, 0);
	munmap(p, NR * page);
}

/* Safe memory: zeroed, aligned as promised, refused for migration. */
static void safe_memory_keeps_its_promises(void **state)
{
	static const size_t sizes[] = { 1, 63, 64, 100, 4096, 65535, 65536, 1 << 20, 2 << 20,
					5 << 20 };
	struct world *w = *state;
	uint64_t reasons[HMM_REASONS] = { 0 };

	assert_null(hmm_safe_alloc(0));
	assert_null(hmm_safe_alloc(SIZE_MAX));
	hmm_safe_free(NULL, 10);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			unsigned char *p = hmm_safe_alloc(sizes[i]);
			uintptr_t align = sizes[i] >= 2 << 20 ? 2 << 20 :
					  sizes[i] >= 65536 ? page : 64;

			assert_non_null(p);
			assert_int_equal((uintptr_t)p % align, 0);
			assert_true(all_zero(p, sizes[i]));
			memset(p, 0xee, sizes[i]);
			hmm_safe_free(p, sizes[i]);
		}
	}
	for (size_t i = 0; i < 2; i++) {
		size_t bytes = i ? 1 << 20 : 65536;
		unsigned char *p = hmm_safe_alloc(bytes);

		memset(reasons, 0, sizeof(reasons));
		assert_non_null(p);
		memset(p, 1, bytes);
		assert_true(try_device(w, w->dev, p, bytes / page, reasons) <= 0);
		assert_int_equal(reasons[HMM_REASON_RESERVED], bytes / page);
		hmm_safe_free(p, bytes);
	}
}

static struct {
	uintptr_t stack;
	bool blocked;
	_Atomic uint32_t there, go;
} seen;

static void *look_around(void *arg)
{
	unsigned char deep[100 << 10];
	sigset_t now;

	memset(deep, 1, sizeof(deep));
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	seen.blocked = sigismember(&now, SIGUSR1) && sigismember(&now, SIGSEGV) &&
		       sigismember(&now, SIGALRM);
	seen.stack = (uintptr_t)deep & ~(page - 1);
	atomic_store(&seen.there, 1);
	while (!atomic_load(&seen.go))
		sched_yield();
	return arg;
}

static void *read_nothing(void *arg)
{
	return arg;
}

static int child_goes_on(void *arg)
{
	pthread_t thread;

	/* Its threads, and the lists that libc keeps of them, are in order. */
	if (pthread_create(&thread, NULL, read_nothing, arg) || pthread_join(thread, NULL))
		return 1;
	return 0;
}

/*
 * A safe thread's stack is never away, is as long as was asked and no signal's; where it
 * ends there is a guard. A forked child is none the worse for it.
 */
static void safe_thread_keeps_its_promises(void **state)
{
	struct world *w = *state;
	uint64_t reasons[HMM_REASONS] = { 0 };
	struct hmm_safe_thread *thread = NULL;

	assert_int_equal(hmm_safe_thread_start(NULL, NULL, 0, &thread), -EINVAL);
	assert_int_equal(hmm_safe_thread_start(look_around, NULL, 0, NULL), -EINVAL);
	assert_int_equal(hmm_safe_thread_start(look_around, NULL, 64 << 10, &thread), -EINVAL);
	assert_int_equal(hmm_safe_thread_start(look_around, NULL, (1 << 20) + 1, &thread), -EINVAL);
	assert_int_equal(hmm_safe_thread_start(look_around, NULL, SIZE_MAX & ~(page - 1), &thread),
			 -ENOMEM);
	assert_null(thread);
	hmm_safe_thread_join(NULL);
	for (size_t bytes = 0; bytes <= 1 << 20; bytes += 1 << 19) {
		memset(&seen, 0, sizeof(seen));
		assert_int_equal(hmm_safe_thread_start(look_around, NULL, bytes, &thread), 0);
		assert_true(eventually(atomic_load(&seen.there)));
		assert_true(seen.blocked);
		memset(reasons, 0, sizeof(reasons));
		assert_true(try_device(w, w->dev, (void *)seen.stack, 1, reasons) <= 0);
		assert_int_equal(reasons[HMM_REASON_RESERVED], 1);
		assert_int_equal(in_child(child_goes_on, NULL), 0);
		atomic_store(&seen.go, 1);
		hmm_safe_thread_join(thread);
		assert_int_equal(count_at(w, (void *)seen.stack, 1, HMM_PLACE_GAP), 1);
	}
}

#define FAR_AWAY	((void *)0x300000000000)

/*
 * metadata_bytes grows with tracked pages, and by no more than 0.3 % of them, where none
 * was tracked before, either; and where the kernel has huge pages for whoever can take them.
 */
static void metadata_stays_small(void **state)
{
	struct world *w = *state;
	struct testdev *dev;
	unsigned char *p;
	uint64_t before;

	if (THREAD_SANITIZED) {
		print_message("          not here: a sanitizer says what addresses there are\n");
		skip();
	}
	p = mmap(FAR_AWAY, DEV_PAGES * page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(p, FAR_AWAY);
	dev = testdev_new(w->mm, DEV_PAGES, world_owner_a, 0);
	before = stats_now(w).metadata_bytes;
	fill(p, DEV_PAGES, 15);
	to_device(w, dev, p, DEV_PAGES);
	/* The last level of a table comes in pages: allow it two of them. */
	assert_in_range(stats_now(w).metadata_bytes - before, 1,
			DEV_PAGES * page * 3 / 1000 + 2 * 65536);
	assert_int_equal(testdev_remove(dev), 0);
	munmap(p, DEV_PAGES * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		/* The first: no memory for tables has been used for something else. */
		world_test(metadata_stays_small),
		world_test(add_checks_its_options),
		world_test(add_takes_newer_options_with_zero_tail),
		world_test(ids_are_unique_and_end_at_255),
		world_test(lookup_finds_addresses),
		world_test(evict_by_index),
		world_test(evictions_at_once_count_their_own),
		world_test(remove_brings_everything_home),
		world_test(remove_while_threads_touch),
		world_test(pages_that_cannot_be_read_are_told),
		world_test(evict_of_unreadable_pages_is_eio),
		world_test(poison_tells_the_reader),
		world_test(unmapped_while_it_is_poisoned),
		world_test(moved_while_it_is_lost),
		world_test(poison_in_a_range),
		world_test(poison_of_free_pages),
		world_test(poisoned_address_mapped_anew),
		world_test(migrate_to_device_needs_page_alloc),
		world_test(coherent_pages_stay_mapped),
		world_test(coherent_to_private_and_back),
		world_test(calls_from_a_copy_answer_edeadlk),
		world_test(safe_memory_keeps_its_promises),
		world_test(safe_thread_keeps_its_promises),
	};

	need_mm();
	return cmocka_run_group_tests_name("devmem", tests, world_begin, world_end);
}
