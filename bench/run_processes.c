/* SPDX-License-Identifier: MIT */
/*
 * Does one monitor serve a hundred processes as well as one?
 *
 * Under `uhmm run`, with a third of the memory in RAM, N processes together fill 128 MiB,
 * wait for each other, and touch each page once, in no order. What is measured is from
 * there to the end of the last: whatever N is, about as many pages have to come home,
 * and others to leave for them. Expected: less time for ten than for one, where there are
 * CPUs for more than one; for a hundred about as much as for one, for each has some 130
 * KiB that cannot leave, and what is left of the limit for all others is less.
 *
 * --tree is the program that runs there: an interpreter for a script would need more.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "sys/process.h"

extern char **environ;

static const struct bench_line lines[] = {
	{ "run_processes_10", "ms", "one process", BENCH_LESS, BENCH_RATIO, 1 / 1.3 },
	{ "run_processes_100", "ms", "one process", BENCH_LESS, BENCH_RATIO, 1 / 1.3 },
};

#define TREE_BYTES	(128 * MIB)
#define MOST		1000u

/* ---------------------------------------------------------------- under uhmm run */

struct tree {
	unsigned int nr;
	size_t pages;			/* of each */
	uint32_t *order;
	int built[2], go[2];		/* pipes: a byte from each; closed for all */
};

static int member(const struct tree *tree)
{
	const size_t page = hmm_page_size();
	unsigned char *base = mmap(NULL, tree->pages * page, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char none;

	close(tree->go[1]);
	if (base == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < tree->pages; i++)
		memcpy(base + i * page, &i, sizeof(i));
	/* Closed by then: who waits for all hears of one that has died. */
	if (write(tree->built[1], "b", 1) != 1 || close(tree->built[1]) ||
	    read(tree->go[0], &none, 1) != 0)
		return 1;
	for (size_t i = 0; i < tree->pages; i++)
		if (*(volatile size_t *)(base + tree->order[i] * page) != tree->order[i])
			return 1;
	return 0;
}

static int await_built(const struct tree *tree)
{
	char none;

	for (unsigned int i = 0; i < tree->nr; i++)
		if (read(tree->built[0], &none, 1) != 1)
			return 1;
	return 0;
}

static int run_tree(struct tree *tree)
{
	int status, failed = 0;
	uint64_t start;

	for (unsigned int i = 0; i < tree->nr && !failed; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(member(tree));
		failed = pid < 0;
	}
	close(tree->built[1]);
	failed |= await_built(tree);
	start = bench_now_ns();
	close(tree->go[1]);
	while (wait(&status) > 0)
		failed |= status;
	printf("%.3f\n", (double)(bench_now_ns() - start) / 1e6);
	return failed ? 1 : 0;
}

int bench_tree(unsigned long nr)
{
	struct tree tree = { .nr = (unsigned int)nr };

	if (!nr || nr > MOST)
		return -EINVAL;
	tree.pages = TREE_BYTES / nr / hmm_page_size();
	tree.order = calloc(tree.pages, sizeof(*tree.order));
	if (!tree.order || pipe(tree.built) || pipe(tree.go))
		return 1;
	bench_shuffle(tree.order, (uint32_t)tree.pages);
	return run_tree(&tree);
}

/* ---------------------------------------------------------------- beside it */

struct processes {
	char self[512], report[64], nr[16];
};

static unsigned long number(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoul(at + strlen(key), NULL, 10) : 0;
}

/*
 * Were they served? Where that is refused here, programs run plain; that a child has ended
 * before anybody came to it is not that, and what it inherited was served.
 */
static bool were_served(const char *report)
{
	char text[4096];
	FILE *file = fopen(report, "r");
	size_t len;

	if (!file)
		return false;
	len = fread(text, 1, sizeof(text) - 1, file);
	text[len] = '\0';
	fclose(file);
	return number(text, "\"plain_processes\": ") <= number(text, "\"processes\": ") / 20 &&
	       number(text, "\"processes\": ");
}

/* What it printed. */
static int read_ms(int fd, double *ms)
{
	char text[64], *end;
	size_t len = 0;
	ssize_t got;

	while ((got = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)got;
	text[len] = '\0';
	*ms = strtod(text, &end);
	return *end == '\n' && *ms > 0 ? 0 : -EIO;
}

static int spawn(char *const argv[], int out, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	int ret;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	ret = posix_spawn(pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -ret;
}

static int take(void *ctx, struct bench_samples *samples)
{
	struct processes *p = ctx;
	char *argv[] = {
		p->self, "run", "--dram", "44M", "--device", "soft:mem=256M",
		"--report", p->report, "--", p->self, "bench", "--tree", p->nr, NULL,
	};
	int fds[2], ret, status;
	double ms = 0;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	ret = spawn(argv, fds[1], &pid);
	close(fds[1]);
	if (!ret) {
		ret = read_ms(fds[0], &ms);
		if (waitpid(pid, &status, 0) != pid || status)
			ret = -ECHILD;
		else if (!ret && !were_served(p->report))
			ret = -EOPNOTSUPP;
	}
	close(fds[0]);
	if (!ret)
		bench_samples_add(samples, ms);
	return ret;
}

static int compare(struct bench_run *run, const struct processes *what, const char *line,
		   const char *nr)
{
	struct processes one = *what, many = *what;
	struct bench_turn turns[] = { { .take = take, .ctx = &one }, { .take = take, .ctx = &many } };
	const struct bench_limits limits = {
		.seconds = bench_seconds(run, 4), .min_rounds = bench_quick(run) ? 1 : 5,
	};
	int ret;

	if (!bench_wanted(run, line))
		return 0;
	snprintf(one.nr, sizeof(one.nr), "1");
	snprintf(many.nr, sizeof(many.nr), "%s", nr);
	ret = bench_rounds(turns, COUNT(turns), &limits);
	if (!ret)
		bench_report(run, line, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int run_run_processes(struct bench_run *run)
{
	struct processes p = { .report = "/tmp/uhmm-bench-XXXXXX" };
	int ret = sys_program_path(p.self, sizeof(p.self)), fd;

	if (ret)
		return ret;
	fd = mkstemp(p.report);
	if (fd < 0)
		return -EACCES;
	close(fd);
	ret = compare(run, &p, "run_processes_10", "10");
	if (!ret)
		ret = compare(run, &p, "run_processes_100", "100");
	if (ret == -EOPNOTSUPP)
		bench_note(run, "programs run plain here", ret);
	unlink(p.report);
	return ret;
}

const struct bench bench_run_processes = {
	.name = "run_processes", .lines = lines, .nr_lines = COUNT(lines), .run = run_run_processes,
};
