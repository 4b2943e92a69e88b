/* SPDX-License-Identifier: MIT */
#include <getopt.h>
#include <stdint.h>
#include <stdlib.h>

#include "command.h"

int usage_error(const char *command, const char *what, const char *word)
{
	fprintf(stderr, "uhmm %s: %s %s; see uhmm %s --help\n", command, what, word, command);
	return EXIT_USAGE;
}

bool parse_pid(const char *text, pid_t *out)
{
	char *end;
	long pid = strtol(text, &end, 10);

	*out = (pid_t)pid;
	return end != text && !*end && pid > 0 && pid <= INT32_MAX;
}

int report_options(int argc, char **argv, const char *help, bool *json)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	bool want_json = false;
	int c;

	opterr = 0;
	optind = 0;	/* glibc: begin anew, main() has read its own options */
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			want_json = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return usage_error(argv[0], "cannot use", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return usage_error(argv[0], "no argument is taken, not", argv[optind]);

	*json = want_json;
	return -1;
}
