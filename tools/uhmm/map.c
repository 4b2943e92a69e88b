/* SPDX-License-Identifier: MIT */
/*
 * uhmm map: where the memory of a process under uhmm run is, mapping by mapping; and where
 * that of a run was, out of its trace.
 */
#include <errno.h>	/* the names only */
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "history_picture.h"
#include "map_picture.h"
#include "monitors.h"
#include "report.h"

static const char map_help[] =
	"usage: uhmm map [--json] [--svg FILE] PID|TRACE|REPORT\n"
	"\n"
	"Where the memory of process PID, which runs under uhmm run, is now: in RAM, on the\n"
	"device, or nowhere yet, mapping by mapping. Mappings that never migrate are left out.\n"
	"\n"
	"Of a TRACE that uhmm run --trace wrote, or a REPORT of the same run: where memory was\n"
	"over the time of the run, and where the faults were, by address.\n"
	"\n"
	"  --svg FILE   a picture, to FILE; - is standard output\n"
	"  --json       numbers, to standard output\n"
	"  --help       this text\n"
	"\n"
	"Exit status: 0; 1 where PID is not managed by a monitor of yours, or the file is none of\n"
	"uhmm's, or the picture cannot be written; 2 wrong usage.\n";

struct map_options {
	const char *svg, *file;		/* file: NULL, it is a pid */
	pid_t pid;
	bool json, help;
};

static int usage(const char *what, const char *word)
{
	return usage_error("map", what, word);
}

static int parse(int argc, char **argv, struct map_options *out)
{
	static const struct option options[] = {
		{ "svg", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*out = (struct map_options){ 0 };
	opterr = 0;
	optind = 0;	/* glibc: begin anew, main() has read its own options */
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 's':
			out->svg = optarg;
			break;
		case 'j':
			out->json = true;
			break;
		case 'h':
			out->help = true;
			return 0;
		default:
			return usage("cannot use", argv[optind - 1]);
		}
	}
	if (optind + 1 != argc)
		return usage("one", "PID, TRACE or REPORT is taken");
	/* A file whose name is a number is ./12. */
	if (!parse_pid(argv[optind], &out->pid))
		out->file = argv[optind];
	return 0;
}

static void json(const struct window_map *map)
{
	static const char *const places[] = {
		[HMM_PLACE_GAP] = "gap", [HMM_PLACE_HOLE] = "hole", [HMM_PLACE_SYSTEM] = "system",
		[HMM_PLACE_DEVICE] = "device", [HMM_PLACE_EXCLUSIVE] = "exclusive",
		[HMM_PLACE_FLIGHT] = "flight",
	};

	printf("{\"pid\": %" PRId32 ", \"monitor\": %" PRId32 ", \"name\": ", map->process, map->pid);
	json_string(stdout, map->name);
	printf(", \"left_out\": %" PRIu32 ",\n  \"mappings\": [", map->nr_left_out);
	for (uint32_t i = 0; i < map->nr_mappings; i++) {
		const struct window_mapping *m = &map->mapping[i];

		printf("%s\n    {\"start\": \"0x%" PRIx64 "\", \"end\": \"0x%" PRIx64 "\", \"looked_at\": %"
		       PRIu64, i ? "," : "", m->start, m->end, m->looked_at);
		for (int place = HMM_PLACE_HOLE; place <= HMM_PLACE_FLIGHT; place++)
			printf(", \"%s\": %" PRIu64, places[place], m->pages[place]);
		fputs("}", stdout);
	}
	fputs("] }\n", stdout);
}

/* NULL: that has been said. */
static FILE *open_picture(const char *name)
{
	FILE *to = strcmp(name, "-") == 0 ? stdout : fopen(name, "we");

	if (!to)
		fprintf(stderr, "uhmm map: %s: %m\n", name);
	return to;
}

static int close_picture(const char *name, FILE *to)
{
	if (to == stdout || fclose(to) == 0)
		return 0;
	fprintf(stderr, "uhmm map: %s: %m\n", name);
	return 1;
}

/* ---------------------------------------------------------------- a process, now */

static int map_process(const struct map_options *options)
{
	struct monitors monitors;
	struct window_map *map;
	FILE *picture = NULL;

	monitors_open(&monitors, 0);
	map = monitors_map(&monitors, options->pid);
	monitors_close(&monitors);
	if (!map) {
		fprintf(stderr, "uhmm map: process %d is not managed by a monitor of yours\n",
			(int)options->pid);
		return 1;
	}
	if (options->json)
		json(map);
	if (options->svg)
		picture = open_picture(options->svg);
	if (picture)
		map_svg(picture, map);
	if (!options->json && !options->svg)
		map_text(stdout, map);
	free(map);
	if (!options->svg)
		return 0;
	return picture ? close_picture(options->svg, picture) : 1;
}

/* ---------------------------------------------------------------- a run, over its time */

/* A trace, or the one that a report names. NULL: that has been said. */
static FILE *open_trace(const char *name)
{
	FILE *file = fopen(name, "re");
	char trace[PATH_MAX];

	if (file && report_trace(file, trace)) {
		fclose(file);
		if (!trace[0]) {
			fprintf(stderr, "uhmm map: %s is of a run without --trace\n", name);
			return NULL;
		}
		name = trace;
		file = fopen(name, "re");
	}
	if (!file)
		fprintf(stderr, "uhmm map: %s: %m\n", name);
	return file;
}

static int read_history(const char *name, size_t rows, struct history *history)
{
	FILE *file = open_trace(name);
	int ret;

	if (!file)
		return 1;
	ret = history_read(file, rows, history);
	fclose(file);
	if (ret == -EINVAL)
		fprintf(stderr, "uhmm map: %s is no trace or report of uhmm run\n", name);
	else if (ret)
		fprintf(stderr, "uhmm map: %s: %s\n", name, strerror(-ret));
	return ret != 0;
}

static int map_file(const struct map_options *options)
{
	struct history history;
	FILE *picture = NULL;

	if (read_history(options->file, options->svg || options->json ? HISTORY_SVG_ROWS :
			 HISTORY_TEXT_ROWS, &history))
		return 1;
	if (options->json)
		history_json(stdout, &history);
	if (options->svg)
		picture = open_picture(options->svg);
	if (picture)
		history_svg(picture, &history);
	if (!options->json && !options->svg)
		history_text(stdout, &history);
	history_free(&history);
	if (!options->svg)
		return 0;
	return picture ? close_picture(options->svg, picture) : 1;
}

int map_main(int argc, char **argv)
{
	struct map_options options;
	int ret = parse(argc, argv, &options);

	if (ret)
		return ret;
	if (options.help) {
		fputs(map_help, stdout);
		return 0;
	}
	return options.file ? map_file(&options) : map_process(&options);
}
