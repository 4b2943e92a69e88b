/* SPDX-License-Identifier: MIT */
/* `uhmm bench`: options, one process per bench, and what is printed. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define EXIT_FAILED	1
#define EXIT_BAD_USAGE	2

/* A bench that takes this long hangs: on a quiet machine the whole table takes two minutes. */
#define LONGEST_S	240u

/* In the order of the table. */
static const struct bench *const benches[] = {
	&bench_migrate, &bench_cpu_fault, &bench_fault_threads, &bench_cpu_stream,
	&bench_snapshot, &bench_device, &bench_notifier, &bench_change_notify,
	&bench_run_overhead, &bench_run_processes, &bench_nbd, &bench_dmirror, &bench_metadata,
	&bench_scale, &bench_patterns, &bench_textbook, &bench_trace,
};

struct bench_run {
	bool quick, json, progress;
	char **names;		/* asked for, or all */
	int nr_names;
	struct bench_machine machine;
	const struct bench *bench;	/* running */
};

static const char help[] =
	"usage: uhmm bench [--json] [--quick] [--list] [NAME...]\n"
	"       uhmm bench --tree N\n"
	"\n"
	"Measure the library on this machine. Each figure stands beside its floor, what the\n"
	"machine itself can do, measured alternately in the same run. ratio: larger is\n"
	"better, 1 is at the floor. A missed budget is shown as MISS and is no error.\n"
	"\n"
	"  --json     one JSON object per line\n"
	"  --quick    a few seconds instead of a minute; figures are rougher\n"
	"  --list     the names, and the budget of each\n"
	"  --tree N   be what run_processes runs: N processes that fill 128 MiB and touch\n"
	"             each page once; prints how many ms that took\n"
	"  NAME       a line (cpu_fault_p99) or a bench (device); default: all\n"
	"\n"
	"Exit status: 0; 1 when a bench failed to run; 2 for wrong usage.\n";

bool bench_quick(const struct bench_run *run)
{
	return run->quick;
}

double bench_seconds(const struct bench_run *run, double share)
{
	return share * (run->quick ? 0.2 : 1.5);
}

static bool has_line(const struct bench *bench, const char *name)
{
	for (size_t i = 0; i < bench->nr_lines; i++)
		if (!strcmp(name, bench->lines[i].name))
			return true;
	return false;
}

/* The name of a bench stands for all its lines, unless one of them is called so too. */
bool bench_wanted(const struct bench_run *run, const char *line)
{
	for (int i = 0; i < run->nr_names; i++)
		if (!strcmp(run->names[i], line) ||
		    (!strcmp(run->names[i], run->bench->name) &&
		     !has_line(run->bench, run->names[i])))
			return true;
	return !run->nr_names;
}

static void clear_progress(const struct bench_run *run)
{
	if (run->progress)
		fputs("\r\033[K", stderr);
}

static void show_progress(const struct bench_run *run, size_t nr)
{
	if (run->progress)
		fprintf(stderr, "\r\033[K[%zu/%zu] %s ...", nr + 1, COUNT(benches),
			run->bench->name);
}

void bench_report(struct bench_run *run, const char *line, double value, double floor_value)
{
	const struct bench_line *lines = run->bench->lines;

	if (!bench_wanted(run, line))
		return;
	clear_progress(run);
	for (size_t i = 0; i < run->bench->nr_lines; i++) {
		if (strcmp(lines[i].name, line) != 0)
			continue;
		if (run->json)
			bench_print_json(stdout, &run->machine, &lines[i], value, floor_value);
		else
			bench_print_row(stdout, &lines[i], value, floor_value);
	}
}

void bench_note(struct bench_run *run, const char *what, int error)
{
	clear_progress(run);
	fprintf(stderr, "uhmm bench: %s: %s: %s\n", run->bench->name, what, strerror(-error));
}

static bool any_wanted(const struct bench_run *run, const struct bench *bench)
{
	for (size_t i = 0; i < bench->nr_lines; i++)
		if (bench_wanted(run, bench->lines[i].name))
			return true;
	return false;
}

static void say_failure(const struct bench_run *run, int ret)
{
	fprintf(stderr, "uhmm bench: %s: %s%s\n", run->bench->name, strerror(-ret),
		ret == -EPERM || ret == -EOPNOTSUPP ? "; `uhmm doctor` says more" : "");
}

/* In a process of its own; the mm and what else it makes end with it. */
static int run_bench(struct bench_run *run)
{
	pid_t pid;
	int status, ret;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return -EAGAIN;
	if (!pid) {
		alarm(LONGEST_S);
		ret = run->bench->run(run);
		fflush(NULL);
		_exit(ret ? -ret : 0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	clear_progress(run);
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "uhmm bench: %s: ended by signal %d (%s)\n", run->bench->name,
			WTERMSIG(status), strsignal(WTERMSIG(status)));
		return -EFAULT;
	}
	ret = -WEXITSTATUS(status);
	if (ret && ret != -EOPNOTSUPP)
		say_failure(run, ret);
	return ret;
}

static int run_all(struct bench_run *run)
{
	int failed = 0;

	bench_machine_read(&run->machine);
	if (!run->json)
		bench_print_header(stdout, &run->machine);
	for (size_t i = 0; i < COUNT(benches); i++) {
		int ret;

		run->bench = benches[i];
		if (!any_wanted(run, benches[i]))
			continue;
		show_progress(run, i);
		ret = run_bench(run);
		if (ret && ret != -EOPNOTSUPP)
			failed = EXIT_FAILED;
	}
	return failed;
}

static void print_budget(const struct bench_line *line)
{
	switch (line->budget) {
	case BENCH_OPEN:
		printf("%-24s no budget\n", line->name);
		break;
	case BENCH_RATIO:
		printf("%-24s ratio at least %.2f to %s\n", line->name, line->limit, line->floor);
		break;
	case BENCH_AT_MOST:
		printf("%-24s at most %g %s\n", line->name, line->limit, line->unit);
		break;
	case BENCH_ABOVE_FLOOR:
		printf("%-24s at most %g %s above %s\n", line->name, line->limit, line->unit,
		       line->floor);
		break;
	}
}

static int list(void)
{
	for (size_t i = 0; i < COUNT(benches); i++)
		for (size_t j = 0; j < benches[i]->nr_lines; j++)
			print_budget(&benches[i]->lines[j]);
	return 0;
}

static bool known(const char *name)
{
	for (size_t i = 0; i < COUNT(benches); i++)
		if (!strcmp(name, benches[i]->name) || has_line(benches[i], name))
			return true;
	return false;
}

static int check_names(char **names, int nr_names)
{
	for (int i = 0; i < nr_names; i++) {
		if (known(names[i]))
			continue;
		fprintf(stderr, "uhmm bench: no bench is called \"%s\"; --list shows the names\n",
			names[i]);
		return EXIT_BAD_USAGE;
	}
	return 0;
}

static int be_tree(const char *text)
{
	char *end;
	unsigned long nr = strtoul(text, &end, 10);
	int ret = *end ? -EINVAL : bench_tree(nr);

	if (ret >= 0)
		return ret;
	fprintf(stderr, "uhmm bench: --tree takes a number of processes, 1 to 1000\n");
	return EXIT_BAD_USAGE;
}

int bench_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "list", no_argument, NULL, 'l' },
		{ "quick", no_argument, NULL, 'q' },
		{ "tree", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct bench_run run = { .progress = isatty(STDERR_FILENO) };
	bool just_list = false;
	int c;

	optind = 0;	/* the caller may have parsed options of its own */
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			run.json = true;
			break;
		case 'l':
			just_list = true;
			break;
		case 'q':
			run.quick = true;
			break;
		case 't':
			return be_tree(optarg);
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			fputs("uhmm bench --help shows the options\n", stderr);
			return EXIT_BAD_USAGE;
		}
	}
	run.names = argv + optind;
	run.nr_names = argc - optind;
	if (check_names(run.names, run.nr_names))
		return EXIT_BAD_USAGE;
	return just_list ? list() : run_all(&run);
}
