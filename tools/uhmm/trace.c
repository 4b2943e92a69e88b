/* SPDX-License-Identifier: MIT */
/*
 * uhmm trace: uhmm run --trace, by the name that one looks for.
 */
#include <stdlib.h>
#include <string.h>

#include "command.h"

#define TRACE_DEFAULT	"uhmm-trace.json"

static const char trace_help[] =
	"usage: uhmm trace [-o FILE] [OPTION...] [--] PROGRAM [ARG...]\n"
	"\n"
	"uhmm run --trace FILE: runs PROGRAM and writes what happens to its memory, as JSON for\n"
	"the viewers of Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev).\n"
	"\n"
	"  -o, --output FILE   where to (default " TRACE_DEFAULT ")\n"
	"  --help              this text\n"
	"\n"
	"OPTION: those of uhmm run; without a policy nothing migrates, and little is to be seen.\n"
	"Exit status: as uhmm run.\n";

int trace_main(int argc, char **argv)
{
	static char run[] = "run", option[] = "--trace", file[] = TRACE_DEFAULT;
	char **words;
	int first = 1, nr = 3, ret;

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(trace_help, stdout);
		return 0;
	}
	words = calloc((size_t)argc + 3, sizeof(*words));
	if (!words) {
		perror("uhmm trace");
		return EXIT_UHMM_FAILED;
	}
	words[0] = run;
	words[1] = option;
	words[2] = file;
	if (argc > 2 && (strcmp(argv[1], "-o") == 0 || strcmp(argv[1], "--output") == 0)) {
		words[2] = argv[2];
		first = 3;
	}
	while (first < argc)
		words[nr++] = argv[first++];
	ret = run_main(nr, words);
	free(words);
	return ret;
}
