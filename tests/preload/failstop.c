// SPDX-License-Identifier: MIT
/*
 * Whatever part of uhmm is killed: the whole tree ends soon, one line says
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
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "spawn.h"

#define ROUNDS		6
#define PIDS		32
#define SOON_MS	8000	/* well under a second, where the machine is idle */

static const char *uhmm, *guest, *guest_static;

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

static void start(struct tree *tree, const char *program, const char *policy, const char *how)
{
	const char *argv[] = { uhmm, "run", "--policy", policy, program, how, NULL };
	char line[32];

	spawn_start(&tree->run, argv);
	spawn_line(&tree->run, line, sizeof(line));
	tree->program = (pid_t)atoi(line);
	tree->nr = 0;
}

static void grow_of(struct tree *tree, const char *program, const char *policy, const char *how)
{
	start(tree, program, policy, how);
	tree->nr = spawn_descendants(tree->run.pid, tree->pids, PIDS);
	/* warden, program, its child, the program's agent */
	assert_true(tree->nr >= 4);
}

static void grow_with(struct tree *tree, const char *policy, const char *how)
{
	grow_of(tree, guest, policy, how);
}

static void grow(struct tree *tree, const char *how)
{
	grow_with(tree, "none", how);
}

/* What still lives of the guests. */
static void kill_guests(const struct tree *tree)
{
	for (size_t i = 0; i < tree->nr; i++)
		if (spawn_named(&tree->pids[i], 1, "guest") ||
		    spawn_named(&tree->pids[i], 1, "guest-static"))
			kill(tree->pids[i], SIGKILL);
}

/* All of them are gone, and so are the monitor's files. */
static void is_gone(struct tree *tree)
{
	assert_true(spawn_all_gone(tree->pids, tree->nr, SOON_MS));
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
		kill_guests(&tree);
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
	assert_true(spawn_all_gone(&agent, 1, SOON_MS));
	assert_true(spawn_alive(tree.program));
	kill(tree.run.pid, SIGTERM);
	for (size_t i = 0; i < tree.nr; i++)
		if (tree.pids[i] != tree.program && spawn_named(&tree.pids[i], 1, "guest"))
			kill(tree.pids[i], SIGKILL);
	is_gone(&tree);
	assert_int_equal(tree.run.status, 31);
}

/* With memory away the program cannot do without its agent: one line, and it ends. */
static void agent_killed_with_memory_away(void **state)
{
	struct tree tree;
	pid_t agent;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow_with(&tree, "stress", "busy");
		agent = spawn_named(tree.pids, tree.nr, "uhmm-agent");
		assert_true(agent > 0);
		kill(agent, SIGKILL);
		assert_true(spawn_all_gone(&tree.program, 1, SOON_MS));
		kill_guests(&tree);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
		assert_non_null(strstr(tree.run.complained, "was killed: ended the program"));
	}
}

/* ... and with it who shares that memory. */
static void agent_of_a_shared_memory_killed(void **state)
{
	struct tree tree;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow_with(&tree, "stress", "share");
		kill(spawn_named(tree.pids, tree.nr, "uhmm-agent"), SIGKILL);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
	}
}

/* ... also where there is nobody left by whom that can be told. */
static void agent_and_program_killed(void **state)
{
	struct tree tree;
	pid_t agent;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow_with(&tree, "stress:rate=200000", "share-to-read");
		agent = spawn_named(tree.pids, tree.nr, "uhmm-agent");
		kill(round % 2 ? agent : tree.program, SIGKILL);
		kill(round % 2 ? tree.program : agent, SIGKILL);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
		assert_null(strstr(tree.run.said, "wrong"));
	}
}

/* A program whose first thread has ended is one still. */
static void monitor_of_a_headless_program_killed(void **state)
{
	struct tree tree;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		grow_with(&tree, "stress", "headless");
		kill(tree.run.pid, SIGKILL);
		is_gone(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
	}
}

/* Any of them, at any time, with memory going to and fro: never a hang, nothing left. */
static void anyone_killed(void **state)
{
	const char *longer = getenv("UHMM_TEST_LONG");
	const int rounds = longer ? 600 : 36;
	unsigned int seed = (unsigned int)time(NULL);
	struct timespec pause = { 0 };
	struct tree tree;
	pid_t victim;

	(void)state;
	printf("seed %u\n", seed);
	for (int round = 0; round < rounds; round++) {
		grow_of(&tree, round % 3 ? guest : guest_static, "stress:rate=200000", "busy");
		pause.tv_nsec = (long)(rand_r(&seed) % 60) * 1000000;
		nanosleep(&pause, NULL);
		victim = rand_r(&seed) % 3 ? tree.pids[(size_t)rand_r(&seed) % tree.nr] : tree.run.pid;
		kill(victim, SIGKILL);
		/* What did not have to end because of that is ended by hand. */
		nanosleep(&pause, NULL);
		kill(tree.program, SIGKILL);
		kill_guests(&tree);
		is_gone(&tree);
	}
}

/* The guests that there are by now, until the run is over. */
static void end_run(struct tree *tree)
{
	const struct timespec pause = { .tv_nsec = 20000000 };

	for (int i = 0; i < SOON_MS / 20 && spawn_alive(tree->run.pid); i++) {
		struct tree now = { .nr = 0 };

		now.nr = spawn_descendants(tree->run.pid, now.pids, PIDS);
		kill_guests(&now);
		nanosleep(&pause, NULL);
	}
	is_gone(tree);
}

/* ... nor when a program that loses its agent is just executing another. */
static void agent_killed_beside_an_exec(void **state)
{
	const char *longer = getenv("UHMM_TEST_LONG");
	const int rounds = longer ? 400 : 30;
	unsigned int seed = (unsigned int)time(NULL);
	struct timespec pause = { 0 };
	struct tree tree;
	pid_t agent;

	(void)state;
	printf("seed %u\n", seed);
	for (int round = 0; round < rounds; round++) {
		start(&tree, round % 3 ? guest : guest_static, "stress:rate=200000",
		      "busy-with-execs");
		for (int kills = 0; kills < 8 && spawn_alive(tree.program); kills++) {
			pause.tv_nsec = (long)(rand_r(&seed) % 12000) * 1000;
			nanosleep(&pause, NULL);
			tree.nr = spawn_descendants(tree.run.pid, tree.pids, PIDS);
			agent = spawn_named(tree.pids, tree.nr, "uhmm-agent");
			if (agent > 0)
				kill(agent, SIGKILL);
		}
		end_run(&tree);
		assert_int_equal(tree.run.status, 128 + SIGKILL);
		assert_string_equal(tree.run.said, "");
	}
}

/* ... nor while a program or its child is being given its agent. */
static void anyone_killed_while_starting(void **state)
{
	const char *longer = getenv("UHMM_TEST_LONG");
	const int rounds = longer ? 600 : 30;
	unsigned int seed = (unsigned int)time(NULL);
	struct timespec pause = { 0 };
	struct tree tree;

	(void)state;
	printf("seed %u\n", seed);
	for (int round = 0; round < rounds; round++) {
		const char *argv[] = { uhmm, "run", "--policy", "stress:rate=200000",
				       round % 3 ? guest_static : guest, "life", NULL };

		spawn_start(&tree.run, argv);
		pause.tv_nsec = (long)(rand_r(&seed) % 40000) * 1000;
		nanosleep(&pause, NULL);
		tree.nr = spawn_descendants(tree.run.pid, tree.pids, PIDS);
		kill(tree.nr && rand_r(&seed) % 4 ? tree.pids[(size_t)rand_r(&seed) % tree.nr] :
						    tree.run.pid, SIGKILL);
		nanosleep(&pause, NULL);
		end_run(&tree);
	}
}

/*
 * Both are killed at once, so that neither can end what is left, and the kernel tells the
 * agent nothing, since it was adopted by a program that goes on: it ends its own all the same.
 */
static void both_killed_where_a_program_adopts(void **state)
{
	struct tree tree;
	pid_t warden, managed[2];

	(void)state;
	grow(&tree, "linger-adopting");
	managed[0] = tree.program;
	managed[1] = spawn_named(tree.pids, tree.nr, "uhmm-agent");
	warden = spawn_named(tree.pids, tree.nr, "uhmm-warden");
	kill(warden, SIGSTOP);
	kill(tree.run.pid, SIGSTOP);
	kill(warden, SIGKILL);
	kill(tree.run.pid, SIGKILL);
	assert_true(spawn_all_gone(managed, 2, SOON_MS));
	kill_guests(&tree);
	spawn_finish(&tree.run);
	spawn_remove_leftovers();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(monitor_killed),
		cmocka_unit_test(warden_killed),
		cmocka_unit_test(program_killed),
		cmocka_unit_test(agent_killed),
		cmocka_unit_test(agent_killed_with_memory_away),
		cmocka_unit_test(agent_of_a_shared_memory_killed),
		cmocka_unit_test(agent_and_program_killed),
		cmocka_unit_test(monitor_of_a_headless_program_killed),
		cmocka_unit_test(anyone_killed),
		cmocka_unit_test(agent_killed_beside_an_exec),
		cmocka_unit_test(anyone_killed_while_starting),
		cmocka_unit_test(both_killed_where_a_program_adopts),
	};

	uhmm = spawn_path("UHMM");
	guest = spawn_path("GUEST");
	guest_static = spawn_path("GUEST_STATIC");
	return cmocka_run_group_tests(tests, spawn_own_directory, spawn_remove_directory);
}
