/* SPDX-License-Identifier: MIT */
/*
 * Running `uhmm run` and looking at what it and the program said.
 */
#ifndef UHMM_TEST_SPAWN_H
#define UHMM_TEST_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SPAWN_TEXT	65536
#define SPAWN_ARGS	24

struct spawned {
	pid_t pid;
	int out, err;		/* pipes to read from */
	int status;		/* as the shell has it: 128+N for a signal */
	char said[SPAWN_TEXT];	/* standard output */
	char complained[SPAWN_TEXT];
};

/* What meson tells: "UHMM", "GUEST", "GUEST_STATIC". */
const char *spawn_path(const char *which);

/*
 * Runs those of the group's claims that the command line names, or all of them where it
 * names none. Returns the exit status.
 */
struct CMUnitTest;
int spawn_claims(const char *group, struct CMUnitTest *tests, size_t nr, char **argv,
		 int (*setup)(void **state), int (*teardown)(void **state));

/* Start a command, NULL-terminated. Standard input is empty. */
void spawn_start(struct spawned *s, const char *const argv[]);

/* Read to the end and wait. Fails the test after 100 s of silence. */
void spawn_finish(struct spawned *s);

/* Both, of the words given: spawn_run(&s, "sh", "-c", "...", NULL). */
void spawn_run(struct spawned *s, ...) __attribute__((sentinel));

/* The next line of its standard output, without the newline. */
void spawn_line(struct spawned *s, char *line, size_t size);

/* Is a process of this number alive (a zombie is not)? */
bool spawn_alive(pid_t pid);

/* Wait until none of the processes lives; false after @ms. */
bool spawn_all_gone(const pid_t *pids, size_t nr, int ms);

/* Processes below @pid, and how many. */
size_t spawn_descendants(pid_t pid, pid_t *pids, size_t max);

/* The first of them of that name, or 0. */
pid_t spawn_named(const pid_t *pids, size_t nr, const char *name);

/* A number of the report, which was written to standard error. */
uint64_t spawn_number(const struct spawned *s, const char *key);

/* The seed that comes next; the first is the time, and is printed. */
const char *spawn_seed(void);

/* A policy "stress" of that seed, which is used up. */
const char *spawn_stress(void);

/* The test fails unless every page came home; unless both said the same and ended alike. */
void spawn_nothing_lost(const struct spawned *run);
void spawn_same(const struct spawned *run, const struct spawned *plain, const char *what);

/* Group fixtures: monitors put their files where spawn_leftovers() looks. */
int spawn_own_directory(void **state);
int spawn_remove_directory(void **state);

/* Directories that a monitor has left behind. */
size_t spawn_leftovers(void);

/* ... where the monitor cannot have removed it. */
void spawn_remove_leftovers(void);

#endif
