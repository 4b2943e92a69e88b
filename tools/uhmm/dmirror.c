/* SPDX-License-Identifier: MIT */
/*
 * uhmm dmirror: a program that sees the devices of Linux's HMM test driver. They are
 * served in its own process, by a library that is loaded before its others; this
 * process becomes the program, as env(1) does.
 */
#include <errno.h>	/* after execvp(), which is libc's to call here */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "sys/process.h"

static const char dmirror_help[] =
	"usage: uhmm dmirror [--] PROGRAM [ARG...]\n"
	"\n"
	"Runs PROGRAM with /dev/hmm_dmirror0 and 1 (private memory) and 2 and 3 (coherent):\n"
	"Linux's own HMM tests, `uhmm dmirror -- ./hmm-tests`, need no kernel driver. The\n"
	"program must be linked dynamically.\n"
	"\n"
	"  -h, --help   this text\n"
	"\n"
	"Exit status: the program's own; 2 wrong usage; 125 uhmm itself failed; 126 PROGRAM\n"
	"cannot be executed; 127 it is not found.\n";

/* Behind what is preloaded already: some of it (a sanitizer's runtime) has to be first. */
static int add_preload(const char *library)
{
	const char *before = getenv("LD_PRELOAD");
	char *value;
	int ret;

	if (!before || !*before)
		return setenv("LD_PRELOAD", library, 1);
	value = malloc(strlen(before) + strlen(library) + 2);
	if (!value)
		return -1;
	sprintf(value, "%s:%s", before, library);
	ret = setenv("LD_PRELOAD", value, 1);
	free(value);
	return ret;
}

/* Say now what the program would only see as a device that cannot be opened. */
static int check_machine(void)
{
	struct trial trial;

	trial_mm(&trial, 0);
	if (!trial.err)
		return 0;
	fprintf(stderr, "uhmm dmirror: %s; `uhmm doctor` says more\n",
		trial.said[0] ? trial.said : strerror(-trial.err));
	return EXIT_UHMM_FAILED;
}

static int become(char **argv)
{
	char library[1024];
	int ret = find_library("../../drivers/dmirror/libuhmm-dmirror.so",
			       UHMM_DMIRROR_FROM_BINDIR, library, sizeof(library));

	if (!ret && !sys_preload_names(library)) {
		fprintf(stderr, "uhmm dmirror: %s cannot be preloaded: LD_PRELOAD takes no path with a "
			"blank, a colon or a $; move uhmm to a folder without\n", library);
		return EXIT_UHMM_FAILED;
	}
	if (ret || add_preload(library)) {
		fprintf(stderr, "uhmm dmirror: libuhmm-dmirror.so: %s\n",
			ret ? strerror(-ret) : "out of memory");
		return EXIT_UHMM_FAILED;
	}
	fflush(NULL);
	execvp(argv[0], argv);
	ret = errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
	fprintf(stderr, "uhmm dmirror: %s: %m\n", argv[0]);
	return ret;
}

int dmirror_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c, ret;

	opterr = 0;
	optind = 0;	/* glibc: begin anew, main() has read its own options */
	while ((c = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		if (c == 'h') {
			fputs(dmirror_help, stdout);
			return 0;
		}
		fprintf(stderr, "uhmm dmirror: cannot use %s; see uhmm dmirror --help\n",
			argv[optind - 1]);
		return EXIT_USAGE;
	}
	if (optind == argc) {
		fputs("uhmm dmirror: what is the PROGRAM? see uhmm dmirror --help\n", stderr);
		return EXIT_USAGE;
	}
	ret = check_machine();
	return ret ? ret : become(argv + optind);
}
