// SPDX-License-Identifier: MIT
/*
 * A program under `uhmm run` cannot tell, and neither can who started it.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawn.h"

static const char *uhmm, *guest, *guest_static, *guest_static_pie;

static void same_as_plain(const char *program, const char *word)
{
	struct spawned plain, run;

	spawn_run(&plain, program, word, NULL);
	spawn_run(&run, uhmm, "run", "--", program, word, NULL);
	assert_string_equal(run.said, plain.said);
	assert_string_equal(run.complained, plain.complained);
	assert_int_equal(run.status, plain.status);
}

/* errno, signals, descriptors, threads, children, directory and session are as without. */
static void program_sees_nothing(void **state)
{
	(void)state;
	same_as_plain(guest, "manners");
}

/* Threads, fork, vfork, clone, system and exec do what they do without. */
static void program_lives_as_ever(void **state)
{
	(void)state;
	same_as_plain(guest, "life");
}

/* What is left behind by a process that adopts orphans goes on after its end. */
static void orphans_outlive_who_adopts(void **state)
{
	(void)state;
	same_as_plain(guest, "adopter");
	same_as_plain(guest_static, "adopter");
}

/* Who adopts orphans, from before it became this program on, has no child of ours. */
static void who_adopts_has_no_other_child(void **state)
{
	(void)state;
	same_as_plain(guest, "adopt-exec");
	same_as_plain(guest_static, "adopt-exec");
	same_as_plain(guest, "adopt-first");
	same_as_plain(guest_static, "adopt-first");
}

/* A program that closes all descriptors and leaves its session goes on. */
static void daemon_goes_on(void **state)
{
	(void)state;
	same_as_plain(guest, "daemonise");
}

/* What was closed when it started is closed in the program, and nothing of ours is there. */
static void closed_descriptors_stay_closed(void **state)
{
	static const char *const closed[] = { "<&-", "2>&-", "<&- 2>&-" };
	char command[512];
	struct spawned run;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		snprintf(command, sizeof(command),
			 "'%s' run -- sh -c 'for i in 0 1 2; do [ -e /proc/$$/fd/$i ] || echo $i; done' %s",
			 uhmm, closed[i]);
		spawn_run(&run, "sh", "-c", command, NULL);
		assert_int_equal(run.status, 0);
		assert_string_equal(run.said, i == 0 ? "0\n" : i == 1 ? "2\n" : "0\n2\n");
	}
}

/* A program may filter its own calls. */
static void sandbox_holds(void **state)
{
	(void)state;
	same_as_plain(guest, "sandbox");
}

/* Eight descriptors are enough for a program that is content with eight. */
static void few_descriptors_are_enough(void **state)
{
	(void)state;
	same_as_plain(guest, "low-limits");
}

/*
 * The monitor needs some for each process. Where it has none left forks fail, as where there
 * are too many processes; what its calls do to pages that are away it has to hear all the same.
 */
static void monitor_may_have_few_descriptors(void **state)
{
	static const int limits[] = { 64, 256 };
	char command[512];
	struct spawned run;

	(void)state;
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		snprintf(command, sizeof(command),
			 "ulimit -n %d; exec %s run --policy %s %s crowd-as-allowed", limits[i], uhmm,
			 spawn_stress(), guest);
		spawn_run(&run, "sh", "-c", command, NULL);
		assert_int_equal(run.status, 0);
		assert_string_equal(run.said, "crowd 0\n");
		assert_non_null(strstr(run.complained, "no descriptors left"));
	}
}

static void takes_part(const struct spawned *run, int status)
{
	assert_int_equal(run->status, status);
	assert_int_equal(spawn_number(run, "plain_processes"), 0);
}

/* A static program sees no more of its agent than others do. */
static void static_program_sees_nothing(void **state)
{
	static const char *const words[] = { "manners", "life", "daemonise", "sandbox", "low-limits" };
	struct spawned run;

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		same_as_plain(guest_static, words[i]);
		same_as_plain(guest_static_pie, words[i]);
	}
	spawn_run(&run, uhmm, "run", "--report", "-", guest_static, "7", NULL);
	takes_part(&run, 7);
	spawn_run(&run, uhmm, "run", "--report", "-", guest_static_pie, "7", NULL);
	takes_part(&run, 7);
}

/* Whoever starts it, and by whatever name. */
static void static_program_takes_part(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "--report", "-", guest, "exec-from-thread", guest_static, "5", NULL);
	takes_part(&run, 5);
	spawn_run(&run, uhmm, "run", "--report", "-", guest_static, "exec-from-thread", guest_static,
		  "6", NULL);
	takes_part(&run, 6);
	spawn_run(&run, uhmm, "run", "--report", "-", "env", "-i", guest_static, "7", NULL);
	takes_part(&run, 7);
	spawn_run(&run, uhmm, "run", "--report", "-", "sh", "-c",
		  "cd \"${0%/*}\" && exec \"./${0##*/}\" 8", guest_static, NULL);
	takes_part(&run, 8);
	spawn_run(&run, uhmm, "run", "--report", "-", "sh", "-c",
		  "d=$(mktemp -d) && printf '#!%s 9\n' \"$0\" >$d/script && chmod +x $d/script && "
		  "$d/script; s=$?; rm -r $d; exit $s", guest_static, NULL);
	takes_part(&run, 9);
}

/* A dynamic linker started by hand loads the agent itself. */
static void dynamic_linker_is_no_static_program(void **state)
{
#ifdef __GLIBC__
	static const char linker[] = "/lib64/ld-linux-x86-64.so.2";
#else
	static const char linker[] = "/lib/ld-musl-x86_64.so.1";
#endif
	struct spawned run;

	(void)state;
	if (access(linker, X_OK)) {
		print_message("          not here: %s\n", linker);
		skip();
	}
	spawn_run(&run, uhmm, "run", "--report", "-", linker, guest, "3", NULL);
	takes_part(&run, 3);
}

/* One that a debugger has started is the debugger's: it runs plain, and -v says so. */
static void debugged_runs_plain(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "-v", guest, "debug", guest_static, "7", NULL);
	assert_int_equal(run.status, 7);
	assert_non_null(strstr(run.complained, "it cannot be traced"));
}

/* LD_PRELOAD ends at a blank, and a directory that has one in its name is not taken. */
static void directory_with_a_blank_is_passed_by(void **state)
{
	static const char *const names[] = { "a b", "a:b", "a\nb", "a$LIB" };
	char parent[] = "/tmp/uhmm-test-XXXXXX", dir[64], tmp[80];
	struct spawned run;

	(void)state;
	assert_non_null(mkdtemp(parent));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(dir, sizeof(dir), "%s/%s", parent, names[i]);
		snprintf(tmp, sizeof(tmp), "TMPDIR=%s", dir);
		assert_int_equal(mkdir(dir, 0700), 0);
		spawn_run(&run, "env", "XDG_RUNTIME_DIR=", tmp, uhmm, "run", "--report", "-", guest, "7",
			  NULL);
		assert_int_equal(rmdir(dir), 0);
		assert_null(strstr(run.complained, "ld.so"));
		takes_part(&run, 7);
	}
	assert_int_equal(rmdir(parent), 0);
}

/* The exit status is the program's, or says why there is none. */
static void exit_status_is_the_programs(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", guest, "0", NULL);
	assert_int_equal(run.status, 0);
	spawn_run(&run, uhmm, "run", guest, "42", NULL);
	assert_int_equal(run.status, 42);
	spawn_run(&run, uhmm, "run", "sh", "-c", "kill -9 $$", NULL);
	assert_int_equal(run.status, 128 + SIGKILL);
	spawn_run(&run, uhmm, "run", "/nonexistent/program", NULL);
	assert_int_equal(run.status, 127);
	spawn_run(&run, uhmm, "run", "/etc/passwd", NULL);
	assert_int_equal(run.status, 126);
}

/* What cannot be meant is refused before the program is started, in words that name it. */
static void wrong_usage_starts_nothing(void **state)
{
	static const struct {
		const char *option, *value, *says;
	} cases[] = {
		{ "--policy", "none-such", "no such policy" },
		{ "--policy", "stress:rate=-1", "rate=PAGES" },
		{ "--policy", "stress:rate=+1", "rate=PAGES" },
		{ "--policy", "stress:rate= 1", "rate=PAGES" },
		{ "--policy", "stress:rate=", "rate=PAGES" },
		{ "--policy", "stress:rate=1x", "rate=PAGES" },
		{ "--policy", "stress:rate=0", "rate=PAGES" },
		{ "--policy", "stress:rate=10000001", "at most 10000000" },
		{ "--policy", "stress:rate=18446744073709551615", "at most 10000000" },
		{ "--policy", "stress:seed=18446744073709551616", "seed=N" },
		{ "--policy", "stress:chunk=4097", "at most 4096" },
		{ "--device=soft", "--device=soft", "one --device" },
		{ "--policy=stress", "--device=soft:mem=banana", "mem wants a size such as 64M, not: banana" },
		{ "--policy=stress", "--device=soft:mem=1", "mem must be: 4096 to " },
		{ "--policy=stress", "--device=soft:colour=red", "no option colour" },
		{ "--policy=stress", "--device=soft:mem", "options are key=value, not mem" },
		{ "--policy=stress", "--device=so.ft", "not the name of a device" },
		{ "--policy=stress", "--device=", "not the name of a device" },
	};
	struct spawned run;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		spawn_run(&run, uhmm, "run", cases[i].option, cases[i].value, "echo", "started", NULL);
		assert_string_equal(run.said, "");
		assert_non_null(strstr(run.complained, cases[i].says));
		assert_int_equal(run.status, 2);
	}
	spawn_run(&run, uhmm, "run", NULL);
	assert_int_equal(run.status, 2);
	spawn_run(&run, uhmm, "run", "--policy", "stress:seed=18446744073709551615,rate=10000000", "true",
		  NULL);
	assert_int_equal(run.status, 0);
}

/* Standard error is silent unless asked, and the report counts. */
static void report_counts(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "sh", "-c", "true; /bin/true; /bin/echo said", NULL);
	assert_string_equal(run.said, "said\n");
	assert_string_equal(run.complained, "");
	spawn_run(&run, uhmm, "run", "--report", "-", "sh", "-c",
		  "/bin/true; /bin/true; /bin/echo said; true", NULL);
	assert_string_equal(run.said, "said\n");
	assert_non_null(strstr(run.complained, "\"processes\": 4, \"plain_processes\": 0"));
	assert_non_null(strstr(run.complained, "\"lost_pages\": 0"));
}

/* Where a filter has a listener already there cannot be another: plain, and -v says so. */
static void nested_runs_plain(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", uhmm, "run", "-v", guest, "9", NULL);
	assert_int_equal(run.status, 9);
	assert_non_null(strstr(run.complained, "guest runs plain"));
	spawn_run(&run, uhmm, "run", uhmm, "run", guest, "9", NULL);
	assert_string_equal(run.complained, "");
}

/* Where there is no userfaultfd for the program it runs plain, and -v says so. */
static void no_userfaultfd_runs_plain(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, guest, "without-userfaultfd", uhmm, "run", "-v", guest, "9", NULL);
	assert_int_equal(run.status, 9);
	assert_non_null(strstr(run.complained, "runs without device memory"));
}

/* A program whose environment was cleared is left alone, with its filter, and -v says so. */
static void cleared_environment_runs(void **state)
{
	struct spawned run;

	(void)state;
	spawn_run(&run, uhmm, "run", "-v", "env", "-i", guest, "life", NULL);
	assert_int_equal(run.status, 0);
	assert_non_null(strstr(run.complained, "ran without device memory: no agent came"));
}

/* A static setuid program is whom it is to be; no tracer looks into it, and -v says so. */
static void setuid_program_keeps_its_privilege(void **state)
{
	char copy[] = "/tmp/uhmm-setuid-XXXXXX", command[256];
	struct spawned plain, run;
	int fd = mkstemp(copy);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	snprintf(command, sizeof(command), "cp %s %s && chown 65534 %s && chmod 4755 %s", guest_static,
		 copy, copy, copy);
	spawn_run(&run, "sh", "-c", command, NULL);
	if (run.status) {
		unlink(copy);
		print_message("          not here: only root gives a file away\n");
		skip();
	}
	spawn_run(&plain, copy, "whoami", NULL);
	spawn_run(&run, uhmm, "run", "-v", copy, "whoami", NULL);
	unlink(copy);
	assert_int_equal(run.status, plain.status);
	assert_string_equal(run.said, plain.said);
	assert_non_null(strstr(run.complained, "no agent came (a setuid program"));
}

/* A pipe that the program closes is closed. */
static void pipes_are_the_programs(void **state)
{
	const char *argv[] = { uhmm, "run", guest, "hang-up", NULL };
	struct spawned run;
	char line[32], more;

	(void)state;
	spawn_start(&run, argv);
	spawn_line(&run, line, sizeof(line));
	assert_string_equal(line, "last word");
	assert_int_equal(read(run.out, &more, 1), 0);
	kill(run.pid, SIGTERM);
	spawn_finish(&run);
	assert_int_equal(run.status, 128 + SIGTERM);
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[] = {
		cmocka_unit_test(program_sees_nothing),
		cmocka_unit_test(program_lives_as_ever),
		cmocka_unit_test(orphans_outlive_who_adopts),
		cmocka_unit_test(who_adopts_has_no_other_child),
		cmocka_unit_test(daemon_goes_on),
		cmocka_unit_test(closed_descriptors_stay_closed),
		cmocka_unit_test(sandbox_holds),
		cmocka_unit_test(few_descriptors_are_enough),
		cmocka_unit_test(monitor_may_have_few_descriptors),
		cmocka_unit_test(static_program_sees_nothing),
		cmocka_unit_test(static_program_takes_part),
		cmocka_unit_test(dynamic_linker_is_no_static_program),
		cmocka_unit_test(debugged_runs_plain),
		cmocka_unit_test(directory_with_a_blank_is_passed_by),
		cmocka_unit_test(exit_status_is_the_programs),
		cmocka_unit_test(wrong_usage_starts_nothing),
		cmocka_unit_test(report_counts),
		cmocka_unit_test(nested_runs_plain),
		cmocka_unit_test(no_userfaultfd_runs_plain),
		cmocka_unit_test(cleared_environment_runs),
		cmocka_unit_test(setuid_program_keeps_its_privilege),
		cmocka_unit_test(pipes_are_the_programs),
	};

	(void)argc;
	uhmm = spawn_path("UHMM");
	guest = spawn_path("GUEST");
	guest_static = spawn_path("GUEST_STATIC");
	guest_static_pie = spawn_path("GUEST_STATIC_PIE");
	return spawn_claims("manners", tests, sizeof(tests) / sizeof(tests[0]), argv, NULL, NULL);
}
