// SPDX-License-Identifier: MIT
/*
 * What does a program pay for `uhmm run` when nothing migrates?
 *
 * The same program plain and under --policy none, in turn, by the wall clock. `sort` of
 * some MB shows what it costs while it runs, /bin/true what it costs to start.
 *
 * Each does the same work in every round, and what else runs on the machine only ever
 * adds to its time, on a shared one tens of percent to every other round. So sort's
 * quickest rounds are compared: their medians differ by more than there is to see.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "sys/process.h"

#define LINES		2000000u
#define LINES_QUICK	50000u
#define SORTS		15u

extern char **environ;

static const struct bench_line lines[] = {
	{ "run_overhead", "s", "the same sort plain", BENCH_LESS, BENCH_RATIO, 0.99 },
	{ "run_startup", "ms", "/bin/true plain", BENCH_LESS, BENCH_ABOVE_FLOOR, 10.0 },
};

struct command {
	char *argv[8];
	double unit_ns;		/* of a sample */
};

/* Its standard output goes nowhere. Wall time, or a negative errno. */
static int64_t time_command(char *const argv[])
{
	posix_spawn_file_actions_t actions;
	uint64_t start = bench_now_ns();
	int status, ret;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	ret = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (ret)
		return -ret;
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status))
		return -ECHILD;
	return (int64_t)(bench_now_ns() - start);
}

static int take(void *ctx, struct bench_samples *samples)
{
	const struct command *command = ctx;
	int64_t ns = time_command(command->argv);

	if (ns < 0)
		return (int)ns;
	bench_samples_add(samples, (double)ns / command->unit_ns);
	return 0;
}

static int compare(struct bench_run *run, const char *line, struct command *plain,
		   struct command *under, unsigned int rounds, double quantile)
{
	struct bench_turn turns[2] = { { .take = take, .ctx = plain }, { .take = take, .ctx = under } };
	const struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.5), .warmup = 1, .min_rounds = rounds,
	};
	int ret = bench_rounds(turns, 2, &limits);

	if (!ret)
		bench_report(run, line, bench_quantile(&turns[1].samples, quantile),
			     bench_quantile(&turns[0].samples, quantile));
	bench_turns_free(turns, 2);
	return ret;
}

/* Lines in no order. */
static int write_input(int fd, unsigned int nr)
{
	FILE *file = fdopen(fd, "w");
	uint32_t x = 1;

	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	for (unsigned int i = 0; i < nr; i++) {
		x = x * 1664525u + 1013904223u;
		fprintf(file, "%08x %u\n", x, i);
	}
	return fclose(file) ? -ENOSPC : 0;
}

static int run_sort(struct bench_run *run, char *self, char *input)
{
	struct command plain = { { "sort", "--parallel=1", "-S", "256M", input }, 1e9 };
	struct command under = {
		{ self, "run", "sort", "--parallel=1", "-S", "256M", input }, 1e9
	};

	return compare(run, "run_overhead", &plain, &under, bench_quick(run) ? 3 : SORTS, 0);
}

static int run_true(struct bench_run *run, char *self)
{
	struct command plain = { { "/bin/true" }, 1e6 };
	struct command under = { { self, "run", "/bin/true" }, 1e6 };

	return compare(run, "run_startup", &plain, &under, 3, 0.5);
}

static int run_run_overhead(struct bench_run *run)
{
	char self[512], input[] = "/tmp/uhmm-bench-XXXXXX";
	int fd, ret = sys_program_path(self, sizeof(self));

	if (ret)
		return ret;
	fd = mkstemp(input);
	if (fd < 0)
		return -EACCES;
	ret = write_input(fd, bench_quick(run) ? LINES_QUICK : LINES);
	if (!ret)
		ret = run_sort(run, self, input);
	unlink(input);
	return ret ? ret : run_true(run, self);
}

const struct bench bench_run_overhead = {
	.name = "run_overhead", .lines = lines, .nr_lines = COUNT(lines), .run = run_run_overhead,
};
