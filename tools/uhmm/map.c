/* SPDX-License-Identifier: MIT */
/*
 * uhmm map: where the memory of a process under uhmm run is, mapping by mapping.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "map_picture.h"
#include "monitors.h"

static const char map_help[] =
	"usage: uhmm map [--json] [--svg FILE] PID\n"
	"\n"
	"Where the memory of process PID, which runs under uhmm run, is now: in RAM, on the\n"
	"device, or nowhere yet, mapping by mapping. Mappings that never migrate are left out.\n"
	"\n"
	"  --svg FILE   a picture, to FILE; - is standard output\n"
	"  --json       numbers, to standard output\n"
	"  --help       this text\n"
	"\n"
	"Exit status: 0; 1 where PID is not managed by a monitor of yours; 2 wrong usage.\n";

struct map_options {
	const char *svg;
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
		return usage("what is the", "PID?");
	return parse_pid(argv[optind], &out->pid) ? 0 :
	       usage("a process id is taken, not", argv[optind]);
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

static int svg(const struct window_map *map, const char *name)
{
	FILE *to = strcmp(name, "-") == 0 ? stdout : fopen(name, "we");

	if (to)
		map_svg(to, map);
	if (to && (to == stdout || fclose(to) == 0))
		return 0;
	fprintf(stderr, "uhmm map: %s: %m\n", name);
	return 1;
}

int map_main(int argc, char **argv)
{
	struct map_options options;
	struct monitors monitors;
	struct window_map *map;
	int ret = parse(argc, argv, &options);

	if (ret)
		return ret;
	if (options.help) {
		fputs(map_help, stdout);
		return 0;
	}
	monitors_open(&monitors, 0);
	map = monitors_map(&monitors, options.pid);
	monitors_close(&monitors);
	if (!map) {
		fprintf(stderr, "uhmm map: process %d is not managed by a monitor of yours\n",
			(int)options.pid);
		return 1;
	}
	if (options.json)
		json(map);
	if (options.svg)
		ret = svg(map, options.svg);
	if (!options.json && !options.svg)
		map_text(stdout, map);
	free(map);
	return ret;
}
