/* SPDX-License-Identifier: MIT */
/*
 * The commands of uhmm. Each gets its own name as argv[0] and returns the exit
 * status: 0 yes, 1 no, 2 wrong usage; run's are the program's, see there.
 */
#ifndef UHMM_COMMAND_H
#define UHMM_COMMAND_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include <uhmm/plugin.h>

#define EXIT_USAGE		2

/* Of the commands that run a program, whose own status it is otherwise. */
#define EXIT_UHMM_FAILED	125
#define EXIT_CANNOT_EXECUTE	126
#define EXIT_NOT_FOUND		127

int doctor_main(int argc, char **argv);
int devices_main(int argc, char **argv);
int dmirror_main(int argc, char **argv);
int map_main(int argc, char **argv);
int run_main(int argc, char **argv);
int top_main(int argc, char **argv);
int trace_main(int argc, char **argv);

/* Says on standard error what is wrong with @word, and where help is. Returns EXIT_USAGE. */
int usage_error(const char *command, const char *what, const char *word);

/* A process id and nothing else; false: it is none. */
bool parse_pid(const char *text, pid_t *out);

/*
 * The options of a command that only reports: --json and --help. Returns -1 to go
 * on, or the status to exit with; @json is written when it is -1.
 */
int report_options(int argc, char **argv, const char *help, bool *json);

/*
 * Where a library of ours lies, @built and @installed being its places as seen from this
 * command. 0, -ENOENT, or why the command's own place is not known.
 */
int find_library(const char *built, const char *installed, char *path, size_t size);

/*
 * A JSON string with its quotes, escaped; null for NULL. A byte that is no UTF-8 is written
 * as \u00XX, and only so are those of 0x80 and more.
 */
void json_string(FILE *to, const char *text);

/* What a trial of the library on this machine came to. */
struct trial {
	int err;		/* 0 or the negative errno */
	char said[256];		/* the first line that the library logged, or empty */
};

/* Make an mm of that kind (HMM_MM_*), and give it back. */
void trial_mm(struct trial *trial, uint64_t flags);

/* Make an mm and a device in it, and give both back. */
void trial_device(struct trial *trial, const struct hmm_plugin *plugin, const char *options);

#endif
