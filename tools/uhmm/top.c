/* SPDX-License-Identifier: MIT */
/*
 * uhmm top: what the monitors of this user do now.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "monitors.h"
#include "picture.h"
#include "rates.h"
#if UHMM_HAVE_CURSES
#include "screen/screen.h"
#endif

#define ONCE_PATIENCE_MS	5000	/* nobody looks again: a machine may be busy */

static const char top_help[] =
	"usage: uhmm top [--interval S] [--once [--json]] [PID]\n"
	"\n"
	"Shows what runs under uhmm run, for this user: of each process the memory in RAM and\n"
	"away, faults and pages that move per second, and how long faults take; and the devices.\n"
	"With PID only that monitor, or the one that has this process. Keys: h.\n"
	"\n"
	"  --interval S   look every S seconds (default 1), 0.1 to 60\n"
	"  --once         look twice, S apart, write that to standard output, end\n"
	"  --json         an array of monitors, each with its processes and devices; with --once\n"
	"  --help         this text\n"
	"\n"
	"Exit status: 0; 1 where PID is none, or the terminal cannot be drawn on; 2 wrong usage.\n";

struct top_options {
	double interval_s;
	pid_t pid;
	bool once, json, help;
};

static int usage(const char *what, const char *word)
{
	return usage_error("top", what, word);
}

static bool parse_interval(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	return end != text && !*end && *out >= 0.1 && *out <= 60;
}

static int parse(int argc, char **argv, struct top_options *out)
{
	static const struct option options[] = {
		{ "interval", required_argument, NULL, 'i' },
		{ "once", no_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*out = (struct top_options){ .interval_s = 1 };
	opterr = 0;
	optind = 0;	/* glibc: begin anew, main() has read its own options */
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'i':
			if (!parse_interval(optarg, &out->interval_s))
				return usage("--interval takes seconds, 0.1 to 60, not", optarg);
			break;
		case 'o':
			out->once = true;
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
	if (optind < argc && !parse_pid(argv[optind], &out->pid))
		return usage("a process id is taken, not", argv[optind]);
	if (optind + 1 < argc)
		return usage("one process id is taken, not", argv[optind + 1]);
	if (out->json && !out->once)
		return usage("--json", "goes with --once");
	return 0;
}

/* ---------------------------------------------------------------- JSON */

static void json_rates(const struct rates *rates)
{
	printf("\"faults_per_s\": %.1f, \"zero_fills_per_s\": %.1f, \"pages_away_per_s\": %.1f, "
	       "\"pages_home_per_s\": %.1f, ", rates->faults, rates->zero_fills, rates->away,
	       rates->home);
	if (!rates->times.nr) {
		fputs("\"fault_us\": null", stdout);
		return;
	}
	printf("\"fault_us\": {\"p50\": %.1f, \"p99\": %.1f}",
	       (double)hmm_times_ns(&rates->times, 500) / 1e3,
	       (double)hmm_times_ns(&rates->times, 990) / 1e3);
}

static void json_process(const struct monitor_seen *seen, const struct window_process *process)
{
	char name[sizeof(process->name) + 1] = "";
	struct rates rates;

	memcpy(name, process->name, sizeof(process->name));
	rates_of_process(seen, process, &rates);
	printf("{\"pid\": %" PRId32 ", \"name\": ", process->pid);
	json_string(stdout, name);
	printf(", \"managed\": %s, \"resident_bytes\": %" PRIu64 ", \"device_bytes\": %" PRIu64 ", ",
	       process->managed ? "true" : "false", process->resident_bytes, process->device_bytes);
	json_rates(&rates);
	fputs("}", stdout);
}

static void json_monitor(const struct monitor_seen *seen)
{
	const struct window_view *v = seen->now;
	struct rates rates;

	rates_of_tree(seen, &rates);
	printf("{\"pid\": %" PRId32 ", \"program\": ", v->pid);
	json_string(stdout, v->program);
	printf(", \"policy\": \"%s\", \"dram_bytes\": %" PRIu64 ", \"elapsed_s\": %.3f, "
	       "\"interval_s\": %.3f,\n  \"processes\": %" PRIu64 ", \"plain_processes\": %" PRIu64
	       ", \"alive\": %" PRIu32 ", \"changes\": %" PRIu64 ", \"resident_bytes\": %" PRIu64
	       ", \"lost_pages\": %" PRIu64 ",\n  ", v->policy, v->dram_bytes,
	       (double)(v->now_ns - v->start_ns) / 1e9, rates_interval_s(seen), v->nr_seen, v->nr_plain,
	       v->nr_alive, v->changes, v->resident_bytes, v->lost_pages);
	json_rates(&rates);
	fputs(",\n  \"devices\": [", stdout);
	for (uint32_t i = 0; i < v->nr_devices; i++) {
		printf("%s{\"name\": ", i ? ", " : "");
		json_string(stdout, v->device[i].name);
		printf(", \"bytes\": %" PRIu64 ", \"used_bytes\": %" PRIu64 ", \"peak_bytes\": %" PRIu64
		       ", \"pages_in\": %" PRIu64 ", \"pages_out\": %" PRIu64 "}", v->device[i].bytes,
		       v->device[i].used_bytes, v->device[i].peak_bytes, v->device[i].pages_in,
		       v->device[i].pages_out);
	}
	fputs("],\n  \"running\": [", stdout);
	for (uint32_t i = 0; i < v->nr_processes; i++) {
		fputs(i ? ",\n    " : "\n    ", stdout);
		json_process(seen, &v->process[i]);
	}
	fputs("] }", stdout);
}

static void json(const struct monitors *monitors)
{
	fputs("[", stdout);
	for (size_t i = 0; i < monitors->nr; i++) {
		fputs(i ? ",\n" : "", stdout);
		json_monitor(&monitors->seen[i]);
	}
	fputs("]\n", stdout);
}

/* ---------------------------------------------------------------- the command */

static void put_line(void *ctx, enum picture_style style, const char *line)
{
	(void)style;
	fprintf(ctx, "%s\n", line);
}

static void once(struct monitors *monitors, const struct top_options *options)
{
	const struct timespec pause = {
		.tv_sec = (time_t)options->interval_s,
		.tv_nsec = (long)((options->interval_s - (double)(time_t)options->interval_s) * 1e9),
	};

	monitors_look(monitors, ONCE_PATIENCE_MS);
	if (monitors->nr) {
		nanosleep(&pause, NULL);
		monitors_look(monitors, ONCE_PATIENCE_MS);
	}
	if (options->json)
		json(monitors);
	else
		picture_draw(monitors, ORDER_AWAY, put_line, stdout);
}

static int live(struct monitors *monitors, double interval_s)
{
#if UHMM_HAVE_CURSES
	if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		return screen_run(monitors, interval_s);
	fputs("uhmm top: needs a terminal; uhmm top --once does not\n", stderr);
#else
	(void)monitors;
	(void)interval_s;
	fputs("uhmm top: the live view is not in this build (no ncurses); uhmm top --once is\n", stderr);
#endif
	return 1;
}

int top_main(int argc, char **argv)
{
	struct top_options options;
	struct monitors monitors;
	int ret = parse(argc, argv, &options);

	if (ret)
		return ret;
	if (options.help) {
		fputs(top_help, stdout);
		return 0;
	}
	monitors_open(&monitors, options.pid);
	if (!options.once) {
		ret = live(&monitors, options.interval_s);
	} else {
		once(&monitors, &options);
		ret = options.pid && !monitors.nr;
		if (ret)
			fprintf(stderr, "uhmm top: process %d is no monitor of yours, nor under one\n",
				(int)options.pid);
	}
	monitors_close(&monitors);
	return ret;
}
