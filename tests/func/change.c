/* SPDX-License-Identifier: MIT */
/*
 * Changes of mappings with pages away: munmap, mmap over them, madvise, brk, mprotect
 * and mlock behave as if the pages had never left, and device memory that nobody maps
 * any more is freed.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NR	32
#define RW	(PROT_READ | PROT_WRITE)

/* munmap of everything frees every device page and copies none. */
static void munmap_frees_device_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);

	assert_int_equal(munmap(p, NR * page), 0);
	assert_used(w->dev, 0);
	assert_int_equal(w->dev->pages_from, 0);
	assert_at(w, p, NR, HMM_PLACE_GAP);
	assert_int_equal(stats_now(w).device_pages, 0);
}

/* munmap of the middle frees just that; both ends keep their bytes on the device. */
static void munmap_of_the_middle(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 2);

	assert_int_equal(munmap(p + 8 * page, 8 * page), 0);
	assert_used(w->dev, NR - 8);
	assert_at(w, p, 8, HMM_PLACE_DEVICE);
	assert_at(w, p + 8 * page, 8, HMM_PLACE_GAP);
	assert_at(w, p + 16 * page, 16, HMM_PLACE_DEVICE);
	assert_int_equal(touch_read(p + 8 * page), SIGSEGV);
	assert_holds(p, 8, 2, 0);
	assert_holds(p + 16 * page, 16, 2, 16);
	munmap(p, NR * page);
}

/* munmap over two mappings with a gap between them, pages of both away. */
static void munmap_over_two_mappings_and_a_gap(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 3);

	assert_int_equal(munmap(p + 12 * page, 4 * page), 0);
	to_device(w, w->dev, p, 12);
	to_device(w, w->other, p + 16 * page, 16);
	assert_int_equal(munmap(p + 4 * page, 20 * page), 0);
	assert_used(w->dev, 4);
	assert_used(w->other, 8);
	assert_holds(p, 4, 3, 0);
	assert_holds(p + 24 * page, 8, 3, 24);
	munmap(p, NR * page);
}

/* What is mapped anew at an address whose pages were away is new: zeros. */
static void address_reused_after_munmap_is_new(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 4);

	for (int round = 0; round < 50; round++) {
		assert_int_equal(munmap(p, NR * page), 0);
		assert_ptr_equal(mmap(p, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS |
				      MAP_FIXED_NOREPLACE, -1, 0), p);
		assert_true(all_zero(p, NR * page));
		fill(p, NR, 4);
		to_device(w, w->dev, p, NR);
	}
	assert_used(w->dev, NR);
	munmap(p, NR * page);
}

/* mmap(MAP_FIXED) over a part: new memory there, the old bytes around it. */
static void map_fixed_over_a_part(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 5);

	assert_ptr_equal(mmap(p + 8 * page, 8 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			      -1, 0), p + 8 * page);
	assert_used(w->dev, NR - 8);
	assert_true(all_zero(p + 8 * page, 8 * page));
	assert_holds(p, 8, 5, 0);
	assert_holds(p + 16 * page, 16, 5, 16);
	munmap(p, NR * page);
}

/* A file mapped over pages that are away shows the file. */
static void file_mapped_over_a_part(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 6);
	int fd = memfd_create("over", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "over", 4, 0), 4);
	assert_int_equal(ftruncate(fd, (off_t)(4 * page)), 0);
	assert_ptr_equal(mmap(p + 8 * page, 4 * page, RW, MAP_SHARED | MAP_FIXED, fd, 0),
			 p + 8 * page);
	assert_memory_equal(p + 8 * page, "over", 4);
	assert_true(all_zero(p + 8 * page + 4, 4 * page - 4));
	assert_used(w->dev, NR - 4);
	assert_holds(p, 8, 6, 0);
	assert_holds(p + 12 * page, 20, 6, 12);
	close(fd);
	munmap(p, NR * page);
}

/* MAP_FIXED with a bad descriptor fails as ever, and destroys nothing. */
static void map_fixed_with_bad_descriptor_destroys_nothing(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 7);

	errno = 0;
	assert_ptr_equal(mmap(p, NR * page, RW, MAP_PRIVATE | MAP_FIXED, 9999, 0), MAP_FAILED);
	assert_int_equal(errno, EBADF);
	assert_holds(p, NR, 7, 0);
	munmap(p, NR * page);
}

/* DONTNEED of a part: zeros there, frames free, neighbours untouched. */
static void dontneed_of_a_part(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 19);

	assert_int_equal(madvise(p + 8 * page, 8 * page, MADV_DONTNEED), 0);
	assert_true(all_zero(p + 8 * page, 8 * page));
	assert_used(w->dev, NR - 8);
	assert_at(w, p, 8, HMM_PLACE_DEVICE);
	assert_holds(p, 8, 19, 0);
	assert_holds(p + 16 * page, 16, 19, 16);
	munmap(p, NR * page);
}

/* DONTNEED over a gap: everything mapped is discarded, and then it is ENOMEM. */
static void dontneed_over_a_gap(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 19);

	assert_int_equal(munmap(p + 8 * page, 8 * page), 0);
	assert_int_equal(madvise(p + 4 * page, 16 * page, MADV_DONTNEED), -1);
	assert_int_equal(errno, ENOMEM);
	assert_true(all_zero(p + 4 * page, 4 * page));
	assert_true(all_zero(p + 16 * page, 4 * page));
	assert_holds(p, 4, 19, 0);
	assert_holds(p + 20 * page, 12, 19, 20);
	munmap(p, NR * page);
}

/* FREE: each page is old or zeros until it is written, and what is written stays. */
static void free_then_write_keeps_the_write(void **state)
{
	struct world *w = *state;
	uint64_t *p = (void *)map_away(w, NR, 20);

	assert_int_equal(madvise(p, NR * page, MADV_FREE), 0);
	for (size_t i = 0; i < NR; i++) {
		uint64_t seen = p[i * WORDS];

		assert_true(!seen || seen == pattern(20, i, 0));
		p[i * WORDS] = i + 1;
	}
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(p[i * WORDS], i + 1);
	IGNORE(try_device(w, w->dev, p, NR, NULL));
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(p[i * WORDS], i + 1);
	munmap(p, NR * page);
}

/*
 * Where a device may touch pages directly, what is freed is gone at once: the kernel
 * would take it later, under the device.
 */
static void freed_pages_are_gone_at_once(void **state)
{
	unsigned char *p = map_filled(NR, 20);

	(void)state;
	assert_int_equal(madvise(p, NR * page, MADV_FREE), 0);
	if (strict())
		assert_true(all_zero(p, NR * page));
	munmap(p, NR * page);
}

/* brk that shrinks frees device pages; what grows there again is zeros. */
static void brk_shrinks_over_migrated_pages(void **state)
{
	struct world *w = *state;
	uintptr_t top = (uintptr_t)syscall(SYS_brk, 0), base = (top + page - 1) & ~(page - 1);

	assert_int_equal(syscall(SYS_brk, base + NR * page), base + NR * page);
	fill((void *)base, NR, 21);
	to_device(w, w->dev, (void *)base, NR);
	assert_int_equal(syscall(SYS_brk, base + 8 * page), base + 8 * page);
	assert_used(w->dev, 8);
	assert_int_equal(syscall(SYS_brk, base + NR * page), base + NR * page);
	assert_true(all_zero((void *)(base + 8 * page), (NR - 8) * page));
	assert_holds((void *)base, 8, 21, 0);
	assert_int_equal(syscall(SYS_brk, top), top);
}

/* mprotect to read-only with pages away: reads see the bytes, writes are refused. */
static void mprotect_readonly_and_back(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 22);
	char byte = 1;

	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	assert_int_equal(touch_write(p), SIGSEGV);
	assert_int_equal(hmm_copy_to_user(w->mm, (uintptr_t)p + page, &byte, 1), -EFAULT);
	assert_holds(p, NR / 2, 22, 0);
	assert_int_equal(mprotect(p, NR * page, RW), 0);
	assert_int_equal(touch_write(p), 0);
	assert_int_equal(touch_write(p + (NR - 1) * page), 0);
	assert_holds(p, NR, 22, 0);
	munmap(p, NR * page);
}

/* Evicting into memory that became read-only works, and does not make it writable. */
static void evict_into_readonly(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 23);

	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	assert_int_equal(evict(w, p, NR), NR);
	assert_int_equal(touch_write(p), SIGSEGV);
	assert_holds(p, NR, 23, 0);
	munmap(p, NR * page);
}

/* mprotect to none with pages away: nobody reads; back again, the bytes are there. */
static void mprotect_none_and_back(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 24);
	char byte;

	assert_int_equal(mprotect(p + 8 * page, 8 * page, PROT_NONE), 0);
	assert_int_equal(touch_read(p + 8 * page), SIGSEGV);
	assert_int_equal(hmm_copy_from_user(w->mm, &byte, (uintptr_t)p + 8 * page, 1), -EFAULT);
	assert_holds(p, 8, 24, 0);
	assert_int_equal(mprotect(p + 8 * page, 8 * page, RW), 0);
	assert_holds(p, NR, 24, 0);
	munmap(p, NR * page);
}

/* Evicting memory that became PROT_NONE loses nothing. */
static void evict_into_prot_none(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 25);
	int64_t got;

	assert_int_equal(mprotect(p, NR * page, PROT_NONE), 0);
	got = evict(w, p, NR);
	assert_true(got == NR || got == 0 || got == -EIO);
	assert_int_equal(touch_read(p), SIGSEGV);
	assert_int_equal(mprotect(p, NR * page, RW), 0);
	assert_holds(p, NR, 25, 0);
	munmap(p, NR * page);
}

/* Removing the device while its pages' mapping is PROT_NONE loses nothing. */
static void device_removed_under_prot_none(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 26);
	struct testdev *dev = testdev_new(w->mm, NR, world_owner_a, 0);

	to_device(w, dev, p, NR);
	assert_int_equal(mprotect(p, NR * page, PROT_NONE), 0);
	assert_int_equal(testdev_remove(dev), 0);
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	assert_holds(p, NR, 26, 0);
	munmap(p, NR * page);
}

/* mprotect over a range of which part is away leaves bytes of all of it. */
static void mprotect_of_mixed_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 27);

	to_device(w, w->dev, p + 4 * page, 8);
	assert_int_equal(mprotect(p + 6 * page, 20 * page, PROT_READ), 0);
	assert_int_equal(mprotect(p, 8 * page, PROT_READ | PROT_EXEC), 0);
	assert_holds(p, NR, 27, 0);
	assert_int_equal(mprotect(p, NR * page, RW), 0);
	fill(p, NR, 28);
	assert_holds(p, NR, 28, 0);
	munmap(p, NR * page);
}

struct flipper {
	unsigned char *p;
	_Atomic uint32_t stop;
};

static void *flip_run(void *arg)
{
	struct flipper *f = arg;

	while (!f->stop) {
		mprotect(f->p, NR * page, PROT_NONE);
		mprotect(f->p, NR * page, PROT_READ);
	}
	return NULL;
}

/*
 * Protection that another thread takes away while pages are being taken: they go or
 * stay, and the device can read what it was given.
 */
static void protection_flips_while_pages_are_taken(void **state)
{
	struct world *w = *state;
	struct flipper f = { .p = map_filled(NR, 29) };
	pthread_t thread;

	assert_int_equal(mprotect(f.p, NR * page, PROT_READ), 0);
	assert_int_equal(pthread_create(&thread, NULL, flip_run, &f), 0);
	for (uint32_t nr = rounds(400); nr > 0; nr--) {
		assert_true(try_device(w, w->dev, f.p, NR, NULL) >= 0);
		assert_true(evict(w, f.p, NR) >= 0);
	}
	f.stop = 1;
	pthread_join(thread, NULL);
	assert_holds(f.p, NR, 29, 0);
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(f.p, NR * page);
}

/* mlock of pages that are away brings them home and keeps them there. */
static void mlock_brings_home(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 29);
	uint64_t reasons[HMM_REASONS] = { 0 };

	assert_int_equal(mlock(p, NR * page), 0);
	assert_int_equal(cpu_maps_count(p, NR), NR);
	assert_used(w->dev, 0);
	IGNORE(try_device(w, w->dev, p, NR, reasons));
	assert_int_equal(reasons[HMM_REASON_LOCKED], NR);
	assert_int_equal(cpu_maps_count(p, NR), NR);
	assert_holds(p, NR, 29, 0);
	assert_int_equal(munlock(p, NR * page), 0);
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR, 29, 0);
	munmap(p, NR * page);
}

/* mlockall too, and what is mapped later is locked from the start. */
static void mlockall_brings_home(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 31);

	if (!strict()) {
		/* Faulted in one by one, as by any toucher. */
		assert_int_equal(mlock(p, NR * page), 0);
	} else if (mlockall(MCL_CURRENT)) {
		print_message("          not here: RLIMIT_MEMLOCK\n");
	}
	assert_true(munlockall() == 0);
	assert_holds(p, NR, 31, 0);
	munmap(p, NR * page);
}

/* After mlockall(@flags), with staging from before and of later: no page turns to zeros. */
static void lock_all_and_migrate(struct world *w, int flags)
{
	unsigned char *before = map_filled(NR, 29), *after;

	to_device(w, w->dev, before, NR / 2);
	evict(w, before, NR / 2);
	if (mlockall(flags)) {
		munmap(before, NR * page);
		print_message("          not here: RLIMIT_MEMLOCK\n");
		return;
	}
	after = map_filled(NR, 30);
	for (int i = 0; i < 3; i++) {
		(void)try_device(w, w->dev, before, NR, NULL);
		(void)try_device(w, w->dev, after, NR, NULL);
		evict(w, before, NR);
		evict(w, after, NR);
		assert_holds(before, NR, 29, 0);
		assert_holds(after, NR, 30, 0);
	}
	assert_int_equal(munlockall(), 0);
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(before, NR * page);
	munmap(after, NR * page);
}

static void what_is_locked_keeps_its_bytes(void **state)
{
	lock_all_and_migrate(*state, MCL_CURRENT);
	lock_all_and_migrate(*state, MCL_FUTURE);
	lock_all_and_migrate(*state, MCL_CURRENT | MCL_FUTURE);
}

/* The same where nothing has been staged before. */
static void first_staging_of_a_locked_process(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 28);

	if (mlockall(MCL_FUTURE)) {
		munmap(p, NR * page);
		print_message("          not here: RLIMIT_MEMLOCK\n");
		skip();
	}
	(void)try_device(w, w->dev, p, NR, NULL);
	evict(w, p, NR);
	assert_holds(p, NR, 28, 0);
	assert_int_equal(munlockall(), 0);
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(p, NR * page);
}

/* pkey_mprotect is an mprotect; a device that looks again sees the new protection. */
static void pkey_mprotect_and_back(void **state)
{
	struct world *w = *state;
	unsigned char *p;
	char byte = 1;

	if (syscall(SYS_pkey_mprotect, NULL, 0, PROT_READ, -1) && errno == ENOSYS) {
		print_message("          not here: no pkey_mprotect on this kernel\n");
		skip();
	}
	p = map_away(w, NR, 32);
	assert_int_equal(syscall(SYS_pkey_mprotect, p, NR * page, PROT_READ, -1), 0);
	assert_int_equal(hmm_copy_to_user(w->mm, (uintptr_t)p, &byte, 1), -EFAULT);
	assert_holds(p, NR / 2, 32, 0);
	assert_int_equal(syscall(SYS_pkey_mprotect, p, NR * page, RW, -1), 0);
	assert_holds(p, NR, 32, 0);
	munmap(p, NR * page);
}

/* A guard over pages that are away ends them: SIGSEGV, and their frames are free. */
static void guard_over_a_part(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 33);

	if (madvise(p + 4 * page, 4 * page, 102 /* MADV_GUARD_INSTALL, 6.13 */)) {
		print_message("          not here: no guard regions\n");
		munmap(p, NR * page);
		return;
	}
	assert_used(w->dev, NR - 4);
	assert_int_equal(touch_read(p + 5 * page), SIGSEGV);
	assert_at(w, p + 8 * page, NR - 8, HMM_PLACE_DEVICE);
	/* Which leaves what is beside them. */
	assert_int_equal(madvise(p, NR * page, 103 /* MADV_GUARD_REMOVE */), 0);
	assert_true(all_zero(p + 4 * page, 4 * page));
	assert_holds(p, 4, 33, 0);
	assert_holds(p + 8 * page, NR - 8, 33, 8);
	munmap(p, NR * page);
}

/* shmat with SHM_REMAP replaces what it covers, shmdt leaves a gap. */
static void shmat_over_a_part(void **state)
{
	struct world *w = *state;
	int id = shmget(IPC_PRIVATE, 4 * page, IPC_CREAT | 0600);
	unsigned char *p = map_away(w, NR, 34);

	assert_true(id >= 0);
	assert_ptr_equal(shmat(id, p + 4 * page, SHM_REMAP), p + 4 * page);
	assert_int_equal(shmctl(id, IPC_RMID, NULL), 0);
	assert_used(w->dev, NR - 4);
	assert_true(all_zero(p + 4 * page, 4 * page));
	assert_int_equal(shmdt(p + 4 * page), 0);
	assert_at(w, p + 4 * page, 4, HMM_PLACE_GAP);
	assert_holds(p, 4, 34, 0);
	assert_holds(p + 8 * page, NR - 8, 34, 8);
	munmap(p, NR * page);
}

static void *take_run(void *arg)
{
	void **args = arg;
	struct world *w = args[0];
	_Atomic uint32_t *stop = args[2];

	while (!*stop)
		IGNORE(try_device(w, w->dev, args[1], NR, NULL));
	return NULL;
}

/* process_madvise on oneself discards whatever is taken at the same time. */
static void process_madvise_discards_while_migrating(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 35);
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	struct iovec range = { p, NR * page };
	_Atomic uint32_t stop = 0;
	void *args[] = { w, p, (void *)&stop };
	pthread_t thread;

	if (self < 0 || syscall(SYS_process_madvise, self, &range, 1, MADV_DONTNEED, 0) < 0) {
		print_message("          not here: process_madvise on oneself (6.13)\n");
		munmap(p, NR * page);
		return;
	}
	assert_int_equal(pthread_create(&thread, NULL, take_run, args), 0);
	for (uint32_t nr = rounds(40); nr > 0; nr--) {
		fill(p, NR, 36);
		assert_int_equal(syscall(SYS_process_madvise, self, &range, 1, MADV_DONTNEED, 0),
				 NR * page);
		assert_true(all_zero(p, NR * page));
	}
	stop = 1;
	pthread_join(thread, NULL);
	close(self);
	munmap(p, NR * page);
}

/*
 * It does not wait for ever for pages in flight, which may be the caller's own: what it
 * discarded meanwhile does not come back with them, in whatever range it was named.
 */
static void process_madvise_discards_what_is_in_flight(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 37);
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	struct iovec ranges[] = { { p, 2 * page }, { p + 4 * page, 0 }, { p + 8 * page, 8 * page } };
	uint64_t src[NR] = { 0 }, dst[NR] = { 0 };
	struct hmm_migrate m = { .size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM,
				 .start = (uintptr_t)p, .end = (uintptr_t)(p + NR * page),
				 .src = src, .dst = dst };

	if (!strict() || self < 0 ||
	    syscall(SYS_process_madvise, self, &ranges[1], 1, MADV_DONTNEED, 0) < 0) {
		print_message("          not here: process_madvise on oneself (6.13), strict\n");
		munmap(p, NR * page);
		return;
	}
	assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
	assert_int_equal(syscall(SYS_process_madvise, self, ranges, 3, MADV_DONTNEED, 0), 10 * page);
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	assert_true(all_zero(p, 2 * page));
	assert_holds(p + 2 * page, 6, 37, 2);
	assert_true(all_zero(p + 8 * page, 8 * page));
	assert_holds(p + 16 * page, NR - 16, 37, 16);
	close(self);
	munmap(p, NR * page);
}

/* Many mappings, each with a few pages away, unmapped in any order: all freed. */
static void many_small_mappings(void **state)
{
	struct world *w = *state;
	static unsigned char *maps[200];

	for (size_t i = 0; i < ARRAY_LEN(maps); i++) {
		maps[i] = map_filled(3, (uint32_t)(100 + i));
		to_device(w, w->dev, maps[i] + page, 1);
	}
	for (size_t i = 0; i < ARRAY_LEN(maps); i++) {
		size_t j = i * 77 % ARRAY_LEN(maps);

		if (j & 1)
			assert_holds(maps[j], 3, (uint32_t)(100 + j), 0);
		assert_int_equal(munmap(maps[j], 3 * page), 0);
	}
	assert_used(w->dev, 0);
}

/* Once every page is home the mapping is one mapping again: no split is left behind. */
static void no_split_is_left_behind(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 30);
	long size = smaps_kb(p, "Size:");

	to_device(w, w->dev, p + 10 * page, 2);
	assert_int_equal(smaps_kb(p, "Size:"), size);
	assert_int_equal(evict(w, p, NR), 2);
	assert_int_equal(smaps_kb(p, "Size:"), size);
	assert_holds(p, NR, 30, 0);
	munmap(p, NR * page);
}

struct churn {
	pthread_t thread;
	_Atomic uint32_t *stop;
	uint32_t seed;
	_Atomic uint64_t rounds;
	bool right;
};

/* Maps, fills, checks and unmaps, over and over; addresses are reused by all threads. */
static void *churn_run(void *arg)
{
	struct churn *c = arg;

	c->right = true;
	while (c->right && !atomic_load(c->stop)) {
		unsigned char *p = mmap(NULL, 8 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			break;
		c->right = all_zero(p, 8 * page);
		fill(p, 8, c->seed);
		c->right = c->right && holds(p, 8, c->seed, 0);
		munmap(p, 8 * page);
		c->rounds++;
	}
	return NULL;
}

/* STRICT: threads that map and unmap the same addresses while all of it migrates. */
static void addresses_reused_by_threads_while_migrating(void **state)
{
	struct world *w = *state;
	static _Atomic uint32_t stop;
	const uint32_t nr = rounds(300);
	struct churn churns[3];
	unsigned char *hint = map_pages(64, PROT_NONE, 0);

	/* Where the churners' mappings will land: below what was mapped last. */
	munmap(hint, 64 * page);
	atomic_store(&stop, 0);
	for (size_t i = 0; i < ARRAY_LEN(churns); i++) {
		churns[i] = (struct churn) { .stop = &stop, .seed = (uint32_t)(40 + i) };
		assert_int_equal(pthread_create(&churns[i].thread, NULL, churn_run, &churns[i]), 0);
	}
	for (uint32_t round = 0; round < nr; round++) {
		IGNORE(try_device(w, w->dev, hint - 64 * page, 128, NULL));
		/* Each of them has begun, and goes on under every round. */
		if (round % (nr / 3) == 0)
			for (size_t i = 0; i < ARRAY_LEN(churns); i++)
				assert_true(eventually(churns[i].rounds > round / (nr / 3)));
	}
	atomic_store(&stop, 1);
	for (size_t i = 0; i < ARRAY_LEN(churns); i++) {
		pthread_join(churns[i].thread, NULL);
		assert_true(churns[i].right);
		assert_true(churns[i].rounds > 0);
	}
}

/*
 * A mapping is let go together with the neighbours that it was trapped with, also where the
 * program has mapped memory beside them since, and traps that by itself.
 */
static void let_go_beside_a_foreign_mapping(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(3, 66);
	int fd = foreign_userfaultfd(), other = foreign_userfaultfd();

	assert_true(fd >= 0 && other >= 0);
	assert_int_equal(mprotect(p + page, page, PROT_READ), 0);
	assert_ptr_equal(mmap(p + 2 * page, page, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 p + 2 * page);
	to_device(w, w->dev, p, 1);
	assert_int_equal(foreign_register(other, p + page, 1), -EBUSY);
	assert_ptr_equal(mmap(p + 2 * page, page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 p + 2 * page);
	assert_int_equal(foreign_register(fd, p + 2 * page, 1), 0);
	assert_holds(p, 2, 66, 0);
	assert_true(eventually(!foreign_register(other, p + page, 1)));
	close(other);
	close(fd);
	munmap(p, 3 * page);
}

int main(void)
{
	static const struct CMUnitTest always[] = {
		/* The first: nothing is staged yet. */
		world_test(first_staging_of_a_locked_process),
		world_test(munmap_frees_device_pages),
		world_test(munmap_of_the_middle),
		world_test(munmap_over_two_mappings_and_a_gap),
		world_test(address_reused_after_munmap_is_new),
		world_test(map_fixed_over_a_part),
		world_test(file_mapped_over_a_part),
		world_test(map_fixed_with_bad_descriptor_destroys_nothing),
		world_test(dontneed_of_a_part),
		world_test(dontneed_over_a_gap),
		world_test(free_then_write_keeps_the_write),
		world_test(freed_pages_are_gone_at_once),
		world_test(brk_shrinks_over_migrated_pages),
		world_test(mprotect_readonly_and_back),
		world_test(evict_into_readonly),
		world_test(mprotect_none_and_back),
		world_test(evict_into_prot_none),
		world_test(device_removed_under_prot_none),
		world_test(mprotect_of_mixed_range),
		world_test(protection_flips_while_pages_are_taken),
		world_test(mlock_brings_home),
		world_test(mlockall_brings_home),
		world_test(what_is_locked_keeps_its_bytes),
		world_test(pkey_mprotect_and_back),
		world_test(many_small_mappings),
		world_test(no_split_is_left_behind),
	};
	/* The guarantee that only an announcement before the change can give. */
	static const struct CMUnitTest announced[] = {
		world_test(addresses_reused_by_threads_while_migrating),
		world_test(guard_over_a_part),
		world_test(shmat_over_a_part),
		world_test(process_madvise_discards_while_migrating),
		world_test(process_madvise_discards_what_is_in_flight),
	};
	/* A STRICT mm traps at once what is mapped beside; and some kernels let go of nothing. */
	static const struct CMUnitTest unannounced[] = {
		world_test(let_go_beside_a_foreign_mapping),
	};
	struct CMUnitTest tests[ARRAY_LEN(always) + ARRAY_LEN(announced)];
	size_t nr = ARRAY_LEN(always);

	need_mm();
	memcpy(tests, always, sizeof(always));
	if (strict()) {
		memcpy(tests + nr, announced, sizeof(announced));
		nr += ARRAY_LEN(announced);
	} else if (!masked("uffd-pending")) {
		memcpy(tests + nr, unannounced, sizeof(unannounced));
		nr += ARRAY_LEN(unannounced);
	}
	return _cmocka_run_group_tests("change", tests, nr, world_begin, world_end);
}
