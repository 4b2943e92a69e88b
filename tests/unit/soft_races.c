/* SPDX-License-Identifier: MIT */
/*
 * The moment between the core's answer and the soft device's page table: what changes
 * there voids the answer, and the driver must notice.
 *
 * The driver's calls of the core are wrapped by the linker (--wrap, see meson.build).
 * Each of these stories puts a change right after the core has answered, where two
 * threads would have to meet within nanoseconds.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

#define EXIT_SKIP	77
#define TEST_SECONDS	60

int __real_hmm_range_fault_wait(struct hmm_mm *mm, struct hmm_range *range, uint32_t timeout_ms);
void __real_hmm_migrate_pages(struct hmm_mm *mm, struct hmm_migrate *m);
int64_t __real_hmm_exclusive_begin(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
				   const void *owner, void **contents);

int __wrap_hmm_range_fault_wait(struct hmm_mm *mm, struct hmm_range *range, uint32_t timeout_ms);
void __wrap_hmm_migrate_pages(struct hmm_mm *mm, struct hmm_migrate *m);
int64_t __wrap_hmm_exclusive_begin(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
				   const void *owner, void **contents);

static struct hmm_mm *mm;
static struct hmm_soft *soft;
static size_t page;

/* The page under test. Read by wrappers on lanes: static. */
static uint64_t *word;

/* What happens after the next answer of each kind; then nothing. */
static void (*after_fault)(void), (*after_pages)(void), (*after_exclusive)(void);

static void happen(void (**what)(void))
{
	void (*change)(void) = *what;

	*what = NULL;
	if (change)
		change();
}

int __wrap_hmm_range_fault_wait(struct hmm_mm *of, struct hmm_range *range, uint32_t timeout_ms)
{
	int ret = __real_hmm_range_fault_wait(of, range, timeout_ms);

	happen(&after_fault);
	return ret;
}

void __wrap_hmm_migrate_pages(struct hmm_mm *of, struct hmm_migrate *m)
{
	__real_hmm_migrate_pages(of, m);
	happen(&after_pages);
}

int64_t __wrap_hmm_exclusive_begin(struct hmm_mm *of, uintptr_t start, uintptr_t end,
				   const void *owner, void **contents)
{
	int64_t ret = __real_hmm_exclusive_begin(of, start, end, owner, contents);

	happen(&after_exclusive);
	return ret;
}

static uintptr_t at(void)
{
	return (uintptr_t)word;
}

static int begin(void **state)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20, .lanes = 1,
		 .migrate = HMM_SOFT_MIGRATE_NEVER);

	(void)state;
	alarm(TEST_SECONDS);
	page = hmm_page_size();
	word = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(word, MAP_FAILED);
	/* Alone: nothing else of the program is near. */
	assert_int_equal(mprotect(word, page, PROT_NONE), 0);
	assert_int_equal(mprotect((char *)word + 2 * page, page, PROT_NONE), 0);
	word = (uint64_t *)(void *)((char *)word + page);
	*word = 1;
	return hmm_soft_open(mm, &opts, &soft);
}

static int end(void **state)
{
	(void)state;
	/* The story has happened. */
	assert_true(!after_fault && !after_pages && !after_exclusive);
	assert_int_equal(hmm_soft_close(soft), 0);
	assert_int_equal(munmap((char *)word - page, 3 * page), 0);
	return 0;
}

static uint64_t lane_saw;

static void kernel_load(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	lane_saw = hmm_lane_load(lane, word, 8);
}

static void kernel_add(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_add(lane, word, 1, 8);
}

static uint64_t load(void)
{
	assert_int_equal(hmm_soft_run(soft, kernel_load, 1, NULL, NULL), 0);
	return lane_saw;
}

/* The page goes home and the CPU writes it. */
static void comes_home(void)
{
	assert_int_equal(hmm_evict(mm, at(), at() + page), 1);
	*word = 2;
}

/* The device has the page, and has it mapped no more: somebody else has asked for it. */
static void move_in_and_unmap(void)
{
	uint64_t src, dst;
	HMM_OPTS(hmm_migrate, m, .flags = HMM_MIGRATE_SYSTEM, .start = at(), .end = at() + page,
		 .src = &src, .dst = &dst);

	assert_int_equal(hmm_soft_migrate_in(soft, at(), at() + page, NULL), 1);
	assert_int_equal(hmm_migrate_setup(mm, &m), 0);
	assert_int_equal(hmm_src_reason(src), HMM_REASON_DEVICE);
	hmm_migrate_pages(mm, &m);
	hmm_migrate_finalize(mm, &m);
	assert_int_equal(hmm_soft_pte(soft, at()), 0);
}

/*
 * A lane's fault is answered with the page's place on the device; before the page table
 * says so the page goes home. The lane goes round and sees what the CPU has written.
 */
static void page_leaves_while_it_is_mirrored(void **state)
{
	struct hmm_soft_stats s = { .size = sizeof(s) };

	(void)state;
	move_in_and_unmap();
	after_fault = comes_home;
	assert_int_equal(load(), 2);
	assert_int_equal(hmm_soft_stats(soft, &s), 0);
	assert_true(s.replays > 0);
	assert_false(hmm_soft_pte(soft, at()) & HMM_SOFT_PTE_LOCAL);
}

static void is_discarded(void)
{
	assert_int_equal(madvise(word, page, MADV_DONTNEED), 0);
}

/*
 * A page has been taken for the device, and the program discards it before the device's
 * page table says where it is: the device must not map what nobody has any more.
 */
static void page_is_discarded_while_it_migrates(void **state)
{
	struct hmm_soft_stats s = { .size = sizeof(s) };

	(void)state;
	after_pages = is_discarded;
	(void)!hmm_soft_migrate_in(soft, at(), at() + page, NULL);
	assert_int_equal(hmm_soft_pte(soft, at()), 0);
	assert_int_equal(load(), 0);
	assert_int_equal(*word, 0);
	assert_int_equal(hmm_soft_stats(soft, &s), 0);
	assert_int_equal(s.mem_used, 0);
}

static void is_touched(void)
{
	*word += 10;
}

/*
 * The CPU touches a page that the device has just got for itself, and so ends that,
 * before the device maps it: it is told that it has nothing, and no addition is lost.
 */
static void exclusive_page_is_touched_at_once(void **state)
{
	(void)state;
	after_exclusive = is_touched;
	assert_int_equal(hmm_soft_exclusive(soft, at(), at() + page), -EBUSY);
	assert_false(hmm_soft_pte(soft, at()) & HMM_SOFT_PTE_EXCLUSIVE);
	assert_int_equal(hmm_soft_run(soft, kernel_add, 1, NULL, NULL), 0);
	assert_int_equal(*word, 12);

	/* The same by the lane's own fault: it tries again. */
	after_exclusive = is_touched;
	assert_int_equal(hmm_soft_run(soft, kernel_add, 1, NULL, NULL), 0);
	assert_int_equal(*word, 23);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(page_leaves_while_it_is_mirrored, begin, end),
		cmocka_unit_test_setup_teardown(page_is_discarded_while_it_migrates, begin, end),
		cmocka_unit_test_setup_teardown(exclusive_page_is_touched_at_once, begin, end),
	};
	int ret = hmm_mm_create(NULL, &mm);

	if (ret == -EPERM || ret == -EOPNOTSUPP) {
		printf("skipped: this user or kernel has no userfaultfd for an mm\n");
		return EXIT_SKIP;
	}
	if (ret)
		return EXIT_FAILURE;
	ret = cmocka_run_group_tests_name("soft_races", tests, NULL, NULL);
	return hmm_mm_destroy(mm) ? EXIT_FAILURE : ret;
}
