/* SPDX-License-Identifier: MIT */
/*
 * Changes of another process that its kernel is let make by itself: nothing of the range
 * leaves before they are made (src/core/pass.c).
 */
#include "prog.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

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

#define remote_test(f)	cmocka_unit_test_setup_teardown(f, begin, end)

enum flag {
	FLAG_WAIT,
	FLAG_COMPUTES,
	FLAG_STOP
};

/* The program computes, which from outside may as well be its call, until told to stop. */
static int64_t compute(uint64_t at, uint64_t unused, uint64_t unused2)
{
	volatile uint32_t *flag = (volatile uint32_t *)(uintptr_t)at;

	(void)unused;
	(void)unused2;
	*flag = FLAG_COMPUTES;
	while (*flag != FLAG_STOP)
		;
	return 0;
}

static uintptr_t begin_computing(void)
{
	uintptr_t at = prog_map_empty(prog, 1, PROT_READ | PROT_WRITE);
	uint32_t flag = FLAG_WAIT;

	prog_go(prog, compute, at, 0, 0);
	while (flag != FLAG_COMPUTES)
		assert_int_equal(hmm_copy_from_user(prog->mm, &flag, at, sizeof(flag)), sizeof(flag));
	return at;
}

static void stop_computing(uintptr_t at)
{
	const uint32_t flag = FLAG_STOP;

	assert_int_equal(hmm_copy_to_user(prog->mm, at, &flag, sizeof(flag)), sizeof(flag));
	assert_int_equal(prog_wait(prog), 0);
}

static int pass(long nr, uintptr_t addr, size_t len, uint64_t prot)
{
	const uint64_t args[6] = { addr, len, prot };

	return hmm_remote_pass(prog->mm, (uint32_t)prog->pid, (uint64_t)nr, args);
}

/* By another thread of the program's, so that the pass stands. */
static int64_t change_by_another(long nr, uintptr_t addr, size_t len, uint64_t prot)
{
	const uint64_t args[6] = { addr, len, prot };
	int64_t result;

	assert_int_equal(hmm_remote_change(prog->mm, 4711, (uint64_t)nr, args, &result), 0);
	return result;
}

static void a_pass_holds_its_range_until_its_thread_is_out(void **state)
{
	uintptr_t a = prog_map(prog, 64, 31), flag;
	int64_t moved;

	(void)state;
	flag = begin_computing();
	assert_int_equal(pass(SYS_munmap, a, 32 * page, 0), 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(prog_migrate(prog, dev, a + 8 * page, 4), 0);
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 32), 32);
	stop_computing(flag);
	assert_int_equal(prog_migrate(prog, dev, a, 32), 0);
	/* It has answered, and may have a little way to go before it sleeps. */
	while (!(moved = prog_migrate(prog, dev, a, 32)))
		;
	assert_int_equal(moved, 32);
	assert_prog_holds(prog, a, 64, 31, 0);
}

/*
 * What is discarded is zeros when the call has been made, and what it was until then: on a
 * device it would be neither.
 */
static void a_discard_is_made_of_what_is_at_home(void **state)
{
	uintptr_t a = prog_map(prog, 64, 30), flag;
	static uint8_t bytes[32 * 4096];
	int64_t moved;

	(void)state;
	flag = begin_computing();
	assert_int_equal(pass(SYS_madvise, a, 32 * page, MADV_DONTNEED), 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(prog_migrate(prog, dev, a, 32), 0);
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 32), 32);
	stop_computing(flag);
	assert_int_equal(prog_call(prog, SYS_madvise, a, 32 * page, MADV_DONTNEED, 0), 0);
	while (!(moved = prog_migrate(prog, dev, a, 32)))
		;
	assert_int_equal(moved, 32);
	assert_int_equal(hmm_copy_from_user(prog->mm, bytes, a, 32 * page), 32 * page);
	for (size_t i = 0; i < 32 * page; i++)
		assert_int_equal(bytes[i], 0);
	assert_prog_holds(prog, a + 32 * page, 32, 30, 32);
}

static void the_next_call_ends_a_pass(void **state)
{
	uintptr_t a = prog_map(prog, 64, 32), flag;
	const uint64_t args[6] = { 0, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1 };
	int64_t result;

	(void)state;
	flag = begin_computing();
	assert_int_equal(pass(SYS_munmap, a, 32 * page, 0), 1);
	assert_int_equal(pass(SYS_munmap, a + 32 * page, 32 * page, 0), 1);
	assert_int_equal(prog_migrate(prog, dev, a, 32), 32);
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 32), 0);
	assert_int_equal(hmm_remote_change(prog->mm, (uint32_t)prog->pid, SYS_mmap, args, &result),
			 0);
	assert_true(result == HMM_CHANGE_IGNORE);
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 32), 32);
	stop_computing(flag);
	assert_prog_holds(prog, a, 64, 32, 0);
}

/*
 * Another thread's call on the same memory makes the mappings look as if the first one had
 * been made. It is made later, and what would have gone to a device by then would be found
 * in whatever is mapped there next.
 */
static void what_another_thread_does_ends_no_pass(void **state)
{
	uintptr_t a = prog_map(prog, 32, 33), b = prog_map(prog, 32, 34), flag;

	(void)state;
	assert_int_equal(change_by_another(SYS_mprotect, b, 32 * page, PROT_READ), 0);
	flag = begin_computing();
	assert_int_equal(pass(SYS_munmap, a, 32 * page, 0), 1);
	assert_int_equal(change_by_another(SYS_munmap, a, page, 0), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(prog_migrate(prog, dev, a, 32), 0);
	assert_int_equal(pass(SYS_mprotect, b, 32 * page, PROT_READ | PROT_WRITE), 1);
	assert_int_equal(change_by_another(SYS_mprotect, b, 32 * page, PROT_READ | PROT_WRITE), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(prog_migrate(prog, dev, b, 32), 0);
	stop_computing(flag);
	assert_prog_holds(prog, a + page, 31, 33, 1);
	assert_prog_holds(prog, b, 32, 34, 0);
}

static void a_pass_is_for_what_is_at_home_and_nobodys(void **state)
{
	uintptr_t a = prog_map(prog, 128, 34);
	HMM_OPTS(hmm_range, range, .start = a, .end = a + page);
	uint64_t pfn;

	(void)state;
	assert_int_equal(prog_migrate(prog, dev, a + 32 * page, 1), 1);
	assert_int_equal(pass(SYS_munmap, a, 33 * page, 0), 0);
	assert_int_equal(pass(SYS_mprotect, a + 32 * page, page, PROT_READ), 0);
	assert_int_equal(pass(SYS_mprotect, a, page, PROT_READ | PROT_GROWSDOWN), 0);
	assert_int_equal(pass(SYS_madvise, a, page, MADV_DONTNEED), 1);
	assert_int_equal(pass(SYS_madvise, a, page, MADV_FREE), 1);
	assert_int_equal(pass(SYS_madvise, a, page, MADV_REMOVE), 0);
	assert_int_equal(pass(SYS_madvise, a + 32 * page, page, MADV_DONTNEED), 0);
	assert_int_equal(pass(SYS_mmap, a, page, PROT_READ), 0);
	assert_int_equal(pass(SYS_munmap, a + 1, page, 0), 0);
	assert_int_equal(pass(SYS_munmap, a, 0, 0), 0);
	assert_int_equal(pass(SYS_munmap, a + 33 * page, (256 << 10) + page, 0), 0);
	assert_int_equal(hmm_remote_pass(prog->mm, 0, SYS_munmap, (uint64_t[6]){ a, page }), -EINVAL);
	assert_int_equal(hmm_remote_pass(prog->mm, 1, SYS_munmap, NULL), -EINVAL);
	assert_int_equal(hmm_remote_fork_begin(prog->mm, 4712), 0);
	assert_int_equal(pass(SYS_munmap, a, page, 0), 0);
	assert_int_equal(hmm_remote_fork_end(prog->mm, 4712, SYS_clone, &(struct hmm_mm *){ 0 }), 0);
	assert_int_equal(pass(SYS_mprotect, a, page, PROT_READ), 1);
	/* From now on a device may have any page of it. */
	range.pfns = &pfn;
	assert_int_equal(hmm_range_fault_wait(prog->mm, &range, 0), 0);
	assert_int_equal(pass(SYS_mprotect, a, page, PROT_READ), 0);
	assert_prog_holds(prog, a, 64, 34, 0);
}

/* What it saw of one could be of before the call, and nobody would tell it. */
static void a_device_does_not_see_what_has_a_pass(void **state)
{
	uintptr_t a = prog_map(prog, 64, 35), flag;
	HMM_OPTS(hmm_range, range, .start = a, .end = a + 4 * page);
	uint64_t pfns[4] = { 0 };

	(void)state;
	flag = begin_computing();
	assert_int_equal(pass(SYS_mprotect, a + page, page, PROT_NONE), 1);
	range.pfns = pfns;
	for (int i = 0; i < 3; i++)
		assert_int_equal(hmm_range_fault(prog->mm, &range), -EBUSY);
	range.start = a + 8 * page;
	range.end = a + 12 * page;
	assert_int_equal(hmm_range_fault(prog->mm, &range), 0);
	stop_computing(flag);
	range.start = a;
	range.end = a + 4 * page;
	assert_int_equal(hmm_range_fault_wait(prog->mm, &range, 0), 0);
	assert_true(pfns[1] & HMM_PFN_VALID);
	assert_prog_holds(prog, a, 64, 35, 0);
}

/* Their threads are idle or gone: each that asks finds one, and none holds anything. */
static void passes_of_who_is_gone_are_given_again(void **state)
{
	uintptr_t a = prog_map(prog, 64, 36);
	const uint64_t args[6] = { a, page, PROT_READ };
	unsigned int given = 0;

	(void)state;
	for (uint32_t tid = 0x3fff0000; tid < 0x3fff0000 + 500; tid++)
		given += hmm_remote_pass(prog->mm, tid, SYS_mprotect, args) == 1;
	assert_int_equal(given, 500);
	assert_int_equal(prog_migrate(prog, dev, a, 1), 0);
	assert_int_equal(prog_migrate(prog, dev, a, 1), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		remote_test(a_pass_holds_its_range_until_its_thread_is_out),
		remote_test(a_discard_is_made_of_what_is_at_home),
		remote_test(the_next_call_ends_a_pass),
		remote_test(what_another_thread_does_ends_no_pass),
		remote_test(a_pass_is_for_what_is_at_home_and_nobodys),
		remote_test(a_device_does_not_see_what_has_a_pass),
		remote_test(passes_of_who_is_gone_are_given_again),
	};

	need_mm();
	if (page != 4096)
		skip_program("a pass is for 256 KiB: written for pages of 4 KiB");
	progs_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
