// SPDX-License-Identifier: MIT
/*
 * Programs whose memory goes to a device and back compute what they compute without,
 * and not a page is lost. The policies' seeds are printed.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawn.h"

#define MIB	(1ULL << 20)

static const char *uhmm, *guest, *guest_static, *guest_static_pie, *torture, *torture_static;
static unsigned int seed;

static bool longer(void)
{
	return getenv("UHMM_TEST_LONG") != NULL;
}

/* A policy "stress" with the next seed. */
static const char *stress(void)
{
	static char policy[64];

	snprintf(policy, sizeof(policy), "stress:seed=%u,rate=300000,chunk=%u", seed, 1 + seed % 64);
	seed++;
	return policy;
}

static void nothing_lost(const struct spawned *run)
{
	assert_int_equal(spawn_number(run, "lost_pages"), 0);
	assert_int_equal(spawn_number(run, "poisoned_pages"), 0);
	assert_int_equal(spawn_number(run, "device_bytes_end"), 0);
}

static void same_output(const struct spawned *run, const struct spawned *plain, const char *what)
{
	if (run->status != plain->status || strcmp(run->said, plain->said) != 0)
		fail_msg("%s: status %d, plain %d; it said:\n%.2000s\n%.2000s", what, run->status,
			 plain->status, run->said, run->complained);
}

/*
 * Threads change mappings at the same addresses in every way there is, fork too: see
 * tests/stress/torture.c, which here is a program that knows nothing of us.
 */
static void tortured(const char *program, int rounds, const char *seconds)
{
	char text[16];
	struct spawned run;

	for (int round = 0; round < rounds; round++) {
		snprintf(text, sizeof(text), "%u", seed);
		spawn_run(&run, uhmm, "run", "--policy", stress(), "--report", "-", program, "--alone",
			  "--seconds", seconds, "--seed", text, NULL);
		if (run.status == 77) {
			printf("%s", run.said);
			skip();
		}
		if (run.status)
			fail_msg("status %d\n%s%s", run.status, run.said, run.complained);
		nothing_lost(&run);
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

/* *@run: with its report. */
static void run_beside_plain(struct spawned *run, const char *program, const char *option,
			     const char *value, const char *word)
{
	struct spawned plain;

	spawn_run(&plain, program, word, NULL);
	spawn_run(run, uhmm, "run", option, value, "--report", "-", program, word, NULL);
	same_output(run, &plain, word);
	nothing_lost(run);
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
	guest_under("--policy", stress(), "life");
	guest_under("--policy", stress(), "daemonise");
	guest_under("--policy", stress(), "sandbox");
	guest_under("--policy", stress(), "low-limits");
}

/* The same for programs without a dynamic linker, and their children. */
static void static_programs_live_under_stress(void **state)
{
	(void)state;
	program_under(guest_static, "--policy", stress(), "life");
	program_under(guest_static_pie, "--policy", stress(), "life");
	program_under(guest_static, "--policy", stress(), "daemonise");
	program_under(guest_static, "--policy", stress(), "low-limits");
	program_under(guest_static, "--policy", stress(), "inherit");
	program_under(guest_static_pie, "--dram", "24M", "inherit");
}

/* After a fork each has its own bytes, wherever they are. */
static void forks_have_their_own(void **state)
{
	(void)state;
	guest_under("--policy", stress(), "inherit");
	guest_under("--dram", "24M", "inherit");
}

/* ... also where there are a great many. */
static void crowds_have_their_own(void **state)
{
	(void)state;
	for (int round = 0; round < 6; round++)
		guest_under("--dram", "32M", "crowd");
	guest_under("--policy", stress(), "crowd");
}

/* What a program may not have by limits of its own it does not get from an agent either. */
static void limits_are_the_programs(void **state)
{
	(void)state;
	guest_under("--policy", stress(), "limits");
	guest_under("--dram", "24M", "limits");
}

/* Memory that its process has left goes on to be served, for who shares it. */
static void memory_outlives_its_process(void **state)
{
	(void)state;
	guest_under("--policy", stress(), "outlived");
	guest_under("--policy", stress(), "outlived-by-exec");
	guest_under("--dram", "24M", "outlived");
	guest_under("--dram", "24M", "outlived-child");
	program_under(guest_static, "--policy", stress(), "outlived-by-exec");
}

/* Who shares the memory is known by it, however far from who made it. */
static void who_shares_changes_it(void **state)
{
	(void)state;
	guest_under("--policy", stress(), "nested");
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
	nothing_lost(&run);
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
	nothing_lost(&run);
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
	nothing_lost(&run);
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
	spawn_run(&run, uhmm, "run", "--policy", "stress", "--device", "soft:colour=red", "echo", "x",
		  NULL);
	assert_int_equal(run.status, 125);
	assert_string_equal(run.said, "");
}

/* ---------------------------------------------------------------- real programs */

static const struct program {
	const char *name;
	const char *script;	/* for sh; what it prints is compared */
} programs[] = {
	{ "sort", "seq 1 200000 | rev | sort --parallel=2 | sha1sum" },
	{ "xz", "seq 1 100000 | xz -1 | xz -d | sha1sum" },
	{ "zstd", "seq 1 200000 | zstd -q | zstd -qd | sha1sum" },
	{ "perl", "perl -e 'for (1..60000) { $h{$_ * 7} = \"x\" x ($_ % 97) } "
		  "print join(\",\", map { length $h{$_} } sort keys %h)' | sha1sum" },
	{ "python3", "python3 -c '\nimport json, hashlib, multiprocessing as m\n"
		     "def f(n): return hashlib.sha1((str(n) * 999).encode()).hexdigest()\n"
		     "d = {str(i): [i, str(i) * 5] for i in range(30000)}\n"
		     "print(hashlib.sha1(json.dumps(json.loads(json.dumps(d))).encode()).hexdigest())\n"
		     "with m.get_context(\"fork\").Pool(3) as p: print(len(set(p.map(f, range(300)))))'" },
	{ "sqlite3", "sqlite3 :memory: 'create table t(a integer primary key, b text); "
		     "with recursive c(x) as (select 1 union all select x + 1 from c where x < 40000) "
		     "insert into t select x, hex(x * 7919) from c; create index i on t(b); "
		     "select count(*), sum(length(b)) from t where b > 3; pragma integrity_check'" },
	{ "gcc", "echo 'int f(int x) { return x * x; } int main(void) { return f(3); }' | "
		 "gcc -O2 -S -x c - -o - | grep -v ident" },
	{ "bash", "bash -c 'for i in {1..40}; do x=$(echo $i | tr 1 a | sed s/a/b/); y+=$x; done; "
		  "echo $y; (exit 3); echo $?'" },
	{ "git", "git --version | cut -c 1-11; d=$(mktemp -d); cd $d && git init -q . && "
		 "seq 1 5000 > f && git add f && git -c user.name=a -c user.email=a@b commit -qm one && "
		 "git gc -q && git fsck && git log --oneline | wc -l; rm -rf $d" },
};

static void programs_under(const char *option, const char *(*value)(void))
{
	struct spawned plain, run;

	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		spawn_run(&plain, "sh", "-c", programs[i].script, NULL);
		spawn_run(&run, uhmm, "run", option, value(), "--report", "-", "sh", "-c",
			  programs[i].script, NULL);
		same_output(&run, &plain, programs[i].name);
		nothing_lost(&run);
	}
}

/* Byte for byte the same output, with everything migrating at random. */
static void programs_under_stress(void **state)
{
	(void)state;
	for (int round = 0; round < (longer() ? 5 : 1); round++)
		programs_under("--policy", stress);
}

static const char *little(void)
{
	return "8M";
}

/* ... and with little memory. */
static void programs_under_tier(void **state)
{
	(void)state;
	programs_under("--dram", little);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(torture_under_stress),
		cmocka_unit_test(static_torture_under_stress),
		cmocka_unit_test(lives_under_stress),
		cmocka_unit_test(static_programs_live_under_stress),
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
		cmocka_unit_test(programs_under_stress),
		cmocka_unit_test(programs_under_tier),
	};

	uhmm = spawn_path("UHMM");
	guest = spawn_path("GUEST");
	guest_static = spawn_path("GUEST_STATIC");
	guest_static_pie = spawn_path("GUEST_STATIC_PIE");
	torture = spawn_path("TORTURE");
	torture_static = spawn_path("TORTURE_STATIC");
	seed = (unsigned int)time(NULL);
	printf("seed %u\n", seed);
	return cmocka_run_group_tests(tests, spawn_own_directory, spawn_remove_directory);
}
