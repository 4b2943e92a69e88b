/* SPDX-License-Identifier: MIT */
/*
 * uhmm run: an unmodified program, with an agent of the monitor in each of its
 * processes.
 */
#include <errno.h>	/* the names only */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "monitor/log.h"
#include "report.h"
#include "sys/process.h"

#define EXIT_SIGNAL		128

static const char run_help[] =
	"usage: uhmm run [OPTION...] [--] PROGRAM [ARG...]\n"
	"\n"
	"Runs PROGRAM, and all that it starts, with an agent in each process and every change\n"
	"of their mappings announced. Ends when the last of them has ended.\n"
	"\n"
	"  --device NAME[:key=value,...]  where pages go, once; see uhmm devices (default soft:mem=4G)\n"
	"  --policy NAME[:key=value,...]  what migrates and when (default none)\n"
	"      none        nothing; no device is opened\n"
	"      tier        keep the program's memory in RAM under --dram, the coldest away\n"
	"      stress      whatever can, at random, all the time: to find what is wrong with\n"
	"                  uhmm. seed=N, rate=PAGES (per second), chunk=PAGES\n"
	"  --dram SIZE     of the whole tree; implies --policy tier. K, M, G, T or % of RAM\n"
	"  --report FILE   JSON at the end; - is standard error\n"
	"  --stats         a table at the end, on standard error\n"
	"  --progress      a live line on standard error, when that is a terminal\n"
	"  --trace FILE    every fault, migration, invalidation and change of a mapping, as JSON\n"
	"                  for the viewers of Chrome (chrome://tracing) and Perfetto\n"
	"  -v, --verbose   say which processes run without device memory, and why\n"
	"  -q, --quiet     say nothing but what is wrong\n"
	"  -h, --help      this text\n"
	"\n"
	"Standard output is the program's. Exit status: the program's own; 128+N when signal N\n"
	"ended it; 2 wrong usage; 125 uhmm itself failed; 126 PROGRAM cannot be executed;\n"
	"127 it is not found.\n";

struct run_options {
	const char *report, *trace, *device, *policy;
	uint64_t dram_bytes;
	bool stats, progress, help;
	enum say_level level;
};

static int usage(const char *what, const char *word)
{
	return usage_error("run", what, word);
}

static uint64_t ram_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A number with K, M, G or T, or a percentage of RAM. -EINVAL: none of these, or 0. */
static int parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	double value = strtod(text, &end);

	if (end == text || !(value > 0) || value > 1e15)
		return -EINVAL;
	if (end[0] == '%' && !end[1]) {
		*out = (uint64_t)(value / 100 * (double)ram_bytes());
		return 0;
	}
	unit = *end ? strchr(units, *end) : NULL;
	if (*end && (!unit || end[1]))
		return -EINVAL;
	for (; unit && unit >= units; unit--)
		value *= 1024;
	*out = (uint64_t)value;
	return *out ? 0 : -EINVAL;
}

/* 0, or the status to exit with; optind is at the program. */
static int parse(int argc, char **argv, struct run_options *out)
{
	static const struct option options[] = {
		{ "device", required_argument, NULL, 'd' },
		{ "dram", required_argument, NULL, 'D' },
		{ "policy", required_argument, NULL, 'p' },
		{ "report", required_argument, NULL, 'r' },
		{ "stats", no_argument, NULL, 's' },
		{ "trace", required_argument, NULL, 't' },
		{ "progress", no_argument, NULL, 'P' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	memset(out, 0, sizeof(*out));
	out->level = SAY_WARNING;
	opterr = 0;
	optind = 0;	/* glibc: begin anew, main() has read its own options */
	while ((c = getopt_long(argc, argv, "+hvq", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			out->policy = optarg;
			break;
		case 'D':
			if (parse_size(optarg, &out->dram_bytes))
				return usage("--dram takes a size, not", optarg);
			break;
		case 'd':
			if (out->device)
				return usage("there can be one --device, no second", optarg);
			out->device = optarg;
			break;
		case 'r':
			out->report = optarg;
			break;
		case 's':
			out->stats = true;
			break;
		case 't':
			out->trace = optarg;
			break;
		case 'P':
			out->progress = true;
			break;
		case 'v':
			out->level = SAY_DETAIL;
			break;
		case 'q':
			out->level = SAY_ERROR;
			break;
		case 'h':
			out->help = true;
			return 0;
		default:
			return usage("cannot use", argv[optind - 1]);
		}
	}
	if (!out->policy)
		out->policy = out->dram_bytes ? "tier" : "none";
	if (!out->device)
		out->device = "soft:mem=4G";
	return optind < argc ? 0 : usage("what is the", "PROGRAM?");
}

/* ---------------------------------------------------------------- running */

static int exit_status(const struct monitor_result *result)
{
	if (result->exec_error)
		return result->exec_error == -ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
	return WIFSIGNALED(result->status) ? EXIT_SIGNAL + WTERMSIG(result->status) :
					     WEXITSTATUS(result->status);
}

/* Opened before the program runs: a file that cannot be written is no surprise at the end. */
static int open_output(const char *name, FILE **out)
{
	*out = NULL;
	if (!name)
		return 0;
	*out = strcmp(name, "-") == 0 ? stderr : fopen(name, "we");
	if (*out)
		return 0;
	fprintf(stderr, "uhmm run: %s: %m\n", name);
	return EXIT_UHMM_FAILED;
}

static bool close_output(const char *name, FILE *file)
{
	if (!file || file == stderr || fclose(file) == 0)
		return false;
	fprintf(stderr, "uhmm run: %s: %m\n", name);
	return true;
}

static int run(const struct run_options *options, struct policy *policy, char **argv, FILE *report,
	       FILE *trace)
{
	struct monitor_result result;
	char preload[1024];
	struct monitor_opts opts = {
		.argv = argv,
		.preload = preload,
		.policy = policy,
		.device = options->device,
		.keep_fd = report ? fileno(report) : -1,
		.trace_fd = trace ? fileno(trace) : -1,
		.sample = report || trace || options->stats || options->progress,
		.progress = options->progress && isatty(STDERR_FILENO) ? progress_line : NULL,
	};
	int ret, status;

	ret = find_library("../../preload/libuhmm-preload.so", UHMM_PRELOAD_FROM_BINDIR,
			   preload, sizeof(preload));
	if (ret) {
		fputs("uhmm run: libuhmm-preload.so is not where it was installed\n", stderr);
		return EXIT_UHMM_FAILED;
	}
	ret = monitor_run(&opts, &result);
	if (opts.progress)
		progress_end();
	if (ret) {
		if (ret != -ECANCELED)
			fprintf(stderr, "uhmm run: %s\n", strerror(-ret));
		return result.bad_device ? EXIT_USAGE : EXIT_UHMM_FAILED;
	}
	if (result.exec_error)
		fprintf(stderr, "uhmm run: %s: %s\n", argv[0], strerror(-result.exec_error));
	status = exit_status(&result);
	if (report) {
		char *path = trace && trace != stderr ? realpath(options->trace, NULL) : NULL;

		report_json(report, argv, status, path, &result.stats);
		free(path);
	}
	if (options->stats)
		report_table(stderr, status, &result.stats);
	return status;
}

int run_main(int argc, char **argv)
{
	struct run_options options;
	char why[POLICY_WHY] = "";
	struct policy policy;
	FILE *report, *trace = NULL;
	int ret;

	ret = parse(argc, argv, &options);
	if (ret)
		return ret;
	if (options.help) {
		fputs(run_help, stdout);
		return 0;
	}
	say_up_to(options.level);
	if (policy_open(&policy, options.policy, options.dram_bytes, why)) {
		fprintf(stderr, "uhmm run: --policy %s: %s\n", options.policy, why);
		return EXIT_USAGE;
	}
	ret = open_output(options.report, &report);
	if (!ret)
		ret = open_output(options.trace, &trace);
	if (ret)
		return ret;
	ret = run(&options, &policy, argv + optind, report, trace);
	policy_close(&policy);
	if (close_output(options.report, report) || close_output(options.trace, trace))
		return EXIT_UHMM_FAILED;
	return ret;
}
