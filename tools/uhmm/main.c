/* SPDX-License-Identifier: MIT */
/*
 * uhmm: the command. A table of commands and what all of them share.
 */
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include <uhmm/uhmm.h>

#include "command.h"
#if UHMM_HAVE_BENCH
#include "bench/bench.h"
#endif

static const struct command {
	const char *name;
	const char *what;
	int (*main)(int argc, char **argv);	/* NULL: not in this build */
} commands[] = {
	{ "doctor", "what this kernel and this user can do, and how to fix the rest", doctor_main },
	{ "devices", "the devices that can be used here", devices_main },
#if UHMM_HAVE_BENCH
	{ "bench", "benchmarks, each beside its floor", bench_main },
#else
	{ "bench", "benchmarks, each beside its floor", NULL },
#endif
	{ "run", "run an unmodified program, its memory watched", run_main },
	{ "dmirror", "run a program that sees /dev/hmm_dmirror0...3", dmirror_main },
	{ "trace", "the same, and write down what happens to its memory", trace_main },
	{ "map", "where the memory of a process is, or of a run was", map_main },
	{ "top", "what runs under uhmm run now, live", top_main },
};

#define NR_COMMANDS	(sizeof(commands) / sizeof(commands[0]))

static void help(FILE *to)
{
	fputs("usage: uhmm COMMAND [OPTION...]\n\n", to);
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		if (commands[i].main)
			fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].what);
	}
	fputs("\nuhmm COMMAND --help says more; uhmm --version prints the version.\n", to);
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		if (!commands[i].main)
			fprintf(to, "Not in this build: %s\n", commands[i].name);
	}
}

static int run_command(int argc, char **argv)
{
	for (size_t i = 0; i < NR_COMMANDS; i++) {
		if (strcmp(argv[0], commands[i].name) != 0)
			continue;
		if (!commands[i].main) {
			fprintf(stderr, "uhmm: %s is not built into this version\n", argv[0]);
			return EXIT_USAGE;
		}
		return commands[i].main(argc, argv);
	}
	fprintf(stderr, "uhmm: no such command: %s; see uhmm --help\n", argv[0]);
	return EXIT_USAGE;
}

static int dispatch(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};

	opterr = 0;
	switch (getopt_long(argc, argv, "+hV", options, NULL)) {
	case -1:
		break;
	case 'h':
		help(stdout);
		return 0;
	case 'V':
		printf("uhmm %s\n", hmm_version());
		return 0;
	default:
		fprintf(stderr, "uhmm: cannot use %s; see uhmm --help\n", argv[optind - 1]);
		return EXIT_USAGE;
	}
	if (optind == argc) {
		help(stderr);
		return EXIT_USAGE;
	}
	return run_command(argc - optind, argv + optind);
}

/*
 * Where a standard descriptor is closed, none of ours takes its number, which who reads or writes
 * it would mistake for it: what is there can neither be read nor written, as the descriptor is
 * for. What we start finds it closed, as it was.
 */
static void fill_standard(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", (fd ? O_RDONLY : O_WRONLY) | O_CLOEXEC) < 0)
			return;
}

int main(int argc, char **argv)
{
	int ret;

	fill_standard();
	ret = dispatch(argc, argv);

	/* A report that did not reach its file is no success. */
	if (fflush(stdout) != 0 && ret == 0) {
		perror("uhmm: standard output");
		ret = 1;
	}
	return ret;
}
