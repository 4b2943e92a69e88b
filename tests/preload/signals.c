/* SPDX-License-Identifier: MIT */
/*
 * What is sent to `uhmm run`, and to the program that it runs: signals, stops, and what
 * whoever started it had said about its children.
 */
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawn.h"

static const char *uhmm, *guest;

/* Who signals uhmm run means the program. */
static void signals_reach_the_program(void **state)
{
	const char *argv[] = { uhmm, "run", guest, "linger", NULL };
	struct spawned run;
	pid_t pids[16], program;
	char line[32];
	size_t nr;

	(void)state;
	spawn_start(&run, argv);
	spawn_line(&run, line, sizeof(line));
	program = (pid_t)atoi(line);
	nr = spawn_descendants(run.pid, pids, 16);
	assert_int_equal(kill(run.pid, SIGTERM), 0);
	spawn_line(&run, run.said, SPAWN_TEXT);
	assert_string_equal(run.said, "terminated");
	/* The program ends and its child does not: uhmm run waits for that one. */
	for (size_t i = 0; i < nr; i++)
		if (pids[i] != program && spawn_named(&pids[i], 1, "guest"))
			kill(pids[i], SIGKILL);
	spawn_finish(&run);
	assert_int_equal(run.status, 31);
}

/* Once it has ended they are for what it has left behind: nobody else would hear them. */
static void signals_reach_who_is_left(void **state)
{
	const char *argv[] = { uhmm, "run", "--policy", spawn_stress(), "sh", "-c",
			       "sleep 1000 >/dev/null & echo $!", NULL };
	struct spawned run;
	char line[32];
	pid_t left;

	(void)state;
	spawn_start(&run, argv);
	spawn_line(&run, line, sizeof(line));
	left = (pid_t)atoi(line);
	assert_true(spawn_alive(left));
	/* The first may still be the program's. */
	for (int i = 0; i < 3000 && spawn_alive(left); i++) {
		kill(run.pid, SIGHUP);
		usleep(10000);
	}
	assert_false(spawn_alive(left));
	spawn_finish(&run);
	assert_true(run.status == 0 || run.status == 128 + SIGHUP);
}

/* A shell's script that was started with SIGCHLD ignored, plain and under uhmm run. */
static void with_children_ignored(const char *script, int status)
{
	char command[512];
	struct spawned plain, run;

	snprintf(command, sizeof(command), "trap '' CHLD; exec sh -c '%s'", script);
	spawn_run(&plain, "sh", "-c", command, NULL);
	snprintf(command, sizeof(command), "trap '' CHLD; exec %s run sh -c '%s'", uhmm, script);
	spawn_run(&run, "sh", "-c", command, NULL);
	assert_int_equal(plain.status, status);
	spawn_same(&run, &plain, script);
}

/* Then the kernel tells nobody how a child has ended, nor that it has. */
static void who_started_it_ignores_children(void **state)
{
	(void)state;
	with_children_ignored("exit 3", 3);
	with_children_ignored("grep SigIgn /proc/self/status", 0);
}

/* What uhmm run writes to who does not read any more is not the program's fault. */
static void own_pipe_is_not_the_programs(void **state)
{
	char command[512];
	struct spawned run;

	(void)state;
	snprintf(command, sizeof(command),
		 "{ { %s run -v sh -c 'env -i /bin/true; env -i /bin/true; sleep 0.3; exit 7'; "
		 "echo $? >&3; } 2>&1 >/dev/null | true; } 3>&1", uhmm);
	spawn_run(&run, "sh", "-c", command, NULL);
	assert_string_equal(run.said, "7\n");
}

/* Nor is a limit of files' size, which the memory shared with an agent is above. */
static void small_files_are_enough(void **state)
{
	char command[512];
	struct spawned run;

	(void)state;
	snprintf(command, sizeof(command), "ulimit -f 16; exec %s run --report - sh -c 'exit 5'", uhmm);
	spawn_run(&run, "sh", "-c", command, NULL);
	assert_int_equal(run.status, 5);
	assert_non_null(strstr(run.complained, "runs plain"));
}

/* Stopped by itself and woken by its own child, whose fork and exec the monitor answers. */
static void stopped_program_is_woken_by_its_own(void **state)
{
	struct spawned run;

	(void)state;
	/* In a session without a terminal, wherever the tests run. */
	spawn_run(&run, "setsid", "-w", uhmm, "run", "--policy", spawn_stress(), "sh", "-c",
		  "(sleep 0.2; kill -CONT $$) & kill -STOP $$; wait; echo on", NULL);
	assert_string_equal(run.said, "on\n");
	assert_int_equal(run.status, 0);
}

/* The shell, in a session with a terminal: 0, or where it went wrong. */
static int shell(const char *script, const char *stress)
{
	pid_t job, below[16];
	int status;

	signal(SIGTTOU, SIG_IGN);
	job = fork();
	if (job == 0) {
		setpgid(0, 0);
		tcsetpgrp(STDIN_FILENO, getpid());
		signal(SIGTTOU, SIG_DFL);
		execl(uhmm, uhmm, "run", "--policy", stress, "sh", "-c", script, NULL);
		_exit(99);
	}
	if (waitpid(job, &status, WUNTRACED) != job || !WIFSTOPPED(status))
		return 1;
	for (size_t nr = spawn_descendants(job, below, 16); nr > 0; nr--)
		if (spawn_named(&below[nr - 1], 1, "sh") && kill(below[nr - 1], SIGCONT))
			return 2;
	return waitpid(job, &status, 0) == job && WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

/* What a shell sees of a job: it stops as the program does; who wakes that one wakes it. */
static void job_stops_and_goes_on(void **state)
{
	static const char *const how[] = { "STOP", "TSTP", "TTOU" };

	(void)state;
	for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		const char *stress = spawn_stress();
		int terminal, status;
		char script[64];
		pid_t pid;

		snprintf(script, sizeof(script), "kill -%s $$; exit 42", how[i]);
		pid = forkpty(&terminal, NULL, NULL, NULL);
		assert_true(pid >= 0);
		if (pid == 0)
			_exit(shell(script, stress));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 42);
		close(terminal);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signals_reach_the_program),
		cmocka_unit_test(signals_reach_who_is_left),
		cmocka_unit_test(who_started_it_ignores_children),
		cmocka_unit_test(own_pipe_is_not_the_programs),
		cmocka_unit_test(small_files_are_enough),
		cmocka_unit_test(stopped_program_is_woken_by_its_own),
		cmocka_unit_test(job_stops_and_goes_on),
	};

	uhmm = spawn_path("UHMM");
	guest = spawn_path("GUEST");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
