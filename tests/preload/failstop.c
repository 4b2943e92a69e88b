// SPDX-License-Identifier: MIT
/*
 * Whatever part of uhmm is killed: the whole tree ends within a second, one line says
 * why, and nothing is left behind; or the program does not notice.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawn.h"

#define ROUNDS		6
#define PIDS		32
#define A_SECOND_MS	1000

static const char *uhmm, *guest;

static unsigned int lines(const char *text)
{
	unsigned int nr = 0;

	for (; *text; text++)
		nr += *text == '\n';
	return nr;
}

struct tree {
	struct spawned run;
	pid_t pids[PIDS];
	size_t nr;
	pid_t program;
};

static void grow(struct tree *tree, const char *how)
{
	const char *argv[] = { uhmm, "run", guest, how, NULL };
	char line[32];

	spawn_start(&tree->run, argv);
	spawn_line(&tree->run, line, sizeof(line));
	tree->program = (pid_t)atoi(line);
	tree->nr = spawn_descendants(tree->run.pid, tree->pids, PIDS);
	/* warden, program, its child, the program's agent */
	assert_true(tree->nr >= 4);
}

/* All of them are gone, and so are the monitor's files. */
static void is_gone(struct tree *tree)
{
	assert_true(spawn_all_gone(tree->pids, tree->nr, A_SECOND_MS));
	spawn_finish(&tree->run);
	assert_int_equal(spawn_leftovers(), 0);
}

/* The monitor is killed: the warden ends everything. */
static void monitor_killed(void **state)
{
	struct tree tree;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow(&tree, round % 2 ? "busy" : "linger");
		kill(tree.run.pid, SIGKILL);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
		assert_int_equal(lines(tree.run.complained), 1);
		assert_non_null(strstr(tree.run.complained, "the monitor is gone"));
	}
}

/* The warden is killed: the monitor ends everything, and fails. */
static void warden_killed(void **state)
{
	struct tree tree;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow(&tree, round % 2 ? "busy" : "linger");
		kill(spawn_named(tree.pids, tree.nr, "uhmm-warden"), SIGKILL);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 125);
		assert_int_equal(lines(tree.run.complained), 1);
		assert_non_null(strstr(tree.run.complained, "the warden is gone"));
	}
}

/* The program is killed: its children go on until they end, then uhmm run ends. */
static void program_killed(void **state)
{
	struct tree tree;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow(&tree, round % 2 ? "busy" : "linger");
		kill(tree.program, SIGKILL);
		for (size_t i = 0; i < tree.nr; i++)
			if (spawn_named(&tree.pids[i], 1, "guest"))
				kill(tree.pids[i], SIGKILL);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
		assert_string_equal(tree.run.complained, "");
	}
}

/* With nothing away nobody needs the agent: the program goes on. */
static void agent_killed(void **state)
{
	struct tree tree;
	pid_t agent;

	(void)state;
	grow(&tree, "linger");
	agent = spawn_named(tree.pids, tree.nr, "uhmm-agent");
	assert_true(agent > 0);
	kill(agent, SIGKILL);
	assert_true(spawn_all_gone(&agent, 1, A_SECOND_MS));
	assert_true(spawn_alive(tree.program));
	kill(tree.run.pid, SIGTERM);
	for (size_t i = 0; i < tree.nr; i++)
		if (tree.pids[i] != tree.program && spawn_named(&tree.pids[i], 1, "guest"))
			kill(tree.pids[i], SIGKILL);
	is_gone(&tree);
	assert_int_equal(tree.run.status, 31);
}

/* The tests of this program count what monitors leave behind. */
static int own_directory(void **state)
{
	static char dir[] = "/tmp/uhmm-test-XXXXXX";

	*state = mkdtemp(dir);
	return *state ? setenv("XDG_RUNTIME_DIR", dir, 1) : -1;
}

static int remove_directory(void **state)
{
	return rmdir(*state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(monitor_killed),
		cmocka_unit_test(warden_killed),
		cmocka_unit_test(program_killed),
		cmocka_unit_test(agent_killed),
	};

	uhmm = spawn_path("UHMM");
	guest = spawn_path("GUEST");
	return cmocka_run_group_tests(tests, own_directory, remove_directory);
}
