/* SPDX-License-Identifier: MIT */
/*
 * hmm-driver-test: options, the list of trials, the report.
 */
#include "kit.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_USAGE	2
#define TIMEOUT_S	60

static const char help[] =
	"usage: hmm-driver-test [OPTION...] DRIVER[:KEY=VALUE,...] [TRIAL...]\n"
	"\n"
	"Tries to break the contract of a driver (docs/driver-guide.md), and says in words\n"
	"which promise it broke. DRIVER is a shared object with a / in its path, such as\n"
	"./mine.so, or a name as uhmm devices lists it. Without TRIAL all of them run.\n"
	"\n"
	"  --list        the trials\n"
	"  --promises    what a driver promises\n"
	"  --seed N      of random orders; the one in use is printed\n"
	"  --timeout S   seconds that a trial may take (60)\n"
	"  --help        this text\n"
	"  --version\n"
	"\n"
	"Exit status: 0 when every promise was kept, 1 when one was broken, 2 wrong usage,\n"
	"3 when something else than the driver failed, 77 when nothing can be tried here.\n";

#define BOTH		(IN_PLAIN | IN_STRICT)

const struct trial trials[] = {
	{ "open", "it opens and closes, with pages on it, again and again", open_and_close,
	  BOTH, false, false },
	{ "bytes", "pages go to the device and come back", bytes_go_and_come,
	  IN_PLAIN | BY_DRIVER, true, false },
	{ "holes", "pages without content go to memory that had some", holes_read_as_zeros,
	  IN_PLAIN | BY_DRIVER, true, false },
	{ "touches", "single pages leave and are touched, in any order", touches_in_any_order,
	  IN_PLAIN, true, false },
	{ "syscalls", "read(2) and write(2) on pages that are away", system_calls_reach_pages,
	  IN_PLAIN, true, false },
	{ "fill", "more than fits, again and again", memory_is_filled_and_freed,
	  IN_PLAIN | BY_DRIVER, true, false },
	{ "changes", "munmap, mremap, madvise, mprotect under pages that are away",
	  mappings_change, BOTH, true, false },
	{ "fork", "fork with pages that are away", children_have_their_own, BOTH, true, false },
	{ "peers", "pages go from one device to another", peers_copy, IN_PLAIN, true, false },
	{ "copies-fail", "copies fail at every place", copies_fail, IN_PLAIN | BY_DRIVER, true,
	  false },
	{ "no-room", "page_alloc refuses at every place", room_runs_out, IN_PLAIN | BY_DRIVER, true,
	  false },
	{ "lost", "a page of the device cannot be read", pages_are_lost, IN_PLAIN, true, false },
	{ "sight", "CPU and device write and read by turns", both_sides_see, BOTH, false, true },
	{ "rights", "accesses that the program may not make", rights_are_kept, BOTH, false, true },
	{ "stale", "what the device has seen is mapped anew, discarded, moved",
	  no_stale_translation, IN_STRICT, false, true },
	{ "races", "the device reads while the mapping is replaced", changes_race_accesses,
	  IN_STRICT, false, true },
	{ "atomics", "CPU and device add to one word", atomics_add_up, BOTH, false, false },
	{ "two", "two devices of the driver at a time", two_at_a_time, IN_PLAIN, true, false },
	{ "removal", "it closes while threads use its pages", closed_while_in_use, IN_PLAIN, true,
	  false },
	{ "storm", "everything at once", everything_at_once, BOTH | BY_DRIVER, true, false },
};

const size_t nr_trials = ARRAY_LEN(trials);

struct request {
	char driver[PATH_MAX];
	const char *options;	/* of the device */
	char **names;		/* of the trials wanted, NULL: all */
	unsigned int seed;
	int timeout_s;
};

struct totals {
	unsigned int kept, broken, not_offered, failed;
};

/* ---------------------------------------------------------------- one child */

/* The driver is loaded where it is tried: its code may crash as it likes. */
static void child_main(const struct request *request, const struct trial *trial,
		       unsigned int mode)
{
	struct kit kit = { .options = request->options, .seed = request->seed,
			   .strict = mode == IN_STRICT, .by_driver = mode == BY_DRIVER };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	doing("loading the driver");
	if (hmm_plugin_load(request->driver, &kit.plugin, verdict->note, sizeof(verdict->note)))
		_exit(EXIT_CANNOT);
	if (!trial) {
		note("%s: %s", kit.plugin->name, kit.plugin->what);
		doing("opening the device");
		trial_open(&kit);
		_exit(0);
	}
	if (kit.by_driver && !kit.plugin->migrate)
		not_offered("no migrate of its own");
	trial_main(&kit, trial);
}

/* The wait status, or -1: it did not end in time. */
static int child_wait(pid_t pid, int timeout_s)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0), status, ready = 1;
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	if (fd >= 0) {
		ready = poll(&poll_fd, 1, timeout_s * 1000);
		close(fd);
	}
	if (ready == 0)
		kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return ready == 0 ? -1 : status;
}

/* Broken for a crash and a hang, which the child could not say itself. */
static int child_run(const struct request *request, const struct trial *trial, unsigned int mode)
{
	int status;
	pid_t pid;

	memset(verdict, 0, sizeof(*verdict));
	fflush(NULL);
	pid = fork();
	if (!pid)
		child_main(request, trial, mode);
	status = pid < 0 ? -1 : child_wait(pid, request->timeout_s);
	if (atomic_load(&verdict->broken))
		return EXIT_BROKEN;
	if (status >= 0 && WIFEXITED(status))
		return WEXITSTATUS(status);
	atomic_store(&verdict->broken, status < 0 ? D_ENDS : D_STANDS);
	if (status >= 0)
		snprintf(verdict->detail, sizeof(verdict->detail), "%s at: %s",
			 strsignal(WTERMSIG(status)), verdict->doing);
	else if (atomic_load(&verdict->copies_in_air))
		snprintf(verdict->detail, sizeof(verdict->detail),
			 "nothing more happened at: %s; %llu copies have not ended", verdict->doing,
			 (unsigned long long)atomic_load(&verdict->copies_in_air));
	else
		snprintf(verdict->detail, sizeof(verdict->detail), "nothing more happened at: %s",
			 verdict->doing);
	return EXIT_BROKEN;
}

/* ---------------------------------------------------------------- report */

static const char *mode_name(unsigned int mode)
{
	return mode == IN_STRICT ? "strict" : mode == BY_DRIVER ? "own" : "";
}

static void trial_report(const struct trial *trial, unsigned int mode, int status,
			 struct totals *totals)
{
	static const char *const words[] = { "kept", "BROKEN", "FAILED", "-" };
	int word = status == 0 ? 0 : status == EXIT_BROKEN ? 1 : status == EXIT_SKIP ? 3 : 2;
	uint32_t promise = atomic_load(&verdict->broken);

	printf("%-7s %-12s %-7s", words[word], trial->name, mode_name(mode));
	if (word == 1)
		printf(" D%u: %s\n        %s\n", promise, promise_text(promise), verdict->detail);
	else
		printf(" %s\n", verdict->note);
	switch (word) {
	case 0: totals->kept++; break;
	case 1: totals->broken++; break;
	case 2: totals->failed++; break;
	default: totals->not_offered++; break;
	}
}

static bool wanted(const struct request *request, const struct trial *trial)
{
	if (!*request->names)
		return true;
	for (char **name = request->names; *name; name++)
		if (!strcmp(*name, trial->name))
			return true;
	return false;
}

static int trials_run(const struct request *request)
{
	static const unsigned int modes[] = { IN_PLAIN, BY_DRIVER, IN_STRICT };
	struct totals totals = { 0 };

	for (size_t i = 0; i < nr_trials; i++) {
		for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
			if (!(trials[i].modes & modes[m]) || !wanted(request, &trials[i]))
				continue;
			trial_report(&trials[i], modes[m],
				     child_run(request, &trials[i], modes[m]), &totals);
		}
	}
	printf("%u kept, %u broken, %u not offered", totals.kept, totals.broken,
	       totals.not_offered);
	if (totals.failed)
		printf(", %u could not be tried", totals.failed);
	printf("\n");
	return totals.broken ? EXIT_BROKEN : totals.failed ? EXIT_CANNOT : 0;
}

/* Is there a driver, and can anything be tried here? */
static int introduce(const struct request *request)
{
	int status = child_run(request, NULL, IN_PLAIN);

	if (status == EXIT_BROKEN) {
		printf("BROKEN  D%u: %s\n        %s\n", atomic_load(&verdict->broken),
		       promise_text(atomic_load(&verdict->broken)), verdict->detail);
		return status;
	}
	if (status) {
		fprintf(stderr, "hmm-driver-test: %s\n", verdict->note);
		return status;
	}
	printf("%s (seed %u)\n", verdict->note, request->seed);
	return 0;
}

/* ---------------------------------------------------------------- usage */

static void list_trials(void)
{
	for (size_t i = 0; i < nr_trials; i++)
		printf("%-12s %s\n", trials[i].name, trials[i].what);
}

static void list_promises(void)
{
	for (int promise = 1; promise < PROMISES; promise++)
		printf("D%d  %s\n", promise, promise_text((enum promise)promise));
}

static int usage(const char *what, const char *word)
{
	fprintf(stderr, "hmm-driver-test: %s %s; see hmm-driver-test --help\n", what, word);
	return EXIT_USAGE;
}

static bool number(const char *text, long max, long *out)
{
	char *end;

	*out = strtol(text, &end, 10);
	return *text && !*end && *out >= 0 && *out <= max;
}

/* -1: go on; else the status to exit with. */
static int options_read(int argc, char **argv, struct request *request)
{
	static const struct option options[] = {
		{ "list", no_argument, NULL, 'l' }, { "promises", no_argument, NULL, 'p' },
		{ "seed", required_argument, NULL, 's' },
		{ "timeout", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	long n;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'l':
			list_trials();
			return 0;
		case 'p':
			list_promises();
			return 0;
		case 'h':
			fputs(help, stdout);
			return 0;
		case 'V':
			printf("hmm-driver-test %s\n", hmm_version());
			return 0;
		case 's':
			if (!number(optarg, INT_MAX, &n))
				return usage("--seed is a number, not", optarg);
			request->seed = (unsigned int)n;
			break;
		case 't':
			if (!number(optarg, 86400, &n) || !n)
				return usage("--timeout is a number of seconds, not", optarg);
			request->timeout_s = (int)n;
			break;
		default:
			return usage("cannot use", argv[optind - 1]);
		}
	}
	return -1;
}

static int request_read(int argc, char **argv, struct request *request)
{
	int ret = options_read(argc, argv, request);
	char *colon;

	if (ret >= 0)
		return ret;
	if (optind == argc || strlen(argv[optind]) >= sizeof(request->driver))
		return usage("wants a DRIVER:", optind == argc ? "none is given" : "not this");
	strcpy(request->driver, argv[optind]);
	/* The first: options may be URIs and paths. */
	colon = strchr(request->driver, ':');
	if (colon) {
		*colon = '\0';
		request->options = colon + 1;
	}
	request->names = argv + optind + 1;
	for (char **name = request->names; *name; name++) {
		size_t i = 0;

		while (i < nr_trials && strcmp(trials[i].name, *name))
			i++;
		if (i == nr_trials)
			return usage("no such trial:", *name);
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct request request = { .seed = (unsigned int)getpid(), .timeout_s = TIMEOUT_S };
	int ret = request_read(argc, argv, &request);

	if (ret >= 0)
		return ret;
	verdict = mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (verdict == MAP_FAILED) {
		perror("hmm-driver-test: mmap");
		return EXIT_CANNOT;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	ret = introduce(&request);
	return ret ? ret : trials_run(&request);
}
