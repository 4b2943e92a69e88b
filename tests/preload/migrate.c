// SPDX-License-Identifier: MIT
/*
 * Programs of ours whose memory goes to a device and back compute what they compute
 * without, and not a page is lost. The policies' seeds are printed.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawn.h"

#define MIB	(1ULL << 20)

static const char *uhmm, *guest, *guest_static, *guest_static_pie, *torture, *torture_static;

static bool longer(void)
{
	return getenv("UHMM_TEST_LONG") != NULL;
}

/*
 * Threads change mappings at the same addresses in every way there is, fork too: see
 * tests/stress/torture.c, which here is a program that knows nothing of us.
 */
static void tortured(const char *program, int rounds, const char *seconds)
{
	const char *seed;
	struct spawned run;

	for (int round = 0; round < rounds; round++) {
		seed = spawn_seed();
		spawn_run(&run, uhmm, "run", "--policy", spawn_stress(), "--report", "-", program,
			  "--alone", "--seconds", seconds, "--seed", seed, NULL);
		if (run.status == 77) {
			printf("%s", run.said);
			skip();
		}
		if (run.status)
			fail_msg("status %d\n%s%s", run.status, run.said, run.complained);
		spawn_nothing_lost(&run);
		assert_true(spawn_number(&run, "pages_to_device") > 100);
	}
}

static void torture_under_stress(void **state)
{
	(void)state;
	tortured(torture, longer() ? 20 : 2, "6");
}

/* ... and nothing of it goes through a libc that is shared with anybody. */
static void static_torture_under_stress(void **state)
{
	(void)state;
	tortured(torture_static, longer() ? 20 : 1, "4");
}

/* A rate of less than a page in each turn adds up. */
static void slow_stress_moves_something(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "--policy", "stress:rate=99", "--report", "-", guest,
		  "until-taken", NULL);
	assert_int_equal(run.status, 0);
	assert_true(spawn_number(&run, "pages_to_device") > 0);
}

/* *@run: with its report. */
static void run_beside_plain(struct spawned *run, const char *program, const char *option,
			     const char *value, const char *word)
{
	struct spawned plain;

	spawn_run(&plain, program, word, NULL);
	spawn_run(run, uhmm, "run", option, value, "--report", "-", program, word, NULL);
	spawn_same(run, &plain, word);
	spawn_nothing_lost(run);
}

static void program_under(const char *program, const char *option, const char *value,
			  const char *word)
{
	struct spawned run;

	run_beside_plain(&run, program, option, value, word);
}

static void guest_under(const char *option, const char *value, const char *word)
{
	program_under(guest, option, value, word);
}

/* Threads, fork, vfork, clone, system and exec with memory away. */
static void lives_under_stress(void **state)
{
	(void)state;
	guest_under("--policy", spawn_stress(), "life");
	guest_under("--policy", spawn_stress(), "daemonise");
	guest_under("--policy", spawn_stress(), "sandbox");
	guest_under("--policy", spawn_stress(), "low-limits");
}

/* The same for programs without a dynamic linker, and their children. */
static void static_programs_live_under_stress(void **state)
{
	(void)state;
	program_under(guest_static, "--policy", spawn_stress(), "life");
	program_under(guest_static_pie, "--policy", spawn_stress(), "life");
	program_under(guest_static, "--policy", spawn_stress(), "daemonise");
	program_under(guest_static, "--policy", spawn_stress(), "low-limits");
	program_under(guest_static, "--policy", spawn_stress(), "inherit");
	program_under(guest_static_pie, "--dram", "24M", "inherit");
}

/* What a program opens under a number that was the agent's is the program's, in a child too. */
static void numbers_are_the_programs(void **state)
{
	(void)state;
	guest_under("--policy", spawn_stress(), "reopen");
}

/* After a fork each has its own bytes, wherever they are. */
static void forks_have_their_own(void **state)
{
	(void)state;
	guest_under("--policy", spawn_stress(), "inherit");
	guest_under("--dram", "24M", "inherit");
}

/* ... also where there are a great many. */
static void crowds_have_their_own(void **state)
{
	(void)state;
	for (int round = 0; round < 6; round++)
		guest_under("--dram", "32M", "crowd");
	guest_under("--policy", spawn_stress(), "crowd");
}

/* What a program may not have by limits of its own it does not get from an agent either. */
static void limits_are_the_programs(void **state)
{
	(void)state;
	guest_under("--policy", spawn_stress(), "limits");
	guest_under("--dram", "24M", "limits");
}

/* Memory that its process has left goes on to be served, for who shares it. */
static void memory_outlives_its_process(void **state)
{
	(void)state;
	guest_under("--policy", spawn_stress(), "outlived");
	guest_under("--policy", spawn_stress(), "outlived-by-exec");
	guest_under("--dram", "24M", "outlived");
	guest_under("--dram", "24M", "outlived-child");
	program_under(guest_static, "--policy", spawn_stress(), "outlived-by-exec");
}

/* Who shares the memory is known by it, however far from who made it. */
static void who_shares_changes_it(void **state)
{
	(void)state;
	guest_under("--policy", spawn_stress(), "nested");
	guest_under("--dram", "24M", "nested");
	guest_under("--dram", "24M", "nested-alone");
	guest_under("--dram", "24M", "nested-in-child");
	program_under(guest_static, "--dram", "24M", "nested");
}

/* 64 MiB that four processes have are 64 MiB, and no reason to send any of it away. */
static void what_forks_share_counts_once(void **state)
{
	struct spawned run;

	(void)state;
	run_beside_plain(&run, guest, "--dram", "96M", "read-together");
	assert_true(spawn_number(&run, "dram_bytes_peak") >= 64 * MIB);
	assert_true(spawn_number(&run, "dram_bytes_peak") <= 96 * MIB);
	/* What is not known yet when a child has just come may be sent. */
	assert_true(spawn_number(&run, "device_bytes_peak") <= 32 * MIB);
}

/* Nor does it hide what they have of their own later: 64 MiB each, and the first one's. */
static void what_was_shared_hides_nothing(void **state)
{
	struct spawned run;

	(void)state;
	run_beside_plain(&run, guest, "--dram", "96M", "take-anew");
	assert_true(spawn_number(&run, "dram_bytes_peak") <= 120 * MIB);
	assert_true(spawn_number(&run, "device_bytes_peak") >= 64 * MIB);
}

static void tier_sends(const char *program)
{
	struct spawned run;

	spawn_run(&run, uhmm, "run", "--dram", "24M", "--report", "-", program, "hoard", NULL);
	assert_int_equal(run.status, 0);
	spawn_nothing_lost(&run);
	assert_true(spawn_number(&run, "device_bytes_peak") >= 8 * MIB);
	assert_true(spawn_number(&run, "cpu_faults") > 0);
	assert_non_null(strstr(run.complained, "\"fault_us\": {\"p50\": "));
	assert_null(strstr(run.complained, "\"fault_us\": {\"p50\": 0.0"));
}

/* What does not fit the limit is away, and the program finds it. */
static void tier_sends_what_is_too_much(void **state)
{
	(void)state;
	tier_sends(guest);
	tier_sends(guest_static);
}

/* In bytes: by the report, which samples; and by the highest that the kernel has counted. */
static void allocates(const char *how, const char *threads, unsigned int mib)
{
	const uint64_t most = mib * MIB + mib * MIB / 4;
	struct spawned run;
	char limit[16], *end;
	uint64_t filled, checked, report;

	snprintf(limit, sizeof(limit), "%uM", mib);
	spawn_run(&run, uhmm, "run", "--dram", limit, "--report", "-", guest, "allocate", how, "128",
		  threads, NULL);
	assert_int_equal(run.status, 0);
	spawn_nothing_lost(&run);
	filled = strtoull(run.said, &end, 10) << 10;
	checked = strtoull(end, NULL, 10) << 10;
	report = spawn_number(&run, "dram_bytes_peak");
	if (report > most || filled > most || checked > most)
		fail_msg("%s, %s threads, --dram %s: report %llu, kernel %llu when filled, %llu "
			 "at the end", how, threads, limit, (unsigned long long)report,
			 (unsigned long long)filled, (unsigned long long)checked);
}

/*
 * A program that allocates at full speed, whatever way it does, stays within a quarter more
 * than it may have in RAM; and so it does when it goes through all of it again.
 */
static void fast_allocator_stays_within_the_limit(void **state)
{
	(void)state;
	allocates("one", "1", 24);
	allocates("one", "4", 40);
	allocates("large", "1", 40);
	allocates("large", "4", 24);
	allocates("pieces", "1", 32);
	allocates("pieces", "4", 48);
	allocates("small", "1", 48);
	allocates("small", "4", 32);
	allocates("populate", "1", 24);
	allocates("grow", "1", 40);
	allocates("grow", "4", 24);
}

/* A device that is full takes no more; the program goes on, and one line says so. */
static void full_device_is_no_failure(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "--dram", "16M", "--device", "soft:mem=8M", "--report", "-", guest,
		  "hoard", NULL);
	assert_int_equal(run.status, 0);
	spawn_nothing_lost(&run);
	assert_true(spawn_number(&run, "device_bytes_peak") <= 8 * MIB);
	assert_non_null(strstr(run.complained, "the device is full"));
}

static void loses(const char *device, uint64_t *found, uint64_t *told)
{
	struct spawned run;

	spawn_run(&run, uhmm, "run", "--dram", "24M", "--device", device, "--report", "-", guest,
		  "survive", NULL);
	if (run.status)
		fail_msg("%s: status %d\n%s", device, run.status, run.complained);
	*found = strtoull(run.said, NULL, 10);
	*told = spawn_number(&run, "lost_pages");
	assert_int_equal(spawn_number(&run, "poisoned_pages"), *told);
	assert_int_equal(spawn_number(&run, "device_bytes_end"), 0);
}

/* A page that the device has lost costs its reader a signal, and nothing else. */
static void ecc_error_costs_its_page(void **state)
{
	uint64_t found, told;

	(void)state;
	loses("soft:mem=256M,ecc_error=2000", &found, &told);
	assert_int_equal(found, 1);
	assert_int_equal(told, 1);
}

/* ... and a reset what was there; what was in RAM, and what goes there afterwards, is whole. */
static void reset_costs_what_was_away(void **state)
{
	uint64_t found, told;

	(void)state;
	loses("soft:mem=256M,reset=200", &found, &told);
	assert_in_range(found, 1, told);
}

/* A transfer that fails costs nothing, nor does a page that finds no room. */
static void failed_transfers_cost_nothing(void **state)
{
	uint64_t found, told;

	(void)state;
	loses("soft:mem=256M,dma_error=100,alloc_fail=50", &found, &told);
	assert_int_equal(found, 0);
	assert_int_equal(told, 0);
}

/* A device that cannot be had is said before the program runs. */
static void no_device_no_run(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "--policy", "stress", "--device", "none-such", "echo", "x", NULL);
	assert_int_equal(run.status, 125);
	assert_string_equal(run.said, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(torture_under_stress),
		cmocka_unit_test(static_torture_under_stress),
		cmocka_unit_test(slow_stress_moves_something),
		cmocka_unit_test(lives_under_stress),
		cmocka_unit_test(static_programs_live_under_stress),
		cmocka_unit_test(numbers_are_the_programs),
		cmocka_unit_test(forks_have_their_own),
		cmocka_unit_test(what_forks_share_counts_once),
		cmocka_unit_test(what_was_shared_hides_nothing),
		cmocka_unit_test(crowds_have_their_own),
		cmocka_unit_test(limits_are_the_programs),
		cmocka_unit_test(memory_outlives_its_process),
		cmocka_unit_test(who_shares_changes_it),
		cmocka_unit_test(tier_sends_what_is_too_much),
		cmocka_unit_test(fast_allocator_stays_within_the_limit),
		cmocka_unit_test(full_device_is_no_failure),
		cmocka_unit_test(ecc_error_costs_its_page),
		cmocka_unit_test(reset_costs_what_was_away),
		cmocka_unit_test(failed_transfers_cost_nothing),
		cmocka_unit_test(no_device_no_run),
	};

	uhmm = spawn_path("UHMM");
	guest = spawn_path("GUEST");
	guest_static = spawn_path("GUEST_STATIC");
	guest_static_pie = spawn_path("GUEST_STATIC_PIE");
	torture = spawn_path("TORTURE");
	torture_static = spawn_path("TORTURE_STATIC");
	spawn_seed();
	return cmocka_run_group_tests(tests, spawn_own_directory, spawn_remove_directory);
}
