/* SPDX-License-Identifier: MIT */
/*
 * Changes of mappings that another process announces: made by its agent, or left to the
 * kernel, with its pages wherever they are.
 */
#define _GNU_SOURCE
#include "prog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct prog *prog;
static struct testdev *dev;

static int begin(void **state)
{
	(void)state;
	prog_and_device(&prog, &dev);
	return 0;
}

static int end(void **state)
{
	(void)state;
	prog_and_device_end(prog, dev);
	return 0;
}

#define change_test(f)	cmocka_unit_test_setup_teardown(f, begin, end)

static void munmap_frees_device_pages(void **state)
{
	uintptr_t a = prog_map(prog, 600, 21);

	(void)state;
	prog_to_dev(prog, dev, a, 600);
	assert_int_equal(prog_change(prog, SYS_munmap, a + 10 * page, 500 * page, 0, 0, 0), 0);
	assert_used(dev, 100);
	prog_places(prog, a + 10 * page, 500, HMM_PLACE_GAP);
	assert_prog_holds(prog, a, 10, 21, 0);
	assert_prog_holds(prog, a + 510 * page, 90, 21, 510);
}

static void dontneed_reads_as_zeros(void **state)
{
	uintptr_t a = prog_map(prog, 64, 22);

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(prog_change(prog, SYS_madvise, a, 32 * page, MADV_DONTNEED, 0, 0), 0);
	assert_used(dev, 32);
	for (uint64_t i = 0; i < 32; i++)
		assert_int_equal(prog_run(prog, prog_loads, a + i * page, 1, 0), 1);
	assert_prog_holds(prog, a + 32 * page, 32, 22, 32);
}

static void mremap_carries_device_pages(void **state)
{
	uintptr_t a = prog_map(prog, 600, 23), b = prog_map_empty(prog, 1200, PROT_NONE);

	(void)state;
	prog_to_dev(prog, dev, a, 600);
	assert_int_equal(prog_change(prog, SYS_mremap, a, 600 * page, 1200 * page,
				     MREMAP_MAYMOVE | MREMAP_FIXED, b), b);
	assert_prog_holds(prog, b, 600, 23, 0);
	assert_int_equal(prog_run(prog, prog_loads, b + 700 * page, 1, 0), 1);
	prog_to_dev(prog, dev, b, 600);
	a = (uintptr_t)prog_change(prog, SYS_mremap, b, 1200 * page, 4000 * page, MREMAP_MAYMOVE,
				   0);
	assert_used(dev, 600);
	assert_prog_holds(prog, a, 600, 23, 0);
	assert_int_equal(prog_change(prog, SYS_mremap, a, 4000 * page, 300 * page, 0, 0), a);
	assert_prog_holds(prog, a, 300, 23, 0);
}

/* Two mappings that the kernel cannot make one, as migrations without UFFDIO_MOVE leave them. */
static uintptr_t map_in_parts(size_t nr, uint32_t seed)
{
	uintptr_t room = prog_map_empty(prog, 4 * nr, PROT_NONE), a = prog_map(prog, nr, seed),
		  b = prog_map(prog, nr, seed + 1);
	const uint64_t how = MREMAP_MAYMOVE | MREMAP_FIXED;

	assert_int_equal(prog_change(prog, SYS_mremap, a, nr * page, nr * page, how, room), room);
	assert_int_equal(prog_change(prog, SYS_mremap, b, nr * page, nr * page, how,
				     room + nr * page), room + nr * page);
	return room;
}

static void mappings_in_parts_grow_where_they_are(void **state)
{
	uintptr_t a = map_in_parts(8, 80);

	(void)state;
	prog_to_dev(prog, dev, a, 16);
	assert_int_equal(prog_change(prog, SYS_mremap, a, 16 * page, 24 * page, 0, 0), -ENOMEM);
	assert_int_equal(prog_change(prog, SYS_munmap, a + 16 * page, 16 * page, 0, 0, 0), 0);
	assert_int_equal(prog_change(prog, SYS_mremap, a, 16 * page, 24 * page, 0, 0), a);
	assert_prog_holds(prog, a, 8, 80, 0);
	assert_prog_holds(prog, a + 8 * page, 8, 81, 0);
	assert_int_equal(prog_run(prog, prog_loads, a + 20 * page, 1, 0), 1);
}

static void mprotect_none_keeps_the_bytes(void **state)
{
	uintptr_t a = prog_map(prog, 64, 24);

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(prog_change(prog, SYS_mprotect, a + page, 8 * page, PROT_NONE, 0, 0), 0);
	assert_int_equal(hmm_evict(prog->mm, a, a + 64 * page), 64);
	assert_int_equal(prog_change(prog, SYS_mprotect, a + page, 8 * page,
				     PROT_READ | PROT_WRITE, 0, 0), 0);
	assert_prog_holds(prog, a, 64, 24, 0);
}

static void mapping_over_drops(void **state)
{
	uintptr_t a = prog_map(prog, 64, 25);

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(prog_change(prog, SYS_mmap, a, 16 * page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, (uint64_t)-1), a);
	assert_used(dev, 48);
	assert_int_equal(prog_run(prog, prog_loads, a, 1, 0), 1);
	assert_prog_holds(prog, a + 16 * page, 48, 25, 16);
}

static int64_t open_self(uint64_t unused, uint64_t unused2, uint64_t unused3)
{
	(void)unused;
	(void)unused2;
	(void)unused3;
	return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
}

/* The kernel makes it; a call that fails destroys nothing. */
static void a_file_over_device_pages(void **state)
{
	uintptr_t a = prog_map(prog, 64, 26);
	int64_t fd = prog_run(prog, open_self, 0, 0, 0);

	(void)state;
	assert_true(fd >= 0);
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(prog_change(prog, SYS_mmap, a, 16 * page, PROT_READ,
				     MAP_PRIVATE | MAP_FIXED, 9999), -EBADF);
	assert_prog_holds(prog, a, 16, 26, 0);
	prog_to_dev(prog, dev, a, 16);
	assert_int_equal(prog_change(prog, SYS_mmap, a, page, PROT_READ,
				     MAP_PRIVATE | MAP_FIXED, (uint64_t)fd), a);
	assert_prog_holds(prog, a + page, 63, 26, 1);
	assert_int_equal(prog_run(prog, prog_loads, a, 1, 0x00010102464c457f), 1);
}

static void mlock_brings_home(void **state)
{
	uintptr_t a = prog_map(prog, 64, 27);

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(prog_change(prog, SYS_mlock, a, 32 * page, 0, 0, 0), 0);
	prog_places(prog, a, 32, HMM_PLACE_SYSTEM);
	prog_places(prog, a + 32 * page, 32, HMM_PLACE_DEVICE);
	assert_prog_holds(prog, a, 64, 27, 0);
}

/* The kernel faults in what it gains, while whoever would serve that fault waits. */
static void locked_memory_grows_beside_device_pages(void **state)
{
	uintptr_t b = prog_map_empty(prog, 256, PROT_READ | PROT_WRITE), a = b + 64 * page;

	(void)state;
	assert_int_equal(prog_change(prog, SYS_munmap, b + 128 * page, 128 * page, 0, 0, 0), 0);
	assert_int_equal(prog_run(prog, prog_stores, b, 128, 7), 0);
	assert_int_equal(prog_change(prog, SYS_mlock, a, 64 * page, 0, 0, 0), 0);
	prog_to_dev(prog, dev, b, 64);
	assert_int_equal(prog_change(prog, SYS_mremap, a, 64 * page, 128 * page, 0, 0), a);
	assert_int_equal(prog_run(prog, prog_loads, b, 128, 7), 1);
	assert_int_equal(prog_run(prog, prog_loads, b + 190 * page, 1, 0), 1);
}

/* Between the announcement and its end nothing of the range leaves. */
static void a_change_left_to_the_kernel_holds_its_range(void **state)
{
	uintptr_t a = prog_map(prog, 64, 28);
	const uint64_t args[6] = { a, 32 * page };
	int64_t result;

	(void)state;
	assert_int_equal(hmm_remote_change(prog->mm, 4711, SYS_mlock, args, &result), 0);
	assert_true(result == HMM_CHANGE_CONTINUE);
	assert_int_equal(prog_migrate(prog, dev, a + 8 * page, 4), 0);
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 32), 32);
	prog_places(prog, a, 32, HMM_PLACE_SYSTEM);
	hmm_remote_change_end(prog->mm, 4711);
	assert_int_equal(prog_migrate(prog, dev, a, 32), 32);
	assert_prog_holds(prog, a, 64, 28, 0);
}

static void brk_shrinks_over_device_pages(void **state)
{
	uintptr_t a = (uintptr_t)prog_run(prog, prog_grow_heap, 128, 29, 0);

	(void)state;
	prog_to_dev(prog, dev, a, 128);
	assert_int_equal(prog_change(prog, SYS_brk, a + 64 * page, 0, 0, 0, 0), a + 64 * page);
	assert_used(dev, 64);
	assert_int_equal(prog_change(prog, SYS_brk, a + 128 * page, 0, 0, 0, 0), a + 128 * page);
	for (uint64_t i = 64; i < 128; i++)
		assert_int_equal(prog_run(prog, prog_loads, a + i * page, 1, 0), 1);
	assert_prog_holds(prog, a, 64, 29, 0);
}

static void errors_are_the_kernels(void **state)
{
	(void)state;
	assert_int_equal(prog_change(prog, SYS_munmap, 12345, page, 0, 0, 0), -EINVAL);
	assert_int_equal(prog_change(prog, SYS_madvise, 1 << 20, page, MADV_DONTNEED, 0, 0), -ENOMEM);
	assert_int_equal(prog_change(prog, SYS_mremap, UINT64_MAX - 4095, page, UINT64_MAX,
				     MREMAP_MAYMOVE, 0), -EINVAL);
	assert_int_equal(prog_change(prog, SYS_mprotect, 1 << 20, page, PROT_READ, 0, 0), -ENOMEM);
}

/* ---------------------------------------------------------------- a userfaultfd of its own */

static int64_t own_uffd(uint64_t addr, uint64_t len, uint64_t at)
{
	int fd = foreign_userfaultfd();

	*(struct uffdio_register *)(uintptr_t)at = (struct uffdio_register){
		.range = { addr, len }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	return fd;
}

/* A program traps memory of its own: that comes home and is left to it, what is beside it not. */
static void own_userfaultfd_gets_its_range(void **state)
{
	uintptr_t a = prog_map(prog, 96, 21), at = prog_map_empty(prog, 1, PROT_READ | PROT_WRITE);
	int64_t fd;

	(void)state;
	fd = prog_run(prog, own_uffd, a + 32 * page, 32 * page, at);
	assert_true(fd >= 0);
	prog_to_dev(prog, dev, a, 96);
	prog_to_dev(prog, dev, at, 1);
	assert_int_equal(prog_change(prog, SYS_ioctl, (uint64_t)fd, UFFDIO_REGISTER, at, 0, 0), 0);
	prog_places(prog, a, 32, HMM_PLACE_DEVICE);
	prog_places(prog, a + 32 * page, 32, HMM_PLACE_SYSTEM);
	prog_places(prog, a + 64 * page, 32, HMM_PLACE_DEVICE);
	assert_prog_holds(prog, a, 96, 21, 0);
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 32), 0);
	assert_int_equal(prog_call(prog, SYS_close, (uint64_t)fd, 0, 0, 0), 0);
	prog_to_dev(prog, dev, a, 96);
	assert_prog_holds(prog, a, 96, 21, 0);
}

/* What else is in the mapping would be trapped with all of it, and the program refused. */
static void own_userfaultfd_is_not_forestalled(void **state)
{
	uintptr_t a = prog_map(prog, 96, 22), at = prog_map_empty(prog, 1, PROT_READ | PROT_WRITE);
	uint32_t tid = (uint32_t)prog->pid;
	uint64_t args[6] = { 0, UFFDIO_REGISTER, at };
	int64_t fd, result;

	(void)state;
	fd = prog_run(prog, own_uffd, a + 32 * page, 32 * page, at);
	assert_true(fd >= 0);
	args[0] = (uint64_t)fd;
	assert_int_equal(hmm_remote_change(prog->mm, tid, SYS_ioctl, args, &result), 0);
	assert_true(result == HMM_CHANGE_CONTINUE);
	IGNORE(prog_migrate(prog, dev, a, 32));
	assert_int_equal(prog_call(prog, SYS_ioctl, (uint64_t)fd, UFFDIO_REGISTER, at, 0), 0);
	hmm_remote_change_end(prog->mm, tid);
	IGNORE(prog_migrate(prog, dev, a, 96));
	prog_places(prog, a, 32, HMM_PLACE_DEVICE);
	prog_places(prog, a + 32 * page, 32, HMM_PLACE_SYSTEM);
	assert_prog_holds(prog, a, 96, 22, 0);
	assert_int_equal(prog_call(prog, SYS_close, (uint64_t)fd, 0, 0, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		change_test(munmap_frees_device_pages),
		change_test(dontneed_reads_as_zeros),
		change_test(mremap_carries_device_pages),
		change_test(mappings_in_parts_grow_where_they_are),
		change_test(mprotect_none_keeps_the_bytes),
		change_test(mapping_over_drops),
		change_test(a_file_over_device_pages),
		change_test(mlock_brings_home),
		change_test(locked_memory_grows_beside_device_pages),
		change_test(a_change_left_to_the_kernel_holds_its_range),
		change_test(brk_shrinks_over_device_pages),
		change_test(errors_are_the_kernels),
		change_test(own_userfaultfd_gets_its_range),
		change_test(own_userfaultfd_is_not_forestalled),
	};

	need_mm();
	progs_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
