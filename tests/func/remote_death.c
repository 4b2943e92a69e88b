/* SPDX-License-Identifier: MIT */
/*
 * Another process, or its agent, dies at any moment or lies: nothing hangs, nothing is
 * kept for it, and whoever lives on has its bytes.
 */
#define _GNU_SOURCE
#include "prog.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
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

#define death_test(f)	cmocka_unit_test_setup_teardown(f, begin, end)

/* ---------------------------------------------------------------- the program */

static uint64_t killed_at, calls_left;

static void kill_at_call(struct prog *p, struct hmm_agent_call *calls, size_t nr)
{
	(void)calls;
	(void)nr;
	if (calls_left && !--calls_left)
		kill(p->pid, SIGKILL);
}

/* At each of its calls in turn; what was on the device is freed, nothing hangs. */
static void death_at_every_call(void **state)
{
	(void)state;
	for (killed_at = 1; killed_at < 12; killed_at++) {
		struct prog *p = prog_start(prog);
		uintptr_t a = prog_map(p, 1100, 32);

		assert_int_equal(prog_migrate(p, dev, a, 40), 40);
		calls_left = killed_at;
		prog_before_call = kill_at_call;
		IGNORE(prog_migrate(p, dev, a, 1100));
		IGNORE(hmm_evict(p->mm, a, a + 300 * page));
		IGNORE(prog_migrate(p, dev, a, 300));
		prog_before_call = NULL;
		prog_kill(p);
		hmm_remote_gone(p->mm);
		assert_used(dev, 0);
		assert_int_equal(prog_end(p), 0);
	}
}

static void calls_on_a_dead_program_end(void **state)
{
	struct prog *p = prog_start(prog);
	uintptr_t a = prog_map(p, 300, 33);
	const uint64_t args[6] = { a, 10 * page };
	struct hmm_mm *child;
	void *contents[4];
	int64_t result;

	(void)state;
	assert_int_equal(prog_migrate(p, dev, a, 200), 200);
	prog_kill(p);
	/* The library has not been told yet. */
	IGNORE(prog_migrate(p, dev, a, 300));
	IGNORE(hmm_evict(p->mm, a, a + 10 * page));
	IGNORE(hmm_exclusive_begin(p->mm, a + 200 * page, a + 204 * page, world_owner_a, contents));
	assert_int_equal(hmm_remote_change(p->mm, 1, SYS_munmap, args, &result), 0);
	assert_int_equal(hmm_copy_from_user(p->mm, contents, a, 8), -EFAULT);
	assert_int_equal(hmm_remote_fork_begin(p->mm, (uint32_t)p->pid), 0);
	assert_int_equal(hmm_remote_fork_end(p->mm, (uint32_t)p->pid, SYS_clone, &child), 0);
	assert_null(child);
	/* Now it is. */
	hmm_remote_gone(p->mm);
	assert_used(dev, 0);
	assert_int_equal(hmm_remote_change(p->mm, 1, SYS_munmap, args, &result), 0);
	assert_true(result == HMM_CHANGE_CONTINUE);
	hmm_remote_gone(p->mm);
	assert_int_equal(prog_end(p), 0);
}

static void death_while_it_waits_for_a_page(void **state)
{
	struct prog *p = prog_start(prog);
	uintptr_t a = prog_map(p, 64, 34);
	HMM_OPTS(hmm_migrate, m, .flags = HMM_MIGRATE_SYSTEM, .start = a, .end = a + 64 * page);

	(void)state;
	m.src = hmm_safe_alloc(64 * 8);
	m.dst = hmm_safe_alloc(64 * 8);
	assert_int_equal(hmm_migrate_setup(p->mm, &m), 0);
	assert_int_equal(m.nr_pages, 64);
	prog_go(p, prog_loads, a, 64, 0);
	assert_true(eventually(prog_stats(p).fault_waits == 1));
	prog_kill(p);
	hmm_remote_gone(p->mm);
	hmm_migrate_pages(p->mm, &m);
	assert_int_equal(m.nr_pages, 0);
	hmm_migrate_finalize(p->mm, &m);
	hmm_safe_free(m.src, 64 * 8);
	hmm_safe_free(m.dst, 64 * 8);
	assert_int_equal(prog_end(p), 0);
}

/* ---------------------------------------------------------------- its agent alone */

#define MAPPED	24u

static int64_t turn_writable(struct prog *p, uintptr_t addr)
{
	return prog_call(p, SYS_mprotect, addr, MAPPED * page, PROT_READ | PROT_WRITE, 0);
}

/* To the device, home and there again; false: the agent died on the way. */
static bool travel(struct prog *p, uintptr_t addr, size_t nr)
{
	IGNORE(prog_migrate(p, dev, addr, nr));
	IGNORE(hmm_evict(p->mm, addr, addr + nr * page));
	IGNORE(prog_migrate(p, dev, addr, nr));
	return p->agent_calls_left != 0;
}

/*
 * Of the call that it was killed in, and of those before it, nobody heard. What they did
 * counts: the program, which lives on until it is ended, finds each of its bytes.
 */
static void agent_killed_after_each_call(int prot)
{
	bool lived = false;

	for (uint64_t n = 1; !lived; n++) {
		struct prog *p = prog_start(prog);
		uintptr_t a = prog_map(p, MAPPED, 37);

		assert_int_equal(prog_change(p, SYS_mprotect, a, MAPPED * page, (uint64_t)prot,
					     0, 0), 0);
		p->agent_calls_left = n;
		lived = travel(p, a, MAPPED);
		assert_true(lived || n < 1000);
		assert_prog_holds(p, a, MAPPED, 37, 0);
		assert_int_equal(turn_writable(p, a), 0);
		assert_prog_holds(p, a, MAPPED, 37, 0);
		prog_kill(p);
		assert_int_equal(prog_end(p), 0);
		assert_used(dev, 0);
	}
}

static void what_a_killed_agent_took_is_not_lost(void **state)
{
	(void)state;
	agent_killed_after_each_call(PROT_READ | PROT_WRITE);
}

static void what_a_killed_agent_took_readonly_is_not_lost(void **state)
{
	(void)state;
	agent_killed_after_each_call(PROT_READ);
}

/* Nothing says where the break is now, or whether it has moved. */
static void a_break_that_nobody_moved_drops_nothing(void **state)
{
	(void)state;
	for (uint64_t n = 0; n < 3; n++) {
		struct prog *p = prog_start(prog);
		uintptr_t a = (uintptr_t)prog_run(p, prog_grow_heap, MAPPED, 38, 0);

		assert_int_equal(prog_migrate(p, dev, a, MAPPED), MAPPED);
		p->agent_calls_left = n;
		assert_int_equal(prog_change(p, SYS_brk, a + (MAPPED + 8) * page, 0, 0, 0, 0), -ESRCH);
		assert_prog_holds(p, a, MAPPED, 38, 0);
		prog_kill(p);
		assert_int_equal(prog_end(p), 0);
		assert_used(dev, 0);
	}
}

/* ---------------------------------------------------------------- an agent that lies */

static void lie(struct prog *p, struct hmm_agent_call *calls, size_t nr)
{
	(void)p;
	for (size_t i = 0; i < nr; i++)
		if (calls[i].nr == SYS_ioctl || calls[i].nr == SYS_mremap)
			calls[i].nr = SYS_getpid;	/* "a success", and nothing was done */
}

static void a_lie_harms_only_the_liar(void **state)
{
	struct prog *liar = prog_start(prog);
	uintptr_t a = prog_map(liar, 64, 35), b = prog_map(prog, 64, 36);

	(void)state;
	assert_int_equal(prog_migrate(prog, dev, b, 64), 64);
	prog_before_call = lie;
	assert_int_equal(prog_migrate(liar, dev, a, 64), 0);
	IGNORE(prog_change(liar, SYS_mremap, a, 64 * page, (uint64_t)1 << 60, MREMAP_MAYMOVE, 0));
	prog_before_call = NULL;
	assert_prog_holds(liar, a, 64, 35, 0);
	assert_prog_holds(prog, b, 64, 36, 0);
	assert_int_equal(prog_end(liar), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		death_test(death_at_every_call),
		death_test(calls_on_a_dead_program_end),
		death_test(death_while_it_waits_for_a_page),
		death_test(what_a_killed_agent_took_is_not_lost),
		death_test(what_a_killed_agent_took_readonly_is_not_lost),
		death_test(a_break_that_nobody_moved_drops_nothing),
		death_test(a_lie_harms_only_the_liar),
	};

	need_mm();
	progs_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
