/* SPDX-License-Identifier: MIT */
/*
 * An address space that is another process's: everything that works here works there.
 */
#define _GNU_SOURCE
#include "prog.h"
#include "uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct prog *prog;
static struct testdev *dev;
static struct hmm_stats start;

#define moved_since(field)	(prog_stats(prog).field - start.field)

static int begin(void **state)
{
	(void)state;
	prog_and_device(&prog, &dev);
	start = prog_stats(prog);
	return 0;
}

/* A second devmem's pages are all freed, and the program goes as it came. */
static int end(void **state)
{
	(void)state;
	prog_and_device_end(prog, dev);
	return 0;
}

#define remote_test(f)	cmocka_unit_test_setup_teardown(f, begin, end)

/* ---------------------------------------------------------------- both ways */

static void migrates_both_ways(void **state)
{
	uintptr_t a = prog_map(prog, 1200, 7);

	(void)state;
	prog_to_dev(prog, dev, a, 1200);
	assert_used(dev, 1200);
	assert_int_equal(moved_since(pages_to_device), 1200);
	assert_int_equal(hmm_evict(prog->mm, a, a + 1200 * page), 1200);
	prog_places(prog, a, 1200, HMM_PLACE_SYSTEM);
	assert_used(dev, 0);
	assert_prog_holds(prog, a, 1200, 7, 0);
	assert_int_equal(moved_since(cpu_faults), 0);
	assert_int_equal(moved_since(lost_pages), 0);
}

static void a_touch_brings_a_page_home(void **state)
{
	uintptr_t a = prog_map(prog, 64, 8);

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_prog_holds(prog, a + 5 * page, 1, 8, 5);
	assert_int_equal(moved_since(cpu_faults), 1);
	assert_used(dev, 63);
	assert_prog_holds(prog, a, 64, 8, 0);
	assert_used(dev, 0);
}

static void a_store_is_not_lost(void **state)
{
	uintptr_t a = prog_map(prog, 600, 9);

	(void)state;
	for (uint64_t round = 1; round < 6; round++) {
		prog_to_dev(prog, dev, a, 600);
		assert_int_equal(prog_run(prog, prog_stores, a, 600, round << 32), 0);
		prog_to_dev(prog, dev, a, 600);
		assert_int_equal(prog_run(prog, prog_loads, a, 600, round << 32), 1);
	}
}

/* The rest of a range whose pages are here and there goes by few calls of the agent. */
static void what_is_between_device_pages_goes_at_once(void **state)
{
	uintptr_t a = prog_map(prog, 256, 8);
	uint64_t batches;

	(void)state;
	for (uint64_t i = 1; i < 256; i += 2)
		assert_int_equal(prog_migrate(prog, dev, a + i * page, 1), 1);
	batches = prog_batches;
	assert_int_equal(prog_migrate(prog, dev, a, 256), 128);
	assert_true(masked("uffdio-move") || prog_batches - batches < 16);
	prog_places(prog, a, 256, HMM_PLACE_DEVICE);
	assert_prog_holds(prog, a, 256, 8, 0);
}

static void holes_become_zeroed_device_pages(void **state)
{
	uintptr_t a = prog_map_empty(prog, 300, PROT_READ | PROT_WRITE);

	(void)state;
	assert_int_equal(prog_run(prog, prog_stores, a, 100, 5), 0);
	prog_to_dev(prog, dev, a, 300);
	assert_int_equal(atomic_load(&dev->zeroed), 200);
	assert_int_equal(prog_run(prog, prog_loads, a, 100, 5), 1);
	for (uint64_t i = 100; i < 300; i++)
		assert_int_equal(prog_run(prog, prog_loads, a + i * page, 1, 0), 1);
}

/* Read holes map the zero page, which the chunk's old bytes must not stand in for. */
static void zero_pages_stay_zero(void **state)
{
	uintptr_t b = prog_map(prog, 512, 11), a = prog_map_empty(prog, 64, PROT_READ | PROT_WRITE);
	uint64_t limit = testdev_used(dev);

	(void)state;
	prog_to_dev(prog, dev, b, 512);
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(prog_run(prog, prog_loads, a + i * page, 1, 0), 1);
	dev->limit = limit + 512 + 32;	/* half of them have to go back */
	assert_int_equal(prog_migrate(prog, dev, a, 64), 32);
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(prog_run(prog, prog_loads, a + i * page, 1, 0), 1);
	dev->limit = 0;
	assert_prog_holds(prog, b, 512, 11, 0);
}

static void a_full_device_leaves_the_rest(void **state)
{
	uintptr_t a = prog_map(prog, 512, 12);

	(void)state;
	dev->limit = 100;
	assert_int_equal(prog_migrate(prog, dev, a, 512), 100);
	assert_int_equal(prog_migrate(prog, dev, a, 512), -ENOSPC);
	assert_prog_holds(prog, a, 512, 12, 0);
	dev->limit = 0;
}

static void failed_copies_leave_the_page(void **state)
{
	uintptr_t a = prog_map(prog, 512, 13);

	(void)state;
	atomic_store(&dev->fail_to, 1);
	/* So few that they are one copy. */
	assert_int_equal(prog_migrate(prog, dev, a, (1 << 20) / page), 0);
	prog_places(prog, a, 512, HMM_PLACE_SYSTEM);
	assert_prog_holds(prog, a, 512, 13, 0);
	assert_int_equal(moved_since(lost_pages), 0);
}

static int64_t read_pipe(uint64_t addr, uint64_t len, uint64_t byte)
{
	char *at = (char *)(uintptr_t)addr;
	int fds[2];
	int64_t got = 0;
	char out[4096];

	memset(out, (int)byte, sizeof(out));
	if (pipe(fds))
		return -errno;
	while (got < (int64_t)len) {
		size_t n = len - (uint64_t)got < sizeof(out) ? len - (uint64_t)got : sizeof(out);
		ssize_t ret;

		if (write(fds[1], out, n) != (ssize_t)n)
			break;
		ret = read(fds[0], at + got, n);
		if (ret != (ssize_t)n)
			break;
		got += ret;
	}
	close(fds[0]);
	close(fds[1]);
	return got;
}

static void system_calls_wait_as_the_program_would(void **state)
{
	uintptr_t a = prog_map(prog, 64, 14);

	(void)state;
	prog_to_dev(prog, dev, a, 64);
	assert_int_equal(prog_run(prog, read_pipe, a + 100, 16 * page, 0x5a), 16 * page);
	assert_prog_holds(prog, a + 17 * page, 47, 14, 17);
}

static void allow(uint64_t bring, uint64_t map)
{
	uint64_t brought, mapped;

	assert_int_equal(hmm_remote_count(prog->mm, &brought, &mapped), 0);
	assert_int_equal(hmm_remote_allow(prog->mm, bring == UINT64_MAX ? bring : brought + bring,
					  map == UINT64_MAX ? map : mapped + map), 0);
}

static uint64_t brought(void)
{
	uint64_t brought, mapped;

	assert_int_equal(hmm_remote_count(prog->mm, &brought, &mapped), 0);
	return brought;
}

/* With no more allowed a first touch takes its time, and one page; then all is as ever. */
static void allowance_bounds_what_faults_bring(void **state)
{
	uintptr_t a = prog_map_empty(prog, 400, PROT_READ | PROT_WRITE);
	uint64_t before;

	(void)state;
	assert_int_equal(prog_run(prog, prog_stores, a, 2, 79), 0);
	prog_to_dev(prog, dev, a, 2);		/* the second stays there: first touches are served */
	allow(0, UINT64_MAX);
	before = brought();
	assert_int_equal(prog_run(prog, prog_stores, a + 8 * page, 4, 80), 0);
	/* Who served the last touch counts it when the program has gone on. */
	assert_true(eventually(brought() - before == 4));
	allow(200, UINT64_MAX);
	assert_int_equal(prog_run(prog, prog_loads, a, 1, 79), 1);
	assert_int_equal(prog_run(prog, prog_stores, a + 100 * page, 100, 81), 0);
	assert_true(eventually(brought() - before >= 4 + 1 + 100));
	assert_true(brought() - before <= 4 + 200);
	assert_int_equal(prog_run(prog, prog_loads, a + 100 * page, 100, 81), 1);
	allow(UINT64_MAX, UINT64_MAX);
}

static uint64_t announced_map(size_t nr, int flags)
{
	int64_t addr = prog_change(prog, SYS_mmap, 0, nr * page, PROT_READ | PROT_WRITE,
				   (uint64_t)(MAP_PRIVATE | MAP_ANONYMOUS | flags), (uint64_t)-1);

	assert_true(addr > 0);
	return (uint64_t)addr;
}

/* What is mapped beyond the allowance has its first touches served; before, and small, not. */
static void first_touches_are_served_when_too_much_is_mapped(void **state)
{
	uint64_t a, fills;

	(void)state;
	allow(UINT64_MAX, 1024);
	a = announced_map(512, 0);
	assert_int_equal(prog_run(prog, prog_stores, a, 512, 1), 0);
	assert_int_equal(moved_since(zero_fills), 0);
	a = announced_map(1024, MAP_POPULATE);
	assert_int_equal(prog_run(prog, prog_stores, a, 1024, 2), 0);
	assert_true(moved_since(zero_fills) >= 1024);
	fills = moved_since(zero_fills);
	assert_int_equal(prog_change(prog, SYS_mmap, a, 1024 * page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, (uint64_t)-1), a);
	assert_int_equal(prog_run(prog, prog_stores, a, 1024, 3), 0);
	assert_true(moved_since(zero_fills) >= fills + 1024);
	fills = moved_since(zero_fills);
	assert_int_equal(prog_run(prog, prog_stores, announced_map(16, 0), 16, 4), 0);
	assert_int_equal(prog_run(prog, prog_loads, a, 1024, 3), 1);
	/* Allowed again, the kernel fills what is new. */
	allow(UINT64_MAX, UINT64_MAX);
	fills = moved_since(zero_fills);
	assert_int_equal(prog_run(prog, prog_stores, announced_map(1024, 0), 1024, 5), 0);
	assert_int_equal(moved_since(zero_fills), fills);
}

/* ... of the heap, of what mremap adds, and of what becomes writable. */
static void first_touches_are_served_of_what_grows(void **state)
{
	uint64_t fills, brk = (uint64_t)prog_change(prog, SYS_brk, 0, 0, 0, 0, 0);
	uint64_t a = announced_map(16, 0), none = announced_map(600, 0);

	(void)state;
	assert_int_equal(prog_change(prog, SYS_mprotect, none, 600 * page, PROT_NONE, 0, 0), 0);
	allow(UINT64_MAX, 0);
	assert_int_equal(prog_change(prog, SYS_brk, brk + 600 * page, 0, 0, 0, 0),
			 brk + 600 * page);
	assert_int_equal(prog_run(prog, prog_stores, brk + page, 599, 1), 0);
	fills = moved_since(zero_fills);
	assert_true(fills >= 599);
	a = (uint64_t)prog_change(prog, SYS_mremap, a, 16 * page, 600 * page, MREMAP_MAYMOVE, 0);
	assert_int_equal(prog_run(prog, prog_stores, a, 600, 2), 0);
	assert_true(moved_since(zero_fills) >= fills + 600);
	fills = moved_since(zero_fills);
	assert_int_equal(prog_change(prog, SYS_mprotect, none, 600 * page, PROT_READ | PROT_WRITE,
				     0, 0), 0);
	assert_int_equal(prog_run(prog, prog_stores, none, 600, 3), 0);
	assert_true(moved_since(zero_fills) >= fills + 600);
	allow(UINT64_MAX, UINT64_MAX);
}

/* What was mapped before is watched when that is asked for. */
static void first_touches_are_served_where_asked(void **state)
{
	uintptr_t a = prog_map_empty(prog, 600, PROT_READ | PROT_WRITE);

	(void)state;
	/* A huge page would come at the first touch, with those that are to be watched later. */
	assert_int_equal(prog_call(prog, SYS_madvise, a, 600 * page, MADV_NOHUGEPAGE, 0), 0);
	assert_int_equal(hmm_remote_watch(prog->mm, a), 0);
	assert_int_equal(prog_run(prog, prog_stores, a, 100, 1), 0);
	assert_int_equal(moved_since(zero_fills), 0);
	allow(UINT64_MAX, 0);
	assert_int_equal(hmm_remote_watch(prog->mm, a), 0);
	assert_int_equal(prog_run(prog, prog_stores, a + 100 * page, 500, 2), 0);
	assert_true(moved_since(zero_fills) >= 500);
	assert_int_equal(prog_run(prog, prog_loads, a, 100, 1), 1);
	allow(UINT64_MAX, UINT64_MAX);
}

/* Two who go through their memory in order are each served ahead of where they are. */
static void sequential_touches_are_told_apart(void **state)
{
	uintptr_t a = prog_map_empty(prog, 1024, PROT_READ | PROT_WRITE);

	(void)state;
	allow(UINT64_MAX, 0);
	assert_int_equal(hmm_remote_watch(prog->mm, a), 0);
	for (size_t i = 0; i < 24; i++) {
		assert_int_equal(prog_run(prog, prog_stores, a + i * page, 1, i), 0);
		assert_int_equal(prog_run(prog, prog_stores, a + (512 + i) * page, 1, i), 0);
	}
	assert_int_equal(moved_since(zero_fills), 2 * (1 + 2 + 4 + 8 + 16));
	allow(UINT64_MAX, UINT64_MAX);
}

static void readonly_memory_goes_by_copy(void **state)
{
	uintptr_t a = prog_map(prog, 128, 15);

	(void)state;
	assert_int_equal(prog_change(prog, SYS_mprotect, a, 128 * page, PROT_READ, 0, 0), 0);
	prog_to_dev(prog, dev, a, 128);
	assert_prog_holds(prog, a, 64, 15, 0);
	assert_int_equal(hmm_evict(prog->mm, a, a + 128 * page), 64);
	assert_prog_holds(prog, a, 128, 15, 0);
	assert_int_equal(prog_change(prog, SYS_mprotect, a, 128 * page, PROT_READ | PROT_WRITE,
				     0, 0), 0);
	prog_to_dev(prog, dev, a, 128);
	assert_prog_holds(prog, a, 128, 15, 0);
}

static void executable_memory_goes_too(void **state)
{
	uintptr_t a = prog_map_empty(prog, 96, PROT_READ | PROT_WRITE | PROT_EXEC);

	(void)state;
	if (masked("dontunmap"))
		return;
	for (int round = 0; round < 3; round++) {
		assert_int_equal(prog_run(prog, prog_stores, a, 96, 77), 0);
		prog_to_dev(prog, dev, a, 96);
		assert_int_equal(prog_run(prog, prog_loads, a, 96, 77), 1);
	}
}

/* ---------------------------------------------------------------- what stays */

static int64_t lock_memory(uint64_t addr, uint64_t len, uint64_t unused)
{
	(void)unused;
	/* A sanitizer has an mlock() of its own. */
	return syscall(SYS_mlock, addr, len) ? -errno : 0;
}

static void what_cannot_go_is_refused(void **state)
{
	uint64_t reasons[HMM_REASONS] = { 0 };
	uintptr_t a = prog_map(prog, 32, 16);
	uint64_t shared = (uint64_t)prog_call(prog, SYS_mmap, 0, 32 * page,
					      PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);

	(void)state;
	assert_int_equal(hmm_migrate_to_device(prog->mm, dev->devmem, shared,
					       shared + 32 * page, HMM_MIGRATE_SYSTEM, reasons), 0);
	assert_int_equal(reasons[HMM_REASON_SHARED], 32);
	assert_int_equal(prog_run(prog, lock_memory, a, 8 * page, 0), 0);
	assert_int_equal(hmm_migrate_to_device(prog->mm, dev->devmem, a, a + 32 * page,
					       HMM_MIGRATE_SYSTEM, reasons), 24);
	assert_int_equal(reasons[HMM_REASON_LOCKED], 8);
	assert_prog_holds(prog, a, 32, 16, 0);
}

/* In the program. */
static struct uring ring;
static int ring_pipe[2];

static int64_t pin(uint64_t addr, uint64_t len, uint64_t unused)
{
	(void)unused;
	if (uring_open(&ring) || pipe(ring_pipe))
		return -ENOSYS;
	return uring_register(&ring, (void *)(uintptr_t)addr, len);
}

static int64_t dma(uint64_t addr, uint64_t unused, uint64_t unused2)
{
	(void)unused;
	(void)unused2;
	if (write(ring_pipe[1], "dma!", 5) != 5)
		return -EIO;
	return uring_do(&ring, IORING_OP_READ_FIXED, ring_pipe[0], (void *)(uintptr_t)addr, 5, 0);
}

static int64_t reads_dma(uint64_t addr, uint64_t unused, uint64_t unused2)
{
	(void)unused;
	(void)unused2;
	return !strcmp((const char *)(uintptr_t)addr, "dma!");
}

/* What io_uring reads into them afterwards lands, whatever their protection is by then. */
static void pinned_pages_stay(void **state)
{
	const int prots[] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_READ | PROT_WRITE | PROT_EXEC };

	(void)state;
	if (masked("uffdio-move"))
		return;		/* nothing else sees a pin */
	for (size_t i = 0; i < ARRAY_LEN(prots); i++) {
		struct prog *p = prog_start(prog);
		uintptr_t a = prog_map(p, 32, 37);
		uint64_t reasons[HMM_REASONS] = { 0 };

		if (prog_run(p, pin, a + 8 * page, 4 * page, 0)) {
			prog_end(p);
			return;		/* no io_uring here */
		}
		assert_int_equal(prog_change(p, SYS_mprotect, a, 32 * page, (uint64_t)prots[i],
					     0, 0), 0);
		assert_int_equal(hmm_migrate_to_device(p->mm, dev->devmem, a, a + 32 * page,
						       HMM_MIGRATE_SYSTEM, reasons), 28);
		assert_int_equal(reasons[HMM_REASON_PINNED], 4);
		prog_places(p, a + 8 * page, 4, HMM_PLACE_SYSTEM);
		assert_int_equal(prog_run(p, dma, a + 9 * page, 0, 0), 5);
		assert_int_equal(prog_run(p, reads_dma, a + 9 * page, 0, 0), 1);
		assert_prog_holds(p, a, 9, 37, 0);
		assert_prog_holds(p, a + 10 * page, 22, 37, 10);
		assert_int_equal(prog_end(p), 0);
	}
}

static int64_t own_stack(uint64_t unused, uint64_t unused2, uint64_t unused3)
{
	(void)unused;
	(void)unused2;
	(void)unused3;
	return (int64_t)((uintptr_t)__builtin_frame_address(0) & ~(page - 1));
}

static char static_data[16 * PAGE_MAX];

static int64_t where_static_data_is(uint64_t unused, uint64_t unused2, uint64_t unused3)
{
	(void)unused;
	(void)unused2;
	(void)unused3;
	memset(static_data, 7, sizeof(static_data));
	return (int64_t)(((uintptr_t)static_data + page) & ~(page - 1));
}

static void static_data_stays(void **state)
{
	uint64_t reasons[HMM_REASONS] = { 0 };
	uintptr_t at = (uintptr_t)prog_run(prog, where_static_data_is, 0, 0, 0);

	(void)state;
	assert_int_equal(hmm_migrate_to_device(prog->mm, dev->devmem, at, at + 8 * page,
					       HMM_MIGRATE_SYSTEM, reasons), 0);
	assert_int_equal(reasons[HMM_REASON_RESERVED], 8);
}

static void stacks_and_the_agents_memory_stay(void **state)
{
	uint64_t reasons[HMM_REASONS] = { 0 };
	uintptr_t at = (uintptr_t)prog_run(prog, own_stack, 0, 0, 0);

	(void)state;
	assert_int_equal(hmm_migrate_to_device(prog->mm, dev->devmem, at, at + page,
					       HMM_MIGRATE_SYSTEM, reasons), 0);
	assert_int_equal(reasons[HMM_REASON_RESERVED], 1);
}

/* ---------------------------------------------------------------- copies, snapshots */

static void guarded_copies_reach_device_pages(void **state)
{
	uintptr_t a = prog_map(prog, 16, 17);
	char *bytes = malloc(16 * page);

	(void)state;
	prog_to_dev(prog, dev, a, 16);
	assert_int_equal(hmm_copy_from_user(prog->mm, bytes, a, 16 * page), 16 * page);
	assert_true(holds(bytes, 16, 17, 0));
	prog_to_dev(prog, dev, a, 16);
	fill(bytes, 16, 18);
	assert_int_equal(hmm_copy_to_user(prog->mm, a, bytes, 16 * page), 16 * page);
	assert_prog_holds(prog, a, 16, 18, 0);
	assert_int_equal(hmm_copy_from_user(prog->mm, bytes, 4096, 16), -EFAULT);
	free(bytes);
}

static void snapshots_and_faults_by_range(void **state)
{
	uintptr_t a = prog_map_empty(prog, 32, PROT_READ | PROT_WRITE);
	uint64_t *pfns = hmm_safe_alloc(32 * sizeof(*pfns));
	HMM_OPTS(hmm_range, r, .start = a, .end = a + 32 * page, .pfns = pfns,
		 .owner = world_owner_a);

	(void)state;
	memset(pfns, 0, 32 * sizeof(*pfns));
	assert_int_equal(prog_run(prog, prog_stores, a, 8, 1), 0);
	prog_to_dev(prog, dev, a, 4);
	assert_int_equal(hmm_range_fault(prog->mm, &r), 0);
	for (int i = 0; i < 32; i++) {
		assert_int_equal(!!(pfns[i] & HMM_PFN_VALID), i < 8);
		assert_int_equal(!!(pfns[i] & HMM_PFN_DEVICE), i < 4);
		if (i >= 4 && i < 8)
			assert_true(pfns[i] & HMM_PFN_GUARDED);
	}
	memset(pfns, 0, 32 * sizeof(*pfns));
	r.default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
	assert_int_equal(hmm_range_fault(prog->mm, &r), 0);
	for (int i = 0; i < 32; i++)
		assert_true((pfns[i] & HMM_PFN_VALID) && (pfns[i] & HMM_PFN_WRITE));
	r.end = a + 33 * page;
	r.start = r.end - 32 * page;
	memset(pfns, 0, 32 * sizeof(*pfns));
	assert_int_equal(prog_change(prog, SYS_munmap, a + 20 * page, page, 0, 0, 0), 0);
	assert_int_equal(hmm_range_fault(prog->mm, &r), -EFAULT);
	hmm_safe_free(pfns, 32 * sizeof(*pfns));
}

static void exclusive_pages_are_given_back_at_a_touch(void **state)
{
	uintptr_t a = prog_map(prog, 4, 19);
	void *contents[4];

	(void)state;
	assert_int_equal(hmm_exclusive_begin(prog->mm, a, a + 4 * page, world_owner_a, contents), 4);
	for (int i = 0; i < 4; i++) {
		assert_true(holds(contents[i], 1, 19, (uint64_t)i));
		fill(contents[i], 1, 20);
	}
	assert_int_equal(prog_holds(prog, a + page, 1, 20, 0), 1);
	assert_int_equal(hmm_exclusive_end(prog->mm, a, a + 4 * page), 3);
	assert_int_equal(prog_holds(prog, a + 3 * page, 1, 20, 0), 1);
}

/* ---------------------------------------------------------------- lost pages */

static int64_t catch_sigbus(uint64_t addr, uint64_t unused, uint64_t unused2)
{
	(void)unused;
	(void)unused2;
	return touch_read((void *)(uintptr_t)addr);
}

static void a_lost_page_is_a_signal_not_zeros(void **state)
{
	uintptr_t a = prog_map(prog, 8, 30), addr;
	uint64_t index;

	(void)state;
	prog_to_dev(prog, dev, a, 8);
	for (index = 0; index < DEV_PAGES; index++)
		if (!hmm_devmem_lookup(dev->devmem, index, &addr) && addr == a + 3 * page)
			break;
	assert_true(index < DEV_PAGES);
	assert_int_equal(hmm_devmem_poison(dev->devmem, index, 1), 1);
	assert_int_equal(prog_run(prog, catch_sigbus, a + 3 * page, 0, 0), SIGBUS);
	assert_prog_holds(prog, a, 3, 30, 0);
	assert_int_equal(moved_since(poisoned_pages), 1);
	assert_int_equal(prog_change(prog, SYS_munmap, a, 8 * page, 0, 0, 0), 0);
}

static void an_unreadable_device_page_is_a_signal(void **state)
{
	uintptr_t a = prog_map(prog, 4, 31);

	(void)state;
	prog_to_dev(prog, dev, a, 4);
	atomic_store(&dev->broken, true);
	assert_int_equal(prog_run(prog, catch_sigbus, a + page, 0, 0), SIGBUS);
	atomic_store(&dev->broken, false);
	assert_prog_holds(prog, a, 1, 31, 0);
	assert_int_equal(prog_change(prog, SYS_munmap, a, 4 * page, 0, 0, 0), 0);
}

/* UFFDIO_COPY finds no memory from now on, in all threads. */
static int starve(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)UFFDIO_COPY, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog_of = { ARRAY_LEN(code), code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
			    &prog_of);
}

static int touch_without_memory(void *arg)
{
	struct prog *p = prog_start(NULL);
	uintptr_t a = prog_map(p, 4, 38);
	int ret = EXIT_SKIP;

	(void)arg;
	dev = testdev_new(p->mm, 64, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
	prog_to_dev(p, dev, a, 4);
	if (!starve())
		ret = prog_run(p, catch_sigbus, a + page, 0, 0) != SIGBUS;
	prog_kill(p);
	return ret;
}

/* The system has no page for it: never zeros. */
static void no_memory_is_a_signal_not_zeros(void **state)
{
	struct testdev *mine = dev;
	int status = in_child(touch_without_memory, NULL);

	(void)state;
	dev = mine;
	assert_true(status == 0 || status == EXIT_SKIP);
}

/* ---------------------------------------------------------------- a family */

static void several_programs_share_a_device(void **state)
{
	struct prog *others[4];
	uintptr_t at[4], a = prog_map(prog, 200, 40);

	(void)state;
	prog_to_dev(prog, dev, a, 200);
	for (uint32_t i = 0; i < 4; i++) {
		others[i] = prog_start(prog);
		at[i] = prog_map(others[i], 200, 41 + i);
		prog_to_dev(others[i], dev, at[i], 200);
	}
	assert_used(dev, 1000);
	/* By index, whoever holds it. */
	assert_int_equal(hmm_devmem_evict(dev->devmem, 0, 1000), 1000);
	assert_used(dev, 0);
	for (uint32_t i = 0; i < 4; i++) {
		assert_prog_holds(others[i], at[i], 200, 41 + i, 0);
		prog_to_dev(others[i], dev, at[i], 200);
	}
	prog_kill(others[1]);
	assert_int_equal(prog_end(others[0]), 0);
	assert_int_equal(prog_end(others[1]), 0);
	assert_used(dev, 400);
	assert_int_equal(hmm_mm_destroy(prog->mm), 0);	/* not the last of the family */
	prog->mm = NULL;
	assert_prog_holds(prog, a, 200, 40, 0);
	for (uint32_t i = 2; i < 4; i++)
		assert_prog_holds(others[i], at[i], 200, 41 + i, 0);
	assert_int_equal(hmm_mm_destroy(others[3]->mm), 0);
	others[3]->mm = NULL;
	assert_int_equal(hmm_mm_destroy(others[2]->mm), -EBUSY);	/* the devmem */
	prog_kill(others[3]);
	prog_end(others[3]);
	/* The fixture ends this one in the place of the first. */
	assert_int_equal(prog_end(prog), 0);
	prog = others[2];
}

static void removal_evicts_from_all(void **state)
{
	struct prog *other = prog_start(prog);
	struct testdev *second = testdev_new(other->mm, 512, world_owner_b, 0);
	uintptr_t a = prog_map(prog, 64, 50), b = prog_map(other, 64, 51);

	(void)state;
	assert_int_equal(hmm_migrate_to_device(prog->mm, second->devmem, a, a + 64 * page,
					       HMM_MIGRATE_SYSTEM, NULL), 64);
	assert_int_equal(hmm_migrate_to_device(other->mm, second->devmem, b, b + 64 * page,
					       HMM_MIGRATE_SYSTEM, NULL), 64);
	/* Its own thread serves the faults of both. */
	assert_prog_holds(prog, a, 8, 50, 0);
	assert_prog_holds(other, b, 8, 51, 0);
	assert_int_equal(testdev_remove(second), 0);
	assert_prog_holds(prog, a, 64, 50, 0);
	assert_prog_holds(other, b, 64, 51, 0);
	assert_int_equal(prog_end(other), 0);
}

static void bad_arguments(void **state)
{
	struct hmm_mm *mm;
	uint64_t pages;
	int64_t result;
	HMM_OPTS(hmm_remote_opts, o, .pid = 1);

	(void)state;
	assert_int_equal(hmm_mm_open_remote(NULL, &mm), -EINVAL);
	assert_int_equal(hmm_mm_open_remote(&o, NULL), -EINVAL);
	assert_int_equal(hmm_mm_open_remote(&o, &mm), -EINVAL);
	o.size = 8;
	assert_int_equal(hmm_mm_open_remote(&o, &mm), -EINVAL);
	assert_int_equal(hmm_remote_attach(prog->mm, &o), -EINVAL);
	assert_int_equal(hmm_remote_change(prog->mm, 1, SYS_munmap, NULL, &result), -EINVAL);
	assert_int_equal(hmm_remote_fork_begin(prog->mm, 0), -EINVAL);
	assert_int_equal(hmm_remote_fork_end(prog->mm, 5, SYS_clone, &mm), -EINVAL);
	assert_int_equal(hmm_remote_matches(prog->mm, 0), -EINVAL);
	assert_int_equal(hmm_remote_count(NULL, &pages, &pages), -EINVAL);
	assert_int_equal(hmm_remote_count(prog->mm, NULL, &pages), -EINVAL);
	assert_int_equal(hmm_remote_count(prog->mm, &pages, NULL), -EINVAL);
	assert_int_equal(hmm_remote_allow(NULL, 0, 0), -EINVAL);
	assert_int_equal(hmm_remote_watch(NULL, 0), -EINVAL);
	assert_int_equal(hmm_remote_uffd(NULL), -EINVAL);
	hmm_remote_gone(NULL);
	hmm_remote_change_end(NULL, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		remote_test(migrates_both_ways),
		remote_test(a_touch_brings_a_page_home),
		remote_test(a_store_is_not_lost),
		remote_test(what_is_between_device_pages_goes_at_once),
		remote_test(holes_become_zeroed_device_pages),
		remote_test(zero_pages_stay_zero),
		remote_test(a_full_device_leaves_the_rest),
		remote_test(failed_copies_leave_the_page),
		remote_test(system_calls_wait_as_the_program_would),
		remote_test(allowance_bounds_what_faults_bring),
		remote_test(first_touches_are_served_when_too_much_is_mapped),
		remote_test(first_touches_are_served_of_what_grows),
		remote_test(first_touches_are_served_where_asked),
		remote_test(sequential_touches_are_told_apart),
		remote_test(readonly_memory_goes_by_copy),
		remote_test(executable_memory_goes_too),
		remote_test(what_cannot_go_is_refused),
		remote_test(pinned_pages_stay),
		remote_test(static_data_stays),
		remote_test(stacks_and_the_agents_memory_stay),
		remote_test(guarded_copies_reach_device_pages),
		remote_test(snapshots_and_faults_by_range),
		remote_test(exclusive_pages_are_given_back_at_a_touch),
		remote_test(a_lost_page_is_a_signal_not_zeros),
		remote_test(an_unreadable_device_page_is_a_signal),
		remote_test(no_memory_is_a_signal_not_zeros),
		remote_test(several_programs_share_a_device),
		remote_test(removal_evicts_from_all),
		remote_test(bad_arguments),
	};

	need_mm();
	progs_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
